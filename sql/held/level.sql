-- How much is held back: keys, and the age of the oldest head in seconds.
SELECT count(*), coalesce(extract(epoch FROM now() - min(since)), 0)::bigint FROM sluicegate_held WHERE flow = $1
