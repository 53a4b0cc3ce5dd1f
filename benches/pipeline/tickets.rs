//! The tickets flow: made-up tickets of a full topic, keyed by their orders, each checked to be the next one of its order.
//!
//! - `raw copy`: the rows that the flow made of them, as they lie in the table, over as many connections as there are
//!   writers. Nothing is read, decided or checked.
//! - `sluicegate`: the flow as it comes.
//!
//! And what an order sees: from produced to visible at 100 tickets a second for a minute, out of `sluicegate produce`. With
//! sixty times as many a second that minute is an hour: what the program holds in memory must not grow by it.

use std::collections::BTreeMap;

use sluicegate::flow::{self, Sample};
use sluicegate::kafka::Producer;

use crate::contenders::{copy_all, in_turn};
use crate::events::{encoded, rows};
use crate::meter::Meter;
use crate::produced::{self, Supply};
use crate::program::{Program, run_to_end};
use crate::results::{Latency, Load, Memory, Run, thirds};
use crate::stage::{Settings, Stage};

/// As the flow has by default.
pub const PARTITIONS: u32 = 12;
pub const WRITERS: usize = 4;
/// One payload, about.
pub const TICKET_BYTES: usize = 190;
/// Orders that are under way at once: so many for each partition.
const KEYS: u64 = 100 * PARTITIONS as u64;
const STEADY_PER_S: f64 = 100.0;
const STEADY_ROUNDS_MAX: u64 = 3;
const HOUR_FACTOR: f64 = 60.0;
const TABLE: &str = "tickets";

pub const RAW_COPY: &str = "raw copy";
pub const SLUICEGATE: &str = "sluicegate";

fn sample() -> Box<dyn Sample> {
    flow::sample("tickets", Some(KEYS)).expect("samples of tickets")
}

fn settings(stage: &Stage, topic: &str) -> Settings {
    Settings::from([
        ("KAFKA_BROKERS", stage.brokers.clone()),
        ("DB_URL", stage.url.clone()),
        ("SLUICEGATE_FLOWS_STATUS_ENABLED", "false".to_owned()),
        ("SLUICEGATE_FLOWS_TICKETS_ENABLED", "true".to_owned()),
        ("SLUICEGATE_FLOWS_TICKETS_TOPIC", topic.to_owned()),
        ("SLUICEGATE_FLOWS_TICKETS_GROUP_ID", stage.new_name()),
        ("SLUICEGATE_FLOWS_TICKETS_PARTITIONS", PARTITIONS.to_string()),
        ("SLUICEGATE_FLOWS_TICKETS_WRITERS", WRITERS.to_string()),
        ("LOG_LEVEL", "off".to_owned()),
    ])
}

/// A topic, made by the program itself together with its tables.
fn new_topic(stage: &Stage) -> String {
    let topic = stage.new_name();
    run_to_end(&settings(stage, &topic), &["init"]);
    topic
}

/// No rows, no orders, no letters, no ledger, and a checkpoint behind all that.
fn clean(stage: &Stage) {
    let tables = format!("{TABLE}, ticket_orders, sluicegate_letters, sluicegate_ledger");
    let mut client = stage.connect();
    client.batch_execute(&format!("TRUNCATE {tables}")).expect("empty tables");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
}

/// Every ticket is a row, and every order stands where its rows do.
fn check(stage: &Stage, count: u64) {
    assert_eq!(rows(stage, TABLE), count, "every ticket is a row");
    let astray = "SELECT count(*) FROM ticket_orders o
        FULL JOIN (SELECT order_id, count(*), max(sequence) AS sequence FROM tickets GROUP BY 1) AS t USING (order_id)
        WHERE (t.count, t.sequence) IS DISTINCT FROM (o.sequence, o.sequence)";
    let astray: i64 = stage.connect().query_one(astray, &[]).expect("a count").get(0);
    assert_eq!(astray, 0, "orders that are not whole");
}

pub fn measure(stage: &Stage, load: &Load, rounds: u64) -> Vec<Run> {
    println!("{} tickets, {PARTITIONS} partitions, {WRITERS} writers, {rounds} rounds", load.rows);
    let topic = filled_topic(stage, load);
    // Not counted: the broker compiles what it has not run yet, and files grow for the first time.
    run(stage, load, &topic, SLUICEGATE, 0, &[]);
    let encoded = encoded(stage, TABLE);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for contender in in_turn(&[RAW_COPY, SLUICEGATE], round) {
            let run = run(stage, load, &topic, contender, round, &encoded);
            println!("round {round}  {:<11} {:>8.0} tickets/s", run.contender, run.rows_per_s);
            runs.push(run);
        }
    }
    runs
}

fn run(stage: &Stage, load: &Load, topic: &str, contender: &str, round: u64, encoded: &[Vec<u8>]) -> Run {
    clean(stage);
    let meter = Meter::start(stage);
    let mut run = Run { contender: contender.to_owned(), round, rows: load.rows, ..Run::default() };
    let is_in_bench = contender == RAW_COPY;
    if is_in_bench {
        let sql = format!("COPY {TABLE} FROM STDIN (FORMAT binary)");
        let buffers: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        run.rows_per_s = load.rows as f64 / copy_all(stage, WRITERS, &sql, &buffers).as_secs_f64();
    } else {
        let program = Program::start(&settings(stage, topic));
        run.rows_per_s = program.await_applied(load.rows, stage.applied(topic));
        program.finish_run(&mut run);
    }
    meter.finish_run(&mut run, is_in_bench);
    if !is_in_bench {
        check(stage, load.rows);
    }
    run
}

/// From produced to visible at a steady rate, by the real producer. More rounds than this say nothing new.
pub fn steady(stage: &Stage, rounds: u64, seconds: u64) -> Vec<Latency> {
    let round = |round: u64| {
        let (latency, _) = produced(stage, STEADY_PER_S, seconds);
        println!("round {round}  {STEADY_PER_S}/s  p50 {:.0} ms, p99 {:.0} ms", latency.p50_ms, latency.p99_ms);
        latency
    };
    (1..=rounds.min(STEADY_ROUNDS_MAX)).map(round).collect()
}

/// As many tickets as that is in an hour, in so many seconds for each of its minutes: what memory does meanwhile.
pub fn hour(stage: &Stage, seconds: u64) -> (Latency, Memory) {
    let (latency, memory) = produced(stage, STEADY_PER_S * HOUR_FACTOR, seconds);
    if let Some((first_mb, last_mb)) = thirds(&memory.consumer_mb) {
        println!("{:.0}/s  {first_mb:.1} MB in the first third, {last_mb:.1} MB in the last", latency.records_per_s);
    }
    (latency, memory)
}

fn produced(stage: &Stage, per_s: f64, seconds: u64) -> (Latency, Memory) {
    let topic = new_topic(stage);
    clean(stage);
    let (settings, seconds) = (settings(stage, &topic), seconds as f64);
    let supply = Supply {
        flow: "tickets",
        topic: &topic,
        partitions: PARTITIONS,
        settings: &settings,
        keys: KEYS,
        per_s,
        seconds,
    };
    let (latency, memory) = produced::measure(stage, &supply);
    check(stage, latency.sent);
    (latency, memory)
}

fn filled_topic(stage: &Stage, load: &Load) -> String {
    let (topic, sample) = (new_topic(stage), sample());
    let producer = Producer::new(&stage.brokers, &BTreeMap::new(), &topic).expect("a producer");
    let (mut json, mut bytes) = (Vec::new(), 0);
    for number in 0..load.rows {
        json.clear();
        sample.payload(number, &mut json);
        bytes += json.len();
        let key = sample.key(number).expect("an order");
        producer.send(None, Some(key.as_bytes()), &json).expect("the broker takes tickets");
    }
    let (sent, fault) = producer.finish();
    assert_eq!((sent.delivered, fault), (load.rows, None), "every ticket is in the topic");
    let mean_bytes = bytes / load.rows as usize;
    assert!(mean_bytes.abs_diff(TICKET_BYTES) * 20 <= TICKET_BYTES, "tickets have {mean_bytes} B");
    topic
}
