UPDATE sluicegate_cdc_lacks
SET taker = $5::text::uuid, taker_key = $6::text[], since = $7::text::pg_lsn,
    columns = ARRAY(SELECT name FROM unnest(columns) AS name WHERE name = ANY ($8::text[]))
WHERE target = $1 AND taker = $2::text::uuid AND (taker_key IS NULL) = $3::boolean
  AND CASE WHEN $3::boolean THEN since = $4::text::pg_lsn ELSE since < $4::text::pg_lsn END
