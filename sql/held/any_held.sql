SELECT EXISTS (SELECT FROM sluicegate_held WHERE flow = $1)
