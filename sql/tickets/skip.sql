INSERT INTO {orders} AS o (order_id, sequence, may_skip)
SELECT order_id, 0, true FROM unnest($1::text[]) AS v (order_id) ORDER BY order_id COLLATE "C"
ON CONFLICT (order_id) DO UPDATE SET may_skip = true
