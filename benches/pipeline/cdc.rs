//! The cdc flow: change events of one table, as Debezium sends them with their schema, from a full topic into that table.
//!
//! - `sluicegate`: the flow as it comes, exactly once.
//! - `jdbc sink`: Debezium's own sink in Kafka Connect, at least once. It is tuned as its documentation says: one task,
//!   transactions of 3,000 changes, several changes of a key in one of them made into the last (`use.reduction.buffer`), and
//!   rows of one statement joined by the driver.
//!
//! Of 1,000,000 keys half are in the table when a run begins. Of a hundred changes 20 insert a key that is not there, 70
//! change one that is, and 10 delete one; the table is compared afterwards with what must be left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use sluicegate::kafka::Producer;
use sluicegate::kafka::admin::create_topic;

use crate::contenders::in_turn;
use crate::meter::Meter;
use crate::process;
use crate::program::{Program, await_applied, run_to_end};
use crate::results::{Load, Run};
use crate::stage::{Settings, Stage};

pub const PARTITIONS: u32 = 4;
/// As many as cores.
pub const WRITERS: usize = 2;
pub const KEYS: u64 = 1_000_000;
/// One event, about: most of it is the schema.
pub const CHANGE_BYTES: usize = 3_300;
const TABLE: &str = "items";
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    Sluicegate,
    JdbcSink,
}

impl Contender {
    pub const ALL: [Contender; 2] = [Contender::Sluicegate, Contender::JdbcSink];

    pub fn name(self) -> &'static str {
        match self {
            Contender::Sluicegate => "sluicegate",
            Contender::JdbcSink => "jdbc sink",
        }
    }
}

/// What every run begins with, and what the source would have: the version of each key that is there.
struct Source {
    versions: Vec<Option<u32>>,
    there: Vec<u32>,
    gone: Vec<u32>,
}

enum Change {
    Insert(u32),
    Update(u32),
    Delete(u32),
}

impl Source {
    fn new() -> Source {
        let versions = (0..KEYS).map(|key| key.is_multiple_of(2).then_some(0)).collect();
        let (there, gone) = (0..KEYS as u32).partition(|key| key.is_multiple_of(2));
        Source { versions, there, gone }
    }

    fn change(&mut self, number: u64) -> Change {
        let random = scattered(number);
        let place = |of: &[u32]| (random >> 8) as usize % of.len();
        match random % 100 {
            0..20 => {
                let key = self.gone.swap_remove(place(&self.gone));
                self.there.push(key);
                self.versions[key as usize] = Some(number as u32);
                Change::Insert(key)
            }
            20..90 => {
                let key = self.there[place(&self.there)];
                self.versions[key as usize] = Some(number as u32);
                Change::Update(key)
            }
            _ => {
                let key = self.there.swap_remove(place(&self.there));
                self.gone.push(key);
                self.versions[key as usize] = None;
                Change::Delete(key)
            }
        }
    }

    /// How many rows are left, and the sums of their keys and versions.
    fn sums(&self) -> (i64, i64, i64) {
        let rows =
            || self.versions.iter().enumerate().filter_map(|(key, version)| Some((key as i64, i64::from((*version)?))));
        (rows().count() as i64, rows().map(|(key, _)| key).sum(), rows().map(|(_, version)| version).sum())
    }
}

fn scattered(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

/// The schemas of keys and values, as the connector sends them with each message.
struct Schemas {
    key: String,
    value: String,
}

impl Schemas {
    fn new() -> Schemas {
        let field = |name: &str, kind: &str, optional: bool| json!({"type": kind, "optional": optional, "field": name});
        let named = |name: &str, kind: &str, type_name: &str| json!({"type": kind, "optional": true, "name": type_name, "version": 1, "field": name});
        let key = json!({"type": "struct", "fields": [field("id", "int64", false)], "optional": false,
            "name": "bench.public.items.Key"});
        let mut price = named("price", "bytes", "org.apache.kafka.connect.data.Decimal");
        price["parameters"] = json!({"scale": "2", "connect.decimal.precision": "10"});
        let fields = json!([
            field("id", "int64", false),
            field("customer", "int32", true),
            field("sku", "string", true),
            field("version", "int32", true),
            price,
            field("status", "string", true),
            named("changed_at", "int64", "io.debezium.time.MicroTimestamp"),
            field("note", "string", true),
        ]);
        let row = |place: &str| json!({"type": "struct", "fields": fields, "optional": true, "name": "bench.public.items.Value", "field": place});
        let source = json!({"type": "struct", "optional": false, "version": 1, "field": "source",
            "name": "io.debezium.connector.postgresql.Source",
            "fields": [
                field("version", "string", false), field("connector", "string", false), field("name", "string", false),
                field("ts_ms", "int64", false), field("snapshot", "string", true), field("db", "string", false),
                field("sequence", "string", true), field("ts_us", "int64", true), field("ts_ns", "int64", true),
                field("schema", "string", false), field("table", "string", false), field("txId", "int64", true),
                field("lsn", "int64", true), field("xmin", "int64", true)]});
        let transaction = json!({"type": "struct", "optional": true, "name": "event.block", "version": 1, "field": "transaction",
            "fields": [field("id", "string", false), field("total_order", "int64", false),
                field("data_collection_order", "int64", false)]});
        let value = json!({"type": "struct", "optional": false, "name": "bench.public.items.Envelope", "version": 2,
            "fields": [row("before"), row("after"), source, transaction, field("op", "string", false),
                field("ts_ms", "int64", true), field("ts_us", "int64", true), field("ts_ns", "int64", true)]});
        Schemas { key: key.to_string(), value: value.to_string() }
    }

    fn key(&self, key: u32) -> String {
        format!(r#"{{"schema":{},"payload":{{"id":{key}}}}}"#, self.key)
    }

    fn value(&self, number: u64, change: &Change) -> String {
        let ms = 1_767_225_600_000 + number;
        let row = |key: u32| {
            format!(
                r#"{{"id":{key},"customer":{},"sku":"SKU-{:06}","version":{number},"price":"{}","status":"{}","changed_at":{ms}000,"note":"change {number} of a row"}}"#,
                scattered(number) % 100_000,
                key % 5_000,
                ["AMc=", "FbI=", "Aej5", "YkA="][number as usize % 4],
                ["NEW", "PAID", "SENT"][number as usize % 3],
            )
        };
        let nulls =
            r#""customer":null,"sku":null,"version":null,"price":null,"status":null,"changed_at":null,"note":null"#;
        let (op, before, after) = match change {
            Change::Insert(key) => ("c", "null".to_owned(), row(*key)),
            Change::Update(key) => ("u", "null".to_owned(), row(*key)),
            Change::Delete(key) => ("d", format!(r#"{{"id":{key},{nulls}}}"#), "null".to_owned()),
        };
        let lsn = 30_000_000 + number * 200;
        format!(
            r#"{{"schema":{},"payload":{{"before":{before},"after":{after},"source":{{"version":"3.3.1.Final","connector":"postgresql","name":"bench","ts_ms":{ms},"snapshot":"false","db":"shop","sequence":"[\"{}\",\"{lsn}\"]","ts_us":{ms}000,"ts_ns":{ms}000000,"schema":"public","table":"{TABLE}","txId":{},"lsn":{lsn},"xmin":null}},"transaction":null,"op":"{op}","ts_ms":{ms},"ts_us":{ms}000,"ts_ns":{ms}000000}}}}"#,
            self.value,
            lsn - 100,
            number / 10,
        )
    }
}

struct Ring<'a> {
    stage: &'a Stage,
    load: &'a Load,
    topic: String,
    /// The worker's place, where there is one to be had.
    worker: Option<PathBuf>,
    jdbc_tasks: u32,
    sums: (i64, i64, i64),
}

pub fn measure(stage: &Stage, load: &Load, rounds: u64, jdbc_tasks: u32) -> Vec<Run> {
    println!("{} changes of {KEYS} keys, {PARTITIONS} partitions, {WRITERS} writers, {rounds} rounds", load.rows);
    let worker = stage.services.as_ref().map(|directory| directory.join("jdbc-sink"));
    if worker.is_none() || !services(&["fetch", "connect"]) {
        println!("There is no Kafka Connect to be had: the JDBC sink is left out.");
    }
    let (topic, sums) = filled_topic(stage, load);
    let ring = Ring { stage, load, topic, worker, jdbc_tasks, sums };
    ring.fill();
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|contender| ring.worker.is_some() || *contender == Contender::Sluicegate)
        .collect();
    // Not counted: the broker compiles what it has not run yet, and files grow for the first time.
    ring.run(Contender::Sluicegate, 0);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for contender in in_turn(&contenders, round) {
            let run = ring.run(contender, round);
            println!("round {round}  {:<11} {:>8.0} changes/s", run.contender, run.rows_per_s);
            runs.push(run);
        }
    }
    runs
}

/// A partition has all changes of its keys, as the connector's own producer would spread them.
fn filled_topic(stage: &Stage, load: &Load) -> (String, (i64, i64, i64)) {
    let topic = stage.new_name();
    create_topic(&stage.brokers, &BTreeMap::new(), &topic, PARTITIONS as i32, 1).expect("a topic");
    let producer = Producer::new(&stage.brokers, &BTreeMap::new(), &topic).expect("a producer");
    let (mut source, schemas) = (Source::new(), Schemas::new());
    let mut bytes = 0;
    for number in 0..load.rows {
        let change = source.change(number);
        let (Change::Insert(key) | Change::Update(key) | Change::Delete(key)) = change;
        let (partition, value) = ((key % PARTITIONS) as i32, schemas.value(number, &change));
        bytes += value.len();
        producer
            .send(Some(partition), Some(schemas.key(key).as_bytes()), value.as_bytes())
            .expect("the broker takes changes");
    }
    let (sent, fault) = producer.finish();
    assert_eq!((sent.delivered, fault), (load.rows, None), "every change is in the topic");
    let mean_bytes = bytes / load.rows as usize;
    assert!(mean_bytes.abs_diff(load.record_bytes) * 20 <= load.record_bytes, "changes have {mean_bytes} B");
    (topic, source.sums())
}

fn services(arguments: &[&str]) -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let mut command = Command::new(script);
    // As long as a sink would run, its hot places are worth the best compiler.
    command.args(arguments).envs([("SLUICEGATE_CONNECT_JVM", "-server"), ("SLUICEGATE_CONNECT_HEAP", "1g")]);
    command.status().is_ok_and(|status| status.success())
}

impl Ring<'_> {
    /// The program's own tables, and the rows that a run begins with.
    fn fill(&self) {
        run_to_end(&self.settings(), &["init"]);
        self.stage
            .connect()
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS {TABLE}, {TABLE}_before;
                 CREATE TABLE {TABLE} (id bigint PRIMARY KEY, customer integer, sku text, version integer, price numeric(10,2),
                     status text, changed_at timestamp, note text);
                 CREATE TABLE {TABLE}_before AS SELECT n AS id, (n % 100000)::integer AS customer, 'SKU-' || n % 5000 AS sku,
                     0 AS version, 1.99::numeric(10,2) AS price, 'NEW' AS status, timestamp '2025-01-01' AS changed_at,
                     'as it was' AS note FROM generate_series(0, {}, 2) AS n",
                KEYS - 1
            ))
            .expect("a table");
    }

    /// Every run begins with the same rows, no ledger and no position, and a checkpoint behind all that.
    fn clean(&self) {
        let mut client = self.stage.connect();
        client
            .batch_execute(&format!(
                "TRUNCATE {TABLE}; INSERT INTO {TABLE} SELECT * FROM {TABLE}_before;
                 DO $$ DECLARE t name; BEGIN
                     FOR t IN SELECT tablename FROM pg_tables WHERE tablename LIKE 'sluicegate\\_%' LOOP
                         EXECUTE format('TRUNCATE %I', t);
                     END LOOP;
                 END $$"
            ))
            .expect("the same rows");
        client.batch_execute(&format!("VACUUM ANALYZE {TABLE}")).expect("vacuumed");
        client.batch_execute("CHECKPOINT").expect("a checkpoint");
    }

    fn run(&self, contender: Contender, round: u64) -> Run {
        self.clean();
        let meter = Meter::start(self.stage);
        let mut run = Run { contender: contender.name().to_owned(), round, rows: self.load.rows, ..Run::default() };
        match contender {
            Contender::Sluicegate => self.sluicegate(&mut run),
            Contender::JdbcSink => self.jdbc_sink(&mut run),
        }
        meter.finish_run(&mut run, false);
        let sql = format!("SELECT count(*), sum(id)::bigint, sum(version)::bigint FROM {TABLE}");
        let row = self.stage.connect().query_one(&sql, &[]).expect("sums");
        assert_eq!((row.get(0), row.get(1), row.get(2)), self.sums, "{}: rows, keys and versions", contender.name());
        run
    }

    fn settings(&self) -> Settings {
        Settings::from([
            ("KAFKA_BROKERS", self.stage.brokers.clone()),
            ("DB_URL", self.stage.url.clone()),
            ("SLUICEGATE_FLOWS_STATUS_ENABLED", "false".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_ENABLED", "true".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_TOPICS", self.topic.clone()),
            ("SLUICEGATE_FLOWS_CDC_PARTITIONS", PARTITIONS.to_string()),
            ("SLUICEGATE_FLOWS_CDC_GROUP_ID", self.stage.new_name()),
            ("SLUICEGATE_FLOWS_CDC_WRITERS", WRITERS.to_string()),
            ("LOG_LEVEL", "off".to_owned()),
        ])
    }

    fn sluicegate(&self, run: &mut Run) {
        let program = Program::start(&self.settings());
        run.rows_per_s = program.await_applied(self.load.rows, self.stage.applied(&self.topic));
        program.finish_run(run);
    }

    /// Its offsets are committed every half a second: the last of them when all is written.
    fn jdbc_sink(&self, run: &mut Run) {
        let place = self.worker.as_deref().and_then(Path::to_str).expect("a place for the worker");
        assert!(services(&["connect", "start", place]), "a worker");
        let name = self.stage.new_name();
        self.configure(place, &name);
        run.rows_per_s = await_applied(self.load.rows, self.committed(&format!("connect-{name}")));
        let pid = std::fs::read_to_string(format!("{place}/connect.pid")).expect("a worker");
        let pid = pid.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("its number");
        run.cpu_s = process::cpu_s(pid).expect("it runs");
        run.memory_peak_mb = process::memory_peak_mb(pid);
        assert!(services(&["connect", "stop", place]), "it ends");
    }

    fn configure(&self, place: &str, name: &str) {
        let config: postgres::Config = self.stage.url.parse().expect("a URL");
        let url = format!(
            "jdbc:postgresql://127.0.0.1:{}/{}?reWriteBatchedInserts=true",
            config.get_ports().first().copied().unwrap_or(5432),
            config.get_dbname().expect("a database"),
        );
        let configuration = json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": self.jdbc_tasks.to_string(),
            "topics": self.topic,
            "connection.url": url,
            "connection.username": config.get_user().expect("a user"),
            "connection.password": "",
            "collection.name.format": TABLE,
            "insert.mode": "upsert",
            "delete.enabled": "true",
            "primary.key.mode": "record_key",
            "schema.evolution": "none",
            "batch.size": "3000",
            "use.reduction.buffer": "true",
            "consumer.override.max.poll.records": "3000",
            "consumer.override.auto.offset.reset": "earliest",
            "consumer.override.fetch.min.bytes": "1000000",
            "consumer.override.max.partition.fetch.bytes": "10000000",
        });
        let port = std::fs::read_to_string(format!("{place}/connect.port")).expect("a port");
        let answer = put(port.trim(), &format!("/connectors/{name}/config"), &configuration.to_string());
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    fn committed(&self, group: &str) -> impl FnMut() -> u64 {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.stage.brokers)
            .set("group.id", group)
            .create()
            .expect("a client");
        let mut partitions = TopicPartitionList::new();
        (0..PARTITIONS as i32).for_each(|id| {
            partitions.add_partition(&self.topic, id);
        });
        move || {
            let Ok(committed) = consumer.committed_offsets(partitions.clone(), SOON) else { return 0 };
            let offset = |offset| if let Offset::Offset(offset) = offset { offset as u64 } else { 0 };
            committed.elements().iter().map(|element| offset(element.offset())).sum()
        }
    }
}

fn put(port: &str, path: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).expect("the worker listens");
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
