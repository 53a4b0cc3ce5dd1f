//! The publisher: one producer for all messages that the process sends by itself, for as long as it lives. It never
//! waits, and whoever publishes hears of each message what became of it. Records of many callers share a round trip.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use super::fault;
use super::producer::producer_config;
use crate::fault::{Cause, Fault};
use crate::outlet::{Message, Outlet, Told};

/// Somebody waits for the answer, and may ask again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// What is promised rests on these; no option of the user's may change them.
const FIXED: [(&str, &str); 4] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // A batch of a partition goes out with so many records, or after the linger time of all producers.
    ("batch.num.messages", "1000"),
    // A small batch does not wait until the one before it is acknowledged by the kernel of the broker.
    ("socket.nagle.disable", "true"),
];
/// The name of the header that says where a message comes from.
const SOURCE: &str = "sluicegate-source";
/// Between attempts to replace a producer that is broken for good.
const RENEW_PAUSE: Duration = Duration::from_secs(5);

/// Takes the client's word for each message to whoever waits for it.
struct Acknowledgements;

impl ClientContext for Acknowledgements {
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka publisher: {error}: {reason}");
    }
}

impl ProducerContext for Acknowledgements {
    /// The lock is never held: it makes a closure that goes from thread to thread one that may be looked at from both.
    type DeliveryOpaque = Box<Mutex<Told>>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<Mutex<Told>>) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => Err(fault::of_error(error, message.topic())),
        };
        let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        // All acknowledgements come on one thread, which has to outlive a mistake of one who hears of them.
        if catch_unwind(AssertUnwindSafe(|| told(result))).is_err() {
            log::error!("kafka publisher: whoever waited for a message panicked at the news");
        }
    }
}

type Native = ThreadedProducer<Acknowledgements>;

pub struct Publisher {
    config: ClientConfig,
    current: RwLock<Current>,
}

struct Current {
    producer: Native,
    made: Instant,
}

impl Publisher {
    /// Makes no connection yet.
    pub fn new(brokers: &str, options: &BTreeMap<String, String>) -> Result<Self, Cause> {
        let mut config = producer_config(brokers, options, "snappy", DELIVERY_TIMEOUT);
        FIXED.iter().for_each(|(key, value)| {
            config.set(*key, *value);
        });
        let current = Current { producer: make(&config)?, made: Instant::now() };
        Ok(Publisher { config, current: RwLock::new(current) })
    }

    /// An idempotent producer that met a fatal error takes nothing any more. Another one takes its place; what the
    /// old one holds is told of as failed.
    fn renew(&self, broken: Instant) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.made != broken || broken.elapsed() < RENEW_PAUSE {
            return;
        }
        match make(&self.config) {
            Ok(producer) => {
                let old = std::mem::replace(&mut *current, Current { producer, made: Instant::now() });
                log::warn!("kafka publisher: its producer was broken for good and is replaced");
                // Its end waits for its own thread, which may be this one.
                let end = thread::Builder::new().name("publisher-end".into()).spawn(move || drop(old));
                end.map_or_else(|error| log::error!("kafka publisher: {error}"), drop);
            }
            Err(cause) => log::error!("kafka publisher: {cause}"),
        }
    }
}

fn make(config: &ClientConfig) -> Result<Native, Cause> {
    config.create_with_context(Acknowledgements).map_err(|error| fault::of_error(&error, "publisher").into_cause())
}

impl Outlet for Publisher {
    fn publish(&self, message: &Message<'_>, told: Told) -> Result<(), Fault> {
        let mut record: BaseRecord<'_, [u8], [u8], _> =
            BaseRecord::with_opaque_to(message.topic, Box::new(Mutex::new(told)));
        record = record.key(message.key).payload(message.payload);
        if let Some(source) = message.source {
            record =
                record.headers(OwnedHeaders::new_with_capacity(1).insert(Header { key: SOURCE, value: Some(source) }));
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let made = current.made;
        let Err((error, _)) = current.producer.send(record) else { return Ok(()) };
        drop(current);
        if matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::Fatal)) {
            self.renew(made);
        }
        Err(fault::of_error(&error, message.topic))
    }
}
