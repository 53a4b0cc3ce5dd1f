-- The ids of messages that are done with, so many to a row: one row for each transaction. Rows are added under a lock of
-- the flow, so that their order is the order in which they were committed. The mark tells a row from another one that
-- got its number after the server went back in time.
CREATE TABLE IF NOT EXISTS sluicegate_seen (
    flow  text        NOT NULL,
    seq   bigint      GENERATED ALWAYS AS IDENTITY,
    mark  uuid        NOT NULL DEFAULT gen_random_uuid(),
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    count integer     NOT NULL,
    ids   bytea       STORAGE EXTERNAL NOT NULL, -- 16 bytes each
    PRIMARY KEY (flow, seq)
);
