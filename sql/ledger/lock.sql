-- In one global order, so that two groups with partitions in common cannot deadlock.
SELECT l.topic, l.partition, l.next_offset, l.owner_epoch, l.incarnation
FROM sluicegate_ledger l
JOIN unnest($2::text[], $3::integer[]) AS w (topic, partition) ON w.topic = l.topic AND w.partition = l.partition
WHERE l.flow = $1
ORDER BY l.topic COLLATE "C", l.partition
FOR NO KEY UPDATE OF l
