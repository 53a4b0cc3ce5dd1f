//! The metrics, one table (`table`): name, type, where the value is read, help. Values are read from the `Track`s when
//! somebody scrapes; the data path pays nothing for being watched. A value that is not known (an offset
//! before the broker was asked) has no sample rather than a zero.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::process::Process;
use crate::track::{Groups, PartitionTrack, Side, Timing, Track};
use table::Read::{
    self, Behind, Build, Count, Dependency, FlowBehind, Group, Letters, Level, OpenLetters, Outcome, Outcomes,
    Partition, Ready, Seconds,
};
use table::{FORMER, Row, TABLE};

mod table;

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain(FORMER)
}

fn behind_s(partition: &PartitionTrack) -> Option<f64> {
    Some(partition.behind_ms(now_ms())? as f64 / 1e3)
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

    pub fn new(tracks: &[Arc<Track>], groups: Arc<Groups>) -> Metrics {
        let descs = rows().map(|row| {
            let labels = row.read.labels().iter().map(ToString::to_string).collect();
            Desc::new(row.name.into(), row.help.into(), labels, HashMap::new()).expect("a name of the table is valid")
        });
        let registry = Registry::new();
        registry
            .register(Box::new(Tracks { tracks: tracks.to_vec(), groups, descs: descs.collect() }))
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
    groups: Arc<Groups>,
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
            OpenLetters => {
                for track in &self.tracks {
                    track.open_letters().iter().for_each(|(code, n)| value(&[&track.flow, code], Some(*n as f64)));
                }
            }
            Outcome(outcome) => {
                for track in &self.tracks {
                    value(&[&track.flow], track.outcomes().get(outcome).map(|n| *n as f64));
                }
            }
            Group(read) => {
                for (group, lags) in self.groups.all() {
                    for lag in lags {
                        let (topic, id) = (&*lag.partition.topic, lag.partition.id.to_string());
                        value(&[&group, topic, &id], read(&lag));
                    }
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
         `src/ops/metrics/table.rs`; `UPDATE_EXPECT=1 cargo test --lib ops::metrics` writes it again.\n\n\
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
    use crate::track::PartitionState;
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
        let text = Metrics::new(&[track], Arc::default()).text();
        let name = "sluicegate_letters_by_reason_total{flow=\"status\",code=";
        assert!(text.contains(&format!("{name}\"code.00\"}} 3\n")), "{text}");
        assert!(text.contains(&format!("{name}\"other\"}} 20\n")), "{text}");
        assert_eq!(text.matches(name).count(), 51);
    }

    #[test]
    fn open_letters_of_rare_reasons_are_counted_together_and_none_are_no_series() {
        let track = Track::new("status");
        let metrics = Metrics::new(std::slice::from_ref(&track), Arc::default());
        track.set_open_letters((0..60).map(|number| (format!("code.{number:02}"), 100 - number)).collect());
        let (text, name) = (metrics.text(), "sluicegate_letters_open{flow=\"status\",code=");
        assert!(text.contains(&format!("{name}\"code.00\"}} 100\n")), "{text}");
        assert!(text.contains(&format!("{name}\"other\"}} {}\n", (41..=50).sum::<i64>())), "{text}");
        assert_eq!(text.matches(name).count(), 51);
        track.set_open_letters(Vec::new());
        assert!(!metrics.text().contains(name));
    }

    #[test]
    fn what_is_not_known_has_no_sample() {
        let track = Track::new("status");
        let metrics = Metrics::new(std::slice::from_ref(&track), Arc::default());
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
        let text = Metrics::new(&[track], Arc::default()).text();
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
