-- Rows are locked already. An incarnation that was not known is filled in; one that was is never changed.
UPDATE sluicegate_ledger l
SET owner_epoch = l.owner_epoch + 1, owner = $2, claimed_at = now(), incarnation = w.incarnation
FROM unnest($3::text[], $4::integer[], $5::text[]) AS w (topic, partition, incarnation)
WHERE l.flow = $1 AND l.topic = w.topic AND l.partition = w.partition
RETURNING l.topic, l.partition, l.next_offset, l.owner_epoch
