//! Events: JSON in, and what the configured handlers make of it. Each message is processed once, however often it was
//! sent; one that fails for now comes again by way of the retry topics, one that fails for good is a letter and goes, with
//! its history, to the topic for dead letters.
//!
//! A group of records is one transaction. Which of them have been seen is guessed from memory, and everything is done by
//! the guess: copies, statements, letters, messages. Only then the flow's lock is taken and the guess held against what
//! others have committed meanwhile; it hardly ever fails, and then all of that is rolled back and done again under the
//! lock. So the lock is held for the ids and a COMMIT, not for a COPY.

mod chain;
mod retry;
mod rows;
mod value;

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use self::chain::{Chain, Effect, fields, spread};
use self::retry::{Messages, Origin, Retries, unfold};
pub use self::rows::EventRows;
use self::rows::{Fate, Id, Row};
use crate::config;
use crate::config::handlers::Path;
use crate::engine::{Batch, Letter, Rows};
use crate::fault::{Cause, Fault};
use crate::flow::Flow;
use crate::outlet::Message;
use crate::pg::search::Search;
use crate::pg::seen::{self, Seen};
use crate::pg::{Work, letters, outbox};
use crate::record::{Partition, Record};

pub const NAME: &str = "events";

pub struct Events {
    chain: Chain,
    retries: Retries,
    /// None where nobody looks for messages that were sent twice.
    seen: Option<Seen>,
    /// Codes of what may go better later, where a statement says it of one record.
    transient: Vec<String>,
    has_statements: bool,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Processed,
    Dropped,
    Duplicate,
    Retried,
    Dead,
}

impl Done {
    fn word(self) -> &'static str {
        match self {
            Done::Processed => "processed",
            Done::Dropped => "dropped",
            Done::Duplicate => "duplicate",
            Done::Retried => "retried",
            Done::Dead => "sent_to_dlq",
        }
    }
}

impl Events {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let path = |text: &String| Path::read(text).map_err(|flaw| Cause::new("config.message_id", flaw.rule));
        let message_id = config.message_id.iter().map(path).collect::<Result<Vec<Path>, Cause>>()?;
        let chain = Chain::new(&config.handlers, &message_id, &config.table)?;
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
        Ok(Events { chain, retries, seen, transient, has_statements })
    }

    fn is_retry(&self, topic: &str) -> bool {
        self.retries.topics.iter().any(|retry| retry == topic)
    }

    /// Does everything by what is known, corrects what was not, and remembers what is done with.
    fn settle(&self, work: &mut Work<'_>, group: &Group<'_>) -> Result<Vec<Done>, Fault> {
        let Some(seen) = self.seen.as_ref().filter(|_| group.ids().any(|id| id.is_some())) else {
            return self.apply(work, group, &vec![false; group.places.len()]);
        };
        if work.is_inner() {
            // A trial: what it adds must not be taken for committed.
            return self.apply(work, group, &seen.repeats(group.ids()));
        }
        seen.open(work)?;
        let guess = seen.repeats(group.ids());
        let mut inner = work.begin()?;
        let done = self.apply(&mut inner, group, &guess)?;
        seen.lock(&mut inner)?;
        if seen.repeats(group.ids()) == guess {
            seen.add(&mut inner, &group.finished(&done))?;
            return inner.commit().map(|()| done);
        }
        // With the savepoint goes the lock.
        drop(inner);
        seen.lock(work)?;
        let done = self.apply(work, group, &seen.repeats(group.ids()))?;
        seen.add(work, &group.finished(&done))?;
        Ok(done)
    }

    /// The effects of all records that are no repeats, and the letters and messages of those that fail.
    fn apply(&self, work: &mut Work<'_>, group: &Group<'_>, repeats: &[bool]) -> Result<Vec<Done>, Fault> {
        let is_handled = |index: &usize| !repeats[*index] && group.row(*index).fate == Fate::Handled;
        let handled: Vec<usize> = (0..group.places.len()).filter(is_handled).collect();
        let failures = self.handle(work, group, &handled)?;

        let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let mut told =
            Told { messages: group.batches.iter().map(|_| Messages::default()).collect(), letters: Vec::new() };
        let mut done = Vec::with_capacity(repeats.len());
        for (index, is_repeat) in repeats.iter().enumerate() {
            let fate = failures.get(&index).unwrap_or(&group.row(index).fate);
            done.push(match fate {
                _ if *is_repeat => Done::Duplicate,
                Fate::Dropped => Done::Dropped,
                Fate::Handled => {
                    self.forward(group, index, &mut told);
                    Done::Processed
                }
                Fate::Transient(cause) => self.fail(group, index, cause, Some(now_ms), &mut told),
                Fate::Permanent(cause) => self.fail(group, index, cause, None, &mut told),
            });
        }
        letters::write(work, NAME, told.letters.iter().map(|(partition, letter)| (*partition, letter)))?;
        let bodies = group.batches.iter().zip(told.messages);
        let bodies = bodies.map(|(batch, messages)| (batch.partition(), batch.first, messages.into_body()));
        outbox::put(work, NAME, bodies.filter(|(_, _, body)| !body.is_empty()))?;
        Ok(done)
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
                    work.copy(copy, group.made(number, records).into_iter())?;
                    has_written = true;
                }
                Effect::Sql { sql, types } => {
                    for index in records {
                        let place = group.places[*index];
                        let made = group.batches[place.batch].rows.of_handler(number, place.row..place.row + 1);
                        let values = fields(made).expect("packed by decode");
                        work.call(sql, types, &values)?;
                    }
                    has_written = true;
                }
                Effect::Forward { .. } => {}
            }
        }
        match has_written {
            // What a deferred constraint would only say at COMMIT, it has to say here.
            true => work.run("SET CONSTRAINTS ALL IMMEDIATE"),
            false => Ok(()),
        }
    }

    fn forward(&self, group: &Group<'_>, index: usize, told: &mut Told<'_>) {
        let place = group.places[index];
        let rows = &group.batches[place.batch].rows;
        for (number, effect) in self.chain.effects.iter().enumerate() {
            if let Effect::Forward { topic } = effect {
                let key = crate::flow::packed::Unpacked(rows.of_handler(number, place.row..place.row + 1)).field();
                let record = rows.packed(place.row);
                told.messages[place.batch].forwarded(topic, key, record, &group.origin(index));
            }
        }
    }

    /// To be tried again, where there is a `now_ms` to count from and an attempt left; or set aside.
    fn fail<'a>(
        &self,
        group: &Group<'a>,
        index: usize,
        cause: &Cause,
        now_ms: Option<u64>,
        told: &mut Told<'a>,
    ) -> Done {
        let place = group.places[index];
        let batch = group.batches[place.batch];
        let (row, record, origin) = (group.row(index), batch.rows.packed(place.row), group.origin(index));
        let messages = &mut told.messages[place.batch];
        let error = cause.to_string();
        let draw = spread(row.id.unwrap_or_default(), origin.offset as u64 ^ u64::from(origin.attempt) << 48);
        let again = now_ms.and_then(|now_ms| self.retries.next(origin.attempt, now_ms, draw));
        if let Some((topic, due_ms)) = again {
            messages.failed(topic, record, &origin, &error, Some(due_ms));
            return Done::Retried;
        }
        messages.failed(&self.retries.dead, record, &origin, &error, None);
        told.letters.push((batch.partition(), record.letter(row, batch.offsets[place.row], cause.clone())));
        Done::Dead
    }
}

/// What a function raises by itself, unless it says otherwise.
const RAISED: &str = "pg.P0";

/// The server's own words may repeat a value: of what goes into headers and letters the code is enough.
fn told_of(cause: &Cause) -> Cause {
    let state = cause.code.strip_prefix("pg.").unwrap_or(&cause.code).to_owned();
    Cause::new(cause.code.clone(), format!("the statement failed with SQLSTATE {state}"))
}

/// What a transaction has to say.
struct Told<'a> {
    /// By batch.
    messages: Vec<Messages>,
    letters: Vec<(&'a Partition, Letter)>,
}

/// The records of one transaction, in the order of their arrival.
struct Group<'a> {
    batches: &'a [&'a Batch<EventRows>],
    places: Vec<Place>,
}

/// Where a record is in the batches.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    batch: usize,
    row: usize,
}

impl<'a> Group<'a> {
    fn new(batches: &'a [&'a Batch<EventRows>]) -> Self {
        let rows = |batch: usize| (0..batches[batch].rows.len()).map(move |row| Place { batch, row });
        Group { batches, places: (0..batches.len()).flat_map(rows).collect() }
    }

    fn row(&self, index: usize) -> &'a Row {
        let Place { batch, row } = self.places[index];
        &self.batches[batch].rows.rows()[row]
    }

    fn ids(&self) -> impl Iterator<Item = Option<Id>> {
        self.batches.iter().flat_map(|batch| batch.rows.rows().iter().map(|row| row.id))
    }

    /// The ids of those that will not come again.
    fn finished(&self, done: &[Done]) -> Vec<Id> {
        let is_new = |done: &Done| matches!(done, Done::Processed | Done::Dropped | Done::Dead);
        self.ids().zip(done).filter(|(_, done)| is_new(done)).filter_map(|(id, _)| id).collect()
    }

    fn origin(&self, index: usize) -> Origin {
        let Place { batch, row } = self.places[index];
        let batch = self.batches[batch];
        let Row { origin, timestamp_ms, .. } = self.row(index);
        match origin {
            Some(origin) => (**origin).clone(),
            None => Origin::of(batch.partition(), batch.offsets[row], *timestamp_ms),
        }
    }

    /// What a handler made of these records, in as few pieces as it lies in.
    fn made(&self, number: usize, records: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut records = records.iter().map(|index| self.places[*index]).peekable();
        while let Some(first) = records.next() {
            let mut last = first.row;
            while records.next_if_eq(&Place { row: last + 1, ..first }).is_some() {
                last += 1;
            }
            pieces.push(self.batches[first.batch].rows.of_handler(number, first.row..last + 1));
        }
        pieces
    }
}

impl Flow for Events {
    type Rows = EventRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        format!("{}{}", self.chain.tables, seen::CREATE)
    }

    fn inlets(&self) -> Vec<&str> {
        self.retries.topics.iter().map(String::as_str).collect()
    }

    fn outlets(&self) -> Vec<&str> {
        let dead = std::iter::once(self.retries.dead.as_str());
        self.retries.topics.iter().map(String::as_str).chain(dead).chain(self.chain.topics()).collect()
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
        if group.places.is_empty() {
            return Ok(());
        }
        for done in self.settle(work, &group)? {
            work.count(done.word(), 1);
        }
        Ok(())
    }

    fn messages(&self, body: &[u8], _: &Partition, see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
        unfold(body, see)
            .ok_or_else(|| Fault::stop("outbox.malformed", "a row of sluicegate_outbox does not hold what was packed"))
    }
}
