-- Parked records of these keys behind a place, in the order in which they were parked.
SELECT key, seq, record FROM sluicegate_parked WHERE flow = $1 AND key = ANY($2) AND seq > $3 ORDER BY seq LIMIT $4
