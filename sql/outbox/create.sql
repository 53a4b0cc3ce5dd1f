-- What is to be published of transactions that are committed. One row holds the messages of one batch.
CREATE TABLE IF NOT EXISTS sluicegate_outbox (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flow         text        NOT NULL,
    topic        text        NOT NULL, -- where the records came from, with partition and first offset: the row's name
    partition    integer     NOT NULL,
    first_offset bigint      NOT NULL,
    body         bytea       NOT NULL, -- the flow's own form
    created_at   timestamptz NOT NULL DEFAULT now()
);
-- Not to be compressed. By itself, as servers before 16 do not take it in the table's definition; and asked for first, as it
-- would wait for a vacuum.
DO $$
BEGIN
    IF (SELECT attstorage <> 'e' FROM pg_attribute WHERE attrelid = 'sluicegate_outbox'::regclass AND attname = 'body') THEN
        ALTER TABLE sluicegate_outbox ALTER COLUMN body SET STORAGE EXTERNAL;
    END IF;
END $$;
