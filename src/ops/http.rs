//! The server: who listens, which threads there are, and how they end. Clients are accepted here, their requests
//! pass the gate, and each is put to tiny_http over a private socket, whose handler threads ask the `Api`.
//! Nothing in here knows a route.
//!
//! Threads: `http-accept`; `http-client`, one a connection, as many as `Clients` has seats; `http-0` and on, the
//! handlers, of which test data may hold all but two; `http-sample`, which looks at the counters ten times a second.
#![allow(clippy::disallowed_methods)] // pauses between attempts to listen; no thread of the data path is in here

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tiny_http::{HTTPVersion, Header, Response};

use super::api::{Answer, Api, Slots};
use super::clients::{Clients, Place};
use super::gate::{Asked, Client, Closed};
use super::inner::Inner;
use super::process::Process;

/// Handlers that test data never holds.
const HANDLERS_SPARE: usize = 2;
/// Each costs a thread.
const CLIENTS_MAX: usize = 256;
/// What a client may hold while its answer is made: its connection, and three for the private socket.
const CLIENT_FDS: usize = 4;
/// Clients may hold one in so many of the file descriptors that the process may have.
const FDS_SHARE: usize = 4;
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
    clients: Arc<Clients>,
    inner: Mutex<Arc<Inner>>,
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
            clients: Clients::new(clients_max(Process::look().max_fds, handlers)),
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
        self.shared.clients.end();
        let clients_ended = ended_by(&self.clients_ended, deadline);
        self.shared.unblock(&self.shared.inner());
        let handlers_ended = ended_by(&self.handlers_ended, deadline);
        self.shared.clients.cut_off();
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
        // A descriptor to accept with when all others are gone.
        let mut reserve = listener.try_clone().ok();
        let mut backoff = BACKOFF_MIN;
        loop {
            let accepted = listener.accept();
            if self.stopping() {
                return;
            }
            match accepted.and_then(|(stream, _)| self.clone().admit(stream, alive.clone())) {
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    reserve = reserve.or_else(|| listener.try_clone().ok());
                }
                // Running out of file descriptors is an error of accept, and no reason to stop accepting.
                Err(error) if reserve.take().is_some() => log::warn!("http: accepts with its reserve: {error}"),
                Err(error) => {
                    log::warn!("http: cannot take a connection: {error}");
                    self.clients.lose_one(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    fn admit(self: Arc<Self>, stream: TcpStream, alive: Sender<()>) -> io::Result<()> {
        self.clients.make_room();
        let stream = Arc::new(stream);
        // Who is gone already makes an error here that is no error of accepting.
        let Ok(client) = Client::new(stream.clone()) else { return Ok(()) };
        let Some(place) = self.clients.admit(stream) else { return Ok(()) };
        spawn("http-client".into(), move || {
            // Dropped from the last to the first, also by a panic.
            let _alive = alive;
            let shared = self;
            let place = place;
            shared.serve(client, &place);
        })
    }

    /// One connection, request after request.
    fn serve(&self, mut client: Client, place: &Place) {
        place.wait();
        let last = loop {
            match client.next() {
                Ok(asked) => {
                    if !place.work() {
                        return;
                    }
                    let answer = self.answer(&asked);
                    place.wait();
                    if !asked.keep_alive || !place.may_stay() {
                        break answer;
                    }
                    if client.write(&answer).is_err() {
                        return;
                    }
                }
                Err(Closed::Gone) => return,
                Err(Closed::Refused(answer)) => break bytes(answer, false),
            }
        };
        if client.write(&last).is_ok() {
            client.close();
        }
    }

    /// The response as it goes over the wire.
    fn answer(&self, asked: &Asked) -> Vec<u8> {
        let Asked { method, target, .. } = asked;
        self.ask(method, target).unwrap_or_else(|error| {
            log::error!("http: {method} {target}: {error}");
            match method.as_str() {
                // Reading may be done twice, and takes no descriptor here, as it does where they have run out.
                "GET" | "HEAD" => bytes(self.make(method, target), method == "HEAD"),
                _ => bytes(failed(), false),
            }
        })
    }

    /// Puts a request to tiny_http; answers with the response as it goes over the wire.
    fn ask(&self, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let inner = self.inner();
        let response = inner.ask(method, target);
        match response {
            // The request was never read. Its accept loop is gone, which it does not always tell `recv`.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                self.renew(&inner, &error)?;
                self.inner().ask(method, target)
            }
            Ok(response) if response.is_empty() => Err(io::Error::other("no answer from the handler")),
            response => response,
        }
    }

    fn make(&self, method: &str, target: &str) -> Answer {
        catch_unwind(AssertUnwindSafe(|| self.api.answer(method, target, &self.long))).unwrap_or_else(|_| {
            log::error!("http: {method} {target}: the handler panicked");
            failed()
        })
    }

    /// One handler thread.
    fn handle(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let inner = self.inner();
            match inner.server.recv() {
                Ok(request) => {
                    backoff = BACKOFF_MIN;
                    let (method, target) = (request.method().to_string(), request.url().to_string());
                    if let Err(error) = request.respond(response(self.make(&method, &target))) {
                        log::warn!("http: {method} {target}: cannot respond: {error}");
                    }
                }
                Err(_) if self.stopping() => return,
                Err(error) => {
                    if let Err(error) = self.renew(&inner, &error) {
                        log::warn!("http: {error}");
                        thread::sleep(backoff);
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        }
    }

    /// An error of accept ends tiny_http's loop for good: another one takes its place. Whoever sees it first
    /// does it; the others find it done. Where it fails, the next request tries again.
    fn renew(&self, broken: &Inner, error: &io::Error) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        if inner.number == broken.number {
            let fresh = Inner::bind(broken.number + 1)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot start tiny_http again: {error}")))?;
            log::warn!("http: tiny_http ended and was started again: {error}");
            let broken = std::mem::replace(&mut *inner, fresh);
            // The other handlers wait in the old one.
            self.unblock(&broken);
        }
        Ok(())
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
}

/// How many connections may be open. A limit that cannot be told is taken for a high one.
fn clients_max(max_fds: Option<f64>, handlers: usize) -> usize {
    let by_fds = max_fds.map_or(CLIENTS_MAX, |max| max as usize / FDS_SHARE / CLIENT_FDS);
    // Answers being made are no more than handlers that may be stuck, and a few others for a moment.
    by_fds.min(CLIENTS_MAX).max(4 * handlers)
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
fn bytes(answer: Answer, to_head: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let printed = response(answer).raw_print(&mut bytes, HTTPVersion(1, 1), &[], to_head, None);
    printed.expect("a vector takes everything");
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
