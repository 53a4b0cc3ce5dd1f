//! The soak: the real binary under a steady load for as long as one likes, with faults thrown in turn, as a seed
//! draws them. One instance lives through all of it and has its memory taken every second; a second one comes, goes
//! and is killed beside it. `make soak MINUTES=30 SEED=1`; without minutes it is half of one.

#![allow(clippy::disallowed_methods)] // the load is by the clock, and the rounds poll what they cannot be told of

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use support::hostile::{records, try_produce};
use support::random::Random;
use support::world::{PARTITIONS, World};
use support::{Instance, connect, service_directory, services, update, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);
/// In each partition.
const RECORDS_PER_TICK: i64 = 20;
/// Longer than the session: somebody else has taken over by then.
const FREEZE: Duration = Duration::from_secs(8);
/// Between one fault and the next.
const QUIET: Duration = Duration::from_secs(2);
/// Of a run that is shorter than this many samples, the memory is shown and not judged.
const SAMPLES_MIN: usize = 600;

/// Kafka, PostgreSQL and two instances.
struct Soak {
    directory: String,
    kafka_port: String,
    postgres_port: String,
    url: String,
    settings: Vec<(&'static str, String)>,
    elder: Instance,
    second: Option<Instance>,
}

type Fault = (&'static str, fn(&mut Soak));

const FAULTS: [Fault; 10] = [
    ("broker stopped and started", |soak| soak.kafka("stop")),
    ("broker killed", |soak| soak.kafka("kill")),
    ("PostgreSQL stopped fast", |soak| soak.postgres("stop")),
    ("PostgreSQL stopped at once", Soak::postgres_at_once),
    ("PostgreSQL killed", |soak| soak.postgres("kill")),
    ("all sessions ended", Soak::end_sessions),
    ("the elder frozen past its session", |soak| freeze(&soak.elder)),
    ("the second frozen past its session", |soak| freeze(soak.second.as_ref().expect("it is there"))),
    ("the second killed and started", |soak| soak.replace("KILL")),
    ("the second left and joined", |soak| soak.replace("TERM")),
];

fn freeze(instance: &Instance) {
    instance.signal("STOP");
    std::thread::sleep(FREEZE);
    instance.signal("CONT");
}

impl Soak {
    fn kafka(&mut self, verb: &str) {
        services(&["kafka", verb, &self.directory]);
        services(&["kafka", "start", &self.directory, &self.kafka_port]);
    }

    fn postgres(&mut self, verb: &str) {
        services(&["postgres", verb, &self.directory]);
        services(&["postgres", "start", &self.directory, &self.postgres_port]);
    }

    /// As after a crash, with a recovery; `services` has no word for it.
    fn postgres_at_once(&mut self) {
        let server = services(&["postgres", "pid", &self.directory]);
        assert!(Command::new("kill").args(["-QUIT", &server]).status().expect("kill").success());
        let is_there = || std::fs::read_to_string(format!("/proc/{server}/stat")).is_ok();
        wait_for("the server to end", MINUTE, || (!is_there()).then_some(()));
        services(&["postgres", "start", &self.directory, &self.postgres_port]);
    }

    fn end_sessions(&mut self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'sluicegate%'";
        for _ in 0..5 {
            connect(&self.url).query(sql, &[]).expect("ended");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn replace(&mut self, signal: &str) {
        let mut leaving = self.second.take().expect("it is there");
        leaving.signal(signal);
        let code = leaving.wait(MINUTE);
        assert!(signal == "KILL" || code == Some(0), "it left with {code:?}");
        std::thread::sleep(QUIET);
        self.second = Some(Instance::start(&self.settings.iter().cloned().collect()));
    }

    /// What the ledger says is written.
    fn written(&self) -> Option<i64> {
        let row = connect(&self.url).query_one("SELECT sum(next_offset)::bigint FROM sluicegate_ledger", &[]).ok()?;
        row.get(0)
    }
}

/// A few records into a partition that nobody else writes, once. By hand, because a producer of librdkafka's can lose its
/// brokers for good, as the consumer can: and that is not to be the end of the load.
fn deliver(world: &mut World, partition: i32) {
    let first = world.produced[partition as usize];
    let next = first + RECORDS_PER_TICK;
    let set = records(&(first..next).map(|offset| update(partition, offset, "SUCCESS")).collect::<Vec<_>>());
    wait_for("the broker to take records", 5 * MINUTE, || {
        if let Ok((0, offset)) = try_produce(&world.brokers, &world.topic, partition, &set) {
            assert_eq!(offset, first);
            return Some(());
        }
        // Whether it took them before its answer was lost, its end says.
        let end = wait_for("an end", 5 * MINUTE, || {
            let config = ClientConfig::new().set("bootstrap.servers", &world.brokers).clone();
            let looking: BaseConsumer = config.create().expect("a client");
            looking.fetch_watermarks(&world.topic, partition, Duration::from_secs(5)).ok()
        });
        (end.1 == next).then_some(())
    });
    world.produced[partition as usize] = next;
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[test]
fn a_steady_load_with_faults_in_turn_loses_nothing_and_takes_no_more_memory() {
    let minutes: f64 = support::setting("SLUICEGATE_SOAK_MINUTES", 0.5);
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed: u64 = support::setting("SLUICEGATE_SOAK_SEED", now_ns % 1_000_000);
    println!("seed {seed}: make soak MINUTES={minutes} SEED={seed}");
    let directory = service_directory("soak");
    let [kafka_port, postgres_port] = ["kafka", "postgres"].map(|name| {
        let port = services(&["free-port"]);
        services(&[name, "start", &directory, &port]);
        port
    });
    let url = format!("postgres://postgres@127.0.0.1:{postgres_port}/processed_data_db?sslmode=disable");
    let mut world = World::on("soak", format!("127.0.0.1:{kafka_port}"), url.clone());
    world.settings.insert("LOG_LEVEL", "info".into());
    let settings = world.settings.iter().map(|(name, value)| (*name, value.clone())).collect();
    let (elder, second) = (world.start(), Some(world.start()));
    elder.wait_ready();
    let mut soak = Soak { directory, kafka_port, postgres_port, url, settings, elder, second };

    let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let load = std::thread::spawn({
        let (is_over, sent) = (is_over.clone(), sent.clone());
        move || {
            while !is_over.load(Ordering::SeqCst) {
                for partition in 0..PARTITIONS {
                    deliver(&mut world, partition);
                    sent.fetch_add(RECORDS_PER_TICK, Ordering::SeqCst);
                }
                std::thread::sleep(TICK);
            }
            world
        }
    });
    let pid = soak.elder.child.id();
    let sampling = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            let mut samples = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                samples.extend(support::memory_mb(pid, "VmRSS:"));
                std::thread::sleep(Duration::from_secs(1));
            }
            samples
        }
    });

    let (start, mut random) = (Instant::now(), Random(seed));
    let (mut thrown, mut turn) = (BTreeMap::<&str, u32>::new(), Vec::<Fault>::new());
    while start.elapsed().as_secs_f64() < minutes * 60.0 {
        if turn.is_empty() {
            turn.extend(FAULTS);
        }
        let (name, throw) = turn.swap_remove(random.below(turn.len() as u64) as usize);
        let began = start.elapsed();
        throw(&mut soak);
        *thrown.entry(name).or_default() += 1;
        // Everything that was sent until now gets there, before anything else happens.
        let due = sent.load(Ordering::SeqCst);
        wait_for(&format!("what was sent when {name}"), 5 * MINUTE, || (soak.written()? >= due).then_some(()));
        let took = start.elapsed() - began;
        println!(
            "{:>6.0} s  {name}: all written after {:.1} s; the elder has {:.1} MB",
            start.elapsed().as_secs_f64(),
            took.as_secs_f64(),
            soak.elder.memory_now_mb(),
        );
        assert!(soak.elder.child.try_wait().expect("a child").is_none(), "the elder has ended");
        std::thread::sleep(QUIET);
    }
    is_over.store(true, Ordering::SeqCst);
    let world = load.join().expect("the load");
    let samples = sampling.join().expect("the samples");
    world.wait_written(3 * MINUTE);
    world.check();

    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let most = samples.iter().copied().fold(0.0, f64::max);
    println!("faults: {thrown:?}");
    println!(
        "seed {seed}: {:.1} min, {} faults, {} records, each written once; memory of the elder {:.1} MB in the first third, \
         {:.1} MB in the last (medians of {third} samples), {most:.1} MB at most",
        start.elapsed().as_secs_f64() / 60.0,
        thrown.values().sum::<u32>(),
        world.produced.iter().sum::<i64>(),
        median(first),
        median(last),
    );
    if samples.len() >= SAMPLES_MIN {
        assert!(median(last) <= median(first) * 1.1 + 4.0, "the elder grows");
    }
    soak.elder.signal("TERM");
    assert_eq!(soak.elder.wait(MINUTE), Some(0));
    let directory = soak.directory.clone();
    drop(soak);
    services(&["clean", &directory]);
}
