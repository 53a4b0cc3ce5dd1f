INSERT INTO sluicegate_held (flow, key, head, reason_code)
SELECT $1, key, head, reason_code FROM unnest($2::bytea[], $3::text[], $4::text[]) AS v (key, head, reason_code) ORDER BY key
ON CONFLICT (flow, key) DO UPDATE SET head = excluded.head, reason_code = excluded.reason_code
