//! The engine: how records get from a `Source` into a `Sink`, each exactly once, on plain threads.
//! `run` is the whole path. Nothing in here knows Kafka, PostgreSQL, a table or a flow by name, and
//! nothing blocks except through `Clock`, so that the simulator can run all of it under a seed.

mod batch;
mod clock;
mod intake;
mod pace;
mod partition;
mod relay;
mod writer;

use std::sync::Arc;
use std::time::Duration;

pub use batch::{Batch, Claim, Letter, Rows};
pub use clock::{Backoff, Clock, Scheduler, Stop, Stopper, Thread};
pub use relay::{Outbox, Published, relay};

use intake::Intake;
use writer::Writer;

use crate::fault::{Cause, Fault};
use crate::record::{Partition, Record};
use crate::track::Track;

/// What the group tells its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These are ours now. Answered by `Source::open`, after the ledger has been asked.
    Assigned(Vec<Partition>),
    /// These go to another member once we answer with `Source::release`: finish what is in flight.
    Revoked(Vec<Partition>),
    /// These went already, and somebody else may be writing them: drop everything, commit nothing.
    Lost(Vec<Partition>),
    /// Something is wrong that the client mends by itself. Shown, not acted on.
    Trouble(Cause),
}

/// Where records come from. Made by `kafka::Consumer`; in the simulator by a script under a seed.
pub trait Source: Send + 'static {
    type Lane: Lane;

    fn next_event(&mut self, wait: Duration) -> Option<Event>;

    /// Which incarnation of the topic this is: a topic made again under the same name has another.
    /// Empty where the source cannot tell.
    fn incarnation(&mut self, topic: &str) -> Result<String, Fault>;

    /// Where a partition starts that no ledger has a row for, by the flow's start policy.
    fn first_offset(&mut self, partition: &Partition) -> Result<i64, Fault>;

    /// Lanes at these offsets. The first call after `Assigned` names all its partitions and answers it; a
    /// later call for a partition that is still ours moves it, after its former lane was dropped.
    fn open(&mut self, at: &[(Partition, i64)]) -> Result<Vec<Self::Lane>, Fault>;

    /// Answers `Revoked` and `Lost`, after the lanes were dropped.
    fn release(&mut self, partitions: &[Partition]);

    /// Tells the group how far the sink is. Advisory: nothing is ever positioned by it.
    fn commit(&mut self, next: &[(Partition, i64)]);

    /// The end offset of each partition, in order. Asks the broker, so it may take a moment.
    fn ends(&mut self, partitions: &[Partition]) -> Result<Vec<i64>, Fault>;

    /// Starts again from nothing, as another member of the group. Called only while no partition is ours; a fault
    /// means that it is no better off, and all is as before.
    fn renew(&mut self) -> Result<(), Fault>;

    /// Leaves the group. May take until `deadline`, no longer.
    fn close(self, deadline: Duration);
}

/// The records of one partition, in order. Owned by one partition thread.
pub trait Lane: Send + 'static {
    /// Waits up to `wait` for a record, then shows that one and whatever else is there: `records_max` at most, and
    /// so many of that one's size as make `bytes_max`. A record that is left for later is shown first the next time,
    /// and the lane keeps it with what it had fetched behind it: nothing is fetched again, and nothing more until then.
    /// All else that was borrowed is given back before it returns. Where it has come to the partition's end, it says at
    /// which offset: nothing that is still to be shown comes before it.
    fn take(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<Seen, Fault>,
    ) -> Result<Option<i64>, Fault>;
}

/// What became of a record that a lane has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Taken,
    /// It is not its time yet, or there is no room for it.
    Later,
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// The ledger knows another owner or another offset: nothing of the batch was written.
    Fenced,
    /// The sink would not take these rows (by offset); nothing of the batch was written. The partition
    /// reads the span again and sets these records aside.
    Refused(Vec<(i64, Cause)>),
}

/// A partition that wants to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub partition: Partition,
    pub incarnation: String,
    /// Where it starts if no ledger has a row for it. Asked of the source only once it is missed.
    pub first_offset: Option<i64>,
}

/// What the ledger says to those who want partitions.
#[derive(Debug)]
pub enum Claims {
    /// In the order that they were asked for. A cause in place of a claim halts that partition only.
    Made(Vec<Result<Arc<Claim>, Cause>>),
    /// Nothing was claimed: the ledger has never seen these, by their index, and they came without a first offset.
    Unseen(Vec<usize>),
}

/// Where rows go. Made by `flow::Apply`; in the simulator by a table in memory.
pub trait Sink: Send + Sync + 'static {
    type Rows: Rows;
    /// What one writer keeps from group to group: its connection.
    type Session: Default + Send;

    /// Appends what the record becomes. Pure: no I/O, no clock, no lock.
    fn decode(&self, record: &Record<'_>, rows: &mut Self::Rows) -> Result<(), Fault>;

    /// What is to become of a record that was refused: it is set aside, unless its partition is to halt there.
    fn refusal(&self, cause: Cause) -> Fault {
        Fault::Reject(cause)
    }

    /// When the record may be decoded, in milliseconds since 1970, where it has to wait. What is behind it in its
    /// partition waits as well.
    fn due_ms(&self, _: &Record<'_>) -> Option<u64> {
        None
    }

    /// Takes the partitions over, waiting for whatever their former owner has in flight.
    fn claim(&self, wanted: &[Wanted]) -> Result<Claims, Fault>;

    /// Whether each claim still holds, with at least this offset applied. A server that went back in time has
    /// to be noticed also where no record comes.
    fn holds(&self, claims: &[(Arc<Claim>, i64)]) -> Result<Vec<bool>, Fault>;

    /// Writes the group in one transaction, one outcome a batch in order. On a fault nothing was written.
    fn apply(&self, session: &mut Self::Session, group: &[Batch<Self::Rows>]) -> Result<Vec<Outcome>, Fault>;

    /// How much of the last `apply` was the commit, where that is a step of its own.
    fn commit_time(&self, _: &Self::Session) -> Option<Duration> {
        None
    }
}

/// How much, how many, how long.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A batch closes at this many rows,
    pub batch_rows_max: usize,
    /// or bytes,
    pub batch_bytes_max: usize,
    /// or its partition's share of so many: two batches of each partition that this process has,
    pub batch_memory_bytes: usize,
    /// or this long after its first record.
    pub linger: Duration,
    /// No more records a second than this are taken, over all partitions, but for what is made up for after 100 ms.
    pub rate_max_per_s: Option<u32>,
    /// A writer joins waiting batches up to this many rows into one transaction.
    pub group_rows_max: usize,
    pub writers: usize,
    /// Between advisory commits.
    pub commit_every: Duration,
    /// Between looks at the end offsets, and at the ledger.
    pub look_every: Duration,
    /// A partition that is behind its end and gives nothing for this long, without a cause, is opened again.
    pub stall_after: Duration,
    /// A question to the sink that is not answered within this is given up, and asked again later.
    pub answer_within: Duration,
    /// An order to stop waits for what is in flight only while something is still written: this long without,
    /// and the rest is left to be read again.
    pub drain_patience: Duration,
    /// How long a revoked partition may take to finish what is in flight.
    pub revoke_grace: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

/// Leaving the group is a courtesy to the others: this long at most.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// The whole path, in the order of flow: poll, decode, write, commit. Returns once everything is over:
/// after the order to stop, and within its deadline plus the time that the source takes to close.
pub fn run<K: Source, S: Sink>(source: K, sink: Arc<S>, policy: Policy, clock: Clock, stop: Stop, track: Arc<Track>) {
    let policy = Arc::new(policy);
    let flow = track.flow.clone();

    // The one channel. Each assigned partition has at most one batch in it or with a writer, and fills one
    // more meanwhile; with the group limit's worth waiting for each writer, no writer finds too little.
    // Memory: assigned partitions x 2 x (batch_bytes_max, or a share of batch_memory_bytes, and the record that closes a batch).
    // A group moves batches and copies none; what a writer needs on top is in `Work::copy`, and what the source holds ahead
    // is in the consumer.
    let waiting_max = policy.writers * policy.group_rows_max.div_ceil(policy.batch_rows_max);
    let (to_writers, batches) = crossbeam_channel::bounded(waiting_max);

    let turns = crossbeam_channel::bounded(1);
    clock.post(&turns.0, ());
    let writers: Vec<Thread<()>> = (0..policy.writers)
        .map(|number| {
            let (sink, policy, clock) = (sink.clone(), policy.clone(), clock.clone());
            let (batches, stop, track) = (batches.clone(), stop.clone(), track.clone());
            Writer { batches, turns: turns.clone(), sink, policy, clock, stop, track }.start(number)
        })
        .collect();
    drop(batches);

    // Poll and decode: intake starts a thread for each partition, and each sends its batches to the writers.
    let mut intake = Intake::new(source, sink, policy, clock.clone(), stop.clone(), track, to_writers);
    intake.run();

    // Down in path order: partitions flush; with the last of them the channel closes; writers drain; and
    // the source leaves the group with what was written.
    let (source, by) = intake.finish(stop.deadline());
    for writer in writers {
        if writer.join(&clock, by).is_none() {
            log::warn!(flow = flow.as_str(); "a writer is still busy; what it holds will be read again");
        }
    }
    source.close(stop.deadline().saturating_sub(clock.now()).min(LEAVE_MAX));
}
