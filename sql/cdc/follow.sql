INSERT INTO sluicegate_cdc_tables (target_schema, target_name, source) VALUES ($1, $2, $3)
ON CONFLICT (target_schema, target_name) DO NOTHING
