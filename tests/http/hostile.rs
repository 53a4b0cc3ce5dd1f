//! Requests that are greedy, ambiguous or mad: each is refused, or taken within bounds, and others are answered
//! meanwhile. Clients that are many or slow are in `crowd`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use crate::client::Connection;
use crate::exposition;
use crate::world::{SEND, World, world};

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
    connection.stream().read_exact(&mut interim).unwrap();
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

/// Sends what the server need not take to the end, and gives its answer.
fn refused(world: &World, bytes: &[u8]) -> u16 {
    let mut connection = Connection::open(world.addr);
    drop(connection.stream().write_all(bytes));
    let answer = connection.read(false);
    answer.error();
    connection.stream().shutdown(Shutdown::Write).unwrap();
    assert!(connection.is_over(), "an answer to what came behind {}", bytes[..bytes.len().min(99)].escape_ascii());
    answer.status
}

#[test]
fn two_readings_of_one_request_are_never_possible() {
    let world = world();
    let smuggled = format!("POST {SEND}?count=7 HTTP/1.1\r\nHost: test\r\n\r\n");
    let length = smuggled.len();
    world.withstands(|| {
        for (status, headers) in [
            (411, format!("Transfer-Encoding: chunked\r\nContent-Length: {length}")),
            (411, format!("Content-Length: {length}\r\nTransfer-Encoding: chunked")),
            (411, "Content-Length: 0\r\ntransfer-encoding:chunked".into()),
            (411, "Content-Length: 0\r\nTransfer-Encoding: identity".into()),
            (411, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".into()),
            (411, "Transfer-Encoding: gzip, chunked".into()),
            (400, "Content-Length: 0\r\nTransfer-Encoding : chunked".into()),
            (400, "Content-Length: 0\r\n Transfer-Encoding: chunked".into()),
            (400, "Content-Length: 0\r\nX: y\nTransfer-Encoding: chunked".into()),
            (400, "Content-Length: 0\r\nTransfer-Encoding\0: chunked".into()),
            (400, "Content-Length: 0\r\nTransfer-Encoding: \x0bchunked".into()),
            (400, format!("Content-Length: 0\r\nContent-Length: {length}")),
            (400, format!("Content-Length: {length}\r\nContent-Length: 0")),
            (400, format!("Content-Length: {length}\r\nContent-Length: {length}")),
            (400, format!("Content-Length: {length}, {length}")),
            (400, "Content-Length: 0x0".into()),
            (400, "Content-Length: 0\r\nContent_Length : 5".into()),
        ] {
            let request =
                format!("POST /reset-tracking HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n0\r\n\r\n{smuggled}");
            assert_eq!(refused(&world, request.as_bytes()), status, "{headers:?}");
        }
    });
    assert!(world.data.sent.lock().unwrap().is_empty());
}

#[test]
fn what_is_too_long_is_refused_and_read_no_further() {
    let world = world();
    let megabyte = "x".repeat(1 << 20);
    let chunk = format!("fffffffffffffff\r\n{megabyte}");
    world.withstands(|| {
        for (status, request) in [
            (431, format!("GET /{megabyte} HTTP/1.1\r\n\r\n")),
            (431, megabyte.clone()),
            (431, format!("GET / HTTP/1.1\r\n{}\r\n", "A-Header: of an ordinary length\r\n".repeat(10_000))),
            (431, format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(10_000))),
            (431, format!("GET / HTTP/1.1\r\nA: {megabyte}")),
            (411, format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}", "1\r\nx\r\n".repeat(100_000))),
            (411, format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")),
            (411, format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{megabyte}")),
            (413, format!("POST / HTTP/1.1\r\nContent-Length: 4611686018427387904\r\n\r\n{megabyte}")),
        ] {
            let clients: Vec<_> = (0..8).map(|_| refused(&world, request.as_bytes())).collect();
            assert_eq!(clients, [status; 8], "{}", &request[..60]);
        }
    });
}

#[test]
fn no_garbage_is_answered_with_more_than_a_refusal() {
    let world = world();
    // Pseudo-random and the same each time (xorshift); some of it in lines, so that it is looked into.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let pieces: Vec<Vec<u8>> = (1..300)
        .map(|number| {
            let noise: Vec<u8> = (0..number * 7).map(|_| byte()).collect();
            [if number % 3 == 0 { &b"GET / HTTP/1.1\r\n"[..] } else { b"" }, &noise, b"\r\n\r\n"].concat()
        })
        .collect();
    world.withstands(|| {
        for piece in &pieces {
            let connection = Connection::open(world.addr);
            drop(connection.stream().write_all(piece));
            drop(connection.stream().shutdown(Shutdown::Write));
            let mut answer = Vec::new();
            drop(connection.stream().read_to_end(&mut answer));
            let text = String::from_utf8(answer).unwrap();
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 505"), "{text}");
        }
    });
}

#[test]
fn a_page_of_another_origin_changes_nothing() {
    let world = world();
    let path = format!("{SEND}?count=1");
    for (status, headers) in [
        (403, "Origin: http://evil.example\r\n"),
        (403, "Origin: null\r\n"),
        (403, "Sec-Fetch-Site: cross-site\r\n"),
        (403, "Sec-Fetch-Site: same-site\r\nOrigin: http://test:3000\r\n"),
        (200, "Origin: http://test\r\n"),
        (200, "Sec-Fetch-Site: same-origin\r\nOrigin: http://test\r\n"),
        (200, ""),
    ] {
        world.data.sent.lock().unwrap().clear();
        let mut connection = Connection::open(world.addr);
        connection.write(format!("POST {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: 3\r\n\r\na=b"));
        let answer = connection.read(false);
        assert_eq!(answer.status, status, "{headers}");
        if status == 403 {
            assert_eq!(answer.error(), "origin_foreign");
        }
        assert_eq!(world.data.sent.lock().unwrap().len(), usize::from(status == 200), "{headers}");
        // What a page may not read the answer of, it may still ask for.
        connection = Connection::open(world.addr);
        connection.write(format!("GET /health HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
        assert_eq!(connection.read(false).status, 200);
    }
}
