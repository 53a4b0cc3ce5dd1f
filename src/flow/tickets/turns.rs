//! Parked tickets whose turn has come. Behind a head that is dealt with all of a key's have it, in the order in which they
//! were parked, until one of them stops the key again. Behind a gap those have it that come next by their numbers, in
//! whatever order they came.
//!
//! A key keeps its row in `pg/held` until nothing of it is parked any more: whoever waits for the row's lock meanwhile finds
//! the next head in it. How many follow in one transaction is bounded; a key with more goes on in others, and what comes of
//! it is parked until then. One that cannot go on keeps no other from it.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{Group, Parked};
use super::plan::{GAP, Plan, is_gap};
use super::{NAME, TicketRows, Tickets, order_id};
use crate::fault::Fault;
use crate::pg::Work;
use crate::pg::held::{self, Behind, Head};
use crate::record::Record;

/// Pages of parked records in one transaction: the key is locked for as long.
const PAGES_MAX: usize = 10;
/// Keys that go on in one transaction.
const KEYS_MAX: i64 = 100;

/// Keys of which parked tickets have their turn.
#[derive(Default)]
pub struct Turns {
    /// Whose head is dealt with, and up to which place their parked ones have had their turn.
    pub freed: BTreeMap<Vec<u8>, i64>,
    /// Which stop at a gap, and what is before it.
    pub gapped: BTreeMap<Vec<u8>, Behind>,
}

impl Turns {
    pub fn of_freed(keys: impl Iterator<Item = Vec<u8>>) -> Turns {
        Turns { freed: keys.map(|key| (key, i64::MIN)).collect(), gapped: BTreeMap::new() }
    }

    /// What came of some tickets of these and other keys.
    pub fn note(&mut self, plan: &Plan<'_>) {
        for (key, order) in &plan.orders {
            if order.head.is_some() {
                self.freed.remove(*key);
            } else if order.is_freed {
                self.freed.entry(key.to_vec()).or_insert(i64::MIN);
            }
            self.gapped.extend(order.gap().map(|behind| (key.to_vec(), behind)));
        }
    }
}

impl Tickets {
    /// As many as may in one transaction.
    pub fn follow(&self, work: &mut Work<'_>, mut turns: Turns) -> Result<(), Fault> {
        let mut pages = 0;
        while !turns.freed.is_empty() {
            if pages == PAGES_MAX {
                let following = Head::following();
                held::hold(work, NAME, turns.freed.keys().map(|key| (key.as_slice(), &following)))?;
                turns.freed.clear();
                break;
            }
            pages += 1;
            let rows = held::walk(work, NAME, &turns.freed)?;
            if rows.is_empty() {
                held::release(work, NAME, &turns.freed.keys().map(Vec::as_slice).collect::<Vec<_>>())?;
                turns.freed.clear();
                break;
            }
            for row in &rows {
                turns.freed.insert(row.get(0), row.get(1));
            }
            self.take_turns(work, &rows, &mut turns)?;
        }
        while !turns.gapped.is_empty() && pages < PAGES_MAX {
            pages += 1;
            let rows = held::next(work, NAME, &turns.gapped)?;
            let waits: BTreeSet<Vec<u8>> = if rows.is_empty() {
                turns.gapped.keys().cloned().collect()
            } else if self.take_turns(work, &rows, &mut turns)? {
                continue;
            } else {
                // None of these is a ticket any more by the rules of today, so none of them fills anything.
                rows.iter().map(|row| row.get(0)).collect()
            };
            held::mark(work, NAME, &waits.iter().map(Vec::as_slice).collect::<Vec<_>>(), GAP)?;
            turns.gapped.retain(|key, _| !waits.contains(key));
        }
        held::mark(work, NAME, &turns.gapped.keys().map(Vec::as_slice).collect::<Vec<_>>(), held::FOLLOWING)
    }

    /// Gives whether any of them is parked no more.
    fn take_turns(&self, work: &mut Work<'_>, rows: &[postgres::Row], turns: &mut Turns) -> Result<bool, Fault> {
        let mut parked = Parked::default();
        for row in rows {
            let read = |record: &Record<'_>, rows: &mut TicketRows| {
                rows.add(record, self.read(record, record.key.unwrap_or_default()));
            };
            parked.add(row.get(1), row.get(2), read)?;
        }
        self.apply(work, &Group::of_parked(&parked), turns)
    }

    /// Goes on with some keys that had more than one transaction's. Gives whether any did.
    pub fn go_on(&self, work: &mut Work<'_>) -> Result<bool, Fault> {
        let keys = held::following(work, NAME, KEYS_MAX)?;
        let mut trouble = match self.go_on_with(work, &keys) {
            Ok(()) => return Ok(!keys.is_empty()),
            Err(fault) => fault,
        };
        let mut is_any = false;
        for key in keys.chunks(1).filter(|_| keys.len() > 1) {
            match self.go_on_with(work, key) {
                Ok(()) => is_any = true,
                Err(fault) => trouble = fault,
            }
        }
        // What keeps one of them is told once the others are through.
        if is_any { Ok(true) } else { Err(trouble) }
    }

    /// With all of these, or with none of them.
    fn go_on_with(&self, work: &mut Work<'_>, keys: &[(Vec<u8>, Head)]) -> Result<(), Fault> {
        let mut inner = work.begin()?;
        let (gapped, freed): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, head)| is_gap(head));
        let mut turns = Turns::of_freed(freed.iter().map(|(key, _)| key.clone()));
        let ids: Vec<&str> = gapped.iter().filter_map(|(key, _)| order_id(key)).collect();
        if !ids.is_empty() {
            let stands = self.stands(&mut inner, &ids)?;
            turns.gapped = gapped
                .iter()
                .map(|(key, _)| (key.clone(), stands.get(key).copied().unwrap_or_default().behind()))
                .collect();
        }
        self.follow(&mut inner, turns)?;
        inner.commit()
    }
}
