SELECT replace(taker::text, '-', '') FROM sluicegate_cdc_lacks
WHERE target = $1 AND taker_key IS NOT NULL AND columns <> '{}'
