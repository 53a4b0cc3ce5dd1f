UPDATE sluicegate_cdc_tables SET truncated = greatest(truncated, '0/0'::pg_lsn + $2::bigint::numeric) WHERE id = $1
