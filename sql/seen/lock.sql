SELECT pg_advisory_xact_lock(hashtext('sluicegate seen'), hashtext($1))
