SELECT (max(lsn) - '0/0')::bigint,
       (SELECT (truncated - '0/0')::bigint FROM sluicegate_cdc_tables WHERE id = $1)
FROM sluicegate_cdc_gone WHERE target + 0 = $1
