-- Whoever comes second waits for the first, and then finds that the letter is open no more.
SELECT id FROM sluicegate_letters WHERE id = ANY($1) AND state = 'open' ORDER BY id FOR UPDATE
