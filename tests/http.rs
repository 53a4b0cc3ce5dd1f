//! The HTTP server as a client meets it: real sockets, made-up tracks, made-up test data.

#[path = "http/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "http/crowd.rs"]
mod crowd;
#[path = "http/descriptors.rs"]
mod descriptors;
#[path = "http/exposition.rs"]
mod exposition;
#[path = "http/hostile.rs"]
mod hostile;
#[path = "http/services.rs"]
mod services;
#[path = "http/world.rs"]
mod world;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use client::{Connection, PATIENCE, ask, get, post};
use sluicegate::fault::Cause;
use sluicegate::ops::api::COUNT_MAX;
use sluicegate::ops::{Api, Server, SinkFacts};
use sluicegate::track::{PartitionState, Side, Track};
use world::{Data, HANDLERS, Mode, SEND, world};

#[test]
fn every_path_answers_its_method_and_no_other() {
    let world = world();
    let index = get(world.addr, "/").json();
    assert!(index.to_string().contains(&format!("1 to {COUNT_MAX}")));
    let endpoints = index["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 9);
    for endpoint in endpoints {
        let (method, path) = (endpoint["method"].as_str().unwrap(), endpoint["path"].as_str().unwrap());
        assert!(endpoint["line"].as_str().is_some_and(|line| !line.is_empty()));
        let target = if path == SEND { format!("{path}?count=1") } else { path.to_string() };
        let answer = ask(world.addr, method, &target);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        if path != "/metrics" {
            answer.json();
        }
        for wrong in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if wrong == method || wrong == "HEAD" && method == "GET" {
                continue;
            }
            let answer = ask(world.addr, wrong, &target);
            assert_eq!(answer.status, 405, "{wrong} {path}");
            assert_eq!(answer.header("Allow"), Some(if method == "GET" { "GET, HEAD" } else { "POST" }));
            if wrong != "HEAD" {
                assert_eq!(answer.error(), "method_not_allowed");
            }
        }
    }
    assert_eq!(world.data.sent.lock().unwrap().len(), 1);
}

#[test]
fn head_is_get_without_the_body() {
    let world = world();
    let mut connection = Connection::open(world.addr);
    for path in ["/", "/health/ready", "/nowhere"] {
        let got = connection.ask("GET", path);
        let head = connection.ask("HEAD", path);
        assert_eq!((head.status, head.header("Content-Length")), (got.status, got.header("Content-Length")));
        assert_eq!(head.header("Content-Type"), got.header("Content-Type"));
    }
}

#[test]
fn an_unknown_path_is_404_and_an_odd_one_400() {
    let world = world();
    for path in ["/nowhere", "/health/", "/health/live/x", "//", "/HEALTH", "/metrics%00", "*", "/%2e%2e/health"] {
        let answer = get(world.addr, path);
        assert_eq!((answer.status, answer.error().as_str()), (404, "path_unknown"), "{path}");
    }
    for path in ["/%", "/%4", "/%zz", "/health?%", "/health?a=%f", "/health?a=%ff", "/%c3%28"] {
        let answer = get(world.addr, path);
        assert_eq!((answer.status, answer.error().as_str()), (400, "target_malformed"), "{path}");
    }
    for path in ["/%68ealth/live", "/health/live?probe=1", "http://somewhere:80/health/live"] {
        assert_eq!(get(world.addr, path).status, 200, "{path}");
    }
}

#[test]
fn liveness_and_readiness_are_apart() {
    let world = world();
    let ready = || {
        let answer = get(world.addr, "/health/ready");
        let whole = get(world.addr, "/health");
        assert_eq!(whole.status, answer.status);
        assert_eq!((whole.json()["live"]["status"].as_str(), &whole.json()["ready"]), (Some("live"), &answer.json()));
        world.lives();
        let reasons = answer.json()["reasons"].as_array().unwrap().clone();
        assert_eq!(answer.status, if reasons.is_empty() { 200 } else { 503 });
        reasons
    };
    assert!(ready().is_empty());

    world.track.troubled(Side::Sink, &Cause::new("08006", "the connection is gone"));
    world.track.troubled(Side::Source, &Cause::new("all_brokers_down", "no broker answers"));
    let reasons = ready();
    assert_eq!(reasons.len(), 2);
    for (reason, what, code) in [(&reasons[0], "kafka", "all_brokers_down"), (&reasons[1], "postgres", "08006")] {
        assert_eq!((reason["what"].as_str(), reason["code"].as_str()), (Some(what), Some(code)));
        assert_eq!(reason["flow"].as_str(), Some("status"));
    }
    world.track.recovered(Side::Sink);
    assert_eq!(ready().len(), 1);
    world.track.recovered(Side::Source);
    assert!(ready().is_empty());

    world.partition.set_state(PartitionState::Halted(Cause::new("topic_recreated", "another incarnation")));
    assert_eq!(ready()[0]["partition"].as_str(), Some("seed-status-updates/7"));
    world.partition.set_state(PartitionState::Running);
    assert!(ready().is_empty());
}

#[test]
fn the_two_ends_are_told_in_the_words_of_the_replaced_sink() {
    let world = world();
    let components = || get(world.addr, "/health").json()["components"].clone();
    let both = components();
    let topics = serde_json::json!(["seed-status-updates"]);
    let consumer = serde_json::json!({ "status": "healthy", "topics": topics, "partitions": 1, "lag": 2 });
    assert_eq!(both["consumer"], consumer);
    let writer =
        serde_json::json!({ "status": "healthy", "database": "target_db", "connection": "ok", "pool_size": 10 });
    assert_eq!(both["writer"], writer);
    assert!(get(world.addr, "/health").json()["timestamp"].as_str().unwrap().ends_with('Z'));

    world.track.troubled(Side::Sink, &Cause::new("08006", "the connection is gone"));
    let both = components();
    assert_eq!(
        (both["consumer"]["status"].as_str(), both["writer"]["status"].as_str()),
        (Some("healthy"), Some("unhealthy"))
    );
    assert_eq!(both["writer"]["connection"], "failed");
    world.track.recovered(Side::Sink);
    world.partition.set_state(PartitionState::Halted(Cause::new("topic_recreated", "another incarnation")));
    let both = components();
    assert_eq!(
        (both["consumer"]["status"].as_str(), both["writer"]["status"].as_str()),
        (Some("unhealthy"), Some("healthy"))
    );
}

#[test]
fn the_status_is_of_all_flows_since_the_start_and_no_reset_sets_it_back() {
    let world = world();
    world.track.written.add(5);
    world.track.count("updated", 5);
    assert_eq!(post(world.addr, "/reset-tracking").status, 200);
    let answer = get(world.addr, "/status");
    assert_eq!(answer.status, 200);
    let status = answer.json();
    assert_eq!((&status["status"], status["uptime_seconds"].is_u64()), (&"ok".into(), true));
    let flow = &status["flows"]["status"];
    assert_eq!((&flow["counters"]["written"], &flow["outcomes"]["updated"]), (&5.into(), &5.into()));
    assert_eq!(
        (&flow["partitions"], &flow["lag"], &flow["last_error"]),
        (&1.into(), &2.into(), &serde_json::Value::Null)
    );
    assert_eq!(status["flows"].as_object().unwrap().len(), 2);

    world.track.failed(&Cause::new("53300", "too many connections"));
    world.track.troubled(Side::Source, &Cause::new("all_brokers_down", "no broker answers"));
    let answer = get(world.addr, "/status");
    assert_eq!((answer.status, &answer.json()["status"]), (200, &"degraded".into()));
    assert!(answer.json()["flows"]["status"]["last_error"]["code"].is_string());
}

#[test]
fn not_ready_before_the_group_has_answered() {
    let track = Track::new("status");
    let data = Data::new(track.clone());
    let api = Api::new(vec![track.clone()], data, Vec::new(), SinkFacts::default(), Arc::default());
    let server = Server::start("127.0.0.1:0", api, 1).unwrap();
    let answer = get(server.local_addr(), "/health/ready");
    assert_eq!((answer.status, answer.json()["reasons"][0]["what"].as_str()), (503, Some("group")));
    track.joined();
    assert_eq!(get(server.local_addr(), "/health/ready").status, 200);
    assert!(server.stop(PATIENCE));
}

#[test]
fn test_data_is_asked_for_in_one_way_only() {
    let world = world();
    for (query, code) in [
        ("", "count_missing"),
        ("?", "count_missing"),
        ("?flow=status", "count_missing"),
        ("?count", "count_not_a_number"),
        ("?count=", "count_not_a_number"),
        ("?count=abc", "count_not_a_number"),
        ("?count=1.5", "count_not_a_number"),
        ("?count=1e3", "count_not_a_number"),
        ("?count=0x10", "count_not_a_number"),
        ("?count=+5", "count_not_a_number"),
        ("?count=%2B5", "count_not_a_number"),
        ("?count=5%20", "count_not_a_number"),
        ("?count=%D9%A3", "count_not_a_number"),
        ("?count=-", "count_not_a_number"),
        ("?count=0", "count_too_small"),
        ("?count=000", "count_too_small"),
        ("?count=-1", "count_too_small"),
        ("?count=-99999999999999999999999", "count_too_small"),
        ("?count=10000001", "count_too_large"),
        ("?count=99999999999999999999999", "count_too_large"),
        ("?count=1&count=1", "parameter_twice"),
        ("?count=1&c%6funt=2", "parameter_twice"),
        ("?count=1&flow=status&flow=status", "parameter_twice"),
        ("?count=1&speed=9", "parameter_unknown"),
        ("?Count=1", "parameter_unknown"),
        ("?count=1&flow=nothing", "flow_unknown"),
        ("?count=1&flow=", "flow_unknown"),
        ("?count=%", "target_malformed"),
    ] {
        let answer = post(world.addr, &format!("{SEND}{query}"));
        assert_eq!((answer.status, answer.error().as_str()), (400, code), "{query}");
    }
    assert!(world.data.sent.lock().unwrap().is_empty());

    let answer = post(world.addr, &format!("{SEND}?count=10000000")).json();
    assert_eq!((answer["produced"].as_u64(), answer["failed"].as_u64()), (Some(10_000_000), Some(0)));
    assert_eq!((answer["seconds"].as_f64(), answer["per_second"].as_f64()), (Some(0.5), Some(2e7)));
    assert_eq!(post(world.addr, &format!("{SEND}?flow=%63dc&count=0012")).status, 200);
    let sent = world.data.sent.lock().unwrap();
    assert_eq!(*sent, [("status".to_string(), 10_000_000), ("cdc".to_string(), 12)]);
}

#[test]
fn kafka_refusing_is_503_with_the_reason() {
    let world = world();
    world.set(Mode::Refuse);
    let answer = post(world.addr, &format!("{SEND}?count=1"));
    assert_eq!((answer.status, answer.error().as_str()), (503, "kafka_unreachable"));
    assert!(answer.body.contains("no broker answers") && answer.header("Retry-After").is_some());
}

#[test]
fn a_panic_is_a_500_and_nothing_else() {
    let world = world();
    world.set(Mode::Panic);
    // More often than there are handlers, and than there are slots for long requests.
    for _ in 0..HANDLERS * 2 {
        let answer = post(world.addr, &format!("{SEND}?count=1"));
        assert_eq!((answer.status, answer.error().as_str()), (500, "internal"));
        assert!(!answer.body.contains("out of order"), "what a panic says is for the log");
    }
    world.set(Mode::Succeed);
    assert_eq!(post(world.addr, &format!("{SEND}?count=1")).status, 200);
}

#[test]
fn health_answers_while_sends_are_stuck() {
    let world = world();
    let (begun, has_begun) = channel();
    let (go, may_go) = channel();
    world.set(Mode::Stick(begun, Arc::new(Mutex::new(may_go))));
    let addr = world.addr;
    let stuck: Vec<_> =
        (0..HANDLERS - 2).map(|_| thread::spawn(move || post(addr, &format!("{SEND}?count=1")).status)).collect();
    for _ in &stuck {
        has_begun.recv_timeout(PATIENCE).unwrap();
    }
    for _ in 0..5 {
        let busy = post(addr, &format!("{SEND}?count=1"));
        assert_eq!((busy.status, busy.error().as_str()), (429, "busy"));
        assert!(busy.header("Retry-After").is_some());
        assert_eq!(post(addr, &format!("{SEND}?count=0")).status, 400);
        for path in ["/health", "/health/live", "/health/ready", "/metrics", "/tracking-status"] {
            assert_eq!(get(addr, path).status, 200);
        }
    }
    for _ in &stuck {
        go.send(()).unwrap();
    }
    for thread in stuck {
        assert_eq!(thread.join().unwrap(), 200);
    }
    world.set(Mode::Succeed);
    assert_eq!(post(addr, &format!("{SEND}?count=1")).status, 200);
}

#[test]
fn stopping_waits_for_a_request_but_no_longer_than_it_may() {
    for (deadline, expected) in [(PATIENCE, true), (Duration::from_millis(50), false)] {
        let mut world = world();
        let (begun, has_begun) = channel();
        let (go, may_go) = channel();
        world.set(Mode::Stick(begun, Arc::new(Mutex::new(may_go))));
        let addr = world.addr;
        let mut connection = Connection::open(addr);
        connection.write(format!("POST {SEND}?count=1 HTTP/1.1\r\n\r\n"));
        has_begun.recv_timeout(PATIENCE).unwrap();
        let server = world.server.take().unwrap();
        let stopping = thread::spawn(move || server.stop(deadline));
        if expected {
            go.send(()).unwrap();
            assert_eq!(connection.read(false).status, 200);
        }
        assert_eq!(stopping.join().unwrap(), expected);
        assert!(connection.is_over());
        assert!(std::net::TcpStream::connect(addr).is_err());
    }
}

#[test]
fn tracking_status_tells_and_reset_forgets() {
    let world = world();
    world.track.consumed.add(10);
    world.track.written.add(7);
    world.track.set_aside.add(1);
    world.track.retried.add(2);
    world.track.fenced.add(3);
    world.track.held_keys.set(4);
    world.track.parked_records.set(5);
    post(world.addr, &format!("{SEND}?count=10"));
    world.track.troubled(Side::Sink, &Cause::new("40P01", "deadlock detected"));
    let whole = get(world.addr, "/tracking-status").json();
    assert_eq!(whole["complete"].as_bool(), Some(false));
    assert_eq!(whole["flows"].as_object().unwrap().len(), 2);
    let status = &whole["flows"]["status"];
    for (name, expected) in [
        ("produced", 10),
        ("consumed", 10),
        ("written", 7),
        ("set_aside", 1),
        ("retried", 2),
        ("fenced", 3),
        ("held_keys", 4),
        ("parked_records", 5),
        ("lag", 2),
    ] {
        assert_eq!(status[name].as_u64(), Some(expected), "{name}");
    }
    assert!(status["rate_per_second"]["now"].is_f64() && status["rate_per_second"]["average"].is_f64());
    assert!(status["elapsed_seconds"].is_f64());
    assert_eq!((status["last_error"]["code"].as_str(), status["complete"].as_bool()), (Some("40P01"), Some(false)));
    assert_eq!(status["last_error"]["text"].as_str(), Some("deadlock detected"));
    assert!(status["last_error"]["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')));
    let partition = &status["partitions"][0];
    assert_eq!(
        (partition["topic"].as_str(), partition["state"].as_str()),
        (Some("seed-status-updates"), Some("running"))
    );
    for (name, expected) in [("partition", 7), ("next_offset", 8), ("end_offset", 10), ("lag", 2), ("ahead", 0)] {
        assert_eq!(partition[name].as_i64(), Some(expected), "{name}");
    }

    let reset = post(world.addr, "/reset-tracking").json();
    assert_eq!(reset["reset"]["status"]["written"].as_u64(), Some(7));
    assert_eq!(reset["reset"]["cdc"]["written"].as_u64(), Some(0));
    let status = &get(world.addr, "/tracking-status").json()["flows"]["status"];
    for name in ["produced", "publish_failed", "consumed", "written", "set_aside", "retried", "fenced"] {
        assert_eq!(status[name].as_u64(), Some(0), "{name}");
    }
    assert!(status["last_error"].is_null());
    let metrics = exposition::parse(&get(world.addr, "/metrics").body).unwrap();
    assert_eq!(metrics.value("database_records_written_total", &[("flow", "status")]), Some(7.0));

    world.track.written.add(2);
    world.partition.next_offset.set(10);
    let status = &get(world.addr, "/tracking-status").json()["flows"]["status"];
    assert_eq!((status["written"].as_u64(), status["complete"].as_bool()), (Some(2), Some(true)));
}

#[test]
fn metrics_are_what_a_scraper_takes() {
    let world = world();
    world.track.write_seconds.record(Duration::from_millis(3));
    world.track.write_seconds.record(Duration::from_secs(90));
    ["inserted", "updated", "deleted"].iter().for_each(|outcome| world.track.count(outcome, 3));
    world.track.troubled(Side::Source, &Cause::new("x", "y"));
    let answer = get(world.addr, "/metrics");
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4"));
    let metrics = exposition::parse(&answer.body).unwrap();
    let status = [("flow", "status")];
    for (name, kind) in [
        ("database_records_written_total", "counter"),
        ("database_write_errors_total", "counter"),
        ("database_write_duration_seconds", "histogram"),
        ("kafka_messages_consumed_total", "counter"),
        ("kafka_consumer_errors_total", "counter"),
        ("application_active_workers", "gauge"),
        // And another former system's.
        ("consumer_messages_received", "counter"),
        ("consumer_commits", "counter"),
        ("writer_inserts", "counter"),
        ("writer_updates", "counter"),
        ("writer_deletes", "counter"),
        ("processor_batch_processing_time", "histogram"),
        ("processor_queue_size", "gauge"),
        ("error_handler_errors", "counter"),
        ("error_handler_retries", "counter"),
        ("error_handler_dead_letters", "counter"),
    ] {
        assert_eq!(metrics.kinds.get(name).map(String::as_str), Some(kind), "{name}");
        let name = if kind == "histogram" { format!("{name}_count") } else { name.to_string() };
        assert!(metrics.value(&name, &status).is_some(), "{name}");
    }
    assert_eq!(metrics.value("database_write_duration_seconds_count", &status), Some(2.0));
    assert_eq!(metrics.value("writer_deletes", &status), Some(3.0));
    assert!(metrics.value("uptime_seconds", &[]).is_some_and(|seconds| seconds >= 0.0));
    assert_eq!(metrics.value("sluicegate_ready", &[]), Some(0.0));
    for (dependency, up) in [("kafka", 0.0), ("postgres", 1.0)] {
        let labels = [("flow", "status"), ("dependency", dependency)];
        assert_eq!(metrics.value("sluicegate_dependency_up", &labels), Some(up));
    }
    let partition = [("flow", "status"), ("topic", "seed-status-updates"), ("partition", "7")];
    assert_eq!(metrics.value("sluicegate_partition_lag_records", &partition), Some(2.0));
    assert_eq!(metrics.value("sluicegate_partition_halted", &partition), Some(0.0));
}
