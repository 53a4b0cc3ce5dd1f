//! The configuration as a whole: from all its sources to the structs.

use super::*;

const URL: &str = "postgres://u:canary@db:5432/d?sslmode=disable";

/// A folder with this `sluicegate.yaml` and these variables.
fn report_of(yaml: &str, environment: &[(&str, &str)], flows: &[&str]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sluicegate.yaml"), yaml).unwrap();
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let flows = flows.iter().map(|name| name.to_string()).collect();
    Sources { file: None, flows, environment, folder: folder.path().to_owned() }.report()
}

fn load(yaml: &str, environment: &[(&str, &str)]) -> Config {
    report_of(yaml, environment, &[]).config.unwrap_or_else(|findings| panic!("{findings}"))
}

fn findings(yaml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let Err(Findings(findings)) = report_of(yaml, environment, &[]).config else { return Vec::new() };
    findings.into_iter().map(|finding| format!("{} {}", finding.key, finding.rule)).collect()
}

#[test]
fn with_nothing_but_a_url_everything_is_as_the_replaced_system_had_it() {
    let config = load("", &[("DB_URL", URL)]);
    assert_eq!(config.kafka.brokers, ["localhost:9092"]);
    assert_eq!((config.http.host.as_str(), config.http.port), ("127.0.0.1", 8080));
    assert_eq!(config.logging.level, log::LevelFilter::Info);
    assert_eq!(config.postgres.connections_max, 50);
    let status = &config.flows["status"];
    assert!(status.enabled && status.exactly_once && status.synchronous_commit);
    assert_eq!(status.topic, "seed-status-updates");
    assert_eq!(status.group_id, "postgres-inserter-group-go");
    assert_eq!(status.table, "processed_seed_status");
    assert_eq!((status.partitions, status.batch_rows_max, status.start), (20, 2500, Start::Earliest));
    assert_eq!(status.linger, Duration::from_millis(20));
}

#[test]
fn every_key_reaches_the_structs() {
    // `deny_unknown_fields` makes a key without a field fail, a missing field fails by itself.
    let written: String = KEYS
        .iter()
        .filter(|key| key.path != "kafka.options" && key.path != "postgres.password")
        .filter_map(|key| match key.default {
            keys::Fallback::Is(text) => Some(format!("{}={text}\n", key.env[0])),
            _ => None,
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), format!("{written}DB_URL={URL}\n")).unwrap();
    let sources = Sources { file: None, flows: vec![], environment: vec![], folder: folder.path().to_owned() };
    let report = sources.report();
    assert!(report.config.is_ok(), "{}", report.config.unwrap_err());
    let from_file = report.lines().filter(|(_, _, origin)| matches!(origin, Origin::DotEnv(_))).count();
    let empty = ["kafka.options", "flows.events.handlers", "flows.status.schema_files"].len();
    let unset =
        KEYS.iter().filter(|key| matches!(key.default, keys::Fallback::Unset) && !key.path.starts_with("flows."));
    assert_eq!(from_file, KEYS.len() - empty - unset.count());
}

#[test]
fn the_strongest_place_counts_key_by_key() {
    let yaml = "http: {port: 1, host: 0.0.0.0}\nflows: {status: {topic: from-file}}";
    let report = report_of(yaml, &[("DB_URL", URL), ("SERVER_PORT", "2")], &["status"]);
    let lines: Vec<_> = report.lines().map(|(path, value, origin)| format!("{path} {value} {origin}")).collect();
    let has = |line: &str| assert!(lines.iter().any(|l| l.starts_with(line)), "{line} in {lines:#?}");
    has("http.port 2 environment SERVER_PORT");
    has("http.host 0.0.0.0 /");
    has("flows.status.topic from-file /");
    has("flows.status.enabled true --flow");
    has("logging.level info default");
    has("postgres.url postgres://u:***@db:5432/d?sslmode=disable environment DB_URL");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let yaml =
        "kafak: {}\nhttp: {port: 99999}\nkafka: {brokers: localhost}\nflows: {status: {start: middle, writers: 0}}";
    let found = findings(yaml, &[("SLUICEGATE_LOGGING_LEVEL", "loud"), ("SLUICEGATE_HTTP_PROT", "1")]);
    let expected = [
        "kafak is not a key",
        "SLUICEGATE_HTTP_PROT is not a key",
        "kafka.brokers has a broker without a port",
        "postgres.url is not set and has no default",
        "http.port is over the maximum of 65535",
        "logging.level must be one of off, error, warn, info, debug, trace",
        "flows.status.start must be one of earliest, latest",
        "flows.status.writers is under the minimum of 1",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_wrong_in_a_handler_is_told_with_its_place_wherever_it_was_written() {
    let yaml = "flows: {events: {handlers: [{kind: table}, {kind: table, columns: [{name: a, path: b, type: text}]}]}}";
    let json = r#"[{"kind": "drop"}]"#;
    let expected = ["flows.events.handlers[1].columns[0].path is not a path"];
    assert_eq!(findings(yaml, &[("DB_URL", URL)]), expected);
    let env = [("DB_URL", URL), ("SLUICEGATE_FLOWS_EVENTS_HANDLERS", json)];
    let expected = ["flows.events.handlers[0].path is not given", "flows.events.handlers[0] needs one condition"];
    assert_eq!(findings(yaml, &env), expected);
    let env = [("DB_URL", URL), ("SLUICEGATE_FLOWS_EVENTS_HANDLERS", "[{")];
    assert_eq!(findings("", &env), ["flows.events.handlers starts like JSON and is not JSON"]);
    let env = [("DB_URL", URL), ("SLUICEGATE_FLOWS_EVENTS_HANDLERS", r#"[{"kind": "fail", "transient_percent": 5}]"#)];
    let handlers = load("", &env).flows["events"].handlers.clone();
    assert_eq!(handlers, [Handler::Fail { transient_percent: 5.0, permanent_percent: 0.0 }]);
}

#[test]
fn events_are_as_the_replaced_system_had_them() {
    let config = load("", &[("DB_URL", URL)]);
    let events = &config.flows["events"];
    assert!(!events.enabled && events.handlers.is_empty() && events.dedupe);
    assert_eq!((events.topic.as_str(), events.group_id.as_str()), ("events", "event-processor-group"));
    assert_eq!((events.partitions, events.writers, events.retry_max), (3, 5, 3));
    assert_eq!((events.fetch_min_bytes, events.fetch_max_bytes), (Some(1024), Some(10_485_760)));
    assert_eq!(events.retry_topics(), ["events-retry-1", "events-retry-2", "events-retry-3"]);
    assert_eq!(events.dlq_topic, "events-dlq");
    let env = [
        ("DB_URL", URL),
        ("KAFKA_CONSUMER_TOPIC", "t"),
        ("KAFKA_CONSUMER_GROUP_ID", "g"),
        ("KAFKA_CONSUMER_WORKERS", "7"),
        ("KAFKA_CONSUMER_RETRY_MAX", "1"),
        ("KAFKA_CONSUMER_FETCH_MIN_BYTES", "1"),
        ("KAFKA_CONSUMER_FETCH_MAX_BYTES", "1000000"),
        ("KAFKA_RETRY_TOPIC_PREFIX", "r"),
        ("KAFKA_DLQ_TOPIC", "d"),
        ("KAFKA_PRODUCER_TOPIC", "p"),
        ("KAFKA_PRODUCER_ACKS", "1"),
        ("KAFKA_PRODUCER_RETRIES", "7"),
        ("KAFKA_PRODUCER_IDEMPOTENT", "false"),
    ];
    let config = load("", &env);
    let events = &config.flows["events"];
    assert_eq!((events.topic.as_str(), events.group_id.as_str(), events.writers), ("t", "g", 7));
    assert_eq!((events.fetch_min_bytes, events.fetch_max_bytes), (Some(1), Some(1_000_000)));
    assert_eq!((events.retry_topics(), events.dlq_topic.as_str()), (vec!["r-1".to_owned()], "d"));
    assert_eq!(events.sample_topic(), "p");
    let options: Vec<String> = events.producer_options().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(options, ["acks=1", "message.send.max.retries=7", "enable.idempotence=false"]);
    let finding = "flows.events.producer_idempotent needs producer_acks: all and at least one of producer_retries";
    assert_eq!(findings("", &[("DB_URL", URL), ("KAFKA_PRODUCER_ACKS", "0")]), [finding]);
    assert_eq!(findings("", &[("DB_URL", URL), ("KAFKA_PRODUCER_RETRIES", "0")]), [finding]);
    let env = [("DB_URL", URL), ("KAFKA_CONSUMER_RETRY_MAX", "0"), ("SLUICEGATE_FLOWS_EVENTS_ORDERING", "key")];
    assert!(findings("", &env)[0].starts_with("flows.events.ordering needs a retry_max"));
}

#[test]
fn keys_that_contradict_each_other_are_found() {
    let env = [("DB_URL", URL)];
    for (yaml, finding) in [
        ("{batch_rows_max: 20000}", "flows.status.batch_rows_max must be at most flows.status.group_rows_max = 10000"),
        ("{backoff_min_ms: 6000}", "flows.status.backoff_min_ms must be at most flows.status.backoff_max_ms = 5000"),
        (
            "{session_timeout_ms: 3000}",
            "flows.status.revoke_grace_ms must be under flows.status.session_timeout_ms = 3000",
        ),
        (
            "{writers: 49}",
            "postgres.connections_max is too few for the writers of the enabled flows, 11 more each and 4 for their letters: 64",
        ),
        ("{enabled: false}", "flows has no flow that is enabled"),
    ] {
        assert_eq!(findings(&format!("flows: {{status: {yaml}}}"), &env), [finding]);
    }
    assert!(findings("flows: {status: {batch_rows_max: 10000, writers: 35}}", &env).is_empty());
}

#[test]
fn a_broken_file_does_not_make_what_it_may_hold_look_missing() {
    let found = findings("postgres: {url: [", &[("SERVER_PORT", "x")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with(" is not YAML or JSON") && found[1].starts_with("http.port"), "{found:?}");
}

#[test]
fn the_password_is_taken_from_its_own_key_only_when_the_url_has_none() {
    let password = |url| {
        let config = load("", &[("DB_URL", url), ("PGPASSWORD", "other")]);
        config.postgres.target.config.get_password().map(<[u8]>::to_vec)
    };
    assert_eq!(password("postgres://u@h/d"), Some(b"other".to_vec()));
    assert_eq!(password("postgres://u:own@h/d"), Some(b"own".to_vec()));
}

#[test]
fn timeouts_in_the_url_win_over_the_keys() {
    let both = |url| {
        let config = load("", &[("DB_URL", url)]);
        assert_eq!(config.postgres.target.config.get_connect_timeout(), Some(&config.postgres.connect_timeout));
        config.postgres.connect_timeout.as_secs()
    };
    assert_eq!(both("postgres://h/d"), 5);
    assert_eq!(both("postgres://h/d?connect_timeout=7"), 7);
}

#[test]
fn no_secret_is_shown_by_lines_findings_or_debug() {
    let yaml = "postgres: {url: 'postgres://u:canary@h/d', password: canary}\n\
                kafka: {options: {sasl.password: canary, ssl.key.password: canary, client.id: me}}";
    let report = report_of(yaml, &[], &[]);
    let lines: Vec<_> = report.lines().map(|(path, value, _)| format!("{path}={value}")).collect();
    let config = report.config.unwrap();
    assert_eq!(config.kafka.options["sasl.password"], "canary");
    assert!(
        lines.contains(&"kafka.options=client.id=me,sasl.password=***,ssl.key.password=***".to_owned()),
        "{lines:?}"
    );
    assert!(!format!("{lines:?} {config:?}").contains("canary"));

    for (yaml, name, value) in [
        ("postgres: {pasword: canary}", "DB_URL", "canary"),
        ("postgres: canary", "SLUICEGATE_POSTGRES_PASWORD", "canary"),
        ("kafka: {options: {sasl.pasword: canary}}", "DB_URL", "postgres://u:x@canary@h/d"),
        ("postgres: {password: [canary]}", "SLUICEGATE_KAFKA_OPTIONS", "sasl.password:canary"),
        ("postgres: {url: [canary]}", "SLUICEGATE_KAFKA_OPTIONS", "{\"sasl.password\":\"canary\""),
    ] {
        let findings = report_of(yaml, &[(name, value)], &[]).config.unwrap_err();
        assert!(!format!("{findings} {findings:?}").contains("canary"), "{findings}");
    }
}

#[test]
fn a_quote_left_open_shows_no_password_from_the_lines_below() {
    for name in [
        "KAFKA_TOPIC",
        "KAFKA_GROUP_ID",
        "SERVER_PORT",
        "LOG_LEVEL",
        "KAFKA_BROKERS",
        "DB_URL",
        "SLUICEGATE_KAFKA_OPTIONS",
        "SLUICEGATE_FLOWS_STATUS_SCHEMA_FILES",
        "SLUICEGATE_FLOWS_STATUS_ENABLED",
    ] {
        for begin in ["", "x", "x,", "x=1,y=", "postgres://u@h/d"] {
            let folder = tempfile::tempdir().unwrap();
            let text = format!("{name}=\"{begin}\nPGPASSWORD=canary\nOTHER=\"\nDB_URL=postgres://h/d\n");
            std::fs::write(folder.path().join(".env"), text).unwrap();
            let report =
                Sources { file: None, flows: vec![], environment: vec![], folder: folder.path().to_owned() }.report();
            let lines: Vec<_> = report.lines().map(|(path, value, _)| format!("{path}={value}")).collect();
            let shown = format!("{lines:?} {:?}", report.config);
            assert!(!shown.contains("canary"), "{name} {begin} {shown}");
        }
    }
}

#[test]
fn what_is_shown_of_odd_names_and_values_is_a_line_without_control_characters() {
    let yaml = "\"\\e[31mred\": 1\nkafka: {options: {client.id: \"a\\nb\", \"x\\e\": y}}\nhttp: {host: \"a\\eb\"}";
    for report in [report_of(yaml, &[("DB_URL", URL)], &[]), report_of(&"x".repeat(5000), &[("DB_URL", URL)], &[])] {
        assert!(report.lines().all(|(_, value, _)| !value.contains(char::is_control)));
        let findings = report.config.unwrap_err().to_string();
        assert!(!findings.contains(|c: char| c.is_control() && c != '\n') && findings.len() < 2000, "{findings:?}");
    }
}

#[test]
fn a_flow_that_does_not_exist_is_answered_with_the_one_that_was_meant() {
    let findings = report_of("", &[("DB_URL", URL)], &["statsu"]).config.unwrap_err();
    assert_eq!(findings.0[0].cure, "did you mean status?");
}

#[test]
fn the_example_file_is_right_as_it_stands_and_changes_nothing() {
    let shown = |report: Report| -> Vec<_> {
        report.lines().filter(|(path, ..)| *path != "postgres.url").map(|(path, value, _)| (path, value)).collect()
    };
    let example = include_str!("../../sluicegate.example.yaml");
    assert_eq!(findings(example, &[]), [""; 0]);
    assert_eq!(shown(report_of(example, &[], &[])), shown(report_of("", &[("DB_URL", URL)], &[])));
}
