//! What a key may hold: the kinds, their limits, and the rules for words that Kafka, PostgreSQL or the
//! network would refuse later. A kind turns what was written, in a file or in the environment, into the
//! one value that the program uses. It knows no key by name and never shows a value.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::handlers;
use crate::ops::otlp::Endpoint;
use crate::pg::url::Target;

/// Why a value cannot be used, and what to do about it. Neither half repeats the value: it may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub rule: String,
    pub cure: String,
}

impl Flaw {
    pub fn new(rule: impl Into<String>, cure: impl Into<String>) -> Self {
        Flaw { rule: rule.into(), cure: cure.into() }
    }
}

pub type Rule = fn(&str) -> Result<(), Flaw>;
pub type PairRule = fn(&str, &str) -> Result<(), Flaw>;

#[derive(Clone, Copy)]
pub enum Kind {
    Text(Rule),
    /// One of these, in any case.
    Word(&'static [&'static str]),
    /// How much is logged.
    Level,
    Bool,
    Integer {
        min: u64,
        max: u64,
    },
    Millis {
        min: u64,
        max: u64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    /// From 0 to 1.
    Ratio,
    List(Rule),
    Map(PairRule),
    /// What is done with events; see `handlers`.
    Handlers,
    /// A PostgreSQL URL. It may hold a password, so it is shown only through `Target`.
    Url,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Kind {
    /// The value as used. Text stands for any kind, so that a variable of the environment and a quoted
    /// word in a file mean the same: lists are separated by commas, maps are `name=value` with commas
    /// between, and either may be JSON where a value has commas itself.
    pub fn settle(&self, written: &Value) -> Result<Value, Flaw> {
        match self {
            Kind::Text(rule) => {
                let Value::String(text) = written else { return Err(self.wrong(written, "put it in quotes")) };
                let text = trimmed(text)?;
                rule(text)?;
                Ok(text.into())
            }
            Kind::Word(words) => {
                let Value::String(text) = written else { return Err(self.wrong(written, "write one of these words")) };
                let text = text.trim().to_lowercase();
                if words.contains(&text.as_str()) {
                    Ok(text.into())
                } else {
                    Err(Flaw::new(format!("must be {self}"), "write one of these words"))
                }
            }
            Kind::Level => {
                let Value::String(text) = written else { return Err(self.wrong(written, "write one of these words")) };
                // Python has other words for some.
                match text.trim().to_lowercase().as_str() {
                    "warning" => Ok("warn".into()),
                    "critical" | "fatal" => Ok("error".into()),
                    "notset" => Ok("trace".into()),
                    _ => Kind::Word(&LEVELS).settle(written),
                }
            }
            Kind::Bool => match written {
                Value::Bool(_) => Ok(written.clone()),
                Value::String(text) => match text.trim().to_lowercase().as_str() {
                    "true" | "yes" | "on" | "1" => Ok(true.into()),
                    "false" | "no" | "off" | "0" => Ok(false.into()),
                    _ => Err(Flaw::new(format!("must be {self}"), "write true or false")),
                },
                _ => Err(self.wrong(written, "write true or false")),
            },
            Kind::Integer { min, max } | Kind::Millis { min, max } | Kind::Bytes { min, max } => {
                let number = match written {
                    Value::Number(number) => number.to_string(),
                    Value::String(text) => text.trim().to_owned(),
                    _ => return Err(self.wrong(written, "write a number")),
                };
                self.integer(&number, *min, *max).map(Value::from)
            }
            Kind::Ratio => {
                let number = match written {
                    Value::Number(number) => number.as_f64(),
                    Value::String(text) => text.trim().parse().ok(),
                    _ => None,
                };
                let ratio = number.filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.map(Value::from).ok_or_else(|| self.wrong(written, "write 0.1 for one in ten"))
            }
            Kind::List(rule) => {
                let items = match written {
                    Value::Array(items) => items.clone(),
                    Value::String(text) if text.trim_start().starts_with('[') => return self.settle(&json(text)?),
                    Value::String(text) => {
                        trimmed(text)?;
                        text.split(',').map(|item| item.trim().into()).collect()
                    }
                    _ => return Err(self.wrong(written, "write a list")),
                };
                if items == [Value::from("")] {
                    return Ok(Value::Array(Vec::new()));
                }
                for item in &items {
                    let Value::String(item) = item else {
                        return Err(Flaw::new(
                            format!("must be a list of texts and has {}", name_of(item)),
                            "put it in quotes",
                        ));
                    };
                    plain(item)?;
                    rule(item)?;
                }
                Ok(Value::Array(items))
            }
            Kind::Map(rule) => {
                let pairs = match written {
                    Value::Object(pairs) => pairs.clone(),
                    Value::String(text) if text.trim_start().starts_with('{') => return self.settle(&json(text)?),
                    Value::String(text) => pairs_of(text)?,
                    _ => return Err(self.wrong(written, "write pairs of a name and a value")),
                };
                let mut used = Map::new();
                for (name, value) in pairs {
                    let value = match value {
                        Value::String(text) => text,
                        Value::Bool(_) | Value::Number(_) => value.to_string(),
                        _ => {
                            return Err(Flaw::new(
                                format!("`{name}` is {}", name_of(&value)),
                                "give it a text or a number",
                            ));
                        }
                    };
                    plain(&name)?;
                    // A certificate has lines.
                    plain(&value.replace(['\n', '\t'], " "))?;
                    rule(&name, &value)?;
                    used.insert(name, value.into());
                }
                Ok(Value::Object(used))
            }
            Kind::Handlers => match written {
                Value::String(text) if text.trim().is_empty() => Ok(Value::Array(Vec::new())),
                Value::String(text) => self.settle(&json(text)?),
                written => match handlers::read(written) {
                    Ok(_) => Ok(written.clone()),
                    Err(mut found) => Err(found.swap_remove(0).flaw),
                },
            },
            Kind::Url => {
                let Value::String(text) = written else {
                    return Err(self.wrong(written, URL_CURE));
                };
                let text = trimmed(text)?;
                Target::parse(text).map_err(|rule| Flaw::new(rule, URL_CURE))?;
                Ok(text.into())
            }
        }
    }

    fn integer(&self, text: &str, min: u64, max: u64) -> Result<u64, Flaw> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Flaw::new(format!("must be {self}"), "write digits only, without a unit or a fraction"));
        }
        // Digits that do not fit are either below zero or above every limit.
        let value = text.parse::<u64>().unwrap_or(if text.starts_with('-') { 0 } else { u64::MAX });
        if value < min || text.starts_with('-') && digits.bytes().any(|digit| digit != b'0') {
            Err(Flaw::new(format!("is under the minimum of {min}"), format!("write a number from {min} to {max}")))
        } else if value > max {
            Err(Flaw::new(format!("is over the maximum of {max}"), format!("write a number from {min} to {max}")))
        } else {
            Ok(value)
        }
    }

    fn wrong(&self, written: &Value, cure: &str) -> Flaw {
        Flaw::new(format!("must be {self}, not {}", name_of(written)), cure)
    }
}

/// As an operator reads it, in findings and in `docs/CONFIG.md`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text(_) => write!(f, "text"),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Level => write!(f, "{}", Kind::Word(&LEVELS)),
            Kind::Bool => write!(f, "true or false"),
            Kind::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Kind::Millis { min, max } => write!(f, "milliseconds from {min} to {max}"),
            Kind::Bytes { min, max } => write!(f, "bytes from {min} to {max}"),
            Kind::Ratio => write!(f, "a number from 0 to 1"),
            Kind::List(_) => write!(f, "a list"),
            Kind::Map(_) => write!(f, "pairs of a name and a value"),
            Kind::Handlers => write!(f, "a list of handlers"),
            Kind::Url => write!(f, "a PostgreSQL URL"),
        }
    }
}

const URL_CURE: &str = "write postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=disable, with %XX for special characters \
                        in the password";

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

/// Control characters are nowhere meant, and a NUL would end the word early inside a C library. A line break is what a
/// quote left open in `.env` leaves, with the lines below it.
pub(super) fn plain(text: &str) -> Result<(), Flaw> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        Err(Flaw::new("is not UTF-8", "write it in UTF-8"))
    } else if text.chars().any(char::is_control) {
        Err(Flaw::new("has a control character or a line break", "take it out, or close the quote that was left open"))
    } else {
        Ok(())
    }
}

/// Without the space around it and the line break that a file ends with. One that stands before it is none of those: the
/// quote was opened on the line above, and this line may be a password's.
fn trimmed(text: &str) -> Result<&str, Flaw> {
    let text = text.trim_end();
    plain(text.trim_start_matches(' '))?;
    Ok(text.trim_start())
}

/// The parser's own words are left out: they may quote the text.
fn json(text: &str) -> Result<Value, Flaw> {
    serde_json::from_str(text)
        .map_err(|_| Flaw::new("starts like JSON and is not JSON", "close every quote and bracket"))
}

fn pairs_of(text: &str) -> Result<Map<String, Value>, Flaw> {
    trimmed(text)?;
    let mut pairs = Map::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Flaw::new(
                "has a part without `=`",
                "write name=value,name=value, or JSON where a value has a comma",
            ));
        };
        if pairs.insert(name.trim().to_owned(), value.trim().into()).is_some() {
            return Err(Flaw::new("gives a name twice", "keep one of the two"));
        }
    }
    Ok(pairs)
}

pub fn not_empty(text: &str) -> Result<(), Flaw> {
    if text.is_empty() { Err(Flaw::new("must not be empty", "give it or remove the line")) } else { Ok(()) }
}

/// What a broker accepts as the name of a topic.
pub fn topic(text: &str) -> Result<(), Flaw> {
    let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if legal && (1..=249).contains(&text.len()) && text != "." && text != ".." {
        Ok(())
    } else {
        Err(Flaw::new(
            "is not a legal topic name",
            "use 1 to 249 letters, digits, dots, underscores and hyphens, and not . or ..",
        ))
    }
}

/// A name of a topic, or a pattern for names.
pub fn pattern(text: &str) -> Result<(), Flaw> {
    match is_pattern(text) {
        true => regex(text),
        false => topic(text),
    }
}

/// Dots are in the names of topics; all else that a pattern may have is not.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\'])
}

/// Whether one of these names and patterns is of this topic. A pattern is meant for the whole of a name.
pub fn takes_topic(patterns: &[String], topic: &str) -> bool {
    let whole = |pattern: &str| regex_lite::Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|it| it.is_match(topic));
    patterns.iter().any(|pattern| pattern == topic || is_pattern(pattern) && whole(pattern))
}

pub fn regex(text: &str) -> Result<(), Flaw> {
    regex_lite::Regex::new(text).map(drop).map_err(|_| {
        Flaw::new("is no regular expression", "write one, as public\\.orders.*, with \\ before what is meant as it is")
    })
}

/// The name of a table with what of its source is filled in.
pub fn table_template(text: &str) -> Result<(), Flaw> {
    const CURE: &str = "write it as {schema}.{table}, with {server} and {database} where they are wanted";
    let (before, placeholders) = text.split_once('{').map_or((text, None), |(before, rest)| (before, Some(rest)));
    let is_known = |part: &str| {
        let (name, behind) = part.split_once('}').unwrap_or((part, "}"));
        ["server", "database", "schema", "table"].contains(&name) && !behind.contains('}')
    };
    if text.matches('.').count() > 1 {
        return Err(Flaw::new("has more than one dot, and one parts schema and table", CURE));
    }
    if text.split('.').any(str::is_empty) {
        return Err(Flaw::new("has nothing on one side of its dot", CURE));
    }
    match !before.contains('}') && placeholders.is_none_or(|rest| rest.split('{').all(is_known)) {
        true => Ok(()),
        false => Err(Flaw::new("has something in { } that is none of server, database, schema and table", CURE)),
    }
}

/// schema.table or schema.table.column at the source, and a name or names.
pub fn column_name(name: &str, value: &str) -> Result<(), Flaw> {
    match name.contains('.') && !value.is_empty() {
        true => Ok(()),
        false => {
            Err(Flaw::new("has a name without its table", "write schema.table.column=name, or schema.table=columns"))
        }
    }
}

pub fn mask(name: &str, value: &str) -> Result<(), Flaw> {
    regex(name)?;
    match matches!(value, "null" | "hash") || value.starts_with("text:") {
        true => Ok(()),
        false => Err(Flaw::new("has a mask that is not known", "write null, hash, or text:WORDS")),
    }
}

pub fn extra(name: &str, value: &str) -> Result<(), Flaw> {
    match ["op", "source_time", "lsn", "topic", "partition", "offset"].contains(&name) && !value.is_empty() {
        true => Ok(()),
        false => Err(Flaw::new(
            "has something that is not kept beside rows",
            "write op, source_time, lsn, topic, partition or offset, each with =COLUMN",
        )),
    }
}

/// An SQLSTATE, as in PostgreSQL's appendix of error codes.
pub fn sqlstate(text: &str) -> Result<(), Flaw> {
    match text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()) {
        true => Ok(()),
        false => {
            Err(Flaw::new("has an entry that is no SQLSTATE", "write five digits or capital letters each, as 40001"))
        }
    }
}

/// A table, with its schema or without. Only names that mean the same with quotes and without; 59 bytes
/// leave room for `_seq` within PostgreSQL's 63.
pub fn table(text: &str) -> Result<(), Flaw> {
    let legal = |name: &str| {
        (1..=59).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() <= 2 && parts.into_iter().all(legal) {
        Ok(())
    } else {
        Err(Flaw::new(
            "is not a table name that works without quotes",
            "use table or schema.table: small letters, digits and underscores, each up to 59 characters",
        ))
    }
}

pub fn broker(text: &str) -> Result<(), Flaw> {
    let flaw =
        |rule: &str| Err(Flaw::new(rule, "write host:port, with commas between brokers: kafka1:9092,kafka2:9092"));
    if text.is_empty() {
        return flaw("has an empty entry");
    }
    let Some((name, port)) = text.rsplit_once(':') else { return flaw("has a broker without a port") };
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if !inner.map_or_else(|| is_host(name), |address| address.parse::<std::net::Ipv6Addr>().is_ok()) {
        return flaw("has a broker whose host is not a host name or an address");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => flaw("has a broker whose port is not a number from 1 to 65535"),
    }
}

pub fn collector(text: &str) -> Result<(), Flaw> {
    let rule = if text.starts_with("https:") { "is https" } else { "is not the address of a collector" };
    Endpoint::read(text).map(drop).map_err(|cure| Flaw::new(rule, cure))
}

pub fn host(text: &str) -> Result<(), Flaw> {
    if text.parse::<IpAddr>().is_ok() || is_host(text) {
        Ok(())
    } else {
        Err(Flaw::new("is not a host name or an address", "write 127.0.0.1, 0.0.0.0, :: or a name"))
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: Kind = Kind::Millis { min: 1, max: 600 };

    fn settled(kind: Kind, written: impl Into<Value>) -> Result<Value, String> {
        kind.settle(&written.into()).map_err(|flaw| flaw.rule)
    }

    #[test]
    fn an_integer_keeps_its_limits_at_both_ends() {
        assert_eq!(settled(MILLIS, 1), Ok(1.into()));
        assert_eq!(settled(MILLIS, "600"), Ok(600.into()));
        for under in [Value::from(0), (-1).into(), "-99999999999999999999999".into()] {
            assert_eq!(settled(MILLIS, under), Err("is under the minimum of 1".into()));
        }
        for over in [Value::from(601), u64::MAX.into(), "99999999999999999999999".into()] {
            assert_eq!(settled(MILLIS, over), Err("is over the maximum of 600".into()));
        }
        for odd in [Value::from("5s"), 5.5.into(), "".into(), "-".into(), "0x10".into(), "+5".into(), "1e2".into()] {
            assert_eq!(settled(MILLIS, odd), Err("must be milliseconds from 1 to 600".into()));
        }
        assert!(settled(MILLIS, vec![5]).unwrap_err().ends_with("not a list"));
        assert_eq!(settled(Kind::Integer { min: 0, max: 9 }, "-0"), Ok(0.into()));
        assert_eq!(settled(Kind::Integer { min: 0, max: 9 }, "-1"), Err("is under the minimum of 0".into()));
    }

    #[test]
    fn a_level_may_be_one_of_python_s_words() {
        let level = |word: &str| settled(Kind::Level, word);
        for (word, used) in [("INFO", "info"), ("WARNING", "warn"), ("Critical", "error"), ("DEBUG", "debug")] {
            assert_eq!(level(word), Ok(used.into()));
        }
        assert_eq!(level("loud"), Err("must be one of off, error, warn, info, debug, trace".into()));
    }

    #[test]
    fn a_number_is_no_text_because_its_leading_zeros_are_already_gone() {
        assert_eq!(settled(Kind::Text(not_empty), 7), Err("must be text, not a number".into()));
    }

    #[test]
    fn lists_and_maps_are_read_from_one_line_of_text_or_from_json() {
        let list = Kind::List(not_empty);
        let expected: Value = serde_json::json!(["a", "b"]);
        assert_eq!(settled(list, "a, b").as_ref(), Ok(&expected));
        assert_eq!(settled(list, r#"["a","b"]"#).as_ref(), Ok(&expected));
        assert_eq!(settled(list, expected.clone()), Ok(expected));
        assert_eq!(settled(list, ""), Ok(Value::Array(vec![])));
        assert_eq!(settled(list, "a,,b"), Err("must not be empty".into()));
        assert!(settled(list, serde_json::json!(["a", 1])).is_err());

        let map = Kind::Map(|_, _| Ok(()));
        let expected = serde_json::json!({"a": "1", "b": "x=y"});
        assert_eq!(settled(map, "a=1, b=x=y").as_ref(), Ok(&expected));
        assert_eq!(settled(map, r#"{"a":1,"b":"x=y"}"#).as_ref(), Ok(&expected));
        assert_eq!(settled(map, "a=1,a=2"), Err("gives a name twice".into()));
        assert_eq!(settled(map, "a"), Err("has a part without `=`".into()));
        assert_eq!(settled(map, "{"), Err("starts like JSON and is not JSON".into()));
        assert!(settled(map, serde_json::json!({"a": ["b"]})).is_err());
    }

    #[test]
    fn words_and_booleans_ignore_case() {
        assert_eq!(settled(Kind::Word(&["debug", "info"]), "INFO"), Ok("info".into()));
        assert_eq!(settled(Kind::Word(&["debug", "info"]), "loud"), Err("must be one of debug, info".into()));
        assert_eq!(settled(Kind::Bool, "Yes"), Ok(true.into()));
        assert_eq!(settled(Kind::Bool, "0"), Ok(false.into()));
        assert!(settled(Kind::Bool, "maybe").is_err());
        assert!(settled(Kind::Bool, 1).is_err());
    }

    #[test]
    fn a_control_character_is_refused_wherever_it_stands() {
        for kind in [Kind::Text(not_empty), Kind::List(not_empty), Kind::Map(|_, _| Ok(())), Kind::Url] {
            assert_eq!(settled(kind, "a=b\0c"), Err("has a control character or a line break".into()));
        }
    }

    #[test]
    fn names_that_kafka_postgres_or_the_network_refuse_are_refused() {
        for (rule, good, bad) in [
            (topic as Rule, vec!["a", "cdc.public.users", "A-1_b"], vec!["", ".", "..", "a b", "ä", &"x".repeat(250)]),
            (
                table,
                vec!["t", "public.processed_seed_status"],
                vec!["", "T", "a.b.c", "1a", "a b", "a\"b", &"x".repeat(60)],
            ),
            (
                broker,
                vec!["localhost:9092", "10.0.0.1:1", "[::1]:9092"],
                vec!["", "localhost", ":9092", "a:0", "a:65536", "a:b", "::1:9092", "PLAINTEXT://a:1", "a b:1"],
            ),
            (host, vec!["127.0.0.1", "::", "localhost"], vec!["", "a:1", "http://x"]),
        ] {
            for text in good {
                assert_eq!(rule(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(rule(text).is_err(), "{text}");
            }
        }
    }
}
