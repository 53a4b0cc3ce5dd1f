//! The outbox: what is to be published of a transaction is a row of it, and goes once it is acknowledged. Who reads it
//! reads what is committed and nothing else.

use std::time::Duration;

use postgres::Row;

use super::{Session, Work};
use crate::fault::Fault;
use crate::record::Partition;

pub const CREATE: &str = include_str!("../../sql/outbox/create.sql");
const PUT: &str = include_str!("../../sql/outbox/put.sql");
const FLUSH: &str = include_str!("../../sql/outbox/flush.sql");
const GUARD: &str = include_str!("../../sql/outbox/guard.sql");
const TAKE: &str = include_str!("../../sql/outbox/take.sql");
const DROP: &str = include_str!("../../sql/outbox/drop.sql");

/// Rows that are published together. One holds the messages of a batch, which may be thousands. After each such lot
/// everything is waited for, so it should be much more than is under way at once.
const ROWS_MAX: i64 = 16;

/// The messages of one batch, in the flow's own form.
pub struct Entry {
    id: i64,
    /// Where its records came from.
    pub from: Partition,
    pub body: Vec<u8>,
}

/// Adds rows: where the records came from, the first offset, and the messages.
pub fn put<'a>(
    work: &mut Work<'_>,
    flow: &str,
    entries: impl Iterator<Item = (&'a Partition, i64, Vec<u8>)>,
) -> Result<(), Fault> {
    let (mut topics, mut partitions, mut offsets, mut bodies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (from, first_offset, body) in entries {
        topics.push(&*from.topic);
        partitions.push(from.id);
        offsets.push(first_offset);
        bodies.push(body);
    }
    match bodies.is_empty() {
        true => Ok(()),
        false => work.execute(PUT, &[&flow, &topics, &partitions, &offsets, &bodies]).map(drop),
    }
}

/// Whether this session may publish for the flow: one does at a time, over all instances. It may until it ends.
pub fn guard(session: &mut Session, flow: &str) -> Result<bool, Fault> {
    let mut work = session.begin()?;
    let is_ours = work.query(GUARD, &[&flow])?.first().is_some_and(|row| row.get(0));
    work.commit().map(|()| is_ours)
}

/// Ends a silence.
pub fn say(session: &mut Session) -> Result<(), Fault> {
    session.begin()?.commit()
}

/// The oldest rows, in order, and the age of the first.
pub fn oldest(session: &mut Session, flow: &str) -> Result<(Vec<Entry>, Duration), Fault> {
    let mut work = session.begin()?;
    let rows = work.query(TAKE, &[&flow, &ROWS_MAX])?;
    work.commit()?;
    let age_s: f64 = rows.first().map_or(0.0, |row| row.get(4));
    let entry = |row: &Row| Entry {
        id: row.get(0),
        from: Partition::new(row.get::<_, String>(1), row.get(2)),
        body: row.get(3),
    };
    // A clock may have been set back.
    Ok((rows.iter().map(entry).collect(), Duration::from_secs_f64(age_s.max(0.0))))
}

/// They are published.
pub fn remove(session: &mut Session, entries: &[Entry]) -> Result<(), Fault> {
    if entries.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
    let mut work = session.begin()?;
    // What a crash of the server brings back is published again; to wait for the disk would keep it from the flow.
    work.run("SET LOCAL synchronous_commit = off")?;
    work.execute(DROP, &[&ids])?;
    work.commit()
}

/// Returns once all that is committed is on disk as well.
pub fn flush(session: &mut Session) -> Result<(), Fault> {
    let mut work = session.begin()?;
    work.run("SET LOCAL synchronous_commit = on")?;
    work.query(FLUSH, &[])?;
    work.commit()
}
