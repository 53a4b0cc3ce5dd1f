//! How rate, CPU and memory change with the load: one thing varies at a time, the rest stays as in the rounds. Each
//! point is the program and raw COPY, one after the other; the rounds go over all points, so that a slow minute of the
//! machine hits all of them alike.

use crate::contenders::{BATCH_ROWS, Contender, Ring};
use crate::latency::{self, MEASURED_S};
use crate::records::{SMALL_BYTES, encoded};
use crate::results::{Growth, GrowthLatency, Load};
use crate::stage::Stage;

pub const PARTITIONS: &str = "partitions";
pub const WRITERS: &str = "writers";
pub const BATCH: &str = "rows per transaction, at most";
pub const RECORD: &str = "bytes per record";
pub const ROWS: &str = "rows";
/// All of them, in the order of reports and pictures.
pub const CURVES: [&str; 5] = [PARTITIONS, WRITERS, BATCH, RECORD, ROWS];

const MANY_ROWS: u64 = 10_000_000;
/// Large records come in smaller numbers: this much payload is enough.
const PAYLOAD_BYTES_MAX: u64 = 400_000_000;

/// Of the reached rate.
const HALF_PERCENT: u32 = 50;

/// What varies, its value, and the load.
type Point = (&'static str, u64, Load);

fn points(base: &Load) -> Vec<Point> {
    let mut points = Vec::new();
    let mut add = |over, at: u64, load: Load| points.push((over, at, load));
    for at in [1, 2, 5, 20, 50] {
        add(PARTITIONS, u64::from(at), Load { partitions: at, ..base.clone() });
    }
    for at in [1, 2, 4, 8] {
        add(WRITERS, at as u64, Load { writers: at, ..base.clone() });
    }
    for at in [100, 1_000, 10_000, 50_000] {
        add(BATCH, at as u64, Load { batch_rows: Some(at), ..base.clone() });
    }
    for at in [SMALL_BYTES, 500, 5_000] {
        let rows = base.rows.min(PAYLOAD_BYTES_MAX / at as u64);
        add(RECORD, at as u64, Load { record_bytes: at, rows, ..base.clone() });
    }
    for at in [base.rows, MANY_ROWS] {
        add(ROWS, at, Load { rows: at, ..base.clone() });
    }
    points
}

pub fn measure(stage: &Stage, base: &Load, rounds: u64) -> Vec<Growth> {
    let points = points(base);
    let topics = Topics::fill(stage, base, &points);
    let mut grown = Vec::new();
    for round in 0..=rounds {
        // Round 0 is a warm-up, of the first point alone.
        let points = if round == 0 { &points[..1] } else { &points[..] };
        for (over, at, load) in points {
            let encoded = encoded(load.rows, load.record_bytes, load.batch_rows.unwrap_or(BATCH_ROWS));
            let ring = Ring { stage, load, topic: topics.of(load), encoded: &encoded, peers: None };
            let mut pair = [Contender::RawCopy, Contender::Sluicegate];
            if round % 2 == 0 {
                pair.reverse();
            }
            for contender in pair {
                let run = ring.run(contender, round);
                println!("round {round}  {over} {at:<9} {:<11} {:>9.0} rows/s", run.contender, run.rows_per_s);
                if round == 0 {
                    continue;
                }
                grown.push(Growth { over: (*over).to_owned(), at: *at, load: load.clone(), run });
            }
        }
    }
    grown
}

/// From produced to visible, at half of the rate that the program reaches from a full topic of this kind. Over rows, all
/// of them come at that rate.
pub fn latency(stage: &Stage, base: &Load) -> Vec<GrowthLatency> {
    let points = points(base);
    // A point of many rows is one of many seconds; what it reaches is known from fewer.
    let rate_of = |load: &Load| Load { rows: load.rows.min(base.rows), ..load.clone() };
    let probed: Vec<Point> = points.iter().map(|(over, at, load)| (*over, *at, rate_of(load))).collect();
    let topics = Topics::fill(stage, base, &probed);
    let measured = |(over, at, load): &Point| {
        let probe = rate_of(load);
        let ring = Ring { stage, load: &probe, topic: topics.of(&probe), encoded: &[], peers: None };
        let reached_per_s = ring.run(Contender::Sluicegate, 0).rows_per_s;
        let rate = reached_per_s * f64::from(HALF_PERCENT) / 100.0;
        let measured_s = if *over == ROWS { MEASURED_S.max(load.rows as f64 / rate) } else { MEASURED_S };
        println!("latency over {over} {at}: {HALF_PERCENT}% of {reached_per_s:.0} records/s for {measured_s:.0} s");
        let latency = latency::at_percent(stage, load, HALF_PERCENT, reached_per_s, measured_s);
        GrowthLatency { over: (*over).to_owned(), at: *at, load: load.clone(), latency }
    };
    points.iter().map(measured).collect()
}

/// Topics that are filled once. Points that differ in the program's settings only read the same one.
struct Topics<'a> {
    base: &'a Load,
    filled: Vec<(Load, String)>,
}

impl<'a> Topics<'a> {
    fn fill(stage: &Stage, base: &'a Load, points: &[Point]) -> Topics<'a> {
        let mut topics = Topics { base, filled: Vec::new() };
        for (_, _, load) in points {
            let load = topics.filling(load);
            if !topics.filled.iter().any(|(filled, _)| *filled == load) {
                println!(
                    "filling a topic: {} records of {} B, {} partitions",
                    load.rows, load.record_bytes, load.partitions
                );
                let topic = stage.filled_topic(&load);
                topics.filled.push((load, topic));
            }
        }
        topics
    }

    fn of(&self, load: &Load) -> &str {
        let filling = self.filling(load);
        let found = self.filled.iter().find(|(filled, _)| *filled == filling);
        &found.expect("it was filled").1
    }

    /// What a topic is told apart by.
    fn filling(&self, load: &Load) -> Load {
        Load { writers: self.base.writers, batch_rows: self.base.batch_rows, ..load.clone() }
    }
}
