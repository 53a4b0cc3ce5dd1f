//! `check --connect` for change events, and the replaced sink's file, against a real Kafka and a real PostgreSQL: what is
//! foretold is what is made.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::kafka::Publisher;
use sluicegate::outlet::{Message, Outlet as _};
use support::{Instance, brokers, connect, create_topic, new_database, unique, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Topics of a source of its own, and a target.
struct Bench {
    source: String,
    url: String,
    publisher: Publisher,
}

struct Checked {
    code: Option<i32>,
    out: String,
}

impl Checked {
    fn has(&self, text: &str) -> &Checked {
        assert!(self.out.contains(text), "{text:?} in {}", self.out);
        self
    }
}

impl Bench {
    fn new() -> Bench {
        let publisher = Publisher::new(&brokers(), &HashMap::new().into_iter().collect(), SOON).expect("a publisher");
        Bench { source: unique("check").replace('_', "-"), url: new_database("check"), publisher }
    }

    fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.source)
    }

    fn create(&self, table: &str) -> String {
        let topic = self.topic(table);
        create_topic(&brokers(), &topic, 2, &[]);
        topic
    }

    fn send(&self, table: &str, key: &Value, payload: Option<&Value>) {
        let (tell, told) = crossbeam_channel::bounded(1);
        let (topic, key, payload) = (self.topic(table), key.to_string(), payload.map(Value::to_string));
        let payload = payload.as_ref().map(|text| text.as_bytes());
        let message = Message { topic: &topic, key: Some(key.as_bytes()), payload, source: None, headers: &[] };
        let done = Box::new(move |sent: Result<(), _>| {
            let _ = tell.send(sent.is_ok());
        });
        self.publisher.publish(&message, done).expect("taken");
        assert!(told.recv_timeout(SOON).expect("an answer"), "not acknowledged");
    }

    /// A row in its envelope, without a schema.
    fn put(&self, table: &str, schema: &str, row: Value) {
        let source = json!({"connector": "postgresql", "name": self.source, "db": "db", "schema": schema, "table": table, "lsn": 7});
        let change = json!({"before": null, "after": row, "op": "c", "ts_ms": 1_700_000_000_000i64, "source": source});
        self.send(table, &json!({"id": row["id"]}), Some(&change));
    }

    fn check(&self, settings: &[(&str, &str)]) -> Checked {
        let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(["check", "--connect", "--flow", "cdc"])
            .env_clear()
            .env("KAFKA_BROKERS", brokers())
            .env("DB_URL", &self.url)
            .env("SLUICEGATE_FLOWS_CDC_TOPICS", format!("{}\\.public\\..*", self.source))
            .envs(settings.iter().copied())
            .current_dir(std::env::temp_dir())
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Checked { code: output.status.code(), out: text(&output.stdout) + &text(&output.stderr) }
    }

    fn columns(&self, table: &str) -> Vec<String> {
        let sql = "SELECT format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 ORDER BY a.attnum";
        connect(&self.url).query(sql, &[&table]).expect("columns").iter().map(|row| row.get(0)).collect()
    }
}

#[test]
fn what_would_become_of_each_topic_is_told_and_nothing_is_made() {
    let bench = Bench::new();
    for table in ["users", "orders", "items", "empty", "gone", "typed"] {
        bench.create(table);
    }
    bench.put(
        "users",
        "public",
        json!({"id": 1, "name": "Ada", "price": "AfQ=", "created_at": 1_700_000_000_000_000i64}),
    );
    bench.put("orders", "public", json!({"id": 1, "note": "n", "more": true}));
    bench.put("items", "public", json!({"id": 1, "name": "x", "twice": "xx"}));
    let fields = json!([{"type": "int32", "optional": false, "field": "id"}, {"type": "string", "optional": true, "field": "name"}]);
    let schema = json!({"type": "struct", "optional": false, "name": "check.Value", "fields": fields});
    let typed = json!({"schema": schema, "payload": {"id": 1, "name": "x"}});
    bench.send("typed", &json!({"id": 1}), Some(&typed));
    bench.send("gone", &json!({"id": 1}), None);
    connect(&bench.url)
        .batch_execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20));
             CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,
                 twice text GENERATED ALWAYS AS (name || name) STORED, __lsn pg_lsn)",
        )
        .expect("tables");

    let checked = bench.check(&[]);
    assert_eq!(checked.code, Some(0), "{}", checked.out);
    let topic = |table: &str| bench.topic(table);
    checked
        .has(&format!("cdc: topic {} -> \"public\".\"users\": would be made\n", topic("users")))
        .has("    key \"id\"; \"created_at\" timestamp without time zone, \"id\" bigint, \"name\" text, \"price\" numeric, \"__lsn\" pg_lsn\n")
        .has("    no schema: types are those of the values that were seen\n    by the rules for names: \"created_at\", \"price\"\n")
        .has(&format!("cdc: topic {} -> \"public\".\"orders\": would be changed\n", topic("orders")))
        .has("    ALTER TABLE \"public\".\"orders\" ADD COLUMN \"more\" boolean\n")
        .has(&format!("cdc: topic {} -> \"public\".\"items\": fits\n", topic("items")))
        .has("    left out, as the table generates them: \"twice\"\n")
        .has(&format!(
            "-> \"public\".\"typed\": would be made\n    key \"id\"; \"id\" integer, \"name\" text, \"__lsn\" pg_lsn\ncdc: topic {}",
            topic("users")
        ))
        .has(&format!("cdc: topic {} has no record yet\n", topic("empty")))
        .has(&format!("cdc: topic {} has no row in its newest 1 records", topic("gone")))
        .has("\nok\n");
    assert_eq!(bench.columns("users"), [""; 0], "a check makes no table");
    assert_eq!(bench.columns("orders").len(), 2, "and changes none");

    let checked = bench.check(&[("SLUICEGATE_FLOWS_CDC_EVOLVE", "false")]);
    assert_eq!(checked.code, Some(1));
    checked.has(&format!("cdc: topic {} would be refused: \"public\".\"orders\" does not fit", topic("orders")));
}

#[test]
fn what_would_be_refused_is_told_with_why_and_ends_with_one() {
    let bench = Bench::new();
    for table in ["narrow", "keyless", "counted", "one", "two", "broken", "own", "catalog"] {
        bench.create(table);
    }
    bench.put("narrow", "public", json!({"id": 1, "name": "Ada"}));
    bench.put("keyless", "public", json!({"id": 1}));
    bench.put("counted", "public", json!({"id": 1, "number": 2}));
    bench.put("own", "public", json!({"id": 1, "__lsn": "its own"}));
    bench.put("catalog", "pg_catalog", json!({"id": 1}));
    bench.put("one", "a", json!({"id": 1}));
    bench.put("two", "b", json!({"id": 1}));
    bench.send("broken", &json!({"id": 1}), Some(&json!({"op": "c", "after": {"id": "\u{0}"}, "source": 3})));
    connect(&bench.url)
        .batch_execute(
            "CREATE TABLE narrow (id bigint PRIMARY KEY, name boolean); CREATE TABLE keyless (id bigint);
             CREATE TABLE counted (id bigint PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY)",
        )
        .expect("tables");
    // Both of these go to one name.
    let one_name = [
        ("SLUICEGATE_FLOWS_CDC_TABLE_PATTERN", "[ab]\\.(one|two)"),
        ("SLUICEGATE_FLOWS_CDC_TABLE_REPLACEMENT", "public.same"),
    ];
    let checked = bench.check(&one_name);
    assert_eq!(checked.code, Some(1), "{}", checked.out);
    let refused = |table: &str, why: &str| {
        checked.has(&format!("cdc: topic {} would be refused: {why}", bench.topic(table)));
    };
    refused("narrow", "column \"name\" of \"public\".\"narrow\" is boolean and would have to be text");
    refused("keyless", "\"public\".\"keyless\" has no unique index on exactly (\"id\")");
    refused("counted", "column \"number\" of \"public\".\"counted\" is GENERATED ALWAYS AS IDENTITY");
    refused("two", "\"public\".\"same\" has ");
    refused("broken", "");
    refused("own", "public.own has a column \"__lsn\" of its own");
    refused("catalog", "the schema \"pg_catalog\" of the target is one that PostgreSQL keeps for itself");
    checked.has(&format!("cdc: topic {} -> \"public\".\"same\": would be made\n", bench.topic("one")));
    assert!(!checked.out.contains("\nok\n"));
}

#[test]
fn a_topic_of_another_source_than_the_one_that_a_table_follows_would_be_refused() {
    let bench = Bench::new();
    bench.create("users");
    bench.put("users", "public", json!({"id": 1}));
    assert_eq!(bench.check(&[]).code, Some(0));
    let tables = include_str!("../sql/cdc/create.sql");
    let mut client = connect(&bench.url);
    client.batch_execute(tables).expect("tables");
    let follow =
        "INSERT INTO sluicegate_cdc_tables (target_schema, target_name, source) VALUES ('public', 'users', 'x/y')";
    client.batch_execute(follow).expect("a row");
    let checked = bench.check(&[]);
    assert_eq!(checked.code, Some(1), "{}", checked.out);
    checked.has("\"public\".\"users\" follows x/y");
}

/// The file of the sink that is replaced, with the hosts of this test: one command makes what its check has told.
#[test]
fn the_replaced_sink_s_file_runs_as_it_is() {
    let bench = Bench::new();
    let topic = bench.create("users");
    bench.put("users", "public", json!({"id": 1, "name": "Ada", "total": "AfQ="}));
    let target: postgres::Config = bench.url.parse().expect("a URL");
    let folder = tempfile::tempdir().expect("a folder");
    let (log, port) = (folder.path().join("logs/cdc.log"), support::free_port());
    let [postgres::config::Host::Tcp(host), ..] = target.get_hosts() else { panic!("a host") };
    let password = String::from_utf8_lossy(target.get_password().unwrap_or(b"password")).into_owned();
    let file = json!({
        "kafka": {"bootstrap_servers": brokers(), "topics": [topic], "group_id": unique("group"), "batch_size": 100,
            "enable_auto_commit": false},
        "postgres": {"host": host, "port": target.get_ports()[0], "database": target.get_dbname(),
            "user": target.get_user(), "password": password, "max_connections": 10},
        "logging": {"level": "INFO", "file": log},
        "metrics": {"enabled": true, "port": port},
        "processing": {"max_workers": 4, "queue_size": 1000, "shutdown_timeout": 5},
    });
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, file.to_string()).expect("a file");
    let config = path.display().to_string();
    let settings = HashMap::from([("SERVER_PORT", port.to_string())]);
    let mut instance = Instance::start_with(&settings, &["run", "--config", &config]);
    instance.port = port;
    wait_for("the row", SOON, || {
        let row = connect(&bench.url).query_one("SELECT name, total::text FROM users WHERE id = 1", &[]).ok()?;
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("Ada", "5.00"));
        Some(())
    });
    let health = wait_for("health", SOON, || instance.json("/health").filter(|health| health["status"] == "ok"));
    let writer = &health["components"]["writer"];
    assert_eq!((writer["database"].as_str(), &writer["pool_size"]), (target.get_dbname(), &10.into()));
    assert_eq!(health["components"]["consumer"]["topics"], json!([topic]));
    let counted = |status: &serde_json::Value| status["flows"]["cdc"]["outcomes"]["inserted"] == 1;
    let status = wait_for("the count", SOON, || instance.json("/status").filter(counted));
    assert_eq!(status["flows"].as_object().map(|flows| flows.keys().cloned().collect()), Some(vec!["cdc".to_owned()]));
    let logged = std::fs::read_to_string(&log).expect("a log file");
    assert!(
        logged.contains("listening on http://") && instance.log_text().contains("listening on http://"),
        "{logged}"
    );
    instance.signal("TERM");
    assert_eq!(instance.wait(SOON), Some(0));
}
