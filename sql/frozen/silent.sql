-- Sessions of this program that have been waiting for their client in the middle of a statement for so many seconds. No
-- timeout of the server ends them: not while they read a COPY, and not while they write a result.
SELECT pid
FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'sluicegate%'
  AND pid <> pg_backend_pid()
  AND state = 'active' AND wait_event IN ('ClientRead', 'ClientWrite')
  AND state_change < clock_timestamp() - $1::float8 * interval '1 second'
