DELETE FROM sluicegate_cdc_left WHERE target = $1 AND key = $2::text::uuid AND lsn = $3::text::pg_lsn
RETURNING columns, texts, EXISTS (
    SELECT FROM sluicegate_cdc_lacks l
    WHERE l.target = $1 AND l.taker = $2::text::uuid AND l.taker_key IS NULL AND l.since = $3::text::pg_lsn
)
