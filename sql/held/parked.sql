-- The oldest parked records of a key behind a place: so many at most, and of those that begin beyond so many bytes the first.
SELECT seq, record
FROM (SELECT seq, record, lag(before) OVER (ORDER BY seq) AS former
      FROM (SELECT seq, record, sum(octet_length(record)) OVER (ORDER BY seq) - octet_length(record) AS before
            FROM (SELECT seq, record FROM sluicegate_parked
                  WHERE flow = $1 AND key = $2 AND seq > $3 ORDER BY seq LIMIT $4) AS oldest) AS sized) AS near
WHERE former IS NULL OR former < $5
ORDER BY seq
