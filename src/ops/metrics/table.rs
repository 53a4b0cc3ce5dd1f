//! The table itself: a row for each metric, with where its value is read and what it means. How that becomes text is
//! not known here.

use prometheus::proto::MetricType;

use crate::ops::process::Process;
use crate::ops::tracking::{lag, offsets};
use crate::track::{GroupLag, PartitionState, PartitionTrack, Timing, Track};

/// Where a metric gets its value. This decides its type and its labels as well.
pub(super) enum Read {
    Count(fn(&Track) -> u64),
    Level(fn(&Track) -> Option<i64>),
    Seconds(fn(&Track) -> &Timing),
    /// Once for each word that the flow has for what a record came to.
    Outcomes,
    /// For flows that have this word.
    Outcome(&'static str),
    /// Once for each code of a reason.
    Letters,
    OpenLetters,
    Partition(fn(&PartitionTrack) -> Option<i64>),
    /// How long the next record has waited by now: of each partition, and the longest of a flow.
    Behind,
    FlowBehind,
    /// Of each partition of a group that others use.
    Group(fn(&GroupLag) -> Option<f64>),
    /// Once for each side of each flow.
    Dependency,
    Ready,
    Process(MetricType, fn(&Process) -> Option<f64>),
    Build,
}

use Read::{
    Behind, Build, Count, Dependency, FlowBehind, Group, Letters, Level, OpenLetters, Outcome, Outcomes, Partition,
    Ready, Seconds,
};

impl Read {
    pub(super) fn labels(&self) -> &'static [&'static str] {
        match self {
            Count(_) | Level(_) | Seconds(_) | Outcome(_) | FlowBehind => &["flow"],
            Partition(_) | Behind => &["flow", "topic", "partition"],
            Group(_) => &["group", "topic", "partition"],
            Letters | OpenLetters => &["flow", "code"],
            Dependency => &["flow", "dependency"],
            Outcomes => &["flow", "outcome"],
            Ready | Read::Process(..) => &[],
            Build => &["version"],
        }
    }

    pub(super) fn kind(&self) -> MetricType {
        match self {
            Count(_) | Outcomes | Outcome(_) | Letters => MetricType::COUNTER,
            Seconds(_) => MetricType::HISTOGRAM,
            Read::Process(kind, _) => *kind,
            Level(_) | OpenLetters | Partition(_) | Group(_) | Behind | FlowBehind | Dependency | Ready | Build => {
                MetricType::GAUGE
            }
        }
    }
}

pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) read: Read,
    pub(super) help: &'static str,
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
pub(super) const TABLE: &[Row] = &[
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
    row("sluicegate_held_keys", Level(|t| Some(t.held_keys.get())),
        "Keys that are stopped behind one of their records, over all instances, in flows that keep the order of keys."),
    row("sluicegate_parked_records", Level(|t| Some(t.parked_records.get())),
        "Records of such keys that are parked: read, and not in their table yet. No lag of a partition has them."),
    row("sluicegate_held_oldest_seconds", Level(|t| Some(t.held_oldest_s.get())),
        "How long the one of their heads that came first has stopped its key."),
    row("sluicegate_letters_total", Count(|t| t.set_aside.get()),
        "Records set aside as letters before their transaction; those that a flow decides on in it are not among them."),
    row("sluicegate_letters_written_total", Count(|t| t.letters().values().sum()),
        "Letters of every kind: the sum of the next, and there from the start."),
    row("sluicegate_letters_by_reason_total", Letters,
        "The same by the code of the reason, those included that a flow decides on in its transaction; after 50 codes, new ones are `other`."),
    row("sluicegate_letters_open", OpenLetters,
        "Letters that wait for a person, of all instances and of all time, by the code of the reason, counted every ten seconds; the 50 most frequent ones, and the rest as `other`. A reason without any has no sample."),
    row("sluicegate_transactions_retried_total", Count(|t| t.retried.get()),
        "Transactions tried again."),
    row("sluicegate_batches_fenced_total", Count(|t| t.fenced.get()),
        "Batches that are read again: the partition had another owner, or what they need is not there yet."),
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
        "Of one written batch: from the timestamp of its first record, which as a rule waited longest, until it was committed; of one that had to wait, from when it was due. Clocks of two machines may disagree."),
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
        "How long the next record has waited since its timestamp, or since it was due; until it has been read, counted from the last one that was written. 0 at the end."),
    row("sluicegate_partition_ledger_offset", Partition(|p| offsets(p).0),
        "The next offset by the ledger: everything before it is in PostgreSQL."),
    row("sluicegate_partition_end_offset", Partition(|p| offsets(p).1),
        "The end of the partition when the broker was last asked."),
    row("sluicegate_partition_ahead_records", Partition(|p| Some(p.ahead.get())),
        "Records read ahead of the ledger."),
    row("sluicegate_group_lag_records", Group(|lag| Some(lag.records as f64)),
        "Of groups named in lag.groups: records between what the group has committed and the end of the partition, looked at every 15 seconds."),
    row("sluicegate_group_lag_seconds", Group(|lag| lag.behind_ms.map(|behind_ms| behind_ms as f64 / 1e3)),
        "How long the record that comes next had waited then since its timestamp; 0 at the end."),
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
pub(super) const FORMER: &[Row] = &[
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

fn is_halted(partition: &PartitionTrack) -> bool {
    matches!(partition.state(), PartitionState::Halted(_))
}

fn known_lag(track: &Track) -> Option<i64> {
    track.partitions().iter().filter_map(|(_, partition)| lag(partition)).reduce(|sum, lag| sum + lag)
}
