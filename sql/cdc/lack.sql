INSERT INTO sluicegate_cdc_lacks (target, key, lsn, columns, taker, taker_key, since)
VALUES ($1, $2::text::uuid, $3::text::pg_lsn, $4::text[], $5::text::uuid, $6::text[], $3::text::pg_lsn)
ON CONFLICT (target, key, lsn) DO UPDATE
SET columns = excluded.columns, taker = excluded.taker, taker_key = excluded.taker_key, since = excluded.since
