//! The events flow: made-up messages of a full topic, each with an id, into the flow's own table.
//!
//! - `raw copy`: the rows that the flow made of them, as they lie in the table, over as many connections as there are
//!   writers. Nothing is read, decided or compared.
//! - `sluicegate`: the flow as it comes, which processes each message id once. `no dedupe`: ids are not compared.
//! - `1% fail`: one message of a hundred fails for good, and becomes a letter and a message of the DLQ.
//!
//! What a failure costs the others is seen at a steady rate: `latency`, with and without.

use std::collections::BTreeMap;
use std::io::Read;

use sluicegate::flow;
use sluicegate::kafka::Producer;

use crate::contenders::{BATCH_ROWS, copy_all, in_turn};
use crate::latency::{self, Offer};
use crate::meter::Meter;
use crate::program::{Program, run_to_end};
use crate::results::{Latency, Load, Run};
use crate::stage::{Settings, Stage};

/// As the flow has by default.
pub const PARTITIONS: u32 = 3;
pub const WRITERS: usize = 5;
/// One payload, about.
pub const EVENT_BYTES: usize = 160;
/// Far below what the machine does, so that it is not the queue of a full one that is measured.
const STEADY_PER_S: f64 = 20_000.0;
const STEADY_S: f64 = 15.0;
const TABLE: &str = "events";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    RawCopy,
    Sluicegate,
    NoDedupe,
    Failing,
}

impl Contender {
    pub const ALL: [Contender; 4] = {
        use Contender::*;
        [RawCopy, Sluicegate, NoDedupe, Failing]
    };

    pub fn name(self) -> &'static str {
        match self {
            Contender::RawCopy => "raw copy",
            Contender::Sluicegate => "sluicegate",
            Contender::NoDedupe => "no dedupe",
            Contender::Failing => "1% fail",
        }
    }
}

/// A made-up event of the flow, and an id in front of all else: the producer of the bench sends no headers.
fn payload(number: u64, out: &mut Vec<u8>) {
    // In no order, as random ids are.
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    out.extend_from_slice(format!(r#"{{"id":"{scattered:016x}{number:016x}","#).as_bytes());
    let from = out.len();
    flow::sample("events", None).expect("samples of events").payload(number, out);
    assert_eq!(out.remove(from), b'{', "a sample is an object");
}

fn settings(stage: &Stage, contender: Contender, topic: &str) -> Settings {
    let failing = r#"[{"kind":"fail","permanent_percent":1},{"kind":"table"}]"#;
    let mut settings = Settings::from([
        ("KAFKA_BROKERS", stage.brokers.clone()),
        ("DB_URL", stage.url.clone()),
        ("SLUICEGATE_FLOWS_STATUS_ENABLED", "false".to_owned()),
        ("SLUICEGATE_FLOWS_EVENTS_ENABLED", "true".to_owned()),
        ("SLUICEGATE_FLOWS_EVENTS_TOPIC", topic.to_owned()),
        ("SLUICEGATE_FLOWS_EVENTS_GROUP_ID", stage.new_name()),
        ("SLUICEGATE_FLOWS_EVENTS_PARTITIONS", PARTITIONS.to_string()),
        ("SLUICEGATE_FLOWS_EVENTS_WRITERS", WRITERS.to_string()),
        ("SLUICEGATE_FLOWS_EVENTS_RETRY_TOPIC_PREFIX", format!("{topic}-retry")),
        ("SLUICEGATE_FLOWS_EVENTS_DLQ_TOPIC", format!("{topic}-dlq")),
        ("SLUICEGATE_FLOWS_EVENTS_MESSAGE_ID", "/id".to_owned()),
        // More than there are, so that it is never the oldest ones that go.
        ("SLUICEGATE_FLOWS_EVENTS_DEDUPE_IDS_MAX", "10000000".to_owned()),
        ("SLUICEGATE_FLOWS_EVENTS_DEDUPE", (contender != Contender::NoDedupe).to_string()),
        ("LOG_LEVEL", "off".to_owned()),
    ]);
    if contender == Contender::Failing {
        settings.insert("SLUICEGATE_FLOWS_EVENTS_HANDLERS", failing.to_owned());
    }
    settings
}

/// A topic, made by the program itself together with its tables, and the topics of its retries.
fn new_topic(stage: &Stage) -> String {
    let topic = stage.new_name();
    run_to_end(&settings(stage, Contender::Sluicegate, &topic), &["init"]);
    topic
}

/// No rows, no ids, no letters, no ledger, and a checkpoint behind all that.
fn clean(stage: &Stage) {
    let mut client = stage.connect();
    let tables = format!("{TABLE}, sluicegate_seen, sluicegate_letters, sluicegate_outbox, sluicegate_ledger");
    client.batch_execute(&format!("TRUNCATE {tables}")).expect("empty tables");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
}

pub fn rows(stage: &Stage, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    stage.connect().query_one(&sql, &[]).expect("a count").get::<_, i64>(0) as u64
}

struct Ring<'a> {
    stage: &'a Stage,
    load: &'a Load,
    topic: String,
    /// What the flow has put into its table, each for one COPY.
    encoded: Vec<Vec<u8>>,
}

pub fn measure(stage: &Stage, load: &Load, rounds: u64) -> Vec<Run> {
    println!("{} events, {PARTITIONS} partitions, {WRITERS} writers, {rounds} rounds", load.rows);
    let mut ring = Ring { stage, load, topic: filled_topic(stage, load), encoded: Vec::new() };
    // Not counted: the broker compiles what it has not run yet, and files grow for the first time.
    ring.run(Contender::Sluicegate, 0);
    ring.encoded = encoded(stage, TABLE);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for contender in in_turn(&Contender::ALL, round) {
            let run = ring.run(contender, round);
            println!("round {round}  {:<11} {:>8.0} events/s", run.contender, run.rows_per_s);
            runs.push(run);
        }
    }
    runs
}

/// From produced to visible at a steady rate, without failures and with them, in turn.
pub fn steady(stage: &Stage, rounds: u64) -> Vec<(String, Latency)> {
    let mut found = Vec::new();
    for round in 1..=rounds {
        for contender in in_turn(&[Contender::Sluicegate, Contender::Failing], round) {
            let topic = new_topic(stage);
            clean(stage);
            let settings = settings(stage, contender, &topic);
            let offer =
                Offer { flow: "events", topic: &topic, partitions: PARTITIONS, settings: &settings, payload: &payload };
            let latency = latency::measure(stage, &offer, STEADY_PER_S, STEADY_S);
            println!(
                "round {round}  {:<11} p50 {:.0} ms, p99 {:.0} ms",
                contender.name(),
                latency.p50_ms,
                latency.p99_ms
            );
            found.push((contender.name().to_owned(), latency));
        }
    }
    found
}

fn filled_topic(stage: &Stage, load: &Load) -> String {
    let topic = new_topic(stage);
    let producer = Producer::new(&stage.brokers, &BTreeMap::new(), &topic).expect("a producer");
    let mut json = Vec::new();
    for number in 0..load.rows {
        json.clear();
        payload(number, &mut json);
        let partition = (number % u64::from(PARTITIONS)) as i32;
        producer.send(Some(partition), None, &json).expect("the broker takes events");
    }
    let (sent, fault) = producer.finish();
    assert_eq!((sent.delivered, fault), (load.rows, None), "every event is in the topic");
    topic
}

/// The rows of the table, as many in a COPY as the program joins into a transaction.
pub fn encoded(stage: &Stage, table: &str) -> Vec<Vec<u8>> {
    let mut client = stage.connect();
    let mut reader = client.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)")).expect("a copy");
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("all of it");
    // Signature, flags, and the length of an extension.
    const HEADER_BYTES: usize = 19;
    let number = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (mut at, mut buffers, mut in_buffer) = (HEADER_BYTES, vec![Vec::new()], 0);
    loop {
        let (begin, columns) = (at, i16::from_be_bytes([bytes[at], bytes[at + 1]]));
        if columns < 0 {
            return buffers;
        }
        at += 2;
        for _ in 0..columns {
            at += 4 + number(at).max(0) as usize;
        }
        if in_buffer == BATCH_ROWS {
            buffers.push(Vec::new());
            in_buffer = 0;
        }
        buffers.last_mut().expect("a buffer").extend_from_slice(&bytes[begin..at]);
        in_buffer += 1;
    }
}

impl Ring<'_> {
    fn run(&self, contender: Contender, round: u64) -> Run {
        clean(self.stage);
        let meter = Meter::start(self.stage);
        let mut run = Run { contender: contender.name().to_owned(), round, rows: self.load.rows, ..Run::default() };
        let is_in_bench = contender == Contender::RawCopy;
        match is_in_bench {
            true => run.rows_per_s = self.raw_copy(),
            false => self.sluicegate(contender, &mut run),
        }
        meter.finish_run(&mut run, is_in_bench);
        let (written, letters) = (rows(self.stage, TABLE), rows(self.stage, "sluicegate_letters"));
        assert_eq!(written + letters, self.load.rows, "{}: every event is a row or a letter", contender.name());
        assert_eq!(letters > 0, contender == Contender::Failing, "{letters} letters of {}", contender.name());
        run
    }

    fn raw_copy(&self) -> f64 {
        let sql = format!("COPY {TABLE} FROM STDIN (FORMAT binary)");
        let buffers: Vec<&[u8]> = self.encoded.iter().map(Vec::as_slice).collect();
        self.load.rows as f64 / copy_all(self.stage, WRITERS, &sql, &buffers).as_secs_f64()
    }

    fn sluicegate(&self, contender: Contender, run: &mut Run) {
        let program = Program::start(&settings(self.stage, contender, &self.topic));
        run.rows_per_s = program.await_applied(self.load.rows, self.stage.applied(&self.topic));
        program.finish_run(run);
    }
}
