-- Records set aside, whole, each with the reason. None is ever deleted: one that is dealt with changes its state.
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
-- Asked for first: to add what is there already would wait for everybody who writes letters.
DO $$
BEGIN
    IF to_regclass('sluicegate_letters_source') IS NULL THEN
        CREATE INDEX sluicegate_letters_source ON sluicegate_letters (flow, topic, partition, record_offset);
    END IF;
    -- What became of it.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'sluicegate_letters'::regclass AND attname = 'history') THEN
        ALTER TABLE sluicegate_letters
            ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'dropped')),
            ADD COLUMN IF NOT EXISTS settled_at timestamptz,
            ADD COLUMN IF NOT EXISTS tries integer NOT NULL DEFAULT 0, -- replays, the one that succeeded included
            ADD COLUMN IF NOT EXISTS history jsonb NOT NULL DEFAULT '[]'; -- of {at, what, code, reason}, oldest first
    END IF;
END $$;
