//! Parked tickets whose turn has come. Behind a head that is dealt with all of a key's have it, in the order in which they
//! were parked, until one of them stops the key again. Behind a gap those have it that come next by their numbers, in
//! whatever order they came.
//!
//! A key keeps its row in `pg/held` until nothing of it is parked any more: whoever waits for the row's lock meanwhile finds
//! the next head in it. How many follow in one transaction is bounded; a key with more goes on in others, and what comes of
//! it is parked until then.

use std::collections::BTreeMap;

use super::group::{Group, Parked};
use super::plan::Plan;
use super::{NAME, Tickets};
use crate::fault::Fault;
use crate::flow::Flow;
use crate::pg::Work;
use crate::pg::held::{self, Behind, Head};

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
        // Hardly ever more than some: these came before their time, one by one.
        while !turns.gapped.is_empty() {
            let rows = held::next(work, NAME, &turns.gapped)?;
            // Where none of them is a ticket any more by the rules of today, none of them fills anything.
            if rows.is_empty() || !self.take_turns(work, &rows, &mut turns)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives whether any of them is parked no more.
    fn take_turns(&self, work: &mut Work<'_>, rows: &[postgres::Row], turns: &mut Turns) -> Result<bool, Fault> {
        let mut parked = Parked::default();
        for row in rows {
            parked.add(row.get(1), row.get(2), |record, rows| self.decode(record, rows))?;
        }
        self.apply(work, &Group::of_parked(&parked), turns)
    }

    /// Goes on with some keys that had more than one transaction's. Gives whether there were any.
    pub fn go_on(&self, work: &mut Work<'_>) -> Result<bool, Fault> {
        let keys = held::following(work, NAME, KEYS_MAX)?;
        let is_any = !keys.is_empty();
        self.follow(work, Turns::of_freed(keys.into_iter()))?;
        Ok(is_any)
    }
}
