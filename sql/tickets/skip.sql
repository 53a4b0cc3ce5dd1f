INSERT INTO {orders} AS o (order_id, sequence, skip_to)
SELECT order_id, 0, skip_to FROM unnest($1::text[], $2::bigint[]) AS v (order_id, skip_to) ORDER BY order_id COLLATE "C"
ON CONFLICT (order_id) DO UPDATE SET skip_to = greatest(o.skip_to, excluded.skip_to)
