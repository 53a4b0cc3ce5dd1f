//! Spans to a collector, as OpenTelemetry's protocol has them: JSON over HTTP, from a thread of its own. A collector that is
//! slow or away costs spans, which are counted, and nothing else: what waits is bounded, and nothing is sent twice.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::{Value, json};

use crate::engine::Stop;
use crate::trace::{Course, Trace};

/// Batches that may wait for the collector. Memory: some hundred bytes each.
pub const WAITING_MAX: usize = 2_048;
/// Batches in one request, and how long the first of them waits for more.
const REQUEST_MAX: usize = 256;
const LINGER: Duration = Duration::from_millis(500);
/// For connecting, and then for all that is said on the connection.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of an answer only the first line counts.
const ANSWER_BYTES_MAX: u64 = 4096;
/// As the protocol numbers them.
const INTERNAL: u8 = 1;
const CONSUMER: u8 = 5;

/// Where the collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// With the port.
    authority: String,
    path: String,
}

impl Endpoint {
    /// From `http://host:4318`, with a path where it is not the usual one. The error is what to do about it.
    pub fn read(text: &str) -> Result<Endpoint, &'static str> {
        if text.starts_with("https://") {
            return Err("there is no TLS here: name a collector on this machine by http://, and let it go on by https");
        }
        let rest = text.strip_prefix("http://").ok_or("write http://HOST:4318, or with the path of the collector")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '#' | '?' | '\\');
        if name.is_empty() || !rest.chars().all(is_plain) {
            return Err("write http://HOST:4318, without a user and without parameters");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:4318") };
        let path = if path.len() > 1 { path } else { "/v1/traces" };
        Ok(Endpoint { authority, path: path.to_owned() })
    }

    fn post(&self, body: &[u8]) -> io::Result<u16> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return self.post_on(stream, body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn post_on(&self, stream: TcpStream, body: &[u8]) -> io::Result<u16> {
        let mut stream = Until { stream, by: Instant::now() + PATIENCE };
        let Endpoint { authority, path } = self;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        // What is cut off, or comes too late, does not matter once the status is there.
        let read = BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer);
        let line = String::from_utf8_lossy(&answer);
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim_end().parse().ok());
        status.ok_or_else(|| read.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))
    }
}

/// A connection that nobody waits on for longer than until `by`, however little at a time comes or goes.
struct Until {
    stream: TcpStream,
    by: Instant,
}

impl Until {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.by.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Sends what comes until the order to stop, which comes when nobody tells of anything any more, and then what is there. A
/// collector that does not take it then is not asked again.
pub fn send_all(endpoint: &Endpoint, courses: &Receiver<Course>, stop: &Stop) {
    let mut is_well = true;
    loop {
        let is_last = stop.asked();
        let mut some: Vec<Course> = match courses.recv_timeout(if is_last { Duration::ZERO } else { LINGER }) {
            Ok(course) => vec![course],
            Err(RecvTimeoutError::Timeout) if !is_last => continue,
            Err(_) => return,
        };
        if !is_last && courses.len() < REQUEST_MAX {
            stop.pause(LINGER);
        }
        some.extend(courses.try_iter().take(REQUEST_MAX - 1));
        let sent = endpoint.post(request(&some).to_string().as_bytes());
        let is_taken = matches!(sent, Ok(200..=299));
        for course in &some {
            let counter = if is_taken { &course.track.spans_exported } else { &course.track.spans_dropped };
            counter.add(1);
        }
        // Once for each time that it goes wrong.
        match sent {
            _ if is_taken == is_well => {}
            _ if is_taken => log::info!("traces: {endpoint} takes spans again"),
            Ok(status) => log::warn!("traces: {endpoint} answered {status}; spans are dropped until it takes them"),
            Err(error) => log::warn!("traces: {endpoint}: {error}; spans are dropped until it answers"),
        }
        is_well = is_taken;
        if is_last && (!is_taken || stop.expired()) {
            courses.try_iter().for_each(|course| course.track.spans_dropped.add(1));
            return;
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn request(courses: &[Course]) -> Value {
    let spans: Vec<Value> = courses.iter().flat_map(spans).collect();
    let of_us = [attribute("service.name", "sluicegate"), attribute("service.version", env!("CARGO_PKG_VERSION"))];
    json!({ "resourceSpans": [{
        "resource": { "attributes": of_us },
        "scopeSpans": [{ "scope": { "name": "sluicegate" }, "spans": spans }],
    }] })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// Numbers of 64 bits are text in the protocol's JSON.
fn number(key: &str, value: i64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

/// The batch, and below it what it went through. What came in several turns, polling and decoding, has its true length
/// and stands at the beginning and at the end of the time in which the batch was filled.
fn spans(course: &Course) -> Vec<Value> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let root = course.span("batch");
    let span = |name: &str, parent: Option<Trace>, kind: u8, begin_ms: f64, end_ms: f64| {
        json!({
            "traceId": root.trace_id(),
            "spanId": course.span(name).span_id(),
            "parentSpanId": parent.map_or_else(String::new, |parent| parent.span_id()),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(begin_ms),
            "endTimeUnixNano": nanos(end_ms.max(begin_ms)),
        })
    };
    let mut batch = span("batch", None, CONSUMER, course.opened_ms, course.done_ms);
    batch["attributes"] = json!([
        attribute("messaging.system", "kafka"),
        attribute("messaging.destination.name", &course.partition.topic),
        attribute("messaging.destination.partition.id", &course.partition.id.to_string()),
        attribute("sluicegate.flow", &course.track.flow),
        number("sluicegate.first_offset", course.first),
        number("sluicegate.next_offset", course.next),
        number("sluicegate.rows", course.rows as i64),
        number("sluicegate.letters", course.letters as i64),
    ]);
    let link = |trace: &Trace| json!({ "traceId": trace.trace_id(), "spanId": trace.span_id() });
    batch["links"] = course.links.iter().map(link).collect();
    let child = |name, begin_ms, end_ms| span(name, Some(root), INTERNAL, begin_ms, end_ms);
    let mut all = vec![
        batch,
        child("poll", course.opened_ms, course.opened_ms + ms(course.polling)),
        child("decode", course.closed_ms - ms(course.decoding), course.closed_ms),
        child("queue", course.closed_ms, course.taken_ms),
        child("write", course.began_ms, course.done_ms),
    ];
    all.extend(course.commit.map(|commit| {
        let parent = Some(course.span("write"));
        span("commit", parent, INTERNAL, course.done_ms - ms(commit), course.done_ms)
    }));
    all
}

fn nanos(at_ms: f64) -> String {
    format!("{:.0}", at_ms.max(0.0) * 1e6)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::engine::Clock;
    use crate::record::Partition;
    use crate::track::Track;

    #[test]
    fn an_endpoint_is_a_collector_without_tls() {
        let shown = |text| Endpoint::read(text).map(|endpoint| endpoint.to_string());
        assert_eq!(shown("http://localhost").as_deref(), Ok("http://localhost:4318/v1/traces"));
        assert_eq!(shown("http://otel:9999/").as_deref(), Ok("http://otel:9999/v1/traces"));
        assert_eq!(shown("http://[::1]:4318/a/b").as_deref(), Ok("http://[::1]:4318/a/b"));
        assert!(shown("https://otel:4318").unwrap_err().contains("no TLS"));
        for bad in [
            "otel:4318",
            "http://",
            "http://:4318",
            "http://u:p@otel",
            "http://otel/a?b",
            "http://o tel",
            "http://otel/\r\nX: y",
        ] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    /// A collector that says `answer`, and then a letter now and then for as long as somebody listens.
    fn talker(answer: &'static [u8]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::read(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            while stream.write_all(b"x").is_ok() {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        endpoint
    }

    #[test]
    fn what_is_left_when_the_collector_takes_no_more_is_counted_too() {
        let (to, courses) = crossbeam_channel::unbounded();
        let track = Track::new("status");
        for first in 0..REQUEST_MAX as i64 + 100 {
            to.send(Course::of_one(&track, Partition::new("t", 0), first)).unwrap();
        }
        let (stopper, stop) = Stop::new(&Clock::real(), Duration::from_secs(60));
        drop(stopper);
        send_all(&talker(b"HTTP/1.1 503 Away\r\n"), &courses, &stop);
        assert_eq!((track.spans_exported.get(), track.spans_dropped.get()), (0, REQUEST_MAX as u64 + 100));
    }

    #[test]
    fn of_an_answer_the_first_line_is_enough_and_one_that_never_ends_is_not_waited_for() {
        assert_eq!(talker(b"HTTP/1.1 202 Accepted\r\n").post(b"{}").unwrap(), 202);
        assert_eq!(talker(b"HTTP/1.0 503\r\n").post(b"{}").unwrap(), 503);
        let kind = talker(b"").post(b"{}").unwrap_err().kind();
        // After 4096 letters it would be no answer, and not one that came too late.
        assert!(matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{kind:?}");
    }
}
