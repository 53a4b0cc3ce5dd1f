//! The routes and what they answer: a method and a target go in, an `Answer` comes out. Nothing in here knows
//! a socket or a thread; every input, however odd, becomes an answer and never a panic. What services take does not
//! come this way; here they are only listed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::json;

use super::directory::Directory;
use super::health::{self, SinkFacts};
use super::metrics::Metrics;
use super::service::{Endpoint, Service};
use super::target::Target;
use super::tracking::{self, Counts, FlowStatus, Progress};
use crate::fault::{Cause, Fault};
use crate::track::{Groups, PartitionState, Side, Track};

/// How many test records one request may ask for: at a million a second a request of ten seconds.
pub const COUNT_MAX: u64 = 10_000_000;

/// What makes test records. Made by whoever has a producer.
pub trait TestData: Send + Sync {
    /// Publishes `count` records for `flow` and waits until Kafka has acknowledged or refused each of them.
    /// The implementation counts them in the flow's `Track` (`produced`, `publish_failed`) as the answers
    /// come in, so that progress can be watched; the caller counts nothing. A fault means that nothing was sent.
    fn send(&self, flow: &str, count: u64) -> Result<Sent, Fault>;
}

/// What became of test records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Acknowledged by Kafka.
    pub count: u64,
    pub failed: u64,
    pub elapsed: Duration,
}

/// How many long requests may run at once.
pub struct Slots {
    free: AtomicUsize,
}

/// One of them, until it is dropped.
pub struct Slot<'a>(&'a Slots);

impl Slots {
    pub fn new(count: usize) -> Slots {
        Slots { free: AtomicUsize::new(count) }
    }

    fn take(&self) -> Option<Slot<'_>> {
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().map(|_| Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

/// A response before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(status: u16, body: &impl Serialize) -> Answer {
        let mut body = serde_json::to_vec(body).expect("keys are text and numbers are finite");
        body.push(b'\n');
        Answer { status, content_type: "application/json", headers: Vec::new(), body }
    }

    /// `message`: what is wrong, with the value and the rule. `cure`: what to do about it.
    pub fn error(status: u16, code: &str, message: impl Into<String>, cure: impl Into<String>) -> Answer {
        Answer::error_with(status, code, message, cure, &json!({}))
    }

    /// An error with more to say than words: `more` is an object, whose fields go beside them.
    pub fn error_with(
        status: u16,
        code: &str,
        message: impl Into<String>,
        cure: impl Into<String>,
        more: &impl Serialize,
    ) -> Answer {
        #[derive(Serialize)]
        struct Error<'a, T> {
            code: &'a str,
            message: String,
            cure: String,
            #[serde(flatten)]
            more: &'a T,
        }
        let error = Error { code, message: message.into(), cure: cure.into(), more };
        Answer::json(status, &BTreeMap::from([("error", error)]))
    }

    pub(super) fn failed() -> Answer {
        Answer::error(500, "internal", "the request could not be handled", "see the log; the server goes on")
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

struct Route {
    path: &'static str,
    method: &'static str,
    line: &'static str,
    answer: fn(&Api, &Target, &Slots) -> Answer,
}

const fn get(path: &'static str, line: &'static str, answer: fn(&Api, &Target, &Slots) -> Answer) -> Route {
    Route { path, method: "GET", line, answer }
}

const fn post(path: &'static str, line: &'static str, answer: fn(&Api, &Target, &Slots) -> Answer) -> Route {
    Route { path, method: "POST", line, answer }
}

/// In the order of the index.
#[rustfmt::skip]
const ROUTES: &[Route] = &[
    get("/", "this list", |api, _, _| api.index()),
    get("/health", "liveness and readiness in one; 503 with the reasons while not ready", |api, _, _| api.health()),
    get("/health/live", "200 while the process serves", |api, _, _| Answer::json(200, &api.live())),
    get("/health/ready", "200 when Kafka, PostgreSQL and every partition are well; 503 with the reasons",
        |api, _, _| api.ready()),
    get("/status", "what each flow has counted since the start, how its partitions are, and the last error",
        |api, _, _| api.status()),
    get("/tracking-status", "progress of each flow since the last reset", |api, _, _| api.tracking_status()),
    post("/reset-tracking", "starts /tracking-status from zero; metrics are not touched",
        |api, _, _| api.reset_tracking()),
    post("/send-test-data-concurrently", "?count=N[&flow=NAME]: publishes N test records, 1 to 10000000",
        Api::send_test_data),
    get("/metrics", "metrics in the text format of Prometheus", |api, _, _| api.metrics_text()),
];

/// Everything that a request may ask of the program.
pub struct Api {
    tracks: Vec<Arc<Track>>,
    progress: Mutex<Vec<Progress>>,
    metrics: Metrics,
    test_data: Arc<dyn TestData>,
    directory: Arc<Directory>,
    sink: SinkFacts,
    started: Instant,
}

impl Api {
    /// Progress is counted from here, so this is called before the flows start.
    pub fn new(
        tracks: Vec<Arc<Track>>,
        test_data: Arc<dyn TestData>,
        services: Vec<Arc<dyn Service>>,
        sink: SinkFacts,
        groups: Arc<Groups>,
    ) -> Arc<Api> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        Arc::new(Api {
            progress: Mutex::new(tracks.iter().map(|_| Progress::new(now, wall)).collect()),
            metrics: Metrics::new(&tracks, groups),
            tracks,
            test_data,
            directory: Arc::new(Directory::new(services)),
            sink,
            started: now,
        })
    }

    /// Looks at the counters. Called ten times a second by the server, for the rates.
    pub fn sample(&self, now: Instant) {
        let mut progress = self.progress();
        for (progress, track) in progress.iter_mut().zip(&self.tracks) {
            progress.observe(now, Counts::of(track));
        }
    }

    /// HEAD is answered as GET; whoever writes the answer leaves the body out.
    pub fn answer(&self, method: &str, asked: &str, long: &Slots) -> Answer {
        let target = match Target::parse(asked) {
            Ok(target) => target,
            Err(why) => {
                return Answer::error(400, "target_malformed", why, "percent-encode what is not a letter or a digit");
            }
        };
        let Some(route) = ROUTES.iter().find(|route| route.path == target.path) else {
            let methods = self.directory.methods(asked);
            if !methods.is_empty() {
                return not_allowed(&target.path, method, &methods);
            }
            return Answer::error(404, "path_unknown", format!("no such path: {}", target.path), "GET / lists them");
        };
        if method == route.method || (method == "HEAD" && route.method == "GET") {
            return (route.answer)(self, &target, long);
        }
        not_allowed(route.path, method, &[route.method])
    }

    /// Where the requests go that services take.
    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    fn index(&self) -> Answer {
        #[derive(Serialize)]
        struct Line {
            method: &'static str,
            path: &'static str,
            line: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            body_bytes_max: Option<usize>,
        }
        let own =
            ROUTES.iter().map(|Route { method, path, line, .. }| Line { method, path, line, body_bytes_max: None });
        let services = self.directory.endpoints().map(|(_, endpoint)| {
            let Endpoint { method, path, line, body_bytes_max, .. } = *endpoint;
            Line { method, path, line, body_bytes_max: (body_bytes_max > 0).then_some(body_bytes_max) }
        });
        let endpoints: Vec<Line> = own.chain(services).collect();
        let version = env!("CARGO_PKG_VERSION");
        Answer::json(200, &json!({ "program": "sluicegate", "version": version, "endpoints": endpoints }))
    }

    fn metrics_text(&self) -> Answer {
        let body = self.metrics.text().into_bytes();
        Answer { status: 200, content_type: Metrics::CONTENT_TYPE, headers: Vec::new(), body }
    }

    fn live(&self) -> serde_json::Value {
        let uptime_seconds = self.started.elapsed().as_secs();
        json!({ "status": "live", "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": uptime_seconds })
    }

    fn ready(&self) -> Answer {
        let reasons = reasons(&self.tracks);
        Answer::json(if reasons.is_empty() { 200 } else { 503 }, &readiness(&reasons))
    }

    fn health(&self) -> Answer {
        let reasons = reasons(&self.tracks);
        let (code, status) = if reasons.is_empty() { (200, "ok") } else { (503, "degraded") };
        Answer::json(
            code,
            &json!({
                "status": status, "timestamp": super::rfc3339(SystemTime::now()), "live": self.live(),
                "ready": readiness(&reasons), "components": health::components(&self.tracks, &self.sink, &reasons),
            }),
        )
    }

    fn status(&self) -> Answer {
        let reasons = reasons(&self.tracks);
        Answer::json(200, &health::status(&self.tracks, &self.sink, &reasons, self.started.elapsed()))
    }

    fn tracking_status(&self) -> Answer {
        #[derive(Serialize)]
        struct Status<'a> {
            complete: bool,
            flows: BTreeMap<&'a str, FlowStatus>,
        }
        let now = Instant::now();
        let mut progress = self.progress();
        let flows: BTreeMap<_, _> = progress
            .iter_mut()
            .zip(&self.tracks)
            .map(|(progress, track)| (track.flow.as_str(), tracking::flow_status(track, progress, now)))
            .collect();
        Answer::json(200, &Status { complete: flows.values().all(|flow| flow.complete), flows })
    }

    fn reset_tracking(&self) -> Answer {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut progress = self.progress();
        let reset: BTreeMap<_, _> = progress
            .iter_mut()
            .zip(&self.tracks)
            .map(|(progress, track)| (track.flow.as_str(), progress.reset(now, wall, Counts::of(track))))
            .collect();
        Answer::json(200, &json!({ "time": super::rfc3339(wall), "reset": reset }))
    }

    fn send_test_data(&self, target: &Target, long: &Slots) -> Answer {
        let (flow, count) = match self.wanted(target) {
            Ok(wanted) => wanted,
            Err((code, message)) => {
                let cure =
                    format!("POST /send-test-data-concurrently?count=N[&flow=NAME] with N from 1 to {COUNT_MAX}");
                return Answer::error(400, code, message, cure);
            }
        };
        // The slots leave threads over for health and metrics, however long Kafka takes.
        let Some(_slot) = long.take() else {
            let message = "as many requests for test data as may run at once are running";
            return Answer::error(429, "busy", message, "try again when one is done").with("Retry-After", "1");
        };
        match self.test_data.send(&flow, count) {
            Ok(sent) if sent.count == 0 => {
                refused(&Cause::new("publish_failed", format!("Kafka took none of {} records", sent.failed)))
            }
            Ok(sent) => {
                let seconds = sent.elapsed.as_secs_f64();
                let per_second = if seconds > 0.0 { sent.count as f64 / seconds } else { 0.0 };
                Answer::json(
                    200,
                    &json!({
                        "flow": flow, "produced": sent.count, "failed": sent.failed,
                        "seconds": seconds, "per_second": tracking::tenths(per_second),
                    }),
                )
            }
            Err(fault) => refused(fault.cause()),
        }
    }

    /// The flow and the count, or what is wrong with them.
    fn wanted(&self, target: &Target) -> Result<(String, u64), (&'static str, String)> {
        let (mut count, mut flow) = (None, None);
        for (name, value) in &target.query {
            let slot = match name.as_str() {
                "count" => &mut count,
                "flow" => &mut flow,
                _ => return Err(("parameter_unknown", format!("no such parameter: {name}"))),
            };
            if slot.replace(value.as_str()).is_some() {
                return Err(("parameter_twice", format!("{name} is given twice")));
            }
        }
        let count = count.ok_or(("count_missing", "count is missing".to_string()))?;
        let digits = count.strip_prefix('-').unwrap_or(count);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(("count_not_a_number", format!("count is not a whole number: {count:?}")));
        }
        if digits != count || digits.bytes().all(|byte| byte == b'0') {
            return Err(("count_too_small", format!("count must be at least 1: {count}")));
        }
        let flow = flow.unwrap_or("status");
        if !self.tracks.iter().any(|track| track.flow == flow) {
            let known: Vec<_> = self.tracks.iter().map(|track| track.flow.as_str()).collect();
            return Err(("flow_unknown", format!("no such flow: {flow:?}; running: {}", known.join(", "))));
        }
        match digits.parse() {
            Ok(count) if count <= COUNT_MAX => Ok((flow.to_string(), count)),
            _ => Err(("count_too_large", format!("count must be at most {COUNT_MAX}: {count}"))),
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Vec<Progress>> {
        // Whatever half a look left behind, the next one mends.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_allowed(path: &str, method: &str, methods: &[&str]) -> Answer {
    let allow: Vec<&str> = methods.iter().map(|known| if *known == "GET" { "GET, HEAD" } else { known }).collect();
    let message = format!("{path} does not take {method}");
    Answer::error(405, "method_not_allowed", message, format!("use {}", methods.join(" or ")))
        .with("Allow", allow.join(", "))
}

fn refused(cause: &Cause) -> Answer {
    Answer::error(503, &cause.code, &*cause.text, "see /health for the state of Kafka, and try again")
        .with("Retry-After", "5")
}

/// Why a flow is not ready.
#[derive(Debug, Serialize)]
pub(super) struct Reason {
    flow: String,
    /// `kafka`, `postgres`, `partition` or `group`.
    pub(super) what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    code: String,
    text: String,
}

fn readiness(reasons: &[Reason]) -> serde_json::Value {
    json!({ "status": if reasons.is_empty() { "ready" } else { "not ready" }, "reasons": reasons })
}

/// Every reason of every flow; none when all is well.
pub(super) fn reasons(tracks: &[Arc<Track>]) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for track in tracks {
        let mut add = |what, partition, cause: Cause| {
            let (code, text) = (cause.code.into_owned(), cause.text);
            reasons.push(Reason { flow: track.flow.clone(), what, partition, code, text });
        };
        for side in [Side::Source, Side::Sink] {
            if let Some(cause) = track.trouble(side) {
                add(side.name(), None, cause);
            }
        }
        if !track.is_joined() {
            add("group", None, Cause::new("group_silent", "the consumer group has not answered yet"));
        }
        for (name, partition) in track.partitions() {
            if let PartitionState::Halted(cause) = partition.state() {
                add("partition", Some(name.to_string()), cause);
            }
        }
    }
    reasons
}
