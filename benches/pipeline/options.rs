//! The command line of the bench: which parts, how much, and whether the project's own numbers are to be rewritten.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The pipeline beside raw COPY and beside its peers, on a real Kafka and a real PostgreSQL.
#[derive(Parser, Clone)]
#[command(override_usage = "make bench ARGS=\"[OPTIONS]\"", disable_version_flag = true)]
pub struct Options {
    /// What to measure
    #[arg(long, value_name = "PART", value_delimiter = ',', default_value = "rounds,latency,footprint")]
    pub parts: Vec<Part>,
    /// Everything there is to measure
    #[arg(long, conflicts_with = "parts")]
    pub all: bool,
    /// Rounds of each comparison; a published number is a median of five or more
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Rows of a round
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    pub rows: u64,
    /// Rows of a round of the growth curves
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    pub growth_rows: u64,
    /// Orders of a round of the orders flow
    #[arg(long, value_name = "N", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    pub orders: u64,
    /// Events of a round of the events flow
    #[arg(long, value_name = "N", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    pub events: u64,
    /// Changes of a round of the cdc flow
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    pub changes: u64,
    /// Tasks of the JDBC sink beside the cdc flow
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub jdbc_tasks: u32,
    /// Tickets of a round of the tickets flow
    #[arg(long, value_name = "N", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    pub tickets: u64,
    /// Seconds for which tickets come at a steady rate
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
    pub ticket_seconds: u64,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub partitions: u32,
    /// Writers of the program and of the peers, and connections of raw COPY
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub writers: usize,
    /// Rewrite the numbers and pictures in README.md and docs/, and keep the run in benches/runs/
    #[arg(long)]
    pub publish: bool,
    /// Measure nothing: show, or with --publish write, what an earlier run found
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Be the contender that only consumes (the bench starts itself with this)
    #[arg(long, value_name = "ROWS", hide = true)]
    pub consume: Option<u64>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// All contenders in turn, on the same rows
    Rounds,
    /// From produced to visible, at 10, 50 and 90% of the rate that the rounds reached
    Latency,
    /// Start-up, idle CPU, size of the binary
    Footprint,
    /// Rates and memory over partitions, writers, batches, sizes of records, and 10 million rows
    Growth,
    /// From produced to visible over the same, at half of the rate that each of them reaches
    GrowthLatency,
    /// Memory while PostgreSQL is stopped for a minute
    Away,
    /// Reservations a second with 90% of the orders on one product, beside raw COPY and one transaction an order
    Orders,
    /// Orders that HTTP accepts a second, by wrk
    Accept,
    /// Events a second with and without comparing their ids, and what failures cost the others
    Events,
    /// Change events a second, beside Debezium's JDBC sink
    Cdc,
    /// Tickets a second with their orders checked, from produced to visible at 100 a second, and an hour of that in a minute
    Tickets,
}

impl Options {
    pub fn wants(&self, part: Part) -> bool {
        self.all || self.parts.contains(&part)
    }
}
