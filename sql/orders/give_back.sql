UPDATE {inventory}
SET available_quantity = available_quantity + $3, reserved_quantity = reserved_quantity - $3, updated_at = now()
WHERE product_id = $1 AND bucket = $2
RETURNING available_quantity, reserved_quantity
