-- One instance publishes for a flow at a time, for as long as its session lives; whoever comes second looks again later.
SELECT pg_try_advisory_lock(hashtext('sluicegate outbox'), hashtext($1))
