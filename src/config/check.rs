//! Everything that is wrong, at once: each key settled from the strongest place that gives it, then the
//! rules between keys. What is shown of a value is decided here, so that no password leaves by a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use postgres::config::Host;
use serde_json::Value;

use super::env::Variables;
use super::file::Written;
use super::handlers::{self, Found};
use super::keys::{self, Fallback, KEYS, Key};
use super::kind::Kind;
use super::{CALLED_PARTS, SPARE_SESSIONS, options};
use crate::pg::url::Target;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Default,
    File(PathBuf),
    /// A file that calls the key by another name.
    Renamed(PathBuf, &'static str),
    DotEnv(String),
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Renamed(path, name) => write!(f, "{} {name}", path.display()),
            Origin::DotEnv(name) => write!(f, ".env {name}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// One thing that has to be changed before anything can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the key; empty when it is about a whole file.
    pub key: String,
    /// As it may be shown.
    pub value: Option<String>,
    pub origin: Origin,
    pub rule: String,
    pub cure: String,
}

impl Finding {
    pub fn new(
        key: impl Into<String>,
        value: Option<String>,
        origin: Origin,
        rule: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Finding { key: key.into(), value, origin, rule: rule.into(), cure: cure.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map(|value| format!(" = {value}")).unwrap_or_default();
        // Either may have a name in it as it was written.
        let (key, rule) = (cut(&self.key), plain(&self.rule, RULE_CHARS_MAX));
        match (key.as_str(), &self.origin) {
            ("", origin) => write!(f, "{origin} {rule}")?,
            (key, Origin::Default) => write!(f, "{key}{value} {rule}")?,
            (key, origin) => write!(f, "{key}{value} {rule} (from {origin})")?,
        }
        write!(f, "\n    {}", plain(&self.cure, RULE_CHARS_MAX))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            writeln!(f, "{finding}")?;
        }
        let count = self.0.len();
        write!(f, "{count} finding{} in the configuration", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Findings {}

/// What a key holds in the end.
pub struct Effective {
    pub value: Value,
    pub origin: Origin,
}

/// The value of each key by its path, and everything that is wrong. A key with a finding is not there.
pub fn settle(
    written: &Written,
    variables: &Variables,
    flags: &BTreeMap<String, (Value, &'static str)>,
) -> (BTreeMap<&'static str, Effective>, Vec<Finding>) {
    let mut settled = BTreeMap::new();
    let is_given = |path: &&str| {
        let names = keys::find(path).map_or(&[][..], |key| &key.env);
        variables.of(names).is_some() || written.values.contains_key(*path)
    };
    let has_parts = PARTS.iter().any(is_given);
    let mut findings = written.findings.clone();
    findings.extend(variables.findings.iter().cloned());
    for key in KEYS.iter() {
        let (given, origin) = if let Some((value, flag)) = flags.get(&key.path) {
            (value.clone(), Origin::Flag(flag))
        } else if let Some((text, origin)) = variables.of(&key.env) {
            (text.into(), origin.clone())
        } else if let Some(value) = written.values.get(&key.path) {
            (value.clone(), written.origin_of(&key.path))
        } else {
            match key.default {
                Fallback::Is(text) => (text.into(), Origin::Default),
                Fallback::Unset => continue,
                Fallback::Required => {
                    if !(written.is_broken || key.path == URL && has_parts) {
                        findings.push(missing(key));
                    }
                    continue;
                }
            }
        };
        match key.kind.settle(&given) {
            Ok(value) => {
                settled.insert(key.path.as_str(), Effective { value, origin });
            }
            Err(flaw) => match (key.kind, &given) {
                (Kind::Handlers, Value::Array(_) | Value::Object(_)) => findings.extend(parts(key, &given, &origin)),
                (Kind::Handlers, Value::String(text)) if let Ok(given) = serde_json::from_str(text) => {
                    findings.extend(parts(key, &given, &origin));
                }
                _ => {
                    findings.push(Finding::new(&key.path, Some(refused(key, &given)), origin, flaw.rule, flaw.cure));
                }
            },
        }
    }
    if is_given(&URL) {
        findings.extend(contradicted(&settled));
    } else if has_parts {
        findings.extend(join_parts(&mut settled, |path| is_given(&path)));
    }
    findings.extend(between(&settled));
    (settled, findings)
}

const URL: &str = "postgres.url";
/// What a URL is made of where none is given. The port has a usual value, and not every user has a password.
const PARTS: [&str; 3] = ["postgres.host", "postgres.database", "postgres.user"];
const PORT: &str = "postgres.port";

/// Makes the URL of its parts, without a password.
fn join_parts(settled: &mut BTreeMap<&'static str, Effective>, is_given: impl Fn(&str) -> bool) -> Vec<Finding> {
    let text = |path: &str| settled.get(path).and_then(|found| found.value.as_str());
    let [Some(host), Some(database), Some(user)] = PARTS.map(text) else {
        // A part that is given and not there has a finding of its own.
        let absent = PARTS.iter().filter(|path| !is_given(path));
        return absent.filter_map(|path| keys::find(path)).map(missing).collect();
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = settled.get(PORT).and_then(|found| found.value.as_u64()).unwrap_or(5432);
    let url = format!("postgres://{}@{host}:{port}/{}", escaped(user), escaped(database));
    let origin = settled[PARTS[0]].origin.clone();
    settled.insert(URL, Effective { value: url.into(), origin });
    Vec::new()
}

/// Parts that say something else than the URL.
fn contradicted(settled: &BTreeMap<&'static str, Effective>) -> Vec<Finding> {
    let of_url = |url: &Effective| Target::parse(url.value.as_str()?).ok();
    let Some(target) = settled.get(URL).and_then(of_url) else { return Vec::new() };
    let hosts = target.config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let ports = target.config.get_ports().iter().map(u16::to_string);
    let name = |name: Option<&str>| name.map(str::to_owned).into_iter().collect::<Vec<String>>();
    let of_url = [hosts.collect(), name(target.config.get_dbname()), name(target.config.get_user()), ports.collect()];
    let of_part =
        |path: &str| settled.get(path).map(|part| part.value.as_str().map_or(part.value.to_string(), str::to_owned));
    let parts = PARTS.into_iter().chain([PORT]).zip(of_url);
    let others = parts.filter_map(|(path, of_url)| {
        let value = of_part(path).filter(|value| !of_url.contains(value))?;
        let (origin, rule) = (settled[path].origin.clone(), "is not what postgres.url says");
        Some(Finding::new(path, Some(cut(&value)), origin, rule, "keep one of the two: the URL, or its parts"))
    });
    others.collect()
}

/// As a part of a URL.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
        byte if byte.is_ascii_alphanumeric() => (byte as char).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What is wrong with a value that has parts of its own, each at its place.
fn parts(key: &Key, given: &Value, origin: &Origin) -> Vec<Finding> {
    let found = handlers::read(given).err().unwrap_or_default();
    let finding = |part: Found| {
        let value = part.value.map(|value| cut(&value));
        Finding::new(format!("{}{}", key.path, part.place), value, origin.clone(), part.flaw.rule, part.flaw.cure)
    };
    found.into_iter().map(finding).collect()
}

fn missing(key: &Key) -> Finding {
    let names = key.env.iter().skip(1).chain(key.env.first()).cloned().collect::<Vec<_>>().join(" or ");
    let cure = format!("set {names} in the environment or in .env, or {} in the file", key.path);
    Finding::new(&key.path, None, Origin::Default, "is not set and has no default", cure)
}

/// The rules that need two keys.
fn between(settled: &BTreeMap<&'static str, Effective>) -> Vec<Finding> {
    let number = |path: &str| settled.get(path).and_then(|found| found.value.as_u64());
    let is_on = |path: &str| settled.get(path).is_some_and(|found| found.value == true);
    let mut findings = Vec::new();
    let mut finding = |path: String, rule: String, cure: String| {
        let value = settled.get(path.as_str()).map(|found| found.value.to_string());
        let origin = settled.get(path.as_str()).map_or(Origin::Default, |found| found.origin.clone());
        findings.push(Finding::new(path, value, origin, rule, cure));
    };

    for flow in keys::flows() {
        let path = |leaf: &str| format!("flows.{flow}.{leaf}");
        for (small, large, may_equal) in [
            ("batch_rows_max", "group_rows_max", true),
            ("backoff_min_ms", "backoff_max_ms", true),
            ("revoke_grace_ms", "session_timeout_ms", false),
        ] {
            let (Some(low), Some(high)) = (number(&path(small)), number(&path(large))) else { continue };
            if low > high || low == high && !may_equal {
                let rule = format!("must be {} {} = {high}", if may_equal { "at most" } else { "under" }, path(large));
                finding(path(small), rule, format!("lower it, or raise {}", path(large)));
            }
        }
    }

    let idempotent = "flows.events.producer_idempotent";
    let text = |path: &str| settled.get(path).and_then(|found| found.value.as_str());
    let is_sure =
        text("flows.events.producer_acks") == Some("all") && number("flows.events.producer_retries") > Some(0);
    if is_on(idempotent) && !is_sure {
        let rule = "needs producer_acks: all and at least one of producer_retries".to_owned();
        finding(idempotent.to_owned(), rule, "turn it off, or give it both".to_owned());
    }

    let ordering = "flows.events.ordering";
    if text(ordering) == Some("key") && number("flows.events.retry_max") == Some(0) {
        let rule = "needs a retry_max of at least 1: who waits for its turn waits in a retry topic".to_owned();
        finding(ordering.to_owned(), rule, "raise flows.events.retry_max, or write any".to_owned());
    }

    let extras = "flows.cdc.extra_columns";
    let kept = settled.get(extras).and_then(|found| found.value.as_object());
    let names: Vec<&str> = kept.into_iter().flatten().filter_map(|(_, column)| column.as_str()).collect();
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)).map(|(_, name)| *name);
    if let Some(name) = twice {
        let rule = format!("has the column {} twice", cut(name));
        finding(extras.to_owned(), rule, "give each a column of its own".to_owned());
    }
    let soft_delete = "flows.cdc.soft_delete";
    if text(soft_delete).is_some_and(|name| names.contains(&name)) {
        let rule = format!("is a column of {extras} as well");
        finding(soft_delete.to_owned(), rule, "give one of them another name".to_owned());
    }

    let on = || keys::flows().filter(|flow| is_on(&format!("flows.{flow}.enabled")));
    if on().next().is_none() && keys::flows().all(|flow| settled.contains_key(format!("flows.{flow}.enabled").as_str()))
    {
        let names = keys::flows().collect::<Vec<_>>().join(", ");
        finding("flows".to_owned(), "has no flow that is enabled".to_owned(), format!("enable one of: {names}"));
    }
    // A writer that waits for a connection forever would look like a slow server. Callers may wait for each other.
    let writers = on().filter_map(|flow| number(&format!("flows.{flow}.writers")));
    let each = u64::from(SPARE_SESSIONS + CALLED_PARTS);
    let needed = writers.map(|writers| writers + each).sum::<u64>() + 1;
    if number("postgres.connections_max").is_some_and(|most| most < needed) {
        let rule = format!(
            "is too few for the writers of the enabled flows, {each} more each and one for their letters: {needed}"
        );
        finding("postgres.connections_max".to_owned(), rule, "raise it, or lower the writers".to_owned());
    }
    findings
}

const HIDDEN: &str = "***";

/// A value as it may be shown: settled, or as it was given. What cannot be understood in a place that may
/// hold a password is not shown at all.
pub fn shown(key: &Key, value: &Value) -> String {
    if key.is_secret() {
        return HIDDEN.to_owned();
    }
    match (&key.kind, value) {
        (Kind::Url, Value::String(url)) => {
            let url = Some(url.trim()).filter(|url| !url.contains(char::is_control));
            url.and_then(|url| Target::parse(url).ok())
                .map_or_else(|| HIDDEN.to_owned(), |target| cut(&target.to_string()))
        }
        (Kind::Map(_), Value::Object(pairs)) => {
            let pair = |(name, value): (&String, &Value)| match value {
                _ if options::is_secret(name) => format!("{}={HIDDEN}", cut(name)),
                Value::String(text) => format!("{}={}", cut(name), cut(text)),
                other => format!("{}={other}", cut(name)),
            };
            pairs.iter().map(pair).collect::<Vec<_>>().join(",")
        }
        (Kind::Map(_), Value::String(text)) if text.is_empty() => String::new(),
        (Kind::Url | Kind::Map(_), _) => HIDDEN.to_owned(),
        (_, Value::String(text)) => cut(text),
        (_, Value::Array(items)) => {
            let item = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            cut(&items.iter().map(item).collect::<Vec<_>>().join(","))
        }
        (_, other) => cut(&other.to_string()),
    }
}

/// As `shown`, for a value that is in a finding. Of a map with one wrong name any name may be a
/// misspelt password.
fn refused(key: &Key, value: &Value) -> String {
    if matches!(key.kind, Kind::Map(_)) { HIDDEN.to_owned() } else { shown(key, value) }
}

/// The longest rule quotes a name and what librdkafka says of it.
const RULE_CHARS_MAX: usize = 400;

/// A line on a terminal, whatever was pasted. Where a quote is left open in `.env`, a value goes on with the lines below,
/// and one of them may have the password: only the first is shown.
fn cut(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default().trim_end();
    let line = plain(first.trim(), 120);
    if first.len() < text.trim_end().len() && !line.ends_with('…') { line + "…" } else { line }
}

/// Without control characters, and not without end.
fn plain(text: &str, chars_max: usize) -> String {
    let is_odd = |c: char| c.is_control() && c != '\n';
    let plain: String = text.chars().map(|c| if is_odd(c) { '?' } else { c }).take(chars_max).collect();
    if text.chars().nth(chars_max).is_some() { format!("{plain}…") } else { plain }
}
