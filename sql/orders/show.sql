SELECT order_id, customer_id, product_id, quantity, amount::text, status, reason, bucket,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
FROM {orders}
WHERE order_id = $1
