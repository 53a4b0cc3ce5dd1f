INSERT INTO sluicegate_parked (flow, key, record, number)
SELECT $1, key, record, number
FROM unnest($2::bytea[], $3::bytea[], $4::bigint[]) WITH ORDINALITY AS v (key, record, number, place) ORDER BY place
