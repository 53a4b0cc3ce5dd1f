//! A topic and a table in memory, for the tests of whoever uses the library: the whole engine runs between them, with
//! neither Kafka nor PostgreSQL, and what comes out depends on what was put in alone. Faults of networks and servers
//! are not played here, and time is the real one: for both there is the simulator, under `tests/sim`.
//!
//! ```
//! use sluicegate::fault::Fault;
//! use sluicegate::memory::{self, Table, Topic};
//!
//! let topic = Topic::new("words", 2);
//! topic.append(0, None, b"one");
//! topic.append(1, None, b"two");
//! topic.append(1, None, b"\xff");
//!
//! // What a record becomes, or why it becomes nothing.
//! let table = Table::new(|record| {
//!     let text = std::str::from_utf8(record.payload.unwrap_or_default());
//!     text.map(str::to_owned).map_err(|_| Fault::reject("words.utf8", "a word is text"))
//! });
//! memory::run(&topic, &table);
//!
//! assert_eq!(table.rows(0), ["one"]);
//! assert_eq!(table.rows(1), ["two"]);
//! assert_eq!(table.letters(1)[0].reason.code, "words.utf8");
//! assert_eq!(table.next_offset(1), 2);
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::{
    self, Batch, Claim, Claims, Clock, Event, Lane, Letter, Outcome, Policy, Rows, Seen, Sink, Source, Stop, Wanted,
};
use crate::fault::{Cause, Fault};
use crate::record::{Partition, Record};
use crate::track::{PartitionState, PartitionTrack, Track};

/// Between looks at whether `run` is done.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What nothing in memory ever takes.
const LONG: Duration = Duration::from_secs(5);

/// A record before a partition has given it its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Logs of records, one a partition. It may grow while it is read.
pub struct Topic {
    name: Arc<str>,
    logs: Mutex<Vec<Vec<New>>>,
    grown: Condvar,
}

impl Topic {
    pub fn new(name: &str, partitions: usize) -> Arc<Topic> {
        Arc::new(Topic { name: name.into(), logs: Mutex::new(vec![Vec::new(); partitions]), grown: Condvar::new() })
    }

    /// Gives the offset. Panics where there is no such partition.
    pub fn append(&self, partition: i32, key: Option<&[u8]>, payload: &[u8]) -> i64 {
        let key = key.map(<[u8]>::to_vec);
        self.append_whole(partition, New { key, payload: Some(payload.to_vec()), ..New::default() })
    }

    /// The same with a timestamp, with headers, or without a payload.
    pub fn append_whole(&self, partition: i32, record: New) -> i64 {
        let mut logs = locked(&self.logs);
        let log = &mut logs[partition as usize];
        log.push(record);
        let offset = log.len() as i64 - 1;
        self.grown.notify_all();
        offset
    }

    /// Behind the last record of a partition.
    pub fn end(&self, partition: i32) -> i64 {
        locked(&self.logs)[partition as usize].len() as i64
    }

    pub fn partitions(&self) -> Vec<Partition> {
        (0..locked(&self.logs).len() as i32).map(|id| Partition::new(self.name.clone(), id)).collect()
    }

    /// A group of one member, which is assigned all partitions and keeps them.
    pub fn source(self: &Arc<Self>) -> TopicSource {
        TopicSource { topic: self.clone(), events: VecDeque::from([Event::Assigned(self.partitions())]) }
    }
}

pub struct TopicSource {
    topic: Arc<Topic>,
    events: VecDeque<Event>,
}

impl Source for TopicSource {
    type Lane = TopicLane;

    fn next_event(&mut self, wait: Duration) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            // Nothing else ever happens to the group.
            std::thread::park_timeout(wait);
        }
        event
    }

    fn incarnation(&mut self, _: &str) -> Result<String, Fault> {
        Ok(String::new())
    }

    fn first_offset(&mut self, _: &Partition) -> Result<i64, Fault> {
        Ok(0)
    }

    fn open(&mut self, at: &[(Partition, i64)]) -> Result<Vec<TopicLane>, Fault> {
        let lane = |(partition, next): &(Partition, i64)| TopicLane {
            topic: self.topic.clone(),
            partition: partition.clone(),
            next: *next,
        };
        Ok(at.iter().map(lane).collect())
    }

    fn release(&mut self, _: &[Partition]) {}

    fn commit(&mut self, _: &[(Partition, i64)]) {}

    fn ends(&mut self, partitions: &[Partition]) -> Result<Vec<i64>, Fault> {
        Ok(partitions.iter().map(|partition| self.topic.end(partition.id)).collect())
    }

    fn renew(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn close(self, _: Duration) {}
}

pub struct TopicLane {
    topic: Arc<Topic>,
    partition: Partition,
    next: i64,
}

impl Lane for TopicLane {
    fn take(
        &mut self,
        records_max: usize,
        _bytes_max: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<Seen, Fault>,
    ) -> Result<Option<i64>, Fault> {
        let (partition, next) = (self.partition.id as usize, self.next as usize);
        let is_at_end = |logs: &mut Vec<Vec<New>>| logs[partition].len() <= next;
        let waited = self.topic.grown.wait_timeout_while(locked(&self.topic.logs), wait, is_at_end);
        let logs = waited.unwrap_or_else(PoisonError::into_inner).0;
        let found: Vec<New> = logs[partition].iter().skip(next).take(records_max).cloned().collect();
        drop(logs);
        for New { timestamp_ms, key, payload, headers } in &found {
            let record = Record {
                partition: &self.partition,
                offset: self.next,
                timestamp_ms: *timestamp_ms,
                key: key.as_deref(),
                payload: payload.as_deref(),
                headers,
            };
            if see(&record)? == Seen::Later {
                return Ok(None);
            }
            self.next += 1;
        }
        Ok((self.next == self.topic.end(self.partition.id)).then_some(self.next))
    }
}

/// Values of one batch.
pub struct Values<T>(Vec<T>);

impl<T> Default for Values<T> {
    fn default() -> Self {
        Values(Vec::new())
    }
}

impl<T: Clone + Send + 'static> Rows for Values<T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.len() * size_of::<T>()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn part(&self, rows: Range<usize>) -> Self {
        Values(self.0[rows].to_vec())
    }
}

type Decode<T> = dyn Fn(&Record<'_>) -> Result<T, Fault> + Send + Sync;
type Refuse<T> = dyn Fn(&T) -> Option<Cause> + Send + Sync;

/// Rows, letters and a ledger, which change together or not at all.
pub struct Table<T> {
    decode: Box<Decode<T>>,
    refuse: Box<Refuse<T>>,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    places: BTreeMap<i32, Place<T>>,
    /// So many more groups are not written.
    failures: u32,
}

/// What there is of a partition.
struct Place<T> {
    next: i64,
    epoch: i64,
    rows: Vec<T>,
    letters: Vec<Letter>,
}

impl<T: Clone + Send + 'static> Table<T> {
    /// `decode`: what a record becomes. A `Fault::Reject` makes it a letter, a `Fault::Stop` halts its partition.
    pub fn new(decode: impl Fn(&Record<'_>) -> Result<T, Fault> + Send + Sync + 'static) -> Arc<Table<T>> {
        Table::with_constraint(decode, |_| None)
    }

    /// One that refuses some rows, as a constraint does.
    pub fn with_constraint(
        decode: impl Fn(&Record<'_>) -> Result<T, Fault> + Send + Sync + 'static,
        refuse: impl Fn(&T) -> Option<Cause> + Send + Sync + 'static,
    ) -> Arc<Table<T>> {
        let kept = Mutex::new(Kept { places: BTreeMap::new(), failures: 0 });
        Arc::new(Table { decode: Box::new(decode), refuse: Box::new(refuse), kept })
    }

    /// So many groups are not written, as if the server were away. They are tried again.
    pub fn fail(&self, groups: u32) {
        locked(&self.kept).failures = groups;
    }

    /// The rows of a partition, in the order in which they were written.
    pub fn rows(&self, partition: i32) -> Vec<T> {
        locked(&self.kept).places.get(&partition).map_or_else(Vec::new, |place| place.rows.clone())
    }

    pub fn letters(&self, partition: i32) -> Vec<Letter> {
        locked(&self.kept).places.get(&partition).map_or_else(Vec::new, |place| place.letters.clone())
    }

    /// Everything before it is here, as a row or as a letter.
    pub fn next_offset(&self, partition: i32) -> i64 {
        locked(&self.kept).places.get(&partition).map_or(0, |place| place.next)
    }
}

impl<T: Clone + Send + 'static> Sink for Table<T> {
    type Rows = Values<T>;
    type Session = ();

    fn decode(&self, record: &Record<'_>, rows: &mut Values<T>) -> Result<(), Fault> {
        rows.0.push((self.decode)(record)?);
        Ok(())
    }

    fn claim(&self, wanted: &[Wanted]) -> Result<Claims, Fault> {
        let mut kept = locked(&self.kept);
        let is_unseen =
            |wanted: &Wanted| wanted.first_offset.is_none() && !kept.places.contains_key(&wanted.partition.id);
        let unseen: Vec<usize> = (0..wanted.len()).filter(|index| is_unseen(&wanted[*index])).collect();
        if !unseen.is_empty() {
            return Ok(Claims::Unseen(unseen));
        }
        let claim = |Wanted { partition, first_offset, .. }: &Wanted| {
            let first = first_offset.unwrap_or_default();
            let new = || Place { next: first, epoch: 0, rows: Vec::new(), letters: Vec::new() };
            let place = kept.places.entry(partition.id).or_insert_with(new);
            place.epoch += 1;
            Ok(Claim::new(partition.clone(), place.epoch, place.next))
        };
        Ok(Claims::Made(wanted.iter().map(claim).collect()))
    }

    fn holds(&self, claims: &[(Arc<Claim>, i64)]) -> Result<Vec<bool>, Fault> {
        let kept = locked(&self.kept);
        let holds = |(claim, applied): &(Arc<Claim>, i64)| {
            let place = kept.places.get(&claim.partition.id);
            place.is_some_and(|place| place.epoch == claim.epoch && place.next >= *applied)
        };
        Ok(claims.iter().map(holds).collect())
    }

    fn apply(&self, (): &mut (), group: &[Batch<Values<T>>]) -> Result<Vec<Outcome>, Fault> {
        let mut kept = locked(&self.kept);
        if let Some(failures) = kept.failures.checked_sub(1) {
            kept.failures = failures;
            return Err(Fault::retry("memory.away", "the table is away for so many groups"));
        }
        let apply = |batch: &Batch<Values<T>>| {
            let held = kept.places.get_mut(&batch.partition().id);
            let Some(place) = held.filter(|place| (place.next, place.epoch) == (batch.first, batch.claim.epoch)) else {
                return Outcome::Fenced;
            };
            let refused = |(row, offset): (&T, &i64)| Some((*offset, (self.refuse)(row)?));
            let refused: Vec<(i64, Cause)> = batch.rows.0.iter().zip(&batch.offsets).filter_map(refused).collect();
            if !refused.is_empty() {
                return Outcome::Refused(refused);
            }
            place.next = batch.next;
            place.rows.extend_from_slice(&batch.rows.0);
            place.letters.extend_from_slice(&batch.letters);
            Outcome::Written
        };
        Ok(group.iter().map(apply).collect())
    }
}

/// Runs the engine until each partition's records, as many as there were at the start, are in the table or the partition
/// halts, and stops it in order. The cause is that of the first partition that halted; figures are in the track.
pub fn run<T: Clone + Send + 'static>(topic: &Arc<Topic>, table: &Arc<Table<T>>) -> (Arc<Track>, Option<Cause>) {
    let (clock, track) = (Clock::real(), Track::new("memory"));
    let (stopper, stop) = Stop::new(&clock, LONG);
    let ends: Vec<(i32, i64)> = topic.partitions().iter().map(|place| (place.id, topic.end(place.id))).collect();
    let engine = {
        let (source, table, clock, track) = (topic.source(), table.clone(), clock.clone(), track.clone());
        std::thread::spawn(move || engine::run(source, table, policy(), clock, stop, track))
    };
    let halted = || -> BTreeMap<i32, Cause> {
        let cause = |(partition, place): (Partition, Arc<PartitionTrack>)| match place.state() {
            PartitionState::Halted(cause) => Some((partition.id, cause)),
            _ => None,
        };
        track.partitions().into_iter().filter_map(cause).collect()
    };
    let mut causes = BTreeMap::new();
    while !engine.is_finished() {
        causes = halted();
        let is_over = |(id, end): &(i32, i64)| causes.contains_key(id) || table.next_offset(*id) >= *end;
        if ends.iter().all(is_over) {
            break;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    drop(stopper);
    if let Err(panic) = engine.join() {
        std::panic::resume_unwind(panic);
    }
    (track, causes.into_values().next())
}

/// Small batches, and no pause that a test would wait for.
pub fn policy() -> Policy {
    Policy {
        batch_rows_max: 100,
        batch_bytes_max: 1 << 20,
        batch_memory_bytes: usize::MAX,
        linger: Duration::from_millis(1),
        rate_max_per_s: None,
        group_rows_max: 300,
        writers: 2,
        commit_every: LONG,
        look_every: Duration::from_millis(100),
        stall_after: LONG,
        answer_within: LONG,
        drain_patience: LONG,
        revoke_grace: LONG,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(10),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
