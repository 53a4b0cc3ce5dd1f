//! How far groups are behind, any groups: what they have committed, where their partitions end, and when the record was
//! made that comes next. It reads and joins nothing: no group notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::{client_config, fault, raw};
use crate::fault::{Cause, Fault};
use crate::record::Partition;

/// The records that come next are asked for together, each from the head of its partition: those that have not come by
/// then are said to be unknown.
const RECORDS_WAIT: Duration = Duration::from_secs(3);
const SLICE: Duration = Duration::from_millis(100);

/// A partition as a group sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub partition: Partition,
    /// None where the group has committed nothing of it.
    pub committed: Option<i64>,
    /// Or why it is not known: a partition may have no leader for a while, and what others have is still of interest.
    pub end: Result<i64, String>,
    /// Records between the two. Those that are not kept any more do not count.
    pub lag_records: Option<i64>,
    /// How long the record that comes next has been waiting since it was made.
    pub lag_ms: Option<i64>,
}

pub struct Lag {
    client: BaseConsumer,
    patience: Duration,
}

impl Lag {
    pub fn new(brokers: &str, options: &BTreeMap<String, String>, patience: Duration) -> Result<Lag, Cause> {
        let mut config = client_config(brokers);
        config.extend(options.clone());
        // The client wants the name of a group; as it neither joins nor commits, there is no such group. The rest keeps one
        // record of each partition from being many.
        config
            .set("group.id", "sluicegate lag")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "64")
            .set("fetch.message.max.bytes", "4096")
            .set("fetch.error.backoff.ms", "100");
        let client = config.create().map_err(|error| of_error("lag")(error).into_cause())?;
        Ok(Lag { client, patience })
    }

    /// All groups of the cluster, with the state of each, in order; and why some may be missing, where a broker did not tell of
    /// those that it has.
    pub fn groups(&self) -> Result<(BTreeMap<String, String>, Option<String>), Fault> {
        let (groups, trouble) = raw::groups(&self.client, self.patience)?;
        Ok((groups, trouble.map(|fault| format!("there may be other groups: {fault}"))))
    }

    /// The partitions of the topics that the group has committed offsets of.
    pub fn of(&self, group: &str) -> Result<Vec<Place>, Fault> {
        let committed: BTreeMap<Partition, i64> =
            raw::committed(&self.client, group, self.patience)?.into_iter().collect();
        self.places(&committed)
    }

    fn places(&self, committed: &BTreeMap<Partition, i64>) -> Result<Vec<Place>, Fault> {
        let topics: BTreeSet<&str> = committed.keys().map(|partition| &*partition.topic).collect();
        let (mut places, mut led): (Vec<Place>, Vec<Partition>) = Default::default();
        for topic in topics {
            let metadata = self.client.fetch_metadata(Some(topic), self.patience).map_err(of_error(topic))?;
            // A topic that is gone has offsets for a while, and no partitions.
            let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
            for found in found.flat_map(|found| found.partitions()) {
                let partition = Partition::new(topic, found.id());
                // Asked about one without a leader, the client waits for it, and says nothing of the others.
                if found.leader() >= 0 {
                    led.push(partition.clone());
                }
                let committed = committed.get(&partition).copied();
                let end = Err("it has no leader".to_owned());
                places.push(Place { partition, committed, end, lag_records: None, lag_ms: None });
            }
        }
        places.sort_by(|one, other| one.partition.cmp(&other.partition));
        let (mut begins, mut ends) = (self.bounds(&led, Offset::Beginning)?, self.bounds(&led, Offset::End)?);
        for place in &mut places {
            let (Some(begin), Some(end)) = (begins.remove(&place.partition), ends.remove(&place.partition)) else {
                continue;
            };
            place.end = end;
            if let (Ok(begin), Ok(end), Some(committed)) = (begin, &place.end, place.committed) {
                let lag = (end - committed.max(begin)).max(0);
                (place.lag_records, place.lag_ms) = (Some(lag), (lag == 0).then_some(0));
            }
        }
        self.read_next(&mut places)?;
        Ok(places)
    }

    /// The first or the last offset of each, or why it is not known: one request for all partitions of a broker.
    fn bounds(
        &self,
        partitions: &[Partition],
        which: Offset,
    ) -> Result<BTreeMap<Partition, Result<i64, String>>, Fault> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let asked = list(partitions.iter().map(|partition| (partition, which)))?;
        let found = self.client.offsets_for_times(asked, self.patience);
        let bound = |partition: &Partition| match &found {
            Ok(found) => {
                let at = found.find_partition(&partition.topic, partition.id).ok_or("the broker said nothing of it")?;
                at.error().map_err(|error| error.to_string())?;
                at.offset()
                    .to_raw()
                    .filter(|offset| *offset >= 0)
                    .ok_or_else(|| format!("its bound is {:?}", at.offset()))
            }
            Err(error) => Err(of_error("asking for offsets")(error.clone()).to_string()),
        };
        Ok(partitions.iter().map(|partition| (partition.clone(), bound(partition))).collect())
    }

    /// Reads one record of each partition that has one left.
    fn read_next(&self, places: &mut [Place]) -> Result<(), Fault> {
        let next = |place: &Place| place.committed.filter(|_| place.lag_records.is_some_and(|lag| lag > 0));
        let mut missing: BTreeMap<Partition, usize> = places
            .iter()
            .enumerate()
            .filter(|(_, place)| next(place).is_some())
            .map(|(index, place)| (place.partition.clone(), index))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let begin = |place: &Place| place.end.as_ref().map_or(0, |end| end - place.lag_records.unwrap_or(0));
        let at = list(missing.iter().map(|(partition, index)| (partition, Offset::Offset(begin(&places[*index])))))?;
        self.client.assign(&at).map_err(of_error("reading"))?;
        let by = Instant::now() + RECORDS_WAIT.min(self.patience);
        while !missing.is_empty() && Instant::now() < by {
            // Errors here are of the connection or of one partition: what does not come is unknown.
            let Some(Ok(record)) = self.client.poll(SLICE) else { continue };
            let partition = Partition::new(record.topic(), record.partition());
            if let Some(index) = missing.remove(&partition) {
                let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64;
                places[index].lag_ms = record.timestamp().to_millis().map(|made_ms| (now_ms - made_ms).max(0));
                let _ = self.client.pause(&list(std::iter::once((&partition, Offset::Invalid)))?);
            }
        }
        self.client.unassign().map_err(of_error("reading"))
    }
}

fn of_error(about: &str) -> impl Fn(KafkaError) -> Fault {
    move |error| fault::of_error(&error, about)
}

fn list<'a>(at: impl Iterator<Item = (&'a Partition, Offset)>) -> Result<TopicPartitionList, Fault> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in at {
        list.add_partition_offset(&partition.topic, partition.id, offset).map_err(of_error(&partition.topic))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    #[test]
    fn a_partition_without_a_leader_keeps_no_other_from_being_seen() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("led", 1, 1).unwrap();
        cluster.create_topic("t", 3, 1).unwrap();
        let mut config = rdkafka::ClientConfig::new();
        let producer: BaseProducer = config.set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for (topic, partition) in [("led", 0), ("t", 0), ("t", 0), ("t", 1), ("t", 2)] {
            producer.send(BaseRecord::<(), _>::to(topic).partition(partition).payload("x")).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        cluster.partition_leader("t", 1, None).unwrap();
        let lag = Lag::new(&cluster.bootstrap_servers(), &BTreeMap::new(), Duration::from_secs(5)).unwrap();
        let committed = [("led", 0, 1), ("t", 0, 0), ("t", 1, 0)];
        let committed = committed.map(|(topic, id, offset)| (Partition::new(topic, id), offset)).into();
        let places = lag.places(&committed).unwrap();
        let seen: Vec<_> = places
            .iter()
            .map(|place| {
                let Partition { topic, id } = &place.partition;
                (&**topic, *id, place.committed, place.end.clone().ok(), place.lag_records, place.lag_ms.is_some())
            })
            .collect();
        let expected = [
            ("led", 0, Some(1), Some(1), Some(0), true),
            ("t", 0, Some(0), Some(2), Some(2), true),
            ("t", 1, Some(0), None, None, false),
            ("t", 2, None, Some(1), None, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(places[2].end, Err("it has no leader".to_owned()));
    }
}
