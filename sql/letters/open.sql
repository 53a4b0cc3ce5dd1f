-- How many letters of a flow are open, by the code of their reason, the largest number first: reads all that it ever had.
SELECT reason_code, count(*) FROM sluicegate_letters WHERE flow = $1 AND state = 'open' GROUP BY 1 ORDER BY 2 DESC, 1
