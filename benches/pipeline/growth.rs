//! How rate, CPU and memory change with the load: one thing varies at a time, the rest stays as in the rounds. Each
//! point is the program and raw COPY, one after the other; the rounds go over all points, so that a slow minute of the
//! machine hits all of them alike.

use crate::contenders::{BATCH_ROWS, Contender, Ring};
use crate::records::{SMALL_BYTES, encoded};
use crate::results::{Growth, Load};
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

fn points(base: &Load) -> Vec<(&'static str, u64, Load)> {
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
    // Points that differ in the program's settings only read the same topic.
    let mut topics: Vec<(Load, String)> = Vec::new();
    for (_, _, load) in &points {
        let load = filling(load, base);
        if !topics.iter().any(|(filled, _)| *filled == load) {
            println!(
                "filling a topic: {} records of {} B, {} partitions",
                load.rows, load.record_bytes, load.partitions
            );
            let topic = stage.filled_topic(&load);
            topics.push((load, topic));
        }
    }
    let mut grown = Vec::new();
    for round in 0..=rounds {
        // Round 0 is a warm-up, of the first point alone.
        let points = if round == 0 { &points[..1] } else { &points[..] };
        for (over, at, load) in points {
            let (_, topic) = topics.iter().find(|(filled, _)| *filled == filling(load, base)).expect("it was filled");
            let encoded = encoded(load.rows, load.record_bytes, load.batch_rows.unwrap_or(BATCH_ROWS));
            let ring = Ring { stage, load, topic, encoded: &encoded, peers: None };
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

/// What a topic is told apart by.
fn filling(load: &Load, base: &Load) -> Load {
    Load { writers: base.writers, batch_rows: base.batch_rows, ..load.clone() }
}
