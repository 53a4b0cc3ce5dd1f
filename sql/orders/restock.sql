-- New stock comes into the first bucket; from there it is spread where it is needed.
UPDATE {inventory}
SET available_quantity = available_quantity + $2, total_quantity = total_quantity + $2, updated_at = now()
WHERE product_id = $1 AND bucket = 0
RETURNING available_quantity, reserved_quantity
