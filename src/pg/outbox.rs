//! The outbox: what is to be published of a transaction is a row of it, and goes once it is acknowledged. Who reads it
//! reads what is committed and nothing else.

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

/// Hands the oldest rows to `publish`, and removes them when it succeeds. How many there were; none also when another
/// instance is at it.
pub fn take(
    session: &mut Session,
    flow: &str,
    publish: impl FnOnce(&[Entry]) -> Result<(), Fault>,
) -> Result<usize, Fault> {
    let mut work = session.begin()?;
    let mut is_ours = || Ok(work.query(GUARD, &[&flow])?.first().is_some_and(|row| row.get(0)));
    if !is_ours()? {
        return work.commit().map(|()| 0);
    }
    let entries: Vec<Entry> = work
        .query(TAKE, &[&flow, &ROWS_MAX])?
        .iter()
        .map(|row| Entry {
            id: row.get(0),
            from: Partition::new(row.get::<_, String>(1), row.get(2)),
            body: row.get(3),
        })
        .collect();
    if !entries.is_empty() {
        publish(&entries)?;
        let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
        work.execute(DROP, &[&ids])?;
    }
    work.commit()?;
    Ok(entries.len())
}

/// Returns once all that is committed is on disk as well.
pub fn flush(session: &mut Session) -> Result<(), Fault> {
    let mut work = session.begin()?;
    work.run("SET LOCAL synchronous_commit = on")?;
    work.query(FLUSH, &[])?;
    work.commit()
}
