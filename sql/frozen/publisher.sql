-- The session that may publish for a flow where it has said nothing for so many seconds: its instance is frozen, or cut off. A
-- statement that runs is no silence, but for one that waits for its client. Sessions of other roles are not seen.
SELECT pid
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND usename = current_user
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint = hashtext('sluicegate outbox')::bigint & 4294967295
  AND objid::bigint = hashtext($1)::bigint & 4294967295
  AND (state <> 'active' OR wait_event IN ('ClientRead', 'ClientWrite'))
  AND state_change < clock_timestamp() - $2::float8 * interval '1 second'
