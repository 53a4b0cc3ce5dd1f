//! What has been seen: the ids of messages that are done with, in a table, and the newest of them in memory. An index
//! entry for each id would cost as much as the message; here a transaction adds one row with all of its ids, and every
//! process keeps a set of what is in the rows.
//!
//! The memory holds what is committed and nothing else: it is fed from the table alone, by whoever holds the lock of the
//! flow, before that transaction adds a row of its own. Without the lock it may be behind, so what it says then is a
//! guess.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Work;
use crate::fault::Fault;

pub const CREATE: &str = include_str!("../../sql/seen/create.sql");
const LOCK: &str = include_str!("../../sql/seen/lock.sql");
const READ: &str = include_str!("../../sql/seen/read.sql");
const ADD: &str = include_str!("../../sql/seen/add.sql");
const PRUNE: &str = include_str!("../../sql/seen/prune.sql");

/// Between looks for what is older than the window, as a part of it.
const PRUNES_A_WINDOW: u32 = 20;
const PRUNE_EVERY_MIN: Duration = Duration::from_secs(1);

/// The ids of one flow.
pub struct Seen {
    flow: &'static str,
    /// What is older is forgotten,
    window: Duration,
    /// and what is beyond so many. Memory: 16 bytes an id in the rows, and 19 to 39 in the set.
    ids_max: usize,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    ids: HashSet<u128, BuildHasherDefault<Spread>>,
    rows: VecDeque<Row>,
    /// The newest row that was read. None until the table was.
    newest: Option<(i64, Uuid)>,
    pruned: Option<Instant>,
}

struct Row {
    seq: i64,
    ids: Vec<u128>,
}

/// Ids are hashes already.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are numbers")
    }

    fn write_u128(&mut self, id: u128) {
        // The uppermost bits of the lower half say which kind of id it is, and so nothing; a set looks at those first.
        self.0 = (id as u64).rotate_left(8);
    }
}

impl Memory {
    fn forget(&mut self) {
        *self = Memory { pruned: self.pruned, ..Memory::default() };
    }

    fn add(&mut self, seq: i64, ids: &[u8]) {
        let ids: Vec<u128> =
            ids.chunks_exact(16).map(|id| u128::from_be_bytes(id.try_into().expect("16 bytes"))).collect();
        self.ids.extend(&ids);
        self.rows.push_back(Row { seq, ids });
    }

    fn drop_before(&mut self, seq: i64) {
        while self.rows.front().is_some_and(|row| row.seq < seq) {
            let row = self.rows.pop_front().expect("one is there");
            row.ids.iter().for_each(|id| {
                self.ids.remove(id);
            });
        }
    }

    /// The oldest row that may stay, by their number; the newest one stays whatever it holds.
    fn first_to_keep(&self, ids_max: usize) -> i64 {
        let mut kept = 0;
        let is_within = |row: &&Row| {
            let is_newest = kept == 0;
            kept += row.ids.len();
            is_newest || kept <= ids_max
        };
        self.rows.iter().rev().take_while(is_within).last().map_or(i64::MIN, |row| row.seq)
    }
}

impl Seen {
    pub fn new(flow: &'static str, window: Duration, ids_max: usize) -> Self {
        Seen { flow, window, ids_max, memory: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether each of these has been seen, or comes before among them.
    pub fn repeats(&self, ids: impl Iterator<Item = Option<Uuid>>) -> Vec<bool> {
        let memory = self.memory();
        let mut first: HashSet<u128, BuildHasherDefault<Spread>> = HashSet::default();
        ids.map(|id| id.is_some_and(|id| memory.ids.contains(&id.as_u128()) || !first.insert(id.as_u128()))).collect()
    }

    /// Reads what there is before anybody waits for it. Rows have the order of their commits, so that what is seen without
    /// the lock is what was there a moment ago.
    pub fn open(&self, work: &mut Work<'_>) -> Result<(), Fault> {
        let is_new = self.memory().newest.is_none();
        if is_new { self.read(work) } else { Ok(()) }
    }

    /// From here to its end `work` is the only one of the flow, and the memory knows all that is committed. Not to be
    /// called by one that has added ids already: they would be taken for committed ones.
    pub fn lock(&self, work: &mut Work<'_>) -> Result<(), Fault> {
        work.lock(LOCK, &[&self.flow])?;
        self.read(work)
    }

    fn read(&self, work: &mut Work<'_>) -> Result<(), Fault> {
        let newest = self.memory().newest;
        let (from, mark) = newest.unwrap_or((i64::MIN, Uuid::nil()));
        let mut rows = work.query(READ, &[&self.flow, &from])?;
        let is_known =
            |rows: &[postgres::Row]| rows.first().is_some_and(|row| (row.get(0), row.get(1)) == (from, mark));
        let mut memory = self.memory();
        if newest.is_some() && memory.newest == newest && !is_known(&rows) {
            // Forgotten by all meanwhile, or the server went back in time: then others have its number now.
            memory.forget();
            rows = work.query(READ, &[&self.flow, &i64::MIN])?;
        }
        // First what goes: an id that was forgotten may be in a new row again.
        if let Some(lowest) = rows.first().and_then(|row| row.get::<_, Option<i64>>(3)) {
            memory.drop_before(lowest);
        }
        for row in &rows {
            let (seq, ids): (i64, Option<&[u8]>) = (row.get(0), row.get(2));
            if let Some(ids) = ids.filter(|_| memory.newest.is_none_or(|(newest, _)| seq > newest)) {
                memory.add(seq, ids);
                memory.newest = Some((seq, row.get(1)));
            }
        }
        Ok(())
    }

    /// Adds ids, and takes away what is too old or too much. Under the lock.
    pub fn add(&self, work: &mut Work<'_>, ids: &[Uuid]) -> Result<(), Fault> {
        if !ids.is_empty() {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
            work.execute(ADD, &[&self.flow, &(ids.len() as i32), &bytes])?;
        }
        let every = (self.window / PRUNES_A_WINDOW).max(PRUNE_EVERY_MIN);
        let mut memory = self.memory();
        let is_due = memory.pruned.is_none_or(|at| at.elapsed() >= every);
        if is_due || memory.ids.len() > self.ids_max {
            memory.pruned = Some(Instant::now());
            let first = memory.first_to_keep(self.ids_max);
            drop(memory);
            work.execute(PRUNE, &[&self.flow, &(self.window.as_millis() as i64), &first])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_follows_its_rows_and_gives_what_goes_back() {
        let ids =
            |numbers: std::ops::Range<u128>| numbers.flat_map(|n| (n << 64 | n).to_be_bytes()).collect::<Vec<u8>>();
        let mut memory = Memory::default();
        memory.add(3, &ids(0..10));
        memory.add(7, &ids(10..30));
        memory.add(8, &ids(30..40));
        assert_eq!(memory.ids.len(), 40);
        assert_eq!([5, 10, 30, 39, 40].map(|most| memory.first_to_keep(most)), [8, 8, 7, 7, 3]);
        memory.drop_before(7);
        assert_eq!((memory.ids.len(), memory.rows.len()), (30, 2));
        assert!(!memory.ids.contains(&(9 << 64 | 9)) && memory.ids.contains(&(10 << 64 | 10)));
    }

    #[test]
    fn a_second_one_among_them_is_a_repeat() {
        let seen = Seen::new("t", Duration::from_secs(60), 100);
        let id = |n: u128| Some(Uuid::from_u128(n));
        assert_eq!(seen.repeats([id(1), None, id(2), id(1), None].into_iter()), [false, false, false, true, false]);
    }
}
