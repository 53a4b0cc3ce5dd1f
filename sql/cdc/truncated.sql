UPDATE sluicegate_cdc_tables SET truncated = ('0/0'::pg_lsn + $2::bigint::numeric) WHERE id = $1
