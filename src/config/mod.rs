//! The configuration as the program uses it: plain values, checked once. `keys` has every key, `read` what was
//! written, `check` what is wrong with it.

pub mod check;
pub mod keys;
pub mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::Finding;
use keys::Key;
pub use read::{Env, Origin, Written};

use crate::engine::Policy;
use crate::pg::SessionOptions;
use crate::pg::target::Target;

#[derive(Clone)]
pub struct Config {
    pub brokers: String,
    pub kafka_options: BTreeMap<String, String>,
    pub target: Target,
    pub session: SessionOptions,
    pub http_address: String,
    pub http_threads: usize,
    pub log_level: log::LevelFilter,
    pub log_json: bool,
    pub shutdown_timeout: Duration,
    pub flows: Vec<FlowConfig>,
}

#[derive(Clone)]
pub struct FlowConfig {
    pub name: &'static str,
    pub enabled: bool,
    pub topic: String,
    pub group_id: String,
    pub partitions: u32,
    pub replication_factor: u32,
    pub start_latest: bool,
    pub table: String,
    pub schema_files: Vec<PathBuf>,
    pub fetch_memory_bytes: u64,
    pub session_timeout_ms: u64,
    pub exactly_once: bool,
    pub policy: Policy,
}

/// Every key with its value and where that came from, for `check` to show.
pub type Effective = Vec<(Key, String, Origin)>;

/// Reads, checks and resolves; or everything that is wrong.
pub fn load(file: Option<&Path>, dot_env: &Env, env: &Env) -> Result<(Config, Effective), Vec<Finding>> {
    let keys = keys::all();
    let mut findings = Vec::new();
    let written = read::read(&keys, file, dot_env, env, &mut findings);
    let mut effective = Vec::new();
    for key in keys {
        let given = written.get(&key.path).filter(|given| !(given.value.is_empty() && key.default.is_some()));
        let (value, origin) = match (given, key.default) {
            (Some(given), _) => (given.value.trim().to_owned(), given.origin.clone()),
            (None, Some(default)) => (default.to_owned(), Origin::Default),
            (None, None) => {
                let names = key.env_names().join(" or ");
                let cure = format!("set it in the file or as {names}: {}", key.help);
                let rule = "is not set and has no default".into();
                findings.push(Finding { key: key.path, value: None, origin: Origin::Default, rule, cure });
                continue;
            }
        };
        if let Some(wrong) = check::fault(key.kind, &value) {
            let shown = Some(check::shown(key.kind, &value));
            let (path, cure) = (key.path.clone(), check::rule(key.kind));
            findings.push(Finding { key: path, value: shown, origin: origin.clone(), rule: wrong, cure });
        }
        effective.push((key, value, origin));
    }
    if findings.is_empty() {
        let config = Values(&effective).config();
        Ok((config, effective))
    } else {
        Err(findings)
    }
}

/// The process's environment.
pub fn process_env() -> Env {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// `.env` of the working directory, where there is one.
pub fn dot_env() -> Result<Env, Box<Finding>> {
    let broken = |why: String| {
        Box::new(Finding {
            key: String::new(),
            value: None,
            origin: Origin::File(".env".into()),
            rule: why,
            cure: "write NAME=value, one a line".into(),
        })
    };
    match dotenvy::from_filename_iter(".env") {
        Ok(lines) => {
            lines.collect::<Result<Env, dotenvy::Error>>().map_err(|_| broken("has a line that cannot be read".into()))
        }
        Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(Env::new()),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// Checked values by path. What is asked for here is in the table of keys, which a test walks through.
struct Values<'a>(&'a Effective);

impl Values<'_> {
    fn text(&self, path: &str) -> &str {
        let found = self.0.iter().find(|(key, ..)| key.path == path);
        found.map(|(_, value, _)| value.as_str()).unwrap_or_else(|| panic!("no key {path} in the table"))
    }

    fn number(&self, path: &str) -> u64 {
        self.text(path).parse().unwrap_or_else(|_| panic!("{path} was checked to be a number"))
    }

    fn millis(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path))
    }

    fn flag(&self, path: &str) -> bool {
        self.text(path) == "true"
    }

    fn items(&self, path: &str) -> impl Iterator<Item = &str> {
        self.text(path).split(',').map(str::trim).filter(|item| !item.is_empty())
    }

    fn config(&self) -> Config {
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned()));
        let target = Target::parse(self.text("postgres.url")).unwrap_or_else(|_| panic!("the URL was checked"));
        let session = SessionOptions {
            synchronous_commit: self.flag("postgres.synchronous_commit"),
            lock_timeout: self.millis("postgres.lock_timeout_ms"),
            claim_lock_timeout: self.millis("postgres.claim_lock_timeout_ms"),
            idle_in_transaction_timeout: self.millis("postgres.idle_in_transaction_timeout_ms"),
        };
        Config {
            brokers: self.text("kafka.brokers").to_owned(),
            kafka_options: self.items("kafka.options").filter_map(pair).collect(),
            target,
            session,
            http_address: format!("{}:{}", self.text("http.host"), self.number("http.port")),
            http_threads: self.number("http.threads") as usize,
            log_level: self.text("logging.level").parse().unwrap_or(log::LevelFilter::Info),
            log_json: self.text("logging.format") == "json",
            shutdown_timeout: self.millis("shutdown_timeout_ms"),
            flows: keys::flow_names().map(|name| self.flow(name)).collect(),
        }
    }

    fn flow(&self, name: &'static str) -> FlowConfig {
        let path = |key: &str| format!("flows.{name}.{key}");
        let text = |key: &str| self.text(&path(key)).to_owned();
        let number = |key: &str| self.number(&path(key));
        let millis = |key: &str| self.millis(&path(key));
        FlowConfig {
            name,
            enabled: self.flag(&path("enabled")),
            topic: text("topic"),
            group_id: text("group_id"),
            partitions: number("partitions") as u32,
            replication_factor: number("replication_factor") as u32,
            start_latest: text("start") == "latest",
            table: text("table"),
            schema_files: self.items(&path("schema_files")).map(PathBuf::from).collect(),
            fetch_memory_bytes: number("fetch_memory_bytes"),
            session_timeout_ms: number("session_timeout_ms"),
            exactly_once: self.flag(&path("exactly_once")),
            policy: Policy {
                batch_rows_max: number("batch_rows_max") as usize,
                batch_bytes_max: number("batch_bytes_max") as usize,
                linger: millis("linger_ms"),
                group_rows_max: number("group_rows_max") as usize,
                writers: number("writers") as usize,
                commit_every: millis("commit_interval_ms"),
                look_every: self.millis("look_interval_ms"),
                revoke_grace: millis("revoke_grace_ms"),
                backoff_min: self.millis("backoff_min_ms"),
                backoff_max: self.millis("backoff_max_ms"),
            },
        }
    }
}

impl Config {
    pub fn enabled_flows(&self) -> impl Iterator<Item = &FlowConfig> {
        self.flows.iter().filter(|flow| flow.enabled)
    }

    pub fn flow(&self, name: &str) -> Option<&FlowConfig> {
        self.flows.iter().find(|flow| flow.name == name)
    }
}
