-- In one global order, so that no two writers can wait for each other. FOR NO KEY UPDATE leaves foreign keys alone.
SELECT i.product_id, i.bucket, i.available_quantity, i.reserved_quantity
FROM {inventory} i
JOIN unnest($1::text[], $2::smallint[]) AS w (product_id, bucket) ON w.product_id = i.product_id AND w.bucket = i.bucket
ORDER BY i.product_id COLLATE "C", i.bucket
FOR NO KEY UPDATE OF i {wait}
