//! Threads and time under a seed. Real OS threads, of which one runs at a time: at every point where the
//! engine waits or tells, the seed picks who goes on. When nobody can, time jumps to the next thing due.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate::engine::{Clock, Scheduler};

/// More than this, and the scenario is going round in circles.
const STEPS_MAX: u64 = 3_000_000;
const TIME_MAX: Duration = Duration::from_secs(3600);

/// The thread that steers; instances count from 0.
pub const DIRECTOR: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Runnable,
    Waiting { until: Duration, seen: u64 },
    Ended,
}

struct Strand {
    status: Status,
    instance: usize,
    turn: Arc<Condvar>,
}

struct State {
    now: Duration,
    random: u64,
    strands: Vec<Strand>,
    current: usize,
    /// Counts up whenever something changed that somebody may wait for.
    version: u64,
    steps: u64,
    trace: u64,
    frozen: Vec<(usize, Duration)>,
    crashed: Vec<usize>,
    failure: Option<String>,
}

pub struct World {
    state: Mutex<State>,
}

/// What a thread of a crashed instance unwinds with: nothing of the engine's runs after a crash.
struct Crash;

thread_local! {
    static ME: Cell<usize> = const { Cell::new(0) };
}

/// One step of splitmix64.
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl World {
    /// The calling thread becomes the director.
    pub fn new(seed: u64) -> Arc<World> {
        let director = Strand { status: Status::Runnable, instance: DIRECTOR, turn: Arc::default() };
        ME.set(0);
        Arc::new(World {
            state: Mutex::new(State {
                now: Duration::ZERO,
                random: seed,
                strands: vec![director],
                current: 0,
                version: 0,
                steps: 0,
                trace: 0,
                frozen: Vec::new(),
                crashed: Vec::new(),
                failure: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Duration {
        self.lock().now
    }

    pub fn trace(&self) -> u64 {
        self.lock().trace
    }

    pub fn random(&self) -> u64 {
        mix(&mut self.lock().random)
    }

    /// Below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.random() % bound.max(1)
    }

    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn millis(&self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }

    /// A failed check anywhere ends the scenario with this.
    pub fn fail(&self, text: String) {
        self.lock().failure.get_or_insert(text);
    }

    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// No thread of the instance runs until then.
    pub fn freeze(&self, instance: usize, until: Duration) {
        self.lock().frozen.push((instance, until));
    }

    /// All threads of the instance end where they are.
    pub fn crash(&self, instance: usize) {
        let mut state = self.lock();
        state.crashed.push(instance);
        state.frozen.retain(|(frozen, _)| *frozen != instance);
    }

    pub fn thaw_all(&self) {
        self.lock().frozen.clear();
    }

    /// Ends every thread, so that none outlives the scenario.
    pub fn end(&self) {
        let mut state = self.lock();
        let instances: Vec<usize> = state.strands.iter().map(|strand| strand.instance).collect();
        state.crashed.extend(instances.into_iter().filter(|instance| *instance != DIRECTOR));
        state.frozen.clear();
        drop(state);
        while self.lock().strands.iter().skip(1).any(|strand| strand.status != Status::Ended) {
            let now = self.now();
            self.hand_over(Status::Waiting { until: now, seen: u64::MAX });
        }
    }

    pub fn changed(&self) {
        self.lock().version += 1;
        self.hand_over(Status::Runnable);
    }

    pub fn wait(&self, until: Duration) {
        let seen = self.lock().version;
        self.hand_over(Status::Waiting { until, seen });
    }

    pub fn sleep(&self, pause: Duration) {
        let until = self.now() + pause;
        // Once a check has failed time stands still.
        while self.now() < until && self.failure().is_none() {
            self.wait(until);
        }
    }

    fn hand_over(&self, status: Status) {
        let me = ME.get();
        let mut state = self.lock();
        state.strands[me].status = status;
        let next = state.pick();
        if next != me {
            state.current = next;
            state.strands[next].turn.notify_one();
            let turn = state.strands[me].turn.clone();
            while state.current != me {
                state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.strands[me].status = Status::Runnable;
        let instance = state.strands[me].instance;
        let crashed = instance != DIRECTOR && (state.crashed.contains(&instance) || state.failure.is_some());
        drop(state);
        // A destructor that waits while its thread unwinds must not unwind again.
        if crashed && !std::thread::panicking() {
            resume_unwind(Box::new(Crash));
        }
    }

    pub fn spawn(self: &Arc<Self>, instance: usize, body: Box<dyn FnOnce() + Send>) {
        let mut state = self.lock();
        let me = state.strands.len();
        let turn = Arc::new(Condvar::new());
        state.strands.push(Strand { status: Status::Runnable, instance, turn: turn.clone() });
        drop(state);
        let world = self.clone();
        let run = move || {
            ME.set(me);
            let mut state = world.lock();
            while state.current != me {
                state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.strands[me].status = Status::Runnable;
            let crashed = state.crashed.contains(&instance);
            drop(state);
            if !crashed
                && let Err(panic) = catch_unwind(AssertUnwindSafe(body))
                && !panic.is::<Crash>()
            {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                world.fail(format!("a thread panicked: {}", text.unwrap_or_default()));
            }
            let mut state = world.lock();
            state.strands[me].status = Status::Ended;
            state.version += 1;
            let next = state.pick();
            state.current = next;
            state.strands[next].turn.notify_one();
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(run).expect("a thread");
    }

    pub fn clock(self: &Arc<Self>, instance: usize) -> Clock {
        Clock::Simulated(Arc::new(View { world: self.clone(), instance }))
    }
}

impl State {
    /// Who goes on. Moves time when nobody can.
    fn pick(&mut self) -> usize {
        self.steps += 1;
        if self.failure.is_none() && (self.steps > STEPS_MAX || self.now > TIME_MAX) {
            self.failure = Some(format!("no end after {} steps and {:?}", self.steps, self.now));
            return 0;
        }
        loop {
            let now = self.now;
            let ready: Vec<usize> = (0..self.strands.len()).filter(|index| self.is_ready(*index)).collect();
            if !ready.is_empty() {
                let next = ready[(mix(&mut self.random) % ready.len() as u64) as usize];
                self.trace = (self.trace ^ next as u64 ^ (now.as_nanos() as u64) << 8).wrapping_mul(0x100_0000_01b3);
                return next;
            }
            let dues = self.strands.iter().filter_map(|strand| match strand.status {
                Status::Waiting { until, .. } => Some(until.max(self.frozen_until(strand.instance))),
                Status::Runnable => Some(self.frozen_until(strand.instance)),
                Status::Ended => None,
            });
            match dues.min() {
                Some(due) => self.now = due.max(now),
                None => return 0,
            }
        }
    }

    fn frozen_until(&self, instance: usize) -> Duration {
        let frozen = self.frozen.iter().filter(|(frozen, _)| *frozen == instance);
        frozen.map(|(_, until)| *until).max().unwrap_or(Duration::ZERO)
    }

    fn is_ready(&self, index: usize) -> bool {
        let strand = &self.strands[index];
        if self.now < self.frozen_until(strand.instance) {
            return false;
        }
        match strand.status {
            Status::Ended => false,
            Status::Runnable => true,
            Status::Waiting { until, seen } => {
                self.now >= until
                    || seen != self.version
                    || self.failure.is_some()
                    || self.crashed.contains(&strand.instance)
            }
        }
    }
}

/// The world as one instance sees it: what it starts belongs to it.
struct View {
    world: Arc<World>,
    instance: usize,
}

impl Scheduler for View {
    fn now(&self) -> Duration {
        self.world.now()
    }

    fn random(&self) -> u64 {
        self.world.random()
    }

    fn changed(&self) {
        self.world.changed();
    }

    fn wait(&self, until: Duration) {
        self.world.wait(until);
    }

    fn spawn(&self, _: &str, body: Box<dyn FnOnce() + Send>) {
        self.world.spawn(self.instance, body);
    }
}
