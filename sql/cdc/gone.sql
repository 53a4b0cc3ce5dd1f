INSERT INTO sluicegate_cdc_gone AS g (target, key, lsn)
SELECT $1, x.key, x.lsn FROM unnest($2::uuid[], $3::pg_lsn[]) AS x (key, lsn)
ON CONFLICT (target, key) DO UPDATE SET lsn = greatest(g.lsn, excluded.lsn), gone_at = now()
