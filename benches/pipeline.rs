//! The end-to-end bench: the status flow, exactly once, against the raw limit of COPY on the same server.
//!
//! `make bench` starts Kafka and PostgreSQL and runs this. It fills the topic once and then, in each round,
//! runs each contender on the same rows one after the other, in an order that turns from round to round:
//!
//! - `raw copy`: the same rows, encoded beforehand, binary COPY over as many connections as there are writers.
//!   Unfair to us: it has no Kafka, decodes nothing and keeps no offsets.
//! - `sluicegate`: the real binary, its ledger on.
//! - `no ledger`: the same with `exactly_once: false`, to see what the guarantee costs.
//!
//! Only ratios within a run mean anything on a shared machine. Options: `--rows N --rounds N --partitions N
//! --writers N --batch-rows N`.

#![allow(clippy::disallowed_methods)] // the bench polls a process from outside

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sluicegate::engine::Rows;
use sluicegate::flow::{self, Flow, Status};
use sluicegate::pg::copy::{CopyRows, HEADER, TRAILER};
use sluicegate::record::{NoHeaders, Partition, Record};

const TABLE: &str = "processed_seed_status";
const RAW_BATCH_ROWS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);

struct Options {
    rows: u64,
    rounds: usize,
    partitions: u32,
    writers: usize,
    batch_rows: Option<u64>,
}

/// What one run of one contender showed.
struct Run {
    rows_per_s: f64,
    cpu_s_per_million: Option<f64>,
    memory_peak_mb: Option<f64>,
}

fn main() {
    let options = options();
    let (brokers, url) = (service("KAFKA_BROKERS"), service("DB_URL"));
    let topic = format!("bench-{}", std::process::id());
    println!(
        "{} rows, {} partitions, {} writers, {} rounds",
        options.rows, options.partitions, options.writers, options.rounds
    );
    println!("{}", machine());
    let settings = |group: &str| {
        let mut settings = BTreeMap::from([
            ("KAFKA_BROKERS", brokers.clone()),
            ("DB_URL", url.clone()),
            ("KAFKA_TOPIC", topic.clone()),
            ("KAFKA_GROUP_ID", group.to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_PARTITIONS", options.partitions.to_string()),
            ("SLUICEGATE_FLOWS_STATUS_WRITERS", options.writers.to_string()),
            ("LOG_LEVEL", "warn".to_owned()),
        ]);
        if let Some(rows) = options.batch_rows {
            settings.insert("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", rows.to_string());
        }
        settings
    };
    run_to_end(&settings("bench"), &["init"]);
    run_to_end(&settings("bench"), &["produce", "status", "--count", &options.rows.to_string()]);

    let encoded = encode(options.rows);
    let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    let contenders = ["raw copy", "sluicegate", "no ledger"];
    for round in 0..options.rounds {
        for turn in 0..contenders.len() {
            let name = contenders[(round + turn) % contenders.len()];
            clean(&url);
            let run = match name {
                "raw copy" => raw_copy(&url, &encoded, options.writers),
                _ => {
                    let mut settings = settings(&format!("bench-{}-{round}-{turn}", std::process::id()));
                    settings.insert("SLUICEGATE_FLOWS_STATUS_EXACTLY_ONCE", (name == "sluicegate").to_string());
                    pipeline(&settings, options.rows)
                }
            };
            assert_eq!(count(&url), options.rows, "{name} wrote every row once");
            println!("round {} {name:<11} {:>9.0} rows/s", round + 1, run.rows_per_s);
            runs.entry(name).or_default().push(run);
        }
    }
    report(&runs, &contenders);
}

fn report(runs: &BTreeMap<&str, Vec<Run>>, contenders: &[&str]) {
    println!(
        "\n{:<12} {:>10} {:>21} {:>9} {:>12} {:>9}",
        "median", "rows/s", "min .. max", "of raw", "CPU s/1M", "peak MB"
    );
    for name in contenders {
        let runs_of = &runs[name];
        let pick = |of: &dyn Fn(&Run) -> Option<f64>| runs_of.iter().filter_map(of).collect::<Vec<f64>>();
        let rates = pick(&|run| Some(run.rows_per_s));
        // Pair by pair within a round, then the median: the machine's speed drifts between rounds.
        let ratios: Vec<f64> =
            runs_of.iter().zip(&runs["raw copy"]).map(|(run, raw)| run.rows_per_s / raw.rows_per_s).collect();
        let (low, high) = rates.iter().fold((f64::MAX, 0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
        let mut line =
            format!("{name:<12} {:>10.0} {low:>9.0} .. {high:>8.0} {:>9.2}", median(&rates), median(&ratios));
        let (cpu, memory) = (pick(&|run| run.cpu_s_per_million), pick(&|run| run.memory_peak_mb));
        if !cpu.is_empty() {
            let _ = write!(line, " {:>12.2} {:>9.0}", median(&cpu), memory.iter().fold(0f64, |peak, mb| peak.max(*mb)));
        }
        println!("{line}");
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The rows that the flow makes of the sample records, in buffers of one COPY each.
fn encode(rows: u64) -> Vec<CopyRows> {
    let status = Status::new(TABLE, &[]).expect("the flow's own schema");
    let sample = flow::sample("status").expect("samples of status");
    let partition = Partition::new("bench", 0);
    let mut buffers = vec![CopyRows::default()];
    let mut payload = Vec::new();
    for number in 0..rows {
        payload.clear();
        sample.payload(number, &mut payload);
        if buffers.last().is_some_and(|rows| rows.len() == RAW_BATCH_ROWS) {
            buffers.push(CopyRows::default());
        }
        let record = Record {
            partition: &partition,
            offset: number as i64,
            timestamp_ms: None,
            key: None,
            payload: Some(&payload),
            headers: &NoHeaders,
        };
        status.decode(&record, buffers.last_mut().expect("a buffer")).expect("a sample decodes");
    }
    buffers
}

fn raw_copy(url: &str, encoded: &[CopyRows], connections: usize) -> Run {
    let sql = format!(
        "COPY {TABLE} (event_timestamp, response_message, status, seed_id, sub_scenario_id, scenario_id, script_id)
         FROM STDIN (FORMAT binary)"
    );
    let next = std::sync::atomic::AtomicUsize::new(0);
    let clients: Vec<postgres::Client> = (0..connections).map(|_| connect(url)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for mut client in clients {
            let (next, sql) = (&next, &sql);
            scope.spawn(move || {
                while let Some(rows) = encoded.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let mut copy = client.copy_in(sql.as_str()).expect("COPY starts");
                    for part in [HEADER, rows.as_bytes(), TRAILER] {
                        copy.write_all(part).expect("COPY takes rows");
                    }
                    copy.finish().expect("COPY ends");
                }
            });
        }
    });
    let rows: usize = encoded.iter().map(Rows::len).sum();
    Run { rows_per_s: rows as f64 / start.elapsed().as_secs_f64(), cpu_s_per_million: None, memory_peak_mb: None }
}

/// The real binary from the first row that it has written to the last.
fn pipeline(settings: &BTreeMap<&str, String>, rows: u64) -> Run {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|on| on.local_addr()).expect("a free port").port();
    let mut child = program(settings, &["run"]).env("SERVER_PORT", port.to_string()).spawn().expect("it starts");
    let began = Instant::now();
    let mut first: Option<(Instant, u64)> = None;
    let rows_per_s = loop {
        assert!(began.elapsed() < PATIENCE, "{rows} rows within {PATIENCE:?}");
        let written = written(port).unwrap_or(0);
        match first {
            None if written > 0 => first = Some((Instant::now(), written)),
            Some((at, before)) if written >= rows => break (rows - before) as f64 / at.elapsed().as_secs_f64(),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let cpu_s_per_million = cpu_s(&child).map(|seconds| seconds * 1e6 / rows as f64);
    let memory_peak_mb = memory_peak_mb(&child);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    Run { rows_per_s, cpu_s_per_million, memory_peak_mb }
}

/// Rows written, by the program's own metric; that they are all there is checked in the table afterwards.
fn written(port: u16) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.starts_with("database_records_written_total{"))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|count| count as u64)
}

fn cpu_s(child: &Child) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    // User and system time are fields 14 and 15 of the line; the clock tick of Linux is 1/100 s.
    let ticks: f64 = fields.get(11..13)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some(ticks / 100.0)
}

fn memory_peak_mb(child: &Child) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb / 1024.0)
}

fn program(settings: &BTreeMap<&str, String>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env_clear().envs(settings).stdin(Stdio::null());
    command
}

fn run_to_end(settings: &BTreeMap<&str, String>, arguments: &[&str]) {
    let status = program(settings, arguments).status().expect("it starts");
    assert!(status.success(), "sluicegate {}: {status}", arguments.join(" "));
}

fn connect(url: &str) -> postgres::Client {
    postgres::Client::connect(url, postgres::NoTls).expect("PostgreSQL answers")
}

/// Every contender starts with an empty table, no ledger row and a checkpoint behind it.
fn clean(url: &str) {
    let sql = format!("TRUNCATE {TABLE}; DELETE FROM sluicegate_ledger");
    let mut client = connect(url);
    client.batch_execute(&sql).expect("cleaned");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
}

fn count(url: &str) -> u64 {
    let row = connect(url).query_one(&format!("SELECT count(*) FROM {TABLE}"), &[]).expect("a count");
    row.get::<_, i64>(0) as u64
}

fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make bench`"))
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))
}

fn options() -> Options {
    let mut options = Options { rows: 2_000_000, rounds: 5, partitions: 20, writers: 4, batch_rows: None };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value: u64 = arguments.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} N"));
        match name.as_str() {
            "--rows" => options.rows = value,
            "--rounds" => options.rounds = value as usize,
            "--partitions" => options.partitions = value as u32,
            "--writers" => options.writers = value as usize,
            "--batch-rows" => options.batch_rows = Some(value),
            _ => panic!("unknown option {name}: --rows --rounds --partitions --writers --batch-rows"),
        }
    }
    options
}
