-- {table} and {sequence} are put in by the flow. A table that is there already is left as it is.
DO $$
BEGIN
    IF to_regclass('{table}') IS NULL THEN
        CREATE TABLE {table} (
            id               BIGSERIAL PRIMARY KEY,
            event_timestamp  TIMESTAMP NOT NULL,
            response_message TEXT,
            status           VARCHAR(255) NOT NULL,
            seed_id          INTEGER,
            sub_scenario_id  INTEGER,
            scenario_id      INTEGER,
            script_id        INTEGER
        );
        -- Each session takes ids in blocks, so that writers do not wait for each other over every single one.
        EXECUTE format('ALTER SEQUENCE %s CACHE 500', pg_get_serial_sequence('{table}', 'id'));
    END IF;
END $$;
CREATE SEQUENCE IF NOT EXISTS {sequence} INCREMENT BY 500 CACHE 500;
