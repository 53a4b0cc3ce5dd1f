//! Made-up records into a flow's topic: from the command line with a progress bar, and over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::fault::{Failure, Fault};
use crate::flow;
use crate::kafka::Producer;
use crate::ops::{Sent, TestData};
use crate::progress::Progress;
use crate::rate::Rate;
use crate::trace::{self, Trace};
use crate::track::Track;

/// Progress is told every so many records.
const STEP: u64 = 10_000;
/// And so often, where a rate is kept.
const STEP_MAX: Duration = Duration::from_millis(100);
/// Between looks whether the last one is acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How records follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// So many a second; as fast as Kafka takes them without.
    pub per_s: Option<f64>,
    /// Each waits until the one before it is acknowledged, or is not going to be.
    pub one_by_one: bool,
    /// Each begins a trace, which is in its headers.
    pub is_traced: bool,
}

/// Sends records `0..count`, spread over the partitions in turn, and waits for each to be acknowledged.
fn send(
    config: &Config,
    name: &str,
    flow: &config::Flow,
    count: u64,
    manner: Manner,
    progress: &mut dyn FnMut(u64),
) -> Result<(Sent, Option<Fault>), Fault> {
    let sample = flow::sample(name)
        .ok_or_else(|| Fault::stop("produce.no_sample", format!("flow {name} has no test records")))?;
    let (brokers, topic) = (config.kafka.brokers.join(","), flow.sample_topic());
    let partitions = crate::kafka::admin::partitions_of(&brokers, &config.kafka.options, topic)? as u64;
    if partitions == 0 {
        let text = format!("there is no topic {topic}; `sluicegate init` makes it");
        return Err(Fault::retry("kafka.no_topic", text));
    }
    let mut options = config.kafka.options.clone();
    options.extend(flow.producer_options());
    let producer = Producer::new(&brokers, &options, topic).map_err(Fault::Stop)?;
    let (mut payload, mut rate, began) = (Vec::new(), manner.per_s.map(Rate::new), Instant::now());
    for number in 0..count {
        if let Some(rate) = &mut rate {
            let by = began.elapsed() + rate.next(began.elapsed());
            while let Some(left) = by.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
                progress(producer.delivered().0);
                std::thread::park_timeout(left.min(STEP_MAX));
            }
        }
        payload.clear();
        sample.payload(number, &mut payload);
        let key = sample.key(number);
        // A key says where a record goes; without one it is its turn that does.
        let partition = key.is_none().then_some((number % partitions) as i32);
        let mut headers = sample.headers(number);
        if manner.is_traced && !headers.iter().any(|(name, _)| *name == trace::HEADER) {
            headers.push((trace::HEADER, Trace::begin(name).to_string()));
        }
        producer.send_with(partition, key.as_deref().map(str::as_bytes), &payload, &headers)?;
        while manner.one_by_one && producer.answered() <= number {
            std::thread::park_timeout(LOOK_EVERY);
        }
        if number % STEP == 0 {
            progress(producer.delivered().0);
        }
    }
    let (sent, fault) = producer.finish();
    progress(sent.delivered);
    // What was neither acknowledged nor refused within the time did not arrive as far as anybody knows.
    let failed = count - sent.delivered.min(count);
    Ok((Sent { count: sent.delivered, failed, elapsed: sent.took }, fault))
}

pub fn produce(config: &Config, name: &str, count: u64, manner: Manner) -> Result<(), Failure> {
    let Some(flow) = config.flows.get(name) else {
        let known: Vec<&str> = config.flows.keys().map(String::as_str).collect();
        return Err(Failure::Refused(format!("\"{name}\" is not a flow; use {}", known.join(", "))));
    };
    let mut progress = Progress::new(count, "records acknowledged");
    let sent = send(config, name, flow, count, manner, &mut |delivered| progress.at(delivered));
    progress.finish();
    let (sent, fault) = sent.map_err(|fault| Failure::Failed(fault.to_string()))?;
    let seconds = sent.elapsed.as_secs_f64();
    let per_second = sent.count as f64 / seconds.max(0.001);
    println!("{} records into {} in {seconds:.2} s, {per_second:.0}/s", sent.count, flow.sample_topic());
    match sent.failed {
        0 => Ok(()),
        failed => {
            let why = fault.map_or("no answer in time".to_owned(), |fault| fault.to_string());
            Err(Failure::Failed(format!("{failed} records were not acknowledged: {why}")))
        }
    }
}

/// Test data over HTTP, counted in the flow's track.
pub struct ByRequest {
    pub config: Config,
    pub tracks: Vec<Arc<Track>>,
}

impl TestData for ByRequest {
    fn send(&self, name: &str, count: u64) -> Result<Sent, Fault> {
        let track = self.tracks.iter().find(|track| track.flow == name);
        let (Some(flow), Some(track)) = (self.config.flows.get(name), track) else {
            return Err(Fault::stop("produce.no_flow", format!("there is no flow {name}")));
        };
        let mut told = 0;
        let (sent, fault) = send(&self.config, name, flow, count, Manner::default(), &mut |delivered| {
            track.produced.add(delivered - told);
            told = delivered;
        })?;
        track.publish_failed.add(sent.failed);
        if let Some(fault) = fault {
            track.failed(fault.cause());
        }
        Ok(sent)
    }
}
