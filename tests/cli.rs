//! The command line from outside: what the real binary says and how it ends, with a clean environment in
//! an empty folder.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;

const URL: &str = "postgres://u:canary@db.invalid:5432/d?sslmode=disable";

struct Bench {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap(), environment: vec![] }
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Bench {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    fn set(mut self, name: &'static str, value: &str) -> Bench {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn check(&self) -> Ended {
        self.run(&["check"])
    }
}

impl Ended {
    /// Whether a key was shown with this value and origin.
    fn shows(&self, key: &str, value: &str, origin: &str) -> bool {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        self.out.lines().any(|line| words(line) == format!("{key} {value} ({origin})"))
    }
}

#[test]
fn a_right_configuration_is_shown_whole_and_ends_with_ok_and_zero() {
    let ended = Bench::new().set("DB_URL", URL).check();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.shows("kafka.brokers", "localhost:9092", "default"), "{}", ended.out);
    assert!(ended.shows("postgres.url", "postgres://u:***@db.invalid:5432/d?sslmode=disable", "environment DB_URL"));
    assert!(ended.out.contains("\nflows that run: status\n"));
    assert!(ended.out.ends_with("ok\n"));
}

#[test]
fn the_seed_s_own_dot_env_works_as_it_stands() {
    let seed = "DB_URL=postgres://postgres:your_password@localhost:5432/processed_data_db?sslmode=disable\n\
                KAFKA_BROKERS=kafka1:9092,kafka2:9092\nKAFKA_TOPIC=seed-status-updates\n\
                KAFKA_GROUP_ID=postgres-inserter-group-go\nSERVER_PORT=8080\n";
    let ended = Bench::new().file(".env", seed).check();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.shows("kafka.brokers", "kafka1:9092,kafka2:9092", ".env KAFKA_BROKERS"), "{}", ended.out);
    assert!(ended.shows("http.port", "8080", ".env SERVER_PORT"));
}

#[test]
fn the_flag_wins_over_the_environment_over_dot_env_over_the_file_over_the_default() {
    let file = "http: {port: 1}\nlogging: {level: debug}\nflows: {status: {topic: f, group_id: f, enabled: false}}";
    let bench = Bench::new()
        .file("sluicegate.yaml", file)
        .file(".env", format!("DB_URL={URL}\nSERVER_PORT=2\nKAFKA_TOPIC=d\n"))
        .set("SERVER_PORT", "3");
    let ended = bench.run(&["check", "--flow", "status"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.shows("flows.status.enabled", "true", "--flow"), "{}", ended.out);
    assert!(ended.shows("http.port", "3", "environment SERVER_PORT"));
    assert!(ended.shows("flows.status.topic", "d", ".env KAFKA_TOPIC"));
    assert!(ended.shows("logging.level", "debug", "sluicegate.yaml"));
    assert!(ended.shows("http.host", "127.0.0.1", "default"));
}

#[test]
fn the_file_may_be_yaml_or_json_and_be_named_before_or_after_the_verb_or_by_the_environment() {
    let bench = Bench::new()
        .file("a.yml", format!("postgres:\n  url: {URL}\nhttp:\n  port: 7\n"))
        .file("b.json", format!("{{\"postgres\": {{\"url\": \"{URL}\"}},\n\t\"http\": {{\"port\": 7}}}}"));
    for (arguments, name) in [
        (["check", "--config", "a.yml"], "a.yml"),
        (["--config", "b.json", "check"], "b.json"),
        (["check", "--config", "b.json"], "b.json"),
    ] {
        let ended = bench.run(&arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.shows("http.port", "7", name), "{}", ended.out);
    }
    assert!(bench.set("SLUICEGATE_CONFIG", "a.yml").check().shows("http.port", "7", "a.yml"));
}

#[test]
fn every_finding_is_told_at_once_with_value_rule_origin_and_cure() {
    let file =
        "kafka:\n  broker: a:1\nhttp:\n  port: 99999\nflows:\n  status:\n    writers: many\n    linger_ms: [1]\n";
    let ended = Bench::new().file("sluicegate.yaml", file).set("KAFKA_BROKERS", "localhost").check();
    assert_eq!(ended.code, Some(2));
    let expected = "\
kafka.broker is not a key (from sluicegate.yaml)
    did you mean `brokers`?
kafka.brokers = localhost has a broker without a port (from environment KAFKA_BROKERS)
    write host:port, with commas between brokers: kafka1:9092,kafka2:9092
postgres.url is not set and has no default
    set DB_URL or SLUICEGATE_POSTGRES_URL in the environment or in .env, or postgres.url in the file
http.port = 99999 is over the maximum of 65535 (from sluicegate.yaml)
    write a number from 0 to 65535
flows.status.writers = many must be an integer from 1 to 64 (from sluicegate.yaml)
    write digits only, without a unit or a fraction
flows.status.linger_ms = 1 must be milliseconds from 0 to 60000, not a list (from sluicegate.yaml)
    write a number
6 findings in the configuration
";
    assert_eq!(ended.err, expected);
    assert!(ended.shows("logging.level", "info", "default"), "what is right is shown all the same");
}

#[test]
fn no_password_leaves_by_any_door() {
    let right = Bench::new()
        .set("DB_URL", "postgres://u@db.invalid/d?sslmode=disable")
        .set("PGPASSWORD", "canary")
        .set("SLUICEGATE_KAFKA_OPTIONS", "sasl.password=canary");
    let wrong_options = Bench::new().set("SLUICEGATE_KAFKA_OPTIONS", "sasl.pasword=canary").set("DB_URL", "u:canary@h");
    let wrong_file = Bench::new().file("sluicegate.yaml", "postgres:\n  url: \"postgres://u:canary@h/d\n");
    let wrong_key = Bench::new().file("sluicegate.yaml", "postgres: {pasword: canary}\nkafka: canary\n");
    let wrong_env = Bench::new().file(".env", "DB_URL=postgres://u:a canary@h/d\n");
    let wrong_query = Bench::new().set("DB_URL", "postgres://h/d?password=canary&sslmode=canary");
    for (bench, code) in
        [(right, 0), (wrong_options, 2), (wrong_file, 2), (wrong_key, 2), (wrong_env, 2), (wrong_query, 2)]
    {
        let ended = bench.check();
        assert_eq!(ended.code, Some(code), "{}{}", ended.out, ended.err);
        assert!(!format!("{}{}", ended.out, ended.err).contains("canary"), "{}{}", ended.out, ended.err);
    }
}

#[test]
fn an_odd_file_is_refused_soon_with_the_code_for_configuration() {
    let bomb = (1..40).fold("a0: &a0 [x,x]\n".to_owned(), |text, i| {
        format!("{text}a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))
    });
    let deep = "[".repeat(500_000);
    let large = "# \n".repeat(500_000);
    for (text, why) in [
        (bomb.as_bytes(), "aliases that unfold"),
        (deep.as_bytes(), "depth"),
        (large.as_bytes(), "size"),
        (b"\xff\xfe\x00".as_slice(), "not UTF-8"),
        (b"http: {port: 1, port: 2}", "a key twice"),
        (b"{\"http\": {\"port\": 1, \"port\": 2}}", "a key twice in JSON"),
        (b"http:\n port: 1\n  host: x\n", "indentation"),
        (b"- http\n", "a list"),
    ] {
        let begun = Instant::now();
        let ended = Bench::new().file("sluicegate.yaml", text).set("DB_URL", URL).check();
        assert_eq!(ended.code, Some(2), "{why}");
        assert!(ended.err.contains("sluicegate.yaml"), "{why}: {}", ended.err);
        assert!(ended.err.len() < 2000, "{why}: {}", ended.err);
        assert!(begun.elapsed() < Duration::from_secs(20), "{why}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_and_not_passed_over() {
    for path in ["nowhere.yaml", "/", "/dev/zero"] {
        let ended = Bench::new().set("DB_URL", URL).run(&["check", "--config", path]);
        assert_eq!(ended.code, Some(2), "{path}");
        assert!(ended.err.starts_with(path), "{}", ended.err);
    }
}

#[test]
fn an_empty_file_is_the_same_as_none() {
    let none = Bench::new().set("DB_URL", URL).check();
    let empty = Bench::new().set("DB_URL", URL).file("sluicegate.yaml", "").check();
    assert_eq!((none.code, none.out), (empty.code, empty.out));
}

#[test]
fn wrong_usage_ends_with_two_and_help_and_version_with_zero() {
    let bench = Bench::new();
    for arguments in [&[][..], &["chekc"], &["check", "--connct"], &["check", "--config"]] {
        assert_eq!(bench.run(arguments).code, Some(2), "{arguments:?}");
    }
    let unknown = bench.run(&["check", "--flow", "statsu"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("did you mean status?"), "{}", unknown.err);
    let version = bench.run(&["--version"]);
    assert_eq!((version.code, version.out), (Some(0), format!("sluicegate {}\n", env!("CARGO_PKG_VERSION"))));
    let help = bench.run(&["check", "--help"]);
    assert_eq!(help.code, Some(0));
    for option in ["--config <FILE>", "--flow <NAME>", "--connect"] {
        assert!(help.out.contains(option), "{}", help.out);
    }
}

#[test]
fn what_does_not_answer_is_named_and_ends_with_one() {
    let ended = Bench::new()
        .set("DB_URL", "postgres://u:canary@127.0.0.1:1/d?sslmode=disable")
        .set("KAFKA_BROKERS", "127.0.0.1:1")
        .set("SLUICEGATE_KAFKA_REQUEST_TIMEOUT_MS", "1000")
        .run(&["check", "--connect"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("postgres: postgres://u:***@127.0.0.1:1/d?sslmode=disable: "), "{}", ended.err);
    assert!(ended.err.contains("\nkafka: 127.0.0.1:1: "), "{}", ended.err);
    assert!(!ended.err.contains("canary") && !ended.out.contains("\nok\n"));
}

#[test]
fn a_cluster_that_answers_is_asked_for_the_topics_of_the_flows() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("here", 3, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let ended = Bench::new()
        .set("DB_URL", "postgres://u@127.0.0.1:1/d?sslmode=disable")
        .set("KAFKA_BROKERS", &brokers)
        .set("KAFKA_TOPIC", "here")
        .run(&["check", "--connect"]);
    let expected = format!("kafka: {brokers} is a cluster of 1 broker\n  status: topic here has 3 partitions\n");
    assert!(ended.out.contains(&expected), "{}{}", ended.out, ended.err);
    assert_eq!(ended.code, Some(1), "PostgreSQL does not answer");
}

#[test]
fn the_example_is_printed_for_those_who_have_only_the_binary_and_is_right() {
    let example = Bench::new().run(&["check", "--example"]);
    assert_eq!((example.code, example.err.as_str()), (Some(0), ""));
    assert_eq!(Bench::new().file("sluicegate.yaml", &example.out).check().code, Some(0));
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_not_waited_for_forever() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let begun = Instant::now();
    let ended = Bench::new()
        .set("DB_URL", &format!("postgres://u@{address}/d?sslmode=disable"))
        .set("SLUICEGATE_POSTGRES_CONNECT_TIMEOUT_MS", "100")
        .set("KAFKA_BROKERS", "127.0.0.1:1")
        .set("SLUICEGATE_KAFKA_REQUEST_TIMEOUT_MS", "200")
        .run(&["check", "--connect"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("has not answered within 5100 ms"), "{}", ended.err);
    assert!(begun.elapsed() < Duration::from_secs(20));
}
