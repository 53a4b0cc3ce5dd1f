COPY sluicegate_letters (flow, topic, partition, record_offset, record_timestamp, key, payload,
                         header_names, header_values, reason_code, reason)
FROM STDIN (FORMAT binary)
