//! What becomes of each ticket: decided in the order in which they came, by where their orders stand. Nothing in here asks
//! PostgreSQL, so all of it can be tried without one; what a key is held by, and what was written before, it is told.

use std::collections::HashMap;

use super::group::Group;
use crate::config::{OnDisorder, OnFailure};
use crate::fault::Cause;
use crate::pg::held::{Behind, FOLLOWING, Head};

pub const GAP: &str = "tickets.gap";
pub const STEP_BACK: &str = "tickets.step_back";
pub const REPEAT: &str = "tickets.repeat";
/// Of a letter that is replayed before the one that its key waits for.
const WAITS: &str = "tickets.waits";

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub on_disorder: OnDisorder,
    pub on_failure: OnFailure,
}

impl Policy {
    fn blocks(&self, cause: &Cause) -> bool {
        match is_disorder(cause) {
            true => self.on_disorder == OnDisorder::Block,
            false => self.on_failure == OnFailure::Block,
        }
    }
}

fn is_disorder(cause: &Cause) -> bool {
    [GAP, STEP_BACK, REPEAT].contains(&&*cause.code)
}

/// Whether a key waits for tickets that come before its head, or has them parked and is at it.
pub fn is_gap(head: &Head) -> bool {
    head.reason_code == GAP || (head.reason_code == FOLLOWING && !head.name.is_empty())
}

/// Where an order stands in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// It has a row.
    pub is_known: bool,
    /// The highest that was written.
    pub sequence: i64,
    /// The highest that was dropped: up to it tickets may be missing.
    pub skip_to: i64,
}

impl Stand {
    pub fn behind(&self) -> Behind {
        Behind { number: self.sequence, floor: self.sequence.max(self.skip_to) }
    }
}

/// What is known of the keys of a group before it.
#[derive(Debug, Default)]
pub struct Books {
    pub heads: HashMap<Vec<u8>, Head>,
    pub stands: HashMap<Vec<u8>, Stand>,
    /// Tickets that were written before under a sequence of the group, as they would be copied.
    pub stored: HashMap<(Vec<u8>, i64), Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is the next one of its order.
    Written,
    /// It is written although some before it are missing,
    WrittenAhead,
    /// or although later ones have been.
    WrittenLate,
    /// It was written before, as it is.
    Duplicate,
    /// Its key is held back.
    Parked,
    Failed(Cause),
}

impl Step {
    pub fn is_written(&self) -> bool {
        matches!(self, Step::Written | Step::WrittenAhead | Step::WrittenLate)
    }

    /// What it is counted as.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Written => "processed",
            Step::WrittenAhead => "processed_gap",
            Step::WrittenLate => "processed_step_back",
            Step::Duplicate => "duplicate",
            Step::Parked => "parked",
            Step::Failed(cause) => match &*cause.code {
                GAP => "rejected_gap",
                STEP_BACK => "rejected_step_back",
                REPEAT => "rejected_repeat",
                code if code.starts_with("pg.") => "rejected_refused",
                _ => "rejected_invalid",
            },
        }
    }
}

/// An order while its tickets are looked at.
#[derive(Debug)]
pub struct Order {
    pub before: Stand,
    pub sequence: i64,
    /// The one that has this sequence, by its number in the group, if it is in it.
    pub newest: Option<usize>,
    pub head: Option<Head>,
    /// The head that it had is dealt with.
    pub is_freed: bool,
    pub has_new_head: bool,
    /// Of this group: sequence and number in the group.
    taken: Vec<(i64, usize)>,
}

#[derive(Debug)]
pub struct Plan<'g> {
    pub steps: Vec<Step>,
    pub orders: HashMap<&'g [u8], Order>,
}

impl<'g> Plan<'g> {
    /// `refused`: those that PostgreSQL has not taken, by their number in the group.
    pub fn new(group: &'g Group<'_>, books: &Books, policy: Policy, refused: &HashMap<usize, Cause>) -> Self {
        let mut plan = Plan { steps: Vec::with_capacity(group.len()), orders: HashMap::new() };
        for index in 0..group.len() {
            let key = group.key(index);
            let order = plan.orders.entry(key).or_insert_with(|| {
                let before = books.stands.get(key).copied().unwrap_or_default();
                Order {
                    before,
                    sequence: before.sequence,
                    newest: None,
                    head: books.heads.get(key).cloned(),
                    is_freed: false,
                    has_new_head: false,
                    taken: Vec::new(),
                }
            });
            let step = order.next(group, index, books, policy, refused.get(&index));
            plan.steps.push(step);
        }
        plan
    }

    /// Those that are to be copied, by their numbers.
    pub fn written(&self) -> Vec<usize> {
        (0..self.steps.len()).filter(|index| self.steps[*index].is_written()).collect()
    }

    pub fn failures(&self) -> impl Iterator<Item = (usize, &Cause)> {
        self.steps.iter().enumerate().filter_map(|(index, step)| match step {
            Step::Failed(cause) => Some((index, cause)),
            _ => None,
        })
    }
}

impl Order {
    /// Where it stops at a gap and parked ones may be what comes next, because something was written or the gap is new.
    pub fn gap(&self) -> Option<Behind> {
        let has_moved = self.has_new_head || self.sequence > self.before.sequence;
        let is_gap = has_moved && self.head.as_ref().is_some_and(is_gap);
        is_gap.then(|| Behind { number: self.sequence, floor: self.floor() })
    }

    /// Up to here nothing is missed.
    fn floor(&self) -> i64 {
        self.sequence.max(self.before.skip_to)
    }

    fn next(
        &mut self,
        group: &Group<'_>,
        index: usize,
        books: &Books,
        policy: Policy,
        refused: Option<&Cause>,
    ) -> Step {
        let sequence = match (&group.row(index).sequence, refused) {
            (Ok(sequence), None) => Ok(*sequence),
            (_, Some(cause)) => Err(cause.clone()),
            (Err(cause), None) => Err((**cause).clone()),
        };
        if group.is_replay() && self.head.as_ref().is_some_and(|head| head.name == group.source(index)) {
            self.head = None;
            self.is_freed = true;
        }
        if let Some(head) = &self.head {
            // Behind a gap whatever fills it goes on: what waits is what comes behind. One that PostgreSQL refuses is no
            // less the next one: parked, nobody would learn what is missing.
            let own = group.row(index).sequence.as_ref().ok();
            let is_next = own.is_some_and(|own| (self.sequence + 1..=self.floor() + 1).contains(own));
            let fills = is_gap(head) && is_next;
            if !fills && group.is_replay() {
                let text = match head.name.as_str() {
                    _ if head.reason_code == FOLLOWING => "what is parked of its key has its turn first".to_owned(),
                    name => format!("its key waits for the letter of {name}"),
                };
                return Step::Failed(Cause::new(WAITS, text));
            }
            if !fills {
                return Step::Parked;
            }
        }
        match sequence.and_then(|sequence| self.judge(group, index, books, policy, sequence)) {
            Ok(step) => step,
            Err(cause) => {
                // Behind a gap the key goes on waiting for what it waited for: else nothing could fill it any more.
                if policy.blocks(&cause) && self.head.is_none() {
                    self.head = Some(Head { name: group.source(index), reason_code: cause.code.to_string() });
                    self.has_new_head = true;
                }
                Step::Failed(cause)
            }
        }
    }

    fn judge(
        &mut self,
        group: &Group<'_>,
        index: usize,
        books: &Books,
        policy: Policy,
        sequence: i64,
    ) -> Result<Step, Cause> {
        let accepts = policy.on_disorder == OnDisorder::Accept;
        let missing = sequence - self.sequence - 1;
        let step = if missing == 0 {
            Step::Written
        } else if missing > 0 {
            if sequence > self.floor() + 1 && !accepts {
                let text = format!("tickets of its order that come before it are missing: {missing}");
                return Err(Cause::new(GAP, text));
            }
            Step::WrittenAhead
        } else {
            let here = self.taken.iter().find(|(taken, _)| *taken == sequence).map(|(_, other)| group.copy(*other));
            let there = || books.stored.get(&(group.key(index).to_vec(), sequence)).map(Vec::as_slice);
            match here.or_else(there) {
                Some(other) if other == group.copy(index) => return Ok(Step::Duplicate),
                Some(_) => {
                    return Err(Cause::new(REPEAT, "another ticket of its order was written under the same sequence"));
                }
                None if !accepts => {
                    return Err(Cause::new(STEP_BACK, "later tickets of its order have been written"));
                }
                None => Step::WrittenLate,
            }
        };
        if missing >= 0 {
            (self.sequence, self.newest) = (sequence, Some(index));
        }
        self.taken.push((sequence, index));
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Batch, Claim};
    use crate::fault::Fault;
    use crate::flow::tickets::rows::TicketRows;
    use crate::flow::tickets::ticket::Ticket;
    use crate::record::{NoHeaders, Partition, Record};

    const BLOCK: Policy = Policy { on_disorder: OnDisorder::Block, on_failure: OnFailure::Block };
    const SET_ASIDE: Policy = Policy { on_disorder: OnDisorder::SetAside, on_failure: OnFailure::SetAside };
    const ACCEPT: Policy = Policy { on_disorder: OnDisorder::Accept, on_failure: OnFailure::SetAside };

    /// Tickets by order, sequence and status; one with an empty status is none.
    fn batch(tickets: &[(&str, i64, &str)]) -> Batch<TicketRows> {
        let claim = Claim::new(Partition::new("t", 0), 1, 0);
        let mut batch = Batch::new(claim.clone(), 0);
        for (offset, (order, sequence, status)) in tickets.iter().enumerate() {
            let json = format!(
                r#"{{"ticket_id":"018f3f2e-7a2b-7c3d-8e4f-5a6b7c8d9e0f","order_id":"{order}","sequence":{sequence},"status":"{status}","customer_id":"c","price":1,"changed_at_ms":0}}"#
            );
            let record = Record {
                partition: &claim.partition,
                offset: offset as i64,
                timestamp_ms: None,
                key: Some(order.as_bytes()),
                payload: Some(json.as_bytes()),
                headers: &NoHeaders,
            };
            let add = |record: &Record<'_>, rows: &mut TicketRows| {
                let ticket = Ticket::read(record.payload.unwrap()).map_err(|_| Cause::new("tickets.invalid", "bad"));
                rows.add(record, ticket);
                Ok::<(), Fault>(())
            };
            batch.add(&record, add).unwrap();
        }
        batch
    }

    fn books(stands: &[(&str, i64)]) -> Books {
        let stand = |sequence| Stand { is_known: true, sequence, skip_to: 0 };
        let stands = stands.iter().map(|(key, sequence)| (key.as_bytes().to_vec(), stand(*sequence))).collect();
        Books { stands, ..Books::default() }
    }

    fn words(policy: Policy, books: &Books, tickets: &[(&str, i64, &str)]) -> Vec<&'static str> {
        let batch = batch(tickets);
        let batches = [&batch];
        let group = Group::of_batches(&batches);
        Plan::new(&group, books, policy, &HashMap::new()).steps.iter().map(Step::word).collect()
    }

    #[test]
    fn each_policy_does_what_it_says_with_what_is_out_of_order() {
        let books = books(&[("a", 3), ("b", 1)]);
        let tickets =
            [("a", 4, "x"), ("a", 6, "x"), ("b", 2, "x"), ("a", 2, "x"), ("a", 4, "x"), ("a", 4, "y"), ("a", 7, "x")];
        let (gap, back, repeat) = ("rejected_gap", "rejected_step_back", "rejected_repeat");
        assert_eq!(words(SET_ASIDE, &books, &tickets), ["processed", gap, "processed", back, "duplicate", repeat, gap]);
        assert_eq!(
            words(ACCEPT, &books, &tickets),
            ["processed", "processed_gap", "processed", "processed_step_back", "duplicate", repeat, "processed"]
        );
        assert_eq!(
            words(BLOCK, &books, &tickets),
            ["processed", gap, "processed", "parked", "parked", "parked", "parked"]
        );
    }

    #[test]
    fn a_blocked_key_takes_only_what_fills_the_gap_in_front_of_its_head() {
        let (mut books, at) =
            (books(&[("a", 3)]), |code: &str| Head { name: "t/0/9".into(), reason_code: code.into() });
        books.heads.insert(b"a".to_vec(), at(GAP));
        let tickets = [("a", 6, "x"), ("a", 4, "x"), ("a", 6, "x"), ("a", 5, "x")];
        assert_eq!(words(BLOCK, &books, &tickets), ["parked", "processed", "parked", "processed"]);
        books.heads.insert(b"a".to_vec(), at("tickets.invalid"));
        assert_eq!(words(BLOCK, &books, &tickets), ["parked"; 4]);
    }

    #[test]
    fn what_is_no_ticket_and_what_postgresql_refuses_stop_their_key_alone() {
        let tickets = [("a", 1, ""), ("a", 1, "x"), ("b", 1, "x"), ("b", 2, "x"), ("c", 1, "x")];
        let books = books(&[]);
        assert_eq!(
            words(BLOCK, &books, &tickets),
            ["rejected_invalid", "parked", "processed", "processed", "processed"]
        );
        let batch = batch(&tickets);
        let batches = [&batch];
        let group = Group::of_batches(&batches);
        let refused = HashMap::from([(2, Cause::new("pg.23514", "check"))]);
        let plan = Plan::new(&group, &books, BLOCK, &refused);
        let words: Vec<_> = plan.steps.iter().map(Step::word).collect();
        assert_eq!(words, ["rejected_invalid", "parked", "rejected_refused", "parked", "processed"]);
        assert_eq!((plan.written(), plan.failures().count()), (vec![4], 2));
        assert_eq!(plan.orders[&b"b"[..]].head.as_ref().map(|head| head.name.as_str()), Some("t/0/2"));
    }

    #[test]
    fn what_was_dropped_and_all_before_it_may_be_missing_and_nothing_else() {
        let mut books = books(&[("a", 3)]);
        books.stands.get_mut(&b"a"[..]).unwrap().skip_to = 5;
        let (ahead, gap) = ("processed_gap", "rejected_gap");
        assert_eq!(words(BLOCK, &books, &[("a", 6, "x"), ("a", 7, "x"), ("a", 9, "x")]), [ahead, "processed", gap]);
        assert_eq!(words(BLOCK, &books, &[("a", 7, "x")]), [gap], "6 was not dropped");
        let late = [("a", 4, "x"), ("a", 6, "x"), ("a", 8, "x")];
        assert_eq!(words(BLOCK, &books, &late), ["processed", ahead, gap], "4 uses nothing up");
        assert_eq!(words(BLOCK, &books, &[("a", 3, "x")]), ["rejected_step_back"], "back it goes no further");
        // Nor does a key that is stopped wait for it.
        books.heads.insert(b"a".to_vec(), Head { name: "t/0/9".into(), reason_code: GAP.into() });
        assert_eq!(
            words(BLOCK, &books, &[("a", 7, "x"), ("a", 6, "x"), ("a", 7, "x")]),
            ["parked", ahead, "processed"]
        );
    }

    #[test]
    fn what_fills_a_gap_and_is_refused_is_a_letter_and_the_key_waits_for_what_it_waited_for() {
        let tickets = [("a", 4, "x"), ("a", 1, "x"), ("a", 2, "x"), ("a", 3, "x")];
        let (books, batch) = (books(&[]), batch(&tickets));
        let batches = [&batch];
        let group = Group::of_batches(&batches);
        let refused = HashMap::from([(2, Cause::new("pg.23514", "check"))]);
        for policy in [BLOCK, Policy { on_failure: OnFailure::SetAside, ..BLOCK }] {
            let plan = Plan::new(&group, &books, policy, &refused);
            let words: Vec<_> = plan.steps.iter().map(Step::word).collect();
            assert_eq!(words, ["rejected_gap", "processed", "rejected_refused", "parked"]);
            let order = &plan.orders[&b"a"[..]];
            assert_eq!(order.head.as_ref().map(|head| head.name.as_str()), Some("t/0/0"));
            assert_eq!(order.gap(), Some(Behind { number: 1, floor: 1 }));
        }
    }

    #[test]
    fn what_was_written_before_is_compared_whole() {
        let mut books = books(&[("a", 3)]);
        let batch = batch(&[("a", 2, "x")]);
        books.stored.insert((b"a".to_vec(), 2), batch.rows.copy(0..1).to_vec());
        assert_eq!(words(BLOCK, &books, &[("a", 2, "x")]), ["duplicate"]);
        assert_eq!(words(SET_ASIDE, &books, &[("a", 2, "y")]), ["rejected_repeat"]);
    }
}
