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
    gone_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, key)
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
    -- Only for the one that asks for it by this sum: an index that began with the table's number would do for a key as well, as
    -- long as the table is small, and a plan that was made then would read all of it for each row.
    IF to_regclass('sluicegate_cdc_gone_last') IS NULL THEN
        CREATE INDEX sluicegate_cdc_gone_last ON sluicegate_cdc_gone ((target + 0), lsn);
        DROP INDEX IF EXISTS sluicegate_cdc_gone_furthest;
    END IF;
    IF to_regclass('sluicegate_cdc_gone_age') IS NULL THEN
        CREATE INDEX sluicegate_cdc_gone_age ON sluicegate_cdc_gone USING brin (gone_at);
    END IF;
    IF to_regclass('sluicegate_cdc_lacks_taker') IS NULL THEN
        CREATE INDEX sluicegate_cdc_lacks_taker ON sluicegate_cdc_lacks (target, taker);
    END IF;
END $$;
