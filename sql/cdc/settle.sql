-- Who lacks values of the row that leaves, unless it is gone, or the table was emptied since.
DELETE FROM sluicegate_cdc_lacks l WHERE target = $1 AND key = $2::text::uuid AND lsn = $3::text::pg_lsn
RETURNING
    CASE WHEN coalesce((SELECT t.truncated >= l.since FROM sluicegate_cdc_tables t WHERE t.id = l.target), false)
           OR taker_key IS NOT NULL
              AND EXISTS (SELECT FROM sluicegate_cdc_gone g WHERE g.target = l.target AND g.key = l.taker AND g.lsn > l.since)
         THEN '{}' ELSE columns END,
    replace(taker::text, '-', ''), taker_key, since::text
