//! The Kafka and the PostgreSQL that everything is measured on: topics filled, tables emptied, versions asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sluicegate::kafka::Producer;

use crate::process;
use crate::program;
use crate::records::Payloads;
use crate::results::Load;

pub const TABLE: &str = "processed_seed_status";

pub struct Stage {
    pub brokers: String,
    pub url: String,
    /// Where `scripts/services with` keeps the process ids of both.
    pub services: Option<PathBuf>,
    names: AtomicU32,
}

/// What one run of a program is told, as its environment.
pub type Settings = BTreeMap<&'static str, String>;

impl Stage {
    /// None where nothing was started to measure on.
    pub fn from_environment() -> Option<Stage> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(Stage {
            brokers: given("KAFKA_BROKERS")?,
            url: given("DB_URL")?,
            services: given("SLUICEGATE_RUN_DIR").map(PathBuf::from).filter(|dir| dir.join("owner").exists()),
            names: AtomicU32::new(0),
        })
    }

    /// A name for a topic or a group that nothing else has.
    pub fn new_name(&self) -> String {
        format!("bench-{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// What the program is told: the load, where it is not the default, and a group of its own.
    pub fn settings(&self, load: &Load, topic: &str) -> Settings {
        let mut settings = Settings::from([
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("DB_URL", self.url.clone()),
            ("KAFKA_TOPIC", topic.to_owned()),
            ("KAFKA_GROUP_ID", self.new_name()),
            ("SLUICEGATE_FLOWS_STATUS_PARTITIONS", load.partitions.to_string()),
            ("SLUICEGATE_FLOWS_STATUS_WRITERS", load.writers.to_string()),
            ("LOG_LEVEL", "error".to_owned()),
        ]);
        if let Some(rows) = load.batch_rows {
            settings.insert("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", rows.to_string());
            settings.insert("SLUICEGATE_FLOWS_STATUS_GROUP_ROWS_MAX", rows.to_string());
            // So that rows close a batch, never bytes.
            let bytes = (rows * (load.record_bytes + 200)).max(1 << 20);
            settings.insert("SLUICEGATE_FLOWS_STATUS_BATCH_BYTES_MAX", bytes.to_string());
        }
        settings
    }

    /// A topic, made by the program itself together with its tables.
    pub fn new_topic(&self, load: &Load) -> String {
        let topic = self.new_name();
        program::run_to_end(&self.settings(load, &topic), &["init"]);
        topic
    }

    /// A topic with all the records, spread over its partitions in turn.
    pub fn filled_topic(&self, load: &Load) -> String {
        let topic = self.new_topic(load);
        let producer = Producer::new(&self.brokers, &BTreeMap::new(), &topic).expect("a producer");
        let payloads = Payloads::new(load.record_bytes);
        let mut payload = Vec::new();
        let mut bytes = 0;
        for number in 0..load.rows {
            payload.clear();
            payloads.append(number, &mut payload);
            bytes += payload.len();
            let partition = (number % u64::from(load.partitions)) as i32;
            producer.send(Some(partition), None, &payload).expect("the broker takes records");
        }
        let (sent, fault) = producer.finish();
        assert_eq!((sent.delivered, fault), (load.rows, None), "every record is in the topic");
        let mean_bytes = bytes / load.rows as usize;
        assert!(mean_bytes.abs_diff(load.record_bytes) * 20 <= load.record_bytes, "records have {mean_bytes} B");
        topic
    }

    pub fn connect(&self) -> postgres::Client {
        postgres::Client::connect(&self.url, postgres::NoTls).expect("PostgreSQL answers")
    }

    /// Every contender starts with an empty table, no ledger row and a checkpoint behind it. The tables are there once a
    /// topic has been made.
    pub fn clean(&self) {
        let mut client = self.connect();
        client.batch_execute(&format!("TRUNCATE {TABLE}; DELETE FROM sluicegate_ledger")).expect("cleaned");
        client.batch_execute("CHECKPOINT").expect("a checkpoint");
    }

    pub fn count(&self) -> u64 {
        let row = self.connect().query_one(&format!("SELECT count(*) FROM {TABLE}"), &[]).expect("a count");
        row.get::<_, i64>(0) as u64
    }

    /// Records of a topic that the ledger has as applied.
    pub fn applied(&self, topic: &str) -> impl FnMut() -> u64 {
        let mut client = self.connect();
        move || {
            let sql = "SELECT coalesce(sum(next_offset), 0)::bigint FROM sluicegate_ledger WHERE topic = $1";
            client.query_one(sql, &[&topic]).expect("the ledger").get::<_, i64>(0) as u64
        }
    }

    fn pid(&self, service: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.services.as_ref()?.join(format!("{service}.pid"))).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    pub fn kafka_cpu_s(&self) -> Option<f64> {
        process::cpu_s(self.pid("kafka")?)
    }

    pub fn postgres_cpu_s(&self) -> Option<f64> {
        process::family_cpu_s(self.pid("postgres")?)
    }

    pub fn postgres_version(&self) -> String {
        let row = self.connect().query_one("SHOW server_version", &[]).expect("a version");
        row.get(0)
    }

    /// From the name of the archive that the broker runs from.
    pub fn kafka_version(&self) -> Option<String> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid("kafka")?)).ok()?;
        let line = String::from_utf8_lossy(&line);
        let (_, from) = line.split_once("/kafka_2.13-")?;
        from.split_once(".jar").map(|(version, _)| version.to_owned())
    }
}
