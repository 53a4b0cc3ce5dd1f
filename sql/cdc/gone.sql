-- What is known to be gone at this place or a later one is not noted again.
INSERT INTO sluicegate_cdc_gone (target, key, lsn)
SELECT $1, x.key, x.lsn FROM (SELECT unnest($2::uuid[]) AS key, unnest($3::pg_lsn[]) AS lsn) AS x
WHERE (SELECT true FROM sluicegate_cdc_gone g WHERE g.target = $1 AND g.key = x.key AND g.lsn >= x.lsn LIMIT 1) IS NULL
