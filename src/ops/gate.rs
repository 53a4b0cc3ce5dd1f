//! The gate between clients and whoever answers them: it takes bytes, and gives sound requests, within bounds. For
//! tiny_http that is a method and a target; bodies, headers and everything else end here. For a service of the
//! directory it is a call with its body. The gate knows no socket and no clock.
//!
//! It is there because tiny_http 0.12 cannot be guarded from behind: dropping a request whose body was not read
//! to its end allocates as many bytes as its Content-Length says is left, and a client that says 2^62 aborts the
//! process. It also waits forever for a slow client, and keeps as many headers as it is sent.

use std::sync::Arc;

use super::api::Answer;
use super::calls::overloaded;
use super::directory::Directory;
use super::origin::Whence;
use super::service::Call;

/// A request line and its headers. No sound request to this program comes near it.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Most endpoints take no body; a client that sends them a small one all the same is answered.
const UNUSED_BODY_BYTES_MAX: usize = 64 * 1024;

/// What is let through.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub keep_alive: bool,
    /// Where a service takes it.
    pub call: Option<Call>,
}

/// What is known after the bytes so far.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// They will not come before the client has been told to go on.
    Continue,
    Asked(Asked),
}

/// The bytes of one client, from request to request.
pub struct Reader {
    directory: Arc<Directory>,
    /// Read and not used yet: the rest of a pipeline.
    pending: Vec<u8>,
    /// Before this place in them no head ends: a client that sends a byte at a time costs no more than one that does not.
    looked_bytes: usize,
    /// Bytes of empty lines before the request.
    blank_bytes: usize,
    /// Once the head is whole: the request, and how much of its body is still to come.
    body: Option<(Asked, usize)>,
}

impl Reader {
    pub fn new(directory: Arc<Directory>) -> Reader {
        Reader { directory, pending: Vec::new(), looked_bytes: 0, blank_bytes: 0, body: None }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Whether the client owes the rest of a request.
    pub fn has_begun(&self) -> bool {
        !self.pending.is_empty() || self.blank_bytes > 0 || self.body.is_some()
    }

    /// Or what is wrong with the bytes; then the connection cannot go on.
    pub fn step(&mut self) -> Result<Step, Answer> {
        if self.body.is_none() {
            let Some((head_bytes, head)) = self.head()? else { return Ok(Step::More) };
            self.pending.drain(..head_bytes);
            (self.looked_bytes, self.blank_bytes) = (0, 0);
            self.body = Some((head.asked, head.body_bytes));
            if head.expects_continue && head.body_bytes > 0 {
                return Ok(Step::Continue);
            }
        }
        let Some((mut asked, body_bytes)) = self.body.take() else { return Ok(Step::More) };
        let taken = body_bytes.min(self.pending.len());
        if let Some(call) = asked.call.as_mut().filter(|call| call.endpoint.body_bytes_max > 0)
            && !call.body.push(&self.pending[..taken])
        {
            return Err(overloaded());
        }
        self.pending.drain(..taken);
        if taken == body_bytes {
            return Ok(Step::Asked(asked));
        }
        self.body = Some((asked, body_bytes - taken));
        Ok(Step::More)
    }

    /// The head and its length, once it is whole.
    fn head(&mut self) -> Result<Option<(usize, Head)>, Answer> {
        // Empty lines before a request are to be ignored (RFC 9112, 2.2).
        let blank_bytes = self.pending.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.pending.drain(..blank_bytes);
        self.blank_bytes += blank_bytes;
        let looked = self.looked_bytes;
        let end = self.pending[looked..].windows(4).position(|bytes| bytes == HEAD_END).map(|place| looked + place);
        self.looked_bytes = (self.pending.len() + 1).saturating_sub(HEAD_END.len());
        // The beginning of its end is no part of the head, in whatever pieces it comes.
        let begun = (1..HEAD_END.len()).rev().find(|count| self.pending.ends_with(&HEAD_END[..*count])).unwrap_or(0);
        if end.unwrap_or(self.pending.len() - begun).max(self.blank_bytes) > HEAD_BYTES_MAX {
            return Err(refusal(431, "head_too_large", format!("more than {HEAD_BYTES_MAX} bytes of headers")));
        }
        end.map(|end| parse(&self.pending[..end], &self.directory).map(|head| (end + 4, head))).transpose()
    }
}

pub(super) fn refusal(status: u16, code: &'static str, message: impl Into<String>) -> Answer {
    Answer::error(
        status,
        code,
        message,
        "send a plain HTTP/1.1 request; GET / lists the endpoints, and which of them take a body",
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    asked: Asked,
    body_bytes: usize,
    expects_continue: bool,
}

/// Takes the request line and the headers apart, strictly: what two readers could understand in two ways is
/// refused, so that it does not matter who else stands in the line.
fn parse(head: &[u8], directory: &Directory) -> Result<Head, Answer> {
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
    let (mut idempotency_key, mut content_type) = (None, None);
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
            "idempotency-key" if idempotency_key.replace(value).is_some() => {
                return Err(malformed("Idempotency-Key is given twice"));
            }
            "content-type" if content_type.replace(value).is_some() => {
                return Err(malformed("Content-Type is given twice"));
            }
            "content-length" => {
                if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(malformed("Content-Length is not a number"));
                }
                // More digits than a number of bytes has are too many in any case.
                if body_bytes.replace(value.parse().unwrap_or(usize::MAX)).is_some() {
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
    let body_bytes: usize = body_bytes.unwrap_or(0);
    let mut call = directory.find(method, target);
    let taken_max = call.as_ref().map_or(0, |call| call.endpoint.body_bytes_max);
    let bytes_max = if taken_max == 0 { UNUSED_BODY_BYTES_MAX } else { taken_max };
    if body_bytes > bytes_max {
        let message = format!("a body of {body_bytes} bytes; {taken_max} bytes at most are taken here");
        return Err(refusal(413, "body_too_large", message));
    }
    whence.check(method)?;
    if let Some(call) = &mut call {
        call.idempotency_key = idempotency_key.map(str::to_owned);
        call.content_type = content_type.map(str::to_owned);
    }
    let asked = Asked { method: method.into(), target: target.into(), keep_alive, call };
    Ok(Head { asked, body_bytes, expects_continue })
}

/// A character of a method or of a header's name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::service::{Endpoint, Pace, Reply, Service};

    fn nobody() -> Arc<Directory> {
        Arc::new(Directory::new(Vec::new()))
    }

    fn status(head: &str) -> u16 {
        parse(head.as_bytes(), &nobody()).map_or_else(|answer| answer.status, |_| 200)
    }

    fn plain(method: &str, target: &str, keep_alive: bool) -> Asked {
        Asked { method: method.into(), target: target.into(), keep_alive, call: None }
    }

    #[test]
    fn a_plain_request_passes() {
        let parse = |head: &[u8]| parse(head, &nobody()).unwrap();
        let head = parse(b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue");
        assert_eq!(head, Head { asked: plain("POST", "/a?b=c", true), body_bytes: 5, expects_continue: true });
        assert!(!parse(b"GET / HTTP/1.1\r\nConnection: foo, Close").asked.keep_alive);
        assert!(!parse(b"GET / HTTP/1.0").asked.keep_alive);
    }

    fn fed(bytes: &[u8]) -> Reader {
        let mut reader = Reader::new(nobody());
        reader.push(bytes);
        reader
    }

    #[test]
    fn a_request_is_one_however_it_is_cut_and_what_follows_is_the_next() {
        let bytes = b"\r\n\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nGETGET /b HTTP/1.0\r\n\r\n";
        for size in 1..bytes.len() {
            let (mut reader, mut asked) = (Reader::new(nobody()), Vec::new());
            for part in bytes.chunks(size) {
                reader.push(part);
                while let Step::Asked(one) = reader.step().unwrap() {
                    asked.push(one);
                }
            }
            assert!(!reader.has_begun());
            assert_eq!(asked, [plain("POST", "/a", true), plain("GET", "/b", false)], "{size}");
        }
    }

    #[test]
    fn a_body_that_waits_to_be_asked_for_is() {
        let mut reader = fed(b"GET / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert!(matches!(reader.step(), Ok(Step::Continue)));
        assert!(matches!(reader.step(), Ok(Step::More)) && reader.has_begun());
        reader.push(b"xx");
        assert!(matches!(reader.step(), Ok(Step::Asked(_))));
    }

    #[test]
    fn nothing_is_read_without_an_end() {
        for bytes in [vec![b'x'; HEAD_BYTES_MAX + 1], vec![b'\n'; HEAD_BYTES_MAX + 1]] {
            assert!(matches!(fed(&bytes[1..]).step(), Ok(Step::More)));
            assert!(matches!(fed(&bytes).step(), Err(answer) if answer.status == 431));
        }
    }

    #[test]
    fn the_longest_head_is_one_however_its_end_is_cut() {
        let line = format!("GET /{} HTTP/1.1", "a".repeat(HEAD_BYTES_MAX - "GET / HTTP/1.1".len()));
        let bytes = [line.as_bytes(), HEAD_END].concat();
        for cut in 0..=HEAD_END.len() {
            let (mut reader, at) = (fed(&bytes[..line.len() + cut]), line.len() + cut);
            assert!(cut == HEAD_END.len() || matches!(reader.step(), Ok(Step::More)), "{cut}");
            reader.push(&bytes[at..]);
            assert!(matches!(reader.step(), Ok(Step::Asked(_))), "{cut}");
        }
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
            (400, "GET / HTTP/1.1\r\nContent-Type: a/b\r\nContent-Type: a/b"),
            (400, "GET / HTTP/1.1\r\nIdempotency-Key: a\r\nIdempotency-Key: b"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 65537"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 4611686018427387904"),
            (413, "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999"),
            (417, "GET / HTTP/1.1\r\nExpect: wonders"),
            (505, "GET / HTTP/2.0"),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    struct Shop;

    impl Service for Shop {
        fn endpoints(&self) -> &'static [Endpoint] {
            &[Endpoint { method: "POST", path: "/buy", body_bytes_max: 10, pace: Pace::Prompt, line: "a test" }]
        }

        fn call(&self, _: Call, _: Reply) {}
    }

    #[test]
    fn a_service_gets_its_body_and_headers_and_nobody_else_does() {
        let directory = Arc::new(Directory::new(vec![Arc::new(Shop)]));
        let request =
            "POST /buy HTTP/1.1\r\nidempotency-key:  k 1\r\nContent-Type: a/b\r\nContent-Length: 10\r\n\r\nGET / HTTP";
        let bytes = [request, &request.replace("buy", "sell")].concat();
        for size in [1, 7, bytes.len()] {
            let mut reader = Reader::new(directory.clone());
            let mut asked = Vec::new();
            for part in bytes.as_bytes().chunks(size) {
                reader.push(part);
                while let Step::Asked(one) = reader.step().unwrap() {
                    asked.push(one);
                }
            }
            assert!(!reader.has_begun());
            let call = asked[0].call.as_ref().unwrap();
            assert_eq!((&*call.body, call.idempotency_key.as_deref()), (&b"GET / HTTP"[..], Some("k 1")));
            assert_eq!(call.content_type.as_deref(), Some("a/b"));
            assert_eq!(asked[1..], [plain("POST", "/sell", true)]);
        }
        let too_large = request.replace("Length: 10", "Length: 11");
        let mut reader = Reader::new(directory);
        reader.push(too_large.as_bytes());
        assert!(matches!(reader.step(), Err(answer) if answer.status == 413));
    }
}
