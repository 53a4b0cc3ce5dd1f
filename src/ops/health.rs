//! What `/health` says of the two ends of the program, in the words of the Python sink whose watchers ask for it, and what
//! `/status` says of the whole. A password is in neither: only the database's name is ever here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::api::Reason;
use super::tracking::{self, Counts};
use crate::track::{Side, Track};

/// Of the side that is written to.
#[derive(Clone, Debug, Default)]
pub struct SinkFacts {
    pub database: Option<String>,
    /// The most connections open at once.
    pub sessions_max: u32,
}

/// The consumers of all flows as one, and the writers.
pub fn components(tracks: &[Arc<Track>], sink: &SinkFacts, reasons: &[Reason]) -> Value {
    let is_sink = |reason: &&Reason| reason.what == Side::Sink.name();
    let word = |is_well: bool| if is_well { "healthy" } else { "unhealthy" };
    let is_writer_well = !reasons.iter().any(|reason| is_sink(&reason));
    let is_consumer_well = reasons.iter().all(|reason| is_sink(&reason));
    let (mut topics, mut partitions, mut lag) = (BTreeSet::new(), 0, Some(0));
    for track in tracks {
        for (name, partition) in track.partitions() {
            topics.insert(name.topic.to_string());
            partitions += 1;
            lag = lag.zip(tracking::lag(&partition)).map(|(sum, more)| sum + more);
        }
    }
    let lag = lag.filter(|_| tracks.iter().all(|track| track.is_joined()));
    json!({
        "consumer": {
            "status": word(is_consumer_well), "topics": topics, "partitions": partitions, "lag": lag,
        },
        "writer": {
            "status": word(is_writer_well), "database": sink.database,
            "connection": if is_writer_well { "ok" } else { "failed" }, "pool_size": sink.sessions_max,
        },
    })
}

/// Everything counted since the start, flow by flow.
pub fn status(tracks: &[Arc<Track>], sink: &SinkFacts, reasons: &[Reason], uptime: Duration) -> Value {
    let flow = |track: &Arc<Track>| {
        let partitions = track.partitions();
        let lag: Option<i64> = partitions.iter().map(|(_, partition)| tracking::lag(partition)).sum();
        let error = track
            .last_error()
            .map(|(at, cause)| json!({ "time": super::rfc3339(at), "code": cause.code, "text": cause.text }));
        let status = json!({
            "counters": Counts::of(track), "outcomes": track.outcomes(), "transactions": track.groups.get(),
            "batches_waiting": track.batches_waiting.get(), "active_writers": track.active_writers.get(),
            "held_keys": track.held_keys.get(), "parked_records": track.parked_records.get(),
            "partitions": partitions.len(), "lag": lag.filter(|_| track.is_joined()), "last_error": error,
        });
        (track.flow.clone(), status)
    };
    json!({
        "status": if reasons.is_empty() { "ok" } else { "degraded" },
        "version": env!("CARGO_PKG_VERSION"),
        "timestamp": super::rfc3339(SystemTime::now()),
        "uptime_seconds": uptime.as_secs(),
        "reasons": reasons,
        "components": components(tracks, sink, reasons),
        "flows": tracks.iter().map(flow).collect::<BTreeMap<String, Value>>(),
    })
}
