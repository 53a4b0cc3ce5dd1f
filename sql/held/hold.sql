-- A key that is held already keeps its row: whoever waits for its lock sees the new head, and not a key that is free.
INSERT INTO sluicegate_held AS held (flow, key, head, reason_code)
SELECT $1, key, head, reason_code FROM unnest($2::bytea[], $3::text[], $4::text[]) AS v (key, head, reason_code) ORDER BY key
ON CONFLICT (flow, key) DO UPDATE SET head = excluded.head, reason_code = excluded.reason_code,
    since = CASE WHEN held.head = excluded.head THEN held.since ELSE excluded.since END
