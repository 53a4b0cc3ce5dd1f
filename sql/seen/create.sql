-- The ids of messages that are done with, so many to a row: one row for each transaction. Rows are added under a lock of
-- the flow, so that their order is the order in which they were committed. The mark tells a row from another one that
-- got its number after the server went back in time.
CREATE TABLE IF NOT EXISTS sluicegate_seen (
    flow  text        NOT NULL,
    seq   bigint      GENERATED ALWAYS AS IDENTITY,
    mark  uuid        NOT NULL DEFAULT gen_random_uuid(),
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    count integer     NOT NULL,
    ids   bytea       NOT NULL, -- 16 bytes each
    PRIMARY KEY (flow, seq)
);
-- Not to be compressed. By itself, as servers before 16 do not take it in the table's definition; and asked for first, as it
-- would wait for a vacuum.
DO $$
BEGIN
    IF (SELECT attstorage <> 'e' FROM pg_attribute WHERE attrelid = 'sluicegate_seen'::regclass AND attname = 'ids') THEN
        ALTER TABLE sluicegate_seen ALTER COLUMN ids SET STORAGE EXTERNAL;
    END IF;
END $$;
