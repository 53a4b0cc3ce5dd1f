-- In one global order, so that no two writers can wait for each other.
SELECT order_id, sequence, skip_to FROM {orders} WHERE order_id = ANY($1) ORDER BY order_id COLLATE "C" FOR NO KEY UPDATE
