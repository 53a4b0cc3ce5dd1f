-- The oldest parked records of a key, and how many bytes come before each: so many at most, and of those that begin beyond so
-- many bytes the first one.
SELECT seq, record, before
FROM (SELECT seq, record, before, lag(before) OVER (ORDER BY seq) AS former
      FROM (SELECT seq, record, (sum(octet_length(record)) OVER (ORDER BY seq) - octet_length(record))::bigint AS before
            FROM (SELECT seq, record FROM sluicegate_parked WHERE flow = $1 AND key = $2 ORDER BY seq LIMIT $3) AS oldest) AS sized) AS near
WHERE former IS NULL OR former < $4
ORDER BY seq
