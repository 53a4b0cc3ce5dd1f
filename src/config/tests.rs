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
            keys::Fallback::Is(text) => Some(format!("{}='{text}'\n", key.env[0])),
            _ => None,
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), format!("{written}DB_URL={URL}\n")).unwrap();
    let sources = Sources { file: None, flows: vec![], environment: vec![], folder: folder.path().to_owned() };
    let report = sources.report();
    assert!(report.config.is_ok(), "{}", report.config.unwrap_err());
    let from_file = report.lines().filter(|(_, _, origin)| matches!(origin, Origin::DotEnv(_))).count();
    let has_default = |key: &&Key| matches!(key.default, keys::Fallback::Is(text) if !text.is_empty());
    assert_eq!(from_file, KEYS.iter().filter(has_default).count() + 1);
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
            "postgres.connections_max is too few for the writers of the enabled flows, 5 more each and one for their letters: 55",
        ),
        ("{enabled: false}", "flows has no flow that is enabled"),
    ] {
        assert_eq!(findings(&format!("flows: {{status: {yaml}}}"), &env), [finding]);
    }
    assert!(findings("flows: {status: {batch_rows_max: 10000, writers: 44}}", &env).is_empty());
}

#[test]
fn names_that_the_flow_of_change_events_could_not_make_are_found() {
    let found =
        |leaf: &str, value: &str| findings(&format!("flows: {{cdc: {{{leaf}: '{value}'}}}}"), &[("DB_URL", URL)]);
    for good in ["{schema}.{table}", "{table}", "all.{server}_{database}_{schema}_{table}", "audit.everything"] {
        assert_eq!(found("table_name", good), [""; 0], "{good}");
    }
    let unknown = "flows.cdc.table_name has something in { } that is none of server, database, schema and table";
    for (bad, finding) in [
        ("{schema}.{tabel}", unknown),
        ("x_{tabel}", unknown),
        ("{}", unknown),
        ("{table", unknown),
        ("table}", unknown),
        ("{table}}", unknown),
        ("{schema}{{table}", unknown),
        ("a.{schema}.{table}", "flows.cdc.table_name has more than one dot, and one parts schema and table"),
        (".{table}", "flows.cdc.table_name has nothing on one side of its dot"),
        ("{schema}.", "flows.cdc.table_name has nothing on one side of its dot"),
    ] {
        assert_eq!(found("table_name", bad), [finding], "{bad}");
    }
    let twice = "flows.cdc.extra_columns has the column x twice";
    assert_eq!(found("extra_columns", "lsn=x,op=x"), [twice]);
    assert_eq!(found("extra_columns", "lsn=x,op=y"), [""; 0]);
    let both = "flows.cdc.soft_delete is a column of flows.cdc.extra_columns as well";
    assert_eq!(found("soft_delete", "__lsn"), [both]);
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

const REPLACED: &str = r#"
kafka:
  bootstrap_servers: "localhost:9092"
  topics:
    - "cdc.public.users"
    - "cdc.public.orders"
  group_id: "cdc_consumer"
  batch_size: 100
  enable_auto_commit: false

postgres:
  host: "localhost"
  port: 5432
  database: "target_db"
  user: "postgres"
  password: "canary"
  max_connections: 10

logging:
  level: "INFO"
  file: "logs/cdc.log"

metrics:
  enabled: true
  port: 8080

processing:
  max_workers: 4
  queue_size: 1000
"#;

/// The same as JSON.
const REPLACED_JSON: &str = r#"{
  "kafka": {"bootstrap_servers": "localhost:9092", "topics": ["cdc.public.users", "cdc.public.orders"],
    "group_id": "cdc_consumer", "batch_size": 100, "enable_auto_commit": false},
  "postgres": {"host": "localhost", "port": 5432, "database": "target_db", "user": "postgres", "password": "canary",
    "max_connections": 10},
  "logging": {"level": "INFO", "file": "logs/cdc.log"},
  "metrics": {"enabled": true, "port": 8080},
  "processing": {"max_workers": 4, "queue_size": 1000}
}"#;

#[test]
fn the_replaced_sink_s_file_works_as_it_is_in_yaml_and_json() {
    for text in [REPLACED, REPLACED_JSON] {
        let report = report_of(text, &[], &[]);
        assert!(report.notes.is_empty());
        let lines: Vec<String> = report.lines().map(|line| format!("{line:?}")).collect();
        let config = report.config.unwrap_or_else(|findings| panic!("{findings}"));
        assert_eq!(config.enabled().map(|(name, _)| name).collect::<Vec<_>>(), ["cdc"]);
        assert_eq!(config.kafka.brokers, ["localhost:9092"]);
        let driver = &config.postgres.target.config;
        assert_eq!(
            config.postgres.target.to_string(),
            "postgres://postgres:***@localhost:5432/target_db?sslmode=prefer"
        );
        assert_eq!(driver.get_password(), Some(&b"canary"[..]));
        assert_eq!((config.postgres.connections_max, config.sessions_for_calls()), (10, 1));
        assert_eq!(
            (config.logging.level, config.logging.file.clone()),
            (log::LevelFilter::Info, Some("logs/cdc.log".into()))
        );
        assert_eq!((config.http.enabled, config.http.port), (true, 8080));
        let cdc = &config.flows["cdc"];
        assert_eq!(
            (cdc.topics.join(" "), cdc.group_id.as_str()),
            ("cdc.public.users cdc.public.orders".to_owned(), "cdc_consumer")
        );
        assert_eq!((cdc.batch_rows_max, cdc.group_rows_max, cdc.writers), (100, 1000, 4));
        assert!(!format!("{lines:?} {config:?}").contains("canary"));
    }
}

#[test]
fn every_other_name_of_the_replaced_sink_s_file_leads_to_its_key() {
    let yaml = "\
kafka: {session_timeout_ms: 20000, max_poll_interval_ms: 300000, enable_auto_commit: 'false'}
postgres: {host: db, database: 'a b/c', user: 'u@x', batch: {size: 50}, continue_on_error: false}
logging: {level: WARNING}
metrics: {enabled: false}
processing: {shutdown_timeout: 30}";
    let report = report_of(yaml, &[("CDC_POSTGRES_PASSWORD", "canary")], &[]);
    assert!(report.notes[0].starts_with("kafka.max_poll_interval_ms is passed over: "), "{:?}", report.notes);
    let config = report.config.unwrap_or_else(|findings| panic!("{findings}"));
    let cdc = &config.flows["cdc"];
    assert_eq!((cdc.session_timeout, cdc.batch_rows_max, cdc.continue_on_error), (Duration::from_secs(20), 50, false));
    assert_eq!((config.logging.level, config.http.enabled), (log::LevelFilter::Warn, false));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    let driver = &config.postgres.target.config;
    assert_eq!((driver.get_dbname(), driver.get_user()), (Some("a b/c"), Some("u@x")));
    assert_eq!((driver.get_ports(), driver.get_password()), (&[5432][..], Some(&b"canary"[..])));
    for (text, is_on) in [("continue_on_error: true", true), ("processing: {continue_on_error: false}", false)] {
        assert_eq!(load(text, &[("DB_URL", URL)]).flows["cdc"].continue_on_error, is_on);
    }
}

#[test]
fn every_variable_of_the_replaced_sink_wins_over_its_file() {
    let env = [
        ("CDC_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"),
        ("CDC_KAFKA_GROUP_ID", "g"),
        ("CDC_POSTGRES_HOST", "postgres"),
        ("CDC_POSTGRES_PORT", "5433"),
        ("CDC_POSTGRES_DATABASE", "other"),
        ("CDC_POSTGRES_USER", "me"),
        ("CDC_POSTGRES_PASSWORD", "secret"),
        ("CDC_LOG_LEVEL", "CRITICAL"),
        ("CDC_METRICS_ENABLED", "False"),
        ("CDC_METRICS_PORT", "9090"),
    ];
    let config = load(REPLACED, &env);
    assert_eq!((config.kafka.brokers.join(","), config.flows["cdc"].group_id.as_str()), ("kafka:9092".to_owned(), "g"));
    assert_eq!(config.postgres.target.to_string(), "postgres://me:***@postgres:5433/other?sslmode=prefer");
    assert_eq!(config.postgres.target.config.get_password(), Some(&b"secret"[..]));
    assert_eq!(config.logging.level, log::LevelFilter::Error);
    assert_eq!((config.http.enabled, config.http.port), (false, 9090));
}

#[test]
fn what_is_wrong_in_the_replaced_sink_s_file_is_told_by_its_own_names() {
    let told = |text: &str| {
        let findings = report_of(text, &[], &[]).config.unwrap_err().to_string();
        assert!(!findings.contains("canary"), "{findings}");
        findings
    };
    for (old, new, expected) in [
        (
            "enable_auto_commit: false",
            "enable_auto_commit: true",
            "kafka.enable_auto_commit would commit what is not written yet",
        ),
        (
            "queue_size: 1000",
            "queue_size: 50",
            "flows.cdc.batch_rows_max = 100 must be at most flows.cdc.group_rows_max = 50",
        ),
        ("max_workers: 4", "max_workers: 5", "postgres.connections_max = 10 is too few"),
        ("max_workers: 4", "max_workers: many", "flows.cdc.writers = many must be an integer from 1 to 64"),
        ("user: \"postgres\"", "usr: x", "did you mean `user`?"),
        (
            "  port: 5432",
            "  url: postgres://me@localhost/target_db",
            "postgres.user = postgres is not what postgres.url says",
        ),
        (
            "  batch_size: 100",
            "  brokers: x:1",
            "kafka.brokers is the same key as kafka.bootstrap_servers, and both are given",
        ),
        (
            "  port: 5432",
            "  batch_size: 200",
            "postgres.batch_size is the same key as kafka.batch_size, and both are given",
        ),
    ] {
        assert!(REPLACED.contains(old), "{old}");
        let findings = told(&REPLACED.replace(old, new));
        assert!(findings.contains(expected), "{expected} in {findings}");
    }
    assert!(
        told(&REPLACED.replace("max_workers: 4", "max_workers: 0")).contains("sluicegate.yaml processing.max_workers)")
    );
    let parts = findings("postgres: {host: h}", &[]);
    let absent = ["postgres.database is not set and has no default", "postgres.user is not set and has no default"];
    assert_eq!(parts, absent);
    assert_eq!(
        findings("postgres: {host: 'a b', user: u, database: d}", &[]),
        ["postgres.host is not a host name or an address"]
    );
}

#[test]
fn a_url_and_parts_that_say_the_same_are_no_contradiction() {
    let yaml = "postgres: {host: db, port: 5432, database: d, user: u}";
    assert_eq!(findings(yaml, &[("DB_URL", URL)]), [""; 0]);
    assert_eq!(findings(yaml, &[("DB_URL", "postgres://u@db/d")]), [""; 0]);
    let found = findings(yaml, &[("DB_URL", "postgres://u@db2:5433/d")]);
    assert_eq!(found, ["postgres.host is not what postgres.url says", "postgres.port is not what postgres.url says"]);
}

#[test]
fn a_file_with_flows_of_its_own_runs_those() {
    let yaml = "kafka: {bootstrap_servers: 'a:1'}\nflows: {status: {topic: t}}";
    let config = load(yaml, &[("DB_URL", URL)]);
    assert_eq!(config.enabled().map(|(name, _)| name).collect::<Vec<_>>(), ["status"]);
    assert_eq!(config.kafka.brokers, ["a:1"]);
}
