-- Keys that are held back: what comes later of them waits for one record, their head.
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
-- Why and since when. Asked for first: to add a column that is there already would wait for everybody who holds keys.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'sluicegate_held'::regclass AND attname = 'since') THEN
        ALTER TABLE sluicegate_held
            ADD COLUMN IF NOT EXISTS reason_code text NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS since timestamptz NOT NULL DEFAULT now();
    END IF;
END $$;
