-- In the transaction of the restock: the second one with the same key waits for the first, and finds it.
INSERT INTO sluicegate_restocks (inventory, product_id, key, quantity) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
