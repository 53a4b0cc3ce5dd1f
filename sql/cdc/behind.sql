-- Whether the row of a former key has left, and whether the table was emptied since.
SELECT EXISTS (SELECT FROM sluicegate_cdc_gone WHERE target = $1 AND key = $2::text::uuid AND lsn >= $3::text::pg_lsn),
       coalesce((SELECT truncated >= $3::text::pg_lsn FROM sluicegate_cdc_tables WHERE id = $1), false)
