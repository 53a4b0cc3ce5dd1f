//! Messages into topics of one's own, for the events flow, and what must have become of them: each is processed once, or is
//! a dead letter once. What is compared are tables and topics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use sluicegate::kafka::Publisher;
use sluicegate::kafka::admin::create_topic;
use sluicegate::outlet::{Message, Outlet as _};

use super::{Instance, connect, unique, wait_for};

pub const PARTITIONS: i32 = 3;
pub const RETRIES: usize = 3;
pub const SOON: Duration = Duration::from_secs(60);

/// A database and topics of one's own, and what was sent.
pub struct Stream {
    pub topic: String,
    pub url: String,
    pub brokers: String,
    pub settings: HashMap<&'static str, String>,
    pub publisher: Publisher,
    pub sent: usize,
    pub told: (crossbeam_channel::Sender<bool>, crossbeam_channel::Receiver<bool>),
    /// Every message by its id.
    pub ids: BTreeSet<String>,
}

/// A message of a topic.
pub struct Read {
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Read {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.payload.as_deref().unwrap_or_default()).expect("text")
    }
}

impl Stream {
    pub fn new(stem: &str, handlers: &str) -> Stream {
        Stream::on(stem, handlers, super::brokers(), super::new_database(stem))
    }

    pub fn on(stem: &str, handlers: &str, brokers: String, url: String) -> Stream {
        let topic = unique(stem);
        let settings = HashMap::from([
            ("KAFKA_BROKERS", brokers.clone()),
            ("DB_URL", url.clone()),
            ("LOG_LEVEL", "debug".to_owned()),
            ("KAFKA_CONSUMER_TOPIC", topic.clone()),
            ("KAFKA_PRODUCER_TOPIC", topic.clone()),
            ("KAFKA_CONSUMER_GROUP_ID", unique("group")),
            ("KAFKA_RETRY_TOPIC_PREFIX", format!("{topic}-retry")),
            ("KAFKA_DLQ_TOPIC", format!("{topic}-dlq")),
            ("SLUICEGATE_FLOWS_EVENTS_HANDLERS", handlers.to_owned()),
            // Short, so that what a killed instance had is soon taken over.
            ("SLUICEGATE_FLOWS_EVENTS_SESSION_TIMEOUT_MS", "2000".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_REVOKE_GRACE_MS", "1000".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_RETRY_DELAY_MS", "200".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_RETRY_DELAY_FACTOR", "2".to_owned()),
            // Small, so that a test of seconds has many transactions.
            ("SLUICEGATE_FLOWS_EVENTS_BATCH_ROWS_MAX", "100".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_GROUP_ROWS_MAX", "300".to_owned()),
        ]);
        let publisher = Publisher::new(&brokers, &Default::default(), SOON).expect("a publisher");
        let told = crossbeam_channel::unbounded();
        let stream =
            Stream { topic, url, brokers: brokers.clone(), settings, publisher, sent: 0, told, ids: BTreeSet::new() };
        for topic in stream.read_topics().into_iter().chain([stream.dead()]) {
            create_topic(&brokers, &Default::default(), &topic, PARTITIONS, 1).expect("a topic");
        }
        stream
    }

    pub fn with(mut self, leaf: &'static str, value: &str) -> Stream {
        self.settings.insert(leaf, value.to_owned());
        self
    }

    pub fn dead(&self) -> String {
        format!("{}-dlq", self.topic)
    }

    /// All topics that the flow reads.
    pub fn read_topics(&self) -> Vec<String> {
        let retries = (1..=RETRIES).map(|number| format!("{}-retry-{number}", self.topic));
        std::iter::once(self.topic.clone()).chain(retries).collect()
    }

    pub fn start(&self) -> Instance {
        Instance::start_with(&self.settings, &["run", "--flow", "events"])
    }

    pub fn send(&mut self, id: Option<&str>, key: &str, payload: &str) {
        let headers: Vec<(&str, Option<&[u8]>)> =
            [("message_id", id), ("source", Some("test"))].map(|(name, value)| (name, value.map(str::as_bytes))).into();
        let headers = if id.is_some() { &headers[..] } else { &headers[1..] };
        let (key, payload) = (Some(key.as_bytes()), Some(payload.as_bytes()));
        let tell = self.told.0.clone();
        let message = Message { topic: &self.topic, key, payload, source: None, headers };
        self.publisher
            .publish(
                &message,
                Box::new(move |told| {
                    let _ = tell.send(told.is_ok());
                }),
            )
            .expect("taken");
        self.sent += 1;
        self.ids.extend(id.map(str::to_owned));
    }

    /// Waits until Kafka has everything.
    pub fn flush(&mut self) {
        for _ in 0..std::mem::take(&mut self.sent) {
            assert!(self.told.1.recv_timeout(SOON).expect("an answer"), "not acknowledged");
        }
    }

    pub fn number(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).map_or(0, |row| row.get(0))
    }

    pub fn texts(&self, sql: &str) -> Vec<String> {
        connect(&self.url).query(sql, &[]).expect(sql).iter().map(|row| row.get(0)).collect()
    }

    /// Everything that a topic has.
    pub fn all(&self, topic: &str) -> Vec<Read> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", unique("reader"))
            .create()
            .expect("a consumer");
        let (mut all, mut due) = (TopicPartitionList::new(), 0);
        for id in 0..PARTITIONS {
            let (low, high) = consumer.fetch_watermarks(topic, id, SOON).expect("ends");
            due += (high - low) as usize;
            all.add_partition_offset(topic, id, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&all).expect("assigned");
        let mut seen = Vec::new();
        wait_for("all messages", SOON, || {
            while seen.len() < due {
                let message = consumer.poll(Duration::from_millis(200))?.expect("a message");
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter()).map(|header| {
                    (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
                });
                seen.push(Read {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
            Some(())
        });
        seen
    }

    /// Waits until nothing is under way any more: the ledger is at every end, and the outbox empty.
    pub fn settle(&self) {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a consumer");
        let mut client = connect(&self.url);
        wait_for("the end of everything", SOON * 3, || {
            // In one snapshot: what is under way then is in the outbox, or in a topic in front of the ledger.
            let sql =
                "SELECT topic, partition, next_offset, (SELECT count(*) FROM sluicegate_outbox) FROM sluicegate_ledger";
            let rows = client.query(sql, &[]).ok()?;
            let ledger: BTreeMap<(String, i32), i64> =
                rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
            if rows.iter().any(|row| row.get::<_, i64>(3) > 0) {
                return None;
            }
            for topic in self.read_topics() {
                for id in 0..PARTITIONS {
                    let end = consumer.fetch_watermarks(&topic, id, SOON).expect("ends").1;
                    if *ledger.get(&(topic.clone(), id))? < end {
                        return None;
                    }
                }
            }
            Some(())
        });
    }

    /// Dead letters by their message id: those that were published twice are one, under one source.
    pub fn dead_ids(&self) -> BTreeMap<String, Read> {
        let mut sources: BTreeMap<String, String> = BTreeMap::new();
        let mut dead = BTreeMap::new();
        for read in self.all(&self.dead()) {
            let source = read.header("sluicegate-source").expect("a source").to_owned();
            let id = read.header("message_id").map_or_else(|| id_of(read.text()), str::to_owned);
            let former = sources.insert(id.clone(), source.clone());
            assert!(former.is_none_or(|former| former == source), "{id} is a dead letter by two records");
            dead.insert(id, read);
        }
        dead
    }

    /// Each message is a row once, or a dead letter once, and nothing is missing. Gives the dead ones.
    pub fn check(&self) -> BTreeMap<String, Read> {
        self.settle();
        let rows =
            self.texts("SELECT coalesce(message_id, 'message-' || (payload ->> 'number')) FROM events ORDER BY 1");
        let processed: BTreeSet<String> = rows.iter().cloned().collect();
        let twice = rows.windows(2).find(|pair| pair[0] == pair[1]);
        assert!(twice.is_none(), "processed twice: {twice:?}, {} rows of {} ids", rows.len(), processed.len());
        let dead = self.dead_ids();
        let both: Vec<&String> = dead.keys().filter(|id| processed.contains(*id)).collect();
        assert!(both.is_empty(), "processed, and a dead letter: {both:?}");
        let missing: Vec<&String> =
            self.ids.iter().filter(|id| !processed.contains(*id) && !dead.contains_key(*id)).collect();
        assert!(missing.is_empty(), "{} are missing, as {:?}", missing.len(), missing.first());
        assert_eq!(processed.len() + dead.len(), self.ids.len(), "nothing else is there");
        let letters = self.number("SELECT count(*) FROM sluicegate_letters");
        assert_eq!(letters as usize, dead.len(), "a dead letter is also a letter");
        dead
    }
}

pub fn payload(number: u64) -> String {
    format!(r#"{{"type": "order.created", "number": {number}, "user": {{"id": "u-{}"}}}}"#, number % 1000)
}

/// Of a message that has none of its own.
pub fn id_of(payload: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(payload).expect("JSON");
    format!("message-{}", json["number"])
}
