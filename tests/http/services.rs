//! Services behind the server: bodies, answers that come later from elsewhere, and that whatever services do, others are
//! answered.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::json;
use sluicegate::ops::service::{Call, Endpoint, Pace, Reply};
use sluicegate::ops::{Answer, Service};

use crate::client::{Connection, PATIENCE, ask, get, health};
use crate::crowd::{crowd, most_descriptors, pause, trickle};
use crate::world::{World, world_with};

const BODY_MAX: usize = 100_000;

const fn endpoint(method: &'static str, path: &'static str, body_bytes_max: usize, pace: Pace) -> Endpoint {
    Endpoint { method, path, body_bytes_max, pace, line: "a test" }
}

const ENDPOINTS: &[Endpoint] = &[
    endpoint("POST", "/echo", BODY_MAX, Pace::Prompt),
    endpoint("GET", "/echo/{name}", 0, Pace::Prompt),
    endpoint("POST", "/later", BODY_MAX, Pace::Prompt),
    endpoint("POST", "/block", 0, Pace::Waiting),
    endpoint("POST", "/panic", 0, Pace::Prompt),
    endpoint("POST", "/forget", 0, Pace::Prompt),
];

/// Answers at once, later, late or never, as the path says.
struct Shop {
    later: Sender<(String, Reply)>,
    /// Calls to `/block` wait until its sender is gone.
    gate: Receiver<()>,
}

impl Service for Shop {
    fn endpoints(&self) -> &'static [Endpoint] {
        ENDPOINTS
    }

    fn call(&self, call: Call, reply: Reply) {
        let body = String::from_utf8_lossy(&call.body).into_owned();
        match call.endpoint.path {
            "/later" => drop(self.later.send((body, reply))),
            "/panic" => panic!("the shop is out of order"),
            "/forget" => {}
            "/block" => {
                let _ = self.gate.recv_timeout(PATIENCE);
                reply.answer(Answer::json(200, &json!({})));
            }
            _ => {
                let (name, key) = (&call.param, &call.idempotency_key);
                reply
                    .answer(Answer::json(200, &json!({ "body": body, "name": name, "key": key, "query": call.query })));
            }
        }
    }
}

struct Held {
    world: World,
    later: Receiver<(String, Reply)>,
    gate: Option<Sender<()>>,
}

fn shop() -> Held {
    let (later, held) = unbounded();
    let (gate, may_go) = bounded(0);
    let world = world_with(vec![Arc::new(Shop { later, gate: may_go })]);
    Held { world, later: held, gate: Some(gate) }
}

impl Held {
    fn take(&self, count: usize) -> Vec<(String, Reply)> {
        (0..count).map(|_| self.later.recv_timeout(PATIENCE).unwrap()).collect()
    }
}

fn echo(reply: (String, Reply)) {
    reply.1.answer(Answer::json(202, &json!({ "body": reply.0 })));
}

fn has_answer(connection: &Connection) -> bool {
    let stream = connection.stream();
    stream.set_nonblocking(true).unwrap();
    let answer = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    answer.is_ok()
}

fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn bodies_are_read_in_a_pipeline_and_never_taken_for_requests() {
    let held = shop();
    let mut connection = Connection::open(held.world.addr);
    let bodies: Vec<String> =
        ["", "GET / HTTP/1.1\r\n\r\n", "POST /panic HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "\0\r\n", "x"]
            .into_iter()
            .map(str::to_owned)
            .chain([5_000, BODY_MAX].map(|size| "y".repeat(size)))
            .collect();
    for size in [1, 3, 1_000_000] {
        let pipeline: String =
            bodies.iter().map(|body| request("/echo", body) + "GET /health/live HTTP/1.1\r\n\r\n").collect();
        let mut writer = connection.stream().try_clone().unwrap();
        let sent = pipeline.clone().into_bytes();
        // Byte by byte would take too long for the large ones.
        let writing = thread::spawn(move || {
            let (small, large) = sent.split_at(1_000);
            small.chunks(size).for_each(|part| writer.write_all(part).unwrap());
            writer.write_all(large).unwrap();
        });
        for body in &bodies {
            let answer = connection.read(false);
            assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some(body.as_str())));
            assert_eq!(connection.read(false).json()["status"], "live");
        }
        writing.join().unwrap();
    }
    let answer = connection.ask("GET", "/echo/a%2Fb?x=1&y=%20").json();
    assert_eq!((&answer["name"], &answer["query"]), (&json!("a/b"), &json!([["x", "1"], ["y", " "]])));
    let head = connection.ask("HEAD", "/echo/a");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    connection.write("POST /echo HTTP/1.1\r\nidempotency-key: k-1 \r\nContent-Length: 1\r\nConnection: close\r\n\r\nz");
    let answer = connection.read(false);
    assert_eq!((&answer.json()["key"], answer.header("Connection")), (&json!("k-1"), Some("close")));
    assert!(connection.is_over());
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_comes() {
    let held = shop();
    for (length, more) in [
        ("100001", ""),
        ("100001", "Expect: 100-continue\r\n"),
        ("4611686018427387904", ""),
        ("99999999999999999999999999", "Connection: close\r\n"),
    ] {
        let mut connection = Connection::open(held.world.addr);
        connection.write(format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n{more}\r\nsome"));
        let answer = connection.read(false);
        assert_eq!((answer.status, answer.error().as_str()), (413, "body_too_large"));
        assert!(answer.body.contains("100000 bytes at most"), "{}", answer.body);
        connection.stream().shutdown(Shutdown::Write).unwrap();
        assert!(connection.is_over());
    }
    let mut connection = Connection::open(held.world.addr);
    connection.write("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!(connection.read(false).status, 411);
    let mut connection = Connection::open(held.world.addr);
    connection.write("POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let mut interim = [0; 25];
    connection.stream().read_exact(&mut interim).unwrap();
    connection.write("xx");
    assert_eq!(connection.read(false).json()["body"], "xx");
    held.world.lives();
}

#[test]
fn services_are_listed_and_answer_only_what_they_take() {
    let held = shop();
    let addr = held.world.addr;
    let index = get(addr, "/").json();
    let listed = index["endpoints"].as_array().unwrap();
    assert!(
        listed.contains(&json!({ "method": "POST", "path": "/echo", "line": "a test", "body_bytes_max": BODY_MAX }))
    );
    assert!(listed.contains(&json!({ "method": "GET", "path": "/echo/{name}", "line": "a test" })));
    for (method, path, allow) in
        [("GET", "/echo", "POST"), ("POST", "/echo/x", "GET, HEAD"), ("BREW", "/later", "POST")]
    {
        let answer = ask(addr, method, path);
        assert_eq!((answer.status, answer.header("Allow")), (405, Some(allow)), "{method} {path}");
    }
    for path in ["/echo/", "/echo/a/b", "/Echo", "/echo%2Fa"] {
        assert_eq!(ask(addr, "GET", path).error(), "path_unknown", "{path}");
    }
    assert_eq!(get(addr, "/echo/%zz").error(), "target_malformed");
    for (headers, status) in [("Origin: http://evil.example\r\n", 403), ("Origin: http://test\r\n", 200)] {
        let mut connection = Connection::open(addr);
        connection.write(format!("POST /echo HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: 1\r\n\r\nx"));
        assert_eq!(connection.read(false).status, status);
    }
}

#[test]
fn a_service_that_panics_or_forgets_has_answered_500() {
    let held = shop();
    let mut connection = Connection::open(held.world.addr);
    // More often than there are threads.
    for _ in 0..20 {
        for path in ["/panic", "/forget"] {
            let answer = connection.ask("POST", path);
            assert_eq!((answer.status, answer.error().as_str()), (500, "internal"));
            assert!(!answer.body.contains("out of order"));
        }
    }
    assert_eq!(connection.ask("GET", "/echo/x").status, 200);
}

#[test]
fn hundreds_of_requests_wait_at_once_and_each_gets_its_own_answer() {
    let held = shop();
    let addr = held.world.addr;
    let count = (most_descriptors() / 8).min(600);
    let mut connections: Vec<Connection> = (0..count).map(|_| Connection::open(addr)).collect();
    for round in 0..3 {
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.write(request("/later", &format!("{round}/{number}")));
        }
        let mut waiting = held.take(count);
        assert_eq!(health(addr).status, 200);
        waiting.rotate_left(count / 3);
        let answering = thread::spawn(move || waiting.into_iter().rev().for_each(echo));
        for (number, connection) in connections.iter_mut().enumerate() {
            let answer = connection.read(false);
            assert_eq!(
                (answer.status, answer.json()["body"].as_str()),
                (202, Some(format!("{round}/{number}").as_str()))
            );
        }
        answering.join().unwrap();
    }
}

#[test]
fn more_than_may_wait_are_told_so_at_once_and_others_are_answered() {
    let held = shop();
    let addr = held.world.addr;
    let count = (most_descriptors() / 4).min(900);
    let mut connections: Vec<Connection> = (0..count).map(|_| Connection::open(addr)).collect();
    connections.iter_mut().for_each(|connection| connection.write(request("/later", "x")));
    // Each is under way or refused; who comes first is for the kernel to say.
    let by = Instant::now() + PATIENCE;
    let (mut refused, waiting): (Vec<&mut Connection>, Vec<&mut Connection>) = loop {
        let (refused, waiting) = connections.iter_mut().partition(|connection| has_answer(connection));
        if Vec::len(&refused) + held.later.len() == count {
            break (refused, waiting);
        }
        assert!(Instant::now() < by, "{} refused and {} under way", refused.len(), held.later.len());
        pause(Duration::from_millis(10));
    };
    assert!(!refused.is_empty() && waiting.len() > count / 2, "{} of {count} wait", waiting.len());
    for connection in &mut refused {
        let answer = connection.read(false);
        assert_eq!((answer.status, answer.error().as_str()), (503, "overloaded"));
        assert_eq!(answer.header("Retry-After"), Some("1"));
    }
    for _ in 0..10 {
        assert_eq!(health(addr).status, 200);
        assert_eq!(ask(addr, "POST", "/later").status, 503);
    }
    held.later.try_iter().for_each(echo);
    for connection in waiting {
        // A machine that is too busy to get here in time has them told so.
        let answer = connection.read(false);
        assert!(answer.status == 202 || answer.error() == "no_answer", "{}", answer.body);
    }
    let again = thread::spawn(move || ask(addr, "POST", "/later").status);
    held.take(1).into_iter().for_each(echo);
    assert_eq!(again.join().unwrap(), 202);
}

#[test]
fn calls_that_wait_are_in_nobodys_way() {
    let mut held = shop();
    let addr = held.world.addr;
    let mut connections: Vec<Connection> = (0..100).map(|_| Connection::open(addr)).collect();
    connections.iter_mut().for_each(|connection| connection.write("POST /block HTTP/1.1\r\n\r\n"));
    let began = Instant::now();
    while !connections.iter().any(has_answer) {
        assert!(began.elapsed() < PATIENCE);
        pause(Duration::from_millis(10));
    }
    for _ in 0..10 {
        assert_eq!(health(addr).status, 200);
        assert_eq!(Connection::open(addr).ask("GET", "/echo/x").status, 200);
    }
    drop(held.gate.take());
    let statuses: Vec<u16> = connections.iter_mut().map(|connection| connection.read(false).status).collect();
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert!(answered >= 20 && statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert_eq!(ask(addr, "POST", "/block").status, 200);
}

#[test]
fn who_has_gone_meanwhile_is_not_missed() {
    let held = shop();
    for _ in 0..3 {
        for client in crowd(held.world.addr, 50, request("/later", "x").as_bytes()) {
            drop(client.shutdown(Shutdown::Both));
        }
        held.take(50).into_iter().for_each(echo);
    }
    assert_eq!(Connection::open(held.world.addr).ask("GET", "/echo/x").status, 200);
}

#[test]
fn crowds_with_slow_bodies() {
    let held = shop();
    let many = (most_descriptors() / 4).min(1_200);
    held.world.withstands(|| {
        for length in [9, BODY_MAX] {
            let said = format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\nx");
            trickle(&crowd(held.world.addr, many, said.as_bytes()), b'x');
        }
        let whole = request("/later", &"x".repeat(BODY_MAX));
        let clients = crowd(held.world.addr, 300, whole.as_bytes());
        pause(Duration::from_secs(1));
        drop(clients);
        held.later.try_iter().for_each(echo);
    });
}

#[test]
fn the_server_stops_after_the_last_answer_that_is_owed() {
    let mut held = shop();
    let mut connection = Connection::open(held.world.addr);
    connection.write(request("/later", "x"));
    let waiting = held.take(1);
    let server = held.world.server.take().unwrap();
    let stopping = thread::spawn(move || server.stop(PATIENCE));
    pause(Duration::from_millis(50));
    assert!(!stopping.is_finished());
    waiting.into_iter().for_each(echo);
    assert_eq!(connection.read(false).status, 202);
    assert!(stopping.join().unwrap());
}
