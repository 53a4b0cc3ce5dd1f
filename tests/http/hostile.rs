//! Clients that are many, hasty, greedy or mad: the process lives, and the next request is answered.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::client::Connection;
use crate::exposition;
use crate::world::{SEND, world};

#[test]
fn many_clients_at_once_all_get_their_answers() {
    let world = world();
    let addr = world.addr;
    let clients: Vec<_> = (0..32)
        .map(|_| {
            thread::spawn(move || {
                let mut connection = Connection::open(addr);
                for _ in 0..10 {
                    assert_eq!(connection.ask("GET", "/health").status, 200);
                    assert_eq!(connection.ask("POST", &format!("{SEND}?count=0")).status, 400);
                    exposition::parse(&connection.ask("GET", "/metrics").body).unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let world = world();
    let mut connection = Connection::open(world.addr);
    let paths = ["/health/live", "/nowhere", "/", "/health?%", "/metrics"];
    connection.write(paths.map(|path| format!("GET {path} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")).concat());
    assert_eq!(paths.map(|_| connection.read(false).status), [200, 404, 200, 400, 200]);
    connection.write("GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(connection.read(false).status, 200);
    assert!(connection.is_over());
}

#[test]
fn an_enormous_content_length_costs_nothing_but_its_connection() {
    let world = world();
    for method in ["GET", "POST"] {
        for version in ["1.0", "1.1", "2.0"] {
            for length in ["65537", "4611686018427387904", "9223372036854775808", "99999999999999999999999999"] {
                for more in ["", "Expect: 100-continue\r\n", "Connection: upgrade\r\n", "Connection: close\r\n"] {
                    let mut connection = Connection::open(world.addr);
                    let path = format!("{SEND}?count=1");
                    connection
                        .write(format!("{method} {path} HTTP/{version}\r\nContent-Length: {length}\r\n{more}\r\nsome"));
                    let answer = connection.read(false);
                    assert_eq!(answer.status, if version == "2.0" { 505 } else { 413 });
                    answer.error();
                    connection.stream().shutdown(Shutdown::Write).unwrap();
                    assert!(connection.is_over());
                }
            }
        }
    }
    assert!(world.data.sent.lock().unwrap().is_empty());
    world.lives();
}

#[test]
fn a_small_body_is_taken_and_forgotten() {
    let world = world();
    let mut connection = Connection::open(world.addr);
    for size in [1, 1024, 1025, 65536] {
        connection.write(format!("POST {SEND}?count=1 HTTP/1.1\r\nContent-Length: {size}\r\n\r\n"));
        connection.write(vec![b'x'; size]);
        assert_eq!(connection.read(false).status, 200, "{size}");
    }
    connection.write("GET / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let mut interim = [0; 25];
    std::io::Read::read_exact(&mut connection.stream(), &mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write("xx");
    assert_eq!(connection.read(false).status, 200);
}

#[test]
fn garbage_is_refused_and_forgotten() {
    let world = world();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000));
    for (status, garbage) in [
        (400, &b"garbage\r\n\r\n"[..]),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (411, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
        (411, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunky\r\nContent-Length: 3\r\n\r\nabc"),
        (417, b"GET / HTTP/1.1\r\nExpect: wonders\r\n\r\n"),
        (431, long.as_bytes()),
        (431, headers.as_bytes()),
        (505, b"GET / HTTP/3.0\r\n\r\n"),
    ] {
        let mut connection = Connection::open(world.addr);
        connection.write(garbage);
        let answer = connection.read(false);
        assert_eq!(answer.status, status, "{}", garbage.escape_ascii());
        answer.error();
        connection.stream().shutdown(Shutdown::Write).unwrap();
        assert!(connection.is_over());
        world.lives();
    }
    // And those who leave without a word, or in the middle of one.
    for part in ["", "GET", "GET / HTTP/1.1\r\nA: b", "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"] {
        drop(Connection::open(world.addr).stream().write_all(part.as_bytes()));
    }
    world.lives();
}

#[test]
fn more_connections_than_may_be_are_told_so() {
    let world = world();
    let mut idle: Vec<_> = (0..64).map(|_| Connection::open(world.addr)).collect();
    // Accepted in order: once the last is served, all the others have their places.
    assert_eq!(idle.last_mut().unwrap().ask("GET", "/health/live").status, 200);
    // Nothing is sent, so that nothing is left unread when the server closes.
    let answer = Connection::open(world.addr).read(false);
    assert_eq!((answer.status, answer.error().as_str()), (503, "too_many_connections"));
    drop(idle);
    // Their threads take a moment to see it.
    let free = (0..3000).any(|_| {
        #[allow(clippy::disallowed_methods)] // polls what it cannot be told of
        thread::sleep(Duration::from_millis(10));
        Connection::open(world.addr).try_status("GET / HTTP/1.1\r\n\r\n") == Some(200)
    });
    assert!(free, "the places of those who left are taken");
}
