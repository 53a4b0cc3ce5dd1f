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

    /// At number 0, with a producer.
    fn begin(&self) -> Result<Sending<'_>, Fault> {
        let sample = flow::sample(self.name, self.manner.keys)
            .ok_or_else(|| Fault::stop("produce.no_sample", format!("flow {} has no test records", self.name)))?;
        let (producer, partitions) = self.producer()?;
        let (rate, began) = (self.manner.per_s.map(Rate::new), Instant::now());
        Ok(Sending {
            run: self,
            sample,
            producer,
            partitions,
            rate,
            began,
            sent: 0,
            waiting: VecDeque::new(),
            due: None,
        })
    }

    /// Sends all of them, and waits for each to be acknowledged.
    fn send(&self, progress: &mut dyn FnMut(At)) -> Result<(Sent, Option<Fault>), Fault> {
        let mut sending = self.begin()?;
        sending.go_on(progress)?;
        sending.finish(progress)
    }
}

/// A run that is under way.
struct Sending<'a> {
    run: &'a Run<'a>,
    sample: Box<dyn Sample>,
    producer: Producer,
    partitions: u64,
    rate: Option<Rate>,
    began: Instant,
    sent: u64,
    /// What was made and has to be sent, again or at last: it comes before all that is new.
    waiting: VecDeque<Arc<Numbered>>,
    /// When the next one may be.
    due: Option<Duration>,
}

impl Sending<'_> {
    fn at(&self) -> At {
        let (delivered, failed) = self.producer.delivered();
        At { sent: self.sent, delivered, failed }
    }

    fn is_over(&self) -> bool {
        let Extent { count, duration } = self.run.extent;
        count.is_some_and(|count| self.sent >= count)
            || duration.is_some_and(|duration| self.began.elapsed() >= duration)
    }

    /// Sends records, those without a key spread over the partitions in turn, until the extent is reached or it is told to stop.
    /// After a fault it goes on where it was.
    fn go_on(&mut self, progress: &mut dyn FnMut(At)) -> Result<(), Fault> {
        progress(self.at());
        while self.run.goes_on() {
            let wait = if !self.waiting.is_empty() {
                Duration::ZERO
            } else if self.is_over() {
                if self.run.stop.is_none() || self.producer.answered() >= self.sent {
                    break;
                }
                LOOK_EVERY
            } else if self.run.manner.one_by_one && self.producer.answered() < self.sent {
                LOOK_EVERY
            } else {
                let (now, rate) = (self.began.elapsed(), &mut self.rate);
                let due = self.due.get_or_insert_with(|| rate.as_mut().map_or(now, |rate| now + rate.next(now)));
                due.saturating_sub(now).min(STEP_MAX)
            };
            if !wait.is_zero() {
                std::thread::park_timeout(wait);
                progress(self.at());
                self.look();
                continue;
            }
            let record = self.waiting.pop_front().unwrap_or_else(|| Arc::new(self.make()));
            let mut may_wait = || {
                progress(self.at());
                self.run.goes_on()
            };
            match self.producer.send_numbered(&record, &mut may_wait) {
                Ok(true) if record.number == self.sent => (self.sent, self.due) = (self.sent + 1, None),
                Ok(true) => {}
                Ok(false) => {
                    self.waiting.push_front(record);
                    std::thread::park_timeout(LOOK_EVERY);
                    self.look();
                    continue;
                }
                Err(fault) => {
                    self.waiting.push_front(record);
                    return Err(fault);
                }
            }
            if self.sent % STEP == 1 {
                progress(self.at());
            }
        }
        progress(self.at());
        Ok(())
    }

    /// Waits for what is not acknowledged, as long as it may.
    fn finish(self, progress: &mut dyn FnMut(At)) -> Result<(Sent, Option<Fault>), Fault> {
        // What an order to stop finds waiting is still tried.
        for record in &self.waiting {
            if !self.producer.send_numbered(record, &mut || false)? {
                break;
            }
        }
        let (done, fault) = match self.run.stop {
            Some(stop) if stop.asked() => self.producer.finish_within(stop.left()),
            _ => self.producer.finish(),
        };
        progress(At { sent: self.sent, delivered: done.delivered, failed: done.failed });
        // What was neither acknowledged nor refused within the time did not arrive as far as anybody knows.
        let failed = self.sent - done.delivered.min(self.sent);
        Ok((Sent { count: done.delivered, failed, elapsed: done.took }, fault))
    }

    fn make(&self) -> Numbered {
        let (sample, number) = (&*self.sample, self.sent);
        let (key, mut headers, mut payload) = (sample.key(number), sample.headers(number), Vec::new());
        sample.payload(number, &mut payload);
        if self.run.manner.is_traced && !headers.iter().any(|(name, _)| *name == trace::HEADER) {
            headers.push((trace::HEADER, Trace::begin(self.run.name).to_string()));
        }
        // A key says where a record goes; without one it is its turn that does.
        let partition = key.is_none().then_some((number % self.partitions) as i32);
        Numbered { number, partition, key, payload, headers }
    }

    /// Whether another client has taken the place of the producer's own: then what that one owes is sent again.
    fn look(&mut self) {
        if self.run.stop.is_some() {
            // All of these come before what waits already.
            let again = self.producer.renewed().into_iter().flatten();
            again.rev().for_each(|record| self.waiting.push_front(record));
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
    let api = Api::new(vec![track.clone()], Arc::new(test_data), Vec::new(), SinkFacts::default(), Arc::default());
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
    let (mut before, mut heard) = (At::default(), clock.now());
    let mut progress = |at: At| {
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
    };
    let mut wait = |fault: Fault| match fault {
        Fault::Retry(cause) if !stop.asked() => {
            track.troubled(Side::Source, &cause);
            stop.pause(backoff.next_pause());
            Ok(())
        }
        fault => Err(fault),
    };
    let mut sending = loop {
        match run.begin() {
            Ok(sending) => break sending,
            Err(fault) => wait(fault)?,
        }
    };
    // Where it was: records sent anew from the first one on would be in their topic twice, and out of their sequence.
    while let Err(fault) = sending.go_on(&mut progress) {
        wait(fault)?;
    }
    let (sent, fault) = sending.finish(&mut progress)?;
    if let Some(fault) = &fault {
        track.failed(fault.cause());
    }
    Ok((sent, fault))
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::Sources;

    #[test]
    fn after_a_fault_a_run_goes_on_where_it_was() {
        let cluster = MockCluster::new(1).unwrap();
        let environment = [
            ("KAFKA_BROKERS", cluster.bootstrap_servers()),
            ("DB_URL", "postgres://nobody@127.0.0.1:1/nothing".to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_TOPIC", "t".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
        let config = Sources { file: None, flows: Vec::new(), environment, folder }.load().unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let (_stopper, stop) = Stop::new(&Clock::real(), Duration::from_secs(30));
        let run = |count| Run {
            config: &config,
            name: "status",
            flow: &config.flows["status"],
            extent: Extent { count: Some(count), duration: None },
            manner: Manner::default(),
            stop: Some(&stop),
        };
        let (first, all) = (run(5), run(10));
        let mut sending = first.begin().unwrap();
        sending.go_on(&mut |_| ()).unwrap();
        sending.run = &all;
        let too_large = Numbered { number: 5, payload: vec![0; 2 << 20], ..Numbered::default() };
        sending.waiting.push_back(Arc::new(too_large));
        let fault = sending.go_on(&mut |_| ()).unwrap_err();
        assert!(matches!(&fault, Fault::Retry(cause) if cause.code == "kafka.messagesizetoolarge"), "{fault:?}");
        assert_eq!((sending.sent, sending.waiting.len()), (5, 1), "it has its turn again");
        sending.waiting.clear();
        sending.go_on(&mut |_| ()).unwrap();
        let (sent, fault) = sending.finish(&mut |_| ()).unwrap();
        assert_eq!((sent.count, sent.failed, fault), (10, 0, None));
    }
}
