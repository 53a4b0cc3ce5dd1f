COPY {orders} (order_id, customer_id, product_id, quantity, amount, created_at, status, reason, bucket)
FROM STDIN (FORMAT binary)
