//! What a run of the bench found, every single measurement of it, as it is kept in a file; and what a list of
//! measurements comes to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

#[derive(Serialize, Deserialize)]
pub struct Results {
    /// In UTC.
    pub date: String,
    pub machine: Machine,
    /// What the rounds were run on.
    pub load: Load,
    pub rounds: Vec<Run>,
    pub latency: Vec<Latency>,
    pub footprint: Option<Footprint>,
    pub growth: Vec<Growth>,
    #[serde(default)]
    pub growth_latency: Vec<GrowthLatency>,
    pub away: Vec<Away>,
    /// Of the orders flow, and what its runs were run on.
    #[serde(default)]
    pub orders: Option<Orders>,
    #[serde(default)]
    pub accept: Vec<Accept>,
    #[serde(default)]
    pub events: Option<Events>,
    #[serde(default)]
    pub cdc: Option<Changes>,
    #[serde(default)]
    pub tickets: Option<Tickets>,
}

/// Of the cdc flow, and what its runs were run on.
#[derive(Serialize, Deserialize)]
pub struct Changes {
    pub load: Load,
    pub runs: Vec<Run>,
}

/// Of the tickets flow: what its runs were run on, latency at a steady rate, and an hour of that rate in a minute.
#[derive(Serialize, Deserialize)]
pub struct Tickets {
    pub load: Load,
    pub runs: Vec<Run>,
    pub steady: Vec<Latency>,
    pub hour: Option<(Latency, Memory)>,
}

/// What two processes held, look by look, while one of them produced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    pub producer_mb: Vec<f64>,
    pub consumer_mb: Vec<f64>,
}

/// The median of the first third of the looks, and of the last.
pub fn thirds(looks_mb: &[f64]) -> Option<(f64, f64)> {
    let third = looks_mb.len().div_ceil(3);
    Some((median(looks_mb.iter().take(third).copied())?, median(looks_mb.iter().rev().take(third).copied())?))
}

/// Of the events flow: what its runs were run on, and latency at a steady rate, by contender.
#[derive(Serialize, Deserialize)]
pub struct Events {
    pub load: Load,
    pub runs: Vec<Run>,
    pub steady: Vec<(String, Latency)>,
}

#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub load: Load,
    pub runs: Vec<Run>,
}

/// What is moved, and by how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub rows: u64,
    pub partitions: u32,
    pub writers: usize,
    /// The most rows of a transaction; none is the program's own default, and 10,000 for the others.
    pub batch_rows: Option<usize>,
    /// Of a payload, about.
    pub record_bytes: usize,
}

/// One run of one contender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub contender: String,
    pub round: u64,
    pub rows: u64,
    pub rows_per_s: f64,
    /// Of the contender's own process.
    pub cpu_s: f64,
    /// That of the program's threads, by what they do; of other contenders nothing is known.
    pub threads_cpu_s: BTreeMap<String, f64>,
    pub memory_peak_mb: Option<f64>,
    /// Of the broker and of PostgreSQL, meanwhile; none where the contender does not use them, or they are not ours.
    pub kafka_cpu_s: Option<f64>,
    pub postgres_cpu_s: Option<f64>,
    pub rows_per_transaction: Option<f64>,
    /// Orders over the time until others had been told of the last one; none where nobody is told.
    #[serde(default)]
    pub told_per_s: Option<f64>,
    /// Of the machine's CPU time meanwhile: what was neither this run's nor idle. A quiet machine has next to none.
    pub others_percent: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Of the rate that was reached before; 0 at a rate of its own.
    pub percent: u32,
    /// The warm-up included.
    #[serde(default)]
    pub sent: u64,
    pub records_per_s: f64,
    /// That the producer came to: less than asked for when the cores do not suffice.
    pub produced_per_s: f64,
    pub records: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Records that were not visible yet when the last one was handed to the producer.
    pub behind_records: u64,
    /// Between two looks at the database: how late a record can be seen at the most, mostly.
    pub look_every_ms: f64,
    /// As in a run.
    pub others_percent: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// From exec to the first 200 of /health/ready, one for each start.
    pub start_ms: Vec<f64>,
    /// Of one core, with an assigned, empty topic.
    pub idle_cpu_percent: f64,
    pub idle_memory_mb: f64,
    pub binary_mb: f64,
    pub stripped_mb: Option<f64>,
}

/// One run of one point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Growth {
    /// What varies, and its value.
    pub over: String,
    pub at: u64,
    pub load: Load,
    pub run: Run,
}

/// From produced to visible at one point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrowthLatency {
    pub over: String,
    pub at: u64,
    pub load: Load,
    pub latency: Latency,
}

/// What the program came to hold while PostgreSQL was away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Away {
    pub partitions: u32,
    pub record_bytes: usize,
    pub rows: u64,
    pub away_s: f64,
    /// The peak before PostgreSQL went, at the end of its absence, and when all rows were written.
    pub before_mb: f64,
    pub away_mb: f64,
    pub after_mb: f64,
}

/// One run of the load tool against one endpoint of the desk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accept {
    pub endpoint: String,
    pub round: u64,
    pub connections: usize,
    pub orders_per_request: u64,
    /// Requests that were answered, and not refused.
    pub accepted: u64,
    /// Those that were refused, or not answered.
    pub failed: u64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// As in a run.
    pub others_percent: Option<f64>,
}

impl Accept {
    pub fn orders_per_s(&self) -> f64 {
        (self.accepted * self.orders_per_request) as f64 / self.seconds
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// None of nothing.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some(Spread { median, low, high })
}

pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    spread(values).map(|spread| spread.median)
}

/// The rate of one contender over that of another, pair by pair within a round: the machine's speed drifts
/// between rounds.
pub fn ratios<'a>(runs: impl Iterator<Item = &'a Run> + Clone, of: &str, over: &str) -> Vec<f64> {
    let other = |round| runs.clone().find(|run| run.contender == over && run.round == round);
    let ratio = |run: &Run| other(run.round).map(|other| run.rows_per_s / other.rows_per_s);
    runs.clone().filter(|run| run.contender == of).filter_map(ratio).collect()
}
