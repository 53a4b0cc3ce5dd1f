-- Which of these keys' rows lack values.
SELECT replace(taker::text, '-', '') FROM sluicegate_cdc_lacks
WHERE target = $1 AND taker = ANY ($2) AND taker_key IS NOT NULL AND columns <> '{}'
