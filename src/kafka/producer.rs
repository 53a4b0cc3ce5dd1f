//! The producer of runs of records: acknowledged by all replicas, idempotent, bounded. Every delivery is counted; a
//! failure is given back, never swallowed. The publisher, which lives as long as the process, is set up here too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use super::{client_config, fault};
use crate::fault::{Cause, Fault};

/// Records that may wait for the broker. With the byte limit beside it: what the producer holds at most.
const QUEUE_RECORDS: &str = "500000";
const QUEUE_KB: &str = "65536";
/// A record of a run that is not acknowledged within this has failed.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// With the queue full and nothing acknowledged for this long, the broker is gone.
const STALLED: Duration = Duration::from_secs(35);

/// What all our producers have in common: a record that is not acknowledged within `delivery_timeout` has failed.
pub(super) fn producer_config(
    brokers: &str,
    options: &BTreeMap<String, String>,
    compression: &str,
    delivery_timeout: Duration,
) -> ClientConfig {
    let mut config = client_config(brokers);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", compression)
        .set("linger.ms", "10")
        // Where Java's clients would put them: records of one key meet in one partition, whoever sends them.
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", QUEUE_RECORDS)
        .set("queue.buffering.max.kbytes", QUEUE_KB)
        .set("message.timeout.ms", delivery_timeout.as_millis().to_string());
    options.iter().for_each(|(key, value)| {
        config.set(key, value);
    });
    config
}

#[derive(Default)]
struct Deliveries {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<Fault>>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka producer: {error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| fault::of_error(error, "producing"));
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// What became of a run of records.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub delivered: u64,
    pub failed: u64,
    pub took: Duration,
}

/// One run of records into one topic.
pub struct Producer {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    began: Instant,
    is_lasting: bool,
}

impl Producer {
    pub fn new(brokers: &str, options: &BTreeMap<String, String>, topic: &str) -> Result<Self, Cause> {
        Producer::made(brokers, options, topic, false)
    }

    /// One that goes on for as long as it takes: what is not acknowledged is sent again until it is, in its order.
    pub fn lasting(brokers: &str, options: &BTreeMap<String, String>, topic: &str) -> Result<Self, Cause> {
        Producer::made(brokers, options, topic, true)
    }

    fn made(brokers: &str, options: &BTreeMap<String, String>, topic: &str, is_lasting: bool) -> Result<Self, Cause> {
        // Zero is no limit.
        let delivery_timeout = if is_lasting { Duration::ZERO } else { DELIVERY_TIMEOUT };
        let producer = producer_config(brokers, options, "lz4", delivery_timeout)
            .create_with_context(Deliveries::default())
            .map_err(|error| fault::of_error(&error, "producer").into_cause())?;
        Ok(Producer { producer, topic: topic.to_owned(), began: Instant::now(), is_lasting })
    }

    /// Hands one record over; waits while the queue is full.
    pub fn send(&self, partition: Option<i32>, key: Option<&[u8]>, payload: &[u8]) -> Result<(), Fault> {
        self.send_with(partition, key, payload, &[])
    }

    /// The same with headers.
    pub fn send_with(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, String)],
    ) -> Result<(), Fault> {
        self.send_while(partition, key, payload, headers, &mut || true).map(drop)
    }

    /// The same, and it waits only while it may. False where it was not handed over.
    pub fn send_while(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, String)],
        may_wait: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Fault> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(payload);
        record.key = key;
        record.partition = partition;
        if !headers.is_empty() {
            let all = OwnedHeaders::new_with_capacity(headers.len());
            let add = |all: OwnedHeaders, (key, value): &(&str, String)| all.insert(Header { key, value: Some(value) });
            record = record.headers(headers.iter().fold(all, add));
        }
        let mut waiting: Option<(Instant, u64)> = None;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(true),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((error, _)) => return Err(fault::of_error(&error, &self.topic)),
            };
            if !may_wait() {
                return Ok(false);
            }
            let (delivered, failed) = self.delivered();
            let (since, then) = *waiting.get_or_insert((Instant::now(), delivered + failed));
            if delivered + failed != then {
                waiting = None;
            } else if since.elapsed() > STALLED && !self.is_lasting {
                return Err(Fault::retry("kafka.stalled", format!("{}: the broker takes no records", self.topic)));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Acknowledged and failed so far.
    pub fn delivered(&self) -> (u64, u64) {
        let deliveries = self.producer.context();
        (deliveries.delivered.load(Ordering::Relaxed), deliveries.failed.load(Ordering::Relaxed))
    }

    /// How many have been acknowledged or refused.
    pub fn answered(&self) -> u64 {
        let (delivered, failed) = self.delivered();
        delivered + failed
    }

    /// Why the first one failed, if one has.
    pub fn first_failure(&self) -> Option<Fault> {
        self.producer.context().first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for what is under way, and no longer than this.
    pub fn flush(&self, limit: Duration) {
        // What is not answered by then is still counted as such.
        let _ = self.producer.flush(limit);
    }

    /// Waits for every record. The error is the first failure's; what was delivered stays delivered.
    pub fn finish(self) -> (Sent, Option<Fault>) {
        self.finish_within(STALLED)
    }

    /// The same, and no longer.
    pub fn finish_within(self, limit: Duration) -> (Sent, Option<Fault>) {
        let flushed = self.producer.flush(limit);
        let (delivered, failed) = self.delivered();
        let fault = self.first_failure().or_else(|| flushed.err().map(|error| fault::of_error(&error, &self.topic)));
        (Sent { delivered, failed, took: self.began.elapsed() }, fault)
    }
}
