//! The only place where the engine waits: time, channels, threads, the order to stop, backoff.
//! Real, these are crossbeam and `std`; simulated, every one of them is a point at which a scheduler
//! under a seed decides which thread goes on. Nothing here knows what is sent.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError};

/// The simulator's side of `Clock`. All calls come from threads that it started.
pub trait Scheduler: Send + Sync {
    fn now(&self) -> Duration;
    fn random(&self) -> u64;
    /// Something changed that others may wait for; any of them may run now.
    fn changed(&self);
    /// Returns when something has changed since, or at `until`.
    fn wait(&self, until: Duration);
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>);
}

#[derive(Clone)]
pub enum Clock {
    Real(Instant),
    Simulated(Arc<dyn Scheduler>),
}

impl Clock {
    pub fn real() -> Self {
        Clock::Real(Instant::now())
    }

    /// Time since the clock was made.
    pub fn now(&self) -> Duration {
        match self {
            Clock::Real(start) => start.elapsed(),
            Clock::Simulated(scheduler) => scheduler.now(),
        }
    }

    /// Milliseconds since 1970, as other machines count them too. It may jump; simulated, it is the time since the start.
    pub fn unix_ms(&self) -> u64 {
        let since = match self {
            Clock::Real(_) => UNIX_EPOCH.elapsed().unwrap_or_default(),
            Clock::Simulated(scheduler) => scheduler.now(),
        };
        since.as_millis() as u64
    }

    pub fn sleep(&self, pause: Duration) {
        match self {
            #[allow(clippy::disallowed_methods)] // the one sleep, used to back off and nowhere else
            Clock::Real(_) => std::thread::sleep(pause),
            Clock::Simulated(scheduler) => {
                let until = scheduler.now() + pause;
                while scheduler.now() < until {
                    scheduler.wait(until);
                }
            }
        }
    }

    pub(super) fn send<T>(&self, to: &Sender<T>, what: T, wait: Duration) -> Result<(), SendTimeoutError<T>> {
        let Clock::Simulated(scheduler) = self else { return to.send_timeout(what, wait) };
        let until = scheduler.now() + wait;
        let mut what = what;
        loop {
            match to.try_send(what) {
                Ok(()) => {
                    scheduler.changed();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(back)) => return Err(SendTimeoutError::Disconnected(back)),
                Err(TrySendError::Full(back)) if scheduler.now() >= until => {
                    return Err(SendTimeoutError::Timeout(back));
                }
                Err(TrySendError::Full(back)) => what = back,
            }
            scheduler.wait(until);
        }
    }

    /// Puts a note into an inbox that is made large enough for every note it can get. Whoever has gone
    /// away does not need it any more.
    pub(super) fn post<T>(&self, to: &Sender<T>, note: T) {
        debug_assert!(!matches!(to.capacity(), Some(capacity) if to.len() >= capacity), "inbox too small");
        let _ = to.try_send(note);
        if let Clock::Simulated(scheduler) = self {
            scheduler.changed();
        }
    }

    pub(super) fn recv<T>(&self, from: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
        let Clock::Simulated(scheduler) = self else { return from.recv_timeout(wait) };
        let until = scheduler.now() + wait;
        loop {
            match from.try_recv() {
                Ok(what) => {
                    scheduler.changed();
                    return Ok(what);
                }
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if scheduler.now() >= until => return Err(RecvTimeoutError::Timeout),
                Err(TryRecvError::Empty) => scheduler.wait(until),
            }
        }
    }

    /// Starts a named thread. A panic in it ends the process: a data path with a thread missing would go on
    /// looking alive.
    pub fn spawn<T: Send + 'static>(&self, name: String, body: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
        let (tell, result) = crossbeam_channel::bounded(1);
        let clock = self.clone();
        match self {
            Clock::Real(_) => {
                let guarded = move || {
                    let _guard = ExitOnPanic;
                    let _ = tell.send(body());
                };
                std::thread::Builder::new().name(name).spawn(guarded).expect("the system gives a thread");
            }
            Clock::Simulated(scheduler) => {
                scheduler.spawn(&name, Box::new(move || clock.post(&tell, body())));
            }
        }
        Thread { result }
    }

    fn seed(&self) -> u64 {
        match self {
            Clock::Real(_) => RandomState::new().hash_one(0),
            Clock::Simulated(scheduler) => scheduler.random(),
        }
    }
}

struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            log::error!("thread {} panicked; the process ends", thread.name().unwrap_or("?"));
            #[allow(clippy::disallowed_methods)] // a panic has no other way out of a thread
            std::process::exit(101);
        }
    }
}

/// A running thread and what it will return.
pub struct Thread<T> {
    result: Receiver<T>,
}

impl<T> Thread<T> {
    /// What the thread returned, if it has.
    pub fn ended(&self) -> Option<T> {
        self.result.try_recv().ok()
    }

    /// Waits for the end until `by`.
    pub fn join(&self, clock: &Clock, by: Duration) -> Option<T> {
        clock.recv(&self.result, by.saturating_sub(clock.now())).ok()
    }
}

/// Dropping it gives the order to stop: the channel that every `Stop` looks at closes.
pub struct Stopper(#[expect(dead_code, reason = "held for its drop")] Sender<Infallible>);

/// The order to stop, once, with the deadline that starts with it.
#[derive(Clone)]
pub struct Stop {
    closed: Receiver<Infallible>,
    clock: Clock,
    grace: Duration,
    deadline: Arc<OnceLock<Duration>>,
}

impl Stop {
    pub fn new(clock: &Clock, grace: Duration) -> (Stopper, Stop) {
        let (stopper, closed) = crossbeam_channel::bounded(0);
        (Stopper(stopper), Stop { closed, clock: clock.clone(), grace, deadline: Arc::default() })
    }

    pub fn asked(&self) -> bool {
        let asked = matches!(self.closed.try_recv(), Err(TryRecvError::Disconnected));
        if asked {
            self.deadline();
        }
        asked
    }

    /// When everything has to be over. Only asked for after the order.
    pub fn deadline(&self) -> Duration {
        *self.deadline.get_or_init(|| self.clock.now() + self.grace)
    }

    /// How much of the grace is left. Only asked for after the order.
    pub fn left(&self) -> Duration {
        self.deadline().saturating_sub(self.clock.now())
    }

    pub fn expired(&self) -> bool {
        self.asked() && self.clock.now() >= self.deadline()
    }

    /// Pauses, but not beyond the order to stop; after the order, not beyond the deadline.
    pub fn pause(&self, pause: Duration) {
        if self.asked() {
            self.clock.sleep(pause.min(self.deadline().saturating_sub(self.clock.now())));
        } else {
            let _ = self.clock.recv(&self.closed, pause);
        }
    }
}

/// Longer and longer pauses, each between half and all of its bound, so that many waiters spread out.
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
    random: u64,
}

impl Backoff {
    pub fn new(clock: &Clock, min: Duration, max: Duration) -> Self {
        Backoff { min, max, attempt: 0, random: clock.seed() }
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    pub fn next_pause(&mut self) -> Duration {
        let bound = self.min.saturating_mul(1 << self.attempt.min(16)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bound.mul_f64(0.5 + (self.random >> 40) as f64 / (1u64 << 25) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again_after_a_success() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(&Clock::real(), min, max);
        for attempt in 0..40u32 {
            let bound = (min * (1 << attempt.min(10))).min(max);
            let pause = backoff.next_pause();
            assert!(pause >= bound / 2 && pause <= bound, "attempt {attempt}: {pause:?} for a bound of {bound:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= min);
    }

    #[test]
    fn the_order_to_stop_is_given_once_and_starts_the_deadline() {
        let clock = Clock::real();
        let (stopper, stop) = Stop::new(&clock, Duration::from_secs(60));
        assert!(!stop.asked() && !stop.expired());
        drop(stopper);
        assert!(stop.asked() && stop.clone().asked());
        assert_eq!(stop.deadline(), stop.clone().deadline());
        assert!(!stop.expired());
    }
}
