//! The configuration as used: plain values that have passed every check, from one file, the environment
//! and the command line. What may be written is in `keys`; how it is read in `file` and `env`; what is
//! wrong with it in `check`. Nothing outside reads a variable of the environment or knows a default.

mod check;
mod docs;
mod env;
mod file;
pub mod handlers;
mod keys;
mod kind;
mod options;
mod replaced;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use check::{Finding, Findings, Origin};
pub use docs::example;
pub use kind::{is_pattern, takes_topic};

use crate::ops::otlp::Endpoint;
use crate::ops::service::WAITING_THREADS;
use crate::pg::url::Target;
use check::Effective;
use handlers::Handler;
use keys::{KEYS, Key};

/// Sessions of a flow beyond those of its writers: claims, looks at the ledger, and by turns the relay and who looks after
/// what is held back or set aside.
pub const SPARE_SESSIONS: u32 = 3;
/// What of a flow is asked for over HTTP with sessions of its own: its endpoints, and replays of its letters.
const CALLED_PARTS: u32 = 2;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub kafka: Kafka,
    pub postgres: Postgres,
    pub http: Http,
    pub logging: Logging,
    pub lag: Lag,
    pub tracing: Tracing,
    #[serde(rename = "shutdown_timeout_ms", deserialize_with = "millis")]
    pub shutdown_timeout: Duration,
    /// By name, the disabled ones too.
    pub flows: BTreeMap<String, Flow>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// host:port each.
    pub brokers: Vec<String>,
    /// For librdkafka, as they are. May hold passwords.
    pub options: BTreeMap<String, String>,
    #[serde(rename = "request_timeout_ms", deserialize_with = "millis")]
    pub request_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// With the password, the timeouts below and an application name where the URL has none.
    #[serde(rename = "url")]
    pub target: Target,
    pub connections_max: u32,
    #[serde(rename = "connect_timeout_ms", deserialize_with = "millis")]
    pub connect_timeout: Duration,
    #[serde(rename = "lock_timeout_ms", deserialize_with = "millis")]
    pub lock_timeout: Duration,
    /// Zero is no limit.
    #[serde(rename = "statement_timeout_ms", deserialize_with = "millis")]
    pub statement_timeout: Duration,
    #[serde(rename = "idle_in_transaction_timeout_ms", deserialize_with = "millis")]
    pub idle_in_transaction_timeout: Duration,
    #[serde(rename = "tcp_user_timeout_ms", deserialize_with = "millis")]
    pub tcp_user_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub enabled: bool,
    pub host: String,
    /// 0 takes any free one.
    pub port: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    #[serde(deserialize_with = "level")]
    pub level: log::LevelFilter,
    pub format: Format,
    /// What is written there is written to standard error too.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lag {
    /// Consumer groups of others.
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// None where nobody collects spans.
    #[serde(default, deserialize_with = "endpoint")]
    pub otlp_endpoint: Option<Endpoint>,
    /// From 0 to 1.
    pub sample_ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

/// What every flow has. A key that only some flows have is a field with a serde default here.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub enabled: bool,
    /// Empty where a flow has no topic of its own to be made.
    #[serde(default)]
    pub topic: String,
    pub partitions: i32,
    #[serde(default = "one")]
    pub replication_factor: i32,
    pub group_id: String,
    pub start: Start,
    /// Empty where records say themselves which table is theirs.
    #[serde(default)]
    pub table: String,
    pub writers: usize,
    pub batch_rows_max: usize,
    pub batch_bytes_max: usize,
    pub batch_memory_bytes: usize,
    #[serde(rename = "linger_ms", deserialize_with = "millis")]
    pub linger: Duration,
    pub group_rows_max: usize,
    /// 0 is no limit.
    pub rate_max_per_s: u32,
    pub fetch_memory_bytes: usize,
    #[serde(rename = "session_timeout_ms", deserialize_with = "millis")]
    pub session_timeout: Duration,
    #[serde(rename = "commit_interval_ms", deserialize_with = "millis")]
    pub commit_interval: Duration,
    #[serde(rename = "revoke_grace_ms", deserialize_with = "millis")]
    pub revoke_grace: Duration,
    #[serde(rename = "backoff_min_ms", deserialize_with = "millis")]
    pub backoff_min: Duration,
    #[serde(rename = "backoff_max_ms", deserialize_with = "millis")]
    pub backoff_max: Duration,
    pub synchronous_commit: bool,
    pub exactly_once: bool,
    #[serde(default)]
    pub schema_files: Vec<PathBuf>,
    /// What JSON records have to keep.
    #[serde(default)]
    pub json_schema_file: Option<PathBuf>,
    #[serde(default)]
    pub order_table: String,
    /// 0 is none.
    #[serde(default)]
    pub produce_per_s: u32,
    #[serde(default)]
    pub on_disorder: OnDisorder,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default)]
    pub inventory_table: String,
    #[serde(default)]
    pub buckets: i16,
    #[serde(default)]
    pub lock: Lock,
    #[serde(default)]
    pub events: bool,
    #[serde(default)]
    pub validated_topic: String,
    #[serde(default)]
    pub inventory_topic: String,
    #[serde(default)]
    pub warehouse_topic: String,
    #[serde(default, deserialize_with = "handlers")]
    pub handlers: Vec<Handler>,
    /// Paths; the first that has a value counts.
    #[serde(default)]
    pub message_id: Vec<String>,
    #[serde(default)]
    pub dedupe: bool,
    #[serde(default, rename = "dedupe_window_ms", deserialize_with = "millis")]
    pub dedupe_window: Duration,
    #[serde(default)]
    pub dedupe_ids_max: usize,
    #[serde(default)]
    pub retry_max: u32,
    #[serde(default)]
    pub retry_topic_prefix: String,
    #[serde(default)]
    pub dlq_topic: String,
    #[serde(default, rename = "retry_delay_ms", deserialize_with = "millis")]
    pub retry_delay: Duration,
    #[serde(default)]
    pub retry_delay_factor: u64,
    #[serde(default)]
    pub retry_jitter_percent: u64,
    #[serde(default)]
    pub ordering: Ordering,
    #[serde(default)]
    pub transient_sqlstates: Vec<String>,
    /// None where made-up records go into the topic that is read.
    #[serde(default)]
    pub producer_topic: Option<String>,
    #[serde(default)]
    pub producer_acks: Option<String>,
    #[serde(default)]
    pub producer_retries: Option<u64>,
    #[serde(default)]
    pub producer_idempotent: Option<bool>,
    /// None where the consumer's own are best.
    #[serde(default)]
    pub fetch_min_bytes: Option<u64>,
    #[serde(default)]
    pub fetch_max_bytes: Option<u64>,
    /// Names, and patterns for the whole of names.
    #[serde(default)]
    pub topics: Vec<String>,
    #[serde(default)]
    pub table_name: String,
    #[serde(default)]
    pub table_pattern: String,
    #[serde(default)]
    pub table_replacement: String,
    #[serde(default)]
    pub table_case: Case,
    #[serde(default)]
    pub tables_include: Vec<String>,
    #[serde(default)]
    pub tables_exclude: Vec<String>,
    #[serde(default)]
    pub columns_include: Vec<String>,
    #[serde(default)]
    pub columns_exclude: Vec<String>,
    #[serde(default)]
    pub columns_rename: BTreeMap<String, String>,
    #[serde(default)]
    pub columns_mask: BTreeMap<String, String>,
    #[serde(default)]
    pub mask_salt: String,
    #[serde(default)]
    pub key_columns: BTreeMap<String, String>,
    #[serde(default)]
    pub keyless: Keyless,
    #[serde(default)]
    pub truncate: bool,
    #[serde(default)]
    pub soft_delete: Option<String>,
    #[serde(default)]
    pub extra_columns: BTreeMap<String, String>,
    #[serde(default, rename = "gone_keep_ms", deserialize_with = "millis")]
    pub gone_keep: Duration,
    #[serde(default)]
    pub evolve: bool,
    #[serde(default)]
    pub foreign_keys: ForeignKeys,
    #[serde(default, rename = "parent_wait_ms", deserialize_with = "millis")]
    pub parent_wait: Duration,
    #[serde(default)]
    pub name_rules: bool,
    #[serde(default)]
    pub decimal_scale: u32,
    #[serde(default)]
    pub binary_mode: String,
    #[serde(default)]
    pub time_precision: String,
    #[serde(default)]
    pub decimal_mode: String,
    #[serde(default)]
    pub unavailable_value: String,
    #[serde(default)]
    pub continue_on_error: bool,
}

fn one() -> i32 {
    1
}

impl Flow {
    /// Where made-up records go.
    pub fn sample_topic(&self) -> &str {
        self.producer_topic.as_deref().unwrap_or(&self.topic)
    }

    /// What the producer of made-up records is told beside what all are, in librdkafka's words.
    pub fn producer_options(&self) -> impl Iterator<Item = (String, String)> {
        let options = [
            ("acks", self.producer_acks.clone()),
            ("message.send.max.retries", self.producer_retries.map(|retries| retries.to_string())),
            ("enable.idempotence", self.producer_idempotent.map(|is_idempotent| is_idempotent.to_string())),
        ];
        options.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
    }

    /// Where records wait for their next attempt, one topic for each.
    pub fn retry_topics(&self) -> Vec<String> {
        (1..=self.retry_max).map(|number| format!("{}-{number}", self.retry_topic_prefix)).collect()
    }
}

/// How names of the source are written in the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    #[default]
    Keep,
    Snake,
}

/// What becomes of a change where nothing tells rows apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keyless {
    #[default]
    Mirror,
    Append,
}

/// Whether foreign keys of the target count while changes are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignKeys {
    #[default]
    Check,
    Replica,
}

/// What becomes of a record that is not the next one of its key's sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisorder {
    /// It is a letter, and its key stops.
    #[default]
    Block,
    SetAside,
    /// It is written all the same.
    Accept,
}

/// What becomes of a record that cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is a letter, and its key stops.
    #[default]
    Block,
    SetAside,
}

/// What a record that is tried again holds back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    #[default]
    Any,
    /// Later ones of its key.
    Key,
}

/// What a transaction does where another one holds a row that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lock {
    #[default]
    Wait,
    /// It asks again, and again.
    Nowait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    Earliest,
    Latest,
}

impl Config {
    pub fn enabled(&self) -> impl Iterator<Item = (&str, &Flow)> {
        self.flows.iter().filter(|(_, flow)| flow.enabled).map(|(name, flow)| (name.as_str(), flow))
    }

    /// Sessions for each part that is called over HTTP: one for each thread that may wait there, or what the flows leave.
    pub fn sessions_for_calls(&self) -> u32 {
        let (parts, taken) = self.enabled().fold((1, 0), |(parts, taken), (_, flow)| {
            (parts + CALLED_PARTS, taken + flow.writers as u32 + SPARE_SESSIONS)
        });
        (self.postgres.connections_max.saturating_sub(taken) / parts).clamp(1, WAITING_THREADS as u32)
    }
}

/// The values of options are for librdkafka alone.
impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.options.keys().collect();
        f.debug_struct("Kafka").field("brokers", &self.brokers).field("options", &names).finish_non_exhaustive()
    }
}

/// Everything that a configuration is made of, strongest first: `flows`, the environment, `.env`, the file.
pub struct Sources {
    /// As given with `--config`. Without it, the one that `SLUICEGATE_CONFIG` names, and then
    /// `sluicegate.yaml` in the folder if there is one.
    pub file: Option<PathBuf>,
    /// As given with `--flow`: these flows and no others. Empty means that each flow's `enabled` counts.
    pub flows: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Where `.env` and `sluicegate.yaml` are looked for.
    pub folder: PathBuf,
}

impl Sources {
    /// Those of this process.
    pub fn here(file: Option<PathBuf>, flows: Vec<String>) -> Sources {
        let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Sources { file, flows, environment, folder: PathBuf::new() }
    }

    pub fn load(&self) -> Result<Config, Findings> {
        self.report().config
    }

    pub fn report(&self) -> Report {
        let variables = env::Variables::read(&self.environment, &self.folder);
        let written = match self.file_used(&variables) {
            Some(path) => file::read(&path),
            None => file::Written::default(),
        };
        let mut flags = BTreeMap::new();
        let mut unknown = Vec::new();
        if !self.flows.is_empty() {
            for flow in keys::flows() {
                let is_on = self.flows.iter().any(|name| name == flow);
                flags.insert(format!("flows.{flow}.enabled"), (Value::Bool(is_on), FLOW_FLAG));
            }
            unknown.extend(self.flows.iter().filter(|name| !keys::flows().any(|flow| flow == *name)).map(|name| {
                let cure = match keys::nearest(name, keys::flows()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("the flows are: {}", keys::flows().collect::<Vec<_>>().join(", ")),
                };
                Finding::new(name, None, Origin::Flag(FLOW_FLAG), "is not a flow", cure)
            }));
        }
        let (settled, mut findings) = check::settle(&written, &variables, &flags);
        findings.splice(0..0, unknown);
        let config = if findings.is_empty() { Ok(built(&settled)) } else { Err(Findings(findings)) };
        Report { settled, notes: written.notes, config }
    }

    fn file_used(&self, variables: &env::Variables) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| variables.get(env::CONFIG).map(|(path, _)| path.into()));
        named.or_else(|| Some(self.folder.join(DEFAULT_FILE)).filter(|path| path.exists()))
    }
}

const FLOW_FLAG: &str = "--flow";
/// The PostgreSQL library's own default of `keepalives_idle`.
const TWO_HOURS: Duration = Duration::from_secs(2 * 60 * 60);
const DEFAULT_FILE: &str = "sluicegate.yaml";

/// The effective value of each key, right or not, and the configuration if all are right.
pub struct Report {
    settled: BTreeMap<&'static str, Effective>,
    /// What is no mistake, and does not do what one might think.
    pub notes: Vec<String>,
    pub config: Result<Config, Findings>,
}

impl Report {
    /// Whether anybody has said something about this key.
    pub fn is_given(&self, path: &str) -> bool {
        self.settled.get(path).is_some_and(|found| found.origin != Origin::Default)
    }

    /// Each key with its value, as it may be shown, and where that came from, in the order of the table.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        let line = |key: &'static Key| {
            let Effective { value, origin } = self.settled.get(key.path.as_str())?;
            Some((key.path.as_str(), check::shown(key, value), origin))
        };
        KEYS.iter().filter_map(line)
    }
}

/// Panics when the structs above and the table of keys disagree, which the tests rule out.
fn built(settled: &BTreeMap<&'static str, Effective>) -> Config {
    let mut tree = Value::Object(Default::default());
    for (path, Effective { value, .. }) in settled {
        *path.split('.').fold(&mut tree, |branch, name| &mut branch[name]) = value.clone();
    }
    let mut password = None;
    if let Some(postgres) = tree["postgres"].as_object_mut() {
        password = postgres.remove("password");
        // The URL has them.
        postgres.retain(|name, _| !["host", "port", "database", "user"].contains(&name.as_str()));
    }
    let mut config: Config = serde_json::from_value(tree).expect("the table of keys and the structs disagree");

    let Postgres { target, connect_timeout, tcp_user_timeout, .. } = &mut config.postgres;
    let driver = &mut target.config;
    if let (None, Some(Value::String(password))) = (driver.get_password(), password) {
        driver.password(password);
    }
    match driver.get_connect_timeout() {
        Some(given) => *connect_timeout = *given,
        None => drop(driver.connect_timeout(*connect_timeout)),
    }
    match driver.get_tcp_user_timeout() {
        Some(given) => *tcp_user_timeout = *given,
        None => drop(driver.tcp_user_timeout(*tcp_user_timeout)),
    }
    if driver.get_keepalives_idle() == TWO_HOURS {
        // The library's default, far beyond what may pass before a server that is gone is missed.
        driver.keepalives_idle(*tcp_user_timeout / 2);
    }
    if driver.get_application_name().is_none() {
        driver.application_name("sluicegate");
    }
    config
}

fn millis<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

fn handlers<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<Handler>, D::Error> {
    handlers::read(&Value::deserialize(value)?).map_err(|_| serde::de::Error::custom("the handlers were not checked"))
}

fn endpoint<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Endpoint>, D::Error> {
    let text: Option<String> = Option::deserialize(value)?;
    text.map(|text| Endpoint::read(&text).map_err(serde::de::Error::custom)).transpose()
}

fn level<'de, D: Deserializer<'de>>(value: D) -> Result<log::LevelFilter, D::Error> {
    String::deserialize(value)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
