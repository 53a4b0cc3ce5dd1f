//! `run` and `init`: configuration to running engines, and an orderly end. This is where Kafka, the flows and
//! the engine meet; each of them knows nothing of the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Config, SPARE_SESSIONS};
use crate::engine::{self, Backoff, Clock, Policy, Stop, Stopper, Thread};
use crate::fault::{Cause, Failure};
use crate::flow::{self, Apply, Flow, Replay, Visit};
use crate::kafka::admin::{Made, create_topic};
use crate::kafka::{Consumer, ConsumerConfig, DemoBroker, Publisher, Start};
use crate::letters::Letters;
use crate::letters::service::{LettersOverHttp, patience};
use crate::ops::{Api, Server, Service, SinkFacts, Stats, otlp};
use crate::outlet::Outlet;
use crate::pg::{Database, SessionOptions};
use crate::produce::{self, ByRequest, Extent, Manner};
use crate::trace::Courses;
use crate::track::{Groups, Side, Track};
use crate::watch;

/// Two of them stay free for health and metrics.
const HTTP_THREADS: usize = 4;
/// Between looks at the end offsets and the ledger.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A claim waits for its former owner's locks, and then ends that session: longer than both.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
/// Longer than a broker takes to answer a fetch, or to choose a new leader, by far.
const STALL_AFTER: Duration = Duration::from_secs(15);
/// Intake is never busy for longer, but for the time that a revoked partition may take.
const POLL_INTERVAL_MIN: Duration = Duration::from_secs(60);
/// Whoever holds a partition's row longer than this while another instance claims it is taken for frozen.
const CLAIM_LOCK_TIMEOUT_MAX: Duration = Duration::from_secs(3);
/// Somebody waits for the answer, and may ask again.
const CALLERS_PATIENCE: Duration = Duration::from_secs(5);
/// Nobody waits, and what failed is sent again with all that came behind it.
const RELAY_PATIENCE: Duration = Duration::from_secs(60);
const STATS_EVERY: Duration = Duration::from_secs(10);
/// What the end of the process may take beyond the deadline for draining.
pub const EXIT_SLACK: Duration = Duration::from_millis(500);

pub fn run(mut config: Config, demo_broker: bool) -> Result<(), Failure> {
    let demo = demo_broker.then(|| start_demo_broker(&mut config)).transpose()?;
    let clock = Clock::real();
    let (stopper, stop) = Stop::new(&clock, config.shutdown_timeout);
    stop_on_signals(stopper)?;

    let tracks: Vec<Arc<Track>> = config.enabled().map(|(name, _)| Track::new(name)).collect();
    // Whoever collects spans has to hear of the last batches too: this order comes when the flows have ended.
    let (spans_stopper, spans_stop) = Stop::new(&clock, config.shutdown_timeout);
    let spans = collect_spans(&config, &tracks, &clock, &spans_stop);
    let groups = Arc::<Groups>::default();
    let server = config.http.enabled.then(|| serve(&config, &tracks, &groups)).transpose()?;
    watch::start(&config, groups, &clock, stop.clone())?;

    let mut started = Started {
        config: &config,
        is_demo: demo_broker,
        clock: &clock,
        stop: &stop,
        tracks: &tracks,
        outlet: outlet(&config, RELAY_PATIENCE)?,
        flows: Vec::new(),
    };
    flow::each(&config, &mut started).map_err(|cause| Failure::Refused(cause.to_string()))?;
    let flows = started.flows.into_iter().collect::<Result<Vec<Thread<()>>, Cause>>()?;

    let feeds: Vec<Thread<()>> = config
        .enabled()
        .zip(&tracks)
        .filter(|((_, flow), _)| flow.produce_per_s > 0)
        .map(|((name, flow), track)| fed(&config, name, flow, &clock, &stop, track))
        .collect();

    let mut stats: Vec<Stats> = tracks.iter().map(|track| Stats::new(track.clone(), clock.now())).collect();
    while !stop.asked() {
        stop.pause(STATS_EVERY);
        for (stats, track) in stats.iter_mut().zip(&tracks) {
            stats.line(clock.now()).into_iter().for_each(|line| log::info!(flow = track.flow.as_str(); "{line}"));
        }
    }
    log::info!("stopping, within {:?}", config.shutdown_timeout);
    let by = stop.deadline() + EXIT_SLACK;
    for flow in feeds.into_iter().chain(flows) {
        if flow.join(&clock, by).is_none() {
            log::warn!("a flow did not end in time; what it holds will be read again");
        }
    }
    drop(spans_stopper);
    if let Some(server) = server {
        server.stop(by.saturating_sub(clock.now()));
    }
    spans.map(|spans| spans.join(&clock, by));
    drop(demo);
    log::info!("stopped");
    // Threads that outlived the deadline, and librdkafka's own, are not waited for.
    #[allow(clippy::disallowed_methods)]
    std::process::exit(0)
}

/// Made-up records for a flow, beside the flow itself.
fn fed(config: &Config, name: &str, flow: &config::Flow, clock: &Clock, stop: &Stop, track: &Arc<Track>) -> Thread<()> {
    let (name, config, ours) = (name.to_owned(), config.clone(), (clock.clone(), stop.clone(), track.clone()));
    let manner = Manner { per_s: Some(f64::from(flow.produce_per_s)), ..Manner::default() };
    clock.spawn(format!("{name}-produce"), move || {
        let (clock, stop, track) = ours;
        if let Err(fault) = produce::feed(&config, &name, Extent::default(), manner, &clock, &stop, &track) {
            log::error!(flow = name.as_str(), code = &*fault.cause().code; "nothing is produced: {fault}");
            track.failed(fault.cause());
        }
    })
}

/// A thread that tells the collector what batches go through, where there is one.
fn collect_spans(config: &Config, tracks: &[Arc<Track>], clock: &Clock, stop: &Stop) -> Option<Thread<()>> {
    let endpoint = config.tracing.otlp_endpoint.clone()?;
    let (to, courses) = crossbeam_channel::bounded(otlp::WAITING_MAX);
    let told = Arc::new(Courses { to, ratio: config.tracing.sample_ratio });
    tracks.iter().for_each(|track| drop(track.courses.set(told.clone())));
    let stop = stop.clone();
    Some(clock.spawn("spans".to_owned(), move || otlp::send_all(&endpoint, &courses, &stop)))
}

/// Starts to answer over HTTP.
fn serve(config: &Config, tracks: &[Arc<Track>], groups: &Arc<Groups>) -> Result<Server, Failure> {
    let test_data = ByRequest { config: config.clone(), tracks: tracks.to_vec() };
    let for_callers = outlet(config, CALLERS_PATIENCE)?;
    let database = config.postgres.target.config.get_dbname().map(str::to_owned);
    let sink = SinkFacts { database, sessions_max: config.postgres.connections_max };
    let services = services(config, tracks, for_callers.as_ref())?;
    listen(config, Api::new(tracks.to_vec(), Arc::new(test_data), services, sink, groups.clone()))
}

pub fn listen(config: &Config, api: Arc<Api>) -> Result<Server, Failure> {
    let address = (config.http.host.as_str(), config.http.port);
    let server = Server::start(address, api, HTTP_THREADS)
        .map_err(|error| Failure::Failed(format!("http {}:{}: {error}", address.0, address.1)))?;
    log::info!("listening on http://{}", server.local_addr());
    Ok(server)
}

/// A publisher for all flows that have something to tell, where there are such. What is not acknowledged within `patience`
/// has failed.
fn outlet(config: &Config, patience: Duration) -> Result<Option<Arc<dyn Outlet>>, Cause> {
    if !config.enabled().any(|(name, _)| flow::publishes(name)) {
        return Ok(None);
    }
    let publisher = Publisher::new(&config.kafka.brokers.join(","), &config.kafka.options, patience)?;
    Ok(Some(Arc::new(publisher)))
}

/// What can be asked over HTTP: of letters, and of the enabled flows.
fn services(
    config: &Config,
    tracks: &[Arc<Track>],
    outlet: Option<&Arc<dyn Outlet>>,
) -> Result<Vec<Arc<dyn Service>>, Cause> {
    let letters = Arc::new(letters(config, tracks, patience)?);
    let flows = config.flows.keys().cloned().collect();
    let mut services: Vec<Arc<dyn Service>> = vec![Arc::new(LettersOverHttp::new(letters, flows))];
    let Some(outlet) = outlet else { return Ok(services) };
    for ((name, flow), track) in config.enabled().zip(tracks) {
        let target = &config.postgres.target;
        let behind = flow::Behind {
            outlet: outlet.clone(),
            target: &target.config,
            tls: target.connector().map_err(|text| Cause::new("config.tls", text))?,
            track: track.clone(),
            sessions_max: config.sessions_for_calls(),
        };
        services.extend(flow::service(name, flow, behind));
    }
    Ok(services)
}

/// The letters of the enabled flows. `sessions`: what becomes of their usual options. A flow without a track
/// among these gets one that nobody reads.
pub fn letters(
    config: &Config,
    tracks: &[Arc<Track>],
    sessions: impl Fn(SessionOptions) -> SessionOptions,
) -> Result<Letters, Cause> {
    struct Made<'a, O> {
        config: &'a Config,
        tracks: &'a [Arc<Track>],
        sessions: O,
        flows: Vec<Result<Arc<dyn Replay>, Cause>>,
    }
    impl<O: Fn(SessionOptions) -> SessionOptions> Visit for Made<'_, O> {
        fn flow<F: Flow>(&mut self, config: &config::Flow, flow: F) {
            let track = self.tracks.iter().find(|track| track.flow == flow.name()).cloned();
            let track = track.unwrap_or_else(|| Track::new(flow.name()));
            let options = (self.sessions)(options(self.config, config));
            let database = database(self.config, "sluicegate letters", &options, self.config.sessions_for_calls());
            let replay = |database| Arc::new(Apply::new(flow, database, String::new(), true, track)) as Arc<dyn Replay>;
            self.flows.push(database.map(replay));
        }
    }
    let mut made = Made { config, tracks, sessions, flows: Vec::new() };
    flow::each(config, &mut made)?;
    // All flows wait alike; what a commit waits for does not matter to a mark on a letter.
    let usual = config.flows.values().next().map(|flow| (made.sessions)(options(config, flow)));
    let usual = usual.ok_or_else(|| Cause::new("flow.none", "there is no flow"))?;
    let database = database(config, "sluicegate letters", &usual, config.sessions_for_calls())?;
    Ok(Letters::new(database, made.flows.into_iter().collect::<Result<_, Cause>>()?))
}

/// Creates tables and topics that are missing.
pub fn init(config: &Config) -> Result<(), Failure> {
    struct Init<'a>(&'a Config, Vec<String>);
    impl Visit for Init<'_> {
        fn flow<F: Flow>(&mut self, config: &config::Flow, flow: F) {
            let name = flow.name();
            let create = |topic: &str| {
                let (kafka, partitions, replicas) = (&self.0.kafka, config.partitions, config.replication_factor);
                create_topic(&kafka.brokers.join(","), &kafka.options, topic, partitions, replicas)
                    .map_err(|fault| fault.into_cause())
            };
            let outlets = flow.outlets().into_iter().try_for_each(|topic| create(topic).map(drop));
            let own = Some(&config.topic).filter(|topic| !topic.is_empty());
            let made = outlets
                .and_then(|()| sink(self.0, config, flow, Track::new(name)))
                .and_then(|sink| sink.create_tables().map_err(|fault| fault.into_cause()))
                .and_then(|()| own.map(|topic| create(topic)).transpose());
            match made {
                Ok(None) => println!("{name}: its topics and tables are made by those who send and as they come"),
                Ok(Some(Made::Created)) => {
                    println!(
                        "{}: table {}, topic {} with {} partitions",
                        name, config.table, config.topic, config.partitions
                    );
                }
                Ok(Some(Made::Existed(partitions))) => {
                    println!(
                        "{}: table {}, topic {} was there with {partitions} partitions",
                        name, config.table, config.topic
                    );
                }
                Err(cause) => self.1.push(format!("{name}: {cause}")),
            }
        }
    }
    let mut init = Init(config, Vec::new());
    flow::each(config, &mut init).map_err(|cause| Failure::Refused(cause.to_string()))?;
    match init.1.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(init.1.join("\nerror: "))),
    }
}

fn start_demo_broker(config: &mut Config) -> Result<DemoBroker, Failure> {
    let demo = DemoBroker::start()?;
    for flow in config.flows.values_mut().filter(|flow| flow.enabled && !flow.topic.is_empty()) {
        // Its offsets start again with every process; under a name of its own the ledger does not mind.
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        flow.topic = format!("{}-demo-{now}", flow.topic);
        flow.producer_topic = None;
        flow.retry_topic_prefix = format!("{}-demo-{now}", flow.retry_topic_prefix);
        for topic in flow.retry_topics().iter().chain([&flow.topic]) {
            demo.create_topic(topic, flow.partitions)?;
        }
    }
    config.kafka.brokers = vec![demo.brokers()];
    log::warn!("demo: Kafka is a mock inside this process; its records live in memory and end with it");
    Ok(demo)
}

/// The first signal gives the order to stop; the second ends the process at once.
pub fn stop_on_signals(stopper: Stopper) -> Result<(), Failure> {
    let (stopper, asked) = (Mutex::new(Some(stopper)), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::AcqRel) {
            #[allow(clippy::disallowed_methods)] // the user wants it to end now
            std::process::exit(130);
        }
        stopper.lock().unwrap_or_else(PoisonError::into_inner).take();
    })
    .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))
}

/// Starts a thread for each flow.
struct Started<'a> {
    config: &'a Config,
    is_demo: bool,
    clock: &'a Clock,
    stop: &'a Stop,
    tracks: &'a [Arc<Track>],
    outlet: Option<Arc<dyn Outlet>>,
    flows: Vec<Result<Thread<()>, Cause>>,
}

impl Visit for Started<'_> {
    fn flow<F: Flow>(&mut self, config: &config::Flow, flow: F) {
        let thread = self.start(config, flow);
        self.flows.push(thread);
    }
}

impl Started<'_> {
    fn start<F: Flow>(&self, config: &config::Flow, flow: F) -> Result<Thread<()>, Cause> {
        let name = flow.name();
        let track = self.tracks.iter().find(|track| track.flow == name);
        let track = track.ok_or_else(|| Cause::new("flow.untracked", format!("flow {name} has no track")))?.clone();
        let publishes = !flow.outlets().is_empty();
        let consumer = consumer_config(self.config, config, &flow.inlets(), self.is_demo);
        let sink = Arc::new(sink(self.config, config, flow, track.clone())?);
        let outlet = self.outlet.clone().filter(|_| publishes);
        let consumer = Consumer::new(&consumer)?;
        let (clock, stop, policy) = (self.clock.clone(), self.stop.clone(), policy(config));
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
            let relay =
                outlet.map(|outlet| engine::relay(sink.clone(), outlet, backoff, &clock, stop.clone(), track.clone()));
            let aside = sink.clone().look_after(&clock, stop.clone());
            engine::run(consumer, sink, policy, clock.clone(), stop.clone(), track);
            for thread in relay.into_iter().chain([aside]) {
                thread.join(&clock, stop.deadline());
            }
        }))
    }
}

fn sink<F: Flow>(config: &Config, flow_config: &config::Flow, flow: F, track: Arc<Track>) -> Result<Apply<F>, Cause> {
    let sessions_max = flow_config.writers as u32 + SPARE_SESSIONS;
    let name = format!("sluicegate {}", flow.name());
    let database = database(config, &name, &options(config, flow_config), sessions_max)?;
    let (owner, sessions) = (format!("process {}", std::process::id()), database.clone());
    track.ask_for_sessions(move || sessions.sessions_open());
    // As soon as the group gives a frozen instance's partitions to others, its right to publish goes too. Behind a failure
    // the relay pauses, which is no silence.
    let silence_max = flow_config.session_timeout + flow_config.backoff_max;
    Ok(Apply::new(flow, database, owner, flow_config.exactly_once, track).with_silence_max(silence_max))
}

/// One session, for a look before anything runs.
pub fn database_for_check(config: &Config, flow: &config::Flow) -> Result<Database, Cause> {
    database(config, "sluicegate check", &options(config, flow), 1)
}

fn options(config: &Config, flow: &config::Flow) -> SessionOptions {
    let postgres = &config.postgres;
    SessionOptions {
        synchronous_commit: flow.synchronous_commit,
        lock_timeout: postgres.lock_timeout,
        claim_lock_timeout: postgres.lock_timeout.min(CLAIM_LOCK_TIMEOUT_MAX),
        statement_timeout: postgres.statement_timeout,
        idle_in_transaction_timeout: postgres.idle_in_transaction_timeout,
    }
}

/// `name`: for people who look at the server's sessions.
fn database(config: &Config, name: &str, options: &SessionOptions, sessions_max: u32) -> Result<Database, Cause> {
    let target = &config.postgres.target;
    let tls = target.connector().map_err(|text| Cause::new("config.tls", text))?;
    let mut target = target.config.clone();
    target.application_name(name);
    Ok(Database::new(target, tls, options, sessions_max))
}

fn policy(flow: &config::Flow) -> Policy {
    Policy {
        batch_rows_max: flow.batch_rows_max,
        batch_bytes_max: flow.batch_bytes_max,
        batch_memory_bytes: flow.batch_memory_bytes,
        linger: flow.linger,
        rate_max_per_s: Some(flow.rate_max_per_s).filter(|rate| *rate > 0),
        group_rows_max: flow.group_rows_max,
        writers: flow.writers,
        commit_every: flow.commit_interval,
        look_every: LOOK_EVERY,
        stall_after: STALL_AFTER,
        answer_within: ANSWER_WITHIN,
        drain_patience: DRAIN_PATIENCE,
        revoke_grace: flow.revoke_grace,
        backoff_min: flow.backoff_min,
        backoff_max: flow.backoff_max,
    }
}

fn consumer_config(config: &Config, flow: &config::Flow, more: &[&str], is_demo: bool) -> ConsumerConfig {
    let own = Some(flow.topic.as_str()).filter(|topic| !topic.is_empty());
    // Names that begin so are patterns for the client.
    let named = |topic: &str| if config::is_pattern(topic) { format!("^({topic})$") } else { topic.to_owned() };
    let topics: Vec<String> = own.into_iter().chain(more.iter().copied()).map(named).collect();
    ConsumerConfig {
        brokers: config.kafka.brokers.join(","),
        group_id: flow.group_id.clone(),
        // How many topics a pattern finds nobody knows: `partitions` is of all of them then.
        partitions: flow.partitions as u32 * own.map_or(1, |_| topics.len() as u32),
        topics,
        start: match flow.start {
            config::Start::Earliest => Start::Earliest,
            config::Start::Latest => Start::Latest,
        },
        session_timeout_ms: flow.session_timeout.as_millis() as u64,
        fetch_memory_bytes: flow.fetch_memory_bytes as u64,
        fetch_min_bytes: flow.fetch_min_bytes,
        fetch_max_bytes: flow.fetch_max_bytes,
        poll_interval_ms: (POLL_INTERVAL_MIN + flow.revoke_grace).as_millis() as u64,
        topic_ids: !is_demo,
        options: config.kafka.options.clone(),
    }
}
