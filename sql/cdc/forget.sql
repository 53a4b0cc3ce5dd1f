WITH of_gone AS (
    DELETE FROM sluicegate_cdc_gone
    WHERE (target, key) IN (
        SELECT target, key FROM sluicegate_cdc_gone WHERE gone_at < now() - $1::bigint * interval '1 second' LIMIT 20000
        FOR UPDATE SKIP LOCKED
    )
), of_lacks AS (
    DELETE FROM sluicegate_cdc_lacks
    WHERE (target, key, lsn) IN (
        SELECT target, key, lsn FROM sluicegate_cdc_lacks WHERE came_at < now() - $1::bigint * interval '1 second' LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
)
DELETE FROM sluicegate_cdc_left
WHERE (target, key, lsn) IN (
    SELECT target, key, lsn FROM sluicegate_cdc_left WHERE left_at < now() - $1::bigint * interval '1 second' LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
