SELECT topic, partition, next_offset, owner_epoch FROM sluicegate_ledger WHERE flow = $1
