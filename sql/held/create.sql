-- Keys that are held back: what comes later of them waits for one record, their head.
CREATE TABLE IF NOT EXISTS sluicegate_held (
    flow text  NOT NULL,
    key  bytea NOT NULL,
    head text  NOT NULL, -- that record: original topic, partition and offset; empty where it is dealt with
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
-- Asked for first: to add what is there already would wait for everybody who holds keys.
DO $$
BEGIN
    -- Why and since when.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'sluicegate_held'::regclass AND attname = 'since') THEN
        ALTER TABLE sluicegate_held
            ADD COLUMN IF NOT EXISTS reason_code text NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS since timestamptz NOT NULL DEFAULT now();
    END IF;
    -- Which one of its key it is, where the key's records are numbered.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'sluicegate_parked'::regclass AND attname = 'number') THEN
        ALTER TABLE sluicegate_parked ADD COLUMN IF NOT EXISTS number bigint;
    END IF;
    IF to_regclass('sluicegate_parked_number') IS NULL THEN
        CREATE INDEX sluicegate_parked_number ON sluicegate_parked (flow, key, number) WHERE number IS NOT NULL;
    END IF;
    IF to_regclass('sluicegate_held_following') IS NULL THEN
        CREATE INDEX sluicegate_held_following ON sluicegate_held (flow) WHERE reason_code = 'following';
    END IF;
END $$;
