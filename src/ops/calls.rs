//! Calls on their way to services: two lanes, each a bounded queue and a few threads, so that calls that wait for
//! something outside are never in the way of those that do not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::api::Answer;
use super::directory::Directory;
use super::service::{Call, Pace, Reply, WAITING_THREADS};

/// How long a client waits for a service. What takes longer is taken for stuck, and its answer goes nowhere.
pub(super) const CALL_WAIT: Duration = Duration::from_secs(10);
/// One reads a call while another is written to Kafka's client; neither waits for anything.
const PROMPT_THREADS: usize = 2;
/// Waiting calls that may stand in line, so that the last is answered in time even where each one takes a second.
const WAITING_LINE: usize = 8 * WAITING_THREADS;

/// A call between the front and a thread.
struct Handed {
    call: Call,
    reply: Reply,
    since: Instant,
}

/// The front's side.
pub(super) struct Lanes {
    prompt: Sender<Handed>,
    waiting: Sender<Handed>,
}

/// The side of one thread.
pub(super) struct Lane(Receiver<Handed>);

impl Lanes {
    /// With a lane for each thread that is to be started. `prompt_line`: calls that may stand in the prompt one.
    pub fn new(prompt_line: usize) -> (Lanes, Vec<Lane>) {
        let (prompt, to_prompt) = bounded(prompt_line);
        let (waiting, to_waiting) = bounded(WAITING_LINE);
        let prompts = (0..PROMPT_THREADS).map(|_| Lane(to_prompt.clone()));
        let lanes = prompts.chain((0..WAITING_THREADS).map(|_| Lane(to_waiting.clone()))).collect();
        (Lanes { prompt, waiting }, lanes)
    }

    /// Never waits: a call that there is no room for is answered at once.
    pub fn hand(&self, call: Call, reply: Reply, now: Instant) {
        let lane = match call.endpoint.pace {
            Pace::Prompt => &self.prompt,
            Pace::Waiting => &self.waiting,
        };
        if let Err(error) = lane.try_send(Handed { call, reply, since: now }) {
            error.into_inner().reply.answer(overloaded());
        }
    }
}

impl Lane {
    /// Until the front has gone.
    pub fn serve(&self, directory: &Directory) {
        for Handed { call, reply, since } in &self.0 {
            // Whoever asked has been told that there is no answer: it must not take effect behind their back.
            if since.elapsed() >= CALL_WAIT {
                reply.answer(late());
                continue;
            }
            let (service, endpoint) = (directory.service(&call), call.endpoint);
            if catch_unwind(AssertUnwindSafe(|| service.call(call, reply))).is_err() {
                log::error!("http: {} {}: the service panicked", endpoint.method, endpoint.path);
            }
        }
    }
}

pub(super) fn overloaded() -> Answer {
    let message = "as many requests as may be under way at once are under way; this one has had no effect";
    Answer::error(503, "overloaded", message, "send it again after a moment").with("Retry-After", "1")
}

/// What a client is told whose call is not answered in time.
pub(super) fn late() -> Answer {
    let message = format!("no answer within {} s; whether the request took effect is not known", CALL_WAIT.as_secs());
    let cure = "see /health, and send it again; with the same Idempotency-Key it takes effect once";
    Answer::error(503, "no_answer", message, cure).with("Retry-After", "5")
}
