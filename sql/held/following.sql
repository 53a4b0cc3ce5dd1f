-- What somebody else has at hand is theirs.
SELECT key, head FROM sluicegate_held WHERE flow = $1 AND reason_code = 'following' ORDER BY key LIMIT $2 FOR UPDATE SKIP LOCKED
