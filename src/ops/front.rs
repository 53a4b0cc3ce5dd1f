//! The front: one thread that accepts clients and speaks with all of them. A client that is waited for costs a
//! descriptor and no thread, however slow it is; only requests that are whole go on to threads that answer. One whose
//! answer is being made by a service costs no thread either, but a seat, so that there are fewer such than seats.
//!
//! When all seats are taken, the client that has been waited for the longest goes, be it for a request, for the rest
//! of one, or for an answer to be taken. A client whose answer is being made is never cut off, and neither is one that
//! was waited for a moment only: its request may be on its way.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;

use super::calls::{Lane, Lanes, overloaded};
use super::conn::{Conn, Turn, WAIT_MIN};
use super::directory::Directory;
use super::gate::{Asked, Reader};
use super::service::Reply;
use super::wire;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Clients that the kernel keeps until they are accepted. One more loses its first packet and tries again only after a
/// second; std and mio ask for 128, which a burst fills while this thread waits for a processor.
const BACKLOG: i32 = 4096;
/// Nobody goes before it was waited for this long. New clients get in at the rate of the seats over this, however
/// many are silent.
const GRACE: Duration = Duration::from_millis(10);
/// Between attempts to accept while there is no descriptor to do it with.
const STARVED_WAIT: Duration = Duration::from_millis(50);
/// Calls to services may hold so many of so many seats: the others are for clients that want to know how things stand.
const CALLS_SHARE: (usize, usize) = (3, 4);
/// Descriptors kept for accepting when all others are gone. So many clients can be waited for then, each for a moment.
const RESERVE_MAX: usize = 16;

/// A request, and which client waits for its answer.
pub(super) struct Question {
    pub asked: Asked,
    token: Token,
}

/// Where requests come out and answers go in; one for each thread that answers.
#[derive(Clone)]
pub(super) struct Desk {
    pub questions: Receiver<Question>,
    outbox: Outbox,
}

impl Desk {
    pub fn answer(&self, question: &Question, bytes: Vec<u8>) {
        self.outbox.put(Answered { token: question.token, bytes, is_call: false });
    }
}

struct Answered {
    token: Token,
    bytes: Vec<u8>,
    is_call: bool,
}

/// The way of answers to the front.
#[derive(Clone)]
struct Outbox {
    answers: Sender<Answered>,
    bell: Arc<Bell>,
}

impl Outbox {
    fn put(&self, answered: Answered) {
        // Where the front is gone, so is the client.
        drop(self.answers.send(answered));
        self.bell.ring();
    }

    fn reply(&self, token: Token, to_head: bool) -> Reply {
        let outbox = self.clone();
        Reply::new(move |answer| outbox.put(Answered { token, bytes: wire::bytes(answer, to_head), is_call: true }))
    }
}

/// Wakes the front. A thousand answers at once ring it once: each time costs a system call.
struct Bell {
    has_rung: AtomicBool,
    waker: Waker,
}

impl Bell {
    fn ring(&self) {
        if !self.has_rung.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("http: cannot wake the front: {error}");
        }
    }

    /// Before the front looks at what there is: what is put after that rings again.
    fn heard(&self) {
        self.has_rung.swap(false, Ordering::AcqRel);
    }
}

/// How the front is told to end.
pub(super) struct Ending {
    is_near: AtomicBool,
    is_here: AtomicBool,
    bell: Arc<Bell>,
}

impl Ending {
    /// Clients that are owed an answer get it; the others go at once, and no new ones come.
    pub fn announce(&self) {
        self.is_near.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Nobody is waited for any more.
    pub fn enforce(&self) {
        self.is_here.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub fn is_near(&self) -> bool {
        self.is_near.load(Ordering::Acquire)
    }
}

pub(super) struct Front {
    poll: Poll,
    /// None once the end is announced.
    listener: Option<TcpListener>,
    /// Descriptors to accept with when all others are gone.
    reserve: Vec<File>,
    /// Some of them had to be used, and are not back yet.
    is_starved: bool,
    conns: HashMap<Token, Conn>,
    /// When to look at their deadlines: looking at hundreds of them each time something happens would cost more than
    /// what happens.
    look_at: Instant,
    seats: usize,
    next_token: usize,
    /// Clients may be waiting to be accepted,
    has_callers: bool,
    /// but not before this.
    accept_after: Instant,
    questions: Sender<Question>,
    directory: Arc<Directory>,
    lanes: Lanes,
    /// Calls that are not answered yet,
    calls: usize,
    /// and how many there may be.
    calls_max: usize,
    outbox: Outbox,
    answers: Receiver<Answered>,
}

/// A front, and what the other threads need of it.
pub(super) struct Bound {
    pub front: Front,
    pub desk: Desk,
    pub lanes: Vec<Lane>,
    pub ending: Arc<Ending>,
}

impl Front {
    /// Listens from when this returns; `run` serves.
    pub fn bind(addr: SocketAddr, seats: usize, directory: Arc<Directory>) -> io::Result<Bound> {
        let poll = Poll::new()?;
        let listener = std::net::TcpListener::bind(addr)?;
        SockRef::from(&listener).listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(false), waker: Waker::new(poll.registry(), WAKER)? });
        let (questions, asked) = unbounded();
        let (answered, answers) = unbounded();
        let outbox = Outbox { answers: answered, bell: bell.clone() };
        let calls_max = seats / CALLS_SHARE.1 * CALLS_SHARE.0;
        let (lanes, lanes_out) = Lanes::new(calls_max);
        let desk = Desk { questions: asked, outbox: outbox.clone() };
        let front = Front {
            poll,
            listener: Some(listener),
            reserve: Vec::new(),
            is_starved: false,
            conns: HashMap::new(),
            look_at: Instant::now(),
            seats,
            next_token: WAKER.0 + 1,
            has_callers: true,
            accept_after: Instant::now(),
            questions,
            directory,
            lanes,
            calls: 0,
            calls_max,
            outbox,
            answers,
        };
        let ending = Ending { is_near: AtomicBool::new(false), is_here: AtomicBool::new(false), bell };
        Ok(Bound { front, desk, lanes: lanes_out, ending: Arc::new(ending) })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().map_or(Err(io::ErrorKind::NotConnected.into()), TcpListener::local_addr)
    }

    /// Until the end has been announced and nobody is owed an answer, or it is enforced.
    pub fn run(mut self, ending: &Ending) {
        let mut events = Events::with_capacity(1024);
        while !ending.is_here.load(Ordering::Acquire) {
            if ending.is_near() {
                self.listener = None;
                self.has_callers = false;
                self.conns.retain(|_, conn| conn.is_owed());
                if self.conns.is_empty() {
                    return;
                }
            }
            self.accept();
            let wait = self.next_moment().map(|moment| moment.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return log::error!("http: the front cannot go on: {error}"),
            }
            self.go_on(&events);
        }
    }

    fn go_on(&mut self, events: &Events) {
        let now = Instant::now();
        for event in events {
            match event.token() {
                LISTENER => self.has_callers = true,
                WAKER => {}
                token => self.turn(token, |conn| conn.advance(now)),
            }
        }
        // While callers wait for a seat, connections are not kept beyond their answer.
        let may_stay = !self.has_callers || (self.conns.len() < self.seats && self.accept_after <= now);
        self.outbox.bell.heard();
        // Those that are put by what they set off are for the next time: a client that asks without end and is refused
        // each time must not keep the others waiting.
        for _ in 0..self.answers.len() {
            let Ok(Answered { token, bytes, is_call }) = self.answers.try_recv() else { break };
            self.calls -= usize::from(is_call);
            self.turn(token, |conn| conn.answer(bytes, may_stay, now));
        }
        if self.look_at <= now {
            self.look(now);
        }
    }

    fn look(&mut self, now: Instant) {
        let is_late = |conn: &Conn| conn.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<Token> = self.conns.iter().filter(|(_, conn)| is_late(conn)).map(|(token, _)| *token).collect();
        for token in late {
            self.turn(token, |conn| conn.expire(now));
        }
        // Those that are not known yet come no sooner.
        self.look_at = self.conns.values().filter_map(Conn::deadline).fold(now + WAIT_MIN, Instant::min);
    }

    /// When something is to be done even if nothing happens.
    fn next_moment(&self) -> Option<Instant> {
        let accept = self.has_callers.then_some(self.accept_after);
        let look = (!self.conns.is_empty()).then_some(self.look_at);
        accept.into_iter().chain(look).min()
    }

    fn turn(&mut self, token: Token, turn: impl FnOnce(&mut Conn) -> Turn) {
        // An event of a client that is gone since.
        let Some(conn) = self.conns.get_mut(&token) else { return };
        match turn(conn) {
            Turn::Wait => {}
            Turn::Ask(asked) => self.ask(asked, token),
            Turn::Over => {
                self.conns.remove(&token);
                // There is a seat, and a descriptor.
                self.accept_after = Instant::now();
            }
        }
    }

    fn ask(&mut self, mut asked: Asked, token: Token) {
        let Some(call) = asked.call.take() else {
            // The threads that answer live as long as this one.
            return drop(self.questions.send(Question { asked, token }));
        };
        let reply = self.outbox.reply(token, asked.method == "HEAD");
        self.calls += 1;
        if self.calls > self.calls_max {
            reply.answer(overloaded());
        } else {
            self.lanes.hand(call, reply, Instant::now());
        }
    }

    fn accept(&mut self) {
        let now = Instant::now();
        self.fill_reserve();
        while self.has_callers && self.accept_after <= now {
            if self.conns.len() >= self.seats && !self.evict(now) {
                self.accept_after = now + GRACE / 2;
                break;
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.has_callers = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => self.starve(&error, now),
                },
            }
        }
    }

    /// Accepting failed, most likely because the process is out of descriptors, which is no reason to give up.
    fn starve(&mut self, error: &io::Error, now: Instant) {
        if !self.is_starved {
            log::warn!("http: accepts with its reserve of descriptors from now on: {error}");
            self.is_starved = true;
        }
        if !self.evict(now) && self.reserve.pop().is_none() {
            let is_soon = self.conns.values().any(|conn| conn.waiting_since().is_some());
            self.accept_after = now + if is_soon { GRACE / 2 } else { STARVED_WAIT };
        }
    }

    fn fill_reserve(&mut self) {
        while self.has_callers && self.reserve.len() < RESERVE_MAX {
            let Ok(file) = File::open("/dev/null") else { return };
            self.reserve.push(file);
        }
        if self.is_starved && self.reserve.len() == RESERVE_MAX {
            log::info!("http: its reserve of descriptors is back");
            self.is_starved = false;
        }
    }

    fn admit(&mut self, stream: TcpStream, now: Instant) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let mut conn = Conn::new(stream, Reader::new(self.directory.clone()), now);
        if let Err(error) = self.poll.registry().register(conn.stream(), token, Interest::READABLE | Interest::WRITABLE)
        {
            return log::warn!("http: cannot take a connection: {error}");
        }
        self.conns.insert(token, conn);
        // Its request may have come with it.
        self.turn(token, |conn| conn.advance(now));
    }

    /// Closes the connection that is waited for the longest. False when none may be closed.
    fn evict(&mut self, now: Instant) -> bool {
        let waiting = self.conns.iter().filter_map(|(token, conn)| Some((conn.waiting_since()?, *token)));
        let Some((since, token)) = waiting.min() else { return false };
        now.saturating_duration_since(since) >= GRACE && self.conns.remove(&token).is_some()
    }
}
