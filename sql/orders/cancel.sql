-- Whoever comes second finds no reservation.
UPDATE {orders} SET status = 'cancelled', cancelled_at = now() WHERE order_id = $1 AND status = 'reserved'
