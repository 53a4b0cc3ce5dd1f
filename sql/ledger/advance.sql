-- The compare-and-set: only the owner moves a partition, and only from where it thinks the partition is.
UPDATE sluicegate_ledger l
SET next_offset = v.next
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[]) AS v (topic, partition, first, next, epoch)
WHERE l.flow = $1 AND l.topic = v.topic AND l.partition = v.partition
  AND l.next_offset = v.first AND l.owner_epoch = v.epoch
