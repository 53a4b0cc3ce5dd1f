-- The rows are locked: these are their new books.
UPDATE {inventory} i
SET available_quantity = v.available, reserved_quantity = v.reserved, total_quantity = v.available + v.reserved,
    updated_at = now()
FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) AS v (product_id, bucket, available, reserved)
WHERE i.product_id = v.product_id AND i.bucket = v.bucket
