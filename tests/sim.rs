//! The engine, all of it, under a seed: real threads of which one runs at a time, a Kafka and a PostgreSQL made
//! of a few lists, and everything that can go wrong between them. What has to hold: rows and letters are the
//! log up to the ledger's offset at every moment, everything is applied once the faults are over, and a stop
//! ends within its time.
//!
//! `SLUICEGATE_SIM_SEEDS=N` runs more seeds, `SLUICEGATE_SIM_SEED=S` one of them.

#[path = "sim/broker.rs"]
mod broker;
#[path = "sim/database.rs"]
mod database;
#[path = "sim/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Broker, SimSource};
use database::{Database, SimSink};
use sluicegate::engine::{self, Policy, Stop, Stopper};
use sluicegate::track::Track;
use world::World;

const SEEDS: u64 = 10_000;
const GRACE: Duration = Duration::from_secs(5);
/// How long everything may take once nothing goes wrong any more: frozen members are missed, claims back off.
const HEALING: Duration = Duration::from_secs(120);

/// How often things go wrong, in a thousand. All zero is a good day.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    pub gap: u64,
    pub poison: u64,
    pub refused: u64,
    pub again: u64,
    pub source_fault: u64,
    pub sink_fault: u64,
    pub lost_answer: u64,
    pub slow_ms: u64,
    pub deaf: u64,
    pub delayed: u64,
}

impl Chances {
    fn draw(world: &World) -> Chances {
        // Each is off for a good part of the seeds, so that none is only ever seen together with all others.
        let draw = |bound: u64| if world.chance(500) { world.below(bound) } else { 0 };
        Chances {
            gap: draw(200),
            poison: draw(150),
            refused: draw(100),
            again: draw(300),
            source_fault: draw(150),
            sink_fault: draw(200),
            lost_answer: draw(300),
            slow_ms: draw(400),
            deaf: draw(200),
            delayed: draw(200),
        }
    }
}

/// What really happened over a run of seeds: a fault that never happens proves nothing.
#[derive(Default)]
pub struct Coverage(Mutex<BTreeMap<&'static str, u64>>);

impl Coverage {
    pub fn hit(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }
}

struct Instance {
    number: usize,
    member: u64,
    stopper: Option<Stopper>,
    ended: Arc<Mutex<Option<Duration>>>,
    track: Arc<Track>,
}

impl Instance {
    fn describe(&self) -> String {
        let places = self.track.partitions().into_iter().map(|(partition, place)| {
            let (next, ahead) = (place.next_offset.get(), place.ahead.get());
            format!("{partition} {:?} at {next}, {ahead} ahead", place.state())
        });
        format!(
            "instance {}: {:?}, last error {:?}",
            self.number,
            places.collect::<Vec<String>>(),
            self.track.last_error()
        )
    }
}

/// Everything of one seed.
struct Scenario {
    world: Arc<World>,
    broker: Arc<Broker>,
    database: Arc<Database>,
    coverage: Arc<Coverage>,
    chances: Chances,
    policy: Policy,
    partitions: usize,
    instances: Vec<Instance>,
    started: usize,
}

impl Scenario {
    fn new(seed: u64, coverage: &Arc<Coverage>) -> Scenario {
        let world = World::new(seed);
        let chances = Chances::draw(&world);
        let partitions = 1 + world.below(3) as usize;
        let broker = Broker::new(world.clone(), partitions, chances, coverage.clone());
        let database = Database::new(world.clone(), broker.clone(), chances, coverage.clone());
        let policy = Policy {
            batch_rows_max: 1 + world.below(8) as usize,
            batch_bytes_max: 100 + world.below(1000) as usize,
            batch_memory_bytes: 300 + world.below(4000) as usize,
            linger: world.millis(60),
            rate_max_per_s: world.chance(300).then(|| 20 + world.below(400) as u32),
            group_rows_max: 1 + world.below(16) as usize,
            writers: 1 + world.below(2) as usize,
            commit_every: Duration::from_secs(1),
            look_every: Duration::from_secs(5),
            stall_after: Duration::from_secs(12),
            answer_within: Duration::from_secs(15),
            drain_patience: Duration::from_secs(3),
            revoke_grace: world.millis(2000),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
        };
        let coverage = coverage.clone();
        Scenario { world, broker, database, coverage, chances, policy, partitions, instances: Vec::new(), started: 0 }
    }

    fn start_instance(&mut self) {
        let number = self.started;
        self.started += 1;
        let clock = self.world.clock(number);
        let (stopper, stop) = Stop::new(&clock, GRACE);
        let (track, ended) = (Track::new("sim"), Arc::new(Mutex::new(None)));
        let source = SimSource { broker: self.broker.clone(), member: number as u64, is_lost: false };
        let batch_bytes_max = self.policy.batch_bytes_max.min(self.policy.batch_memory_bytes / 2);
        let sink = Arc::new(SimSink { database: self.database.clone(), batch_bytes_max });
        let (world, policy, done, its_track) = (self.world.clone(), self.policy.clone(), ended.clone(), track.clone());
        self.world.spawn(
            number,
            Box::new(move || {
                engine::run(source, sink, policy, clock, stop, its_track);
                *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(world.now());
            }),
        );
        self.broker.join(number as u64);
        self.instances.push(Instance { number, member: number as u64, stopper: Some(stopper), ended, track });
    }

    fn pick(&self) -> Option<usize> {
        let count = self.instances.len() as u64;
        (count > 0).then(|| self.world.below(count) as usize)
    }

    /// One thing that happens.
    fn act(&mut self) {
        let world = self.world.clone();
        match world.below(12) {
            0..=4 => self.broker.append(world.below(self.partitions as u64) as i32, 1 + world.below(20)),
            5 if self.instances.len() < 3 => self.start_instance(),
            6 => {
                if let Some(index) = self.pick() {
                    self.coverage.hit("crash");
                    let instance = self.instances.remove(index);
                    world.crash(instance.number);
                    self.broker.kick(instance.member, false);
                }
            }
            7 => {
                if let Some(index) = self.pick() {
                    self.coverage.hit("frozen");
                    let Instance { number, member, .. } = self.instances[index];
                    world.freeze(number, world.now() + Duration::from_secs(1) + world.millis(12_000));
                    // Past its session it has lost everything and does not know: two owners.
                    if world.chance(700) {
                        self.coverage.hit("two owners");
                        self.broker.kick(member, true);
                    }
                }
            }
            8 => {
                self.coverage.hit("rebalance");
                self.broker.rebalance();
            }
            9 => {
                if let Some(index) = self.pick() {
                    self.coverage.hit("stop");
                    // It leaves the group by itself, in good order.
                    self.instances.remove(index).stopper.take();
                    world.changed();
                }
            }
            10 if world.chance(300) => {
                self.coverage.hit("outage");
                self.database.go_down(world.millis(8000));
            }
            11 if world.chance(300) => match world.chance(500) {
                true => self.database.take_snapshot(),
                false => {
                    self.coverage.hit("fail over");
                    self.database.fail_over();
                }
            },
            _ => {}
        }
    }

    fn run(&mut self) -> Result<u64, String> {
        let world = self.world.clone();
        self.start_instance();
        for _ in 0..10 + world.below(20) {
            self.act();
            world.sleep(world.millis(1500));
            if let Some(failure) = world.failure() {
                return Err(failure);
            }
        }
        self.heal()?;
        self.stop()?;
        self.database.check_all(self.partitions);
        world.failure().map_or(Ok(world.trace()), Err)
    }

    /// On a good day, at this rate.
    fn paced(seed: u64, per_s: u32) -> Scenario {
        let mut scenario = Scenario::new(seed, &Arc::default());
        (scenario.chances, scenario.policy.rate_max_per_s) = (Chances::default(), Some(per_s));
        scenario.broker = Broker::new(scenario.world.clone(), scenario.partitions, scenario.chances, Arc::default());
        let (world, broker) = (scenario.world.clone(), scenario.broker.clone());
        scenario.database = Database::new(world, broker, scenario.chances, Arc::default());
        scenario
    }

    fn applied(&self) -> i64 {
        (0..self.partitions as i32).map(|id| self.database.next_offset(id)).sum()
    }

    /// Nothing goes wrong any more: everything has to be applied.
    fn heal(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        self.database.heal();
        self.broker.heal();
        world.thaw_all();
        if self.instances.is_empty() {
            self.start_instance();
        }
        let until = world.now() + HEALING;
        let behind = |scenario: &Scenario| {
            (0..scenario.partitions as i32).find(|id| scenario.database.next_offset(*id) < scenario.broker.end(*id))
        };
        while let Some(partition) = behind(self) {
            if world.now() >= until {
                let next = self.database.next_offset(partition);
                let places: Vec<String> = self.instances.iter().map(Instance::describe).collect();
                let end = self.broker.end(partition);
                return Err(format!("partition {partition} stands at {next} of {end}; {places:?}"));
            }
            world.sleep(Duration::from_millis(200));
            if let Some(failure) = world.failure() {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// The order to stop ends every instance in its time, whether the sink answers or not.
    fn stop(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        if world.chance(300) {
            self.broker.append(0, 5);
            self.database.go_down(Duration::from_secs(600));
        }
        if self.instances.iter().any(|instance| instance.track.stalls_repaired.get() > 0) {
            self.coverage.hit("stall repaired");
            if self.chances.deaf == 0 {
                return Err("a partition was taken for stalled that only waited".to_owned());
            }
        }
        let asked = world.now();
        for instance in &mut self.instances {
            instance.stopper.take();
        }
        world.changed();
        // Claims and calls under way come to their end first; each is bounded by the simulator.
        let limit = GRACE + Duration::from_secs(4);
        world.sleep(limit);
        for instance in &self.instances {
            if instance.ended.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                return Err(format!("instance {} did not stop within {limit:?} of {asked:?}", instance.number));
            }
            if !instance.track.partitions().is_empty() {
                return Err(format!("instance {} still shows partitions", instance.number));
            }
        }
        Ok(())
    }
}

fn simulate(seed: u64, coverage: &Arc<Coverage>) -> Result<u64, String> {
    let mut scenario = Scenario::new(seed, coverage);
    let result = scenario.run();
    scenario.world.end();
    result
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text} is not a number")))
}

#[test]
fn nothing_is_lost_nothing_doubled_and_order_kept_whatever_happens() {
    let coverage = Arc::new(Coverage::default());
    if let Some(seed) = setting("SLUICEGATE_SIM_SEED") {
        let result = simulate(seed, &coverage);
        println!("{:?}", coverage.0.lock().unwrap_or_else(PoisonError::into_inner));
        result.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        return;
    }
    let seeds = setting("SLUICEGATE_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                    if let Err(failure) = simulate(seed, &coverage) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((seed, failure));
                    }
                }
            });
        }
    });
    if let Some((seed, failure)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        panic!(
            "seed {seed}: {failure}\nagain: SLUICEGATE_SIM_SEED={seed} cargo test --test sim nothing_is_lost -- --nocapture"
        );
    }
    let coverage = coverage.0.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{seeds} seeds: {coverage:?}");
    let kinds = [
        "claim unheard",
        "commit unheard",
        "crash",
        "deaf lane",
        "ends",
        "fail over",
        "fenced by epoch",
        "fenced by offset",
        "first_offset",
        "found applied",
        "frozen",
        "holder ended",
        "incarnation",
        "left for later",
        "lock wait",
        "lost",
        "lost client",
        "open",
        "outage",
        "rebalance",
        "refused",
        "sink down",
        "sink fault",
        "stall repaired",
        "stop",
        "take",
        "two owners",
    ];
    if seeds >= SEEDS {
        for kind in kinds {
            assert!(coverage.contains_key(kind), "{kind} never happened in {seeds} seeds");
        }
    }
}

#[test]
fn a_seed_is_one_history() {
    let coverage = Arc::new(Coverage::default());
    for seed in [1, 77, 4242] {
        assert_eq!(simulate(seed, &coverage), simulate(seed, &coverage), "seed {seed}");
    }
}

#[test]
fn the_rate_is_kept_over_all_partitions_and_a_stop_is_heard_while_it_holds_them_back() {
    const BURST_S: f64 = 0.1;
    for seed in 0..50 {
        let per_s = [1, 7, 50, 300][seed as usize % 4];
        let mut scenario = Scenario::paced(seed, per_s);
        let world = scenario.world.clone();
        let records = u64::from(per_s) * 5;
        (0..scenario.partitions as i32).for_each(|id| scenario.broker.append(id, records));
        scenario.start_instance();
        let mut begun = None;
        for _ in 0..400 {
            world.sleep(Duration::from_millis(20));
            assert_eq!(world.failure(), None, "seed {seed}");
            let applied = scenario.applied() as f64;
            let begun: &mut Duration = match applied > 0.0 || begun.is_some() {
                // What is applied was taken before.
                true => begun.get_or_insert(world.now().saturating_sub(Duration::from_secs(1))),
                false => continue,
            };
            let most = f64::from(per_s) * ((world.now() - *begun).as_secs_f64() + BURST_S) + 1.0;
            assert!(applied <= most, "seed {seed}: {applied} of at most {most} at {per_s}/s");
        }
        let (applied, all) = (scenario.applied() as f64, records as f64 * scenario.partitions as f64);
        let least = f64::from(per_s) * 4.0;
        assert!(applied >= least.min(all), "seed {seed}: {applied} of at least {least} at {per_s}/s");
        if per_s == 1 && applied < all {
            let asked = world.now();
            scenario.instances[0].stopper.take();
            world.changed();
            world.sleep(Duration::from_secs(3));
            let ended = *scenario.instances[0].ended.lock().unwrap_or_else(PoisonError::into_inner);
            let took = ended.unwrap_or_else(|| panic!("seed {seed}: it does not hear")) - asked;
            assert!(took < Duration::from_secs(2), "seed {seed}: {took:?}");
        }
        scenario.world.end();
    }
}
