//! Clients that are many, slow or silent, on raw sockets: `/health` has an answer for the next one within a second.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Connection, PATIENCE};
use crate::world::{SEND, world};

/// More than the server has seats for.
const MANY: usize = 400;

pub fn pause(time: Duration) {
    #[allow(clippy::disallowed_methods)] // a slow client is one that waits
    thread::sleep(time);
}

/// So many clients that have said this much, and stay.
pub fn crowd(addr: SocketAddr, count: usize, said: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        drop(stream.write_all(said));
        stream
    };
    (0..count).map(open).collect()
}

/// Adds a byte to each for a second. The server may have sent some of them away.
pub fn trickle(clients: &[TcpStream], byte: u8) {
    for _ in 0..10 {
        clients.iter().for_each(|mut client| drop(client.write(&[byte])));
        pause(Duration::from_millis(100));
    }
}

#[test]
fn five_thousand_idle_connections() {
    let world = world();
    let held_max = most_descriptors() / 2;
    world.withstands(|| {
        let mut held = VecDeque::new();
        for stream in (0..50).flat_map(|_| crowd(world.addr, 100, b"")) {
            held.push_back(stream);
            if held.len() > held_max {
                held.pop_front();
            }
        }
        pause(Duration::from_secs(1));
    });
}

#[test]
fn idle_connections_from_all_sides_at_once() {
    let world = world();
    let count = (most_descriptors() / 8).min(1000);
    world.withstands(|| {
        let sides: Vec<_> = (0..4).map(|_| thread::spawn(move || crowd(world.addr, count, b""))).collect();
        sides.into_iter().for_each(|side| drop(side.join().unwrap()));
    });
}

#[test]
fn connections_kept_after_a_request() {
    let world = world();
    world.withstands(|| {
        let clients = crowd(world.addr, MANY, b"GET /health/live HTTP/1.1\r\n\r\n");
        pause(Duration::from_secs(1));
        drop(clients);
    });
}

#[test]
fn slow_heads() {
    let world = world();
    world.withstands(|| {
        trickle(&crowd(world.addr, MANY, b"GET"), b'x');
        trickle(&crowd(world.addr, MANY, b"GET / HTTP/1.1\r\nA: "), b'x');
        trickle(&crowd(world.addr, MANY, b"\r\n"), b'\n');
    });
}

#[test]
fn slow_bodies_and_bodies_that_never_come() {
    let world = world();
    world.withstands(|| {
        for length in ["9", "65536", "4611686018427387904"] {
            let said = format!("POST {SEND}?count=1 HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            trickle(&crowd(world.addr, MANY, said.as_bytes()), b'x');
            let gone = crowd(world.addr, MANY, said.as_bytes());
            gone.iter().for_each(|client| drop(client.shutdown(Shutdown::Write)));
        }
        // Without a length there is no body, and nothing to wait for.
        assert_eq!(Connection::open(world.addr).ask("POST", "/reset-tracking").status, 200);
    });
}

#[test]
fn clients_that_ask_and_do_not_read() {
    let world = world();
    let pipeline = "GET /metrics HTTP/1.1\r\n\r\n".repeat(100);
    world.withstands(|| {
        let clients = crowd(world.addr, MANY, pipeline.as_bytes());
        pause(Duration::from_secs(1));
        drop(clients);
    });
}

#[test]
fn clients_that_never_stop_asking() {
    let world = world();
    let until = Instant::now() + Duration::from_secs(2);
    let pipeline = "GET /health/live HTTP/1.1\r\n\r\n".repeat(1000);
    // As many as there are seats, and more: each asks the next before it has the answer to the last.
    world.withstands(|| {
        thread::scope(|scope| {
            for _ in 0..MANY {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let stream = TcpStream::connect_timeout(&world.addr, PATIENCE).unwrap();
                        thread::scope(|scope| {
                            scope.spawn(|| drop((&stream).write_all(pipeline.as_bytes())));
                            drop(std::io::copy(&mut (&stream).take(50_000), &mut std::io::sink()));
                            drop(stream.shutdown(Shutdown::Both));
                        });
                    }
                });
            }
        });
    });
}

#[test]
fn the_slow_are_told_so_and_sent_away() {
    let world = world();
    world.withstands(|| {
        let slow = [
            "GET / HTTP/1.1\r\nA: ".to_string(),
            format!("POST {SEND}?count=1 HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"),
        ];
        let mut slow = slow.map(|said| {
            let mut client = Connection::open(world.addr);
            client.write(said);
            client
        });
        // It asks for more than the kernel keeps for it, and takes nothing.
        let mut reader = Connection::open(world.addr);
        reader.stream().set_write_timeout(Some(PATIENCE)).unwrap();
        reader.write("GET /metrics HTTP/1.1\r\n\r\n".repeat(5_000));
        let mut ended = [false; 2];
        let by = Instant::now() + PATIENCE;
        while ended != [true; 2] && Instant::now() < by {
            for (client, ended) in slow.iter_mut().zip(&mut ended) {
                *ended = *ended || client.stream().write_all(b"x").is_err();
            }
            pause(Duration::from_millis(100));
        }
        for client in &mut slow {
            let answer = client.read(false);
            assert_eq!((answer.status, answer.error().as_str()), (408, "request_too_slow"));
        }
        // The server has given up: what it had not written never comes.
        let (mut answers, mut bytes) = (0, Vec::new());
        drop(reader.stream().read_to_end(&mut bytes));
        answers += bytes.windows(15).filter(|bytes| bytes == b"HTTP/1.1 200 OK").count();
        assert!((1..5_000).contains(&answers), "{answers}");
    });
    assert!(world.data.sent.lock().unwrap().is_empty());
}

/// How many this process may have. What the tests hold, they hold on both sides.
pub fn most_descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(256)
}
