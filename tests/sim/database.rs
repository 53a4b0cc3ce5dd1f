//! PostgreSQL as the engine sees it: a ledger, rows and letters that change together or not at all, row locks,
//! and everything that goes wrong between a client and a server. After every commit the tables are compared
//! with the log.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate::engine::{Batch, Claim, Claims, Outcome, Rows, Sink, Wanted};
use sluicegate::fault::{Cause, Fault};
use sluicegate::record::Record;

use super::broker::{Broker, Fate, decode, due_ms};
use super::{Chances, Coverage, world::World};

const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// A row is larger than its record.
const ROW_BYTES: usize = 100;

/// Rows are offsets; some of them the table refuses.
#[derive(Default, Debug)]
pub struct SimRows(Vec<(i64, bool)>);

impl Rows for SimRows {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self) -> usize {
        self.0.len() * ROW_BYTES
    }
    fn clear(&mut self) {
        self.0.clear();
    }
    fn part(&self, rows: Range<usize>) -> Self {
        SimRows(self.0[rows].to_vec())
    }
}

/// What is durable, as one piece.
#[derive(Clone, Default)]
struct Tables {
    /// By partition: next offset and owner epoch.
    ledger: BTreeMap<i32, (i64, i64)>,
    rows: BTreeMap<i32, Vec<i64>>,
    letters: BTreeMap<i32, Vec<i64>>,
}

#[derive(Default)]
struct Inner {
    tables: Tables,
    snapshot: Tables,
    /// Ledger rows locked by a transaction.
    locks: BTreeMap<i32, u64>,
    transactions: u64,
    down_until: Duration,
}

pub struct Database {
    world: Arc<World>,
    broker: Arc<Broker>,
    chances: Mutex<Chances>,
    coverage: Arc<Coverage>,
    inner: Mutex<Inner>,
}

impl Database {
    pub fn new(world: Arc<World>, broker: Arc<Broker>, chances: Chances, coverage: Arc<Coverage>) -> Arc<Database> {
        let (chances, inner) = (Mutex::new(chances), Mutex::default());
        Arc::new(Database { world, broker, chances, coverage, inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chances(&self) -> Chances {
        *self.chances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        *self.chances.lock().unwrap_or_else(PoisonError::into_inner) = Chances::default();
        self.lock().down_until = Duration::ZERO;
    }

    pub fn next_offset(&self, partition: i32) -> i64 {
        self.lock().tables.ledger.get(&partition).map_or(0, |(next, _)| *next)
    }

    pub fn go_down(&self, pause: Duration) {
        let mut inner = self.lock();
        inner.down_until = self.world.now() + pause;
        inner.locks.clear();
    }

    pub fn take_snapshot(&self) {
        let mut inner = self.lock();
        inner.snapshot = inner.tables.clone();
    }

    /// A standby that was behind takes over: everything goes back together, and every session ends.
    pub fn fail_over(&self) {
        let mut inner = self.lock();
        inner.tables = inner.snapshot.clone();
        inner.locks.clear();
    }

    pub fn check_all(&self, partitions: usize) {
        let inner = self.lock();
        for partition in 0..partitions as i32 {
            self.check(&inner.tables, partition);
        }
    }

    /// Rows and letters are the log up to the ledger's offset: nothing lost, nothing twice, in order.
    fn check(&self, tables: &Tables, partition: i32) {
        let next = tables.ledger.get(&partition).map_or(0, |(next, _)| *next);
        let log = self.broker.log(partition);
        let due = |is_row: bool| {
            let below = log.iter().filter(|entry| entry.offset < next && (entry.fate == Fate::Row) == is_row);
            below.map(|entry| entry.offset).collect::<Vec<i64>>()
        };
        let held = |table: &BTreeMap<i32, Vec<i64>>| table.get(&partition).cloned().unwrap_or_default();
        for (what, found, due) in
            [("rows", held(&tables.rows), due(true)), ("letters", held(&tables.letters), due(false))]
        {
            if found != due {
                self.world
                    .fail(format!("partition {partition} below {next}: {what} are {found:?} and should be {due:?}"));
            }
        }
    }

    fn answers(&self) -> Result<(), Fault> {
        let chances = self.chances();
        self.world.sleep(self.world.millis(1 + chances.slow_ms));
        let down = self.lock().down_until > self.world.now();
        if down || self.world.chance(chances.sink_fault) {
            self.coverage.hit(if down { "sink down" } else { "sink fault" });
            return Err(Fault::retry("sim.sink", "no connection"));
        }
        Ok(())
    }

    fn begin(self: &Arc<Self>) -> Transaction {
        let mut inner = self.lock();
        inner.transactions += 1;
        Transaction { database: self.clone(), id: inner.transactions }
    }
}

/// Holds its locks until it is dropped: by its client, or because that died.
struct Transaction {
    database: Arc<Database>,
    id: u64,
}

impl Transaction {
    fn lock_rows(&self, partitions: &[i32]) -> Result<(), Fault> {
        let (database, world) = (&self.database, &self.database.world);
        let until = world.now() + LOCK_TIMEOUT;
        let mut sorted = partitions.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        for partition in sorted {
            loop {
                let mut inner = database.lock();
                let holder = inner.locks.entry(partition).or_insert(self.id);
                if *holder == self.id {
                    break;
                }
                drop(inner);
                database.coverage.hit("lock wait");
                if world.now() >= until {
                    return Err(Fault::retry("sim.lock", "not granted in time"));
                }
                world.wait(until);
            }
        }
        Ok(())
    }

    /// Still ours: nobody ended the session and the server did not restart.
    fn holds(&self, inner: &Inner, partitions: &[i32]) -> bool {
        partitions.iter().all(|partition| inner.locks.get(partition) == Some(&self.id))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let id = self.id;
        self.database.lock().locks.retain(|_, holder| *holder != id);
    }
}

/// The database as one process sees it.
pub struct SimSink {
    pub database: Arc<Database>,
    /// At this size a batch closes.
    pub batch_bytes_max: usize,
}

impl Sink for SimSink {
    type Rows = SimRows;
    type Session = ();

    fn decode(&self, record: &Record<'_>, rows: &mut SimRows) -> Result<(), Fault> {
        let (due_ms, now) = (due_ms(record).unwrap_or_default(), self.database.world.now());
        if u128::from(due_ms) > now.as_millis() {
            self.database.world.fail(format!("{} is decoded at {now:?} and due at {due_ms} ms", record.offset));
        }
        rows.0.push((record.offset, decode(record)?));
        Ok(())
    }

    fn due_ms(&self, record: &Record<'_>) -> Option<u64> {
        due_ms(record)
    }

    fn claim(&self, wanted: &[Wanted]) -> Result<Claims, Fault> {
        let database = &self.database;
        database.answers()?;
        let ids: Vec<i32> = wanted.iter().map(|wanted| wanted.partition.id).collect();
        let transaction = database.begin();
        if let Err(fault) = transaction.lock_rows(&ids) {
            // The holder is frozen: its session is ended, and what it holds never commits.
            database.lock().locks.retain(|partition, _| !ids.contains(partition));
            database.coverage.hit("holder ended");
            return Err(fault);
        }
        let mut unseen = Vec::new();
        for (index, Wanted { partition, first_offset, .. }) in wanted.iter().enumerate() {
            let mut inner = database.lock();
            match first_offset {
                _ if inner.tables.ledger.contains_key(&partition.id) => {}
                Some(first) if transaction.holds(&inner, &ids) => {
                    inner.tables.ledger.insert(partition.id, (*first, 0));
                }
                Some(_) => {}
                None => unseen.push(index),
            }
        }
        if !unseen.is_empty() {
            return Ok(Claims::Unseen(unseen));
        }
        database.answers()?;
        let mut inner = database.lock();
        if !transaction.holds(&inner, &ids) {
            return Err(Fault::retry("sim.session", "the session was ended"));
        }
        let mut claims = Vec::new();
        for Wanted { partition, .. } in wanted {
            let Some((next, epoch)) = inner.tables.ledger.get_mut(&partition.id) else {
                return Err(Fault::retry("sim.session", "the server went back"));
            };
            *epoch += 1;
            claims.push(Ok(Claim::new(partition.clone(), *epoch, *next)));
        }
        drop(inner);
        if database.world.chance(database.chances().lost_answer) {
            database.coverage.hit("claim unheard");
            return Err(Fault::retry("sim.sink", "the answer was lost"));
        }
        Ok(Claims::Made(claims))
    }

    fn holds(&self, claims: &[(Arc<Claim>, i64)]) -> Result<Vec<bool>, Fault> {
        self.database.answers()?;
        let inner = self.database.lock();
        let holds = |(claim, applied): &(Arc<Claim>, i64)| {
            let found = inner.tables.ledger.get(&claim.partition.id);
            found.is_some_and(|(next, epoch)| *epoch == claim.epoch && next >= applied)
        };
        Ok(claims.iter().map(holds).collect())
    }

    fn apply(&self, (): &mut (), group: &[Batch<SimRows>]) -> Result<Vec<Outcome>, Fault> {
        let database = &self.database;
        // The one record that closes a batch may go beyond that.
        for batch in group.iter().filter(|batch| batch.rows.bytes() >= self.batch_bytes_max + ROW_BYTES) {
            database.world.fail(format!(
                "a batch of {} bytes, where {} close it",
                batch.rows.bytes(),
                self.batch_bytes_max
            ));
        }
        // The one record that closes a batch may go beyond that.
        for batch in group.iter().filter(|batch| batch.rows.bytes() >= self.batch_bytes_max + ROW_BYTES) {
            database.world.fail(format!(
                "a batch of {} bytes, where {} close it",
                batch.rows.bytes(),
                self.batch_bytes_max
            ));
        }
        database.answers()?;
        let ids: Vec<i32> = group.iter().map(|batch| batch.partition().id).collect();
        let transaction = database.begin();
        transaction.lock_rows(&ids)?;
        // Between the locks and the commit anything can happen to the session or the server.
        database.answers()?;
        let mut inner = database.lock();
        if !transaction.holds(&inner, &ids) {
            return Err(Fault::retry("sim.session", "the session was ended"));
        }
        let mut outcomes = Vec::new();
        for batch in group {
            let id = batch.partition().id;
            let Some((next, epoch)) = inner.tables.ledger.get(&id).copied() else {
                outcomes.push(Outcome::Fenced);
                continue;
            };
            let refused: Vec<(i64, Cause)> = batch
                .rows
                .0
                .iter()
                .filter(|(_, refused)| *refused)
                .map(|(offset, _)| (*offset, Cause::new("sim.refused", "refused")))
                .collect();
            outcomes.push(if epoch != batch.claim.epoch {
                database.coverage.hit("fenced by epoch");
                Outcome::Fenced
            } else if next == batch.next {
                database.coverage.hit("found applied");
                Outcome::Written
            } else if next != batch.first {
                database.coverage.hit("fenced by offset");
                Outcome::Fenced
            } else if !refused.is_empty() {
                database.coverage.hit("refused");
                Outcome::Refused(refused)
            } else {
                let tables = &mut inner.tables;
                tables.ledger.insert(id, (batch.next, epoch));
                tables.rows.entry(id).or_default().extend(batch.rows.0.iter().map(|(offset, _)| offset));
                tables.letters.entry(id).or_default().extend(batch.letters.iter().map(|letter| letter.offset));
                database.broker.applied(id, batch.next);
                database.check(tables, id);
                Outcome::Written
            });
        }
        drop(inner);
        drop(transaction);
        database.world.changed();
        if database.world.chance(database.chances().lost_answer) {
            database.coverage.hit("commit unheard");
            return Err(Fault::retry("sim.sink", "the answer was lost"));
        }
        Ok(outcomes)
    }
}
