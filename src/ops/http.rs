//! The server: who listens, which threads there are, and how they end. Clients are accepted here, their requests
//! pass the gate, and each is put to tiny_http over a private socket, whose handler threads ask the `Api`.
//! Nothing in here knows a route.
//!
//! Threads: `http-accept`; `http-client`, one a connection, `CLIENTS_MAX` at most; `http-0` and on, the handlers,
//! of which test data may hold all but two; `http-sample`, which looks at the counters ten times a second.
#![allow(clippy::disallowed_methods)] // pauses between attempts to listen; no thread of the data path is in here

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tiny_http::{HTTPVersion, Header, Response};

use super::api::{Answer, Api, Slots};
use super::gate::{Client, Closed};
use super::inner::Inner;

/// Handlers that test data never holds.
const HANDLERS_SPARE: usize = 2;
/// Each costs a thread and up to five file descriptors.
const CLIENTS_MAX: usize = 64;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A running server. Dropping it is stopping it without waiting for requests.
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// Dropped to stop the sampler.
    stop: Option<Sender<()>>,
    /// Disconnected when the last thread that answers clients has ended,
    clients_ended: Receiver<()>,
    /// and when the last handler has.
    handlers_ended: Receiver<()>,
}

struct Shared {
    api: Arc<Api>,
    long: Slots,
    handlers: usize,
    stopping: AtomicBool,
    clients: Mutex<HashMap<u64, TcpStream>>,
    inner: Mutex<Arc<Inner>>,
}

/// The place of a connection among the clients.
struct Entry<'a> {
    clients: &'a Mutex<HashMap<u64, TcpStream>>,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(self.clients).remove(&self.number);
    }
}

impl Server {
    /// Serves from when this returns. `threads` is the number of handlers, three at least.
    pub fn start(addr: impl ToSocketAddrs, api: Arc<Api>, threads: usize) -> io::Result<Server> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let handlers = threads.max(HANDLERS_SPARE + 1);
        let shared = Arc::new(Shared {
            api,
            long: Slots::new(handlers - HANDLERS_SPARE),
            handlers,
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
            inner: Mutex::new(Inner::bind(0)?),
        });
        let (stop, stopped) = bounded(0);
        let (client_alive, clients_ended) = bounded(0);
        let (handler_alive, handlers_ended) = bounded(0);
        // From here on an early return drops the server, which stops the threads that run already.
        let server = Server { shared: shared.clone(), addr, stop: Some(stop), clients_ended, handlers_ended };
        for number in 0..handlers {
            let (shared, alive) = (shared.clone(), handler_alive.clone());
            spawn(format!("http-{number}"), move || {
                // Dropped from the last to the first: who waits for `alive` finds nothing left.
                let _alive = alive;
                let shared = shared;
                shared.handle();
            })?;
        }
        let sampled = shared.api.clone();
        spawn("http-sample".into(), move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(SAMPLE_EVERY) {
                sampled.sample(Instant::now());
            }
        })?;
        spawn("http-accept".into(), move || shared.accept(&listener, &client_alive))?;
        Ok(server)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more requests, and waits up to `deadline` for those that run. True when none was left behind.
    pub fn stop(mut self, deadline: Duration) -> bool {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> bool {
        if self.stop.take().is_none() {
            return true;
        }
        let deadline = Instant::now() + deadline;
        self.shared.stopping.store(true, Ordering::Release);
        // The acceptor looks at `stopping` after every connection; this is its last one.
        drop(TcpStream::connect_timeout(&reachable(self.addr), Duration::from_secs(1)));
        // An idle connection ends at once, a busy one after its answer.
        self.shared.shut(Shutdown::Read);
        let clients_ended = ended_by(&self.clients_ended, deadline);
        self.shared.unblock(&self.shared.inner());
        let handlers_ended = ended_by(&self.handlers_ended, deadline);
        self.shared.shut(Shutdown::Both);
        if !(clients_ended && handlers_ended) {
            // Whoever is left behind keeps the rest until the process ends, but nothing on the disk.
            self.shared.inner().dir.remove();
        }
        clients_ended && handlers_ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener, alive: &Sender<()>) {
        let number = AtomicU64::new(0);
        let mut backoff = BACKOFF_MIN;
        loop {
            let accepted = listener.accept();
            if self.stopping() {
                return;
            }
            // Running out of file descriptors is an error of accept, and no reason to stop accepting.
            let served = accepted.and_then(|(stream, _)| self.clone().admit(stream, &number, alive.clone()));
            match served {
                Ok(()) => backoff = BACKOFF_MIN,
                Err(error) => {
                    log::warn!("http: cannot take a connection: {error}");
                    thread::sleep(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    fn admit(self: Arc<Self>, stream: TcpStream, number: &AtomicU64, alive: Sender<()>) -> io::Result<()> {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let handle = stream.try_clone()?;
        let mut client = Client::new(stream)?;
        {
            let mut clients = lock(&self.clients);
            if self.stopping() {
                // `end` shuts whoever is in the list, once.
                return Ok(());
            }
            if clients.len() >= CLIENTS_MAX {
                let message = format!("{CLIENTS_MAX} connections are open");
                let answer = Answer::error(503, "too_many_connections", message, "close some and try again");
                // It fits into the socket's buffer, so that nobody waits here for a client.
                return client.write(&bytes(answer.with("Retry-After", "1")));
            }
            clients.insert(number, handle);
        }
        let shared = self.clone();
        let spawned = spawn("http-client".into(), move || {
            // As above, and also by a panic.
            let _alive = alive;
            let shared = shared;
            let _entry = Entry { clients: &shared.clients, number };
            shared.serve(client);
        });
        spawned.inspect_err(|_| drop(lock(&self.clients).remove(&number)))
    }

    /// One connection, request after request.
    fn serve(&self, mut client: Client) {
        let last = loop {
            match client.next() {
                Ok(asked) => {
                    let answer = self.ask(&asked.method, &asked.target).unwrap_or_else(|error| {
                        log::error!("http: {} {}: {error}", asked.method, asked.target);
                        bytes(failed())
                    });
                    if !asked.keep_alive || self.stopping() {
                        break answer;
                    }
                    if client.write(&answer).is_err() {
                        return;
                    }
                }
                Err(Closed::Gone) => return,
                Err(Closed::Refused(answer)) => break bytes(answer),
            }
        };
        if client.write(&last).is_ok() {
            client.close();
        }
    }

    /// Puts a request to tiny_http; answers with the response as it goes over the wire.
    fn ask(&self, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let inner = self.inner();
        let response = inner.ask(method, target);
        match response {
            // The request was never read. Its accept loop is gone, which it does not always tell `recv`.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                self.renew(&inner, &error);
                self.inner().ask(method, target)
            }
            Ok(response) if response.is_empty() => Err(io::Error::other("no answer from the handler")),
            response => response,
        }
    }

    /// One handler thread.
    fn handle(&self) {
        loop {
            let inner = self.inner();
            match inner.server.recv() {
                Ok(request) => {
                    let (method, target) = (request.method().to_string(), request.url().to_string());
                    let answer = catch_unwind(AssertUnwindSafe(|| self.api.answer(&method, &target, &self.long)));
                    let answer = answer.unwrap_or_else(|_| {
                        log::error!("http: {method} {target}: the handler panicked");
                        failed()
                    });
                    if let Err(error) = request.respond(response(answer)) {
                        log::warn!("http: {method} {target}: cannot respond: {error}");
                    }
                }
                Err(_) if self.stopping() => return,
                Err(error) => self.renew(&inner, &error),
            }
        }
    }

    /// An error of accept ends tiny_http's loop for good: another one takes its place. Whoever sees it first
    /// does it; the others find it done.
    fn renew(&self, broken: &Inner, error: &io::Error) {
        let mut inner = lock(&self.inner);
        if inner.number != broken.number {
            return;
        }
        log::warn!("http: tiny_http ended and is started again: {error}");
        let mut backoff = BACKOFF_MIN;
        while !self.stopping() {
            match Inner::bind(broken.number + 1) {
                Ok(fresh) => {
                    let broken = std::mem::replace(&mut *inner, fresh);
                    // The other handlers wait in the old one.
                    self.unblock(&broken);
                    return;
                }
                Err(error) => log::warn!("http: cannot start tiny_http: {error}"),
            }
            thread::sleep(backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

impl Shared {
    fn inner(&self) -> Arc<Inner> {
        lock(&self.inner).clone()
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn unblock(&self, inner: &Inner) {
        (0..self.handlers).for_each(|_| inner.server.unblock());
    }

    fn shut(&self, how: Shutdown) {
        lock(&self.clients).values().for_each(|client| drop(client.shutdown(how)));
    }
}

/// True once every sender is gone.
fn ended_by(threads: &Receiver<()>, deadline: Instant) -> bool {
    threads.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
}

/// An address to connect to for one that is listened on.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(run).map(drop)
}

fn failed() -> Answer {
    Answer::error(500, "internal", "the request could not be handled", "see the log; the server goes on")
}

fn response(answer: Answer) -> Response<io::Cursor<Vec<u8>>> {
    let fixed =
        [("Content-Type", answer.content_type), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
    let own = answer.headers.iter().map(|(name, value)| (*name, value.as_str()));
    // The length is known: chunks are never needed, and HTTP/1.0 does not know them.
    let mut response =
        Response::from_data(answer.body).with_status_code(answer.status).with_chunked_threshold(usize::MAX);
    for (name, value) in fixed.into_iter().chain(own) {
        response.add_header(Header::from_bytes(name, value).expect("headers are plain ASCII"));
    }
    response
}

/// An answer as it goes over the wire, for what never reaches tiny_http.
fn bytes(answer: Answer) -> Vec<u8> {
    let mut bytes = Vec::new();
    response(answer).raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None).expect("a vector takes everything");
    bytes
}

/// What these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::fault::Fault;
    use crate::ops::{Sent, TestData};

    struct NoData;

    impl TestData for NoData {
        fn send(&self, _: &str, _: u64) -> Result<Sent, Fault> {
            Err(Fault::retry("none", "no data"))
        }
    }

    fn get(addr: SocketAddr) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn start() -> Server {
        Server::start("127.0.0.1:0", Api::new(Vec::new(), Arc::new(NoData)), 3).unwrap()
    }

    #[test]
    fn tiny_http_is_started_again_after_an_error_of_recv() {
        let server = start();
        for number in 1..=3 {
            let broken = server.shared.inner();
            broken.server.unblock();
            while server.shared.inner().number == broken.number {
                thread::yield_now();
            }
            assert_eq!(server.shared.inner().number, number);
            drop(broken);
            assert!(get(server.addr).starts_with("HTTP/1.1 200"));
        }
        assert!(server.stop(Duration::from_secs(30)));
    }

    #[test]
    fn tiny_http_is_started_again_when_its_socket_is_dead() {
        let server = start();
        server.shared.inner().dir.remove();
        assert!(get(server.addr).starts_with("HTTP/1.1 200"));
        assert!(server.stop(Duration::from_secs(30)));
    }

    #[test]
    fn stopping_leaves_no_thread_no_socket_and_no_directory() {
        let server = start();
        let (addr, socket, shared) = (server.addr, server.shared.inner().dir.socket(), Arc::downgrade(&server.shared));
        let idle = TcpStream::connect(addr).unwrap();
        assert!(get(addr).starts_with("HTTP/1.1 200") && socket.exists());
        assert!(server.stop(Duration::from_secs(30)));
        assert!(shared.upgrade().is_none() && !socket.parent().unwrap().exists());
        assert!(TcpStream::connect(addr).is_err());
        drop(idle);
    }
}
