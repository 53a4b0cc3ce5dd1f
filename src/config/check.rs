//! Whether what was written makes sense: every finding at once, each with the key, the value, the rule and the
//! cure. Secrets are never shown.

use std::fmt;

use super::keys::Kind;
use super::read::Origin;
use crate::pg::target::{Target, redacted};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Empty where it is about a file as a whole.
    pub key: String,
    pub value: Option<String>,
    pub origin: Origin,
    pub rule: String,
    pub cure: String,
}

impl Finding {
    pub fn unknown<'a>(name: &str, origin: &Origin, known: impl Iterator<Item = &'a str>) -> Self {
        let nearest = known.map(|other| (strsim::damerau_levenshtein(name, other), other)).min();
        let cure = match nearest {
            Some((distance, other)) if distance <= name.len() / 2 => format!("did you mean {other}?"),
            _ => "remove it; docs/CONFIG.md has every key".into(),
        };
        let rule = "is not a key that is known".into();
        Finding { key: name.to_owned(), value: None, origin: origin.clone(), rule, cure }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = \"{value}\"")?;
            }
            write!(f, " ")?;
        }
        write!(f, "[{}]: {}: {}", self.origin, self.rule, self.cure)
    }
}

/// What a key may hold, in words.
pub fn rule(kind: Kind) -> String {
    match kind {
        Kind::Text => "give a text".into(),
        Kind::Url => "give postgres://user:password@host:port/database?sslmode=…".into(),
        Kind::Brokers => "give host:port, host:port".into(),
        Kind::Files => "give files, separated by commas".into(),
        Kind::Number { min, max } => format!("give a whole number from {min} to {max}"),
        Kind::Flag => "give true or false".into(),
        Kind::Word(words) => format!("give one of {}", words.join(", ")),
        Kind::Options => "give name: value pairs".into(),
    }
}

/// What is wrong with a value of this kind.
pub fn fault(kind: Kind, value: &str) -> Option<String> {
    let wrong = match kind {
        Kind::Text => value.trim().is_empty().then(|| "is empty".to_owned()),
        Kind::Url => Target::parse(value).err(),
        Kind::Brokers => value.split(',').find_map(broker_fault),
        Kind::Files => None,
        Kind::Number { min, max } => match value.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => None,
            Ok(_) => Some("is out of range".into()),
            Err(_) => Some("is not a whole number".into()),
        },
        Kind::Flag => (!["true", "false"].contains(&value)).then(|| "is neither true nor false".into()),
        Kind::Word(words) => (!words.contains(&value)).then(|| "is not one of its words".into()),
        Kind::Options => {
            let bad = value.split(',').filter(|pair| !pair.is_empty()).find(|pair| !pair.contains('='));
            bad.map(|_| "has a part without =".into())
        }
    };
    wrong.filter(|_| !(value.is_empty() && matches!(kind, Kind::Options | Kind::Files)))
}

fn broker_fault(broker: &str) -> Option<String> {
    let address = broker.trim().rsplit_once("://").map_or(broker.trim(), |(_, address)| address);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => None,
        _ => Some(format!("has \"{address}\", which is not host:port")),
    }
}

/// A value as it may be shown.
pub fn shown(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Url => redacted(value),
        Kind::Options => {
            let secret = |name: &str| ["password", "secret", "token", "key.pem"].iter().any(|word| name.contains(word));
            let pair = |pair: &str| match pair.split_once('=') {
                Some((name, _)) if secret(name) => format!("{name}=***"),
                _ => pair.to_owned(),
            };
            value.split(',').map(pair).collect::<Vec<String>>().join(",")
        }
        _ => value.to_owned(),
    }
}
