-- Parked records of these keys that come next by their numbers: of each key those behind $3, as long as none is missing
-- behind $4. So many at most, and so many bytes but for the one that goes beyond it.
SELECT key, seq, record
FROM (SELECT turn, number, key, seq, record,
             sum(octet_length(record)) OVER (ORDER BY turn, number, seq) - octet_length(record) AS before
      FROM (SELECT v.turn, v.key, v.floor, p.number, p.seq, p.record,
                   dense_rank() OVER (PARTITION BY v.turn, p.number > v.floor ORDER BY p.number) AS rank
            FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS v (key, number, floor, turn)
            CROSS JOIN LATERAL (SELECT number, seq, record FROM sluicegate_parked
                                WHERE flow = $1 AND key = v.key AND number > v.number AND number <= v.floor + $5
                                ORDER BY number, seq LIMIT $5) AS p) AS near
      WHERE number <= floor OR number = floor + rank ORDER BY turn, number, seq LIMIT $5) AS sized
WHERE before < $6
ORDER BY turn, number, seq
