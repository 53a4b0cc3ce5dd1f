-- How many records are parked: reads all of them.
SELECT count(*) FROM sluicegate_parked WHERE flow = $1
