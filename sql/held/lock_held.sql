-- In one global order, so that two groups with keys in common cannot deadlock.
SELECT key, head, reason_code FROM sluicegate_held WHERE flow = $1 AND key = ANY($2) ORDER BY key FOR UPDATE
