//! Keys that are held back, and records of theirs that are parked, in tables: row locks keep both exact over instances.
//! What a head waits for, and in which form a record is parked, is the flow's affair.

use std::collections::{BTreeMap, HashMap};

use super::Work;
use crate::fault::Fault;

pub const CREATE: &str = include_str!("../../sql/held/create.sql");
const ANY_HELD: &str = include_str!("../../sql/held/any_held.sql");
const LOCK_HELD: &str = include_str!("../../sql/held/lock_held.sql");
const HOLD: &str = include_str!("../../sql/held/hold.sql");
const RELEASE: &str = include_str!("../../sql/held/release.sql");
const PARK: &str = include_str!("../../sql/held/park.sql");
const PARKED: &str = include_str!("../../sql/held/parked.sql");
const WALK: &str = include_str!("../../sql/held/walk.sql");
const NEXT: &str = include_str!("../../sql/held/next.sql");
const FOLLOW: &str = include_str!("../../sql/held/following.sql");
const UNPARK: &str = include_str!("../../sql/held/unpark.sql");
const MARK: &str = include_str!("../../sql/held/mark.sql");
const LEVEL: &str = include_str!("../../sql/held/level.sql");
const COUNT: &str = include_str!("../../sql/held/count.sql");

/// Parked records of many keys that are in memory at once,
const PAGE_ROWS_MAX: i64 = 1_000;
/// and their bytes, but for the one that goes beyond it.
pub const PAGE_BYTES_MAX: i64 = 8 << 20;
/// The code of a key whose parked records have their turn, in more than one transaction. Without a name its head is dealt
/// with; with one, these are others than the head that have it.
pub const FOLLOWING: &str = "following";

/// What a key waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Original topic, partition and offset.
    pub name: String,
    /// Why it is one, where there is a code for that.
    pub reason_code: String,
}

impl Head {
    /// Of a key that waits for those that are parked already, and for nothing else.
    pub fn following() -> Head {
        Head { name: String::new(), reason_code: FOLLOWING.to_owned() }
    }
}

/// Records that are parked: the key, the record, and the number of each that has one, in their order.
#[derive(Default)]
pub struct ToPark<'k> {
    keys: Vec<&'k [u8]>,
    records: Vec<Vec<u8>>,
    numbers: Vec<Option<i64>>,
}

impl<'k> ToPark<'k> {
    pub fn add(&mut self, key: &'k [u8], record: Vec<u8>, number: Option<i64>) {
        self.keys.push(key);
        self.records.push(record);
        self.numbers.push(number);
    }
}

/// How many keys a flow holds back, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub keys: i64,
    pub oldest_s: i64,
}

/// Locks what is held of these keys.
pub fn lock<'k>(
    work: &mut Work<'_>,
    flow: &str,
    keys: impl FnOnce() -> Vec<&'k [u8]>,
) -> Result<HashMap<Vec<u8>, Head>, Fault> {
    let is_any: bool = work.query(ANY_HELD, &[&flow])?.first().is_some_and(|row| row.get(0));
    if !is_any {
        return Ok(HashMap::new());
    }
    let rows = work.lock(LOCK_HELD, &[&flow, &keys()])?;
    Ok(rows.iter().map(|row| (row.get(0), Head { name: row.get(1), reason_code: row.get(2) })).collect())
}

/// Each of these keys waits for its head from now on, whatever it waited for before. One that goes from one head to the next
/// is not released in between: others would take it for free.
pub fn hold<'k>(
    work: &mut Work<'_>,
    flow: &str,
    heads: impl Iterator<Item = (&'k [u8], &'k Head)>,
) -> Result<(), Fault> {
    let (mut keys, mut names, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for (key, head) in heads {
        keys.push(key);
        names.push(head.name.as_str());
        codes.push(head.reason_code.as_str());
    }
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(HOLD, &[&flow, &keys, &names, &codes]).map(drop),
    }
}

pub fn release(work: &mut Work<'_>, flow: &str, keys: &[&[u8]]) -> Result<(), Fault> {
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(RELEASE, &[&flow, &keys]).map(drop),
    }
}

pub fn park(work: &mut Work<'_>, flow: &str, parked: &ToPark<'_>) -> Result<(), Fault> {
    let ToPark { keys, records, numbers } = parked;
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(PARK, &[&flow, keys, records, numbers]).map(drop),
    }
}

/// The oldest parked records of a key behind a place: place and record of each. So many at most, and one that begins beyond
/// so many bytes.
pub fn parked(
    work: &mut Work<'_>,
    flow: &str,
    key: &[u8],
    after: i64,
    rows_max: i64,
    bytes_max: i64,
) -> Result<Vec<postgres::Row>, Fault> {
    work.query(PARKED, &[&flow, &key, &after, &rows_max, &bytes_max])
}

/// Parked records of these keys, of each those behind a place of its own: key, place and record of each, in their order.
pub fn walk(work: &mut Work<'_>, flow: &str, places: &BTreeMap<Vec<u8>, i64>) -> Result<Vec<postgres::Row>, Fault> {
    let (keys, places): (Vec<&[u8]>, Vec<i64>) = places.iter().map(|(key, place)| (key.as_slice(), *place)).unzip();
    work.query(WALK, &[&flow, &keys, &places, &PAGE_ROWS_MAX, &PAGE_BYTES_MAX])
}

/// The last number of a key that is done with, and the one up to which others may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub number: i64,
    pub floor: i64,
}

/// Parked records of these keys that come next by their numbers, in that order: key, place and record of each.
pub fn next(work: &mut Work<'_>, flow: &str, keys: &BTreeMap<Vec<u8>, Behind>) -> Result<Vec<postgres::Row>, Fault> {
    let (mut names, mut numbers, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    for (key, behind) in keys {
        names.push(key.as_slice());
        numbers.push(behind.number);
        floors.push(behind.floor);
    }
    work.query(NEXT, &[&flow, &names, &numbers, &floors, &PAGE_ROWS_MAX, &PAGE_BYTES_MAX])
}

/// Locks some of the keys whose parked records have their turn, but for those that somebody else has at hand.
pub fn following(work: &mut Work<'_>, flow: &str, keys_max: i64) -> Result<Vec<(Vec<u8>, Head)>, Fault> {
    let head = |row: &postgres::Row| Head { name: row.get(1), reason_code: FOLLOWING.to_owned() };
    Ok(work.query(FOLLOW, &[&flow, &keys_max])?.iter().map(|row| (row.get(0), head(row))).collect())
}

/// These keep their heads, and are held for this reason from now on.
pub fn mark(work: &mut Work<'_>, flow: &str, keys: &[&[u8]], reason_code: &str) -> Result<(), Fault> {
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(MARK, &[&flow, &keys, &reason_code]).map(drop),
    }
}

/// These have had their turn: key and place of each.
pub fn unpark(work: &mut Work<'_>, flow: &str, keys: &[&[u8]], places: &[i64]) -> Result<(), Fault> {
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(UNPARK, &[&flow, &keys, &places]).map(drop),
    }
}

pub fn level(work: &mut Work<'_>, flow: &str) -> Result<Level, Fault> {
    let rows = work.query(LEVEL, &[&flow])?;
    let level = |row: &postgres::Row| Level { keys: row.get(0), oldest_s: row.get(1) };
    Ok(rows.first().map(level).unwrap_or_default())
}

/// How many records are parked.
pub fn count(work: &mut Work<'_>, flow: &str) -> Result<i64, Fault> {
    Ok(work.query(COUNT, &[&flow])?.first().map(|row| row.get(0)).unwrap_or_default())
}
