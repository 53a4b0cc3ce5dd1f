//! From the outbox to Kafka: rows in their order, and a row goes once all its messages are acknowledged. Whoever is
//! ended between the two publishes them again, under the same `source`.

use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use crate::engine::Outbox;
use crate::fault::Fault;
use crate::flow::{Apply, Flow};
use crate::outlet::{Message, Outlet};
use crate::pg::outbox::{self, Entry};

/// Messages that may be without an answer. The producer's own queue is far larger.
const UNANSWERED_MAX: u64 = 40_000;
/// Then half of them are waited for at once: whoever waits for one at a time is woken for each.
const UNANSWERED_LOW: u64 = UNANSWERED_MAX / 2;
/// Longer than the producer takes to give up on a message.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// What became of the messages so far.
struct Answers {
    heard: Receiver<Result<(), Fault>>,
    unanswered: u64,
}

impl Answers {
    /// Until no more than so many are without an answer.
    fn await_all_but(&mut self, count: u64) -> Result<(), Fault> {
        while self.unanswered > count {
            let silence = |_| Fault::retry("outbox.no_answer", "the producer does not say what became of a message");
            self.heard.recv_timeout(ANSWER_WAIT).map_err(silence)??;
            self.unanswered -= 1;
        }
        Ok(())
    }
}

impl<F: Flow> Apply<F> {
    fn publish(&self, entries: &[Entry], outlet: &dyn Outlet) -> Result<u64, Fault> {
        let (tell, heard) = unbounded();
        let mut answers = Answers { heard, unanswered: 0 };
        let (mut messages, mut fault) = (0, None);
        for entry in entries {
            self.flow.messages(&entry.body, &entry.from, &mut |message: Message<'_>| {
                if fault.is_some() {
                    return;
                }
                let tell = tell.clone();
                // Nobody listens any more where an earlier message failed.
                let sent = outlet.publish(&message, Box::new(move |result| drop(tell.send(result))));
                messages += 1;
                answers.unanswered += 1;
                fault = match answers.unanswered {
                    UNANSWERED_MAX.. => sent.and_then(|()| answers.await_all_but(UNANSWERED_LOW)).err(),
                    _ => sent.err(),
                };
            })?;
        }
        match fault {
            Some(fault) => Err(fault),
            None => answers.await_all_but(0).map(|()| messages),
        }
    }
}

impl<F: Flow> Outbox for Apply<F> {
    fn publish_some(&self, outlet: &dyn Outlet) -> Result<u64, Fault> {
        let mut session = self.database.session()?;
        let mut messages = 0;
        let taken = outbox::take(&mut session, self.flow.name(), |entries| {
            if !self.database.is_synchronous() {
                // What a crash of the server takes back must not have been told to others.
                outbox::flush(&mut self.database.session()?)?;
            }
            messages = self.publish(entries, outlet)?;
            Ok(())
        });
        match taken {
            Ok(_) => Ok(messages),
            Err(fault) => {
                session.discard();
                Err(fault)
            }
        }
    }
}
