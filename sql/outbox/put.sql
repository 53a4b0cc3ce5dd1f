INSERT INTO sluicegate_outbox (flow, topic, partition, first_offset, body)
SELECT $1, topic, partition, first_offset, body
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bytea[]) AS v (topic, partition, first_offset, body)
