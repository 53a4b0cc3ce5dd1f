DELETE FROM sluicegate_seen WHERE flow = $1 AND (at < now() - $2::bigint * interval '1 millisecond' OR seq < $3)
