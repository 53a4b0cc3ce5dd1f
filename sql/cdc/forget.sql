-- What is so old that nothing comes any more that it could be asked for. How many rows keep nulls in place of large values, as
-- the change under their former key never came, of how many nothing came under their new key, and whether there may be more
-- to be forgotten: so few at once that nobody who writes waits for it.
WITH of_gone AS (
    DELETE FROM sluicegate_cdc_gone
    WHERE (target, key, lsn) IN (
        SELECT target, key, lsn FROM sluicegate_cdc_gone WHERE gone_at < now() - $1::bigint * interval '1 second' LIMIT 20000
        FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
), of_lacks AS (
    DELETE FROM sluicegate_cdc_lacks
    WHERE (target, key, lsn) IN (
        SELECT target, key, lsn FROM sluicegate_cdc_lacks WHERE came_at < now() - $1::bigint * interval '1 second' LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
    RETURNING taker_key IS NOT NULL AND columns <> '{}' AS is_lacking
), of_left AS (
    DELETE FROM sluicegate_cdc_left
    WHERE (target, key, lsn) IN (
        SELECT target, key, lsn FROM sluicegate_cdc_left WHERE left_at < now() - $1::bigint * interval '1 second' LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
)
SELECT (SELECT count(*) FROM of_lacks WHERE is_lacking),
       (SELECT count(*) FROM of_left),
       (SELECT count(*) FROM of_gone) >= 20000
           OR (SELECT count(*) FROM of_lacks) = 1000
           OR (SELECT count(*) FROM of_left) = 1000
