//! Metrics in Prometheus' text format, read off the tracks when they are asked for: the data path pays nothing.
//! One table has every name; `docs/METRICS.md` is made from it.

use std::sync::Arc;
use std::time::Instant;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::track::{PartitionState, PartitionTrack, Side, Timing, Track};

/// How a metric is read.
enum Read {
    Count(fn(&Track) -> u64),
    Level(fn(&Track) -> i64),
    Timing(fn(&Track) -> &Timing),
    Partition(fn(&PartitionTrack) -> i64),
    Dependency,
    Process(fn(&Process) -> f64),
    /// A process value that only grows.
    ProcessCount(fn(&Process) -> f64),
    Build,
}

#[rustfmt::skip]
const METRICS: [(&str, Read, &str); 29] = [
    ("database_records_written_total", Read::Count(|track| track.written.get()), "Rows written to PostgreSQL."),
    ("database_write_errors_total", Read::Count(|track| track.write_errors.get()), "Transactions and claims that failed; each is tried again."),
    ("database_write_duration_seconds", Read::Timing(|track| &track.write_seconds), "One transaction, from its begin to the answer to its commit."),
    ("kafka_messages_consumed_total", Read::Count(|track| track.consumed.get()), "Records read from Kafka, again after a restart included."),
    ("kafka_consumer_errors_total", Read::Count(|track| track.source_errors.get()), "Errors of the Kafka client."),
    ("application_active_workers", Read::Level(|track| track.active_writers.get()), "Writers that are writing right now."),
    ("sluicegate_produced_total", Read::Count(|track| track.produced.get()), "Test records that Kafka acknowledged."),
    ("sluicegate_publish_failed_total", Read::Count(|track| track.publish_failed.get()), "Test records that Kafka did not acknowledge."),
    ("sluicegate_letters_total", Read::Count(|track| track.set_aside.get()), "Records set aside in sluicegate_letters."),
    ("sluicegate_groups_total", Read::Count(|track| track.groups.get()), "Transactions written, each of one or more batches."),
    ("sluicegate_retries_total", Read::Count(|track| track.retried.get()), "Transactions tried again."),
    ("sluicegate_fenced_batches_total", Read::Count(|track| track.fenced.get()), "Batches dropped because their partition had another owner."),
    ("sluicegate_batches_waiting", Read::Level(|track| track.batches_waiting.get()), "Batches between partition threads and writers."),
    ("sluicegate_batch_seconds", Read::Timing(|track| &track.batch_seconds), "From the first record of a batch to its receipt."),
    ("sluicegate_partitions_assigned", Read::Level(|track| track.partitions().len() as i64), "Partitions that this instance owns."),
    ("sluicegate_lag_records", Read::Level(|track| track.lag()), "Records between the ledger and the end, over the partitions of this instance."),
    ("sluicegate_partition_lag_records", Read::Partition(PartitionTrack::lag), "Records between the ledger and the end of a partition."),
    ("sluicegate_partition_next_offset", Read::Partition(|at| at.next_offset.get()), "The ledger's offset: everything before it is in PostgreSQL."),
    ("sluicegate_partition_end_offset", Read::Partition(|at| at.end_offset.get()), "The end of a partition when the broker was last asked; -1 before."),
    ("sluicegate_partition_ahead_records", Read::Partition(|at| at.ahead.get()), "Records read and not yet in PostgreSQL."),
    ("sluicegate_partition_halted", Read::Partition(|at| matches!(at.state(), PartitionState::Halted(_)).into()), "1 where a partition waits for a person."),
    ("sluicegate_dependency_up", Read::Dependency, "1 while a dependency answers."),
    ("sluicegate_build_info", Read::Build, "Always 1; the version is a label."),
    ("process_resident_memory_bytes", Read::Process(|process| process.resident_bytes), "Memory in use."),
    ("process_threads", Read::Process(|process| process.threads), "Threads of the process."),
    ("process_open_fds", Read::Process(|process| process.open_fds), "Open file descriptors."),
    ("process_cpu_seconds_total", Read::ProcessCount(|process| process.cpu_s), "Processor time used."),
    ("process_start_time_seconds", Read::Process(|process| process.start_s), "When the process started, in Unix time."),
    ("process_uptime_seconds", Read::Process(|process| process.uptime_s), "How long it has run."),
];

/// What the system says of this process; zero where it does not.
struct Process {
    resident_bytes: f64,
    threads: f64,
    open_fds: f64,
    cpu_s: f64,
    start_s: f64,
    uptime_s: f64,
}

impl Process {
    fn look(started: Instant) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields count from behind the name, which may hold anything; 100 ticks make a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<f64>().ok()).sum();
        let uptime_s = started.elapsed().as_secs_f64();
        let now_s = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
        Process {
            resident_bytes: field("VmRSS:") * 1024.0,
            threads: field("Threads:"),
            open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
            cpu_s: ticks / 100.0,
            start_s: (now_s - uptime_s).round(),
            uptime_s,
        }
    }
}

pub fn text(tracks: &[Arc<Track>], started: Instant) -> String {
    let process = Process::look(started);
    let families: Vec<MetricFamily> = METRICS
        .iter()
        .map(|(name, read, help)| {
            let mut family = MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(kind(read));
            family.set_metric(samples(read, tracks, &process));
            family
        })
        // A metric without a sample yet, as of partitions before the first is assigned, is left out.
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
        log::error!("metrics cannot be written: {error}");
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn kind(read: &Read) -> MetricType {
    match read {
        Read::Count(_) | Read::ProcessCount(_) => MetricType::COUNTER,
        Read::Timing(_) => MetricType::HISTOGRAM,
        Read::Level(_) | Read::Partition(_) | Read::Dependency | Read::Process(_) | Read::Build => MetricType::GAUGE,
    }
}

fn samples(read: &Read, tracks: &[Arc<Track>], process: &Process) -> Vec<Metric> {
    let each = |sample: &dyn Fn(&Track) -> Metric| tracks.iter().map(|track| sample(track)).collect();
    match read {
        Read::Count(of) => each(&|track| counter(of(track) as f64, labels(&[("flow", &track.flow)]))),
        Read::Level(of) => each(&|track| gauge(of(track) as f64, labels(&[("flow", &track.flow)]))),
        Read::Timing(of) => each(&|track| histogram(of(track), labels(&[("flow", &track.flow)]))),
        Read::Partition(of) => {
            let of_track = |track: &Arc<Track>| {
                let sample = |(partition, at): &(crate::record::Partition, Arc<PartitionTrack>)| {
                    let id = partition.id.to_string();
                    let names = [("flow", &*track.flow), ("topic", &*partition.topic), ("partition", &id)];
                    gauge(of(at) as f64, labels(&names))
                };
                track.partitions().iter().map(sample).collect::<Vec<Metric>>()
            };
            tracks.iter().flat_map(of_track).collect()
        }
        Read::Dependency => {
            let of_track = |track: &Arc<Track>| {
                [("kafka", Side::Source), ("postgres", Side::Sink)].map(|(name, side)| {
                    let up = track.trouble(side).is_none();
                    gauge(f64::from(up), labels(&[("flow", &track.flow), ("dependency", name)]))
                })
            };
            tracks.iter().flat_map(of_track).collect()
        }
        Read::Process(of) => vec![gauge(of(process), Vec::new())],
        Read::ProcessCount(of) => vec![counter(of(process), Vec::new())],
        Read::Build => vec![gauge(1.0, labels(&[("version", env!("CARGO_PKG_VERSION"))]))],
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let label = |(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    pairs.iter().map(label).collect()
}

fn gauge(value: f64, labels: Vec<LabelPair>) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(value: f64, labels: Vec<LabelPair>) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(timing: &Timing, labels: Vec<LabelPair>) -> Metric {
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(timing.cumulative().into_iter().map(bucket).collect());
    histogram.set_sample_count(timing.count.get());
    histogram.set_sample_sum(timing.sum_s());
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

/// The table as a page.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\nWhat `GET /metrics` gives, made from the table in `src/ops/metrics.rs`.\n\n| name | type | meaning |\n| --- | --- | --- |\n",
    );
    for (name, read, help) in &METRICS {
        let kind = format!("{:?}", kind(read)).to_lowercase();
        page.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
    }
    page
}
