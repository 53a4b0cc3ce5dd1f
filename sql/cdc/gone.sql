INSERT INTO sluicegate_cdc_gone AS g (target, key, lsn)
SELECT $1, x.key::uuid, x.lsn::pg_lsn FROM unnest($2::text[], $3::text[]) AS x (key, lsn)
ON CONFLICT (target, key) DO UPDATE SET lsn = greatest(g.lsn, excluded.lsn), gone_at = now()
