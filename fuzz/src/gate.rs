//! The bytes of an HTTP client: however they are cut, they are the same requests and the same refusal, and nobody makes
//! the gate hold more than a head.

use sluicegate::ops::gate::{Reader, Step};

use super::memory;

/// What the gate holds of a client that sends a byte at a time: a head of 8 KiB, grown by doubling.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What came of the bytes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Asked { method: String, target: String, keep_alive: bool },
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
    assert_eq!(memory::at_most(HELD_BYTES_MAX + bytes.len(), || events(bytes.chunks(1))), whole, "byte by byte");
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
    let (mut reader, mut events) = (Reader::default(), Vec::new());
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Step::More) => break,
                Ok(Step::Continue) => events.push(Event::Continue),
                Ok(Step::Asked(asked)) => {
                    let (method, target) = (asked.method, asked.target);
                    events.push(Event::Asked { method, target, keep_alive: asked.keep_alive });
                }
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
            Event::Asked { method, target, .. } => {
                assert!(!method.is_empty() && method.bytes().all(|byte| byte.is_ascii_graphic()), "{method:?}");
                assert!(!target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target:?}");
            }
            Event::Continue => {}
            Event::Refused { status, body } => {
                assert!((400..600).contains(status) && serde_json::from_slice::<serde_json::Value>(body).is_ok());
            }
        }
    }
}
