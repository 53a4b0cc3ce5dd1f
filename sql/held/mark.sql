UPDATE sluicegate_held SET reason_code = $3 WHERE flow = $1 AND key = ANY($2) AND reason_code <> $3
