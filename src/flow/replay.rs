//! Letters once more through their flow, each exactly once: what a record becomes, what it tells others and the state of
//! its letter are one transaction, in which nobody else can settle the letter. Kafka is not asked, and the ledger stays
//! where it is: it went past the record in the transaction that wrote the letter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::apply::ASK;
use super::{AGAIN, Apply, Flow};
use crate::engine::{Batch, Claim};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::pg::letters::Line;
use crate::pg::letters::kept::{self, Held, State};
use crate::pg::{Session, Work};
use crate::record::Record;

/// For a session: somebody waits for the answer.
const SESSION_WAIT: Duration = Duration::from_secs(3);
/// What records are about may turn out to be other than was thought, and one such thing may hide another.
const ATTEMPTS_MAX: usize = 8;

/// What became of a letter's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Replayed,
    /// The letter stays open, with one more line in its history.
    Refused(Cause),
}

/// A flow that letters can be replayed through. Made by `Apply`.
pub trait Replay: Send + Sync {
    fn flow(&self) -> &str;

    /// Applies the records of these letters in one transaction. Letters that are not open, or not of this flow, have no
    /// fate. A trial does all the same and takes it back. On a fault nothing was done, or, where only the answer to
    /// the COMMIT got lost, all of it: the letters' state says which.
    fn replay(&self, ids: &[i64], is_trial: bool) -> Result<BTreeMap<i64, Fate>, Fault>;

    /// Marks these letters as dropped, and lets go on what waited for them, in one transaction. Gives how many were open.
    fn drop_letters(&self, ids: &[i64], is_trial: bool) -> Result<u64, Fault>;

    /// Goes on with what waited for letters, where that is more than one transaction takes. Gives whether there was any. Where
    /// the flow runs it does so by itself.
    fn go_on(&self) -> Result<bool, Fault>;
}

/// Records as a partition would bring them: a batch of rows, and whose each row is.
struct Run<R> {
    batch: Batch<R>,
    ids: BTreeMap<i64, i64>,
}

impl<F: Flow> Apply<F> {
    /// Records that follow each other in one partition are a batch, and the order of all of them is that of their
    /// letters. What cannot be decoded goes to `refused`.
    fn runs(&self, held: &[Held], refused: &mut BTreeMap<i64, Cause>) -> Result<Vec<Run<F::Rows>>, Fault> {
        let mut runs: Vec<Run<F::Rows>> = Vec::new();
        for Held { id, partition, letter } in held {
            if refused.contains_key(id) {
                continue;
            }
            // A topic that was made again has its offsets twice.
            let follows = |run: &Run<F::Rows>| run.batch.partition() == partition && run.batch.next <= letter.offset;
            if !runs.last().is_some_and(follows) {
                // Epoch 0 is nobody's: no ledger row is moved under it.
                let claim = Claim::new(partition.clone(), 0, letter.offset);
                runs.push(Run { batch: Batch::new(claim, letter.offset), ids: BTreeMap::new() });
            }
            let Some(run) = runs.last_mut() else { continue };
            let record = Record {
                partition,
                offset: letter.offset,
                timestamp_ms: letter.timestamp_ms,
                key: letter.key.as_deref(),
                payload: letter.payload.as_deref(),
                headers: &letter.headers,
            };
            run.batch.add(&record, |record, rows| self.flow.decode(record, rows))?;
            match run.batch.letters.pop() {
                Some(again) => drop(refused.insert(*id, again.reason)),
                None => drop(run.ids.insert(letter.offset, *id)),
            }
        }
        Ok(runs)
    }

    /// All of the rows, or a fault and none. What a deferred constraint would only say at COMMIT, it has to say here.
    fn write_runs(&self, work: &mut Work<'_>, runs: &[Run<F::Rows>]) -> Result<(), Fault> {
        let batches: Vec<&Batch<F::Rows>> = runs.iter().map(|run| &run.batch).collect();
        let mut inner = work.begin()?;
        self.flow.write(&mut inner, &batches)?;
        inner.run(ASK)?;
        inner.commit()
    }

    fn replay_in(&self, session: &mut Session, ids: &[i64], is_trial: bool) -> Result<BTreeMap<i64, Fate>, Fault> {
        let mut work = session.begin()?;
        let open = kept::lock(&mut work, ids)?;
        let held = kept::read(&mut work, self.flow.name(), &open)?;
        let mut refused = BTreeMap::new();
        let mut runs = self.runs(&held, &mut refused)?;
        while let Err(fault) = self.write_runs(&mut work, &runs) {
            let Fault::Reject(rejection) = fault else { return Err(fault) };
            let batches: Vec<&Batch<F::Rows>> = runs.iter().map(|run| &run.batch).collect();
            let found = self.find_refused(work.begin()?, &batches)?;
            // Each may pass, yet not all of them together: no letter's fault that could be named.
            let Some(found) = found.or_late() else { return Err(Fault::Retry(rejection)) };
            for (run, found) in runs.iter().zip(found) {
                let of = |offset: i64| run.ids.get(&offset).copied();
                refused.extend(found.into_iter().filter_map(|(offset, cause)| Some((of(offset)?, cause))));
            }
            // Without these there may be others, which only a COMMIT minds.
            runs = self.runs(&held, &mut refused)?;
        }
        for Held { id, partition, letter } in &held {
            if let Some(reason) = refused.get(id) {
                Line::of(partition, letter, reason.clone()).write(self.flow.name(), Some(*id), "refused again");
            }
        }
        let replayed: Vec<i64> = held.iter().map(|held| held.id).filter(|id| !refused.contains_key(id)).collect();
        if !is_trial {
            kept::settle(&mut work, &replayed, State::Replayed)?;
            kept::note(&mut work, refused.iter().map(|(id, cause)| (*id, cause)))?;
            failpoint::reach(Point::BeforeCommit)?;
            work.commit()?;
            failpoint::reach(Point::Committed)?;
            self.tell(session);
        }
        let fates = replayed.into_iter().map(|id| (id, Fate::Replayed));
        Ok(fates.chain(refused.into_iter().map(|(id, cause)| (id, Fate::Refused(cause)))).collect())
    }
}

impl<F: Flow> Apply<F> {
    fn drop_in(&self, session: &mut Session, ids: &[i64], is_trial: bool) -> Result<u64, Fault> {
        let mut work = session.begin()?;
        let open = kept::lock(&mut work, ids)?;
        if is_trial {
            return Ok(open.len() as u64);
        }
        kept::settle(&mut work, &open, State::Dropped)?;
        if self.flow.holds_keys() {
            let held = kept::read(&mut work, self.flow.name(), &open)?;
            self.flow.dropped(&mut work, &held)?;
        }
        failpoint::reach(Point::BeforeCommit)?;
        work.commit()?;
        self.tell(session);
        Ok(open.len() as u64)
    }
}

impl<F: Flow> Replay for Apply<F> {
    fn flow(&self) -> &str {
        self.flow.name()
    }

    fn replay(&self, ids: &[i64], is_trial: bool) -> Result<BTreeMap<i64, Fate>, Fault> {
        let mut session = self.database.live_session(SESSION_WAIT)?;
        let mut attempt = 1;
        let fates = loop {
            match self.replay_in(&mut session, ids, is_trial) {
                // Nothing was written, and from now on records are read by what is known now.
                Err(Fault::Retry(cause)) if cause.code == AGAIN && attempt < ATTEMPTS_MAX => attempt += 1,
                fates => break fates,
            }
        };
        if fates.is_err() {
            session.discard();
        }
        fates
    }

    fn drop_letters(&self, ids: &[i64], is_trial: bool) -> Result<u64, Fault> {
        let mut session = self.database.live_session(SESSION_WAIT)?;
        let dropped = self.drop_in(&mut session, ids, is_trial);
        if dropped.is_err() {
            session.discard();
        }
        dropped
    }

    fn go_on(&self) -> Result<bool, Fault> {
        Apply::go_on(self)
    }
}
