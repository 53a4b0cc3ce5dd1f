//! A few threads that answer HTTP. They read no bodies, and they outlive what clients and the listener do:
//! a handler that panics answers 500, a listener that ends is opened again.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response};

use super::api::{Answer, Api, error};

/// How late an order to stop can be noticed, and how often tracking is sampled.
const SLICE: Duration = Duration::from_millis(500);
/// tiny_http has read bodies up to this when a request reaches us. Nothing here takes a body.
const BODY_BYTES_MAX: usize = 1024;

pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

struct Shared {
    /// The listener of now: an accept error ends tiny_http's for good.
    listener: RwLock<Arc<tiny_http::Server>>,
    address: SocketAddr,
    api: Arc<Api>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(address: &str, api: Arc<Api>, threads: usize) -> Result<Server, String> {
        let listener = tiny_http::Server::http(address).map_err(|error| format!("{address}: {error}"))?;
        let address = listener.server_addr().to_ip().ok_or_else(|| format!("{address} is not an IP address"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let listener = RwLock::new(Arc::new(listener));
        let shared = Arc::new(Shared { listener, address, api, stop: stop.clone() });
        let start = |number: usize| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("http-{number}"))
                .spawn(move || serve(&shared, number == 0))
                .map_err(|error| format!("starting a thread: {error}"))
        };
        let threads = (0..threads).map(start).collect::<Result<Vec<_>, String>>()?;
        Ok(Server { address, stop, threads })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `deadline` for the threads; one that still answers a slow client is left behind.
    pub fn stop(self, deadline: Duration) {
        self.stop.store(true, Ordering::Release);
        let by = Instant::now() + deadline;
        while Instant::now() < by && self.threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn serve(shared: &Shared, samples: bool) {
    while !shared.stop.load(Ordering::Acquire) {
        if samples {
            shared.api.tracking.sample(Instant::now());
        }
        let listener = shared.listener.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match listener.recv_timeout(SLICE) {
            Ok(Some(request)) => answer(&shared.api, request),
            Ok(None) => {}
            Err(error) => reopen(shared, &listener, &error),
        }
    }
}

/// One thread opens the listener again; the others find it there.
fn reopen(shared: &Shared, ended: &Arc<tiny_http::Server>, why: &std::io::Error) {
    let mut current = shared.listener.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !Arc::ptr_eq(&current, ended) {
        return;
    }
    log::warn!("the HTTP listener ended ({why}) and is opened again");
    match tiny_http::Server::http(shared.address) {
        Ok(listener) => *current = Arc::new(listener),
        Err(error) => {
            log::warn!("it cannot be opened yet: {error}");
            std::thread::park_timeout(SLICE);
        }
    }
}

fn answer(api: &Api, request: Request) {
    if request.body_length().is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
        refuse_body(request);
        return;
    }
    let handled = catch_unwind(AssertUnwindSafe(|| api.answer(request.method().as_str(), request.url())));
    let answer = handled.unwrap_or_else(|_| {
        log::error!("a handler panicked on {} {}", request.method(), request.url());
        error(500, "internal", "the request hit a bug".into(), "see the log")
    });
    // A client that has gone away is not our error.
    let _ = request.respond(response(answer));
}

/// Dropping a request makes tiny_http allocate and await whatever body length the client named. So the answer
/// goes out by the one call that hands the stream over, and the stream is never dropped.
fn refuse_body(request: Request) {
    let refusal = error(413, "body_too_large", "nothing here takes a body".into(), "send the request without one");
    let refusal = response(refusal).with_status_code(413);
    let stream = request.upgrade("close", refusal);
    std::mem::forget(stream);
}

fn response(answer: Answer) -> Response<std::io::Cursor<Vec<u8>>> {
    let mut response = Response::from_string(answer.body).with_status_code(answer.status);
    let fixed = [("Content-Type", answer.content_type.to_owned()), ("Cache-Control", "no-store".to_owned())];
    for (name, value) in fixed.into_iter().chain(answer.headers) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    response
}
