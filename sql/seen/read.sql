-- What was added behind the newest known row; that row itself comes too, if it is still there, without its ids.
SELECT seq, mark, CASE WHEN seq > $2 THEN ids END, (SELECT min(seq) FROM sluicegate_seen WHERE flow = $1)
FROM sluicegate_seen
WHERE flow = $1 AND seq >= $2
ORDER BY seq
