DELETE FROM sluicegate_parked WHERE flow = $1 AND key = $2 AND seq = ANY($3)
