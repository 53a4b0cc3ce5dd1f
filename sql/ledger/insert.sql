-- A partition that the ledger has never seen. Whoever comes second finds the first one's row.
INSERT INTO sluicegate_ledger (flow, topic, partition, incarnation, next_offset, owner_epoch, owner)
VALUES ($1, $2, $3, $4, $5, 0, '')
ON CONFLICT DO NOTHING
