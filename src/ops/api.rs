//! What HTTP answers, without a socket: a method, a path and a query give a status and a body. Every error is
//! JSON with a code, a message and a cure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::metrics;
use super::tracking::Tracking;
use crate::fault::Fault;
use crate::track::{PartitionState, Side, Track};

/// The most records that one request may ask for.
pub const TEST_DATA_MAX: u64 = 10_000_000;

/// Sends made-up records into a flow's topic, and counts them in its track.
pub trait TestData: Send + Sync {
    fn send(&self, flow: &str, count: u64) -> Result<Sent, Fault>;
}

/// What became of them.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub delivered: u64,
    pub failed: u64,
    pub took: Duration,
}

pub struct Api {
    tracks: Vec<Arc<Track>>,
    pub tracking: Tracking,
    test_data: Box<dyn TestData>,
    /// Requests that take long, and how many of them may run: some threads stay free for the others.
    long_running: AtomicUsize,
    long_running_max: usize,
    started: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
    pub headers: Vec<(&'static str, String)>,
}

const JSON: &str = "application/json";

/// The endpoints, as `GET /` lists them.
const ENDPOINTS: [(&str, &str, &str); 8] = [
    ("GET", "/", "this list"),
    ("GET", "/health", "liveness and readiness together; 503 with the reasons when not ready"),
    ("GET", "/health/live", "200 while the process serves"),
    ("GET", "/health/ready", "200 while every dependency of every flow answers and no partition is halted"),
    ("GET", "/tracking-status", "progress of each flow since the last reset"),
    ("GET", "/metrics", "metrics in the Prometheus text format"),
    ("POST", "/reset-tracking", "starts counting again"),
    ("POST", "/send-test-data-concurrently", "?count=N[&flow=status]: produces N made-up records, 10000000 at most"),
];

impl Api {
    pub fn new(tracks: Vec<Arc<Track>>, test_data: Box<dyn TestData>, threads: usize) -> Self {
        let (started, long_running_max) = (Instant::now(), threads.saturating_sub(2).max(1));
        let tracking = Tracking::new(&tracks, started);
        Api { tracks, tracking, test_data, long_running: AtomicUsize::new(0), long_running_max, started }
    }

    pub fn answer(&self, method: &str, target: &str) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let allowed: Vec<&str> =
            ENDPOINTS.iter().filter(|(_, known, _)| *known == path).map(|(method, ..)| *method).collect();
        let method = if method == "HEAD" { "GET" } else { method };
        if allowed.is_empty() {
            return error(404, "not_found", format!("there is nothing at {path}"), "GET / lists what there is");
        }
        if !allowed.contains(&method) {
            let allow = allowed.join(", ");
            let mut answer =
                error(405, "method_not_allowed", format!("{path} does not take {method}"), &format!("use {allow}"));
            answer.headers.push(("Allow", allow));
            return answer;
        }
        match path {
            "/" => ok(json!({ "name": "sluicegate", "version": env!("CARGO_PKG_VERSION"), "endpoints":
                ENDPOINTS.map(|(method, path, what)| json!({ "method": method, "path": path, "what": what })) })),
            "/health" | "/health/ready" => self.health(),
            "/health/live" => ok(json!({ "live": true })),
            "/tracking-status" => ok(self.tracking.status(Instant::now())),
            "/reset-tracking" => {
                self.tracking.reset(Instant::now());
                ok(json!({ "reset": self.tracks.iter().map(|track| track.flow.clone()).collect::<Vec<String>>() }))
            }
            "/metrics" => Answer {
                status: 200,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: metrics::text(&self.tracks, self.started),
                headers: Vec::new(),
            },
            _ => self.send_test_data(query),
        }
    }

    fn health(&self) -> Answer {
        let reasons: Vec<Value> = self.tracks.iter().flat_map(|track| reasons(track)).collect();
        let ready = reasons.is_empty();
        let mut answer = ok(json!({ "live": true, "ready": ready, "reasons": reasons }));
        answer.status = if ready { 200 } else { 503 };
        answer
    }

    fn send_test_data(&self, query: &str) -> Answer {
        let (count, flow) = match test_data_query(query) {
            Ok(asked) => asked,
            Err(message) => {
                let cure = format!("give ?count=N with a whole number from 1 to {TEST_DATA_MAX}");
                return error(400, "bad_query", message, &cure);
            }
        };
        let Some(track) = self.tracks.iter().find(|track| track.flow == flow) else {
            let known = self.tracks.iter().map(|track| track.flow.as_str()).collect::<Vec<&str>>().join(", ");
            return error(
                400,
                "unknown_flow",
                format!("flow \"{flow}\" does not run here"),
                &format!("use one of {known}"),
            );
        };
        let Some(_place) = Place::take(&self.long_running, self.long_running_max) else {
            let mut answer = error(429, "busy", "test data is being sent already".into(), "try again a little later");
            answer.headers.push(("Retry-After", "1".into()));
            return answer;
        };
        match self.test_data.send(&track.flow, count) {
            Ok(sent) => {
                let seconds = sent.took.as_secs_f64();
                let mut answer = ok(json!({
                    "flow": track.flow,
                    "produced": sent.delivered,
                    "failed": sent.failed,
                    "seconds": (seconds * 1000.0).round() / 1000.0,
                    "per_second": (sent.delivered as f64 / seconds.max(0.001)).round(),
                }));
                answer.status = if sent.failed == 0 { 200 } else { 503 };
                answer
            }
            Err(fault) => error(503, "kafka_unavailable", fault.to_string(), "see /health for the state of Kafka"),
        }
    }
}

/// Why a flow is not ready.
fn reasons(track: &Track) -> Vec<Value> {
    let trouble = [("kafka", Side::Source), ("postgres", Side::Sink)].into_iter().filter_map(|(dependency, side)| {
        let cause = track.trouble(side)?;
        Some(json!({ "flow": track.flow, "dependency": dependency, "code": cause.code, "text": cause.text }))
    });
    let halted = track.partitions().into_iter().filter_map(|(partition, at)| match at.state() {
        PartitionState::Halted(cause) => Some(json!({
            "flow": track.flow, "partition": partition.to_string(), "code": cause.code, "text": cause.text
        })),
        _ => None,
    });
    trouble.chain(halted).collect()
}

/// `count`, once, and perhaps `flow`.
fn test_data_query(query: &str) -> Result<(u64, String), String> {
    let (mut count, mut flow) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = match name {
            "count" => &mut count,
            "flow" => &mut flow,
            other => return Err(format!("there is no parameter \"{}\"", short(other))),
        };
        if slot.replace(value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let count = count.ok_or("count is missing")?;
    // A number too long for any integer is a number all the same.
    let digits = count.strip_prefix('-').unwrap_or(count);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("count = \"{}\" is not a whole number", short(count)));
    }
    match count.parse::<u64>() {
        _ if count.starts_with('-') => Err(format!("count = {} is negative", short(count))),
        Ok(0) => Err("count = 0 is nothing to send".into()),
        Ok(number) if number <= TEST_DATA_MAX => Ok((number, flow.unwrap_or("status").to_owned())),
        _ => Err(format!("count = {} is over the most that is taken at once, {TEST_DATA_MAX}", short(count))),
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn ok(body: Value) -> Answer {
    Answer { status: 200, content_type: JSON, body: body.to_string(), headers: Vec::new() }
}

pub fn error(status: u16, code: &str, message: String, cure: &str) -> Answer {
    let body = json!({ "error": { "code": code, "message": message, "cure": cure } });
    Answer { status, content_type: JSON, body: body.to_string(), headers: Vec::new() }
}

/// A place among the requests that take long; given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize, places: usize) -> Option<Self> {
        let more = |now: usize| (now < places).then_some(now + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Place(taken))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
