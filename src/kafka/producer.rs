//! The producer of runs of records: acknowledged by all replicas, idempotent, bounded. Every delivery is counted; a
//! failure is given back, never swallowed. One that lasts knows what has no answer yet, and goes on with another client
//! where its own is lost. The publisher, which lives as long as the process, is set up here too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};

use super::{client_config, fault};
use crate::fault::{Cause, Fault};

/// Records that may wait for the broker. With the byte limit beside it: what the producer holds at most.
const QUEUE_RECORDS: &str = "500000";
const QUEUE_KB: &str = "65536";
/// A record of a run that is not acknowledged within this has failed.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// With the queue full and nothing acknowledged for this long, the broker is gone.
const STALLED: Duration = Duration::from_secs(35);
/// A client can lose all of its brokers at once and never look for one again (librdkafka#5301). Where one that lasts has
/// heard nothing for so long, it is asked whether it knows a broker, and where it does not, another one is.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Between attempts to replace a client that is broken for good.
pub(super) const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// How long a client may take to answer whether it knows a broker.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(5);

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
        // Between tries of one request: the first pause, and the longest of those that follow, each twice the one before.
        .set("retry.backoff.ms", "100")
        .set("retry.backoff.max.ms", "1000")
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
    under_way: Mutex<UnderWay>,
}

/// A record of a producer that lasts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Numbered {
    /// Greater than that of the one before it.
    pub number: u64,
    pub partition: Option<i32>,
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
}

/// What a producer that lasts has handed over and not heard of. The client holds as much, which is what bounds it.
#[derive(Default)]
struct UnderWay {
    /// By number, with the moment that it was handed over.
    records: BTreeMap<u64, (Instant, Arc<Numbered>)>,
    heard: Option<Instant>,
    /// The client has given up on one although nothing is wrong with it.
    is_broken: bool,
    /// How many clients it had before this one.
    renewals: u64,
}

impl UnderWay {
    /// For how long there has been something to hear of, and nothing was heard.
    fn silence(&self) -> Duration {
        let first = self.records.first_key_value().map(|(_, (since, _))| *since);
        first.map_or(Duration::ZERO, |first| self.heard.map_or(first, |heard| heard.max(first)).elapsed())
    }
}

impl Deliveries {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears a client's word for each record.
struct Hearing {
    deliveries: Arc<Deliveries>,
    /// Which client of a producer that lasts it is.
    client: Option<u64>,
}

impl ClientContext for Hearing {
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka producer: {error}: {reason}");
    }
}

impl ProducerContext for Hearing {
    /// The record's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if let Some(client) = self.client {
            let code = result.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code());
            let mut under_way = self.deliveries.under_way();
            if under_way.renewals != client {
                return;
            }
            // What a client gives back has no answer: another one is going to send it.
            if code.is_some_and(is_given_back) {
                under_way.is_broken |= code.is_some_and(is_lost_count);
                return;
            }
            under_way.records.remove(&(number as u64));
            under_way.heard = Some(Instant::now());
        }
        let counted = match result {
            Ok(_) => &self.deliveries.delivered,
            Err((error, _)) => {
                let mut first = self.deliveries.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| fault::of_error(error, "producing"));
                &self.deliveries.failed
            }
        };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

type Client = ThreadedProducer<Hearing>;

/// Whether a client says nothing of the record with this, only of itself.
fn is_given_back(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) || is_lost_count(code)
}

/// Whether client and broker have counted differently, as they do where the broker has lost the end of its log.
fn is_lost_count(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fatal
            | Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
    )
}

/// Whether a client has found the way to a broker.
pub(super) fn is_answered<C: ProducerContext>(client: &ThreadedProducer<C>) -> bool {
    client.client().fetch_metadata(None, ASK_WITHIN).is_ok_and(|answer| !answer.brokers().is_empty())
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
    config: ClientConfig,
    client: Arc<Client>,
    made: Instant,
    deliveries: Arc<Deliveries>,
    topic: String,
    began: Instant,
    is_lasting: bool,
    /// The answer of a thread that asks both clients: another one, where only that one knows a broker.
    asking: Option<Receiver<Option<Client>>>,
}

impl Producer {
    pub fn new(brokers: &str, options: &BTreeMap<String, String>, topic: &str) -> Result<Self, Cause> {
        Producer::made(brokers, options, topic, false)
    }

    /// One that goes on for as long as it takes: what is not acknowledged is sent again until it is, in its order. Records
    /// have numbers that grow, and whoever sends looks after `renewed`.
    pub fn lasting(brokers: &str, options: &BTreeMap<String, String>, topic: &str) -> Result<Self, Cause> {
        Producer::made(brokers, options, topic, true)
    }

    fn made(brokers: &str, options: &BTreeMap<String, String>, topic: &str, is_lasting: bool) -> Result<Self, Cause> {
        // Zero is no limit.
        let delivery_timeout = if is_lasting { Duration::ZERO } else { DELIVERY_TIMEOUT };
        let config = producer_config(brokers, options, "lz4", delivery_timeout);
        let deliveries = Arc::<Deliveries>::default();
        let client = Arc::new(client(&config, &deliveries, is_lasting.then_some(0))?);
        Ok(Producer {
            config,
            client,
            made: Instant::now(),
            deliveries,
            topic: topic.to_owned(),
            began: Instant::now(),
            is_lasting,
            asking: None,
        })
    }

    /// Where its client is broken for good, or has lost all its brokers while another one finds them, that one takes its
    /// place: all records that have no answer, which are to be sent again, in their order. Waits for no broker; where there
    /// are such records, for the former client to let go of them.
    pub fn renewed(&mut self) -> Option<Vec<Arc<Numbered>>> {
        let is_broken = self.client.client().fatal_error().is_some() || self.deliveries.under_way().is_broken;
        if is_broken {
            // What it still sends would come before what it has given back.
            self.client.purge(PurgeConfig::default().queue().inflight());
        }
        if is_broken && self.made.elapsed() >= RENEW_PAUSE {
            let renewals = self.deliveries.under_way().renewals + 1;
            self.made = Instant::now();
            match client(&self.config, &self.deliveries, Some(renewals)) {
                Ok(fresh) => return Some(self.replace(fresh, "was broken for good")),
                Err(cause) => log::error!("kafka producer: {cause}"),
            }
        }
        if !self.is_silent() {
            self.asking = None;
            return None;
        }
        let Some(asking) = &self.asking else {
            self.asking = Some(self.ask());
            return None;
        };
        match asking.try_recv() {
            Ok(Some(fresh)) => Some(self.replace(fresh, "had lost its way to the brokers")),
            Err(TryRecvError::Empty) => None,
            // The brokers are away: no client would do any better.
            Ok(None) | Err(TryRecvError::Disconnected) => {
                self.asking = None;
                None
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.is_lasting && self.deliveries.under_way().silence() >= SILENCE_MAX
    }

    /// Asks on a thread of its own, which nobody waits for.
    fn ask(&self) -> Receiver<Option<Client>> {
        let (tell, told) = bounded(1);
        let (former, config, deliveries) = (self.client.clone(), self.config.clone(), self.deliveries.clone());
        let ask = move || {
            // A broker may be there and take nothing: then it is not the client's fault.
            if is_answered(&former) {
                return;
            }
            let renewals = deliveries.under_way().renewals + 1;
            match client(&config, &deliveries, Some(renewals)) {
                Ok(fresh) => drop(tell.send(is_answered(&fresh).then_some(fresh))),
                Err(cause) => log::error!("kafka producer: {cause}"),
            }
        };
        if let Err(error) = thread::Builder::new().name("producer-ask".into()).spawn(ask) {
            log::error!("kafka producer: {error}");
        }
        told
    }

    fn replace(&mut self, fresh: Client, why: &str) -> Vec<Arc<Numbered>> {
        log::warn!("kafka producer: its client {why} and is replaced; what has no answer is sent again");
        // Two that send at once would mix the order: the former one is to send nothing from here on.
        self.client.purge(PurgeConfig::default().queue().inflight());
        let former = std::mem::replace(&mut self.client, Arc::new(fresh));
        end(former);
        (self.made, self.asking) = (Instant::now(), None);
        let mut under_way = self.deliveries.under_way();
        under_way.renewals += 1;
        under_way.is_broken = false;
        std::mem::take(&mut under_way.records).into_values().map(|(_, record)| record).collect()
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
        self.hand_over(0, partition, key, payload, headers, &mut || true).map(drop)
    }

    /// The same, and it waits only while it may. False where it was not handed over.
    pub fn send_numbered(&self, record: &Arc<Numbered>, may_wait: &mut dyn FnMut() -> bool) -> Result<bool, Fault> {
        let Numbered { number, partition, key, payload, headers } = &**record;
        if self.is_lasting {
            let mut under_way = self.deliveries.under_way();
            // The next one would come before what another client has to send again.
            if under_way.is_broken {
                return Ok(false);
            }
            under_way.records.insert(*number, (Instant::now(), record.clone()));
        }
        let key = key.as_deref().map(str::as_bytes);
        let sent = self.hand_over(*number, *partition, key, payload, headers, may_wait);
        if self.is_lasting && !matches!(sent, Ok(true)) {
            self.deliveries.under_way().records.remove(number);
        }
        sent
    }

    fn hand_over(
        &self,
        number: u64,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, String)],
        may_wait: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Fault> {
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.topic, number as usize).payload(payload);
        record.key = key;
        record.partition = partition;
        if !headers.is_empty() {
            let all = OwnedHeaders::new_with_capacity(headers.len());
            let add = |all: OwnedHeaders, (key, value): &(&str, String)| all.insert(Header { key, value: Some(value) });
            record = record.headers(headers.iter().fold(all, add));
        }
        let mut waiting: Option<(Instant, u64)> = None;
        loop {
            record = match self.client.send(record) {
                Ok(()) => return Ok(true),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), _)) if self.is_lasting => {
                    return Ok(false);
                }
                Err((error, _)) => return Err(fault::of_error(&error, &self.topic)),
            };
            if !may_wait() || self.is_silent() {
                return Ok(false);
            }
            let (delivered, failed) = self.delivered();
            let (since, then) = *waiting.get_or_insert((Instant::now(), delivered + failed));
            if delivered + failed != then {
                waiting = None;
            } else if since.elapsed() > STALLED && !self.is_lasting {
                return Err(Fault::retry("kafka.stalled", format!("{}: the broker takes no records", self.topic)));
            }
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Acknowledged and failed so far.
    pub fn delivered(&self) -> (u64, u64) {
        (self.deliveries.delivered.load(Ordering::Relaxed), self.deliveries.failed.load(Ordering::Relaxed))
    }

    /// How many have been acknowledged or refused.
    pub fn answered(&self) -> u64 {
        let (delivered, failed) = self.delivered();
        delivered + failed
    }

    /// Why the first one failed, if one has.
    pub fn first_failure(&self) -> Option<Fault> {
        self.deliveries.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for every record. The error is the first failure's; what was delivered stays delivered.
    pub fn finish(self) -> (Sent, Option<Fault>) {
        self.finish_within(STALLED)
    }

    /// The same, and no longer.
    pub fn finish_within(self, limit: Duration) -> (Sent, Option<Fault>) {
        let flushed = self.client.flush(limit);
        let (delivered, failed) = self.delivered();
        let fault = self.first_failure().or_else(|| flushed.err().map(|error| fault::of_error(&error, &self.topic)));
        (Sent { delivered, failed, took: self.began.elapsed() }, fault)
    }
}

fn client(config: &ClientConfig, deliveries: &Arc<Deliveries>, number: Option<u64>) -> Result<Client, Cause> {
    let hearing = Hearing { deliveries: deliveries.clone(), client: number };
    config.create_with_context(hearing).map_err(|error| fault::of_error(&error, "producer").into_cause())
}

/// Ends a client on a thread of its own: its end waits for threads of its own, which may be the one that asks for it.
pub(super) fn end(client: impl Send + 'static) {
    let ended = thread::Builder::new().name("producer-end".into()).spawn(move || drop(client));
    ended.map_or_else(|error| log::error!("kafka producer: {error}"), drop);
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        cluster
    }

    fn record(number: u64) -> Arc<Numbered> {
        let payload = number.to_string().into_bytes();
        Arc::new(Numbered { number, key: Some((number % 7).to_string()), payload, ..Numbered::default() })
    }

    fn records(numbers: Range<u64>) -> Vec<Arc<Numbered>> {
        numbers.map(record).collect()
    }

    fn send(producer: &Producer, records: Vec<Arc<Numbered>>) {
        records.iter().for_each(|record| assert!(producer.send_numbered(record, &mut || false).unwrap()));
    }

    fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Makes the silence long.
    fn pretend_silence(producer: &Producer) {
        let mut under_way = producer.deliveries.under_way();
        let long_ago = Instant::now().checked_sub(SILENCE_MAX).unwrap();
        under_way.heard = None;
        under_way.records.values_mut().for_each(|(since, _)| *since = long_ago);
    }

    #[test]
    fn a_record_is_there_when_all_replicas_have_it_and_is_compressed_on_its_way_unless_an_option_says_otherwise() {
        let producer = Producer::new("127.0.0.1:1", &BTreeMap::new(), "t").unwrap();
        for (name, value) in [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("compression.type", "lz4"),
            ("retry.backoff.ms", "100"),
            ("retry.backoff.max.ms", "1000"),
            ("message.timeout.ms", "30000"),
        ] {
            assert_eq!(producer.config.get(name), Some(value), "{name}");
        }
        let lasting = Producer::lasting("127.0.0.1:1", &BTreeMap::new(), "t").unwrap();
        assert_eq!(lasting.config.get("message.timeout.ms"), Some("0"));
        let options = [("compression.type", "zstd")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let other = Producer::new("127.0.0.1:1", &options.into(), "t").unwrap();
        assert_eq!((other.config.get("compression.type"), other.config.get("acks")), (Some("zstd"), Some("all")));
    }

    #[test]
    fn a_client_that_lost_its_brokers_is_replaced_and_what_has_no_answer_is_sent_again() {
        let (first, second) = (cluster(), cluster());
        let mut producer = Producer::lasting(&first.bootstrap_servers(), &BTreeMap::new(), "t").unwrap();
        send(&producer, records(0..50));
        wait("50 to be there", || producer.answered() == 50);
        first.broker_down(1).unwrap();
        send(&producer, records(50..80));
        // Not silent for long: its own client has to find the way.
        assert_eq!(producer.renewed(), None);
        assert!(producer.asking.is_none());
        // Another one is not answered either.
        pretend_silence(&producer);
        assert_eq!(producer.renewed(), None);
        wait("an answer of both", || producer.renewed().is_none() && producer.asking.is_none());
        // The broker is there, at an address that only a new client looks up.
        producer.config.set("bootstrap.servers", second.bootstrap_servers());
        pretend_silence(&producer);
        let mut again = None;
        wait("another client", || {
            again = producer.renewed();
            again.is_some()
        });
        assert_eq!(again, Some(records(50..80)));
        send(&producer, again.unwrap());
        wait("80 to be there", || producer.answered() == 80);
        // What the former one gives back counts for nothing.
        first.broker_up(1).unwrap();
        let (sent, fault) = producer.finish();
        assert_eq!((sent.delivered, sent.failed, fault), (80, 0, None));
    }

    /// A producer of five records that its broker refuses again and again.
    fn refused() -> (MockCluster<'static, DefaultProducerContext>, Producer) {
        let cluster = cluster();
        let again = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 10_000];
        cluster.request_errors(RDKafkaApiKey::Produce, &again);
        let producer = Producer::lasting(&cluster.bootstrap_servers(), &BTreeMap::new(), "t").unwrap();
        send(&producer, records(0..5));
        (cluster, producer)
    }

    #[test]
    fn a_client_whose_broker_answers_is_left_in_its_place() {
        let (cluster, mut producer) = refused();
        pretend_silence(&producer);
        assert_eq!(producer.renewed(), None);
        assert!(producer.asking.is_some());
        wait("an answer", || producer.renewed().is_none() && producer.asking.is_none());
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        wait("5 to be there", || producer.answered() == 5);
    }

    #[test]
    fn until_a_broken_client_is_replaced_nothing_is_sent_that_came_behind_what_it_has_given_back() {
        let (cluster, mut producer) = refused();
        // As when it is given one back in the middle of others.
        producer.deliveries.under_way().is_broken = true;
        assert_eq!(producer.send_numbered(&record(5), &mut || true), Ok(false));
        let mut again = producer.renewed();
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        wait("another client", || {
            again = again.take().or_else(|| producer.renewed());
            again.is_some()
        });
        assert_eq!((again.as_deref(), producer.answered()), (Some(&records(0..5)[..]), 0));
        send(&producer, again.unwrap());
        send(&producer, records(5..6));
        wait("6 to be there", || producer.answered() == 6);
        assert_eq!(producer.delivered(), (6, 0));
    }

    /// What is under way when it breaks is not refused, and is sent again as well.
    #[test]
    fn a_client_that_is_broken_for_good_is_replaced() {
        use RDKafkaRespErr as Answer;
        for (api, answer) in [
            (RDKafkaApiKey::InitProducerId, Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED),
            (RDKafkaApiKey::Produce, Answer::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER),
        ] {
            let cluster = cluster();
            cluster.request_errors(api, &[answer]);
            let mut producer = Producer::lasting(&cluster.bootstrap_servers(), &BTreeMap::new(), "t").unwrap();
            // All of one partition: one request.
            for number in 0..5 {
                let record = Numbered { number, partition: Some(0), payload: b"payload".into(), ..Numbered::default() };
                assert!(producer.send_numbered(&Arc::new(record), &mut || false).unwrap());
            }
            let mut again = None;
            wait("another client", || {
                again = producer.renewed();
                again.is_some()
            });
            let again = again.unwrap();
            assert_eq!(again.iter().map(|record| record.number).collect::<Vec<_>>(), [0, 1, 2, 3, 4], "{answer:?}");
            send(&producer, again);
            wait("5 to be there", || producer.answered() == 5);
            assert_eq!(producer.delivered(), (5, 0), "{answer:?}");
        }
    }
}
