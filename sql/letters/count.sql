SELECT count(*), coalesce(max(id), 0)
FROM sluicegate_letters
WHERE {filter}
