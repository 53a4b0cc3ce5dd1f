-- Sessions of this program that keep a claim waiting: those that hold these ledger rows locked, whatever they do; and those
-- that have begun on the ledger of this flow and have said nothing for so many seconds. A row of which nobody has heard yet
-- may be locked, and one may be locked under more than one number. Sessions of other roles are not ours to end.
SELECT a.pid
FROM sluicegate_ledger l
JOIN unnest($2::text[], $3::integer[]) AS w (topic, partition) ON w.topic = l.topic AND w.partition = l.partition
JOIN pg_locks k ON k.locktype = 'transactionid' AND k.granted AND k.transactionid = l.xmax
JOIN pg_stat_activity a ON a.pid = k.pid
WHERE l.flow = $1 AND a.pid <> pg_backend_pid() AND a.usename = current_user AND a.application_name LIKE 'sluicegate%'
UNION
SELECT a.pid
FROM pg_locks k
JOIN pg_stat_activity a ON a.pid = k.pid
WHERE k.locktype = 'relation' AND k.relation = 'sluicegate_ledger'::regclass AND k.mode <> 'AccessShareLock' AND k.granted
  AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.pid <> pg_backend_pid() AND a.usename = current_user AND a.application_name = current_setting('application_name')
  AND a.state LIKE 'idle in transaction%'
  AND a.state_change < clock_timestamp() - $4::float8 * interval '1 second'
