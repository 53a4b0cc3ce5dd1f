//! Which keys are known to be gone, and since which place in the source's log. They are noted and asked for in the order of their
//! index: keys come by ids that are as good as random, and each by itself would be in a page of its own.

use std::collections::HashSet;

use postgres::types::Type;
use uuid::Uuid;

use super::array::Array;
use super::pending::At;
use crate::fault::Fault;
use crate::pg::Work;

const GONE: &str = include_str!("../../../sql/cdc/gone.sql");
const GONE_SINCE: &str = include_str!("../../../sql/cdc/gone_since.sql");

/// A key's id, and since which place.
type Since = ([u8; 16], i64);

/// These rows are gone. What has no place in the log cannot be told from what comes later.
pub fn note(work: &mut Work<'_>, target: i32, rows: &[At<'_>]) -> Result<(), Fault> {
    let place = |at: &At<'_>| Some((at.id_before(), at.row.lsn?));
    let places: Vec<Since> = rows.iter().filter_map(place).collect();
    match places.is_empty() {
        true => Ok(()),
        false => sorted(places, |places| work.call(GONE, &TYPES, &[Some(&target.to_be_bytes()), places[0], places[1]]))
            .map(drop),
    }
}

/// Of these rows, which are to be put, the ids of those that were deleted later.
pub fn since<'r, 'a: 'r>(
    work: &mut Work<'_>,
    target: i32,
    rows: impl Iterator<Item = &'r At<'a>>,
) -> Result<HashSet<[u8; 16]>, Fault> {
    let places: Vec<Since> = rows.filter_map(|at| Some((at.id_after(), at.row.lsn?))).collect();
    if places.is_empty() {
        return Ok(HashSet::new());
    }
    let found =
        sorted(places, |places| work.ask(GONE_SINCE, &TYPES, &[Some(&target.to_be_bytes()), places[0], places[1]]))?;
    Ok(found.iter().map(|row| row.get::<_, Uuid>(0).into_bytes()).collect())
}

const TYPES: [Type; 3] = [Type::INT4, Type::UUID_ARRAY, Type::PG_LSN_ARRAY];

fn sorted<T>(mut places: Vec<Since>, give: impl FnOnce([Option<&[u8]>; 2]) -> T) -> T {
    places.sort_unstable();
    let ids = Array::of_ids(places.iter().map(|(id, _)| Some(*id))).finish();
    let lsns = Array::of_places(places.iter().map(|(_, lsn)| Some(*lsn))).finish();
    give([Some(&ids), Some(&lsns)])
}
