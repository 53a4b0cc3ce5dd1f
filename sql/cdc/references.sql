-- Which of the tables that are followed refer to which, where a statement ends only if they hold: RESTRICT is never put off.
SELECT child.id, parent.id
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN sluicegate_cdc_tables child ON child.target_schema = cn.nspname AND child.target_name = c.relname
JOIN pg_class p ON p.oid = k.confrelid
JOIN pg_namespace pn ON pn.oid = p.relnamespace
JOIN sluicegate_cdc_tables parent ON parent.target_schema = pn.nspname AND parent.target_name = p.relname
WHERE k.contype = 'f' AND k.conrelid <> k.confrelid AND (NOT k.condeferrable OR k.confdeltype = 'r')
