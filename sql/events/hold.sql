INSERT INTO sluicegate_held (flow, key, head)
SELECT $1, key, head FROM unnest($2::bytea[], $3::text[]) AS v (key, head) ORDER BY key
ON CONFLICT (flow, key) DO UPDATE SET head = excluded.head
