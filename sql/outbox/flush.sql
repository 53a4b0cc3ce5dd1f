-- Committing this one waits for the disk, and so for every transaction before it: a flow may commit without waiting,
-- and what a crash takes back must not have been told to others.
SELECT pg_logical_emit_message(true, 'sluicegate', '')
