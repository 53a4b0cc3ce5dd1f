//! The publisher: one producer for all messages that the process sends by itself, for as long as it lives. It never
//! waits, and whoever publishes hears of each message what became of it. Records of many callers share a round trip.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use super::fault;
use super::producer::{RENEW_PAUSE, SILENCE_MAX, end, is_answered, producer_config};
use crate::fault::{Cause, Fault};
use crate::outlet::{Message, Outlet, Told};

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

/// Takes the client's word for each message to whoever waits for it.
#[derive(Default)]
struct Acknowledgements {
    /// Since when every message has gone without an answer.
    silent_since: Mutex<Option<Instant>>,
    is_silent: AtomicBool,
}

impl Acknowledgements {
    /// A message got an answer of the brokers, or none in time.
    fn heard(&self, is_answer: bool) {
        // One for each message: the lock is for the rare case.
        if self.is_silent.load(Ordering::Relaxed) != is_answer {
            return;
        }
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = (!is_answer).then(Instant::now);
        self.is_silent.store(!is_answer, Ordering::Relaxed);
    }

    fn silence(&self) -> Option<Duration> {
        if !self.is_silent.load(Ordering::Relaxed) {
            return None;
        }
        let since = *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }
}

impl ClientContext for Acknowledgements {
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka publisher: {error}: {reason}");
    }
}

impl ProducerContext for Acknowledgements {
    /// The lock is never held: it makes a closure that goes from thread to thread one that may be looked at from both.
    type DeliveryOpaque = Box<Mutex<Told>>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<Mutex<Told>>) {
        let is_unanswered =
            matches!(result, Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut));
        self.heard(!is_unanswered);
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
    silence_max: Duration,
    current: Arc<RwLock<Current>>,
    is_asking: Arc<AtomicBool>,
}

struct Current {
    producer: Native,
    made: Instant,
}

impl Current {
    fn new(config: &ClientConfig) -> Result<Self, Cause> {
        let made = config.create_with_context(Acknowledgements::default());
        let producer = made.map_err(|error| fault::of_error(&error, "publisher").into_cause())?;
        Ok(Current { producer, made: Instant::now() })
    }
}

impl Publisher {
    /// Makes no connection yet. What is not acknowledged within `patience` has failed.
    pub fn new(brokers: &str, options: &BTreeMap<String, String>, patience: Duration) -> Result<Self, Cause> {
        let mut config = producer_config(brokers, options, "snappy", patience);
        FIXED.iter().for_each(|(key, value)| {
            config.set(*key, *value);
        });
        let current = Arc::new(RwLock::new(Current::new(&config)?));
        Ok(Publisher { config, silence_max: SILENCE_MAX, current, is_asking: Arc::default() })
    }

    /// An idempotent producer that met a fatal error takes nothing any more.
    fn renew(&self, broken: Instant) {
        if broken.elapsed() < RENEW_PAUSE {
            return;
        }
        match Current::new(&self.config) {
            Ok(fresh) => replace(&self.current, broken, fresh, "was broken for good"),
            Err(cause) => log::error!("kafka publisher: {cause}"),
        }
    }

    /// Tries another producer beside one that has heard nothing for long, on a thread of its own: nobody waits for it.
    fn renew_if_answered(&self, silent: Instant) {
        if self.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (config, current, is_asking) = (self.config.clone(), self.current.clone(), self.is_asking.clone());
        let ask = move || {
            match Current::new(&config) {
                Ok(fresh) if is_answered(&fresh.producer) => {
                    replace(&current, silent, fresh, "had lost its way to the brokers")
                }
                // The brokers are away: no producer would do any better.
                Ok(_) => {}
                Err(cause) => log::error!("kafka publisher: {cause}"),
            }
            is_asking.store(false, Ordering::Release);
        };
        if let Err(error) = thread::Builder::new().name("publisher-ask".into()).spawn(ask) {
            log::error!("kafka publisher: {error}");
            self.is_asking.store(false, Ordering::Release);
        }
    }
}

/// Another producer takes the place of the former one; what that one holds is told of as failed.
fn replace(current: &RwLock<Current>, former: Instant, fresh: Current, why: &str) {
    let mut current = current.write().unwrap_or_else(PoisonError::into_inner);
    if current.made != former {
        return;
    }
    let old = std::mem::replace(&mut *current, fresh);
    log::warn!("kafka publisher: its producer {why} and is replaced");
    end(old);
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
        if current.producer.context().silence().is_some_and(|silence| silence >= self.silence_max) {
            self.renew_if_answered(made);
        }
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
    use crate::outlet;

    const PATIENCE: Duration = Duration::from_secs(30);
    const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

    fn cluster() -> (MockCluster<'static, DefaultProducerContext>, Publisher) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        // A hundred records make the queue full.
        let options = BTreeMap::from([("queue.buffering.max.messages".to_owned(), "100".to_owned())]);
        let publisher = Publisher::new(&cluster.bootstrap_servers(), &options, DELIVERY_TIMEOUT).unwrap();
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
        // The first one may be in the queue for a moment longer than its sender hears.
        let mut heard: Vec<_> = (0..99).map(|_| publish(&publisher, "a").unwrap()).collect();
        let full = loop {
            match publish(&publisher, "a") {
                Ok(told) if heard.len() < 100 => heard.push(told),
                other => break other,
            }
        };
        assert!(matches!(full, Err(Fault::Retry(cause)) if cause.code == outlet::FULL));
        assert!(began.elapsed() < DELIVERY_TIMEOUT);
        assert!(heard.iter().all(|heard| matches!(heard.recv_timeout(PATIENCE), Ok(Err(Fault::Retry(_))))));
        assert!(began.elapsed() < DELIVERY_TIMEOUT * 2);
        cluster.broker_up(1).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
    }

    #[test]
    fn a_producer_that_hears_nothing_for_long_is_replaced_once_another_one_is_answered() {
        let (cluster, mut publisher) = cluster();
        let made = |publisher: &Publisher| publisher.current.read().unwrap().made;
        let first = made(&publisher);
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
        cluster.broker_down(1).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap_err();
        // Not silent for long enough: that the broker is back is for its own client to find out.
        cluster.broker_up(1).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(made(&publisher), first);

        publisher.silence_max = Duration::ZERO;
        cluster.broker_down(1).unwrap();
        publish(&publisher, "a").unwrap().recv_timeout(PATIENCE).unwrap().unwrap_err();
        let began = Instant::now();
        let asks = |publisher: &Publisher| {
            let heard = publish(publisher, "a");
            while publisher.is_asking.load(Ordering::Acquire) {
                assert!(began.elapsed() < PATIENCE);
                thread::park_timeout(Duration::from_millis(10));
            }
            heard
        };
        // Nobody answers the other one either.
        drop(asks(&publisher));
        assert_eq!(made(&publisher), first);
        cluster.broker_up(1).unwrap();
        drop(asks(&publisher));
        assert_ne!(made(&publisher), first);
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
