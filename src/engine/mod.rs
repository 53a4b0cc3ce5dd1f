//! The engine: how records get from a `Source` into a `Sink`, each exactly once, on plain threads.
//! `run` is the whole path. Nothing in here knows Kafka, PostgreSQL, a table or a flow by name, and
//! nothing blocks except through `Clock`, so that the simulator can run all of it under a seed.

mod batch;

use std::sync::Arc;
use std::time::Duration;

pub use batch::{Batch, Claim, Letter, Rows};

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

    /// Leaves the group. May take until `deadline`, no longer.
    fn close(self, deadline: Duration);
}

/// The records of one partition, in order. Owned by one partition thread.
pub trait Lane: Send + 'static {
    /// Waits up to `wait` for a record, then shows that one and whatever else is there, `records_max` at most.
    /// All that was borrowed is given back before it returns.
    fn take(
        &mut self,
        records_max: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault>;
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
}

/// Where rows go. Made by `flow::Apply`; in the simulator by a table in memory.
pub trait Sink: Send + Sync + 'static {
    type Rows: Rows;
    /// What one writer keeps from group to group: its connection.
    type Session: Default + Send;

    /// Appends what the record becomes. Pure: no I/O, no clock, no lock.
    fn decode(&self, record: &Record<'_>, rows: &mut Self::Rows) -> Result<(), Fault>;

    /// Takes the partitions over, in the order given, waiting for whatever their former owner has in flight.
    /// `first_offset` is asked for those that the ledger has never seen. A `Stop` in place of a claim halts
    /// that partition only.
    fn claim(
        &self,
        wanted: &[Wanted],
        first_offset: &mut dyn FnMut(&Partition) -> Result<i64, Fault>,
    ) -> Result<Vec<Result<Arc<Claim>, Cause>>, Fault>;

    /// Writes the group in one transaction, one outcome a batch in order. On a fault nothing was written.
    fn apply(&self, session: &mut Self::Session, group: &[Batch<Self::Rows>]) -> Result<Vec<Outcome>, Fault>;
}

/// How much, how many, how long.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A batch closes at this many rows,
    pub batch_rows_max: usize,
    /// or bytes,
    pub batch_bytes_max: usize,
    /// or this long after its first record.
    pub linger: Duration,
    /// A writer joins waiting batches up to this many rows into one transaction.
    pub group_rows_max: usize,
    pub writers: usize,
    /// Between advisory commits.
    pub commit_every: Duration,
    /// Between looks at the end offsets.
    pub lag_every: Duration,
    /// How long a revoked partition may take to finish what is in flight.
    pub revoke_grace: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}
