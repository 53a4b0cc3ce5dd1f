SELECT id, topic, partition, body, extract(epoch FROM clock_timestamp() - created_at)::float8
FROM sluicegate_outbox
WHERE flow = $1
ORDER BY id
LIMIT $2
