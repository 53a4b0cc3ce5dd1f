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
        record.key = message.key;
        record.payload = message.payload;
        let source = message.source.map(|source| (SOURCE, Some(source.as_bytes())));
        if source.is_some() || !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1);
            let all = source.iter().chain(message.headers);
            record = record
                .headers(all.fold(headers, |headers, (key, value)| headers.insert(Header { key, value: *value })));
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

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, unbounded};
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::Headers as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use rdkafka::{Offset, TopicPartitionList};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn cluster() -> (MockCluster<'static, DefaultProducerContext>, Publisher) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        // A hundred records make the queue full.
        let options = BTreeMap::from([("queue.buffering.max.messages".to_owned(), "100".to_owned())]);
        let publisher = Publisher::new(&cluster.bootstrap_servers(), &options).unwrap();
        (cluster, publisher)
    }

    fn publish(publisher: &Publisher, key: &str) -> Result<Receiver<Result<(), Fault>>, Fault> {
        let (tell, heard) = unbounded();
        let source = (key == "b").then_some("t/0/7");
        let message =
            Message { topic: "t", key: Some(key.as_bytes()), payload: Some(b"payload"), source, headers: &[] };
        publisher.publish(&message, Box::new(move |result| drop(tell.send(result)))).map(|()| heard)
    }

    #[test]
    fn each_is_told_when_its_message_is_there() {
        let (cluster, publisher) = cluster();
        let heard: Vec<_> = ["a", "b", "a"].map(|key| publish(&publisher, key).unwrap()).into();
        assert!(heard.iter().all(|heard| heard.recv_timeout(PATIENCE) == Ok(Ok(()))));
        let mut config = ClientConfig::new();
        let consumer: BaseConsumer =
            config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g").create().unwrap();
        let mut all = TopicPartitionList::new();
        (0..4).for_each(|partition| all.add_partition_offset("t", partition, Offset::Beginning).unwrap());
        consumer.assign(&all).unwrap();
        let mut found = Vec::new();
        while found.len() < 3 {
            let message = consumer.poll(PATIENCE).unwrap().unwrap();
            let source = message
                .headers()
                .map(|headers| (headers.get(0).key.to_owned(), headers.get(0).value.unwrap().to_vec()));
            found.push((message.key().unwrap().to_vec(), message.partition(), source));
        }
        found.sort();
        assert_eq!((&found[0], &found[0].0[..], &found[0].2), (&found[1], &b"a"[..], &None));
        assert_eq!(found[2].2, Some((SOURCE.to_owned(), b"t/0/7".to_vec())));
    }

    #[test]
    fn nothing_waits_for_a_broker_that_is_away_and_each_is_told() {
        let (cluster, publisher) = cluster();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
        cluster.broker_down(1).unwrap();
        let began = Instant::now();
        let heard: Vec<_> = (0..100).map(|_| publish(&publisher, "a").unwrap()).collect();
        assert!(matches!(publish(&publisher, "a"), Err(Fault::Retry(cause)) if cause.code == "kafka.queuefull"));
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!(heard.iter().all(|heard| matches!(heard.recv_timeout(PATIENCE), Ok(Err(Fault::Retry(_))))));
        assert!(began.elapsed() < DELIVERY_TIMEOUT * 2);
        cluster.broker_up(1).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
    }

    #[test]
    fn a_listener_that_panics_is_the_only_one_who_suffers() {
        let (_cluster, publisher) = cluster();
        let message = Message { topic: "t", key: Some(b"a"), payload: Some(b""), source: None, headers: &[] };
        publisher.publish(&message, Box::new(|_| panic!("at the news"))).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
    }

    #[test]
    fn a_producer_that_is_broken_for_good_is_replaced() {
        let (cluster, publisher) = cluster();
        cluster.request_errors(
            RDKafkaApiKey::InitProducerId,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 3],
        );
        let (mut refused, began) = (0, Instant::now());
        loop {
            match publish(&publisher, "a").map(|heard| heard.recv_timeout(PATIENCE).unwrap()) {
                Ok(Ok(())) => break,
                Ok(Err(_)) | Err(_) => refused += 1,
            }
            assert!(began.elapsed() < PATIENCE);
            thread::park_timeout(Duration::from_millis(100));
        }
        assert!(refused > 0);
    }
}
