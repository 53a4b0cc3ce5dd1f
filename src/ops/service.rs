//! What else can be asked of the program over HTTP: the seam for services, which take bodies and may answer later, from
//! any thread. Nothing in here knows a socket, or what a service does.

use std::fmt;

use super::api::Answer;
use super::body::Body;

/// Threads that `Pace::Waiting` calls share. Who has a connection for each of them never waits for one.
pub const WAITING_THREADS: usize = 4;

const KEY_CHARS_MAX: usize = 255;

/// How a call treats the thread that it comes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It never waits for anything: what takes time answers later.
    Prompt,
    /// It waits for something outside, for a bounded time.
    Waiting,
}

/// One method of one path.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// GET takes HEAD with it.
    pub method: &'static str,
    /// One of its segments may be a name in braces, which stands for anything: `/orders/{id}`.
    pub path: &'static str,
    /// A longer body is refused unread. At 0 a small one is taken and forgotten.
    pub body_bytes_max: usize,
    pub pace: Pace,
    /// For the index.
    pub line: &'static str,
}

pub trait Service: Send + Sync {
    fn endpoints(&self) -> &'static [Endpoint];

    /// Has the call answered, now or later. Whoever drops the reply, or panics, has answered 500.
    fn call(&self, call: Call, reply: Reply);
}

/// A request that one of a service's endpoints takes, whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub endpoint: &'static Endpoint,
    /// Which of the server's services has the endpoint.
    pub(super) service: usize,
    /// What stands where the path has a name in braces; empty where it has none.
    pub param: String,
    pub query: Vec<(String, String)>,
    pub idempotency_key: Option<String>,
    pub content_type: Option<String>,
    pub body: Body,
}

impl Call {
    /// One that no client sent.
    pub fn new(endpoint: &'static Endpoint) -> Call {
        Call {
            endpoint,
            service: 0,
            param: String::new(),
            query: Vec::new(),
            idempotency_key: None,
            content_type: None,
            body: Body::default(),
        }
    }

    /// Its Idempotency-Key, or that this is none.
    pub fn key(&self) -> Result<Option<&str>, Answer> {
        let Some(key) = self.idempotency_key.as_deref() else { return Ok(None) };
        if (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Some(key));
        }
        let message = format!("Idempotency-Key has {} characters, or others than visible ASCII", key.len());
        let cure = format!("send 1 to {KEY_CHARS_MAX} characters without a space, as a UUID is");
        Err(Answer::error(400, "idempotency_key_invalid", message, cure))
    }

    /// The first value of a parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// For a body that is JSON: nothing else is understood. Whoever says nothing means it.
    pub fn expect_json(&self) -> Result<(), Answer> {
        let Some(content_type) = &self.content_type else { return Ok(()) };
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == "application/json" || essence.ends_with("+json") {
            return Ok(());
        }
        let message = format!("Content-Type is {content_type}");
        Err(Answer::error(415, "content_type_unsupported", message, "send JSON with Content-Type: application/json"))
    }
}

/// The way back to whoever asked, once.
pub struct Reply(Option<Box<dyn FnOnce(Answer) + Send + Sync>>);

impl Reply {
    pub fn new(to: impl FnOnce(Answer) + Send + Sync + 'static) -> Reply {
        Reply(Some(Box::new(to)))
    }

    pub fn answer(mut self, answer: Answer) {
        if let Some(to) = self.0.take() {
            to(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            log::error!("http: a service has dropped a request without an answer");
            to(Answer::failed());
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_reply_is_given_once_and_never_forgotten() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let reply = || {
            let heard = heard.clone();
            Reply::new(move |answer| heard.lock().unwrap().push(answer.status))
        };
        reply().answer(Answer::json(202, &()));
        drop(reply());
        assert_eq!(*heard.lock().unwrap(), [202, 500]);
    }
}
