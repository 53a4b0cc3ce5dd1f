-- $4: where each stood. One that stands elsewhere is left alone, and missed in the count.
UPDATE {orders} o SET sequence = v.sequence, status = v.status, updated_at = now()
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS v (order_id, sequence, status, former)
WHERE o.order_id = v.order_id AND o.sequence = v.former
