//! A writer: one thread, one session of the sink. It takes a batch and whatever else is already waiting,
//! and applies them in one transaction. A batch leaves here written, fenced or refused, or, when the sink
//! stays away past the deadline of a stop, not at all: the ledger then says to read it again.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::batch::{Job, Note, Receipt};
use super::{Backoff, Batch, Clock, Outcome, Policy, Rows, Sink, Stop, Thread};
use crate::trace::{Course, Courses};
use crate::track::{Side, Track};

pub(super) struct Writer<S: Sink> {
    pub batches: Receiver<Job<S::Rows>>,
    /// Whoever holds the one turn gathers a group; the others write, or wait for it.
    pub turns: (Sender<()>, Receiver<()>),
    pub sink: Arc<S>,
    pub policy: Arc<Policy>,
    pub clock: Clock,
    pub stop: Stop,
    pub track: Arc<Track>,
}

/// A writer with nothing to do wakes this often. Only the closing of the channel ends it.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// While another one writes, a gathering writer looks this often whether it is done.
const GATHER_SLICE: Duration = Duration::from_millis(2);

/// Batches of one transaction, and where the receipt of each goes.
type Group<R> = (Vec<Batch<R>>, Vec<Sender<Note<R>>>);

/// When a group was written, and how much of that was its commit.
struct Written {
    began: Duration,
    done: Duration,
    commit: Option<Duration>,
}

impl<S: Sink> Writer<S> {
    pub fn start(self, number: usize) -> Thread<()> {
        let clock = self.clock.clone();
        clock.spawn(format!("{}-writer-{number}", self.track.flow), move || self.run())
    }

    fn run(self) {
        let mut session = S::Session::default();
        while let Some((batches, replies)) = self.next_group() {
            self.write(&mut session, batches, replies);
            self.track.active_writers.add(-1);
        }
    }

    /// The next group, once it is this writer's turn to gather one. None once the channel is closed.
    fn next_group(&self) -> Option<Group<S::Rows>> {
        let (back, turns) = &self.turns;
        while self.clock.recv(turns, IDLE_WAIT).is_err() {}
        let group = self.gather();
        self.clock.post(back, ());
        group
    }

    /// The first batch, and what comes with it: up to the limit of a group, and, while others write, for as long as
    /// a batch may wait for its records. So few records are written at once by one writer, many in large groups by
    /// all of them: a transaction costs as much as hundreds of rows.
    fn gather(&self) -> Option<Group<S::Rows>> {
        let first = loop {
            match self.clock.recv(&self.batches, IDLE_WAIT) {
                Ok(job) => break job,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        };
        let until = self.clock.now() + self.policy.linger;
        let mut rows = first.batch.records();
        let (mut batches, mut replies) = (vec![first.batch], vec![first.reply]);
        while rows < self.policy.group_rows_max {
            let now = self.clock.now();
            let is_due = self.track.active_writers.get() == 0 || now >= until || self.stop.asked();
            let wait = if is_due { Duration::ZERO } else { GATHER_SLICE.min(until - now) };
            match self.clock.recv(&self.batches, wait) {
                Ok(job) => {
                    rows += job.batch.records();
                    batches.push(job.batch);
                    replies.push(job.reply);
                }
                Err(RecvTimeoutError::Timeout) if !is_due => {}
                Err(_) => break,
            }
        }
        self.track.active_writers.add(1);
        self.track.batches_waiting.add(-(batches.len() as i64));
        let now = self.clock.now();
        for batch in &mut batches {
            batch.marks.taken_at = now;
            self.track.queue_seconds.record(now.saturating_sub(batch.marks.closed_at));
        }
        Some((batches, replies))
    }

    fn write(
        &self,
        session: &mut S::Session,
        mut batches: Vec<Batch<S::Rows>>,
        mut replies: Vec<Sender<Note<S::Rows>>>,
    ) {
        let mut backoff = Backoff::new(&self.clock, self.policy.backoff_min, self.policy.backoff_max);
        let mut attempt = 0u32;
        loop {
            attempt += 1;
            self.drop_stale(&mut batches, &mut replies);
            if batches.is_empty() {
                return;
            }
            let began = self.clock.now();
            match self.sink.apply(session, &batches) {
                Ok(outcomes) => {
                    let written = Written { began, done: self.clock.now(), commit: self.sink.commit_time(session) };
                    self.track.write_seconds.record(written.done.saturating_sub(began));
                    written.commit.into_iter().for_each(|took| self.track.commit_seconds.record(took));
                    self.track.groups.add(1);
                    self.track.recovered(Side::Sink);
                    for ((batch, reply), outcome) in batches.into_iter().zip(replies).zip(outcomes) {
                        if outcome == Outcome::Written {
                            self.measure(&batch, &written);
                        }
                        self.hand_back(batch, &reply, outcome);
                    }
                    return;
                }
                // Whatever the order in the fault: nothing a sink can say makes it right to lose a batch.
                Err(fault) => {
                    let cause = fault.cause();
                    self.track.troubled(Side::Sink, cause);
                    log::debug!(flow = self.track.flow.as_str(), attempt, code = &*cause.code; "not written: {}", cause.text);
                    self.track.retried.add(1);
                    if self.stop.expired() {
                        return;
                    }
                    self.stop.pause(backoff.next_pause());
                }
            }
        }
    }

    /// Batches whose partition went elsewhere would only be fenced: they are not worth a transaction.
    fn drop_stale(&self, batches: &mut Vec<Batch<S::Rows>>, replies: &mut Vec<Sender<Note<S::Rows>>>) {
        let mut index = 0;
        while index < batches.len() {
            if batches[index].claim.is_over() {
                let (batch, reply) = (batches.swap_remove(index), replies.swap_remove(index));
                self.hand_back(batch, &reply, Outcome::Fenced);
            } else {
                index += 1;
            }
        }
    }

    fn hand_back(&self, batch: Batch<S::Rows>, reply: &Sender<Note<S::Rows>>, outcome: Outcome) {
        match &outcome {
            Outcome::Written => {
                self.track.written.add(batch.rows.len() as u64);
                self.track.set_aside.add(batch.letters.len() as u64);
            }
            Outcome::Fenced => self.track.fenced.add(1),
            Outcome::Refused(_) => {}
        }
        self.track.batches_in_flight.add(-1);
        self.clock.post(reply, Note::Receipt(Receipt { batch, outcome }));
    }

    /// What a batch that was written took on its way.
    fn measure(&self, batch: &Batch<S::Rows>, written: &Written) {
        let (track, now_ms) = (&self.track, self.clock.unix_ms());
        track.poll_seconds.record(batch.marks.polling);
        track.decode_seconds.record(batch.marks.decoding);
        track.batch_seconds.record(written.done.saturating_sub(batch.opened_at));
        if let Some(first_ms) = batch.marks.first_ms.and_then(|first_ms| u64::try_from(first_ms).ok()) {
            track.end_to_end_seconds.record(Duration::from_millis(now_ms.saturating_sub(first_ms)));
        }
        let wants = |courses: &&Arc<Courses>| courses.wants(batch.partition(), batch.first);
        let Some(courses) = track.courses.get().filter(wants) else { return };
        let now = self.clock.now();
        let moment = |at: Duration| now_ms as f64 - now.saturating_sub(at).as_secs_f64() * 1e3;
        courses.tell(Course {
            track: track.clone(),
            partition: batch.partition().clone(),
            first: batch.first,
            next: batch.next,
            rows: batch.rows.len(),
            letters: batch.letters.len(),
            opened_ms: moment(batch.opened_at),
            closed_ms: moment(batch.marks.closed_at),
            taken_ms: moment(batch.marks.taken_at),
            began_ms: moment(written.began),
            done_ms: moment(written.done),
            polling: batch.marks.polling,
            decoding: batch.marks.decoding,
            commit: written.commit,
            links: batch.marks.links.clone(),
        });
    }
}
