-- Keys that are held back: one of their records waits to be tried again.
CREATE TABLE IF NOT EXISTS sluicegate_held (
    flow text  NOT NULL,
    key  bytea NOT NULL,
    head text  NOT NULL, -- that record: original topic, partition and offset
    PRIMARY KEY (flow, key)
);
-- Later records of those keys, in their order.
CREATE TABLE IF NOT EXISTS sluicegate_parked (
    flow   text   NOT NULL,
    key    bytea  NOT NULL,
    seq    bigint GENERATED ALWAYS AS IDENTITY,
    record bytea  NOT NULL, -- the flow's own form
    PRIMARY KEY (flow, key, seq)
);
