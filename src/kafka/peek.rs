//! A look at the newest records of topics. It joins no group and commits nothing, and every call waits a bounded time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::{client_config, fault};
use crate::fault::Fault;
use crate::record::{Partition, Record};

/// Of a topic with more partitions than these that are empty, the rest are not asked.
const PARTITIONS_MAX: i32 = 32;
const POLL: Duration = Duration::from_millis(100);

pub struct Peek {
    client: BaseConsumer,
    /// For one answer of the brokers, and for the records of one topic.
    patience: Duration,
}

/// A record, whole.
pub struct Kept {
    partition: Partition,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Kept {
    fn of(message: &BorrowedMessage<'_>) -> Kept {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Kept {
            partition: Partition::new(message.topic(), message.partition()),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    pub fn record(&self) -> Record<'_> {
        Record {
            partition: &self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            payload: self.payload.as_deref(),
            headers: &self.headers,
        }
    }
}

impl Peek {
    pub fn new(brokers: &str, options: &BTreeMap<String, String>, patience: Duration) -> Result<Peek, Fault> {
        let mut config = client_config(brokers);
        options.iter().for_each(|(key, value)| {
            config.set(key, value);
        });
        // A client must have the name of a group to read at all; this one never tells it to anybody.
        config
            .set("group.id", "sluicegate-check")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true");
        let client = config.create().map_err(|error| fault::of_error(&error, "a look at topics"))?;
        Ok(Peek { client, patience })
    }

    /// Every topic with its partitions, in the order of their names.
    pub fn topics(&self) -> Result<Vec<(String, i32)>, Fault> {
        let metadata = self.client.fetch_metadata(None, self.patience);
        let metadata = metadata.map_err(|error| fault::of_error(&error, "the list of topics"))?;
        let topics = metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32));
        let mut topics: Vec<(String, i32)> = topics.collect();
        topics.sort();
        Ok(topics)
    }

    /// The newest records of the first partition that has some, oldest first.
    pub fn newest(&self, topic: &str, partitions: i32, records_max: i64) -> Result<Vec<Kept>, Fault> {
        let by = Instant::now() + self.patience;
        let failed = |error: &KafkaError| fault::of_error(error, &format!("topic {topic}"));
        for partition in 0..partitions.min(PARTITIONS_MAX) {
            let ends = self.client.fetch_watermarks(topic, partition, self.patience);
            let (low, high) = ends.map_err(|error| failed(&error))?;
            if low == high {
                continue;
            }
            let mut list = TopicPartitionList::new();
            let from = Offset::Offset(low.max(high - records_max));
            list.add_partition_offset(topic, partition, from).map_err(|error| failed(&error))?;
            self.client.assign(&list).map_err(|error| failed(&error))?;
            let kept = self.read(topic, partition, high, by)?;
            if !kept.is_empty() || Instant::now() > by {
                return Ok(kept);
            }
        }
        Ok(Vec::new())
    }

    /// Up to the end of the partition as it was, or the time.
    fn read(&self, topic: &str, partition: i32, end: i64, by: Instant) -> Result<Vec<Kept>, Fault> {
        let mut kept = Vec::new();
        while Instant::now() < by {
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(message)) if message.topic() == topic && message.partition() == partition => {
                    kept.push(Kept::of(&message));
                    if message.offset() + 1 >= end {
                        break;
                    }
                }
                // Of a former topic.
                Some(Ok(_)) => {}
                // Markers of transactions may stand at the end.
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(fault::of_error(&error, &format!("topic {topic}"))),
            }
        }
        Ok(kept)
    }
}
