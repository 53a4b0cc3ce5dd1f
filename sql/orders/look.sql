-- The stock as it stands, without a lock: good enough to guess by.
SELECT product_id, bucket, available_quantity, reserved_quantity
FROM {inventory}
WHERE product_id = ANY($1)
ORDER BY product_id COLLATE "C", bucket
