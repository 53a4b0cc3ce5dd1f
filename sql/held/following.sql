-- What somebody else has at hand is theirs. Some that cannot go on keep the others no place in line.
SELECT key, head FROM sluicegate_held WHERE flow = $1 AND reason_code = 'following' ORDER BY random() LIMIT $2 FOR UPDATE SKIP LOCKED
