//! A random workload over twenty tables that point at one another, with every type in them and in every mode of the
//! connector, while the program is killed again and again; then all topics once more from their start.
//! `SLUICEGATE_CDC_CHANGES=200000` is the whole of it, `SLUICEGATE_CDC_SEED` repeats one, `SLUICEGATE_CDC_MODES=text,bare`
//! names the modes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::Client;

use crate::modes::{self, Mode, Target};
use crate::replica::Replica;
use crate::support::connect::Connect;
use crate::support::random::Random;
use crate::support::{Instance, connect, loudly, setting};
use crate::{kinds, tree};

/// So many at a time: of one mode or two, one of each. More of them would leave a small machine nothing but to start them.
const KILLED: usize = 2;
const KILL_EVERY: Duration = Duration::from_secs(2);
/// Beside the modes: a target that looks at its foreign keys.
const KEYS: &str = "keys";
/// Letters that a change at the source mends may come to others.
const MEND_MAX: usize = 10;
/// After so many, everybody is waited for: nobody may fall behind for longer than he is waited for.
const STRETCH: u64 = 20_000;

const OPTIONS: &[(&str, &str)] = &[
    ("publication.autocreate.mode", "all_tables"),
    ("skipped.operations", "none"),
    ("topic.creation.groups", "wide"),
    ("topic.creation.wide.include", ".*\\.wide_.*"),
    ("topic.creation.wide.partitions", "3"),
    ("topic.creation.wide.replication.factor", "1"),
    // One worker has many of these.
    ("max.queue.size.in.bytes", "16777216"),
    ("producer.override.buffer.memory", "8388608"),
    ("producer.override.compression.type", "lz4"),
];

/// One worker and its followers at a time.
static TURN: Mutex<()> = Mutex::new(());

/// What the variable names, or everything but what is only done when it is asked for.
fn is_asked(name: &str, by_itself: bool) -> bool {
    let asked: String = setting("SLUICEGATE_CDC_MODES", String::new());
    let names = || asked.split(',').filter(|name| !name.is_empty());
    let is_known = |name: &str| name == KEYS || modes::ALL.iter().any(|mode| mode.name == name);
    assert!(names().all(is_known), "there is no such mode: {asked}");
    names().any(|asked| asked == name) || by_itself && asked.is_empty()
}

/// Of rows in their envelope or of flattened ones.
fn modes(is_flat: bool) -> Vec<&'static Mode> {
    modes::ALL.iter().filter(|mode| mode.is_flat == is_flat && is_asked(mode.name, true)).collect()
}

/// Who keeps the foreign keys between the tables.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    /// The source: the target has none.
    Absent,
    /// The source: the target has the same, and does not look at them.
    Left,
    /// The target too, when a transaction ends. What comes too early is a letter, and is replayed.
    Looked,
}

struct Follower {
    mode: &'static Mode,
    keys: Keys,
    replica: Replica,
}

type Settings = HashMap<&'static str, String>;
type Pair = [Instance; 2];

impl Follower {
    fn new(worker: &Connect, mode: &'static Mode, keys: Keys) -> Follower {
        // A small machine that writes each handful of rows by itself does nothing else; and all have one server.
        let replica = Replica::new(worker, "workload")
            .with("SLUICEGATE_FLOWS_CDC_LINGER_MS", "200")
            .with("SLUICEGATE_FLOWS_CDC_WRITERS", "2");
        let mut replica = mode.prepare(replica);
        if keys == Keys::Left {
            let mut target = connect(&replica.url);
            for table in (0..tree::TABLES).filter(|table| *table != tree::TOLD_BY_VALUES) {
                target.batch_execute(&tree::create_target(table)).expect("a table");
            }
            replica = replica.with("SLUICEGATE_FLOWS_CDC_FOREIGN_KEYS", "replica");
        }
        Follower { mode, keys, replica }
    }

    /// Gives the tables of a target that is as its source the keys that the source has.
    fn refer(&self) {
        let mut target = connect(&self.replica.url);
        for table in 1..tree::TABLES {
            let sql = tree::refer(table);
            target.batch_execute(&sql).expect(&sql);
        }
    }

    /// What came before the row that it refers to is replayed, now that all is there that is to come. Whose row had a letter
    /// under its former key has its large values there alone: these letters are left, and a change that names them mends it.
    fn mend(&mut self, source: &mut Client) {
        for _ in 0..MEND_MAX {
            self.replica.settle();
            while self.replay() {}
            if self.replica.letters_open() == 0 {
                return;
            }
            for table in 0..tree::TABLES {
                source.batch_execute(&format!("UPDATE {} SET body = body || '.'", tree::name(table))).expect("named");
            }
        }
        panic!("letters are left: {:#?}", self.replica.letters());
    }

    /// Whether some of the letters could be.
    fn replay(&self) -> bool {
        let before = self.replica.letters_open();
        if before == 0 {
            return false;
        }
        let arguments = ["letters", "replay", "--flow", "cdc"];
        Instance::start_with(&self.replica.settings, &arguments).wait(Duration::from_secs(300));
        let open = self.replica.letters_open();
        println!("{open} of {before} letters are left");
        open > 0 && open < before
    }

    /// What source and target have not in common.
    fn differences(&self) -> Vec<String> {
        let of_table = |table: u64| {
            let families = tree::families(table);
            self.replica.differences(&tree::name(table), &self.mode.read(families), &self.mode.lost(families))
        };
        let letters = self.replica.letters().into_iter().map(|letter| format!("letter: {letter}"));
        let found = (0..tree::TABLES).flat_map(of_table).chain(letters);
        found.map(|line| format!("{}, keys {:?}: {line}", self.mode.name, self.keys)).collect()
    }
}

struct World {
    worker: Connect,
    source: Client,
    course: tree::Course,
    followers: Vec<Follower>,
    /// Of each follower two instances.
    pairs: Vec<(Settings, Pair)>,
    kills: u64,
}

impl World {
    fn start(modes: &[&'static Mode], is_looked: bool, seed: u64) -> World {
        let worker = Connect::start("workload");
        let mut source = connect(&worker.url);
        source.batch_execute(kinds::SETUP).expect("types");
        for table in 0..tree::TABLES {
            source.batch_execute(&tree::create_source(table)).expect("a table");
        }
        let truncates = modes.iter().all(|mode| !mode.is_flat);
        let course = tree::Course { random: Random(seed), truncates, is_before: false };
        let mut followers = Vec::new();
        for mode in modes {
            let keys = match mode.target {
                _ if is_looked => Keys::Looked,
                Target::Tables => Keys::Left,
                _ => Keys::Absent,
            };
            followers.push(Follower::new(&worker, mode, keys));
        }
        let mut world = World { worker, source, course, followers, pairs: Vec::new(), kills: 0 };
        world.start_all();
        world
    }

    fn start_all(&mut self) {
        let pair = |settings: Settings| (settings.clone(), [start(&settings), start(&settings)]);
        self.pairs = self.followers.iter().map(|follower| pair(follower.replica.settings.clone())).collect();
    }

    fn put(&self) {
        for Follower { mode, replica, .. } in &self.followers {
            let options = [OPTIONS, &mode.options()].concat();
            let configuration = self.worker.configuration(&replica.prefix, "public\\..*", &options);
            self.worker.put(&replica.prefix, &configuration);
        }
    }

    fn wait_streaming(&self) {
        self.followers.iter().for_each(|follower| self.worker.wait_streaming(&follower.replica.prefix));
    }

    /// The snapshot has been read.
    fn refer(&mut self) {
        for follower in self.followers.iter_mut().filter(|follower| follower.keys == Keys::Looked) {
            follower.replica.settle();
            follower.refer();
        }
    }

    /// In stretches, between which everybody catches up: who is killed every two seconds hardly gets anywhere.
    fn change(&mut self, changes: u64) {
        let mut left = changes;
        while left > 0 {
            let stretch = left.min(STRETCH);
            self.while_killing(|world| world.course.change(&mut world.source, stretch));
            left -= stretch;
            self.settle();
        }
    }

    fn while_killing(&mut self, work: impl FnOnce(&mut World)) {
        let mut pairs = std::mem::take(&mut self.pairs);
        let (is_over, random) = (AtomicBool::new(false), Random(self.course.random.next()));
        self.kills += std::thread::scope(|scope| {
            let killing = scope.spawn(|| kill_until(&is_over, &mut pairs, random));
            let over = Over(&is_over);
            work(self);
            drop(over);
            killing.join().expect("the killer")
        });
        self.pairs = pairs;
    }

    /// At the source.
    fn rows(&mut self) -> i64 {
        let tables = (0..tree::TABLES).map(|table| format!("(SELECT count(*) FROM {})", tree::name(table)));
        let sql = format!("SELECT {}", tables.collect::<Vec<_>>().join(" + "));
        self.source.query_one(&sql, &[]).expect("a count").get(0)
    }

    fn settle(&mut self) {
        for follower in self.followers.iter_mut().filter(|follower| follower.keys == Keys::Looked) {
            follower.mend(&mut self.source);
        }
        self.followers.iter_mut().for_each(|follower| follower.replica.settle());
    }

    fn assert_equal(&self) {
        let found: Vec<String> = self.followers.iter().flat_map(Follower::differences).collect();
        if !found.is_empty() {
            loudly(&found.join("\n"));
        }
        assert!(found.is_empty(), "{} differences", found.len());
    }

    /// Each record once more, in groups that know nothing of what they have read.
    fn read_again(&mut self) {
        self.pairs.clear();
        for Follower { replica, .. } in &self.followers {
            connect(&replica.url).batch_execute("DELETE FROM sluicegate_ledger").expect("forgotten");
        }
        self.start_all();
        self.while_killing(|_| std::thread::sleep(KILL_EVERY * 3));
        self.settle();
    }
}

fn start(settings: &Settings) -> Instance {
    Instance::start_with(settings, &["run", "--flow", "cdc"])
}

/// Again and again somebody is killed, and started.
fn kill_until(is_over: &AtomicBool, pairs: &mut [(Settings, Pair)], mut random: Random) -> u64 {
    let mut kills = 0;
    while !is_over.load(Ordering::SeqCst) {
        std::thread::sleep(KILL_EVERY);
        let (first, count) = (random.below(pairs.len() as u64) as usize, pairs.len());
        for step in 0..KILLED.min(count) {
            let (settings, pair) = &mut pairs[(first + step) % count];
            let index = random.below(2) as usize;
            pair[index].signal("KILL");
            pair[index] = start(settings);
            kills += 1;
        }
    }
    kills
}

/// Says so however the work ends: a panic would wait for the killer for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The whole of it, for some modes.
fn prove(modes: &[&'static Mode], is_looked: bool) {
    if modes.is_empty() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let changes: u64 = setting("SLUICEGATE_CDC_CHANGES", 2_000);
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed: u64 = setting("SLUICEGATE_CDC_SEED", now_ns % 1_000_000);
    let names = modes.iter().map(|mode| mode.name).collect::<Vec<_>>().join(",");
    println!("SLUICEGATE_CDC_CHANGES={changes} SLUICEGATE_CDC_SEED={seed} SLUICEGATE_CDC_MODES={names}");
    let begin = Instant::now();
    let mut world = World::start(modes, is_looked, seed);
    world.course.fill(&mut world.source, changes / 10);
    world.put();
    world.while_killing(|world| world.wait_streaming());
    world.refer();
    world.change(changes - changes / 10);
    let sent: i64 = world.followers.iter().map(|follower| follower.replica.sent()).sum();
    println!("{names}: {sent} records sent, {} kills, {:.0?}", world.kills, begin.elapsed());
    world.assert_equal();
    assert!(world.rows() > 100, "something is left to be compared");
    world.read_again();
    world.assert_equal();
    // And it still follows.
    world.course.change(&mut world.source, 500);
    world.settle();
    world.assert_equal();
    println!("{names}: all of it again, {} kills, {:.0?}", world.kills, begin.elapsed());
}

#[test]
fn source_and_target_are_equal_after_a_random_workload_with_kills_and_after_all_of_it_again() {
    prove(&modes(false), false);
}

#[test]
fn so_they_are_where_rows_are_flattened() {
    prove(&modes(true), false);
}

/// `SLUICEGATE_CDC_MODES=keys`: most of its time goes by with letters.
#[test]
fn so_they_are_where_the_target_looks_at_its_keys_and_letters_are_replayed() {
    if is_asked(KEYS, false) {
        let precise = modes::ALL.iter().filter(|mode| mode.name == "precise").collect::<Vec<_>>();
        prove(&precise, true);
    }
}
