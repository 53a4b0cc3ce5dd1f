COPY {tickets} (order_id, sequence, ticket_id, status, customer_id, price, changed_at) FROM STDIN (FORMAT binary)
