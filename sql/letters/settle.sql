UPDATE sluicegate_letters
SET state = $2, settled_at = now(), tries = tries + (CASE $2 WHEN 'replayed' THEN 1 ELSE 0 END),
    history = history || jsonb_build_object('at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'what', $2)
WHERE id = ANY($1)
