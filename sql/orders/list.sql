-- The stock of each product over its buckets, from one product on.
SELECT product_id, min(product_name), sum(available_quantity)::bigint, sum(reserved_quantity)::bigint,
       sum(total_quantity)::bigint, count(*)
FROM {inventory}
WHERE product_id > $1
GROUP BY product_id
ORDER BY product_id
LIMIT $2
