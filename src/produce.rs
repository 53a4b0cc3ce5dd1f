//! Made-up records into a flow's topic: from the command line with a progress bar, over HTTP, and as a service of their
//! own that goes on until it is told to stop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::engine::{Backoff, Clock, Stop};
use crate::fault::{Cause, Failure, Fault};
use crate::flow::{self, Sample};
use crate::kafka::{Numbered, Producer};
use crate::ops::{Api, Sent, SinkFacts, TestData};
use crate::progress::Progress;
use crate::rate::Rate;
use crate::run::{EXIT_SLACK, listen, stop_on_signals};
use crate::trace::{self, Trace};
use crate::track::{Side, Track};

/// Where a producer of its own shows its metrics, unless somebody says otherwise.
pub const PORT_USUAL: u16 = 2112;
/// Progress is told every so many records.
const STEP: u64 = 10_000;
/// And so often, where a rate is kept.
const STEP_MAX: Duration = Duration::from_millis(100);
/// Between looks whether the last one is acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// With records under way and none acknowledged for this long, Kafka is in trouble.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How records follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// So many a second; as fast as Kafka takes them without.
    pub per_s: Option<f64>,
    /// Each waits until the one before it is acknowledged, or is not going to be.
    pub one_by_one: bool,
    /// So many keys at once, where records have keys.
    pub keys: Option<u64>,
    /// Each begins a trace, which is in its headers.
    pub is_traced: bool,
}

/// How many records, and for how long: whichever is reached first. Without both there is no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    pub count: Option<u64>,
    pub duration: Option<Duration>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    sent: u64,
    delivered: u64,
    failed: u64,
}

/// One run of made-up records.
struct Run<'a> {
    config: &'a Config,
    name: &'a str,
    flow: &'a config::Flow,
    extent: Extent,
    manner: Manner,
    /// Where it goes on until it is told to stop: nothing is given up before that.
    stop: Option<&'a Stop>,
}

impl Run<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.is_some_and(Stop::asked)
    }

    fn producer(&self) -> Result<(Producer, u64), Fault> {
        let (brokers, topic) = (self.config.kafka.brokers.join(","), self.flow.sample_topic());
        let partitions = crate::kafka::admin::partitions_of(&brokers, &self.config.kafka.options, topic)? as u64;
        if partitions == 0 {
            let text = format!("there is no topic {topic}; `sluicegate init` makes it");
            return Err(Fault::retry("kafka.no_topic", text));
        }
        let mut options = self.config.kafka.options.clone();
        options.extend(self.flow.producer_options());
        let new = if self.stop.is_some() { Producer::lasting } else { Producer::new };
        Ok((new(&brokers, &options, topic).map_err(Fault::Stop)?, partitions))
    }

    /// Sends records from number 0 on, those without a key spread over the partitions in turn, and waits for each to be
    /// acknowledged.
    fn send(&self, progress: &mut dyn FnMut(At)) -> Result<(Sent, Option<Fault>), Fault> {
        let sample = flow::sample(self.name, self.manner.keys)
            .ok_or_else(|| Fault::stop("produce.no_sample", format!("flow {} has no test records", self.name)))?;
        let (mut producer, partitions) = self.producer()?;
        let at = |producer: &Producer, sent: u64| {
            let (delivered, failed) = producer.delivered();
            At { sent, delivered, failed }
        };
        let (mut rate, began) = (self.manner.per_s.map(Rate::new), Instant::now());
        let is_over = || self.extent.duration.is_some_and(|duration| began.elapsed() >= duration);
        // What was made and has to be sent, again or at last, comes before all that is new.
        let (mut sent, mut waiting, mut due) = (0, VecDeque::new(), None);
        progress(at(&producer, sent));
        while self.goes_on() {
            let wait = if !waiting.is_empty() {
                Duration::ZERO
            } else if self.extent.count.is_some_and(|count| sent >= count) || is_over() {
                if self.stop.is_none() || producer.answered() >= sent {
                    break;
                }
                LOOK_EVERY
            } else if self.manner.one_by_one && producer.answered() < sent {
                LOOK_EVERY
            } else {
                let now = began.elapsed();
                let due = due.get_or_insert_with(|| rate.as_mut().map_or(now, |rate| now + rate.next(now)));
                due.saturating_sub(now).min(STEP_MAX)
            };
            if !wait.is_zero() {
                std::thread::park_timeout(wait);
                progress(at(&producer, sent));
                self.look(&mut producer, &mut waiting);
                continue;
            }
            let record = waiting.pop_front().unwrap_or_else(|| Arc::new(self.make(&*sample, sent, partitions)));
            let mut may_wait = || {
                progress(at(&producer, sent));
                self.goes_on()
            };
            if !producer.send_numbered(&record, &mut may_wait)? {
                waiting.push_front(record);
                std::thread::park_timeout(LOOK_EVERY);
                self.look(&mut producer, &mut waiting);
                continue;
            }
            if record.number == sent {
                (sent, due) = (sent + 1, None);
            }
            if sent % STEP == 1 {
                progress(at(&producer, sent));
            }
        }
        progress(at(&producer, sent));
        // What an order to stop finds waiting is still tried.
        for record in &waiting {
            if !producer.send_numbered(record, &mut || false)? {
                break;
            }
        }
        let (done, fault) = match self.stop {
            Some(stop) if stop.asked() => producer.finish_within(stop.left()),
            _ => producer.finish(),
        };
        progress(At { sent, delivered: done.delivered, failed: done.failed });
        // What was neither acknowledged nor refused within the time did not arrive as far as anybody knows.
        let failed = sent - done.delivered.min(sent);
        Ok((Sent { count: done.delivered, failed, elapsed: done.took }, fault))
    }

    fn make(&self, sample: &dyn Sample, number: u64, partitions: u64) -> Numbered {
        let (key, mut headers, mut payload) = (sample.key(number), sample.headers(number), Vec::new());
        sample.payload(number, &mut payload);
        if self.manner.is_traced && !headers.iter().any(|(name, _)| *name == trace::HEADER) {
            headers.push((trace::HEADER, Trace::begin(self.name).to_string()));
        }
        // A key says where a record goes; without one it is its turn that does.
        let partition = key.is_none().then_some((number % partitions) as i32);
        Numbered { number, partition, key, payload, headers }
    }

    /// Whether another client has taken the place of the producer's own: then what that one owes is sent again.
    fn look(&self, producer: &mut Producer, waiting: &mut VecDeque<Arc<Numbered>>) {
        if self.stop.is_some() {
            // All of these come before what waits already.
            producer.renewed().into_iter().flatten().rev().for_each(|record| waiting.push_front(record));
        }
    }
}

pub fn produce(config: &Config, name: &str, extent: Extent, manner: Manner) -> Result<(), Failure> {
    let flow = known(config, name, manner)?;
    let mut progress = Progress::new(extent.count, "records acknowledged");
    let run = Run { config, name, flow, extent, manner, stop: None };
    let sent = run.send(&mut |at| progress.at(at.delivered));
    progress.finish();
    told(sent.map_err(|fault| Failure::Failed(fault.to_string()))?, flow.sample_topic())
}

fn known<'a>(config: &'a Config, name: &str, manner: Manner) -> Result<&'a config::Flow, Failure> {
    let Some(flow) = config.flows.get(name) else {
        let known: Vec<&str> = config.flows.keys().map(String::as_str).collect();
        return Err(Failure::Refused(format!("\"{name}\" is not a flow; use {}", known.join(", "))));
    };
    let has_keys = flow::sample(name, None).is_some_and(|sample| sample.key(0).is_some());
    match manner.keys.is_some() && !has_keys {
        true => Err(Failure::Refused(format!("--keys: records of {name} have no key"))),
        false => Ok(flow),
    }
}

fn told((sent, fault): (Sent, Option<Fault>), topic: &str) -> Result<(), Failure> {
    let seconds = sent.elapsed.as_secs_f64();
    let per_second = sent.count as f64 / seconds.max(0.001);
    println!("{} records into {topic} in {seconds:.2} s, {per_second:.0}/s", sent.count);
    match sent.failed {
        0 => Ok(()),
        failed => {
            let why = fault.map_or("no answer in time".to_owned(), |fault| fault.to_string());
            Err(Failure::Failed(format!("{failed} records were not acknowledged: {why}")))
        }
    }
}

/// The same as a service: health and metrics over HTTP, until its extent is reached or a signal comes. While Kafka is away
/// it waits for it, with its records in their order.
pub fn serve(config: Config, name: &str, extent: Extent, manner: Manner) -> Result<(), Failure> {
    let topic = known(&config, name, manner)?.sample_topic().to_owned();
    let clock = Clock::real();
    let (stopper, stop) = Stop::new(&clock, config.shutdown_timeout);
    stop_on_signals(stopper)?;
    let track = Track::new(name);
    let test_data = ByRequest { config: config.clone(), tracks: vec![track.clone()] };
    let api = Api::new(vec![track.clone()], Arc::new(test_data), Vec::new(), SinkFacts::default());
    let server = config.http.enabled.then(|| listen(&config, api)).transpose()?;
    let sent = feed(&config, name, extent, manner, &clock, &stop, &track);
    server.map(|server| server.stop(EXIT_SLACK));
    match sent {
        Ok(sent) => told(sent, &topic),
        Err(fault) => Err(Failure::Failed(fault.to_string())),
    }
}

/// Sends until the extent is reached or the order to stop comes, and counts in the track what becomes of it.
pub fn feed(
    config: &Config,
    name: &str,
    extent: Extent,
    manner: Manner,
    clock: &Clock,
    stop: &Stop,
    track: &Track,
) -> Result<(Sent, Option<Fault>), Fault> {
    let flow = config.flows.get(name);
    let flow = flow.ok_or_else(|| Fault::stop("produce.no_flow", format!("there is no flow {name}")))?;
    let run = Run { config, name, flow, extent, manner, stop: Some(stop) };
    let mut backoff = Backoff::new(clock, flow.backoff_min, flow.backoff_max);
    loop {
        let (mut before, mut heard) = (At::default(), clock.now());
        let sent = run.send(&mut |at| {
            track.joined();
            track.produced.add(at.delivered - before.delivered);
            track.publish_failed.add(at.failed - before.failed);
            let answered = at.delivered + at.failed;
            if answered > before.delivered + before.failed || answered == at.sent {
                heard = clock.now();
                track.recovered(Side::Source);
            } else if clock.now() - heard > SILENCE_MAX && track.trouble(Side::Source).is_none() {
                let text = format!("no record was acknowledged for {SILENCE_MAX:?}");
                track.troubled(Side::Source, &Cause::new("kafka.silent", text));
            }
            before = at;
        });
        match sent {
            Err(Fault::Retry(cause)) if !stop.asked() => {
                track.troubled(Side::Source, &cause);
                stop.pause(backoff.next_pause());
            }
            Ok((sent, fault)) => {
                if let Some(fault) = &fault {
                    track.failed(fault.cause());
                }
                return Ok((sent, fault));
            }
            Err(fault) => return Err(fault),
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
        let extent = Extent { count: Some(count), duration: None };
        let run = Run { config: &self.config, name, flow, extent, manner: Manner::default(), stop: None };
        let (sent, fault) = run.send(&mut |at| {
            track.produced.add(at.delivered - told);
            told = at.delivered;
        })?;
        track.publish_failed.add(sent.failed);
        if let Some(fault) = fault {
            track.failed(fault.cause());
        }
        Ok(sent)
    }
}
