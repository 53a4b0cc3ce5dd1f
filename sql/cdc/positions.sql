-- The ledger's rows of these partitions are locked, and with them these.
SELECT l.topic, l.partition, l.incarnation, p.incarnation, p.next_offset, p.commit_lsn, p.change_lsn, p.change_number,
       p.committed_ms, p.seen_commit, p.seen_change, p.seen_number
FROM unnest($2::text[], $3::integer[]) AS w (topic, partition)
JOIN sluicegate_ledger l ON l.flow = $1 AND l.topic = w.topic AND l.partition = w.partition
LEFT JOIN sluicegate_cdc_positions p ON p.flow = $1 AND p.topic = w.topic AND p.partition = w.partition
