//! The order of a key: while one of its records waits to be tried again, it is the head, and later ones are parked in a
//! table. With the head's fate comes their turn, in the same transaction, until one of them fails for now and is the next
//! head. Row locks keep that exact over instances; nothing of it is in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chain::Chain;
use super::group::Group;
use super::retry::{Messages, SOURCE, unfold};
use super::rows::{EventRows, MESSAGE_BYTES_MAX};
use super::{NAME, Step};
use crate::fault::Fault;
use crate::outlet::Message;
use crate::pg::Work;
use crate::pg::held::{self, Head, PAGE_BYTES_MAX, ToPark};
use crate::record::{Headers, Partition, Record};

/// Parked records whose turn comes in one transaction, and how many bytes they may have but for the last one. Where there are
/// more, the next one is made a head, and goes the way of those that are tried again, due at once. Memory: so many bytes, and
/// a message for each head of the group.
const TURNS_MAX: usize = 1_000;
const TURNS_BYTES_MAX: i64 = PAGE_BYTES_MAX;

/// What is held of the keys of a group, with the rows locked, and the parked records whose turn may come.
#[derive(Default)]
pub struct Holds {
    pub heads: HashMap<Vec<u8>, Head>,
    pub parked: Parked,
}

/// Parked records, decoded again.
#[derive(Default)]
pub struct Parked {
    pub rows: EventRows,
    /// Of each: its key, its place in the table, and whether it is one too many for this transaction.
    pub places: Vec<(Vec<u8>, i64, bool)>,
}

impl Holds {
    /// Locks what is held of these keys, and reads what is parked behind the heads that are in the group.
    pub fn read(work: &mut Work<'_>, group: &Group<'_>, chain: &Chain) -> Result<Holds, Fault> {
        let mut holds = Holds::default();
        let keys = || {
            let keys: BTreeSet<&[u8]> = (0..group.len()).filter_map(|index| group.key(index)).collect();
            keys.into_iter().collect()
        };
        holds.heads = held::lock(work, NAME, keys)?;
        if holds.heads.is_empty() {
            return Ok(holds);
        }
        let mut turns = Turns { rows: TURNS_MAX, bytes: TURNS_BYTES_MAX };
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        for index in 0..group.len() {
            let Some(key) = group.key(index).filter(|_| holds.is_head(group, index)) else { continue };
            if seen.insert(key) {
                let rows = turns.parked(work, key)?;
                let mut before = 0;
                for (number, row) in rows.iter().enumerate() {
                    let is_too_many = number + 1 == rows.len() && !turns.has(number, before) && !is_too_large(row);
                    holds.parked.add(chain, key, row.get(0), row.get(1), is_too_many)?;
                    before += bytes(row);
                }
                turns = Turns { rows: turns.rows.saturating_sub(rows.len()), bytes: turns.bytes - before };
            }
        }
        Ok(holds)
    }

    /// Whether this record is the one that its key waits for.
    pub fn is_head(&self, group: &Group<'_>, index: usize) -> bool {
        if self.heads.is_empty() {
            return false;
        }
        let head = group.key(index).and_then(|key| self.heads.get(key));
        head.is_some_and(|head| group.row(index).origin.as_ref().is_some_and(|origin| origin.name() == head.name))
    }
}

/// What still has its turn in a transaction.
struct Turns {
    rows: usize,
    bytes: i64,
}

impl Turns {
    /// Whether one of a key does that comes behind so many others of so many bytes.
    fn has(&self, number: usize, before: i64) -> bool {
        number < self.rows && before < self.bytes
    }

    /// The oldest parked records of a key: as many as have their turn, and one more. That one has to go through a topic: where
    /// it is too large, it has its turn as well.
    fn parked(&self, work: &mut Work<'_>, key: &[u8]) -> Result<Vec<postgres::Row>, Fault> {
        let mut rows = held::parked(work, NAME, key, i64::MIN, self.rows as i64 + 1, self.bytes)?;
        let mut before: i64 = rows.iter().rev().skip(1).map(bytes).sum();
        while let Some(last) = rows.last().filter(|last| is_too_large(last) && !self.has(rows.len() - 1, before)) {
            before += bytes(last);
            let next = held::parked(work, NAME, key, last.get(0), 1, 0)?;
            if next.is_empty() {
                break;
            }
            rows.extend(next);
        }
        Ok(rows)
    }
}

fn bytes(row: &postgres::Row) -> i64 {
    row.get::<_, &[u8]>(1).len() as i64
}

fn is_too_large(row: &postgres::Row) -> bool {
    bytes(row) > MESSAGE_BYTES_MAX as i64
}

impl Parked {
    fn add(&mut self, chain: &Chain, key: &[u8], seq: i64, body: &[u8], is_too_many: bool) -> Result<(), Fault> {
        let shown = unfold(body, &mut |message| {
            let partition = Partition::new("", 0);
            let (key, payload, headers) = (message.key, message.payload, &Unfolded(&message));
            let record = Record { partition: &partition, offset: 0, timestamp_ms: None, key, payload, headers };
            chain.decode(&record, true, &mut self.rows);
        });
        shown
            .ok_or_else(|| Fault::retry("events.parked", "a row of sluicegate_parked does not hold what was packed"))?;
        self.places.push((key.to_vec(), seq, is_too_many));
        Ok(())
    }
}

/// The headers of a record that was parked, as if it came out of a retry topic.
struct Unfolded<'a>(&'a Message<'a>);

impl Headers for Unfolded<'_> {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        see(SOURCE, self.0.source.map(str::as_bytes));
        self.0.headers.iter().for_each(|(name, value)| see(name, *value));
    }
}

/// Writes down what became of the keys: who is held by whom now, and who is parked.
pub fn keep(work: &mut Work<'_>, group: &Group<'_>, holds: &Holds, steps: &[Step]) -> Result<(), Fault> {
    // By key: its head when all is done.
    let mut heads: BTreeMap<&[u8], Option<Head>> = BTreeMap::new();
    let mut to_park = ToPark::default();
    let (mut unpark_keys, mut unpark_places) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        let Some(key) = group.key(index) else { continue };
        let parked = group.parked(index).map(|number| &holds.parked.places[number]);
        match step {
            Step::Retried | Step::Handed => {
                let head = Head { name: group.origin(index).name(), reason_code: String::new() };
                drop(heads.insert(key, Some(head)));
            }
            Step::Parked if parked.is_none() => {
                let mut packed = Messages::default();
                let origin = group.origin(index);
                packed.failed("", group.packed(index), &origin, origin.attempt, "", None);
                to_park.add(key, packed.into_body(), None);
            }
            // Of a record that was published twice the second one is no head any more.
            _ if holds.is_head(group, index) => drop(heads.entry(key).or_insert(None)),
            _ => {}
        }
        if let Some((_, place, _)) = parked.filter(|_| *step != Step::Parked) {
            unpark_keys.push(key);
            unpark_places.push(*place);
        }
    }
    held::unpark(work, NAME, &unpark_keys, &unpark_places)?;
    held::hold(work, NAME, heads.iter().filter_map(|(key, head)| Some((*key, head.as_ref()?))))?;
    let released: Vec<&[u8]> = heads.iter().filter(|(_, head)| head.is_none()).map(|(key, _)| *key).collect();
    held::release(work, NAME, &released)?;
    held::park(work, NAME, &to_park)
}
