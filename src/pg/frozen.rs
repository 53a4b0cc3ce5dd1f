//! Sessions whose process is frozen: its kernel still answers for it, and what they hold would be held until it wakes up.
//! Whoever is kept waiting ends them. What they had not committed is gone with that, and others do it again. Only sessions of
//! this program and of the same role are ever touched.

use std::time::Duration;

use super::{Database, SessionOptions, Work};
use crate::fault::Fault;
use crate::record::Partition;

const HOLDERS: &str = include_str!("../../sql/frozen/holders.sql");
const SILENT: &str = include_str!("../../sql/frozen/silent.sql");
const PUBLISHER: &str = include_str!("../../sql/frozen/publisher.sql");
const END: &str = "SELECT pg_terminate_backend($1)";

/// Between two statements, one of which may be on its way for long, a sound program takes no longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Where a statement may take as long as it likes.
const STATEMENT_MAX: Duration = Duration::from_secs(3600);

/// Those that keep a claim of these partitions waiting.
pub fn end_holders<'a>(
    work: &mut Work<'_>,
    flow: &str,
    partitions: impl Iterator<Item = &'a Partition>,
) -> Result<(), Fault> {
    let (topics, ids): (Vec<&str>, Vec<i32>) = partitions.map(|partition| (&*partition.topic, partition.id)).unzip();
    let holders = work.query(HOLDERS, &[&flow, &topics, &ids, &PAUSE_MAX.as_secs_f64()])?;
    end(work, &holders, "keeps partitions locked that are claimed")
}

/// Those that wait for their client in the middle of a statement, which the server itself counts as work. It is no trouble of
/// whoever looks where the server does not let it.
pub fn end_silent(database: &Database) {
    let SessionOptions { statement_timeout, idle_in_transaction_timeout, .. } = database.options;
    let statement_max = if statement_timeout.is_zero() { STATEMENT_MAX } else { statement_timeout };
    let silence_s = (idle_in_transaction_timeout + statement_max).as_secs_f64();
    let looked = database.session().and_then(|session| {
        session.work(|work| {
            let silent = work.query(SILENT, &[&silence_s])?;
            end(work, &silent, "has been silent in the middle of a statement")
        })
    });
    if let Err(fault) = looked {
        log::debug!("nobody was looked for that is frozen: {}", fault.cause());
    }
}

/// The one that may publish for the flow, where it has been silent for so long.
pub fn end_publisher(work: &mut Work<'_>, flow: &str, silence_max: Duration) -> Result<(), Fault> {
    let publisher = work.query(PUBLISHER, &[&flow, &silence_max.as_secs_f64()])?;
    end(work, &publisher, "published, and another one takes its place")
}

/// One that cannot be ended keeps no other from it.
fn end(work: &mut Work<'_>, sessions: &[postgres::Row], why: &str) -> Result<(), Fault> {
    for session in sessions {
        let pid: i32 = session.get(0);
        log::warn!("ending session {pid}: a frozen one {why}");
        let mut inner = work.begin()?;
        match inner.query(END, &[&pid]) {
            Ok(_) => inner.commit()?,
            Err(fault) => log::warn!("session {pid} cannot be ended: {}", fault.cause()),
        }
    }
    Ok(())
}
