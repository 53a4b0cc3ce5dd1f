-- Topics that are read again note the same once more: to ask for it first would be one more way down the index, each time.
INSERT INTO sluicegate_cdc_gone (target, key, lsn)
SELECT $1, x.key, x.lsn FROM (SELECT unnest($2::uuid[]) AS key, unnest($3::pg_lsn[]) AS lsn) AS x
