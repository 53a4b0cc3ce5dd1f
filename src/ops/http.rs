//! The server: which threads there are, and how they end. The front speaks with the clients; what passes the gate is
//! put to tiny_http over a private socket, whose handler threads ask the `Api`, or it is a call to a service. Nothing
//! in here knows a route.
//!
//! Threads: `http-front`; `http-ask-0` and on, which put requests to tiny_http and wait for what it says; `http-0`
//! and on, as many handlers, of which test data may hold all but two; `http-call-0` and on, where there are services,
//! which call them; `http-sample`, which looks at the counters ten times a second.
#![allow(clippy::disallowed_methods)] // pauses between attempts to start tiny_http; no thread of the data path is in here

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use tiny_http::Request;

use super::api::{Answer, Api, Slots};
use super::directory::Directory;
use super::front::{Bound, Ending, Front};
use super::gate::Asked;
use super::inner::Inner;
use super::process::Process;
use super::wire;

/// Handlers that test data never holds.
const HANDLERS_SPARE: usize = 2;
/// How many connections may be open at once.
struct Seating {
    /// Where the process may have as many file descriptors as it likes,
    most: usize,
    /// and as a part of those that it may have: one in so many.
    fds_share: usize,
}

/// For those who look after the program.
const WATCHED: Seating = Seating { most: 256, fds_share: 4 };
/// For those who use it, each of whom waits some 15 ms for Kafka: 768 who do so at once are 50,000 a second.
const USED: Seating = Seating { most: 1024, fds_share: 2 };
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Nothing is read from anywhere but memory: where tiny_http takes longer than this, something is wrong with it.
const READING_WAIT: Duration = Duration::from_millis(300);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A running server. Dropping it is stopping it without waiting for requests.
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// Dropped to stop the sampler.
    stop: Option<Sender<()>>,
    /// Disconnected when the front and the last thread that asks have ended,
    clients_ended: Receiver<()>,
    /// and when the last handler has.
    handlers_ended: Receiver<()>,
}

struct Shared {
    api: Arc<Api>,
    long: Slots,
    handlers: usize,
    ending: Arc<Ending>,
    inner: Mutex<Arc<Inner>>,
}

impl Server {
    /// Serves from when this returns. `threads` is the number of handlers, three at least.
    pub fn start(addr: impl ToSocketAddrs, api: Arc<Api>, threads: usize) -> io::Result<Server> {
        let handlers = threads.max(HANDLERS_SPARE + 1);
        let directory = api.directory();
        let seating = if directory.is_empty() { WATCHED } else { USED };
        let Bound { front, desk, mut lanes, ending } =
            bind(addr, seating.seats(Process::look().max_fds, handlers), &directory)?;
        let addr = front.local_addr()?;
        let shared = Arc::new(Shared {
            api,
            long: Slots::new(handlers - HANDLERS_SPARE),
            handlers,
            ending: ending.clone(),
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
            let (shared, alive, desk) = (server.shared.clone(), client_alive.clone(), desk.clone());
            spawn(format!("http-ask-{number}"), move || {
                let _alive = alive;
                let (shared, desk) = (shared, desk);
                for question in &desk.questions {
                    desk.answer(&question, shared.answer(&question.asked));
                }
            })?;
        }
        let sampled = shared.api.clone();
        spawn("http-sample".into(), move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(SAMPLE_EVERY) {
                sampled.sample(Instant::now());
            }
        })?;
        if directory.is_empty() {
            lanes.clear();
        }
        for (number, lane) in lanes.into_iter().enumerate() {
            let (directory, alive) = (directory.clone(), client_alive.clone());
            spawn(format!("http-call-{number}"), move || {
                let _alive = alive;
                let directory = directory;
                lane.serve(&directory);
            })?;
        }
        spawn("http-front".into(), move || {
            let _alive = client_alive;
            front.run(&ending);
        })?;
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
        self.shared.ending.announce();
        let clients_ended = ended_by(&self.clients_ended, deadline);
        self.shared.unblock(&self.shared.inner());
        let handlers_ended = ended_by(&self.handlers_ended, deadline);
        self.shared.ending.enforce();
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
    /// The response as it goes over the wire.
    fn answer(&self, asked: &Asked) -> Vec<u8> {
        let Asked { method, target, .. } = asked;
        self.ask(method, target).unwrap_or_else(|error| {
            log::error!("http: {method} {target}: {error}");
            // Reading may be done twice, and takes no descriptor here, as it does where they have run out.
            if is_reading(method) {
                wire::bytes(self.make(method, target), method == "HEAD")
            } else {
                wire::bytes(Answer::failed(), false)
            }
        })
    }

    /// Puts a request to tiny_http; answers with the response as it goes over the wire.
    fn ask(&self, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let inner = self.inner();
        match self.ask_this(&inner, method, target) {
            // The request was never read. Its accept loop is gone, which it does not always tell `recv`.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                self.renew(&inner, &error)?;
                self.ask_this(&self.inner(), method, target)
            }
            Ok(response) if response.is_empty() => Err(io::Error::other("no answer from the handler")),
            response => response,
        }
    }

    fn ask_this(&self, inner: &Inner, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let asked = Instant::now();
        inner.ask(method, target, || {
            // The handlers have gone over to another tiny_http, perhaps before this request came out of the old one.
            if self.inner().number != inner.number {
                // One more than the calls that `renew` left there, each of which comes out as nothing.
                for _ in 0..=self.handlers {
                    if let Ok(Some(request)) = inner.server.try_recv() {
                        self.respond(request);
                    }
                }
                // A handler that is still on its way over needs its call; one too many hurts nobody.
                self.unblock(inner);
            }
            !is_reading(method) || asked.elapsed() < READING_WAIT
        })
    }

    fn make(&self, method: &str, target: &str) -> Answer {
        catch_unwind(AssertUnwindSafe(|| self.api.answer(method, target, &self.long))).unwrap_or_else(|_| {
            log::error!("http: {method} {target}: the handler panicked");
            Answer::failed()
        })
    }

    fn respond(&self, request: Request) {
        let (method, target) = (request.method().to_string(), request.url().to_string());
        if let Err(error) = request.respond(wire::response(self.make(&method, &target))) {
            log::warn!("http: {method} {target}: cannot respond: {error}");
        }
    }

    /// One handler thread.
    fn handle(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let inner = self.inner();
            match inner.server.recv() {
                Ok(request) => {
                    backoff = BACKOFF_MIN;
                    self.respond(request);
                }
                Err(_) if self.ending.is_near() => return,
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

    fn unblock(&self, inner: &Inner) {
        (0..self.handlers).for_each(|_| inner.server.unblock());
    }
}

impl Seating {
    /// A limit on descriptors that cannot be told is taken for a high one.
    fn seats(&self, max_fds: Option<f64>, handlers: usize) -> usize {
        let by_fds = max_fds.map_or(self.most, |max| max as usize / self.fds_share);
        // Clients whose answers are being made keep their seats; others have to find one.
        by_fds.min(self.most).max(4 * handlers)
    }
}

/// On the first of the addresses that may be listened on.
fn bind(addr: impl ToSocketAddrs, seats: usize, directory: &Arc<Directory>) -> io::Result<Bound> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the host has no address");
    for addr in addr.to_socket_addrs()? {
        match Front::bind(addr, seats, directory.clone()) {
            Ok(bound) => return Ok(bound),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// True once every sender is gone.
fn ended_by(threads: &Receiver<()>, deadline: Instant) -> bool {
    threads.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(run).map(drop)
}

fn is_reading(method: &str) -> bool {
    matches!(method, "GET" | "HEAD")
}

/// What these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::fault::Fault;
    use crate::ops::{Sent, SinkFacts, TestData};

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
        Server::start(
            "127.0.0.1:0",
            Api::new(Vec::new(), Arc::new(NoData), Vec::new(), SinkFacts::default(), Arc::default()),
            3,
        )
        .unwrap()
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
    fn a_request_left_behind_in_an_old_tiny_http_is_answered() {
        let server = start();
        let old = server.shared.inner();
        server.shared.renew(&old, &io::Error::other("a test")).unwrap();
        for method in ["GET", "POST"] {
            let answer = server.shared.ask_this(&old, method, "/nowhere").unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{method}");
        }
        drop(old);
        assert!(server.stop(Duration::from_secs(30)));
    }

    #[test]
    fn seats_are_a_part_of_the_descriptors_and_never_too_few() {
        let limits = [None, Some(1e6), Some(512.0), Some(8.0)];
        assert_eq!(limits.map(|max| WATCHED.seats(max, 4)), [256, 256, 128, 16]);
        assert_eq!(limits.map(|max| USED.seats(max, 4)), [1024, 1024, 256, 16]);
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
