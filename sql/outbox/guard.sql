-- One instance publishes for a flow at a time; whoever comes second looks again later.
SELECT pg_try_advisory_xact_lock(hashtext('sluicegate outbox'), hashtext($1))
