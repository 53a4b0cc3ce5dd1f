-- Which letters come next, and how much memory each takes.
SELECT id, flow,
       (coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0) + pg_column_size(header_values))::bigint
FROM sluicegate_letters
WHERE {filter}
ORDER BY id
LIMIT $11
