-- Which of these keys were deleted after the place beside each. Asked of each for itself: a join would read all that are gone,
-- where its plan is as old as they were few.
SELECT x.key FROM (SELECT unnest($2::uuid[]) AS key, unnest($3::pg_lsn[]) AS lsn) AS x
WHERE (SELECT true FROM sluicegate_cdc_gone g WHERE g.target = $1 AND g.key = x.key AND g.lsn > x.lsn LIMIT 1)
