-- The bucket of one order, before the order itself: the flow takes its locks in this order too.
SELECT 1 FROM {inventory} WHERE product_id = $1 AND bucket = $2 FOR NO KEY UPDATE
