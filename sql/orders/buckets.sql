-- Products get the buckets that they lack, empty: stock moves there when it is first needed.
INSERT INTO {inventory} (product_id, bucket, product_name, available_quantity, total_quantity)
SELECT first.product_id, more.bucket, first.product_name, 0, 0
FROM {inventory} first, generate_series(1, {buckets} - 1) AS more (bucket)
WHERE first.bucket = 0
ON CONFLICT DO NOTHING
