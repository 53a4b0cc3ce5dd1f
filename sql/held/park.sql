INSERT INTO sluicegate_parked (flow, key, record)
SELECT $1, key, record FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY AS v (key, record, place) ORDER BY place
