//! What the user wrote, from a file, `.env` and the environment, as one value a key with its origin. Nothing is
//! judged here but whether it can be read and whether its key exists.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::check::Finding;
use super::keys::{Key, Kind};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(String),
    DotEnv(String),
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(file) => f.write_str(file),
            Origin::DotEnv(name) => write!(f, ".env {name}"),
            Origin::Env(name) => write!(f, "environment {name}"),
        }
    }
}

/// A value as it was written. Lists and options are one text, their items separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub value: String,
    pub origin: Origin,
}

/// The environment as it was found, so that tests bring their own.
pub type Env = BTreeMap<String, String>;

/// Names that begin like ours and belong to the project's scripts and tests.
const SCRIPT_NAMES: [&str; 9] = [
    "SLUICEGATE_RUN_DIR",
    "SLUICEGATE_TOOLS_DIR",
    "SLUICEGATE_KAFKA_PORT",
    "SLUICEGATE_KAFKA_HEAP",
    "SLUICEGATE_POSTGRES_PORT",
    "SLUICEGATE_START_TIMEOUT_S",
    "SLUICEGATE_TEST_SERVICES",
    "SLUICEGATE_SIM_SEEDS",
    "SLUICEGATE_SIM_SEED",
];

/// Environment over `.env` over file over default. An empty environment value counts as none.
pub fn read(
    keys: &[Key],
    file: Option<&Path>,
    dot_env: &Env,
    env: &Env,
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, Written> {
    let mut written = BTreeMap::new();
    if let Some(file) = file {
        read_file(keys, file, &mut written, findings);
    }
    for (names, origin) in [(dot_env, Origin::DotEnv as fn(String) -> Origin), (env, Origin::Env)] {
        for key in keys {
            // The strongest name that is set.
            let set = key.env_names().into_iter().find_map(|name| {
                let value = names.get(&name).filter(|value| !value.is_empty())?;
                Some((name, value.clone()))
            });
            if let Some((name, value)) = set {
                written.insert(key.path.clone(), Written { value, origin: origin(name) });
            }
        }
        let known: Vec<String> = keys.iter().flat_map(Key::env_names).collect();
        for name in names.keys().filter(|name| name.starts_with("SLUICEGATE_")) {
            if !known.contains(name) && !SCRIPT_NAMES.contains(&name.as_str()) {
                findings.push(Finding::unknown(name, &origin(name.clone()), known.iter().map(String::as_str)));
            }
        }
    }
    written
}

fn read_file(keys: &[Key], file: &Path, written: &mut BTreeMap<String, Written>, findings: &mut Vec<Finding>) {
    let origin = Origin::File(file.display().to_string());
    let unreadable = |why: String| Finding {
        key: String::new(),
        value: None,
        origin: origin.clone(),
        rule: why,
        cure: "give a readable YAML or JSON file with --config".into(),
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return findings.push(unreadable(format!("cannot be read: {error}"))),
    };
    if text.trim().is_empty() {
        return;
    }
    // JSON is YAML too, but its own parser words errors better.
    let parsed = match text.trim_start().starts_with('{') {
        true => serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()),
        false => serde_saphyr::from_str::<Value>(&text).map_err(|error| error.to_string()),
    };
    match parsed {
        Ok(Value::Null) => {}
        Ok(Value::Object(map)) => {
            for (name, value) in map {
                walk(keys, name, value, &origin, written, findings);
            }
        }
        Ok(_) => findings.push(unreadable("is not a mapping of keys to values".into())),
        // Only where it went wrong: the parser may quote what stands there, and that may be a password.
        Err(error) => findings.push(unreadable(format!("is not valid YAML or JSON: {}", first_line(&error)))),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn walk(
    keys: &[Key],
    path: String,
    value: Value,
    origin: &Origin,
    written: &mut BTreeMap<String, Written>,
    findings: &mut Vec<Finding>,
) {
    if let Some(key) = keys.iter().find(|key| key.path == path) {
        match flat(&value, key.kind) {
            Some(value) => {
                written.insert(path, Written { value, origin: origin.clone() });
            }
            None => findings.push(Finding {
                key: path,
                value: None,
                origin: origin.clone(),
                rule: "has a value of the wrong form".into(),
                cure: super::check::rule(key.kind),
            }),
        }
        return;
    }
    let prefix = format!("{path}.");
    match value {
        Value::Object(map) if keys.iter().any(|key| key.path.starts_with(&prefix)) => {
            for (name, value) in map {
                walk(keys, format!("{path}.{name}"), value, origin, written, findings);
            }
        }
        Value::Null if keys.iter().any(|key| key.path.starts_with(&prefix)) => {}
        _ => findings.push(Finding::unknown(&path, origin, keys.iter().map(|key| key.path.as_str()))),
    }
}

/// A scalar, a list of scalars where the key takes a list, or pairs where it takes options.
fn flat(value: &Value, kind: Kind) -> Option<String> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    };
    match (value, kind) {
        (Value::Null, _) => Some(String::new()),
        (Value::Array(items), Kind::Brokers | Kind::Files) => {
            items.iter().map(scalar).collect::<Option<Vec<String>>>().map(|items| items.join(","))
        }
        (Value::Object(map), Kind::Options) => {
            let pair = |(name, value): (&String, &Value)| Some(format!("{name}={}", scalar(value)?));
            map.iter().map(pair).collect::<Option<Vec<String>>>().map(|pairs| pairs.join(","))
        }
        (value, _) => scalar(value),
    }
}
