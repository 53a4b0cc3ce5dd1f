//! What the program knows of itself while it runs: one `Track` a flow, made of atomics, written by the data
//! path once a batch and read by whoever shows it. It decides nothing and formats nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::fault::Cause;
use crate::record::Partition;
use crate::trace::Courses;

/// Each code is a series in whatever stores metrics. A code is a word of ours or an SQLSTATE: no flow comes near this.
const LETTER_CODES_MAX: usize = 50;
const OTHER: &str = "other";

/// Counters that only grow.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes both ways.
#[derive(Default, Debug)]
pub struct Level(AtomicI64);

impl Level {
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Durations in buckets, cheap enough to be told of every batch. Bounds are upper ones, in seconds.
#[derive(Debug)]
pub struct Timing {
    buckets: [Counter; Timing::BOUNDS_S.len()],
    pub count: Counter,
    sum_us: Counter,
}

impl Timing {
    /// From the decoding of a few records to a record that waited for hours.
    #[rustfmt::skip]
    pub const BOUNDS_S: [f64; 21] = [
        0.0001, 0.0003, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0, 300.0, 3600.0,
    ];

    fn new() -> Self {
        Timing {
            buckets: std::array::from_fn(|_| Counter::default()),
            count: Counter::default(),
            sum_us: Counter::default(),
        }
    }

    pub fn record(&self, took: std::time::Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = Self::BOUNDS_S.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.count.add(1);
        self.sum_us.add(took.as_micros() as u64);
    }

    /// How many took at most each bound.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut sum = 0;
        Self::BOUNDS_S
            .iter()
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                sum += bucket.get();
                (*bound, sum)
            })
            .collect()
    }

    pub fn sum_s(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }
}

/// How a partition of ours is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Assigned; the ledger has not answered yet.
    Claiming,
    Running,
    /// Halted for a reason that a person has to look at.
    Halted(Cause),
}

/// One assigned partition.
#[derive(Debug)]
pub struct PartitionTrack {
    pub state: Mutex<PartitionState>,
    /// The ledger's offset: everything before it is in PostgreSQL.
    pub next_offset: Level,
    /// The end of the partition when the broker was last asked; -1 before.
    pub end_offset: Level,
    /// Records read ahead of the ledger.
    pub ahead: Level,
    /// The offset that is read next.
    pub read_offset: Level,
    /// 1 while the thread asks for records, 0 while it waits for a writer.
    pub asking: Level,
    /// The timestamp of the oldest record that is read and not written, or when it is due where it has to wait, and the
    /// timestamp of the last one that is written; -1 where there is none. In milliseconds since 1970.
    pub pending_ms: Level,
    pub written_ms: Level,
}

impl PartitionTrack {
    /// Records between the ledger and the end.
    pub fn lag(&self) -> i64 {
        (self.end_offset.get() - self.next_offset.get()).max(0)
    }

    /// How long the record that comes next has waited by now, in milliseconds. While none of those that wait has been read,
    /// it is counted from the last one that was written: it waits no longer than that. None where neither is known.
    pub fn behind_ms(&self, now_ms: i64) -> Option<i64> {
        let known = |at_ms: i64| (at_ms >= 0).then_some(at_ms);
        let since_ms = match known(self.pending_ms.get()) {
            Some(at_ms) => at_ms,
            None if self.end_offset.get() < 0 => return None,
            None if self.lag() == 0 => now_ms,
            None => known(self.written_ms.get())?,
        };
        Some((now_ms - since_ms).max(0))
    }

    pub fn state(&self) -> PartitionState {
        lock(&self.state).clone()
    }

    pub fn set_state(&self, state: PartitionState) {
        *lock(&self.state) = state;
    }
}

/// Which of its two dependencies a flow has trouble with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Sink,
}

impl Side {
    /// What it is called where people read of it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "kafka",
            Side::Sink => "postgres",
        }
    }
}

/// One flow.
pub struct Track {
    pub flow: String,
    pub started: Instant,
    pub produced: Counter,
    pub publish_failed: Counter,
    pub consumed: Counter,
    pub written: Counter,
    pub set_aside: Counter,
    /// Transactions tried again.
    pub retried: Counter,
    /// Batches that are read again: the partition had another owner, or what they need is not there yet.
    pub fenced: Counter,
    /// Partitions opened again because they gave nothing, without a cause.
    pub stalls_repaired: Counter,
    pub source_errors: Counter,
    pub write_errors: Counter,
    /// Groups written, each one transaction.
    pub groups: Counter,
    pub active_writers: Level,
    pub batches_waiting: Level,
    /// Handed over and without a receipt, those that wait included.
    pub batches_in_flight: Level,
    /// Of one batch: its partition's wait for more records, once it has the first.
    pub poll_seconds: Timing,
    /// Of one batch: from records to rows.
    pub decode_seconds: Timing,
    /// Of one batch: from its close until a writer takes it.
    pub queue_seconds: Timing,
    /// One transaction's COMMIT.
    pub commit_seconds: Timing,
    /// Of one batch: from the timestamp of its first record to its receipt.
    pub end_to_end_seconds: Timing,
    /// One transaction, from begin to the answer to commit.
    pub write_seconds: Timing,
    /// From the first record of a batch to its receipt.
    pub batch_seconds: Timing,
    /// A transaction's wait for rows that others had locked, where its flow locks such rows.
    pub lock_wait_seconds: Timing,
    /// Messages of the outbox that Kafka has acknowledged.
    pub published: Counter,
    /// Batches whose spans a collector took, and those whose it did not get.
    pub spans_exported: Counter,
    pub spans_dropped: Counter,
    /// Where to tell of what a batch went through, where somebody wants to know.
    pub courses: OnceLock<Arc<Courses>>,
    /// How long the oldest message of the outbox had waited when it was last looked at.
    pub outbox_age_s: Level,
    /// Keys that one of their records holds back, the records that are parked behind those, and how long the oldest has
    /// waited, over all instances, when this one last looked.
    pub held_keys: Level,
    pub parked_records: Level,
    pub held_oldest_s: Level,
    /// Committed records by what they came to, in the flow's own words.
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    /// Letters by the code of their reason.
    letters: Mutex<BTreeMap<String, u64>>,
    /// Those of all instances and of all time that are open, when this one last looked.
    open_letters: Mutex<BTreeMap<String, i64>>,
    /// Asks the pool how many sessions it has open.
    sessions: OnceLock<Box<dyn Fn() -> u32 + Send + Sync>>,
    trouble: Mutex<[Option<Cause>; 2]>,
    last_error: Mutex<Option<(SystemTime, Cause)>>,
    joined: AtomicBool,
    partitions: RwLock<BTreeMap<Partition, Arc<PartitionTrack>>>,
}

impl Track {
    pub fn new(flow: impl Into<String>) -> Arc<Self> {
        Arc::new(Track {
            flow: flow.into(),
            started: Instant::now(),
            produced: Counter::default(),
            publish_failed: Counter::default(),
            consumed: Counter::default(),
            written: Counter::default(),
            set_aside: Counter::default(),
            retried: Counter::default(),
            fenced: Counter::default(),
            stalls_repaired: Counter::default(),
            source_errors: Counter::default(),
            write_errors: Counter::default(),
            groups: Counter::default(),
            active_writers: Level::default(),
            batches_waiting: Level::default(),
            batches_in_flight: Level::default(),
            poll_seconds: Timing::new(),
            decode_seconds: Timing::new(),
            queue_seconds: Timing::new(),
            commit_seconds: Timing::new(),
            end_to_end_seconds: Timing::new(),
            write_seconds: Timing::new(),
            batch_seconds: Timing::new(),
            lock_wait_seconds: Timing::new(),
            published: Counter::default(),
            spans_exported: Counter::default(),
            spans_dropped: Counter::default(),
            courses: OnceLock::new(),
            outbox_age_s: Level::default(),
            held_keys: Level::default(),
            parked_records: Level::default(),
            held_oldest_s: Level::default(),
            outcomes: Mutex::default(),
            letters: Mutex::default(),
            open_letters: Mutex::default(),
            sessions: OnceLock::new(),
            trouble: Mutex::new([None, None]),
            last_error: Mutex::new(None),
            joined: AtomicBool::new(false),
            partitions: RwLock::default(),
        })
    }

    /// The group has answered us, be it with no partition at all. A first partition says the same.
    pub fn joined(&self) {
        self.joined.store(true, Relaxed);
    }

    pub fn is_joined(&self) -> bool {
        self.joined.load(Relaxed)
    }

    pub fn count(&self, outcome: &'static str, records: u64) {
        *lock(&self.outcomes).entry(outcome).or_default() += records;
    }

    pub fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.outcomes).clone()
    }

    /// So many more letters of this reason. Beyond `LETTER_CODES_MAX` codes, those that are new count as `other`.
    pub fn count_letters(&self, code: &str, count: u64) {
        let mut letters = lock(&self.letters);
        let is_room = letters.len() < LETTER_CODES_MAX || letters.contains_key(code);
        *letters.entry(if is_room { code } else { OTHER }.to_owned()).or_default() += count;
    }

    pub fn letters(&self) -> BTreeMap<String, u64> {
        lock(&self.letters).clone()
    }

    /// So many letters of each reason are open. Beyond `LETTER_CODES_MAX` codes, the last ones count as `other`.
    pub fn set_open_letters(&self, counts: Vec<(String, i64)>) {
        let mut open = BTreeMap::new();
        for (index, (code, count)) in counts.into_iter().enumerate() {
            *open.entry(if index < LETTER_CODES_MAX { code } else { OTHER.to_owned() }).or_default() += count;
        }
        *lock(&self.open_letters) = open;
    }

    pub fn open_letters(&self) -> BTreeMap<String, i64> {
        lock(&self.open_letters).clone()
    }

    /// Whom to ask for the number of open sessions. Said once.
    pub fn ask_for_sessions(&self, ask: impl Fn() -> u32 + Send + Sync + 'static) {
        let _ = self.sessions.set(Box::new(ask));
    }

    pub fn sessions(&self) -> Option<u32> {
        self.sessions.get().map(|ask| ask())
    }

    /// A dependency fails: it stays in trouble until `recovered`, and health says so.
    pub fn troubled(&self, side: Side, cause: &Cause) {
        match side {
            Side::Source => self.source_errors.add(1),
            Side::Sink => self.write_errors.add(1),
        }
        let former = lock(&self.trouble)[side as usize].replace(cause.clone());
        // Once for each kind of trouble, not once for each time that it is met.
        if former.is_none_or(|former| former.code != cause.code) {
            log::warn!(flow = self.flow.as_str(), code = &*cause.code; "{}: {}", side.name(), cause.text);
        }
        self.failed(cause);
    }

    pub fn recovered(&self, side: Side) {
        if lock(&self.trouble)[side as usize].take().is_some() {
            log::info!(flow = self.flow.as_str(); "{} answers", side.name());
        }
    }

    pub fn trouble(&self, side: Side) -> Option<Cause> {
        lock(&self.trouble)[side as usize].clone()
    }

    /// Remembers the newest error for whoever asks.
    pub fn failed(&self, cause: &Cause) {
        *lock(&self.last_error) = Some((SystemTime::now(), cause.clone()));
    }

    pub fn last_error(&self) -> Option<(SystemTime, Cause)> {
        lock(&self.last_error).clone()
    }

    pub fn add_partition(&self, partition: &Partition) -> Arc<PartitionTrack> {
        self.joined();
        let track = Arc::new(PartitionTrack {
            state: Mutex::new(PartitionState::Claiming),
            next_offset: Level::default(),
            end_offset: Level(AtomicI64::new(-1)),
            ahead: Level::default(),
            read_offset: Level::default(),
            asking: Level::default(),
            pending_ms: Level(AtomicI64::new(-1)),
            written_ms: Level(AtomicI64::new(-1)),
        });
        self.partitions.write().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), track.clone());
        track
    }

    pub fn drop_partition(&self, partition: &Partition) {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner).remove(partition);
    }

    pub fn partitions(&self) -> Vec<(Partition, Arc<PartitionTrack>)> {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|(partition, track)| (partition.clone(), track.clone())).collect()
    }
}

/// How far a group that others use is behind in one partition.
#[derive(Clone, Debug)]
pub struct GroupLag {
    pub partition: Partition,
    pub records: i64,
    /// None where the record that comes next was not seen.
    pub behind_ms: Option<i64>,
}

/// Groups that others use, by name, as they were when they were last looked at.
#[derive(Default)]
pub struct Groups(Mutex<BTreeMap<String, Vec<GroupLag>>>);

impl Groups {
    pub fn set(&self, name: &str, lags: Vec<GroupLag>) {
        lock(&self.0).insert(name.to_owned(), lags);
    }

    pub fn all(&self) -> BTreeMap<String, Vec<GroupLag>> {
        lock(&self.0).clone()
    }
}

/// A panic elsewhere ends the process anyway; until then numbers may still be read.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
