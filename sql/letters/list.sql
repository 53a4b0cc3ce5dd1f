SELECT id, flow, topic, partition, record_offset,
       to_char(set_aside_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
       reason_code, reason, state, tries
FROM sluicegate_letters
WHERE {filter}
ORDER BY id
LIMIT $11
