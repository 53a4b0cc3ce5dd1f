//! A TCP proxy that breaks connections the way networks do: it holds, cuts after so many bytes, resets, goes
//! slowly, refuses.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Connections stay open and nothing moves.
    Hold,
    /// The same for what is open by now; what comes later passes.
    Strand,
    /// Each direction of a connection ends after so many more bytes.
    CutAfter(u64),
    /// The same with a reset: both ends are told so, and what was under way is thrown away.
    ResetAfter(u64),
    /// What is open is cut, what comes is refused.
    Refuse,
    Slow {
        bytes_per_s: u64,
    },
}

struct Shared {
    mode: Mutex<Mode>,
    /// Counts mode changes, so that a cut counts its bytes from the change on.
    change: AtomicU64,
    over: AtomicBool,
    target: String,
    pub cuts: AtomicU64,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        listener.set_nonblocking(true).expect("a socket");
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            change: AtomicU64::new(0),
            over: AtomicBool::new(false),
            target: target.to_owned(),
            cuts: AtomicU64::new(0),
        });
        let its = shared.clone();
        std::thread::spawn(move || its.accept(&listener));
        Proxy { port, shared }
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        self.shared.change.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections it has cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

const TICK: Duration = Duration::from_millis(5);

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over() {
            match listener.accept() {
                Ok((client, _)) if self.mode() == Mode::Refuse => drop(client),
                Ok((client, _)) => {
                    let Ok(server) = TcpStream::connect(&self.target) else { continue };
                    let is_reset = Arc::new(AtomicBool::new(false));
                    for (from, to) in [(&client, &server), (&server, &client)] {
                        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                        let (its, is_reset) = (self.clone(), is_reset.clone());
                        std::thread::spawn(move || {
                            its.pump(&from, &to, &is_reset);
                            // An orderly end would come before the reset, which is what closing does then.
                            if !is_reset.load(Ordering::SeqCst) {
                                let _ = from.shutdown(Shutdown::Both);
                                let _ = to.shutdown(Shutdown::Both);
                            }
                        });
                    }
                }
                Err(_) => std::thread::sleep(TICK),
            }
        }
    }

    /// Moves bytes one way until an end closes, the proxy goes away, or its mode says to cut.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, is_reset: &AtomicBool) {
        let _ = (
            from.set_nodelay(true),
            to.set_nodelay(true),
            from.set_read_timeout(Some(TICK)),
            from.set_nonblocking(false),
        );
        let mut buffer = vec![0; 16 * 1024];
        let opened = self.change.load(Ordering::SeqCst);
        let (mut change, mut moved) = (opened, 0u64);
        while !self.is_over() && !is_reset.load(Ordering::SeqCst) {
            let now = self.change.load(Ordering::SeqCst);
            if now != change {
                (change, moved) = (now, 0);
            }
            let mode = self.mode();
            let room = match mode {
                Mode::Pass => buffer.len(),
                Mode::Strand if opened == change => buffer.len(),
                Mode::Hold | Mode::Strand => {
                    std::thread::sleep(TICK);
                    continue;
                }
                Mode::Refuse => return,
                Mode::CutAfter(bytes) | Mode::ResetAfter(bytes) if moved >= bytes => {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                    if matches!(mode, Mode::ResetAfter(_)) {
                        for end in [from, to] {
                            let _ = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
                        }
                        is_reset.store(true, Ordering::SeqCst);
                    }
                    return;
                }
                Mode::CutAfter(bytes) | Mode::ResetAfter(bytes) => buffer.len().min((bytes - moved) as usize),
                Mode::Slow { bytes_per_s } => (bytes_per_s as usize * TICK.as_millis() as usize / 1000).max(1),
            };
            let room = room.min(buffer.len());
            match from.read(&mut buffer[..room]) {
                Ok(0) => return,
                Ok(count) => {
                    if to.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                    moved += count as u64;
                    if matches!(mode, Mode::Slow { .. }) {
                        std::thread::sleep(TICK);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }
}
