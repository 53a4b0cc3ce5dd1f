DELETE FROM sluicegate_cdc_gone
WHERE (target, key) IN (
    SELECT target, key FROM sluicegate_cdc_gone WHERE gone_at < now() - $1::bigint * interval '1 second' LIMIT 10000
    FOR UPDATE SKIP LOCKED
)
