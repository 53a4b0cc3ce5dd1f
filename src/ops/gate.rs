//! The gate between clients and tiny_http: it reads one request from a socket, within bounds of bytes and time,
//! and lets through the method and the target of a sound one. Bodies, headers and everything else end here.
//!
//! It is there because tiny_http 0.12 cannot be guarded from behind: dropping a request whose body was not read
//! to its end allocates as many bytes as its Content-Length says is left, and a client that says 2^62 aborts the
//! process. It also waits forever for a slow client, and keeps as many headers as it is sent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::Answer;
use super::origin::Whence;

/// A request line and its headers. No sound request to this program comes near it.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// No endpoint takes a body; a client that sends a small one all the same is answered.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// What a refused client may still send before the connection is cut: closing with unread bytes would make the
/// kernel reset the connection, and the client lose its answer.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a client is waited for.
#[derive(Clone, Copy)]
struct Waits {
    /// For the first byte of the next request on a connection that is kept.
    idle: Duration,
    /// For all of a request, from its first byte.
    request: Duration,
    /// For the client to take all of an answer.
    answer: Duration,
    /// For a refused client to end.
    linger: Duration,
}

const WAITS: Waits = Waits {
    idle: Duration::from_secs(60),
    request: Duration::from_secs(10),
    answer: Duration::from_secs(10),
    linger: Duration::from_secs(1),
};

/// What is let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub method: String,
    pub target: String,
    pub keep_alive: bool,
}

/// One client.
pub(super) struct Client {
    stream: Arc<TcpStream>,
    /// Read and not used yet: the rest of a pipeline.
    pending: Vec<u8>,
    waits: Waits,
}

/// Why there is no request.
pub(super) enum Closed {
    /// The client is done, or gone.
    Gone,
    /// It sent what no server should take; the connection cannot go on.
    Refused(Answer),
}

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Closed::Gone
    }
}

impl Client {
    pub fn new(stream: Arc<TcpStream>) -> io::Result<Client> {
        // An answer is one write; waiting to join it with another only delays it.
        stream.set_nodelay(true)?;
        Ok(Client { stream, pending: Vec::new(), waits: WAITS })
    }

    pub fn next(&mut self) -> Result<Asked, Closed> {
        if self.pending.is_empty() && !self.more(Instant::now() + self.waits.idle)? {
            return Err(Closed::Gone);
        }
        let deadline = Instant::now() + self.waits.request;
        let head_bytes = loop {
            // Empty lines before a request are to be ignored (RFC 9112, 2.2).
            let blank = self.pending.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.pending.drain(..blank);
            if let Some(at) = self.pending.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            if self.pending.len() > HEAD_BYTES_MAX {
                return Err(refuse(431, "head_too_large", format!("more than {HEAD_BYTES_MAX} bytes of headers")));
            }
            if !self.more_of_request(deadline)? {
                return Err(Closed::Gone);
            }
        };
        if head_bytes > HEAD_BYTES_MAX {
            return Err(refuse(431, "head_too_large", format!("more than {HEAD_BYTES_MAX} bytes of headers")));
        }
        let head: Vec<u8> = self.pending.drain(..head_bytes + 4).collect();
        let head = parse(&head[..head_bytes]).map_err(Closed::Refused)?;
        if head.body_bytes > 0 && head.expects_continue {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body_bytes = head.body_bytes as usize;
        while body_bytes > self.pending.len() {
            body_bytes -= self.pending.len();
            self.pending.clear();
            if !self.more_of_request(deadline)? {
                return Err(Closed::Gone);
            }
        }
        self.pending.drain(..body_bytes);
        Ok(head.asked)
    }

    fn more_of_request(&mut self, deadline: Instant) -> Result<bool, Closed> {
        self.more(deadline).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                refuse(408, "request_too_slow", format!("no whole request within {:?}", self.waits.request))
            }
            _ => Closed::Gone,
        })
    }

    /// Reads what is there, waiting for it until the deadline. False at the end of the stream.
    fn more(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match (&*self.stream).read(&mut bytes) {
                Ok(read) => {
                    self.pending.extend_from_slice(&bytes[..read]);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A client that takes a byte now and then gets no more time than one that takes none.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.waits.answer;
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match (&*self.stream).write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection so that what was written arrives.
    pub fn close(mut self) {
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            let deadline = Instant::now() + self.waits.linger;
            let mut taken = 0;
            while taken < LINGER_BYTES_MAX && matches!(self.more(deadline), Ok(true)) {
                taken += self.pending.len();
                self.pending.clear();
            }
        }
    }
}

/// What is left until the deadline; an error once it has passed, however much the client has to say.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Closed {
    Closed::Refused(refusal(status, code, message))
}

fn refusal(status: u16, code: &'static str, message: impl Into<String>) -> Answer {
    Answer::error(status, code, message, "send a plain HTTP/1.1 request without a body; GET / lists the endpoints")
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    asked: Asked,
    body_bytes: u64,
    expects_continue: bool,
}

/// Takes the request line and the headers apart, strictly: what two readers could understand in two ways is
/// refused, so that it does not matter who else stands in the line.
fn parse(head: &[u8]) -> Result<Head, Answer> {
    let malformed = |message: &str| refusal(400, "request_malformed", message);
    let text = std::str::from_utf8(head).ok().filter(|text| text.is_ascii());
    let text = text.ok_or_else(|| malformed("the request line and the headers must be ASCII"))?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(malformed("the first line must be a method, a target and a version, one space between"));
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(malformed("the method is no token"));
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("the target is empty or holds control characters"));
    }
    let mut keep_alive = match version {
        "HTTP/1.1" => true,
        // An old client may ask to keep the connection; it need not be granted.
        "HTTP/1.0" => false,
        _ if version.starts_with("HTTP/") => {
            return Err(refusal(505, "version_not_supported", "only HTTP/1.0 and HTTP/1.1 are spoken here"));
        }
        _ => return Err(malformed("the first line does not end with an HTTP version")),
    };
    let (mut body_bytes, mut expects_continue, mut whence) = (None, false, Whence::default());
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header without a colon"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(malformed("the name of a header is no token"));
        }
        let value = value.trim_matches([' ', '\t']);
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(malformed("the value of a header holds control characters"));
        }
        match name.to_ascii_lowercase().as_str() {
            "host" if whence.host.replace(value).is_some() => return Err(malformed("Host is given twice")),
            "origin" if whence.origin.replace(value).is_some() => return Err(malformed("Origin is given twice")),
            "sec-fetch-site" if whence.fetch_site.replace(value).is_some() => {
                return Err(malformed("Sec-Fetch-Site is given twice"));
            }
            "content-length" => {
                if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(malformed("Content-Length is not a number"));
                }
                // More digits than a u64 has are too many in any case.
                if body_bytes.replace(value.parse().unwrap_or(u64::MAX)).is_some() {
                    return Err(malformed("Content-Length is given twice"));
                }
            }
            "transfer-encoding" => {
                return Err(refusal(411, "length_required", "a body must come with Content-Length"));
            }
            "connection" => {
                keep_alive &= !value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"));
            }
            "expect" if value.eq_ignore_ascii_case("100-continue") => expects_continue = true,
            "expect" => return Err(refusal(417, "expectation_failed", "only 100-continue may be expected")),
            _ => {}
        }
    }
    let body_bytes = body_bytes.unwrap_or(0);
    if body_bytes > BODY_BYTES_MAX {
        return Err(refusal(413, "body_too_large", format!("no endpoint takes a body of {body_bytes} bytes")));
    }
    whence.check(method)?;
    let asked = Asked { method: method.into(), target: target.into(), keep_alive };
    Ok(Head { asked, body_bytes, expects_continue })
}

/// A character of a method or of a header's name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::RecvTimeoutError;
    use std::thread;

    use super::*;

    fn status(head: &str) -> u16 {
        parse(head.as_bytes()).map_or_else(|answer| answer.status, |_| 200)
    }

    #[test]
    fn a_plain_request_passes() {
        let head = parse(b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue").unwrap();
        let asked = Asked { method: "POST".into(), target: "/a?b=c".into(), keep_alive: true };
        assert_eq!(head, Head { asked, body_bytes: 5, expects_continue: true });
        assert!(!parse(b"GET / HTTP/1.1\r\nConnection: foo, Close").unwrap().asked.keep_alive);
        assert!(!parse(b"GET / HTTP/1.0").unwrap().asked.keep_alive);
    }

    /// A client that speaks to the gate, and the gate with waits a test can wait for.
    fn pair(waits: Waits) -> (TcpStream, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = Client::new(Arc::new(listener.accept().unwrap().0)).unwrap();
        (far, Client { waits, ..client })
    }

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);
    const ALL_LONG: Waits = Waits { idle: LONG, request: LONG, answer: LONG, linger: LONG };

    /// Says the same again and again until the other side is gone.
    fn repeat(mut far: TcpStream, bytes: &'static [u8]) {
        thread::spawn(move || while far.write_all(bytes).is_ok() {});
    }

    #[test]
    fn an_idle_client_is_waited_for_only_so_long() {
        let (_far, mut client) = pair(Waits { idle: SHORT, ..ALL_LONG });
        assert!(matches!(client.next(), Err(Closed::Gone)));
    }

    #[test]
    fn a_request_has_a_deadline_however_its_bytes_come() {
        for begun in ["GET / HT", "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"] {
            let (mut far, mut client) = pair(Waits { request: SHORT, ..ALL_LONG });
            far.write_all(begun.as_bytes()).unwrap();
            assert!(matches!(client.next(), Err(Closed::Refused(answer)) if answer.status == 408), "{begun}");
        }
        // Lines that are to be ignored are never too many, but they take time like all others.
        let (far, mut client) = pair(Waits { request: SHORT, ..ALL_LONG });
        repeat(far, b"\r\n\r\n\r\n\r\n");
        assert!(matches!(client.next(), Err(Closed::Refused(answer)) if answer.status == 408));
    }

    #[test]
    fn an_answer_has_a_deadline_however_slowly_it_is_taken() {
        let (mut far, mut client) = pair(Waits { answer: 4 * SHORT, ..ALL_LONG });
        let (ended, end) = std::sync::mpsc::channel::<()>();
        // Each part comes well before the deadline, and all of them long after it.
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 256 * 1024];
            while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(SHORT) {
                assert!(far.read(&mut bytes).is_ok());
            }
        });
        assert!(client.write(&vec![b'x'; 1 << 30]).is_err());
        drop(ended);
        reader.join().unwrap();
    }

    #[test]
    fn a_refused_client_may_not_talk_for_ever() {
        let (far, client) = pair(Waits { linger: SHORT, ..ALL_LONG });
        let held = far.try_clone().unwrap();
        client.close();
        let (far, client) = pair(ALL_LONG);
        repeat(far, &[b'x'; 65536]);
        client.close();
        drop(held);
    }

    #[test]
    fn what_is_ambiguous_or_too_much_is_refused() {
        for (expected, head) in [
            (400, ""),
            (400, "GET /"),
            (400, "GET  / HTTP/1.1"),
            (400, "GET / HTTP/1.1 x"),
            (400, "GET /\x01 HTTP/1.1"),
            (400, "G(T / HTTP/1.1"),
            (400, "GET / TTP/1.1"),
            (400, "GET / HTTP/1.1\r\nno colon"),
            (400, "GET / HTTP/1.1\r\nA: b\r\n folded: c"),
            (400, "GET / HTTP/1.1\r\nContent-Length : 5"),
            (400, "GET / HTTP/1.1\r\nA: b\nContent-Length: 5"),
            (400, "GET / HTTP/1.1\r\nContent-Length: +5"),
            (400, "GET / HTTP/1.1\r\nContent-Length: "),
            (400, "GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5"),
            (411, "GET / HTTP/1.1\r\nTransfer-Encoding: chunked"),
            (400, "GET / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked"),
            (400, "GET /\u{e9} HTTP/1.1"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a"),
            (400, "GET / HTTP/1.1\r\nOrigin: http://a\r\nOrigin: http://a"),
            (400, "GET / HTTP/1.1\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: none"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 65537"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 4611686018427387904"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999"),
            (417, "GET / HTTP/1.1\r\nExpect: wonders"),
            (505, "GET / HTTP/2.0"),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }
}
