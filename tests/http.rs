//! What HTTP answers, over real sockets to the real server: every endpoint, every refusal, and clients that do
//! not mean well.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sluicegate::fault::{Cause, Fault};
use sluicegate::ops::api::{Api, Sent, TestData};
use sluicegate::ops::{http::Server, metrics};
use sluicegate::record::Partition;
use sluicegate::track::{PartitionState, Side, Track};

/// Test data that counts, fails for 13, and for 7 waits until the test lets it go.
struct Fake {
    track: Arc<Track>,
    gate: Mutex<Receiver<()>>,
}

impl TestData for Fake {
    fn send(&self, _: &str, count: u64) -> Result<Sent, Fault> {
        match count {
            13 => return Err(Fault::retry("kafka.transport", "no broker answers")),
            14 => panic!("a bug in a handler"),
            7 => drop(self.gate.lock().expect("a gate").recv_timeout(Duration::from_secs(30))),
            _ => {}
        }
        self.track.produced.add(count);
        Ok(Sent { delivered: count, failed: 0, took: Duration::from_millis(500) })
    }
}

struct Site {
    port: u16,
    track: Arc<Track>,
    open_gate: Sender<()>,
    _server: Server,
}

fn site() -> Site {
    let track = Track::new("status");
    track.recovered(Side::Source);
    track.recovered(Side::Sink);
    let (open_gate, gate) = channel();
    let fake = Fake { track: track.clone(), gate: Mutex::new(gate) };
    let api = Arc::new(Api::new(vec![track.clone()], Box::new(fake), 4));
    let server = Server::start("127.0.0.1:0", api, 4).expect("a server");
    Site { port: server.address().port(), track, open_gate, _server: server }
}

impl Site {
    fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, body) = support::http(self.port, method, path).expect("an answer");
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{method} {path}: {error}: {body}")))
    }

    /// Sends bytes as they are and reads what comes within two seconds.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[test]
fn test_data_is_refused_with_the_reason_and_the_cure() {
    let site = site();
    let path = "/send-test-data-concurrently";
    for (query, word) in [
        ("", "missing"),
        ("?", "missing"),
        ("?count=", "whole number"),
        ("?count=0", "nothing"),
        ("?count=-5", "negative"),
        ("?count=ten", "whole number"),
        ("?count=1.5", "whole number"),
        ("?count=10000001", "over the most"),
        ("?count=99999999999999999999999", "over the most"),
        ("?count=1&count=2", "twice"),
        ("?count=1&speed=2", "no parameter"),
        ("?count=1&flow=nope", "does not run"),
        ("?count=%31", "whole number"),
    ] {
        let (status, body) = site.ask("POST", &format!("{path}{query}"));
        assert_eq!(status, 400, "{query}: {body}");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.contains(word), "{query}: {message}");
        assert!(body["error"]["cure"].as_str().is_some_and(|cure| !cure.is_empty()), "{query}: {body}");
    }
    assert_eq!(site.track.produced.get(), 0);
    let (status, body) = site.ask("POST", &format!("{path}?count=1000&flow=status"));
    assert_eq!((status, &body["produced"], &body["per_second"]), (200, &1000.into(), &2000.0.into()), "{body}");
    let (status, body) = site.ask("POST", &format!("{path}?count=13"));
    assert_eq!((status, &body["error"]["code"]), (503, &"kafka_unavailable".into()));
}

#[test]
fn what_is_not_there_is_404_and_the_wrong_method_405() {
    let site = site();
    for path in ["/nothing", "/health/", "/metrics/x", "/%2e%2e/etc/passwd"] {
        assert_eq!(site.ask("GET", path).0, 404, "{path}");
    }
    for (method, path) in [("POST", "/health"), ("DELETE", "/metrics"), ("GET", "/reset-tracking"), ("PUT", "/")] {
        assert_eq!(site.ask(method, path).0, 405, "{method} {path}");
    }
    let answer = site.raw(b"GET /reset-tracking HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("Allow: POST"), "{answer}");
    let answer = site.raw(b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(site.ask("GET", "/").1["endpoints"].as_array().map(Vec::len), Some(8));
}

#[test]
fn readiness_follows_the_dependencies_and_liveness_does_not() {
    let site = site();
    assert_eq!(site.ask("GET", "/health/ready").0, 200);
    site.track.troubled(Side::Sink, &Cause::new("pg.connection", "connection refused"));
    for path in ["/health", "/health/ready"] {
        let (status, body) = site.ask("GET", path);
        assert_eq!(status, 503);
        let reason = &body["reasons"][0];
        assert_eq!((&reason["dependency"], &reason["text"]), (&"postgres".into(), &"connection refused".into()));
    }
    assert_eq!(site.ask("GET", "/health/live").0, 200);
    site.track.recovered(Side::Sink);
    assert_eq!(site.ask("GET", "/health").0, 200);
    let place = site.track.add_partition(&Partition::new("t", 3));
    place.set_state(PartitionState::Halted(Cause::new("kafka.offset_out_of_range", "gone")));
    let (status, body) = site.ask("GET", "/health/ready");
    assert_eq!((status, &body["reasons"][0]["partition"]), (503, &"t/3".into()), "{body}");
}

#[test]
fn tracking_counts_from_the_last_reset() {
    let site = site();
    site.track.written.add(10);
    site.track.set_aside.add(2);
    let place = site.track.add_partition(&Partition::new("t", 0));
    place.next_offset.set(12);
    place.end_offset.set(20);
    let flow = site.ask("GET", "/tracking-status").1["flows"]["status"].clone();
    assert_eq!((&flow["written"], &flow["set_aside"], &flow["lag"]), (&10.into(), &2.into(), &8.into()));
    assert_eq!((&flow["complete"], &flow["partitions"][0]["next_offset"]), (&false.into(), &12.into()));
    assert_eq!(site.ask("POST", "/reset-tracking").0, 200);
    place.end_offset.set(12);
    let flow = site.ask("GET", "/tracking-status").1["flows"]["status"].clone();
    assert_eq!((&flow["written"], &flow["complete"]), (&0.into(), &true.into()));
}

#[test]
fn metrics_are_well_formed_and_have_every_name_that_dashboards_know() {
    let site = site();
    site.track.written.add(10);
    site.track.write_seconds.record(Duration::from_millis(3));
    site.track.add_partition(&Partition::new("t", 0));
    let text = support::http(site.port, "GET", "/metrics").expect("an answer").1;
    for name in [
        "database_records_written_total{flow=\"status\"} 10",
        "database_write_errors_total{",
        "database_write_duration_seconds_bucket{flow=\"status\",le=\"0.005\"} 1",
        "database_write_duration_seconds_count{flow=\"status\"} 1",
        "kafka_messages_consumed_total{",
        "kafka_consumer_errors_total{",
        "application_active_workers{",
        "sluicegate_partition_lag_records{flow=\"status\",topic=\"t\",partition=\"0\"}",
        "sluicegate_dependency_up{flow=\"status\",dependency=\"kafka\"} 1",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
    let mut described = None;
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(kind) => described = kind.split(' ').next().map(str::to_owned),
            None if line.starts_with('#') => {}
            None => {
                let name = line.split(['{', ' ']).next().expect("a name");
                let family = described.as_deref().expect("a type before the first sample");
                assert!(name.starts_with(family), "{line} under {family}");
                assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
            }
        }
    }
}

#[test]
fn health_answers_while_requests_are_stuck_and_too_many_are_told_to_wait() {
    let site = site();
    std::thread::scope(|scope| {
        let stuck: Vec<_> =
            (0..2).map(|_| scope.spawn(|| site.ask("POST", "/send-test-data-concurrently?count=7").0)).collect();
        // The third is refused as soon as both are inside.
        support::wait_for("the refusal", Duration::from_secs(10), || {
            (site.ask("POST", "/send-test-data-concurrently?count=13").0 == 429).then_some(())
        });
        for _ in 0..20 {
            assert_eq!(site.ask("GET", "/health/live").0, 200);
        }
        for _ in 0..2 {
            site.open_gate.send(()).expect("opened");
        }
        assert!(stuck.into_iter().all(|thread| thread.join().expect("an answer") == 200));
    });
    assert_eq!(site.ask("POST", "/send-test-data-concurrently?count=5").0, 200, "places are given back");
}

#[test]
fn a_handler_that_panics_answers_500_and_the_server_lives() {
    let site = site();
    for _ in 0..6 {
        assert_eq!(site.ask("POST", "/send-test-data-concurrently?count=14").0, 500);
    }
    assert_eq!(site.ask("GET", "/health/live").0, 200);
}

#[test]
fn clients_that_do_not_mean_well_cost_nobody_else() {
    let site = site();
    let huge = b"POST /reset-tracking HTTP/1.1\r\nHost: x\r\nContent-Length: 4611686018427387904\r\n\r\n";
    for _ in 0..8 {
        assert!(site.raw(huge).starts_with("HTTP/1.1 413"), "a body that nobody could hold");
    }
    for bytes in [
        &b"\x00\xff\xfe garbage\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon here\r\n\r\n",
        b"POST /reset-tracking HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        site.raw(bytes);
    }
    let two =
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = site.raw(two);
    assert!(answers.contains("HTTP/1.1 200") && answers.contains("HTTP/1.1 404"), "{answers}");
    // Connections that say nothing, and one that says half.
    let idle: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", site.port)).expect("connected")).collect();
    let mut half = TcpStream::connect(("127.0.0.1", site.port)).expect("connected");
    half.write_all(b"POST /reset-tracking HTTP/1.1\r\nContent-Le").expect("sent");
    assert_eq!(site.ask("GET", "/health/live").0, 200);
    drop((idle, half));
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(file, metrics::page()).expect("written");
    }
    let page = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(page, metrics::page(), "run UPDATE_EXPECT=1 cargo test --test http");
}
