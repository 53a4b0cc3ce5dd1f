SELECT id, topic, partition, body FROM sluicegate_outbox WHERE flow = $1 ORDER BY id LIMIT $2
