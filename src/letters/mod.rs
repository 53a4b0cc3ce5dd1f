//! What people do with letters: look at them, replay them through their flows, drop them. The command line and HTTP ask
//! for the same things in here; how that is written and shown is theirs. What a record becomes is its flow's affair, and
//! what a letter is PostgreSQL's (`pg/letters`).

pub mod moment;
pub mod service;
pub mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Cause, Fault};
use crate::flow::{self, Fate, Replay};
use crate::pg::letters::kept::{self, Filter, Found, Line, Span, State, Whole};
use crate::pg::{Database, Work};

/// Letters that are dealt with in one transaction: it should end before anybody waits long for one of them.
pub const STEP_MAX: usize = 100;
/// And what their records may take up in memory, but for the one that goes beyond it.
const STEP_BYTES_MAX: i64 = 8 << 20;
/// Of a key, a payload or a header: more is for tools that read the table.
const SHOWN_BYTES_MAX: usize = 64 << 10;
/// For a session: somebody waits for the answer.
const SESSION_WAIT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Replay,
    Drop,
}

/// What became of some letters, or would become of them.
#[derive(Debug, Default)]
pub struct Step {
    /// The last one that was looked at. None where none was left.
    pub last: Option<i64>,
    pub done: u64,
    pub refused: Vec<(i64, Cause)>,
    /// They were settled by somebody else meanwhile.
    pub settled: u64,
    /// How many were left alone because their flow does not run here, by flow.
    pub strange: BTreeMap<String, u64>,
    /// The flows that the others went through.
    pub flows: BTreeSet<String>,
}

impl Step {
    /// How many it dealt with.
    pub fn letters(&self) -> u64 {
        self.done + self.refused.len() as u64 + self.settled + self.strange.values().sum::<u64>()
    }
}

pub struct Letters {
    database: Database,
    flows: Vec<Arc<dyn Replay>>,
}

impl Letters {
    /// `flows`: those that letters can be replayed through.
    pub fn new(database: Database, flows: Vec<Arc<dyn Replay>>) -> Self {
        Letters { database, flows }
    }

    /// In the order of their ids.
    pub fn list(&self, filter: &Filter, span: Span) -> Result<Vec<Line>, Fault> {
        self.with_work(|work| kept::list(work, filter, span))
    }

    pub fn show(&self, id: i64) -> Result<Option<Whole>, Fault> {
        self.with_work(|work| kept::show(work, id, SHOWN_BYTES_MAX))
    }

    /// How many there are behind this id, and the last one's.
    pub fn count(&self, filter: &Filter, after: i64) -> Result<(u64, i64), Fault> {
        self.with_work(|work| kept::count(work, filter, after))
    }

    /// Deals with the next open letters of a span, `STEP_MAX` at most. A dry run only says what would become of them.
    /// On a fault some of them may be done: those that are not open any more are.
    pub fn step(&self, verb: Verb, filter: &Filter, span: Span, is_dry_run: bool) -> Result<Step, Fault> {
        let open = Filter { state: Some(State::Open), ..filter.clone() };
        let span = Span { limit: span.limit.min(STEP_MAX as i64), ..span };
        let found = self.with_work(|work| kept::find(work, &open, span))?;
        let found = &found[..fitting(&found)];
        let mut step = Step { last: found.last().map(|found| found.id), ..Step::default() };
        match verb {
            Verb::Replay => self.replay(found, is_dry_run, &mut step)?,
            Verb::Drop => self.drop(found, is_dry_run, &mut step)?,
        }
        Ok(step)
    }

    fn replay(&self, found: &[Found], is_dry_run: bool, step: &mut Step) -> Result<(), Fault> {
        for (name, ids) in by_flow(found) {
            let Some(flow) = self.flows.iter().find(|flow| flow.flow() == name) else {
                step.strange.insert(name.to_owned(), ids.len() as u64);
                continue;
            };
            let fates = flow.replay(&ids, is_dry_run)?;
            step.flows.insert(name.to_owned());
            step.settled += (ids.len() - fates.len()) as u64;
            for (id, fate) in fates {
                match fate {
                    Fate::Replayed => step.done += 1,
                    Fate::Refused(cause) => step.refused.push((id, cause)),
                }
            }
        }
        Ok(())
    }

    /// Marks them; nothing is deleted.
    fn drop(&self, found: &[Found], is_dry_run: bool, step: &mut Step) -> Result<(), Fault> {
        for (name, ids) in by_flow(found) {
            let open = match self.flows.iter().find(|flow| flow.flow() == name) {
                Some(flow) => {
                    step.flows.insert(name.to_owned());
                    flow.drop_letters(&ids, is_dry_run)?
                }
                None if flow::waits_for_letters(name) => {
                    step.strange.insert(name.to_owned(), ids.len() as u64);
                    continue;
                }
                None => self.with_work(|work| {
                    let open = kept::lock(work, &ids)?;
                    if !is_dry_run {
                        kept::settle(work, &open, State::Dropped)?;
                    }
                    Ok(open.len() as u64)
                })?,
            };
            step.done += open;
            step.settled += ids.len() as u64 - open;
        }
        Ok(())
    }

    /// Goes on with what waited for letters of these flows, until nothing more has its turn.
    pub fn go_on(&self, flows: &BTreeSet<String>) -> Result<(), Fault> {
        self.flows.iter().filter(|flow| flows.contains(flow.flow())).try_for_each(|flow| {
            while flow.go_on()? {}
            Ok(())
        })
    }

    fn with_work<T>(&self, ask: impl FnOnce(&mut Work<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.database.live_session(SESSION_WAIT)?.work(ask).map_err(told)
    }
}

fn by_flow(found: &[Found]) -> BTreeMap<&str, Vec<i64>> {
    let mut by_flow: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    found.iter().for_each(|found| by_flow.entry(&found.flow).or_default().push(found.id));
    by_flow
}

/// How many of them fit into one transaction; at least one.
fn fitting(found: &[Found]) -> usize {
    let mut bytes = 0;
    let fits = |found: &&Found| {
        bytes += found.bytes;
        bytes <= STEP_BYTES_MAX
    };
    found.iter().take_while(fits).count().max(1).min(found.len())
}

/// A table that is not there, or is of an older version, is no mystery.
fn told(fault: Fault) -> Fault {
    let cause = fault.cause();
    match &*cause.code {
        "pg.42P01" | "pg.42703" => {
            let text = format!("{}; `sluicegate init` makes the table of letters what it has to be", cause.text);
            Fault::retry(cause.code.clone(), text)
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_holds_what_fits_into_memory_and_at_least_one_letter() {
        let fitting = |bytes: &[i64]| {
            let found = |bytes: &i64| Found { id: 1, flow: String::new(), bytes: *bytes };
            super::fitting(&bytes.iter().map(found).collect::<Vec<_>>())
        };
        assert_eq!((fitting(&[]), fitting(&[1, 2]), fitting(&[STEP_BYTES_MAX + 1, 1])), (0, 2, 1));
        assert_eq!((fitting(&[STEP_BYTES_MAX, 1]), fitting(&[STEP_BYTES_MAX - 1, 1, 1])), (1, 2));
    }
}
