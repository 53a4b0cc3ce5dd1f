//! The door: where events come in over HTTP, one or many. A request is answered when Kafka has answered for the last of
//! its events, on the thread that brings that word; until then it holds memory and no thread.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fault::Fault;
use crate::ops::service::{Call, Endpoint, Pace, Reply};
use crate::ops::{Answer, Service};
use crate::outlet::{Message, Outlet};
use crate::trace::{self, Trace};
use crate::track::Track;

#[rustfmt::skip]
const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "POST", path: "/events", body_bytes_max: 1 << 20, pace: Pace::Prompt,
        line: "an event, an object, or a list of 1 to 1000; ?key= and ?source=; 202 once Kafka has them all; Idempotency-Key" },
];
const LIST_MAX: usize = 1_000;
/// Events that Kafka has not answered for yet, over all requests: a tenth of what the publisher's queue holds.
const UNDER_WAY_MAX: usize = 50_000;

pub struct Door {
    outlet: Arc<dyn Outlet>,
    topic: String,
    under_way: Arc<AtomicUsize>,
    track: Arc<Track>,
}

const UNKNOWN: u8 = 0;
const ACCEPTED: u8 = 1;
const NOT_SENT: u8 = 2;

/// The events of one request.
struct Group {
    /// Each by its id, and what became of it.
    events: Vec<(String, AtomicU8)>,
    is_list: bool,
    /// Events that are not answered for, and one more until all are handed over.
    left: AtomicUsize,
    under_way: Arc<AtomicUsize>,
    track: Arc<Track>,
    reply: Mutex<Option<Reply>>,
}

/// An event that is not answered for. Dropped, it is one of which nobody knows anything.
struct Pending {
    group: Arc<Group>,
    index: usize,
}

impl Pending {
    fn told(self, result: Result<(), Fault>) {
        match result {
            Ok(()) => {
                self.group.track.produced.add(1);
                self.group.events[self.index].1.store(ACCEPTED, Ordering::Release);
            }
            Err(fault) => self.group.failed(&fault),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.group.under_way.fetch_sub(1, Ordering::AcqRel);
        self.group.count_down();
    }
}

impl Group {
    fn failed(&self, fault: &Fault) {
        self.track.publish_failed.add(1);
        self.track.failed(fault.cause());
    }

    fn count_down(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(reply) = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            reply.answer(self.answer());
        }
    }

    fn answer(&self) -> Answer {
        let status = |outcome: &AtomicU8| match outcome.load(Ordering::Acquire) {
            ACCEPTED => "accepted",
            NOT_SENT => "not_sent",
            _ => "unknown",
        };
        let lines: Vec<Value> =
            self.events.iter().map(|(id, outcome)| json!({ "message_id": id, "status": status(outcome) })).collect();
        let accepted = lines.iter().filter(|line| line["status"] == "accepted").count();
        if accepted == lines.len() {
            return if self.is_list { Answer::json(202, &lines) } else { Answer::json(202, &lines[0]) };
        }
        let message = format!("of {} events {accepted} are accepted; of the others Kafka has not said so", lines.len());
        let cure = "send the same again with the same Idempotency-Key: each event is processed once";
        Answer::error_with(503, "not_acknowledged", message, cure, &json!({ "events": lines })).with("Retry-After", "2")
    }
}

impl Door {
    pub fn new(outlet: Arc<dyn Outlet>, topic: &str, track: Arc<Track>) -> Self {
        Door { outlet, topic: topic.to_owned(), under_way: Arc::default(), track }
    }

    fn take(&self, call: &Call, reply: Reply) {
        let (events, is_list, key) = match read(call) {
            Ok(read) => read,
            Err(refusal) => return reply.answer(refusal),
        };
        let more = |under_way: usize| Some(under_way + events.len()).filter(|sum| *sum <= UNDER_WAY_MAX);
        if self.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            let message = format!("{UNDER_WAY_MAX} events wait for Kafka; none of this request was sent");
            let answer = Answer::error(503, "overloaded", message, "send it again after a moment");
            return reply.answer(answer.with("Retry-After", "1"));
        }
        let id = |index: usize| match key {
            None => Uuid::now_v7().to_string(),
            Some(key) if is_list => format!("{key}/{index}"),
            Some(key) => key.to_owned(),
        };
        let group = Arc::new(Group {
            events: (0..events.len()).map(|index| (id(index), AtomicU8::new(UNKNOWN))).collect(),
            is_list,
            left: AtomicUsize::new(events.len() + 1),
            under_way: self.under_way.clone(),
            track: self.track.clone(),
            reply: Mutex::new(Some(reply)),
        });
        let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis().to_string();
        // One trace for all of a request.
        let trace = Trace::begin(&group.events[0].0);
        let trace_id = trace.trace_id();
        let source = call.parameter("source").unwrap_or("http");
        for (index, event) in events.iter().enumerate() {
            let id = &group.events[index].0;
            let parent = trace.next(id).to_string();
            let headers = [
                ("message_id", id.as_str()),
                ("timestamp", &now_ms),
                ("source", source),
                ("trace_id", &trace_id),
                (trace::HEADER, &parent),
            ];
            let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
            let (key, payload) = (call.parameter("key").map(str::as_bytes), Some(event.get().as_bytes()));
            let message = Message { topic: &self.topic, key, payload, source: None, headers: &headers };
            let pending = Pending { group: group.clone(), index };
            if let Err(fault) = self.outlet.publish(&message, Box::new(move |result| pending.told(result))) {
                group.events[index].1.store(NOT_SENT, Ordering::Release);
                group.failed(&fault);
            }
        }
        group.count_down();
    }
}

/// The events of a request, whether they are a list, and its key.
type Read<'a> = (Vec<&'a RawValue>, bool, Option<&'a str>);

fn read(call: &Call) -> Result<Read<'_>, Answer> {
    call.expect_json()?;
    let key = call.key()?;
    let cure = "send an object, or a list of 1 to 1000 objects";
    let invalid = |message: String| Answer::error(400, "request_invalid", message, cure);
    let whole: &RawValue =
        serde_json::from_slice(&call.body).map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
    let is_list = whole.get().starts_with('[');
    let events = match is_list {
        true => serde_json::from_str(whole.get()).map_err(|error| invalid(format!("the body is not JSON: {error}")))?,
        false => vec![whole],
    };
    if !(1..=LIST_MAX).contains(&events.len()) {
        return Err(invalid(format!("the list has {} events", events.len())));
    }
    if let Some(index) = events.iter().position(|event| !event.get().starts_with('{')) {
        return Err(invalid(format!("event {index} is no object; none was sent")));
    }
    Ok((events, is_list, key))
}

impl Service for Door {
    fn endpoints(&self) -> &'static [Endpoint] {
        ENDPOINTS
    }

    fn call(&self, call: Call, reply: Reply) {
        self.take(&call, reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::Told;

    type Published = (Option<Vec<u8>>, Vec<u8>, Vec<(String, String)>);

    /// A broker that answers when it is told to.
    #[derive(Default)]
    struct Broker(Mutex<Vec<(Published, Told)>>);

    impl Outlet for Broker {
        fn publish(&self, message: &Message<'_>, told: Told) -> Result<(), Fault> {
            if message.payload == Some(b"{\"full\":1}") {
                return Err(Fault::retry("kafka.queuefull", "the queue is full"));
            }
            let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
            let headers = message.headers.iter().map(|(name, value)| (name.to_string(), text(*value))).collect();
            let published = (message.key.map(<[u8]>::to_vec), message.payload.unwrap().to_vec(), headers);
            self.0.lock().unwrap().push((published, told));
            Ok(())
        }
    }

    fn call(body: &str, key: Option<&str>, query: &[(&str, &str)]) -> Call {
        let mut call = Call::new(&ENDPOINTS[0]);
        call.body = body.as_bytes().to_vec().into();
        call.idempotency_key = key.map(str::to_owned);
        call.query = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        call
    }

    /// What was answered so far: status and JSON.
    fn asked(door: &Door, call: Call) -> Arc<Mutex<Option<(u16, Value)>>> {
        let heard = Arc::new(Mutex::new(None));
        let listener = heard.clone();
        let told = move |answer: Answer| {
            *listener.lock().unwrap() = Some((answer.status, serde_json::from_slice(&answer.body).unwrap()));
        };
        door.call(call, Reply::new(told));
        heard
    }

    #[test]
    fn a_request_is_answered_once_kafka_has_all_of_it() {
        let broker = Arc::new(Broker::default());
        let door = Door::new(broker.clone(), "t", Track::new("events"));
        let heard = asked(&door, call(r#"[{"a":1}, {"b": 2}]"#, Some("cart-1"), &[("key", "k"), ("source", "shop")]));
        let mut sent = std::mem::take(&mut *broker.0.lock().unwrap());
        let ((key, payload, headers), told) = sent.remove(0);
        assert_eq!((key.as_deref(), payload.as_slice()), (Some(&b"k"[..]), &br#"{"a":1}"#[..]));
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["message_id", "timestamp", "source", "trace_id", "traceparent"]);
        let of_request = |headers: &[(String, String)]| Trace::read(headers[4].1.as_bytes()).unwrap();
        let (one, other) = (of_request(&headers), of_request(&sent[0].0.2));
        assert_eq!((one.trace_id(), one.trace_id), (headers[3].1.clone(), other.trace_id));
        assert_ne!(one.span_id, other.span_id);
        assert_eq!((headers[0].1.as_str(), headers[2].1.as_str()), ("cart-1/0", "shop"));
        told(Ok(()));
        assert!(heard.lock().unwrap().is_none(), "one is still under way");
        sent.remove(0).1(Ok(()));
        let (status, lines) = heard.lock().unwrap().take().unwrap();
        assert_eq!(
            (status, &lines[1]["message_id"], &lines[1]["status"]),
            (202, &json!("cart-1/1"), &json!("accepted"))
        );
        assert_eq!(door.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_part_is_no_success() {
        let broker = Arc::new(Broker::default());
        let door = Door::new(broker.clone(), "t", Track::new("events"));
        let heard = asked(&door, call(r#"[{"full":1}, {}, {}, {}]"#, None, &[]));
        let mut sent = std::mem::take(&mut *broker.0.lock().unwrap());
        sent.remove(0).1(Ok(()));
        sent.remove(0).1(Err(Fault::retry("kafka.timeout", "no answer")));
        drop(sent);
        let (status, answer) = heard.lock().unwrap().take().unwrap();
        let lines = answer["error"]["events"].as_array().unwrap();
        let statuses: Vec<&str> = lines.iter().map(|line| line["status"].as_str().unwrap()).collect();
        assert_eq!((status, statuses), (503, vec!["not_sent", "accepted", "unknown", "unknown"]));
        assert_eq!((door.under_way.load(Ordering::Relaxed), door.track.publish_failed.get()), (0, 2));
    }

    #[test]
    fn what_is_no_event_and_what_is_too_much_is_refused_whole() {
        let broker = Arc::new(Broker::default());
        let door = Door::new(broker.clone(), "t", Track::new("events"));
        let refused = |call: Call| asked(&door, call).lock().unwrap().take().unwrap();
        for body in ["", "7", "[]", "[{}, 7]", "{", "{} {}"] {
            assert_eq!(refused(call(body, None, &[])).0, 400, "{body}");
        }
        assert_eq!(refused(call(&format!("[{}{{}}]", "{},".repeat(LIST_MAX)), None, &[])).0, 400);
        assert_eq!(refused(call("{}", Some("a b"), &[])).0, 400);
        let mut odd = call("{}", None, &[]);
        odd.content_type = Some("text/plain".to_owned());
        assert_eq!(refused(odd).0, 415);
        assert!(broker.0.lock().unwrap().is_empty());
        door.under_way.store(UNDER_WAY_MAX, Ordering::Relaxed);
        assert_eq!(refused(call("{}", None, &[])).0, 503);
    }
}
