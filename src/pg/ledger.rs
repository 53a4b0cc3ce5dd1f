//! The ledger: which offset comes next for each partition, and who may move it. A claim counts the owner
//! epoch up; a batch locks its rows, is compared with them, and moves them in the transaction that writes
//! its effects. Nothing else decides what has been applied.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Database, LOCK_NOT_AVAILABLE, Work, frozen};
use crate::engine::{Claim, Claims, Wanted};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::record::Partition;

/// Where a batch stands against the ledger, with the rows locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It comes next.
    Due,
    /// It has been applied: an earlier COMMIT went through and its answer was lost.
    Applied,
    /// Somebody else owns the partition, or it is not where the batch thinks.
    Fenced,
}

/// What the ledger needs to know of a batch.
#[derive(Clone, Debug)]
pub struct Move<'a> {
    pub partition: &'a Partition,
    pub epoch: i64,
    pub first: i64,
    pub next: i64,
}

pub const CREATE: &str = include_str!("../../sql/ledger/create.sql");
const LOCK: &str = include_str!("../../sql/ledger/lock.sql");
const INSERT: &str = include_str!("../../sql/ledger/insert.sql");
const CLAIM: &str = include_str!("../../sql/ledger/claim.sql");
const ADVANCE: &str = include_str!("../../sql/ledger/advance.sql");
const POSITIONS: &str = include_str!("../../sql/ledger/positions.sql");

struct Entry {
    next_offset: i64,
    owner_epoch: i64,
    incarnation: String,
}

fn columns<'a>(partitions: impl Iterator<Item = &'a Partition>) -> (Vec<&'a str>, Vec<i32>) {
    partitions.map(|partition| (&*partition.topic, partition.id)).unzip()
}

fn lock<'a>(
    work: &mut Work<'_>,
    flow: &str,
    partitions: impl Iterator<Item = &'a Partition>,
) -> Result<HashMap<(String, i32), Entry>, Fault> {
    let (topics, ids) = columns(partitions);
    let rows = work.query(LOCK, &[&flow, &topics, &ids])?;
    let entry =
        |row: &postgres::Row| Entry { next_offset: row.get(2), owner_epoch: row.get(3), incarnation: row.get(4) };
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), entry(row))).collect())
}

/// Locks the rows of these batches until the end of the transaction and says where each stands.
pub fn check(work: &mut Work<'_>, flow: &str, moves: &[Move<'_>]) -> Result<Vec<Standing>, Fault> {
    let entries = lock(work, flow, moves.iter().map(|batch| batch.partition))?;
    let standing = |batch: &Move<'_>| match entries.get(&(batch.partition.topic.to_string(), batch.partition.id)) {
        Some(entry) if entry.owner_epoch != batch.epoch => Standing::Fenced,
        Some(entry) if entry.next_offset == batch.first => Standing::Due,
        // Under our own epoch nobody else has moved the row, and we send one batch of a partition at a time.
        Some(entry) if entry.next_offset == batch.next => Standing::Applied,
        _ => Standing::Fenced,
    };
    Ok(moves.iter().map(standing).collect())
}

/// Moves the rows. They are locked and were compared, so anything but all of them is a broken ledger.
pub fn advance<'a>(
    work: &mut Work<'_>,
    flow: &str,
    moves: impl Iterator<Item = &'a Move<'a>> + Clone,
) -> Result<(), Fault> {
    let (topics, ids) = columns(moves.clone().map(|batch| batch.partition));
    let pick = |of: fn(&Move<'_>) -> i64| moves.clone().map(of).collect::<Vec<i64>>();
    let (first, next, epoch) = (pick(|batch| batch.first), pick(|batch| batch.next), pick(|batch| batch.epoch));
    let moved = work.execute(ADVANCE, &[&flow, &topics, &ids, &first, &next, &epoch])?;
    if moved != topics.len() as u64 {
        let text = format!("{moved} of {} locked ledger rows could be moved", topics.len());
        return Err(Fault::retry("ledger.compare_and_set", text));
    }
    Ok(())
}

/// Takes partitions over. Waits for what their former owner has in flight, and ends its session if that does
/// not come to an end by itself: then the owner is frozen, and what it holds can never be committed.
pub fn claim(database: &Database, flow: &str, owner: &str, wanted: &[Wanted]) -> Result<Claims, Fault> {
    let mut session = database.session()?;
    let claimed = session.attempt(|work| {
        // That it was a lock which was waited for is to be seen, whatever a statement may take otherwise.
        let lock_timeout_ms = database.options.claim_lock_timeout.as_millis();
        work.run(&format!("SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = 0"))?;
        let claims = claim_in(work, flow, owner, wanted)?;
        failpoint::reach(Point::InClaim)?;
        Ok(claims)
    });
    if claimed.as_ref().is_err_and(|fault| fault.cause().code == LOCK_NOT_AVAILABLE) {
        session.attempt(|work| frozen::end_holders(work, flow, wanted.iter().map(|wanted| &wanted.partition)))?;
    }
    if claimed.is_err() {
        session.discard();
    }
    claimed
}

fn claim_in(work: &mut Work<'_>, flow: &str, owner: &str, wanted: &[Wanted]) -> Result<Claims, Fault> {
    let partitions = || wanted.iter().map(|wanted| &wanted.partition);
    let key = |partition: &Partition| (partition.topic.to_string(), partition.id);
    let mut entries = lock(work, flow, partitions())?;
    if entries.len() < wanted.len() {
        let is_unseen = |wanted: &Wanted| !entries.contains_key(&key(&wanted.partition));
        let unseen: Vec<usize> = (0..wanted.len())
            .filter(|index| is_unseen(&wanted[*index]) && wanted[*index].first_offset.is_none())
            .collect();
        if !unseen.is_empty() {
            return Ok(Claims::Unseen(unseen));
        }
        for new in wanted.iter().filter(|wanted| is_unseen(wanted)) {
            let Partition { topic, id } = &new.partition;
            work.execute(INSERT, &[&flow, &&**topic, id, &new.incarnation, &new.first_offset])?;
        }
        entries = lock(work, flow, partitions())?;
    }

    let strangers = |wanted: &Wanted| {
        let known = entries.get(&key(&wanted.partition)).map_or("", |entry| entry.incarnation.as_str());
        !known.is_empty() && !wanted.incarnation.is_empty() && known != wanted.incarnation
    };
    let ours = || wanted.iter().filter(|wanted| !strangers(wanted));
    let (topics, ids) = columns(ours().map(|wanted| &wanted.partition));
    let incarnations: Vec<&str> = ours()
        .map(|wanted| match wanted.incarnation.as_str() {
            "" => entries.get(&key(&wanted.partition)).map_or("", |entry| entry.incarnation.as_str()),
            told => told,
        })
        .collect();
    let rows = work.query(CLAIM, &[&flow, &owner, &topics, &ids, &incarnations])?;
    let claimed: HashMap<(String, i32), (i64, i64)> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
    let made = wanted
        .iter()
        .map(|wanted| {
            if strangers(wanted) {
                return Ok(Err(recreated(flow, &wanted.partition)));
            }
            match claimed.get(&key(&wanted.partition)) {
                Some((next_offset, epoch)) => Ok(Ok(Claim::new(wanted.partition.clone(), *epoch, *next_offset))),
                None => {
                    Err(Fault::retry("ledger.row_missing", format!("{}: its ledger row went away", wanted.partition)))
                }
            }
        })
        .collect::<Result<_, Fault>>()?;
    Ok(Claims::Made(made))
}

/// Whether each claim still holds, with at least this offset applied. Takes no lock.
pub fn holds(work: &mut Work<'_>, flow: &str, claims: &[(Arc<Claim>, i64)]) -> Result<Vec<bool>, Fault> {
    let rows = work.query(POSITIONS, &[&flow])?;
    let known: HashMap<(String, i32), (i64, i64)> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
    let holds = |(claim, applied): &(Arc<Claim>, i64)| {
        let found = known.get(&(claim.partition.topic.to_string(), claim.partition.id));
        found.is_some_and(|(next_offset, epoch)| *epoch == claim.epoch && next_offset >= applied)
    };
    Ok(claims.iter().map(holds).collect())
}

fn recreated(flow: &str, partition: &Partition) -> Cause {
    let Partition { topic, id } = partition;
    Cause::new(
        "ledger.topic_recreated",
        format!(
            "topic \"{topic}\" was deleted and made again: offset numbers of partition {id} no longer mean what the ledger \
             says. To read the new topic from its start: DELETE FROM sluicegate_ledger WHERE flow = '{flow}' AND topic = \
             '{topic}', then restart"
        ),
    )
}
