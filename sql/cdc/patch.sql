UPDATE sluicegate_cdc_left
SET texts = ARRAY(
    SELECT CASE WHEN given.name IS NULL THEN had.text ELSE given.text END
    FROM unnest(columns, texts) WITH ORDINALITY AS had (name, text, place)
    LEFT JOIN unnest($4::text[], $5::text[]) AS given (name, text) ON given.name = had.name
    ORDER BY had.place
)
WHERE target = $1 AND key = $2::text::uuid AND lsn = $3::text::pg_lsn
