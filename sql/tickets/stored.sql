-- The columns of copy.sql.
SELECT t.order_id, t.sequence, t.ticket_id, t.status, t.customer_id, t.price, t.changed_at
FROM {tickets} t JOIN unnest($1::text[], $2::bigint[]) AS v (order_id, sequence) ON t.order_id = v.order_id AND t.sequence = v.sequence
