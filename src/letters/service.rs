//! Letters over HTTP. A request deals with a bounded number of them, says what is left, and where the next one goes on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::json;

use super::wish::{Flaw, Wish};
use super::{Letters, STEP_MAX, Step, Verb};
use crate::fault::{Cause, Fault};
use crate::ops::service::{Call, Endpoint, Pace, Reply};
use crate::ops::{Answer, Service};
use crate::pg::SessionOptions;
use crate::pg::letters::kept::{Filter, Span, State};

/// Letters in one list.
const LIST_MAX: i64 = 1000;
const LIST_USUAL: i64 = 100;
/// Somebody waits for the answer of each of these, and no longer than all of them take.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const STATEMENT_WAIT: Duration = Duration::from_secs(3);
const LINK_WAIT: Duration = Duration::from_secs(5);

const LIST: &str = "/letters";
const SHOW: &str = "/letters/{id}";
const REPLAY: &str = "/letters/replay";
const DROP: &str = "/letters/drop";

#[rustfmt::skip]
const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "GET", path: LIST, body_bytes_max: 0, pace: Pace::Waiting,
        line: "?flow= reason= since= until= topic= key= state=open|replayed|dropped|all id= limit= after=: records set aside" },
    Endpoint { method: "GET", path: SHOW, body_bytes_max: 0, pace: Pace::Waiting,
        line: "one of them, whole, with its history" },
    Endpoint { method: "POST", path: REPLAY, body_bytes_max: 64 << 10, pace: Pace::Waiting,
        line: "{flow, reason, since, until, topic, key, id, all, limit, after, dry_run}: puts up to 100 through their flow again" },
    Endpoint { method: "POST", path: DROP, body_bytes_max: 64 << 10, pace: Pace::Waiting,
        line: "the same body: marks up to 100 as dropped; none is deleted" },
];

/// How long sessions wait where somebody waits for them.
pub fn patience(options: SessionOptions) -> SessionOptions {
    SessionOptions {
        lock_timeout: options.lock_timeout.min(LOCK_WAIT),
        statement_timeout: STATEMENT_WAIT,
        idle_in_transaction_timeout: LINK_WAIT,
        ..options
    }
}

pub struct LettersOverHttp {
    letters: Arc<Letters>,
    /// The names that there are.
    flows: Vec<String>,
}

impl LettersOverHttp {
    pub fn new(letters: Arc<Letters>, flows: Vec<String>) -> Self {
        LettersOverHttp { letters, flows }
    }

    fn list(&self, call: &Call) -> Result<Answer, Answer> {
        let wish = Wish::of_query(&call.query).map_err(refused)?;
        // What waits for somebody is what is usually looked for.
        let state = wish.state.clone().or_else(|| Some(State::Open.name().to_owned()));
        let filter = Wish { state, ..wish.clone() }.filter(&self.flows, SystemTime::now()).map_err(refused)?;
        let limit = wish.limit.unwrap_or(LIST_USUAL).min(LIST_MAX);
        let lines = self.letters.list(&filter, Span::after(wish.after, limit)).map_err(failed)?;
        let next = lines.last().filter(|_| lines.len() as i64 == limit).map(|line| line.id);
        Ok(Answer::json(200, &json!({ "letters": lines, "next": next })))
    }

    fn show(&self, call: &Call) -> Result<Answer, Answer> {
        let id: i64 = call.param.parse().map_err(|_| {
            let message = format!("{:?} is no id of a letter, which is a whole number", call.param);
            Answer::error(400, "letter_id_invalid", message, "GET /letters lists them")
        })?;
        match self.letters.show(id).map_err(failed)? {
            Some(whole) => Ok(Answer::json(200, &whole)),
            None => {
                let message = format!("there is no letter {id}");
                Err(Answer::error(404, "letter_unknown", message, "GET /letters lists them"))
            }
        }
    }

    fn deal(&self, call: &Call, verb: Verb) -> Result<Answer, Answer> {
        let wish = body(call)?;
        let filter = wish.filter_of_open(&self.flows, SystemTime::now()).map_err(refused)?;
        let limit = wish.limit.unwrap_or(STEP_MAX as i64);
        let step = self.letters.step(verb, &filter, Span::after(wish.after, limit), wish.dry_run).map_err(failed)?;
        let (done, refused, settled) = (step.done, step.refused.len(), step.settled);
        let (verb_name, dry_run) = (if verb == Verb::Replay { "replay" } else { "drop" }, wish.dry_run);
        log::info!(done, refused, settled, dry_run; "http: letters: {verb_name}");
        let open = Filter { state: Some(State::Open), ..filter };
        let after = step.last.unwrap_or(wish.after);
        let (left, _) = self.letters.count(&open, after).map_err(failed)?;
        Ok(Answer::json(200, &Dealt::new(verb, &wish, &step, left)))
    }
}

/// What became of a request's letters.
#[derive(Serialize)]
struct Dealt<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    /// These stay open.
    refused: Vec<RefusedLine<'a>>,
    /// Dealt with by somebody else meanwhile.
    settled: u64,
    /// Left alone, because their flow does not run here.
    not_running: &'a std::collections::BTreeMap<String, u64>,
    /// Open ones behind the last that was looked at,
    left: u64,
    /// which is the `after` of the next request.
    next: Option<i64>,
    dry_run: bool,
}

#[derive(Serialize)]
struct RefusedLine<'a> {
    id: i64,
    code: &'a str,
    reason: &'a str,
}

impl<'a> Dealt<'a> {
    fn new(verb: Verb, wish: &Wish, step: &'a Step, left: u64) -> Self {
        let line = |(id, cause): &'a (i64, Cause)| RefusedLine { id: *id, code: &cause.code, reason: &cause.text };
        Dealt {
            replayed: (verb == Verb::Replay).then_some(step.done),
            dropped: (verb == Verb::Drop).then_some(step.done),
            refused: step.refused.iter().map(line).collect(),
            settled: step.settled,
            not_running: &step.strange,
            left,
            next: step.last.filter(|_| left > 0),
            dry_run: wish.dry_run,
        }
    }
}

impl Service for LettersOverHttp {
    fn endpoints(&self) -> &'static [Endpoint] {
        ENDPOINTS
    }

    fn call(&self, call: Call, reply: Reply) {
        let answer = match call.endpoint.path {
            LIST => self.list(&call),
            SHOW => self.show(&call),
            REPLAY => self.deal(&call, Verb::Replay),
            _ => self.deal(&call, Verb::Drop),
        };
        reply.answer(answer.unwrap_or_else(|refusal| refusal));
    }
}

fn body(call: &Call) -> Result<Wish, Answer> {
    call.expect_json()?;
    // serde would take a list for the fields in their order.
    let wish = match call.body.trim_ascii_start().starts_with(b"{") {
        true => serde_json::from_slice(&call.body).map_err(|error| error.to_string()),
        false => Err("must be an object".to_owned()),
    };
    wish.map_err(|rule| {
        let cure = "send an object such as {\"flow\": [\"status\"], \"reason\": \"avro.short\", \"dry_run\": true}";
        Answer::error(400, "request_invalid", format!("the body is not as it has to be: {rule}"), cure)
    })
}

fn refused(flaw: Flaw) -> Answer {
    Answer::error(400, "parameter_invalid", flaw.to_string(), "GET / lists what there is")
}

fn failed(fault: Fault) -> Answer {
    let cause = fault.cause();
    match fault {
        Fault::Stop(_) => Answer::error(500, &cause.code, &*cause.text, "a person has to look at the tables"),
        Fault::Retry(_) | Fault::Reject(_) => {
            let cure = "send it again after a moment; a letter that was replayed or dropped meanwhile stays so";
            Answer::error(503, &cause.code, &*cause.text, cure).with("Retry-After", "2")
        }
    }
}
