//! The configuration file of the Python sink that the cdc flow replaces, as it stands: its paths are other names of our
//! keys. What a value may be is said in `keys`, and is the same under either name.

use serde_json::Value;

use super::check::Finding;
use super::file::Written;
use super::keys;
use super::kind::{Flaw, Kind};

/// What a file of that form is for.
const FLOW: &str = "cdc";

enum Means {
    /// The key, with the same values.
    Key(&'static str),
    /// The key, in milliseconds; the file has seconds.
    Seconds(&'static str),
    /// What is always so here.
    Never { why: &'static str },
    /// Nothing: it is right whatever it says.
    PassedOver { why: &'static str },
}

use Means::{Key, Never, PassedOver, Seconds};

const PATHS: &[(&str, Means)] = &[
    ("continue_on_error", Key("flows.cdc.continue_on_error")),
    ("kafka.batch_size", Key("flows.cdc.batch_rows_max")),
    ("kafka.bootstrap_servers", Key("kafka.brokers")),
    (
        "kafka.enable_auto_commit",
        Never {
            why: "would commit what is not written yet; where reading goes on stands in the database, with the rows",
        },
    ),
    ("kafka.group_id", Key("flows.cdc.group_id")),
    (
        "kafka.max_poll_interval_ms",
        PassedOver { why: "whoever waits for PostgreSQL does not keep the consumer from polling" },
    ),
    ("kafka.session_timeout_ms", Key("flows.cdc.session_timeout_ms")),
    ("kafka.topics", Key("flows.cdc.topics")),
    ("metrics.enabled", Key("http.enabled")),
    ("metrics.port", Key("http.port")),
    ("postgres.batch.size", Key("flows.cdc.batch_rows_max")),
    ("postgres.batch_size", Key("flows.cdc.batch_rows_max")),
    ("postgres.continue_on_error", Key("flows.cdc.continue_on_error")),
    ("postgres.max_connections", Key("postgres.connections_max")),
    ("processing.continue_on_error", Key("flows.cdc.continue_on_error")),
    ("processing.max_workers", Key("flows.cdc.writers")),
    ("processing.queue_size", Key("flows.cdc.group_rows_max")),
    ("processing.shutdown_timeout", Seconds("shutdown_timeout_ms")),
];

/// Every path and the key that it is, for people.
pub fn names() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    PATHS.iter().map(|(path, means)| match means {
        Key(key) | Seconds(key) => (*path, Some(*key)),
        Never { .. } | PassedOver { .. } => (*path, None),
    })
}

pub fn is_section(path: &str) -> bool {
    PATHS.iter().any(|(known, _)| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Takes a value where the path is one of that form.
pub fn take(path: &str, value: &Value, written: &mut Written) -> bool {
    let Some((path, means)) = PATHS.iter().find(|(known, _)| *known == path) else { return false };
    if value.is_null() {
        return true;
    }
    written.is_replaced = true;
    let refused = |flaw: Flaw| Finding::new(*path, None, written.origin.clone(), flaw.rule, flaw.cure);
    match means {
        Key(key) => written.add(key, Some(path), value.clone()),
        Seconds(key) => written.add(key, Some(path), millis(value)),
        Never { why } => match Kind::Bool.settle(value) {
            Ok(value) if value == true => {
                let finding = refused(Flaw::new(*why, "write false, or remove the line"));
                written.findings.push(finding);
            }
            Ok(_) => {}
            Err(flaw) => {
                let finding = refused(flaw);
                written.findings.push(finding);
            }
        },
        PassedOver { why } => written.notes.push(format!("{path} is passed over: {why}")),
    }
    true
}

/// Such a file knows no other flow.
pub fn choose_flow(written: &mut Written) {
    if !written.is_replaced || written.values.keys().any(|key| key.starts_with("flows.") && !written.is_renamed(key)) {
        return;
    }
    for flow in keys::flows() {
        written.values.insert(format!("flows.{flow}.enabled"), Value::Bool(flow == FLOW));
    }
}

/// Of seconds, also with a fraction. What is no number stays what it is, and is refused as that.
fn millis(value: &Value) -> Value {
    let seconds = match value {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        value => value.as_f64(),
    };
    match seconds.map(|seconds| seconds * 1e3) {
        Some(millis) if (0.0..1e12).contains(&millis) => Value::from(millis.round() as u64),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_a_key_and_is_none_itself() {
        for (path, key) in names() {
            assert!(keys::find(path).is_none() && !keys::is_section(path), "{path}");
            assert!(key.is_none_or(|key| keys::find(key).is_some()), "{path}");
        }
        assert!(keys::find(&format!("flows.{FLOW}.enabled")).is_some());
    }

    #[test]
    fn seconds_become_milliseconds_and_what_is_no_number_stays() {
        assert_eq!(millis(&Value::from(30)), Value::from(30_000));
        assert_eq!(millis(&Value::from(0.25)), Value::from(250));
        assert_eq!(millis(&Value::from("5")), Value::from(5000));
        for odd in [Value::from("soon"), Value::from(-1), Value::from(f64::MAX), Value::Bool(true)] {
            assert_eq!(millis(&odd), odd);
        }
    }
}
