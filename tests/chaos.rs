//! The crash matrix: the real binary, killed and frozen at each row of the crash table, beside other instances
//! that work. Built with the feature `failpoints`; `make chaos ROUNDS=1000 SEED=1`.
//!
//! A seed decides every round. Each flow has a lane, with topics and a database of its own, and the lanes run beside each
//! other: round n is the business of lane n modulo five, and goes on where the lane's last round ended. The checkers know
//! what was produced and what is in tables and topics, and nothing that the program says of itself.

#![allow(clippy::disallowed_methods)] // the rounds poll what they cannot be told of

#[path = "chaos/cdc.rs"]
mod cdc;
#[path = "chaos/events.rs"]
mod events;
#[path = "chaos/lane.rs"]
mod lane;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/orders.rs"]
mod orders;
#[path = "chaos/round.rs"]
mod round;
#[path = "chaos/status.rs"]
mod status;
mod support;
#[path = "chaos/tickets.rs"]
mod tickets;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::lane::Lane;
use self::load::Load;
use self::round::Round;
use support::random::Random;
use support::setting;

/// The load of a flow, in a database of its own.
type MakeLoad = fn(&str) -> Box<dyn Load>;
const LOADS: [MakeLoad; 5] =
    [status::Status::load, orders::Orders::load, events::Events::load, tickets::Tickets::load, cdc::Cdc::load];

/// From so many rounds on each flow has to reach each of its points.
const ROUNDS_FOR_ALL: usize = 400;

/// What the lanes tell of.
#[derive(Default)]
struct Report {
    /// How often a point was reached, by flow, point and action.
    reached: Mutex<BTreeMap<(&'static str, &'static str, &'static str), u64>>,
    /// What went wrong first.
    failed: Mutex<Option<String>>,
    is_over: AtomicBool,
}

/// A lane that panics ends the others.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn run_lane(index: usize, rounds: usize, seed: u64, report: &Report) {
    let _stop = Stop(&report.is_over);
    let mut lane = Lane::new(LOADS[index], seed ^ (index as u64) << 32);
    let (flow, points) = (lane.load.flow(), lane.load.points());
    for number in (index..rounds).step_by(LOADS.len()) {
        if report.is_over.load(Ordering::Relaxed) {
            return;
        }
        // One after the other, so that few rounds come by all of them.
        let point = points[(seed as usize % points.len() + number / LOADS.len()) % points.len()];
        let round = Round::draw(&mut Random(seed.wrapping_mul(1_000_003).wrapping_add(number as u64)), point);
        let began = Instant::now();
        let result = lane.run(&round);
        println!("round {number}: {flow} {round:?} {result:?} {:.1} s", began.elapsed().as_secs_f64());
        match result {
            Ok(true) => {
                let key = (flow, round.point, round.action);
                *report.reached.lock().expect("no panic before").entry(key).or_default() += 1;
            }
            Ok(false) => {}
            Err(what) => {
                let text = format!("seed {seed}, round {number}, {flow}, {round:?}: {what}");
                report.failed.lock().expect("no panic before").get_or_insert(text);
                report.is_over.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn the_crash_matrix() {
    let rounds: usize = setting("SLUICEGATE_CHAOS_ROUNDS", 50);
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed = setting("SLUICEGATE_CHAOS_SEED", now_ns % 1_000_000);
    println!("{rounds} rounds from seed {seed}: make chaos ROUNDS={rounds} SEED={seed}");
    let report = Report::default();
    std::thread::scope(|scope| {
        for index in 0..LOADS.len().min(rounds) {
            let report = &report;
            scope.spawn(move || run_lane(index, rounds, seed, report));
        }
    });
    if let Some(failed) = report.failed.into_inner().expect("no panic before") {
        panic!("{failed}");
    }
    let reached = report.reached.into_inner().expect("no panic before");
    println!("0 lost, 0 doubled in {rounds} rounds; fail points reached:");
    for ((flow, point, action), times) in &reached {
        println!("{flow:8} {point:24} {action:5} {times:5}");
    }
    // A fail point that is never reached proves nothing.
    if rounds >= ROUNDS_FOR_ALL {
        for load in LOADS {
            let load = load("");
            for point in load.points() {
                let is_it = |(flow, at, _): &&(&str, &str, &str)| (*flow, *at) == (load.flow(), point);
                assert!(reached.keys().any(|key| is_it(&key)), "{} never came to {point}", load.flow());
            }
        }
    }
    assert!(
        reached.values().sum::<u64>() * 2 >= rounds as u64,
        "fewer than half of the rounds reached their fail point"
    );
}
