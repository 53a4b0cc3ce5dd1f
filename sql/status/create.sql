-- {table} and {sequence} are put in by the flow.
CREATE TABLE IF NOT EXISTS {table} (
    id               BIGSERIAL PRIMARY KEY,
    event_timestamp  TIMESTAMP NOT NULL,
    response_message TEXT,
    status           VARCHAR(255) NOT NULL,
    seed_id          INTEGER,
    sub_scenario_id  INTEGER,
    scenario_id      INTEGER,
    script_id        INTEGER
);
CREATE SEQUENCE IF NOT EXISTS {sequence} INCREMENT BY 500 CACHE 500;
