-- How much is held back: keys, parked records, and the age of the oldest head in seconds. Where nothing is, nothing is counted.
SELECT count(*), coalesce(extract(epoch FROM now() - min(since)), 0)::bigint,
       CASE WHEN count(*) = 0 THEN 0 ELSE (SELECT count(*) FROM sluicegate_parked WHERE flow = $1) END
FROM sluicegate_held WHERE flow = $1
