//! The end-to-end bench: the status flow, exactly once, on a real Kafka and a real PostgreSQL, beside the raw limit of
//! COPY and beside two Go programs that do the same work.
//!
//! `make bench` starts both services and runs this; `make bench ARGS=--help` lists what can be asked for. The topic is
//! filled once; then, in each round, each contender (`contenders`) runs on the same rows one after the other, in an
//! order that turns from round to round. Only ratios within a run mean anything on a shared machine. Every single
//! measurement is kept in a file (`results`), and `--from FILE` shows it again.

#![allow(clippy::disallowed_methods)] // the bench polls processes from outside, and ends one of its own

mod accept;
mod away;
mod cdc;
mod consumer;
mod contenders;
mod events;
mod footprint;
mod growth;
mod latency;
mod machine;
mod meter;
mod options;
mod orders;
mod peers;
mod plot;
mod process;
mod produced;
mod program;
mod publish;
mod records;
mod report;
mod results;
mod stage;
mod tickets;

use clap::Parser;

use contenders::{BATCH_ROWS, Contender, Ring};
use machine::{Machine, said};
use options::{Options, Part};
use peers::Peers;
use records::{SMALL_BYTES, encoded};
use results::{Changes, Events, Load, Orders, Results, Run, Tickets, median};
use stage::Stage;

/// Shares of the reached rate at which latency is measured.
const PERCENTS: [u32; 3] = [10, 50, 90];
/// Partitions, bytes of a record, and rows, of the runs without PostgreSQL.
const AWAY: [(u32, usize, u64); 4] =
    [(20, SMALL_BYTES, 2_000_000), (64, SMALL_BYTES, 2_000_000), (20, 5_000, 200_000), (64, 5_000, 200_000)];

fn main() {
    let options = Options::parse();
    if let Some(rows) = options.consume {
        return consumer::consume(rows);
    }
    if options.publish && options.rounds < publish::ROUNDS_MIN {
        eprintln!("--publish needs --rounds {} or more", publish::ROUNDS_MIN);
        std::process::exit(2);
    }
    let results = match &options.from {
        Some(file) => {
            let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        }
        None => {
            let Some(stage) = Stage::from_environment() else {
                // Also reached by a plain `cargo bench`, whose other benches need no services.
                println!("pipeline: skipped, there is no Kafka and no PostgreSQL; `make bench` brings both");
                return;
            };
            let results = measure(&stage, &options);
            println!("every single run: {}", publish::keep(&results).display());
            results
        }
    };
    println!("{}", report::all(&results));
    if options.publish {
        publish::publish(&results);
    }
}

fn measure(stage: &Stage, options: &Options) -> Results {
    let load = Load {
        rows: options.rows,
        partitions: options.partitions,
        writers: options.writers,
        batch_rows: None,
        record_bytes: SMALL_BYTES,
    };
    let mut results = Results {
        date: said("date", &["-u", "+%FT%TZ"]).expect("a date"),
        machine: Machine::look(stage),
        load: load.clone(),
        rounds: Vec::new(),
        latency: Vec::new(),
        footprint: None,
        growth: Vec::new(),
        growth_latency: Vec::new(),
        away: Vec::new(),
        orders: None,
        accept: Vec::new(),
        events: None,
        cdc: None,
        tickets: None,
    };
    println!("{}", results.machine.line());
    // Latency is measured at shares of the rate that the rounds reach.
    if options.wants(Part::Rounds) || options.wants(Part::Latency) {
        results.rounds = rounds(stage, &load, options.rounds);
    }
    if options.wants(Part::Latency) {
        let us = results.rounds.iter().filter(|run| run.contender == Contender::Sluicegate.name());
        let reached_per_s = median(us.map(|run| run.rows_per_s)).expect("rounds");
        for percent in PERCENTS {
            println!("latency at {percent}% of {reached_per_s:.0} records/s");
            results.latency.push(latency::at_percent(stage, &load, percent, reached_per_s, latency::MEASURED_S));
        }
    }
    if options.wants(Part::Footprint) {
        println!("start-up, idle CPU, size");
        results.footprint = Some(footprint::measure(stage, &load));
    }
    let growing = Load { rows: options.growth_rows, ..load.clone() };
    if options.wants(Part::Growth) {
        results.growth = growth::measure(stage, &growing, options.rounds);
    }
    if options.wants(Part::GrowthLatency) {
        results.growth_latency = growth::latency(stage, &growing);
    }
    if options.wants(Part::Away) {
        for (partitions, record_bytes, rows) in AWAY {
            println!("PostgreSQL away: {partitions} partitions, {rows} records of {record_bytes} B");
            let load = Load { partitions, record_bytes, rows, ..load.clone() };
            results.away.extend(away::measure(stage, &load));
        }
    }
    // In the flow's own partitions, whatever the rounds have.
    let load = Load {
        rows: options.orders,
        partitions: orders::PARTITIONS,
        record_bytes: orders::ORDER_BYTES,
        ..load.clone()
    };
    if options.wants(Part::Orders) {
        let runs = orders::measure(stage, &load, options.rounds);
        results.orders = Some(Orders { load: load.clone(), runs });
    }
    if options.wants(Part::Accept) {
        results.accept = accept::measure(stage, &load, options.rounds);
    }
    let load = Load {
        rows: options.events,
        partitions: events::PARTITIONS,
        writers: events::WRITERS,
        record_bytes: events::EVENT_BYTES,
        ..load
    };
    if options.wants(Part::Events) {
        let runs = events::measure(stage, &load, options.rounds);
        let steady = events::steady(stage, options.rounds);
        results.events = Some(Events { load: load.clone(), runs, steady });
    }
    let load = Load {
        rows: options.changes,
        partitions: cdc::PARTITIONS,
        writers: cdc::WRITERS,
        record_bytes: cdc::CHANGE_BYTES,
        ..load
    };
    if options.wants(Part::Cdc) {
        let runs = cdc::measure(stage, &load, options.rounds, options.jdbc_tasks);
        results.cdc = Some(Changes { load: load.clone(), runs });
    }
    let load = Load {
        rows: options.tickets,
        partitions: tickets::PARTITIONS,
        writers: tickets::WRITERS,
        record_bytes: tickets::TICKET_BYTES,
        ..load
    };
    if options.wants(Part::Tickets) {
        let runs = tickets::measure(stage, &load, options.rounds);
        let steady = tickets::steady(stage, options.rounds, options.ticket_seconds);
        let hour = Some(tickets::hour(stage, options.ticket_seconds));
        results.tickets = Some(Tickets { load, runs, steady, hour });
    }
    results
}

fn rounds(stage: &Stage, load: &Load, rounds: u64) -> Vec<Run> {
    let peers = Peers::build();
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|contender| peers.is_some() || !matches!(contender, Contender::Franz | Contender::Sarama))
        .collect();
    println!("{} rows, {} partitions, {} writers, {rounds} rounds", load.rows, load.partitions, load.writers);
    let topic = stage.filled_topic(load);
    let encoded = encoded(load.rows, load.record_bytes, load.batch_rows.unwrap_or(BATCH_ROWS));
    let ring = Ring { stage, load, topic: &topic, encoded: &encoded, peers: peers.as_ref() };
    // Not counted: the broker compiles what it has not run yet, and files grow for the first time.
    for contender in [Contender::Sluicegate, Contender::RawCopy] {
        ring.run(contender, 0);
    }
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for contender in contenders::in_turn(&contenders, round) {
            let run = ring.run(contender, round);
            println!("round {round}  {:<15} {:>9.0} rows/s", run.contender, run.rows_per_s);
            runs.push(run);
        }
    }
    runs
}
