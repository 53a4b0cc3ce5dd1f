-- Sessions of this program that hold these ledger rows locked: a former owner that is frozen inside its
-- transaction. Nobody else's session is ever touched.
SELECT DISTINCT a.pid
FROM sluicegate_ledger l
JOIN unnest($2::text[], $3::integer[]) AS w (topic, partition) ON w.topic = l.topic AND w.partition = l.partition
JOIN pg_locks k ON k.locktype = 'transactionid' AND k.granted AND k.transactionid = l.xmax
JOIN pg_stat_activity a ON a.pid = k.pid
WHERE l.flow = $1 AND a.pid <> pg_backend_pid() AND a.application_name LIKE 'sluicegate%'
