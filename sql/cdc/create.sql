-- Which source each table follows: two of them must not become one unnoticed.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_tables (
    id            integer     GENERATED ALWAYS AS IDENTITY UNIQUE,
    target_schema text        NOT NULL,
    target_name   text        NOT NULL,
    source        text        NOT NULL,
    truncated     pg_lsn, -- where the last TRUNCATE stands: what comes before it is gone
    since         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target_schema, target_name)
);
-- What was deleted, for a while: an older change that comes again must not bring it back.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_gone (
    target  integer     NOT NULL,
    key     uuid        NOT NULL, -- of the key's text
    lsn     pg_lsn      NOT NULL,
    gone_at timestamptz NOT NULL DEFAULT now()
);
-- Rows that left for another key, until what comes under that key has fetched what it leaves out.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_left (
    target  integer     NOT NULL,
    key     uuid        NOT NULL, -- the former one
    lsn     pg_lsn      NOT NULL,
    columns text[]      NOT NULL,
    texts   text[]      NOT NULL,
    left_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, key, lsn)
);
-- Rows that came under another key before the former one has left: what they lack is to be given to them by that one.
CREATE TABLE IF NOT EXISTS sluicegate_cdc_lacks (
    target    integer     NOT NULL,
    key       uuid        NOT NULL, -- the former one
    lsn       pg_lsn      NOT NULL,
    columns   text[]      NOT NULL,
    taker     uuid        NOT NULL, -- the key of the row that lacks them by now
    taker_key text[],               -- none: it has left as well, and stands by
    since     pg_lsn      NOT NULL,
    came_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, key, lsn)
);
-- Asked for first: to make what is there already would wait for everybody who writes, one that is frozen too.
DO $$
BEGIN
    -- No key: a row is only added to it, and a unique index would cost as much again. Whoever publishes all tables has to tell
    -- its rows apart all the same.
    IF to_regclass('sluicegate_cdc_gone_since') IS NULL THEN
        CREATE INDEX sluicegate_cdc_gone_since ON sluicegate_cdc_gone (target, key, lsn);
        ALTER TABLE sluicegate_cdc_gone DROP CONSTRAINT IF EXISTS sluicegate_cdc_gone_pkey, REPLICA IDENTITY FULL;
        DROP INDEX IF EXISTS sluicegate_cdc_gone_furthest, sluicegate_cdc_gone_last;
    END IF;
    IF to_regclass('sluicegate_cdc_gone_age') IS NULL THEN
        CREATE INDEX sluicegate_cdc_gone_age ON sluicegate_cdc_gone USING brin (gone_at);
    END IF;
    IF to_regclass('sluicegate_cdc_lacks_taker') IS NULL THEN
        CREATE INDEX sluicegate_cdc_lacks_taker ON sluicegate_cdc_lacks (target, taker);
    END IF;
END $$;
