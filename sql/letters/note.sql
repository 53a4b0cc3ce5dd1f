-- Refused again: the letter stays open.
UPDATE sluicegate_letters
SET tries = tries + 1,
    history = history || jsonb_build_object('at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                            'what', 'refused', 'code', v.code, 'reason', v.reason)
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS v (letter, code, reason)
WHERE id = v.letter
