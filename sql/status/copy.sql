COPY {table} (event_timestamp, response_message, status, seed_id, sub_scenario_id, scenario_id, script_id)
FROM STDIN (FORMAT binary)
