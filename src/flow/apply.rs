//! The only bridge between engine and PostgreSQL: begin, ledger rows locked and compared, the flow's effects,
//! letters, ledger moved, commit. No flow can forget a step of it. A COMMIT whose answer was lost is settled
//! by the next attempt, which finds its batches applied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::patience::Patience;
use super::{AGAIN, Flow};
use crate::engine::{Batch, Claim, Claims, Outcome, Rows, Sink, Wanted};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::pg::ledger::{Move, Standing};
use crate::pg::search::Search;
use crate::pg::{
    Database, FOREIGN_KEY_VIOLATION, LOCK_NOT_AVAILABLE, OBJECT_IN_USE, Session, Work, frozen, ledger, letters, outbox,
};
use crate::record::Record;
use crate::track::Track;

pub struct Apply<F> {
    pub(super) flow: F,
    pub(super) database: Database,
    /// Who claims, for people who look at the ledger.
    owner: String,
    /// False only to measure what the ledger costs: then a restart writes twice.
    exactly_once: bool,
    pub(super) track: Arc<Track>,
    patience: Patience,
    /// Who publishes and says nothing for so long is not waited for.
    pub(super) silence_max: Duration,
}

/// Where nobody says otherwise.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How the effects of batches are written.
type Effects<'e, F> = dyn Fn(&Apply<F>, &mut Work<'_>, &[&Batch<<F as Flow>::Rows>]) -> Result<(), Fault> + 'e;

/// Rows of one batch that PostgreSQL would not take, by offset.
pub(super) type Refused = Vec<(i64, Cause)>;

/// What a search has found.
pub(super) struct Found<'b, R: Rows> {
    /// One for each batch.
    pub refused: Vec<Refused>,
    /// What was refused at first, and has passed behind others.
    late: Vec<Refused>,
    /// Rows of batches that pass together, one such part after the other.
    passed: Vec<(&'b Batch<R>, Vec<usize>)>,
    /// They do so only if deferred constraints are asked behind each part.
    asks: bool,
}

impl<R: Rows> Found<'_, R> {
    pub fn is_nothing(&self) -> bool {
        self.refused.iter().all(Vec::is_empty)
    }

    /// Where nothing is refused, and yet what passes cannot be written as it does: what passed late. Nothing may have.
    pub fn or_late(self) -> Option<Vec<Refused>> {
        let refused = if self.is_nothing() { self.late } else { self.refused };
        refused.iter().any(|rows| !rows.is_empty()).then_some(refused)
    }

    /// Whether the rows of each batch pass in the order in which they were read.
    fn is_in_order(&self) -> bool {
        let mut behind: HashMap<*const Batch<R>, usize> = HashMap::new();
        self.passed.iter().all(|(batch, rows)| {
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return true };
            let before = behind.insert(std::ptr::from_ref(*batch), *last);
            before.is_none_or(|before| before < *first)
        })
    }
}

/// What a deferred constraint would only say at COMMIT, it says here.
pub(super) const ASK: &str = "SET CONSTRAINTS ALL IMMEDIATE";

impl<F: Flow> Apply<F> {
    pub fn new(flow: F, database: Database, owner: String, exactly_once: bool, track: Arc<Track>) -> Self {
        let patience = Patience::new(flow.name(), flow.patience());
        Apply { flow, database, owner, exactly_once, track, patience, silence_max: SILENCE_MAX }
    }

    pub fn with_silence_max(self, silence_max: Duration) -> Self {
        Apply { silence_max, ..self }
    }

    /// Creates what is missing, under a lock: several instances may start at once.
    pub fn create_tables(&self) -> Result<(), Fault> {
        let created = self.database.session()?.work(|work| {
            // Its waits end by the limit of locks, and an index of a large table may take long.
            work.run("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(hashtext('sluicegate'))")?;
            [ledger::CREATE, letters::CREATE, outbox::CREATE, &self.flow.tables()]
                .iter()
                .try_for_each(|sql| work.run(sql))
        });
        if created.as_ref().is_err_and(|fault| fault.cause().code == LOCK_NOT_AVAILABLE) {
            // Nobody else may be there to do it.
            frozen::end_silent(&self.database);
        }
        created
    }

    fn move_of<'b>(&self, batch: &'b Batch<F::Rows>) -> Move<'b> {
        Move { partition: batch.partition(), epoch: batch.claim.epoch, first: batch.first, next: batch.next }
    }

    /// One transaction: all effects of these batches, their letters, and the ledger.
    fn write(&self, session: &mut Session, batches: &[&Batch<F::Rows>]) -> Result<Vec<Outcome>, Fault> {
        self.write_by(session, batches, &|apply, work, due| apply.flow.write(work, due))
    }

    /// These rows of a batch.
    fn write_part(&self, work: &mut Work<'_>, batch: &Batch<F::Rows>, rows: &[usize]) -> Result<(), Fault> {
        let parts: Vec<Batch<F::Rows>> =
            rows.chunk_by(|row, next| row + 1 == *next).map(|rows| batch.part(rows[0]..rows[0] + rows.len())).collect();
        self.flow.write(work, &parts.iter().collect::<Vec<_>>())
    }

    fn write_by(
        &self,
        session: &mut Session,
        batches: &[&Batch<F::Rows>],
        effects: &Effects<'_, F>,
    ) -> Result<Vec<Outcome>, Fault> {
        let moves: Vec<Move<'_>> = batches.iter().map(|batch| self.move_of(batch)).collect();
        let mut work = session.begin()?;
        let standings = match self.exactly_once {
            true => ledger::check(&mut work, self.flow.name(), &moves)?,
            false => vec![Standing::Due; batches.len()],
        };
        let is_due = |index: &usize| standings[*index] == Standing::Due;
        let due: Vec<&Batch<F::Rows>> = (0..batches.len()).filter(is_due).map(|index| batches[index]).collect();
        if !due.is_empty() {
            effects(self, &mut work, &due)?;
            let set_aside = due.iter().flat_map(|batch| batch.letters.iter().map(|letter| (batch.partition(), letter)));
            letters::write(&mut work, self.flow.name(), set_aside)?;
            if self.exactly_once {
                ledger::advance(
                    &mut work,
                    self.flow.name(),
                    (0..batches.len()).filter(is_due).map(|index| &moves[index]),
                )?;
            }
        }
        failpoint::reach(Point::BeforeCommit)?;
        work.commit()?;
        failpoint::reach(Point::Committed)?;
        self.tell(session);
        let outcome = |standing: &Standing| match standing {
            Standing::Due | Standing::Applied => Outcome::Written,
            Standing::Fenced => Outcome::Fenced,
        };
        Ok(standings.iter().map(outcome).collect())
    }

    /// What a transaction says of itself counts once it is committed.
    pub(super) fn tell(&self, session: &Session) {
        session.tally().outcomes().for_each(|(outcome, records)| self.track.count(outcome, records));
        session.tally().letters().for_each(|(code, count)| self.track.count_letters(code, count));
        session.tally().lines().iter().for_each(|line| line.write(self.flow.name(), None, "set aside"));
        self.tell_wait(session);
    }

    /// But how long it waited counts in any case: the longest waits are those that were given up.
    fn tell_wait(&self, session: &Session) {
        let wait = session.tally().lock_wait;
        if !wait.is_zero() {
            self.track.lock_wait_seconds.record(wait);
        }
    }

    /// Finds the rows that PostgreSQL does not take, in a transaction that is then rolled back. What passes stays
    /// in it, so that a row is judged with all that come before it.
    pub(super) fn find_refused<'b>(
        &self,
        mut work: Work<'_>,
        batches: &[&'b Batch<F::Rows>],
    ) -> Result<Found<'b, F::Rows>, Fault> {
        // What a deferred constraint minds may be right by the end. It is asked only where nothing else is wrong.
        let unasked = match self.search(work.begin()?, batches, false) {
            Ok(found) if found.is_nothing() => Some(found),
            // A table whose rows such a constraint still waits for cannot be changed for the rows behind them.
            Err(fault) if fault.cause().code == OBJECT_IN_USE => None,
            found => return found,
        };
        let asked = self.search(work, batches, true)?;
        Ok(unasked.filter(|_| asked.is_nothing()).unwrap_or(asked))
    }

    /// `asks`: what a deferred constraint would only say at COMMIT, it has to say of each part. What it minds, or a foreign
    /// key that waits for nothing, is tried once more behind all the others, for as long as that helps: a row may come
    /// before the one that it needs.
    fn search<'b>(
        &self,
        mut work: Work<'_>,
        batches: &[&'b Batch<F::Rows>],
        asks: bool,
    ) -> Result<Found<'b, F::Rows>, Fault> {
        let mut suspects: Vec<Vec<usize>> = batches.iter().map(|batch| (0..batch.rows.len()).collect()).collect();
        let (mut passed, mut late) = (Vec::new(), None);
        loop {
            let (mut is_minded, mut left) = (false, Vec::new());
            for (batch, rows) in batches.iter().zip(&suspects) {
                let mut refused = Vec::new();
                let mut search = Search {
                    attempt: &mut |inner, range| {
                        let written = self.write_part(inner, batch, &rows[range.clone()]);
                        written.inspect_err(|fault| is_minded |= fault.cause().code == FOREIGN_KEY_VIOLATION)?;
                        if asks {
                            inner.run(ASK).inspect_err(|_| is_minded = true)?;
                        }
                        passed.push((*batch, rows[range].to_vec()));
                        Ok(())
                    },
                    is_theirs: &|fault| matches!(fault, Fault::Reject(_)),
                    found: &mut |at, fault| refused.push((rows[at], fault.into_cause())),
                };
                search.run(&mut work, 0..rows.len())?;
                left.push(refused);
            }
            let (before, now): (usize, usize) = (suspects.iter().map(Vec::len).sum(), left.iter().map(Vec::len).sum());
            let offset = |(batch, refused): (&&Batch<F::Rows>, &Vec<(usize, Cause)>)| {
                refused.iter().map(|(row, cause)| (batch.offsets[*row], cause.clone())).collect()
            };
            let refused: Vec<Refused> = batches.iter().zip(&left).map(offset).collect();
            if !is_minded || now == before {
                return Ok(Found { refused, late: late.unwrap_or_default(), passed, asks });
            }
            late.get_or_insert(refused);
            suspects = left.iter().map(|refused| refused.iter().map(|(row, _)| *row).collect()).collect();
        }
    }

    fn apply_in(&self, session: &mut Session, group: &[Batch<F::Rows>]) -> Result<Vec<Outcome>, Fault> {
        let all: Vec<&Batch<F::Rows>> = group.iter().collect();
        let rejection = match self.write(session, &all) {
            Err(Fault::Reject(cause)) => cause,
            result => return result,
        };
        let mut trial = session.begin()?;
        if self.exactly_once {
            // Whoever claims them must not have to wait for it, should this one freeze here.
            let moves: Vec<Move<'_>> = group.iter().map(|batch| self.move_of(batch)).collect();
            if ledger::check(&mut trial, self.flow.name(), &moves)?.contains(&Standing::Fenced) {
                // The rows of others are not to be kept from them. What is ours is read again.
                return Ok(vec![Outcome::Fenced; group.len()]);
            }
        }
        let found = self.find_refused(trial, &all)?;
        if found.is_nothing() && found.is_in_order() {
            // Each row passes, yet not all of them together: not a row's fault that could be named. They are written in
            // the parts in which they passed, as where two of them change places in an index; but never out of their order.
            let in_parts = |apply: &Self, work: &mut Work<'_>, due: &[&Batch<F::Rows>]| {
                let is_due = |batch: &Batch<F::Rows>| due.iter().any(|due| std::ptr::eq(*due, batch));
                for (batch, rows) in found.passed.iter().filter(|(batch, _)| is_due(batch)) {
                    apply.write_part(work, batch, rows)?;
                    if found.asks {
                        work.run(ASK)?;
                    }
                }
                Ok(())
            };
            return self.write_by(session, &all, &in_parts).map_err(|fault| match fault {
                Fault::Reject(_) => Fault::Retry(rejection),
                fault => fault,
            });
        }
        let is_late = found.is_nothing();
        let Some(refused) = found.or_late() else { return Err(Fault::Retry(rejection)) };
        let clean: Vec<&Batch<F::Rows>> =
            group.iter().zip(&refused).filter(|(_, refused)| refused.is_empty()).map(|(batch, _)| batch).collect();
        let mut written = match clean.is_empty() {
            true => Vec::new(),
            false => match self.write(session, &clean) {
                // They need some of those that are refused: they are read again, behind those.
                Err(Fault::Reject(_)) => vec![Outcome::Fenced; clean.len()],
                result => result?,
            },
        }
        .into_iter();
        let outcome = |(batch, refused): (&Batch<F::Rows>, Refused)| match refused.is_empty() {
            true => written.next().unwrap_or(Outcome::Fenced),
            // What it needs is behind it, and no other partition's.
            false if is_late => Outcome::Refused(refused),
            false => self.patience.outcome(batch.partition(), refused, |cause| self.flow.may_be_early(cause)),
        };
        Ok(group.iter().zip(refused).map(outcome).collect())
    }
}

impl<F: Flow> Sink for Apply<F> {
    type Rows = F::Rows;
    type Session = Option<Session>;

    #[inline]
    fn decode(&self, record: &Record<'_>, rows: &mut F::Rows) -> Result<(), Fault> {
        self.flow.decode(record, rows)
    }

    fn refusal(&self, cause: Cause) -> Fault {
        self.flow.refusal(cause)
    }

    #[inline]
    fn due_ms(&self, record: &Record<'_>) -> Option<u64> {
        self.flow.due_ms(record)
    }

    fn claim(&self, wanted: &[Wanted]) -> Result<Claims, Fault> {
        if wanted.is_empty() {
            return Ok(Claims::Made(Vec::new()));
        }
        ledger::claim(&self.database, self.flow.name(), &self.owner, wanted)
    }

    fn holds(&self, claims: &[(Arc<Claim>, i64)]) -> Result<Vec<bool>, Fault> {
        // Without the ledger there is nothing to hold against; that the server answers is still worth knowing.
        let held = self.database.session()?.work(|work| ledger::holds(work, self.flow.name(), claims))?;
        frozen::end_silent(&self.database);
        Ok(held.into_iter().map(|held| held || !self.exactly_once).collect())
    }

    fn apply(&self, session: &mut Option<Session>, group: &[Batch<F::Rows>]) -> Result<Vec<Outcome>, Fault> {
        let mut connected = match session.take() {
            Some(session) => session,
            None => self.database.session()?,
        };
        let result = match self.apply_in(&mut connected, group) {
            // Nothing was written, and a lane that is opened again decodes by what is known now.
            Err(Fault::Retry(cause)) if cause.code == AGAIN => Ok(vec![Outcome::Fenced; group.len()]),
            result => result,
        };
        if let Ok(outcomes) = &result {
            self.patience.note(group, outcomes, |cause| self.flow.may_be_early(cause));
        }
        // A session that failed is not trusted again: it may be one that can only read since a fail-over, or that
        // carries a setting of its time. A new one costs less than the pause before the next attempt.
        match result.is_ok() {
            true => *session = Some(connected),
            false => {
                self.tell_wait(&connected);
                connected.discard();
            }
        }
        result
    }

    fn commit_time(&self, session: &Option<Session>) -> Option<Duration> {
        session.as_ref().map(|session| session.tally().commit)
    }
}
