//! Events: JSON in, and what the configured handlers make of it. Each message is processed once, however often it was
//! sent; one that fails for now comes again by way of the retry topics, one that fails for good is a letter and goes, with
//! its history, to the topic for dead letters.
//!
//! A group of records is one transaction. Which of them have been seen is guessed from memory, and everything is done by
//! the guess: copies, statements, letters, messages. Only then the flow's lock is taken and the guess held against what
//! others have committed meanwhile; it hardly ever fails, and then all of that is rolled back and done again under the
//! lock. So the lock is held for the ids and a COMMIT, not for a COPY.
//!
//! Where the order of a key counts, what comes behind a record that failed for now waits for it (`order`).

mod chain;
mod door;
mod group;
mod order;
mod retry;
mod rows;
mod value;

use std::collections::{HashMap, HashSet};
use std::time::UNIX_EPOCH;

use self::chain::{Chain, Effect, fields, spread};
pub use self::door::Door;
use self::group::Group;
use self::order::Holds;
use self::retry::{Messages, Retries, unfold};
pub use self::rows::EventRows;
use self::rows::{Fate, Id, MESSAGE_BYTES_MAX};
use crate::config;
use crate::config::handlers::Path;
use crate::engine::{Batch, Letter};
use crate::fault::{Cause, Fault};
use crate::flow::apply::ASK;
use crate::flow::packed::Unpacked;
use crate::flow::{Flow, Sample, json_schema};
use crate::outlet::Message;
use crate::pg::search::Search;
use crate::pg::seen::{self, Seen};
use crate::pg::{Work, held, letters, outbox};
use crate::record::{Partition, Record};
use crate::trace::{self, Trace};

pub const NAME: &str = "events";

pub struct Events {
    chain: Chain,
    retries: Retries,
    /// None where nobody looks for messages that were sent twice.
    seen: Option<Seen>,
    /// Codes of what may go better later, where a statement says it of one record.
    transient: Vec<String>,
    has_statements: bool,
    /// Whether a record that is tried again holds back later ones of its key.
    is_ordered: bool,
}

/// What becomes of a record in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Processed,
    Dropped,
    Duplicate,
    Retried,
    Dead,
    /// Its key is held back by an earlier record.
    Parked,
    /// It was parked and comes next, in a transaction of its own.
    Handed,
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Step::Processed => "processed",
            Step::Dropped => "dropped",
            Step::Duplicate => "duplicate",
            Step::Retried => "retried",
            Step::Dead => "sent_to_dlq",
            Step::Parked | Step::Handed => "parked",
        }
    }
}

impl Events {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let path = |text: &String| Path::read(text).map_err(|flaw| Cause::new("config.message_id", flaw.rule));
        let message_id = config.message_id.iter().map(path).collect::<Result<Vec<Path>, Cause>>()?;
        let mut chain = Chain::new(&config.handlers, &message_id, &config.table)?;
        chain.schema = json_schema(config)?;
        let retries = Retries {
            topics: config.retry_topics(),
            dead: config.dlq_topic.clone(),
            delay_ms: config.retry_delay.as_millis() as u64,
            factor: config.retry_delay_factor,
            jitter_percent: config.retry_jitter_percent,
        };
        let seen = config.dedupe.then(|| Seen::new(NAME, config.dedupe_window, config.dedupe_ids_max));
        let transient = config.transient_sqlstates.iter().map(|state| format!("pg.{state}")).collect();
        let has_statements = chain.effects.iter().any(|effect| matches!(effect, Effect::Sql { .. }));
        let is_ordered = config.ordering == config::Ordering::Key;
        Ok(Events { chain, retries, seen, transient, has_statements, is_ordered })
    }

    fn is_retry(&self, topic: &str) -> bool {
        self.retries.topics.iter().any(|retry| retry == topic)
    }

    /// Does everything by what is known, corrects what was not, and remembers what is done with.
    fn settle(&self, work: &mut Work<'_>, group: &Group<'_>, holds: &Holds) -> Result<Vec<Step>, Fault> {
        let Some(seen) = self.seen.as_ref().filter(|_| group.ids().any(|id| id.is_some())) else {
            return self.apply(work, group, holds, &vec![false; group.len()]);
        };
        if work.is_inner() {
            // A trial: what it adds must not be taken for committed.
            return self.apply(work, group, holds, &seen.repeats(group.ids()));
        }
        seen.open(work)?;
        let guess = seen.repeats(group.ids());
        let mut inner = work.begin()?;
        let steps = self.apply(&mut inner, group, holds, &guess)?;
        seen.lock(&mut inner)?;
        if seen.repeats(group.ids()) == guess {
            seen.add(&mut inner, &group.finished(&steps))?;
            return inner.commit().map(|()| steps);
        }
        // With the savepoint goes the lock.
        drop(inner);
        seen.lock(work)?;
        let steps = self.apply(work, group, holds, &seen.repeats(group.ids()))?;
        seen.add(work, &group.finished(&steps))?;
        Ok(steps)
    }

    /// The effects of all records that are no repeats, and the letters and messages of those that fail.
    fn apply(
        &self,
        work: &mut Work<'_>,
        group: &Group<'_>,
        holds: &Holds,
        repeats: &[bool],
    ) -> Result<Vec<Step>, Fault> {
        let (steps, failures) = self.handle_all(work, group, holds, repeats)?;
        let fate = |index: usize| failures.get(&index).unwrap_or(&group.row(index).fate);
        if group.is_replay() {
            // The letter is there already, and stays open.
            let again = (0..steps.len()).find_map(|index| match fate(index) {
                Fate::Transient(cause) | Fate::Permanent(cause) => Some(cause.clone()),
                Fate::Handled | Fate::Dropped => None,
            });
            if let Some(cause) = again {
                return Err(Fault::Reject(cause));
            }
        }
        let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let messages = group.batches.iter().map(|_| Messages::default()).collect();
        let mut told = Told { messages, letters: Vec::new() };
        for (index, step) in steps.iter().enumerate() {
            match (step, fate(index)) {
                (Step::Processed, _) => self.forward(group, index, &mut told),
                (Step::Retried, Fate::Transient(cause)) => self.again(group, index, cause, now_ms, &mut told),
                (Step::Dead, Fate::Transient(cause) | Fate::Permanent(cause)) => {
                    self.bury(group, index, cause, &mut told);
                }
                (Step::Handed, _) => self.hand_on(group, index, now_ms, &mut told),
                _ => {}
            }
        }
        letters::write(work, NAME, told.letters.iter().map(|(partition, letter)| (partition, letter)))?;
        let bodies = group.batches.iter().zip(told.messages);
        let bodies = bodies.map(|(batch, messages)| (batch.partition(), batch.first, messages.into_body()));
        outbox::put(work, NAME, bodies.filter(|(_, _, body)| !body.is_empty()))?;
        if self.is_ordered {
            order::keep(work, group, holds, &steps)?;
        }
        Ok(steps)
    }

    /// What becomes of each record, by what is known of it.
    fn plan(&self, group: &Group<'_>, holds: &Holds, repeats: &[bool], failures: &HashMap<usize, Fate>) -> Vec<Step> {
        let mut held: HashSet<&[u8]> = holds.heads.keys().map(Vec::as_slice).collect();
        let mut freed = HashSet::new();
        let step = |index: usize| {
            let row = group.row(index);
            let attempt = row.origin.as_ref().map_or(0, |origin| origin.attempt);
            let key = if self.is_ordered { group.key(index) } else { None };
            // Its time has come, and with it that of those behind it. One that was published twice may be in a group twice, and
            // what became of the first one counts.
            if let Some(key) = key.filter(|key| holds.is_head(group, index) && freed.insert(*key)) {
                held.remove(key);
            }
            let is_too_many = group.parked(index).is_some_and(|number| holds.parked.places[number].2);
            // One too many goes on as the head whatever it is: those behind it have not been read.
            if repeats[index] && !is_too_many {
                return Step::Duplicate;
            }
            if key.is_some_and(|key| held.contains(key)) {
                return Step::Parked;
            }
            let step = match failures.get(&index).unwrap_or(&row.fate) {
                _ if is_too_many => Step::Handed,
                Fate::Handled => Step::Processed,
                Fate::Dropped => Step::Dropped,
                Fate::Transient(_)
                    if self.retries.has_next(attempt) && group.packed(index).bytes() <= MESSAGE_BYTES_MAX =>
                {
                    Step::Retried
                }
                Fate::Transient(_) | Fate::Permanent(_) => Step::Dead,
            };
            if matches!(step, Step::Retried | Step::Handed) {
                held.extend(key);
            }
            step
        };
        (0..group.len()).map(step).collect()
    }

    /// Writes what can be written. A record that fails for now may hold back others of its key that were written behind
    /// it: then all of it is done again without those.
    fn handle_all(
        &self,
        work: &mut Work<'_>,
        group: &Group<'_>,
        holds: &Holds,
        repeats: &[bool],
    ) -> Result<(Vec<Step>, HashMap<usize, Fate>), Fault> {
        let mut failures = HashMap::new();
        loop {
            let steps = self.plan(group, holds, repeats, &failures);
            let mut handled = processed(&steps);
            let mut inner = work.begin()?;
            let found = self.handle(&mut inner, group, &handled)?;
            if found.is_empty() {
                return inner.commit().map(|()| (steps, failures));
            }
            handled.retain(|index| !found.contains_key(index));
            failures.extend(found);
            let steps = self.plan(group, holds, repeats, &failures);
            if processed(&steps) == handled {
                return inner.commit().map(|()| (steps, failures));
            }
        }
    }

    /// Rows and statements of these records. Gives those that PostgreSQL did not take.
    fn handle(&self, work: &mut Work<'_>, group: &Group<'_>, handled: &[usize]) -> Result<HashMap<usize, Fate>, Fault> {
        let mut failures = HashMap::new();
        let mut search = Search {
            attempt: &mut |work, items| self.write_all(work, group, &handled[items]),
            is_theirs: &|fault| self.failure(fault).is_some(),
            found: &mut |index, fault| {
                failures.extend(self.failure(&fault).map(|fate| (handled[index], fate)));
            },
        };
        search.run(work, 0..handled.len())?;
        Ok(failures)
    }

    /// Whether one record is to blame, and may do better later. All else is trouble that concerns every record.
    fn failure(&self, fault: &Fault) -> Option<Fate> {
        let cause = fault.cause();
        let is_raised = self.has_statements && cause.code.starts_with(RAISED);
        match fault {
            _ if self.has_statements && self.transient.iter().any(|code| *code == cause.code) => {
                Some(Fate::Transient(told_of(cause)))
            }
            Fault::Reject(_) => Some(Fate::Permanent(cause.clone())),
            _ if is_raised => Some(Fate::Permanent(told_of(cause))),
            _ => None,
        }
    }

    fn write_all(&self, work: &mut Work<'_>, group: &Group<'_>, records: &[usize]) -> Result<(), Fault> {
        let mut has_written = false;
        for (number, effect) in self.chain.effects.iter().enumerate() {
            match effect {
                Effect::Table { copy } => {
                    work.copy(copy, group.made_of_all(number, records).into_iter())?;
                    has_written = true;
                }
                Effect::Sql { sql, types } => {
                    for index in records {
                        let values = fields(group.made(number, *index)).expect("packed by decode");
                        work.call(sql, types, &values)?;
                    }
                    has_written = true;
                }
                Effect::Forward { .. } => {}
            }
        }
        match has_written {
            // What a deferred constraint would only say at COMMIT, it has to say here.
            true => work.run(ASK),
            false => Ok(()),
        }
    }

    fn forward(&self, group: &Group<'_>, index: usize, told: &mut Told) {
        for (number, effect) in self.chain.effects.iter().enumerate() {
            if let Effect::Forward { topic } = effect {
                let key = Unpacked(group.made(number, index)).field();
                told.messages_of(group, index).forwarded(topic, key, group.packed(index), &group.origin(index));
            }
        }
    }

    /// To be tried again later.
    fn again(&self, group: &Group<'_>, index: usize, cause: &Cause, now_ms: u64, told: &mut Told) {
        let (record, origin) = (group.packed(index), group.origin(index));
        let id = group.row(index).id.unwrap_or_default();
        let draw = spread(id, origin.offset as u64 ^ u64::from(origin.attempt) << 48);
        let (topic, due_ms) = self.retries.next(origin.attempt, now_ms, draw);
        let error = cause.to_string();
        told.messages_of(group, index).failed(topic, record, &origin, origin.attempt + 1, &error, Some(due_ms));
    }

    /// The same attempt again, at once, as the head of its key.
    fn hand_on(&self, group: &Group<'_>, index: usize, now_ms: u64, told: &mut Told) {
        let (record, origin) = (group.packed(index), group.origin(index));
        let topic = self.retries.topic(origin.attempt);
        told.messages_of(group, index).failed(topic, record, &origin, origin.attempt, "", Some(now_ms));
    }

    fn bury(&self, group: &Group<'_>, index: usize, cause: &Cause, told: &mut Told) {
        let (record, origin) = (group.packed(index), group.origin(index));
        let (topic, error) = (&self.retries.dead, cause.to_string());
        if record.bytes() <= MESSAGE_BYTES_MAX {
            told.messages_of(group, index).failed(topic, record, &origin, origin.attempt, &error, None);
        }
        let (partition, offset) = group.source(index);
        told.letters.push((partition, record.letter(group.row(index).timestamp_ms, offset, cause.clone())));
    }
}

/// Those that are to be written.
fn processed(steps: &[Step]) -> Vec<usize> {
    (0..steps.len()).filter(|index| steps[*index] == Step::Processed).collect()
}

/// What a function raises by itself, unless it says otherwise.
const RAISED: &str = "pg.P0";

/// The server's own words may repeat a value: of what goes into headers and letters the code is enough.
fn told_of(cause: &Cause) -> Cause {
    let state = cause.code.strip_prefix("pg.").unwrap_or(&cause.code).to_owned();
    Cause::new(cause.code.clone(), format!("the statement failed with SQLSTATE {state}"))
}

/// What a transaction has to say.
struct Told {
    /// By batch.
    messages: Vec<Messages>,
    letters: Vec<(Partition, Letter)>,
}

impl Told {
    /// What is said of a record that was parked goes with the first batch.
    fn messages_of(&mut self, group: &Group<'_>, index: usize) -> &mut Messages {
        let batch = group.places[index].batch;
        &mut self.messages[if batch < group.batches.len() { batch } else { 0 }]
    }
}

impl Flow for Events {
    type Rows = EventRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        format!("{}{}{}", self.chain.tables, seen::CREATE, held::CREATE)
    }

    fn inlets(&self) -> Vec<&str> {
        self.retries.topics.iter().map(String::as_str).collect()
    }

    fn outlets(&self) -> Vec<&str> {
        let dead = std::iter::once(self.retries.dead.as_str());
        self.retries.topics.iter().map(String::as_str).chain(dead).chain(self.chain.topics()).collect()
    }

    fn holds_keys(&self) -> bool {
        self.is_ordered
    }

    fn due_ms(&self, record: &Record<'_>) -> Option<u64> {
        self.is_retry(&record.partition.topic).then(|| retry::due_ms(record)).flatten()
    }

    fn decode(&self, record: &Record<'_>, rows: &mut EventRows) -> Result<(), Fault> {
        self.chain.decode(record, self.is_retry(&record.partition.topic), rows);
        Ok(())
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<EventRows>]) -> Result<(), Fault> {
        let group = Group::new(batches);
        if group.len() == 0 {
            return Ok(());
        }
        let holds = match self.is_ordered {
            true => Holds::read(work, &group, &self.chain)?,
            false => Holds::default(),
        };
        let group = group.with_parked(&holds);
        for step in self.settle(work, &group, &holds)? {
            work.count(step.word(), 1);
        }
        Ok(())
    }

    fn messages(&self, body: &[u8], _: &Partition, see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
        unfold(body, see)
            .ok_or_else(|| Fault::stop("outbox.malformed", "a row of sluicegate_outbox does not hold what was packed"))
    }
}

/// Made-up events: some users, three types.
pub struct Happenings {
    pub users: u64,
}

impl Sample for Happenings {
    fn key(&self, number: u64) -> Option<String> {
        Some(format!("user-{}", number % self.users))
    }

    fn payload(&self, number: u64, out: &mut Vec<u8>) {
        let kind = ["order.created", "order.paid", "order.shipped"][number as usize % 3];
        let (user, amount) = (number % self.users, number % 10_000);
        let text = format!(
            r#"{{"type":"{kind}","user":{{"id":"user-{user}"}},"order":{{"number":{number},"amount":{amount}.50}}}}"#
        );
        out.extend_from_slice(text.as_bytes());
    }

    fn headers(&self, _: u64) -> Vec<(&'static str, String)> {
        let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let id = Id::now_v7().to_string();
        let trace = Trace::begin(&id);
        vec![
            ("message_id", id),
            ("timestamp", now_ms.to_string()),
            ("source", "sluicegate produce".to_owned()),
            ("trace_id", trace.trace_id()),
            (trace::HEADER, trace.to_string()),
        ]
    }
}
