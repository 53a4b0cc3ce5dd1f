DELETE FROM sluicegate_parked USING unnest($2::bytea[], $3::bigint[]) AS v (key, seq)
WHERE flow = $1 AND sluicegate_parked.key = v.key AND sluicegate_parked.seq = v.seq
