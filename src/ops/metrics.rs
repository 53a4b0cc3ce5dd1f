//! The metrics, one table: name, type, where the value is read, help. Values are read from the `Track`s when
//! somebody scrapes; the data path pays nothing for being watched. A value that is not known (an offset
//! before the broker was asked) has no sample rather than a zero.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::process::Process;
use super::tracking::{lag, offsets};
use crate::track::{PartitionState, PartitionTrack, Side, Timing, Track};

/// Where a metric gets its value. This decides its type and its labels as well.
enum Read {
    Count(fn(&Track) -> u64),
    Level(fn(&Track) -> Option<i64>),
    Seconds(fn(&Track) -> &Timing),
    /// Once for each word that the flow has for what a record came to.
    Outcomes,
    /// For flows that have this word.
    Outcome(&'static str),
    /// Once for each code of a reason.
    Letters,
    Partition(fn(&PartitionTrack) -> Option<i64>),
    /// How long the next record has waited by now: of each partition, and the longest of a flow.
    Behind,
    FlowBehind,
    /// Once for each side of each flow.
    Dependency,
    Ready,
    Process(MetricType, fn(&Process) -> Option<f64>),
    Build,
}

use Read::{
    Behind, Build, Count, Dependency, FlowBehind, Letters, Level, Outcome, Outcomes, Partition, Ready, Seconds,
};

impl Read {
    fn labels(&self) -> &'static [&'static str] {
        match self {
            Count(_) | Level(_) | Seconds(_) | Outcome(_) | FlowBehind => &["flow"],
            Partition(_) | Behind => &["flow", "topic", "partition"],
            Letters => &["flow", "code"],
            Dependency => &["flow", "dependency"],
            Outcomes => &["flow", "outcome"],
            Ready | Read::Process(..) => &[],
            Build => &["version"],
        }
    }

    fn kind(&self) -> MetricType {
        match self {
            Count(_) | Outcomes | Outcome(_) | Letters => MetricType::COUNTER,
            Seconds(_) => MetricType::HISTOGRAM,
            Read::Process(kind, _) => *kind,
            Level(_) | Partition(_) | Behind | FlowBehind | Dependency | Ready | Build => MetricType::GAUGE,
        }
    }
}

struct Row {
    name: &'static str,
    read: Read,
    help: &'static str,
}

const fn row(name: &'static str, read: Read, help: &'static str) -> Row {
    Row { name, read, help }
}

const fn counted(read: fn(&Process) -> Option<f64>) -> Read {
    Read::Process(MetricType::COUNTER, read)
}

const fn gauged(read: fn(&Process) -> Option<f64>) -> Read {
    Read::Process(MetricType::GAUGE, read)
}

/// Every metric that the program has. A row is two lines, which the formatter would make six.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("database_records_written_total", Count(|t| t.written.get()),
        "Records whose effect is committed in PostgreSQL."),
    row("database_write_errors_total", Count(|t| t.write_errors.get()),
        "Transactions that PostgreSQL refused or did not answer."),
    row("database_write_duration_seconds", Seconds(|t| &t.write_seconds),
        "One transaction, from begin to the answer to commit."),
    row("database_lock_wait_duration_seconds", Seconds(|t| &t.lock_wait_seconds),
        "One transaction's wait for rows that others had locked, in flows that lock such rows."),
    row("kafka_messages_consumed_total", Count(|t| t.consumed.get()),
        "Messages taken from Kafka, those read again after a fault included."),
    row("kafka_consumer_errors_total", Count(|t| t.source_errors.get()),
        "Errors of the Kafka consumer."),
    row("application_active_workers", Level(|t| Some(t.active_writers.get())),
        "Writer threads that are writing."),
    row("sluicegate_records_produced_total", Count(|t| t.produced.get()),
        "Records that this process published and Kafka acknowledged."),
    row("sluicegate_publish_errors_total", Count(|t| t.publish_failed.get()),
        "Records that this process could not publish."),
    row("sluicegate_outcomes_total", Outcomes,
        "Committed records by what they came to, in flows that decide something."),
    row("sluicegate_outbox_published_total", Count(|t| t.published.get()),
        "Messages of the outbox that Kafka acknowledged."),
    row("sluicegate_outbox_oldest_seconds", Level(|t| Some(t.outbox_age_s.get())),
        "How long the oldest row of the outbox had waited when this process last looked, if it is the one that publishes."),
    row("sluicegate_letters_total", Count(|t| t.set_aside.get()),
        "Records set aside as letters."),
    row("sluicegate_letters_by_reason_total", Letters,
        "The same by the code of the reason, those included that a flow decides on in its transaction; after 50 codes, new ones are `other`."),
    row("sluicegate_transactions_retried_total", Count(|t| t.retried.get()),
        "Transactions tried again."),
    row("sluicegate_batches_fenced_total", Count(|t| t.fenced.get()),
        "Batches dropped because the partition had another owner."),
    row("sluicegate_stalls_repaired_total", Count(|t| t.stalls_repaired.get()),
        "Partitions opened again because they gave nothing although they were behind their end."),
    row("sluicegate_groups_written_total", Count(|t| t.groups.get()),
        "Groups of batches committed, each one transaction."),
    row("sluicegate_batches_waiting", Level(|t| Some(t.batches_waiting.get())),
        "Closed batches that wait for a writer."),
    row("sluicegate_batches_in_flight", Level(|t| Some(t.batches_in_flight.get())),
        "Batches that were handed over and have no receipt yet, those that wait for a writer included."),
    row("sluicegate_poll_duration_seconds", Seconds(|t| &t.poll_seconds),
        "Of one written batch: its partition's wait for more records once it had the first. At most about linger_ms; near it, records come slowly."),
    row("sluicegate_decode_duration_seconds", Seconds(|t| &t.decode_seconds),
        "Of one written batch: from its records to rows."),
    row("sluicegate_queue_duration_seconds", Seconds(|t| &t.queue_seconds),
        "Of one batch: from its close until a writer took it. Where this is long, writing is the bottleneck."),
    row("sluicegate_commit_duration_seconds", Seconds(|t| &t.commit_seconds),
        "The COMMIT of one transaction; database_write_duration_seconds includes it."),
    row("sluicegate_end_to_end_duration_seconds", Seconds(|t| &t.end_to_end_seconds),
        "Of one written batch: from the timestamp of its first record, which as a rule waited longest, until it was committed. Clocks of two machines may disagree."),
    row("sluicegate_batch_duration_seconds", Seconds(|t| &t.batch_seconds),
        "From the first record of a batch to its receipt."),
    row("sluicegate_lag_records", Level(known_lag),
        "Records between the ledger and the end, over the partitions of this process whose offsets are known."),
    row("sluicegate_lag_seconds", FlowBehind,
        "The longest sluicegate_partition_lag_seconds of the partitions of this process."),
    row("sluicegate_connections_open", Level(|t| t.sessions().map(i64::from)),
        "Connections to PostgreSQL that the flow's writers, claims and relay hold open."),
    row("sluicegate_spans_exported_total", Count(|t| t.spans_exported.get()),
        "Batches whose spans the collector took."),
    row("sluicegate_spans_dropped_total", Count(|t| t.spans_dropped.get()),
        "Batches whose spans it did not get: it was slow or away."),
    row("sluicegate_group_joined", Level(|t| Some(i64::from(t.is_joined()))),
        "1 once the consumer group has answered."),
    row("sluicegate_partitions_assigned", Level(|t| Some(t.partitions().len() as i64)),
        "Partitions that this process owns."),
    row("sluicegate_partition_halted", Partition(|p| Some(i64::from(is_halted(p)))),
        "1 while the partition is halted for a reason that a person has to look at."),
    row("sluicegate_partition_lag_records", Partition(lag),
        "Records between the ledger and the end of the partition."),
    row("sluicegate_partition_lag_seconds", Behind,
        "How long the next record has waited since its timestamp; until it has been read, counted from the last one that was written. 0 at the end."),
    row("sluicegate_partition_ledger_offset", Partition(|p| offsets(p).0),
        "The next offset by the ledger: everything before it is in PostgreSQL."),
    row("sluicegate_partition_end_offset", Partition(|p| offsets(p).1),
        "The end of the partition when the broker was last asked."),
    row("sluicegate_partition_ahead_records", Partition(|p| Some(p.ahead.get())),
        "Records read ahead of the ledger."),
    row("sluicegate_dependency_up", Dependency,
        "0 while the flow has trouble with the dependency, which is kafka or postgres."),
    row("sluicegate_ready", Ready,
        "1 while /health/ready answers 200."),
    row("sluicegate_process_resident_memory_bytes", gauged(|p| p.resident_bytes),
        "Resident memory."),
    row("sluicegate_process_threads", gauged(|p| p.threads),
        "Threads."),
    row("sluicegate_process_cpu_seconds_total", counted(|p| p.cpu_seconds),
        "Processor time, user and system."),
    row("sluicegate_process_open_fds", gauged(|p| p.open_fds),
        "Open file descriptors."),
    row("sluicegate_process_max_fds", gauged(|p| p.max_fds),
        "How many file descriptors may be open at once."),
    row("sluicegate_process_start_time_seconds", gauged(|p| p.start_seconds),
        "When the process started, in seconds since 1970."),
    row("sluicegate_build_info", Build,
        "Always 1; the version is a label."),
];

/// Names that a replaced program gave, for what has another name above as well.
#[rustfmt::skip]
const FORMER: &[Row] = &[
    row("uptime_seconds", gauged(|p| p.uptime_seconds),
        "How long the process has run."),
    row("consumer_messages_received", Count(|t| t.consumed.get()),
        "As kafka_messages_consumed_total."),
    row("consumer_commits", Count(|t| t.groups.get()),
        "Transactions that moved the ledger: as sluicegate_groups_written_total."),
    row("writer_inserts", Outcome("inserted"),
        "As sluicegate_outcomes_total with this outcome, as the next two."),
    row("writer_updates", Outcome("updated"),
        "Records that changed a row."),
    row("writer_deletes", Outcome("deleted"),
        "Records that deleted a row."),
    row("processor_batch_processing_time", Seconds(|t| &t.batch_seconds),
        "In seconds: as sluicegate_batch_duration_seconds."),
    row("processor_queue_size", Level(|t| Some(t.batches_waiting.get())),
        "As sluicegate_batches_waiting."),
    row("error_handler_errors", Count(|t| t.source_errors.get() + t.write_errors.get()),
        "Errors of Kafka's client and of PostgreSQL together."),
    row("error_handler_retries", Count(|t| t.retried.get()),
        "As sluicegate_transactions_retried_total."),
    row("error_handler_dead_letters", Count(|t| t.set_aside.get()),
        "As sluicegate_letters_total."),
];

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain(FORMER)
}

fn is_halted(partition: &PartitionTrack) -> bool {
    matches!(partition.state(), PartitionState::Halted(_))
}

fn behind_s(partition: &PartitionTrack) -> Option<f64> {
    Some(partition.behind_ms(now_ms())? as f64 / 1e3)
}

fn known_lag(track: &Track) -> Option<i64> {
    track.partitions().iter().filter_map(|(_, partition)| lag(partition)).reduce(|sum, lag| sum + lag)
}

fn now_ms() -> i64 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64
}

/// The registry, and the way to its text.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    pub fn new(tracks: &[Arc<Track>]) -> Metrics {
        let descs = rows().map(|row| {
            let labels = row.read.labels().iter().map(ToString::to_string).collect();
            Desc::new(row.name.into(), row.help.into(), labels, HashMap::new()).expect("a name of the table is valid")
        });
        let registry = Registry::new();
        registry
            .register(Box::new(Tracks { tracks: tracks.to_vec(), descs: descs.collect() }))
            .expect("each name is in the table once");
        Metrics { registry }
    }

    /// The exposition format of Prometheus.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("every family has a name and a sample")
    }
}

/// What makes samples of tracks while somebody scrapes.
struct Tracks {
    tracks: Vec<Arc<Track>>,
    descs: Vec<Desc>,
}

impl Collector for Tracks {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let process = Process::look();
        rows()
            .map(|row| {
                let mut family = MetricFamily::default();
                family.set_name(row.name.into());
                family.set_help(row.help.into());
                family.set_field_type(row.read.kind());
                family.set_metric(self.samples(row, &process));
                family
            })
            .collect()
    }
}

impl Tracks {
    fn samples(&self, row: &Row, process: &Process) -> Vec<proto::Metric> {
        let mut samples = Vec::new();
        let mut value = |labels: &[&str], value: Option<f64>| {
            if let Some(value) = value {
                samples.push(sample(row, labels, value));
            }
        };
        match &row.read {
            Count(read) => self.tracks.iter().for_each(|track| value(&[&track.flow], Some(read(track) as f64))),
            Level(read) => self.tracks.iter().for_each(|track| value(&[&track.flow], read(track).map(|n| n as f64))),
            Partition(read) => {
                for track in &self.tracks {
                    for (name, partition) in track.partitions() {
                        let labels = [&track.flow, &*name.topic, &name.id.to_string()];
                        value(&labels, read(&partition).map(|n| n as f64));
                    }
                }
            }
            Behind => {
                for track in &self.tracks {
                    for (name, partition) in track.partitions() {
                        let labels = [&track.flow, &*name.topic, &name.id.to_string()];
                        value(&labels, behind_s(&partition));
                    }
                }
            }
            FlowBehind => {
                for track in &self.tracks {
                    let partitions = track.partitions();
                    let longest = partitions.iter().filter_map(|(_, partition)| behind_s(partition)).reduce(f64::max);
                    value(&[&track.flow], longest);
                }
            }
            Letters => {
                for track in &self.tracks {
                    track.letters().iter().for_each(|(code, n)| value(&[&track.flow, code], Some(*n as f64)));
                }
            }
            Outcome(outcome) => {
                for track in &self.tracks {
                    value(&[&track.flow], track.outcomes().get(outcome).map(|n| *n as f64));
                }
            }
            Dependency => {
                for track in &self.tracks {
                    for (side, name) in [(Side::Source, "kafka"), (Side::Sink, "postgres")] {
                        value(&[&track.flow, name], Some(f64::from(u8::from(track.trouble(side).is_none()))));
                    }
                }
            }
            Outcomes => {
                for track in &self.tracks {
                    track.outcomes().iter().for_each(|(outcome, n)| value(&[&track.flow, outcome], Some(*n as f64)));
                }
            }
            Ready => value(&[], Some(f64::from(u8::from(super::api::reasons(&self.tracks).is_empty())))),
            Read::Process(_, read) => value(&[], read(process)),
            Build => value(&[env!("CARGO_PKG_VERSION")], Some(1.0)),
            Seconds(read) => {
                for track in &self.tracks {
                    let mut sample = sample(row, &[&track.flow], 0.0);
                    sample.set_histogram(histogram(read(track)));
                    samples.push(sample);
                }
            }
        }
        samples
    }
}

fn sample(row: &Row, labels: &[&str], value: f64) -> proto::Metric {
    let pairs = row.read.labels().iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_string());
        pair.set_value(value.to_string());
        pair
    });
    let mut sample = proto::Metric::from_label(pairs.collect());
    if row.read.kind() == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        sample.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        sample.set_gauge(gauge);
    }
    sample
}

fn histogram(timing: &Timing) -> proto::Histogram {
    let cumulative = timing.cumulative();
    // A duration recorded while we read may be in its bucket and not in the count yet.
    let count = timing.count.get().max(cumulative.last().map_or(0, |(_, count)| *count));
    let mut histogram = proto::Histogram::default();
    let buckets = cumulative.into_iter().map(|(bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(timing.sum_s());
    histogram
}

/// docs/METRICS.md.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n`GET /metrics`, in the text format of Prometheus. Generated from the table in \
         `src/ops/metrics.rs`; `UPDATE_EXPECT=1 cargo test --lib ops::metrics` writes it again.\n\n\
         Counters count from the start of the process; `/reset-tracking` does not touch them. A value that is not \
         known has no sample. The unit is the end of the name; where it names none, things are counted.\n",
    );
    let sections: [(&str, &[Row]); 2] =
        [("", TABLE), ("\n## Names of a replaced program\n\nFor what stands above under other names.\n", FORMER)];
    for (title, table) in sections {
        page += &format!("{title}\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
        table.iter().for_each(|row| page += &line(row));
    }
    page
}

fn line(row: &Row) -> String {
    let kind = match row.read.kind() {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    format!("| `{}` | {kind} | {} | {} |\n", row.name, row.read.labels().join(", "), row.help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_page_in_docs_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == reference(),
            "docs/METRICS.md is not the table: UPDATE_EXPECT=1 cargo test --lib ops::metrics"
        );
    }

    #[test]
    fn names_say_counter_or_unit() {
        for row in TABLE {
            assert_eq!(row.read.kind() == MetricType::COUNTER, row.name.ends_with("_total"), "{}", row.name);
            assert_eq!(
                row.read.kind() == MetricType::HISTOGRAM,
                row.name.ends_with("_duration_seconds"),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn time_behind_is_that_of_the_next_record_or_of_the_last_one_written() {
        let partition = Track::new("status").add_partition(&crate::record::Partition::new("topic", 3));
        assert_eq!(partition.behind_ms(9_000), None, "the end is not known");
        partition.end_offset.set(7);
        assert_eq!(partition.behind_ms(9_000), None, "no record is known");
        partition.pending_ms.set(5_000);
        assert_eq!(partition.behind_ms(9_000), Some(4_000));
        assert_eq!(partition.behind_ms(4_000), Some(0), "a clock that is ahead");
        partition.pending_ms.set(-1);
        partition.written_ms.set(5_500);
        partition.next_offset.set(6);
        assert_eq!(partition.behind_ms(9_000), Some(3_500));
        partition.next_offset.set(7);
        assert_eq!(partition.behind_ms(9_000), Some(0));
    }

    #[test]
    fn letters_have_as_many_series_as_there_are_codes_and_no_more_than_fit() {
        let track = Track::new("status");
        (0..60).for_each(|number| track.count_letters(&format!("code.{number:02}"), 2));
        track.count_letters("code.00", 1);
        let text = Metrics::new(&[track]).text();
        let name = "sluicegate_letters_by_reason_total{flow=\"status\",code=";
        assert!(text.contains(&format!("{name}\"code.00\"}} 3\n")), "{text}");
        assert!(text.contains(&format!("{name}\"other\"}} 20\n")), "{text}");
        assert_eq!(text.matches(name).count(), 51);
    }

    #[test]
    fn what_is_not_known_has_no_sample() {
        let track = Track::new("status");
        let metrics = Metrics::new(std::slice::from_ref(&track));
        let partition = track.add_partition(&crate::record::Partition::new("topic", 3));
        let text = metrics.text();
        assert!(!text.contains("sluicegate_partition_end_offset"), "{text}");
        assert!(!text.contains("sluicegate_lag_records"), "{text}");
        partition.set_state(PartitionState::Running);
        partition.next_offset.set(5);
        partition.end_offset.set(7);
        let text = metrics.text();
        assert!(text.contains("sluicegate_partition_lag_records{flow=\"status\",topic=\"topic\",partition=\"3\"} 2\n"));
        assert!(text.contains("sluicegate_lag_records{flow=\"status\"} 2\n"));
    }

    #[test]
    fn a_histogram_counts_what_is_over_its_last_bound() {
        let track = Track::new("status");
        track.write_seconds.record(Duration::from_millis(2));
        track.write_seconds.record(Duration::from_secs(5000));
        let text = Metrics::new(&[track]).text();
        let name = "database_write_duration_seconds";
        for line in [
            format!("{name}_bucket{{flow=\"status\",le=\"0.001\"}} 0\n"),
            format!("{name}_bucket{{flow=\"status\",le=\"0.0025\"}} 1\n"),
            format!("{name}_bucket{{flow=\"status\",le=\"3600\"}} 1\n"),
            format!("{name}_bucket{{flow=\"status\",le=\"+Inf\"}} 2\n"),
            format!("{name}_count{{flow=\"status\"}} 2\n"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
