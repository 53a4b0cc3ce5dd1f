-- Records set aside, whole, each with the reason.
CREATE TABLE IF NOT EXISTS sluicegate_letters (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flow             text        NOT NULL,
    topic            text        NOT NULL,
    partition        integer     NOT NULL,
    record_offset    bigint      NOT NULL,
    record_timestamp timestamptz,
    key              bytea,
    payload          bytea,
    header_names     text[]      NOT NULL,
    header_values    bytea[]     NOT NULL,
    reason_code      text        NOT NULL,
    reason           text        NOT NULL,
    set_aside_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS sluicegate_letters_source
    ON sluicegate_letters (flow, topic, partition, record_offset);
