SELECT quantity FROM sluicegate_restocks WHERE inventory = $1 AND product_id = $2 AND key = $3
