//! How far each partition has come in the log of its source. A record that comes again, because the topic is read from
//! its start or because the connector has sent it twice, stands before that and is passed over.
//!
//! Inside a partition the order of records is that of commits. Two records at one place (rows of one COPY) are both
//! taken: to put a row once more as it is changes nothing. A place that goes back at a later time is another source under
//! the same name, as after a restore: it counts from there on.

use super::rows::CdcRows;
use crate::decode::debezium::Position;
use crate::engine::{Batch, Rows};
use crate::fault::Fault;
use crate::pg::Work;
use crate::record::Partition;

const READ: &str = include_str!("../../../sql/cdc/positions.sql");
const KEEP: &str = include_str!("../../../sql/cdc/keep.sql");

/// How far one partition has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Of the topic; empty where the broker could not tell.
    pub incarnation: String,
    pub next_offset: i64,
    pub furthest: Option<Position>,
    pub committed_ms: Option<i64>,
    pub seen: Option<Position>,
}

/// What of each batch is applied.
pub struct Taken {
    reached: Vec<(Partition, Reached)>,
    /// By batch and row.
    stale: Vec<Vec<bool>>,
}

impl Reached {
    /// Whether the record was applied before, and moves on.
    fn is_stale(&mut self, offset: i64, position: Option<Position>, at_ms: Option<i64>) -> bool {
        let is_known = !self.incarnation.is_empty() && offset < self.next_offset;
        self.next_offset = self.next_offset.max(offset + 1);
        self.seen = position.or(self.seen);
        let is_behind = match (self.seen, self.furthest) {
            (Some(seen), Some(furthest)) => seen < furthest && (at_ms.is_none() || at_ms <= self.committed_ms),
            _ => false,
        };
        if is_known || is_behind {
            return true;
        }
        self.furthest = self.seen;
        self.committed_ms = at_ms.max(self.committed_ms);
        false
    }
}

/// Reads how far the partitions of these batches have come, and goes on from there.
pub fn take(work: &mut Work<'_>, flow: &str, batches: &[&Batch<CdcRows>]) -> Result<Taken, Fault> {
    let (topics, ids): (Vec<&str>, Vec<i32>) =
        batches.iter().map(|batch| (&*batch.partition().topic, batch.partition().id)).unzip();
    let mut reached: Vec<(Partition, Reached)> = batches
        .iter()
        .map(|batch| (batch.partition().clone(), Reached::default()))
        .collect();
    for row in work.query(READ, &[&flow, &topics, &ids])? {
        let (topic, id): (&str, i32) = (row.get(0), row.get(1));
        let incarnation: String = row.get(2);
        let position = |first: usize| {
            let commit: Option<i64> = row.get(first);
            commit.map(|commit| Position { commit, lsn: row.get(first + 1), order: row.get(first + 2) })
        };
        let is_same = row.get::<_, Option<&str>>(3) == Some(&incarnation);
        let found = Reached {
            next_offset: row.get::<_, Option<i64>>(4).filter(|_| is_same).unwrap_or(0),
            incarnation,
            furthest: position(5),
            committed_ms: row.get(8),
            seen: position(9),
        };
        for (partition, reached) in &mut reached {
            if *partition.topic == *topic && partition.id == id {
                *reached = found.clone();
            }
        }
    }
    let stale = batches.iter().zip(&mut reached).map(|(batch, (_, reached))| of_batch(batch, reached)).collect();
    // What is replayed by hand moves nothing.
    let moves = batches.iter().zip(reached).filter(|(batch, _)| !batch.is_replay() && !batch.rows.is_empty());
    Ok(Taken { reached: moves.map(|(_, reached)| reached).collect(), stale })
}

fn of_batch(batch: &Batch<CdcRows>, reached: &mut Reached) -> Vec<bool> {
    if batch.is_replay() {
        return vec![false; batch.rows.len()];
    }
    let rows = batch.rows.rows().iter().zip(&batch.offsets);
    rows.map(|(row, offset)| reached.is_stale(*offset, row.position, row.at_ms)).collect()
}

impl Taken {
    pub fn is_stale(&self, batch: usize, row: usize) -> bool {
        self.stale[batch][row]
    }

    /// How many records.
    pub fn stale(&self) -> u64 {
        self.stale.iter().flatten().filter(|is_stale| **is_stale).count() as u64
    }

    /// The same for a replayed record: whether something newer of its partition has been applied.
    pub fn keep(&self, work: &mut Work<'_>, flow: &str) -> Result<(), Fault> {
        let of = |get: &dyn Fn(&Reached) -> Option<i64>| -> Vec<Option<i64>> {
            self.reached.iter().map(|(_, reached)| get(reached)).collect()
        };
        let topics: Vec<&str> = self.reached.iter().map(|(partition, _)| &*partition.topic).collect();
        if topics.is_empty() {
            return Ok(());
        }
        let ids: Vec<i32> = self.reached.iter().map(|(partition, _)| partition.id).collect();
        let incarnations: Vec<&str> = self.reached.iter().map(|(_, reached)| reached.incarnation.as_str()).collect();
        let furthest = |get: fn(&Position) -> i64| of(&|reached| reached.furthest.as_ref().map(get));
        let seen = |get: fn(&Position) -> i64| of(&|reached| reached.seen.as_ref().map(get));
        work.execute(
            KEEP,
            &[
                &flow,
                &topics,
                &ids,
                &incarnations,
                &of(&|reached| Some(reached.next_offset)),
                &furthest(|position| position.commit),
                &furthest(|position| position.lsn),
                &furthest(|position| position.order),
                &of(&|reached| reached.committed_ms),
                &seen(|position| position.commit),
                &seen(|position| position.lsn),
                &seen(|position| position.order),
            ],
        )
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit: i64, lsn: i64) -> Option<Position> {
        Some(Position { commit, lsn, order: 0 })
    }

    fn reached() -> Reached {
        Reached { incarnation: "one".to_owned(), ..Reached::default() }
    }

    #[test]
    fn what_was_applied_is_stale_however_it_comes_again() {
        let mut reached = reached();
        // A snapshot, then a transaction that began first and was committed last.
        let stream = [(at(0, 50), 1), (at(0, 50), 2), (at(60, 80), 5), (at(90, 70), 6), (at(90, 75), 6)];
        for (offset, (position, at_ms)) in stream.iter().enumerate() {
            assert!(!reached.is_stale(offset as i64, *position, Some(*at_ms)), "{offset}");
        }
        let known = reached.clone();
        // From the start: by its offset. Sent again: by its place, all but what stands where the last one stands.
        for (offset, (position, at_ms)) in stream.iter().enumerate() {
            assert!(reached.is_stale(offset as i64, *position, Some(*at_ms)), "{offset}");
        }
        assert_eq!(reached.furthest, known.furthest);
        for (offset, (position, at_ms)) in stream.iter().enumerate() {
            let is_stale = reached.is_stale(offset as i64 + 10, *position, Some(*at_ms));
            assert_eq!(is_stale, offset < 4, "{offset}");
        }
        // A tombstone stands where its deletion stood.
        let mut again = known.clone();
        assert!(again.is_stale(20, at(60, 80), Some(5)) && again.is_stale(21, None, None));
        assert!(!again.is_stale(22, at(95, 100), Some(7)) && !again.is_stale(23, None, None));
    }

    #[test]
    fn another_source_counts_from_where_it_begins() {
        let mut reached = reached();
        assert!(!reached.is_stale(0, at(1000, 1001), Some(10)));
        assert!(!reached.is_stale(1, at(0, 5), Some(11)), "a later time at an earlier place");
        assert!(!reached.is_stale(2, at(6, 7), Some(12)));
        assert_eq!(reached.furthest, at(6, 7));
    }

    #[test]
    fn a_topic_without_an_incarnation_or_places_has_no_guard() {
        let mut reached = Reached::default();
        assert!(!reached.is_stale(5, None, None) && !reached.is_stale(5, None, None));
    }
}
