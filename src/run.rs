//! `run` and `init`: configuration to running engines, and an orderly end. This is where Kafka, the flows and
//! the engine meet; each of them knows nothing of the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cli::Failure;
use crate::config::{Config, FlowConfig};
use crate::engine::{self, Backoff, Clock, Stop, Stopper, Thread};
use crate::fault::Cause;
use crate::flow::{self, Apply, Flow, Visit};
use crate::kafka::admin::{Made, create_topic};
use crate::kafka::{Consumer, ConsumerConfig, DemoBroker, Start};
use crate::ops::{api::Api, http::Server};
use crate::pg::Database;
use crate::produce::ByRequest;
use crate::track::{Side, Track};

/// Beyond the writers' own connections: claims, and the creation of tables.
const SPARE_SESSIONS: u32 = 2;
/// What the end of the process may take beyond the deadline for draining.
const EXIT_SLACK: Duration = Duration::from_millis(500);

pub fn run(mut config: Config, demo_broker: bool) -> Result<(), Failure> {
    let demo = demo_broker.then(|| start_demo_broker(&mut config)).transpose()?;
    let clock = Clock::real();
    let (stopper, stop) = Stop::new(&clock, config.shutdown_timeout);
    stop_on_signals(stopper)?;

    let tracks: Vec<Arc<Track>> = config.enabled_flows().map(|flow| Track::new(flow.name)).collect();
    if tracks.is_empty() {
        return Err(Failure::Configuration(vec!["no flow is enabled: set flows.<name>.enabled to true".into()]));
    }
    let test_data = ByRequest { config: config.clone(), tracks: tracks.clone() };
    let api = Arc::new(Api::new(tracks.clone(), Box::new(test_data), config.http_threads));
    let server = Server::start(&config.http_address, api, config.http_threads).map_err(Failure::World)?;
    log::info!("listening on http://{}", server.address());

    let mut started = Started { config: &config, clock: &clock, stop: &stop, tracks: &tracks, flows: Vec::new() };
    flow::each(&config, &mut started).map_err(|cause| Failure::Configuration(vec![cause.to_string()]))?;
    let flows = started.flows.into_iter().collect::<Result<Vec<Thread<()>>, Cause>>()?;

    while !stop.asked() {
        stop.pause(Duration::from_secs(3600));
    }
    log::info!("stopping, within {:?}", config.shutdown_timeout);
    let by = stop.deadline() + EXIT_SLACK;
    for flow in flows {
        if flow.join(&clock, by).is_none() {
            log::warn!("a flow did not end in time; what it holds will be read again");
        }
    }
    server.stop(by.saturating_sub(clock.now()));
    drop(demo);
    log::info!("stopped");
    // Threads that outlived the deadline, and librdkafka's own, are not waited for.
    #[allow(clippy::disallowed_methods)]
    std::process::exit(0)
}

/// Creates tables and topics that are missing.
pub fn init(config: &Config) -> Result<(), Failure> {
    struct Init<'a>(&'a Config, Vec<String>);
    impl Visit for Init<'_> {
        fn flow<F: Flow>(&mut self, config: &FlowConfig, flow: F) {
            let made = sink(self.0, config, flow)
                .and_then(|sink| sink.create_tables().map_err(|fault| fault.into_cause()))
                .and_then(|()| {
                    let (topic, options) = (&config.topic, &self.0.kafka_options);
                    let (partitions, replicas) = (config.partitions as i32, config.replication_factor as i32);
                    create_topic(&self.0.brokers, options, topic, partitions, replicas)
                        .map_err(|fault| fault.into_cause())
                });
            match made {
                Ok(Made::Created) => {
                    println!(
                        "{}: table {}, topic {} with {} partitions",
                        config.name, config.table, config.topic, config.partitions
                    );
                }
                Ok(Made::Existed(partitions)) => {
                    println!(
                        "{}: table {}, topic {} was there with {partitions} partitions",
                        config.name, config.table, config.topic
                    );
                }
                Err(cause) => self.1.push(format!("{}: {cause}", config.name)),
            }
        }
    }
    let mut init = Init(config, Vec::new());
    flow::each(config, &mut init).map_err(|cause| Failure::Configuration(vec![cause.to_string()]))?;
    match init.1.is_empty() {
        true => Ok(()),
        false => Err(Failure::World(init.1.join("\nerror: "))),
    }
}

fn start_demo_broker(config: &mut Config) -> Result<DemoBroker, Failure> {
    let demo = DemoBroker::start()?;
    for flow in config.enabled_flows() {
        demo.create_topic(&flow.topic, flow.partitions as i32)?;
    }
    config.brokers = demo.brokers();
    // Its offsets start again with every process, and so must the ledger.
    config.flows.iter_mut().for_each(|flow| flow.group_id = format!("{}-demo", flow.group_id));
    log::warn!("demo: Kafka is a mock inside this process; its records live in memory and end with it");
    Ok(demo)
}

/// The first signal gives the order to stop; the second ends the process at once.
fn stop_on_signals(stopper: Stopper) -> Result<(), Failure> {
    let (stopper, asked) = (Mutex::new(Some(stopper)), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::AcqRel) {
            #[allow(clippy::disallowed_methods)] // the user wants it to end now
            std::process::exit(130);
        }
        stopper.lock().unwrap_or_else(PoisonError::into_inner).take();
    })
    .map_err(|error| Failure::World(format!("signals cannot be handled: {error}")))
}

/// Starts a thread for each flow.
struct Started<'a> {
    config: &'a Config,
    clock: &'a Clock,
    stop: &'a Stop,
    tracks: &'a [Arc<Track>],
    flows: Vec<Result<Thread<()>, Cause>>,
}

impl Visit for Started<'_> {
    fn flow<F: Flow>(&mut self, config: &FlowConfig, flow: F) {
        let thread = self.start(config, flow);
        self.flows.push(thread);
    }
}

impl Started<'_> {
    fn start<F: Flow>(&self, config: &FlowConfig, flow: F) -> Result<Thread<()>, Cause> {
        let name = flow.name();
        let track = self.tracks.iter().find(|track| track.flow == name);
        let track = track.ok_or_else(|| Cause::new("flow.untracked", format!("flow {name} has no track")))?.clone();
        let sink = Arc::new(sink(self.config, config, flow)?);
        let consumer = Consumer::new(&consumer_config(self.config, config))?;
        let (clock, stop, policy) = (self.clock.clone(), self.stop.clone(), config.policy.clone());
        Ok(self.clock.spawn(format!("{name}-intake"), move || {
            let mut backoff = Backoff::new(&clock, policy.backoff_min, policy.backoff_max);
            while let Err(fault) = sink.create_tables() {
                track.troubled(Side::Sink, fault.cause());
                stop.pause(backoff.next_pause());
                if stop.asked() {
                    return;
                }
            }
            track.recovered(Side::Sink);
            engine::run(consumer, sink, policy, clock, stop, track);
        }))
    }
}

fn sink<F: Flow>(config: &Config, flow_config: &FlowConfig, flow: F) -> Result<Apply<F>, Cause> {
    let tls = config.target.tls().map_err(|text| Cause::new("config.tls", text))?;
    let sessions = flow_config.policy.writers as u32 + SPARE_SESSIONS;
    let owner = format!("process {}", std::process::id());
    let application = format!("sluicegate {}", flow.name());
    let database = Database::new(config.target.config(&application), tls, &config.session, sessions);
    Ok(Apply::new(flow, database, owner, flow_config.exactly_once))
}

fn consumer_config(config: &Config, flow: &FlowConfig) -> ConsumerConfig {
    ConsumerConfig {
        brokers: config.brokers.clone(),
        group_id: flow.group_id.clone(),
        topics: vec![flow.topic.clone()],
        start: if flow.start_latest { Start::Latest } else { Start::Earliest },
        session_timeout_ms: flow.session_timeout_ms,
        fetch_memory_bytes: flow.fetch_memory_bytes,
        partitions: flow.partitions,
        options: config.kafka_options.clone(),
    }
}
