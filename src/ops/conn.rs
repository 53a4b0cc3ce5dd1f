//! One client's connection: what it does when its socket is ready or its time is up. Nothing in here waits, and every
//! wait for the client has a deadline.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::api::Answer;
use super::calls::{CALL_WAIT, late};
use super::gate::{Asked, Reader, Step, refusal};
use super::wire;

/// For the first byte of the next request on a connection that is kept.
const IDLE_WAIT: Duration = Duration::from_secs(60);
/// For all of a request, from its first byte.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// For the client to take all of an answer: who takes a byte now and then gets no more time than who takes none.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// What a refused client may still send before the connection is cut: closing with unread bytes would make the
/// kernel reset the connection, and the client lose its answer.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
const LINGER_WAIT: Duration = Duration::from_secs(1);
/// No wait that begins is over sooner.
pub(super) const WAIT_MIN: Duration = LINGER_WAIT;

/// What there is to do for whoever holds the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing, before the socket is ready again or the deadline has passed.
    Wait,
    /// To have this answered.
    Ask(Asked),
    /// To drop it.
    Over,
}

enum Phase {
    /// `begun`: when the first byte of the request was there.
    Reading {
        begun: Option<Instant>,
    },
    /// Its request is being answered: by a service, or by tiny_http, which has its own bounds.
    Asking {
        keep_alive: bool,
        is_call: bool,
    },
    Writing {
        bytes: Vec<u8>,
        written: usize,
        is_last: bool,
    },
    /// The last answer is written.
    Lingering {
        taken: usize,
    },
}

pub(super) struct Conn {
    stream: TcpStream,
    reader: Reader,
    phase: Phase,
    /// When the phase began.
    since: Instant,
}

impl Conn {
    pub fn new(stream: TcpStream, reader: Reader, now: Instant) -> Conn {
        // An answer is one write; waiting to join it with another only delays it. Who is gone already is found out
        // by reading.
        drop(stream.set_nodelay(true));
        Conn { stream, reader, phase: Phase::Reading { begun: None }, since: now }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Since when the client is waited for. None while its answer is being made.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!matches!(self.phase, Phase::Asking { .. })).then_some(self.since)
    }

    /// Whether it still has an answer to get.
    pub fn is_owed(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. } | Phase::Writing { .. })
    }

    /// When to call `expire`.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Reading { begun: None } => Some(self.since + IDLE_WAIT),
            Phase::Reading { begun: Some(begun) } => Some(*begun + REQUEST_WAIT),
            Phase::Asking { is_call, .. } => is_call.then(|| self.since + CALL_WAIT),
            Phase::Writing { .. } => Some(self.since + ANSWER_WAIT),
            Phase::Lingering { .. } => Some(self.since + LINGER_WAIT),
        }
    }

    pub fn expire(&mut self, now: Instant) -> Turn {
        let refusal = match self.phase {
            Phase::Reading { begun: Some(_) } => {
                let message = format!("no whole request within {} s", REQUEST_WAIT.as_secs());
                refusal(408, "request_too_slow", message)
            }
            Phase::Asking { .. } => late(),
            _ => return Turn::Over,
        };
        self.refuse(refusal, now);
        self.advance(now)
    }

    /// The answer to what was asked last.
    pub fn answer(&mut self, bytes: Vec<u8>, may_stay: bool, now: Instant) -> Turn {
        // One that comes after its time is not the answer to whatever came next.
        let Phase::Asking { keep_alive, .. } = self.phase else { return Turn::Wait };
        self.say(bytes, !(keep_alive && may_stay), now);
        self.advance(now)
    }

    /// Goes on until the socket has no more to give or to take.
    pub fn advance(&mut self, now: Instant) -> Turn {
        loop {
            let went = match &mut self.phase {
                Phase::Reading { .. } => self.read(now),
                Phase::Asking { .. } => return Turn::Wait,
                Phase::Writing { .. } => self.write(now).map(|()| None),
                Phase::Lingering { .. } => self.linger().map(|()| None),
            };
            match went {
                Ok(None) => {}
                Ok(Some(asked)) => return Turn::Ask(asked),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
    }

    fn read(&mut self, now: Instant) -> io::Result<Option<Asked>> {
        match self.reader.step() {
            Ok(Step::Asked(asked)) => {
                self.enter(Phase::Asking { keep_alive: asked.keep_alive, is_call: asked.call.is_some() }, now);
                return Ok(Some(asked));
            }
            Ok(Step::Continue) => {
                // Whoever has no room for so little does not read what it is told.
                (&self.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| io::ErrorKind::TimedOut)?;
            }
            Ok(Step::More) => {
                if let Phase::Reading { begun: begun @ None } = &mut self.phase {
                    *begun = self.reader.has_begun().then_some(now);
                }
                let mut bytes = [0; 4096];
                let read = more(&self.stream, &mut bytes)?;
                self.reader.push(&bytes[..read]);
            }
            Err(answer) => self.refuse(answer, now),
        }
        Ok(None)
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let Phase::Writing { bytes, written, is_last } = &mut self.phase else { return Ok(()) };
        if *written < bytes.len() {
            *written += (&self.stream).write(&bytes[*written..])?;
        } else if *is_last {
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(Phase::Lingering { taken: 0 }, now);
        } else {
            self.enter(Phase::Reading { begun: None }, now);
        }
        Ok(())
    }

    fn linger(&mut self) -> io::Result<()> {
        let Phase::Lingering { taken } = &mut self.phase else { return Ok(()) };
        *taken += more(&self.stream, &mut [0; 16 * 1024])?;
        if *taken < LINGER_BYTES_MAX { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn refuse(&mut self, answer: Answer, now: Instant) {
        self.say(wire::bytes(answer, false), true, now);
    }

    fn say(&mut self, mut bytes: Vec<u8>, is_last: bool, now: Instant) {
        if is_last {
            wire::say_close(&mut bytes);
        }
        self.enter(Phase::Writing { bytes, written: 0, is_last }, now);
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
    }
}

/// At least one byte, or an error.
fn more(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    match stream.read(bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ops::directory::Directory;
    use crate::ops::service::{Call, Endpoint, Pace, Reply, Service};

    struct Silent;

    impl Service for Silent {
        fn endpoints(&self) -> &'static [Endpoint] {
            &[Endpoint { method: "GET", path: "/silent", body_bytes_max: 0, pace: Pace::Prompt, line: "a test" }]
        }

        fn call(&self, _: Call, _: Reply) {}
    }

    /// A client that speaks to the connection, and the connection. The clock is what the test says it is.
    fn pair(now: Instant) -> (std::net::TcpStream, Conn) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        let directory = Arc::new(Directory::new(vec![Arc::new(Silent)]));
        (far, Conn::new(TcpStream::from_std(near), Reader::new(directory), now))
    }

    /// What was written is there at once: both ends are this machine.
    fn say(far: &mut std::net::TcpStream, bytes: &[u8], conn: &mut Conn, now: Instant) -> Turn {
        far.write_all(bytes).unwrap();
        conn.advance(now)
    }

    #[test]
    fn an_idle_client_is_waited_for_only_so_long() {
        let start = Instant::now();
        let (_far, mut conn) = pair(start);
        assert_eq!(conn.advance(start + IDLE_WAIT / 2), Turn::Wait);
        assert_eq!((conn.deadline(), conn.waiting_since()), (Some(start + IDLE_WAIT), Some(start)));
        assert_eq!(conn.expire(start + IDLE_WAIT), Turn::Over);
    }

    #[test]
    fn a_request_has_a_deadline_from_its_first_byte_however_the_others_come() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for parts in [["\r\n", "\r", "\n"], ["G", "E", "T"], ["POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "a", "b"]]
        {
            let (mut far, mut conn) = pair(start);
            for (at, part) in (1..).zip(parts) {
                assert_eq!(say(&mut far, part.as_bytes(), &mut conn, start + at * second), Turn::Wait);
                assert_eq!(conn.deadline(), Some(start + second + REQUEST_WAIT), "{parts:?}");
            }
            // Trickling makes nobody look fresh either.
            assert_eq!(conn.waiting_since(), Some(start));
            let late = start + second + REQUEST_WAIT;
            assert_eq!(conn.expire(late), Turn::Wait);
            assert_eq!(conn.deadline(), Some(late + LINGER_WAIT));
            let mut head = [0; 12];
            far.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 408");
            assert_eq!(conn.expire(late + LINGER_WAIT), Turn::Over);
        }
    }

    #[test]
    fn an_answer_has_a_deadline_however_slowly_it_is_taken() {
        let start = Instant::now();
        let (mut far, mut conn) = pair(start);
        let asked = say(&mut far, b"GET / HTTP/1.1\r\n\r\n", &mut conn, start);
        assert!(matches!(asked, Turn::Ask(_)));
        assert_eq!((conn.deadline(), conn.waiting_since()), (None, None));
        let asked = start + 5 * REQUEST_WAIT;
        assert_eq!(conn.answer(vec![b'x'; 1 << 26], true, asked), Turn::Wait);
        for seconds in 1..9 {
            far.read_exact(&mut vec![0; 1 << 20]).unwrap();
            assert_eq!(conn.advance(asked + Duration::from_secs(seconds)), Turn::Wait);
            assert_eq!((conn.deadline(), conn.waiting_since()), (Some(asked + ANSWER_WAIT), Some(asked)));
        }
        assert_eq!(conn.expire(asked + ANSWER_WAIT), Turn::Over);
    }

    #[test]
    fn a_service_has_a_deadline_and_its_late_answer_goes_nowhere() {
        let start = Instant::now();
        let (mut far, mut conn) = pair(start);
        assert!(matches!(say(&mut far, b"GET /silent HTTP/1.1\r\n\r\n", &mut conn, start), Turn::Ask(_)));
        assert_eq!((conn.deadline(), conn.waiting_since()), (Some(start + CALL_WAIT), None));
        assert_eq!(conn.expire(start + CALL_WAIT), Turn::Wait);
        assert_eq!(conn.answer(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), true, start + CALL_WAIT), Turn::Wait);
        drop(conn);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503") && !text.contains("200 OK"), "{text}");
    }

    #[test]
    fn a_refused_client_may_not_talk_for_ever() {
        let now = Instant::now();
        let (mut far, mut conn) = pair(now);
        let part = vec![b'x'; 64 * 1024];
        assert_eq!(say(&mut far, b"nonsense\r\n\r\n", &mut conn, now), Turn::Wait);
        let parts = (0..).take_while(|_| say(&mut far, &part, &mut conn, now) == Turn::Wait).count();
        assert!(parts >= LINGER_BYTES_MAX / part.len() - 1, "{parts}");
        assert_eq!(conn.deadline(), Some(now + LINGER_WAIT));
    }
}
