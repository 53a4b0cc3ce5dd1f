INSERT INTO sluicegate_seen (flow, count, ids) VALUES ($1, $2, $3)
