-- Of a key and a payload only so many bytes as are shown; they may be as large as a record can be.
SELECT id, flow, topic, partition, record_offset,
       to_char(set_aside_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       reason_code, reason, state, tries,
       to_char(record_timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       to_char(settled_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       substring(key FOR $2), octet_length(key), substring(payload FOR $2), octet_length(payload),
       header_names, header_values, history::text
FROM sluicegate_letters
WHERE id = $1
