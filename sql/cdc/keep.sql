INSERT INTO sluicegate_cdc_positions AS p (flow, topic, partition, incarnation, next_offset, commit_lsn, change_lsn,
    change_number, committed_ms, seen_commit, seen_change, seen_number)
SELECT $1, v.*
FROM unnest($2::text[], $3::integer[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::bigint[], $11::bigint[], $12::bigint[]) AS v
ON CONFLICT (flow, topic, partition) DO UPDATE
SET incarnation = excluded.incarnation, next_offset = excluded.next_offset, commit_lsn = excluded.commit_lsn,
    change_lsn = excluded.change_lsn, change_number = excluded.change_number, committed_ms = excluded.committed_ms,
    seen_commit = excluded.seen_commit, seen_change = excluded.seen_change, seen_number = excluded.seen_number
