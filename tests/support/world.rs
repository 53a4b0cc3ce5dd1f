//! A topic and a database of one's own for the status flow, and what must be in the one after what went into
//! the other. Each record says in its ids where it came from.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sluicegate::kafka::Producer;

use super::{Instance, connect, update, wait_for};

pub const PARTITIONS: i32 = 6;

/// A topic and a database of one's own, and how many records went where.
pub struct World {
    pub topic: String,
    pub url: String,
    pub brokers: String,
    pub settings: HashMap<&'static str, String>,
    /// Records produced so far, by partition: the next offset.
    pub produced: Vec<i64>,
    /// Offsets that must become letters, with their reason.
    pub poison: Vec<(i32, i64, &'static str)>,
    pub producer: Option<Producer>,
    /// For the producer's own librdkafka.
    pub producer_options: BTreeMap<String, String>,
}

impl World {
    pub fn new(stem: &str) -> World {
        World::on(stem, super::brokers(), super::new_database(stem))
    }

    pub fn on(stem: &str, brokers: String, url: String) -> World {
        World::with(stem, brokers, url, PARTITIONS, &[])
    }

    /// With a topic of another width, or with settings of its own.
    pub fn with(stem: &str, brokers: String, url: String, partitions: i32, topic_settings: &[(&str, &str)]) -> World {
        let topic = super::unique(stem);
        super::create_topic(&brokers, &topic, partitions, topic_settings);
        let settings = HashMap::from([
            ("KAFKA_BROKERS", brokers.clone()),
            ("DB_URL", url.clone()),
            ("KAFKA_TOPIC", topic.clone()),
            ("KAFKA_GROUP_ID", super::unique("group")),
            ("LOG_LEVEL", "debug".to_owned()),
            // Small, so that a test of seconds has many transactions; short, so that owners change quickly.
            ("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", "200".to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_GROUP_ROWS_MAX", "600".to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_SESSION_TIMEOUT_MS", "6000".to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_PARTITIONS", partitions.to_string()),
        ]);
        let (produced, poison) = (vec![0; partitions as usize], Vec::new());
        let (producer, producer_options) = (None, BTreeMap::new());
        World { topic, url, brokers, settings, produced, poison, producer, producer_options }
    }

    pub fn send(&mut self, partition: i32, payload: &[u8]) {
        let new = || Producer::new(&self.brokers, &self.producer_options, &self.topic).expect("a producer");
        let producer = self.producer.get_or_insert_with(new);
        producer.send(Some(partition), Some(b"key"), payload).expect("sent");
        self.produced[partition as usize] += 1;
    }

    /// `count` good records, spread over the partitions.
    pub fn produce(&mut self, count: i64) {
        for number in 0..count {
            let partition = (number % self.produced.len() as i64) as i32;
            let offset = self.produced[partition as usize];
            self.send(partition, &update(partition, offset, "SUCCESS"));
        }
    }

    /// A record that must become a letter.
    pub fn produce_poison(&mut self, partition: i32, payload: &[u8], reason: &'static str) {
        self.poison.push((partition, self.produced[partition as usize], reason));
        self.send(partition, payload);
    }

    /// Waits until Kafka has everything.
    pub fn flush(&mut self) {
        if let Some(producer) = self.producer.take() {
            // On a slow disk, what fills a topic may take as long.
            let (sent, fault) = producer.finish_within(Duration::from_secs(180));
            assert!(sent.failed == 0 && fault.is_none(), "{sent:?} {fault:?}");
        }
    }

    pub fn start(&self) -> Instance {
        Instance::start(&self.settings)
    }

    pub fn rows(&self) -> i64 {
        let mut client = connect(&self.url);
        let query = client.query_one("SELECT count(*) FROM processed_seed_status", &[]);
        query.map_or(0, |row| row.get(0))
    }

    /// Waits until as many rows are there as there should be.
    pub fn wait_written(&self, limit: Duration) {
        let due = self.produced.iter().sum::<i64>() - self.poison.len() as i64;
        wait_for(&format!("{due} rows"), limit, || (self.rows() >= due).then_some(()));
    }

    /// Every record is in the table once, or in the letters once, and the ledger is at the end.
    pub fn check(&self) {
        let mut client = connect(&self.url);
        let sql = "SELECT seed_id, sub_scenario_id, count(*) FROM processed_seed_status GROUP BY 1, 2 ORDER BY 1, 2";
        let found: Vec<(i32, i64, i64)> = client
            .query(sql, &[])
            .expect("rows")
            .iter()
            .map(|row| (row.get(0), row.get::<_, i32>(1).into(), row.get(2)))
            .collect();
        let letters: Vec<(i32, i64, String)> = client
            .query("SELECT partition, record_offset, reason_code FROM sluicegate_letters ORDER BY 1, 2", &[])
            .expect("letters")
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect();
        let is_poison =
            |partition: i32, offset: i64| self.poison.iter().any(|(p, o, _)| (*p, *o) == (partition, offset));
        let due: Vec<(i32, i64, i64)> = (0..self.produced.len() as i32)
            .flat_map(|partition| (0..self.produced[partition as usize]).map(move |offset| (partition, offset, 1)))
            .filter(|(partition, offset, _)| !is_poison(*partition, *offset))
            .collect();
        let different = found.iter().zip(&due).find(|(found, due)| found != due);
        assert!(
            different.is_none() && found.len() == due.len(),
            "{} rows of {}: {different:?}",
            found.len(),
            due.len()
        );
        let mut poison: Vec<(i32, i64, String)> =
            self.poison.iter().map(|(p, o, reason)| (*p, *o, reason.to_string())).collect();
        poison.sort();
        assert_eq!(letters, poison);
        let sql = "SELECT partition, next_offset FROM sluicegate_ledger ORDER BY 1";
        let ledger: Vec<(i32, i64)> =
            client.query(sql, &[]).expect("ledger").iter().map(|row| (row.get(0), row.get(1))).collect();
        let ends: Vec<(i32, i64)> = (0..).zip(self.produced.iter().copied()).collect();
        assert_eq!(ledger, ends);
    }
}
