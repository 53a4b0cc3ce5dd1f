//! Keys that are held back, and records of theirs that are parked, in tables: row locks keep both exact over instances.
//! What a head waits for, and in which form a record is parked, is the flow's affair.

use std::collections::HashMap;

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
const UNPARK: &str = include_str!("../../sql/held/unpark.sql");
const LEVEL: &str = include_str!("../../sql/held/level.sql");

/// What a key waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Original topic, partition and offset.
    pub name: String,
    /// Why it is one, where there is a code for that.
    pub reason_code: String,
}

/// How much a flow holds back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub keys: i64,
    pub records: i64,
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

/// Each of these keys waits for its head from now on, whatever it waited for before.
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

/// In their order.
pub fn park(work: &mut Work<'_>, flow: &str, keys: &[&[u8]], records: &[Vec<u8>]) -> Result<(), Fault> {
    match keys.is_empty() {
        true => Ok(()),
        false => work.execute(PARK, &[&flow, &keys, &records]).map(drop),
    }
}

/// The oldest parked records of a key: place and record of each.
pub fn parked(work: &mut Work<'_>, flow: &str, key: &[u8], limit: i64) -> Result<Vec<postgres::Row>, Fault> {
    work.query(PARKED, &[&flow, &key, &limit])
}

/// Parked records of these keys behind a place: key, place and record of each.
pub fn walk(
    work: &mut Work<'_>,
    flow: &str,
    keys: &[Vec<u8>],
    after: i64,
    limit: i64,
) -> Result<Vec<postgres::Row>, Fault> {
    work.query(WALK, &[&flow, &keys, &after, &limit])
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
    let level = |row: &postgres::Row| Level { keys: row.get(0), oldest_s: row.get(1), records: row.get(2) };
    Ok(rows.first().map(level).unwrap_or_default())
}
