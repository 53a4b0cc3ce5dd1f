DELETE FROM sluicegate_held WHERE flow = $1 AND key = ANY($2)
