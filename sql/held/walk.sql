-- Parked records of these keys, of each those behind a place of its own, key by key and in the order in which they were
-- parked: so many at most, and so many bytes but for the one that goes beyond it. The inner query is a loop over the keys.
SELECT key, seq, record
FROM (SELECT turn, key, seq, record, sum(octet_length(record)) OVER (ORDER BY turn, seq) - octet_length(record) AS before
      FROM (SELECT v.turn, v.key, p.seq, p.record
            FROM unnest($2::bytea[], $3::bigint[]) WITH ORDINALITY AS v (key, after, turn)
            CROSS JOIN LATERAL (SELECT seq, record FROM sluicegate_parked
                                WHERE flow = $1 AND key = v.key AND seq > v.after ORDER BY seq LIMIT $4) AS p
            LIMIT $4) AS page) AS sized
WHERE before < $5
ORDER BY turn, seq
