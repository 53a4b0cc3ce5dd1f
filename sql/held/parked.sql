SELECT seq, record FROM sluicegate_parked WHERE flow = $1 AND key = $2 ORDER BY seq LIMIT $3
