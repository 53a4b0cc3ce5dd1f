SELECT (max(lsn) - '0/0'::pg_lsn)::bigint FROM sluicegate_cdc_gone WHERE target = $1
