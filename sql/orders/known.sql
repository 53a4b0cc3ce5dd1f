-- Which of these orders have a row already: sent twice, by a client that repeats a request or a producer that does.
SELECT order_id FROM {orders} WHERE order_id = ANY($1)
