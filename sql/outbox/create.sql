-- What is to be published of transactions that are committed. One row holds the messages of one batch.
CREATE TABLE IF NOT EXISTS sluicegate_outbox (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flow         text        NOT NULL,
    topic        text        NOT NULL, -- where the records came from, with partition and first offset: the row's name
    partition    integer     NOT NULL,
    first_offset bigint      NOT NULL,
    body         bytea       STORAGE EXTERNAL NOT NULL, -- the flow's own form
    created_at   timestamptz NOT NULL DEFAULT now()
);
