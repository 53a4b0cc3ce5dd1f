//! What may be passed on to librdkafka: everything that it knows and that sluicegate does not decide.
//! Whether a name exists and a value fits is asked of librdkafka itself, so no list can grow old.

use super::kind::Flaw;

/// Set by sluicegate: by which key, or never by hand because exactly-once rests on it.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "kafka.brokers"),
    ("metadata.broker.list", "kafka.brokers"),
    ("group.id", "flows.NAME.group_id"),
    ("auto.offset.reset", "flows.NAME.start"),
    ("session.timeout.ms", "flows.NAME.session_timeout_ms"),
    ("auto.commit.interval.ms", "flows.NAME.commit_interval_ms"),
    ("queued.max.messages.kbytes", "flows.NAME.fetch_memory_bytes"),
    ("enable.auto.commit", ""),
    ("auto.commit.enable", ""),
    ("enable.auto.offset.store", ""),
    ("enable.partition.eof", ""),
    ("partition.assignment.strategy", ""),
];

pub fn rule(name: &str, value: &str) -> Result<(), Flaw> {
    if let Some((_, key)) = OURS.iter().find(|(ours, _)| *ours == name) {
        let cure = if key.is_empty() { "remove it".to_owned() } else { format!("set {key} instead") };
        return Err(Flaw::new(format!("`{name}` is set by sluicegate"), cure));
    }
    ask(name, value)
}

#[cfg(feature = "clients")]
fn ask(name: &str, value: &str) -> Result<(), Flaw> {
    use rdkafka::config::ClientConfig;
    use rdkafka::error::KafkaError;

    let mut probe = ClientConfig::new();
    probe.set(name, value);
    match probe.create_native_config() {
        Ok(_) => Ok(()),
        // librdkafka's words quote the value.
        Err(_) if is_secret(name) => Err(Flaw::new(format!("librdkafka refuses the value of `{name}`"), CURE)),
        Err(KafkaError::ClientConfig(_, words, ..)) => Err(Flaw::new(format!("librdkafka says: {words}"), CURE)),
        Err(error) => Err(Flaw::new(format!("librdkafka refuses `{name}`: {error}"), CURE)),
    }
}

/// A build without it has nobody to ask.
#[cfg(not(feature = "clients"))]
fn ask(_: &str, _: &str) -> Result<(), Flaw> {
    Ok(())
}

#[cfg(feature = "clients")]
const CURE: &str = "see librdkafka's CONFIGURATION.md for names and values";

/// Generous on purpose: hiding too much costs nothing.
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", "token", "oauthbearer", "jaas", ".pem", "private", "credential", "ssl.key"]
        .iter()
        .any(|word| name.to_lowercase().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exactly_once_rests_on_cannot_be_set() {
        for name in ["enable.auto.commit", "enable.auto.offset.store", "partition.assignment.strategy"] {
            assert_eq!(rule(name, "true").unwrap_err().cure, "remove it");
        }
        assert_eq!(rule("group.id", "x").unwrap_err().cure, "set flows.NAME.group_id instead");
    }

    #[test]
    fn names_and_values_are_checked_by_librdkafka_itself() {
        assert_eq!(rule("security.protocol", "ssl"), Ok(()));
        assert_eq!(rule("fetch.max.bytes", "52428800"), Ok(()));
        assert!(rule("fetch.max.bytse", "1").unwrap_err().rule.contains("fetch.max.bytse"));
        assert!(rule("fetch.max.bytes", "many").is_err());
        assert!(rule("security.protocol", "pigeon").is_err());
    }

    #[test]
    fn a_refused_secret_is_not_quoted() {
        let flaw = rule("sasl.oauthbearer.client.secretx", "canary").unwrap_err();
        assert!(!format!("{flaw:?}").contains("canary"));
        assert!(is_secret("sasl.password") && is_secret("ssl.key.pem") && is_secret("sasl.oauthbearer.config"));
        assert!(!is_secret("client.id"));
    }
}
