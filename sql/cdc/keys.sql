-- What keeps rows apart, and which of these an upsert can be decided by.
SELECT coalesce(array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL), '{}'),
       bool_and(i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::smallint[])
WHERE n.nspname::text = $1 AND c.relname::text = $2 AND (i.indisunique OR i.indisexclusion)
GROUP BY i.indexrelid
