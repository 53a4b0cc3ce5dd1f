DELETE FROM sluicegate_outbox WHERE id = ANY($1)
