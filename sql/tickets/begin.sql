-- Orders of which there was no ticket. One that somebody else has begun meanwhile is left alone, and missed in the count.
INSERT INTO {orders} (order_id, sequence, status)
SELECT order_id, sequence, status FROM unnest($1::text[], $2::bigint[], $3::text[]) AS v (order_id, sequence, status)
ORDER BY order_id COLLATE "C"
ON CONFLICT (order_id) DO NOTHING
