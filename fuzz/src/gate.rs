//! The bytes of an HTTP client: however they are cut, they are the same requests and the same refusal, and nobody makes
//! the gate hold more than a head and what a service takes.

use std::sync::Arc;

use sluicegate::ops::Service;
use sluicegate::ops::directory::Directory;
use sluicegate::ops::gate::{Asked, Reader, Step};
use sluicegate::ops::service::{Call, Endpoint, Pace, Reply};

use super::memory;

/// What the gate holds of a client that sends a byte at a time: a head of 8 KiB, grown by doubling.
const HELD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 100;

struct Shop;

impl Service for Shop {
    fn endpoints(&self) -> &'static [Endpoint] {
        const fn endpoint(method: &'static str, path: &'static str, body_bytes_max: usize) -> Endpoint {
            Endpoint { method, path, body_bytes_max, pace: Pace::Prompt, line: "" }
        }
        &const { [endpoint("POST", "/o", BODY_BYTES_MAX), endpoint("GET", "/o/{id}", 0)] }
    }

    fn call(&self, _: Call, _: Reply) {
        unreachable!("nobody calls");
    }
}

/// What came of the bytes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Asked(Asked),
    Continue,
    Refused { status: u16, body: Vec<u8> },
}

/// The first two bytes say how the rest is cut.
pub fn run(data: &[u8]) {
    let Some(([first, other], bytes)) = data.split_first_chunk::<2>() else { return };
    let whole = events(std::iter::once(bytes));
    sound(&whole);
    let (first, other) = (usize::from(*first) + 1, usize::from(*other) + 1);
    assert_eq!(events(pieces(bytes, first, other)), whole, "cut into {first} and {other} bytes in turn");
    assert_eq!(memory::at_most(HELD_BYTES_MAX + 8 * bytes.len(), || events(bytes.chunks(1))), whole, "byte by byte");
}

fn pieces(bytes: &[u8], first: usize, other: usize) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut sizes) = (bytes, [first, other].into_iter().cycle());
    std::iter::from_fn(move || {
        let (piece, left) = rest.split_at(sizes.next()?.min(rest.len()));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let directory = Arc::new(Directory::new(vec![Arc::new(Shop)]));
    let (mut reader, mut events) = (Reader::new(directory), Vec::new());
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.step() {
                Ok(Step::More) => break,
                Ok(Step::Continue) => events.push(Event::Continue),
                Ok(Step::Asked(asked)) => events.push(Event::Asked(asked)),
                // The connection ends here.
                Err(answer) => {
                    events.push(Event::Refused { status: answer.status, body: answer.body });
                    return events;
                }
            }
        }
    }
    events
}

/// What is let through can be written into a request line; what is refused is refused with a status that says so.
fn sound(events: &[Event]) {
    for event in events {
        match event {
            Event::Asked(Asked { method, target, call, .. }) => {
                assert!(!method.is_empty() && method.bytes().all(|byte| byte.is_ascii_graphic()), "{method:?}");
                assert!(!target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target:?}");
                let taken = call.as_ref().map_or(0, |call| call.body.len());
                assert!(taken <= BODY_BYTES_MAX, "a body of {taken} bytes");
            }
            Event::Continue => {}
            Event::Refused { status, body } => {
                assert!((400..600).contains(status) && serde_json::from_slice::<serde_json::Value>(body).is_ok());
            }
        }
    }
}
