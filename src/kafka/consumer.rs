//! The consumer as the engine's source. The group is heard through `BaseConsumer::poll`, records come out of
//! each partition's own queue. Nothing is assigned inside librdkafka's callback: intake first asks the ledger,
//! then assigns once, with the ledger's offsets. Kafka's own offsets are written, never read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::raw::{self, PartitionQueue};
use super::{client_config, fault};
use crate::engine::{self, Event, Seen, Source};
use crate::fault::{Cause, Fault};
use crate::record::{Partition, Record};

/// Where a partition starts that the ledger has never seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}

#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub brokers: String,
    pub group_id: String,
    /// One that begins with ^ is a pattern.
    pub topics: Vec<String>,
    pub start: Start,
    pub session_timeout_ms: u64,
    /// What librdkafka may hold fetched ahead, over all of the topics' partitions.
    pub fetch_memory_bytes: u64,
    /// What the broker collects before it answers, and what it answers with at most; None is what is best as a rule.
    pub fetch_min_bytes: Option<u64>,
    pub fetch_max_bytes: Option<u64>,
    /// How many partitions share that: librdkafka applies its limits to each one by itself.
    pub partitions: u32,
    /// Intake may be busy for so long without hearing the group. So long the group waits, too, for a member that is gone
    /// without its session having ended.
    pub poll_interval_ms: u64,
    /// Whether to ask for the ids of topics: a mock broker never answers that.
    pub topic_ids: bool,
    /// librdkafka's own options, as the user gave them.
    pub options: BTreeMap<String, String>,
}

/// What the guarantee rests on; no option of the user's may change it.
const FIXED: [(&str, &str); 8] = [
    // The ledger decides what has been applied.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // An offset that is gone is an alarm, never a jump.
    ("auto.offset.reset", "error"),
    // Eager: cooperative rebalances with manual commits loop on stale generations in librdkafka 2.12.
    ("partition.assignment.strategy", "range,roundrobin"),
    ("group.protocol", "classic"),
    ("allow.auto.create.topics", "false"),
    // What a transaction took back was never there.
    ("isolation.level", "read_committed"),
    // The end of a partition is an offset behind its last record, where markers of transactions follow it.
    ("enable.partition.eof", "true"),
];

/// A broker call of intake's own waits this long; the group is not heard meanwhile.
const ASK: Duration = Duration::from_secs(5);
/// The look at the end offsets is repeated every few seconds and may fail.
const ASK_ENDS: Duration = Duration::from_secs(1);
/// One wait for an event: how late an order to stop can be noticed.
const SLICE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct GroupContext {
    events: Mutex<VecDeque<Event>>,
    closing: AtomicBool,
}

impl ClientContext for GroupContext {
    /// Errors also come out of `poll`, where they are dealt with.
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka client: {error}: {reason}");
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            let _ = match kind {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => consumer.assign(&TopicPartitionList::new()),
                _ => consumer.unassign(),
            };
            return;
        }
        let partitions = list.elements().iter().map(|at| Partition::new(at.topic(), at.partition())).collect();
        let event = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Event::Assigned(partitions),
            _ if consumer.assignment_lost() => Event::Lost(partitions),
            _ => Event::Revoked(partitions),
        };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            log::debug!("advisory commit: {error}");
        }
    }
}

pub struct Consumer {
    consumer: Arc<BaseConsumer<GroupContext>>,
    config: ConsumerConfig,
    /// The group waits for `open`.
    assign_due: bool,
}

pub struct Lane(PartitionQueue<GroupContext>);

impl Consumer {
    /// Joins the group. Makes no connection yet: a broker that is away is trouble, not an error.
    pub fn new(config: &ConsumerConfig) -> Result<Self, Cause> {
        let consumer = create(config)?;
        subscribe(&consumer, config)?;
        Ok(Consumer { consumer: Arc::new(consumer), config: config.clone(), assign_due: false })
    }

    fn next_queued(&self) -> Option<Event> {
        self.consumer.context().events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_cooperative(&self) -> bool {
        matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
    }
}

/// A client that is no member of the group yet.
fn create(config: &ConsumerConfig) -> Result<BaseConsumer<GroupContext>, Cause> {
    let of_error = |error: KafkaError| fault::of_error(&error, &format!("group {}", config.group_id)).into_cause();
    native_config(config)?.create_with_context(GroupContext::default()).map_err(of_error)
}

fn subscribe(consumer: &BaseConsumer<GroupContext>, config: &ConsumerConfig) -> Result<(), Cause> {
    let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
    let of_error = |error: KafkaError| fault::of_error(&error, &format!("group {}", config.group_id)).into_cause();
    consumer.subscribe(&topics).map_err(of_error)
}

/// To ask about, where any answer will do. None is all of them.
fn a_topic(config: &ConsumerConfig) -> Option<&str> {
    config.topics.first().map(String::as_str).filter(|topic| !topic.starts_with('^'))
}

/// Leaves the group so that others need not wait for the session to time out. librdkafka may take for ever when no
/// broker answers: so that is done on a thread of its own, and the channel closes when it is over.
fn leave(consumer: Arc<BaseConsumer<GroupContext>>) -> Receiver<()> {
    let (done, left) = crossbeam_channel::bounded::<()>(0);
    let leave = move || {
        consumer.context().closing.store(true, Ordering::Release);
        // An assignment that was never answered keeps the client from leaving; only a list answers it.
        let _ = consumer.assign(&TopicPartitionList::new());
        let _ = consumer.unassign();
        drop(consumer);
        drop(done);
    };
    if let Err(error) = std::thread::Builder::new().name("kafka-close".into()).spawn(leave) {
        log::warn!("leaving the group: {error}");
    }
    left
}

/// So many fetches are what a partition may have ahead: of the 32 MiB of 20 partitions one is some 140 KB.
const FETCHES_AHEAD: u64 = 12;
/// Of what a partition may have ahead there is one record for each so many KiB, where that makes more than a thousand.
const KB_A_RECORD: u64 = 8;

fn native_config(config: &ConsumerConfig) -> Result<ClientConfig, Cause> {
    let mut client = client_config(&config.brokers);
    let queue_kb = (config.fetch_memory_bytes / u64::from(config.partitions.max(1)) / 1024).clamp(64, 2_000_000);
    client
        .set("group.id", &config.group_id)
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (config.session_timeout_ms / 3).clamp(100, 3_000).to_string())
        .set("max.poll.interval.ms", config.poll_interval_ms.max(config.session_timeout_ms).to_string())
        // Memory: so much of each assigned partition, and beyond it one record set, as large as it is unpacked; the
        // client looks at this before it fetches, not while it unpacks. zstd ends at receive.message.max.bytes, 100 MB.
        .set("queued.max.messages.kbytes", queue_kb.to_string())
        // Small messages cost the client far more than their bytes: this, not the bytes, bounds its memory then. A
        // producer's batch is taken apart whole, so that up to this many wait beside the batch that came last.
        .set("queued.min.messages", (queue_kb / KB_A_RECORD).max(1_000).to_string())
        // What one fetch brings of a partition comes on top. Large records of few partitions would come by dozens otherwise,
        // each dozen for an answer of the broker.
        .set("fetch.message.max.bytes", (queue_kb * 1024 / FETCHES_AHEAD).clamp(65_536, 1 << 20).to_string())
        // A fetch for every record that comes would cost the broker more than the records: it waits for some, and
        // not for long.
        .set("fetch.min.bytes", config.fetch_min_bytes.unwrap_or(16_384).to_string())
        .set("fetch.wait.max.ms", "40")
        .set("fetch.error.backoff.ms", "100")
        // How long a full queue rests before it is fetched into again; the default of a second stalls it.
        .set("fetch.queue.backoff.ms", "10")
        // A topic that is made later, or gets more partitions, is found within this.
        .set("topic.metadata.refresh.interval.ms", "10000");
    if let Some(bytes) = config.fetch_max_bytes {
        client.set("fetch.max.bytes", bytes.to_string());
    }
    for (key, value) in &config.options {
        if let Some((_, fixed)) = FIXED.iter().find(|(name, _)| name == key) {
            let text =
                format!("kafka option {key} = \"{value}\": the guarantee rests on \"{fixed}\"; remove the option");
            return Err(Cause::new("kafka.option", text));
        }
        client.set(key, value);
    }
    for (key, value) in FIXED {
        client.set(key, value);
    }
    Ok(client)
}

fn list<'a>(at: impl Iterator<Item = (&'a Partition, Offset)>) -> Result<TopicPartitionList, Fault> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in at {
        list.add_partition_offset(&partition.topic, partition.id, offset)
            .map_err(|error| fault::of_error(&error, &partition.to_string()))?;
    }
    Ok(list)
}

impl Source for Consumer {
    type Lane = Lane;

    fn next_event(&mut self, wait: Duration) -> Option<Event> {
        let event = self.next_queued().or_else(|| match self.consumer.poll(wait.min(SLICE)) {
            None => self.next_queued(),
            Some(Err(error)) => Some(Event::Trouble(fault::of_error(&error, "kafka").into_cause())),
            // Every partition's queue is cut off before it is assigned. A record that comes here was taken past
            // its lane and would be missed; the process ends, and starts again from the ledger.
            Some(Ok(stray)) => {
                panic!("record {}/{} at {} came past its lane", stray.topic(), stray.partition(), stray.offset())
            }
        });
        if matches!(event, Some(Event::Assigned(_))) {
            self.assign_due = true;
        }
        event
    }

    fn incarnation(&mut self, topic: &str) -> Result<String, Fault> {
        match self.config.topic_ids {
            true => raw::topic_id(&self.consumer, topic, ASK),
            false => Ok(String::new()),
        }
    }

    fn first_offset(&mut self, partition: &Partition) -> Result<i64, Fault> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&partition.topic, partition.id, ASK)
            .map_err(|error| fault::of_error(&error, &partition.to_string()))?;
        Ok(match self.config.start {
            Start::Earliest => low,
            Start::Latest => high,
        })
    }

    fn open(&mut self, at: &[(Partition, i64)]) -> Result<Vec<Lane>, Fault> {
        let lanes = at
            .iter()
            .map(|(partition, _)| PartitionQueue::detach(&self.consumer, partition).map(Lane))
            .collect::<Result<Vec<Lane>, Fault>>()?;
        let positions = list(at.iter().map(|(partition, offset)| (partition, Offset::Offset(*offset))))?;
        let of_error = |error: KafkaError| fault::of_error(&error, "assigning partitions");
        if self.assign_due {
            match self.is_cooperative() {
                true => self.consumer.incremental_assign(&positions),
                false => self.consumer.assign(&positions),
            }
            .map_err(of_error)?;
            self.assign_due = false;
        } else if !at.is_empty() {
            let sought = self.consumer.seek_partitions(positions, ASK).map_err(of_error)?;
            for at in sought.elements() {
                at.error().map_err(|error| fault::of_error(&error, &format!("{}/{}", at.topic(), at.partition())))?;
            }
        }
        Ok(lanes)
    }

    fn release(&mut self, partitions: &[Partition]) {
        let released = match self.is_cooperative() {
            true => list(partitions.iter().map(|partition| (partition, Offset::Invalid)))
                .map(|list| self.consumer.incremental_unassign(&list)),
            false => Ok(self.consumer.unassign()),
        };
        if let Ok(Err(error)) = released {
            log::warn!("releasing partitions: {error}");
        }
        self.assign_due = false;
    }

    fn commit(&mut self, next: &[(Partition, i64)]) {
        let offsets = list(next.iter().map(|(partition, offset)| (partition, Offset::Offset(*offset))));
        if let Ok(offsets) = offsets
            && let Err(error) = self.consumer.commit(&offsets, CommitMode::Async)
        {
            log::debug!("advisory commit: {error}");
        }
    }

    fn ends(&mut self, partitions: &[Partition]) -> Result<Vec<i64>, Fault> {
        if partitions.is_empty() {
            // Nothing to ask about, but whether the broker answers is worth knowing all the same.
            let asked = self.consumer.fetch_metadata(a_topic(&self.config), ASK_ENDS);
            return asked.map(|_| Vec::new()).map_err(|error| fault::of_error(&error, "asking for metadata"));
        }
        // A "time" of -1 stands for the end: one request for all partitions of a broker.
        let times = list(partitions.iter().map(|partition| (partition, Offset::End)))?;
        let ends = self
            .consumer
            .offsets_for_times(times, ASK_ENDS)
            .map_err(|error| fault::of_error(&error, "asking for end offsets"))?;
        partitions
            .iter()
            .map(|partition| match ends.find_partition(&partition.topic, partition.id).map(|at| at.offset()) {
                Some(Offset::Offset(end)) => Ok(end),
                other => Err(Fault::retry("kafka.no_end_offset", format!("{partition}: its end is {other:?}"))),
            })
            .collect()
    }

    /// Another client, if that one gets an answer. The former one has nothing to lose, and goes when it can.
    fn renew(&mut self) -> Result<(), Fault> {
        let retry = |cause: Cause| Fault::Retry(cause);
        let fresh = Arc::new(create(&self.config).map_err(retry)?);
        let asked = fresh.fetch_metadata(a_topic(&self.config), ASK_ENDS);
        if let Err(error) = asked {
            leave(fresh);
            return Err(fault::of_error(&error, "asking for metadata"));
        }
        subscribe(&fresh, &self.config).map_err(retry)?;
        leave(std::mem::replace(&mut self.consumer, fresh));
        self.assign_due = false;
        Ok(())
    }

    fn close(self, deadline: Duration) {
        let _ = leave(self.consumer).recv_timeout(deadline);
    }
}

impl engine::Lane for Lane {
    fn take(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<Seen, Fault>,
    ) -> Result<Option<i64>, Fault> {
        self.0.take(records_max, bytes_max, wait, see)
    }
}
