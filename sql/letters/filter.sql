    ($1::text[] IS NULL OR flow = ANY($1))
    AND ($2::text IS NULL OR reason_code = $2)
    AND ($3::timestamptz IS NULL OR set_aside_at >= $3)
    AND ($4::timestamptz IS NULL OR set_aside_at < $4)
    AND ($5::text IS NULL OR topic = $5)
    AND ($6::bytea IS NULL OR key = $6)
    AND ($7::text IS NULL OR state = $7)
    AND ($8::bigint[] IS NULL OR id = ANY($8))
    AND id > $9 AND id <= $10
