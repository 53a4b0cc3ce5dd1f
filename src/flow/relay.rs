//! From the outbox to Kafka: rows in their order, and a row goes once all its messages are acknowledged. Whoever is
//! ended between the two publishes them again, under the same `source`. No transaction is open meanwhile: a broker that is
//! slow holds nothing but the relay's own session. Through that it says from time to time that it is there: an instance that
//! is frozen does not, and another one takes its place.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::engine::{Outbox, Published};
use crate::fault::Fault;
use crate::flow::{Apply, Flow};
use crate::outlet::{self, Message, Outlet};
use crate::pg::outbox::{self, Entry};
use crate::pg::{Session, frozen};

/// Messages that may be without an answer. The producer's own queue is far larger. A broker that takes fewer than these
/// within the time that the producer gives a message is one that the relay makes no way with.
const UNANSWERED_MAX: u64 = 20_000;
/// Then half of them are waited for at once: whoever waits for one at a time is woken for each.
const UNANSWERED_LOW: u64 = UNANSWERED_MAX / 2;
/// Longer than the producer takes to give up on a message.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// Whoever publishes says something so many times within the silence that it may keep.
const SAYS: u32 = 4;
/// Between looks whether whoever publishes is silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The session that has the right to publish for its flow, which ends with it: it never goes back to be used by others.
#[derive(Default)]
pub struct Guarded {
    session: Option<Session>,
    /// When somebody else was found to have that right.
    looked: Option<Instant>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.discard();
        }
    }
}

/// Rows that are published together, and what became of their messages so far.
struct Lot<'a> {
    outlet: &'a dyn Outlet,
    session: &'a mut Session,
    said: Instant,
    say_every: Duration,
    tell: Sender<(usize, Result<(), Fault>)>,
    heard: Receiver<(usize, Result<(), Fault>)>,
    unanswered: u64,
    acknowledged: u64,
    /// Of each row, how many messages are not acknowledged.
    open: Vec<u64>,
    /// The first one ends it: nothing more is handed over.
    fault: Option<Fault>,
}

impl<'a> Lot<'a> {
    fn new(outlet: &'a dyn Outlet, session: &'a mut Session, say_every: Duration, rows: usize) -> Self {
        let ((tell, heard), said, open) = (unbounded(), Instant::now(), vec![0; rows]);
        Lot { outlet, session, said, say_every, tell, heard, unanswered: 0, acknowledged: 0, open, fault: None }
    }

    /// Where the session has ended somebody else publishes by now: nothing more is handed over.
    fn say(&mut self) {
        if self.said.elapsed() >= self.say_every && self.fault.is_none() {
            self.fault = outbox::say(self.session).err();
            self.said = Instant::now();
        }
    }

    fn publish(&mut self, row: usize, message: &Message<'_>) {
        self.say();
        while self.fault.is_none() {
            let tell = self.tell.clone();
            // Nobody listens any more where an answer took too long.
            match self.outlet.publish(message, Box::new(move |result| drop(tell.send((row, result))))) {
                Ok(()) => {
                    self.unanswered += 1;
                    self.open[row] += 1;
                    break;
                }
                // There is room again when some of ours are answered.
                Err(fault) if fault.cause().code == outlet::FULL && self.unanswered > 0 => {
                    self.await_all_but(self.unanswered / 2);
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        if self.unanswered >= UNANSWERED_MAX {
            self.await_all_but(UNANSWERED_LOW);
        }
    }

    /// Until no more than so many are without an answer.
    fn await_all_but(&mut self, count: u64) {
        let mut heard = Instant::now();
        while self.unanswered > count {
            self.say();
            match self.heard.recv_timeout(self.say_every) {
                Err(_) if heard.elapsed() < ANSWER_WAIT => continue,
                Ok((row, Ok(()))) => {
                    self.acknowledged += 1;
                    self.open[row] -= 1;
                }
                Ok((_, Err(fault))) => drop(self.fault.get_or_insert(fault)),
                Err(_) => {
                    let silence =
                        || Fault::retry("outbox.no_answer", "the producer does not say what became of a message");
                    self.fault.get_or_insert_with(silence);
                    return;
                }
            }
            heard = Instant::now();
            self.unanswered -= 1;
        }
    }
}

impl<F: Flow> Apply<F> {
    /// Publishes these rows: how many of them, from the first on, are through, how many messages that were, and why not
    /// all. What was acknowledged of a later row is published again, so that messages of one key stay in order.
    fn publish(&self, session: &mut Session, entries: &[Entry], outlet: &dyn Outlet) -> (usize, u64, Option<Fault>) {
        let mut lot = Lot::new(outlet, session, self.silence_max / SAYS, entries.len());
        let mut handed_over = 0;
        for (row, entry) in entries.iter().enumerate() {
            let shown =
                self.flow.messages(&entry.body, &entry.from, &mut |message: Message<'_>| lot.publish(row, &message));
            if let Err(fault) = shown {
                lot.fault.get_or_insert(fault);
            }
            if lot.fault.is_some() {
                break;
            }
            handed_over += 1;
        }
        lot.await_all_but(0);
        let through = lot.open[..handed_over].iter().take_while(|open| **open == 0).count();
        (through, lot.acknowledged, lot.fault)
    }

    /// Whether this session may publish from now on.
    fn seat(&self, session: &mut Session, looked: &mut Option<Instant>) -> Result<bool, Fault> {
        let flow = self.flow.name();
        if outbox::guard(session, flow)? {
            return Ok(true);
        }
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            *looked = Some(Instant::now());
            let mut work = session.begin()?;
            frozen::end_publisher(&mut work, flow, self.silence_max)?;
            work.commit()?;
        }
        Ok(false)
    }

    fn publish_oldest(&self, session: &mut Session, outlet: &dyn Outlet) -> Result<Published, Fault> {
        let (entries, age) = outbox::oldest(session, self.flow.name())?;
        if entries.is_empty() {
            return Ok(Published::default());
        }
        if !self.database.is_synchronous() {
            // What a crash of the server takes back must not have been told to others.
            outbox::flush(session)?;
        }
        let (through, messages, fault) = self.publish(session, &entries, outlet);
        outbox::remove(session, &entries[..through])?;
        Ok(Published { messages, age, fault })
    }
}

impl<F: Flow> Outbox for Apply<F> {
    type Session = Guarded;

    fn publish_some(&self, guarded: &mut Guarded, outlet: &dyn Outlet) -> Result<Published, Fault> {
        let mut session = match guarded.session.take() {
            Some(session) => session,
            None => {
                let mut session = self.database.session()?;
                match self.seat(&mut session, &mut guarded.looked) {
                    Ok(true) => session,
                    // Another instance is at it.
                    Ok(false) => return Ok(Published::default()),
                    Err(fault) => {
                        session.discard();
                        return Err(fault);
                    }
                }
            }
        };
        let published = self.publish_oldest(&mut session, outlet);
        match published.is_ok() {
            true => guarded.session = Some(session),
            false => session.discard(),
        }
        published
    }
}
