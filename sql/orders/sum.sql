-- The stock of one product over its buckets.
SELECT product_id, min(product_name), sum(available_quantity)::bigint, sum(reserved_quantity)::bigint,
       sum(total_quantity)::bigint, count(*)
FROM {inventory}
WHERE product_id = $1
GROUP BY product_id
