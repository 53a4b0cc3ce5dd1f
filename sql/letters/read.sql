SELECT id, topic, partition, record_offset, round(extract(epoch FROM record_timestamp) * 1000)::bigint,
       key, payload, header_names, header_values, reason_code, reason
FROM sluicegate_letters
WHERE id = ANY($1) AND flow = $2
ORDER BY id
