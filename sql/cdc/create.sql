-- How far each partition has come in its source's log. A change that stands before that was applied already.
-- `seen_*` is where the last record stood, which may be before it while a topic is read again.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_positions (
    flow          text    NOT NULL,
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    incarnation   text    NOT NULL, -- of the topic, as in the ledger
    next_offset   bigint  NOT NULL, -- everything before it was looked at in this incarnation
    commit_lsn    bigint, -- the last commit before the furthest change
    change_lsn    bigint,
    change_number bigint,
    committed_ms  bigint, -- the latest time at the source
    seen_commit   bigint,
    seen_change   bigint,
    seen_number   bigint,
    PRIMARY KEY (flow, topic, partition)
) WITH (fillfactor = 50);
-- Which source each table follows: two of them must not become one unnoticed.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_tables (
    target_schema text        NOT NULL,
    target_name   text        NOT NULL,
    source        text        NOT NULL,
    since         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target_schema, target_name)
);
