SELECT id, source FROM sluicegate_cdc_tables WHERE target_schema = $1 AND target_name = $2
