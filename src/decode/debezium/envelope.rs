//! What a message of the connector is: a row's change in its envelope, a row by itself as ExtractNewRecordState leaves
//! it, or a message about the stream. Values stay as they were written; which columns they make is `Field`'s affair.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::fault::Cause;

/// A message in the form of JsonConverter with schemas: both parts, and where the payload begins.
pub struct Wrapped<'a> {
    pub schema: &'a str,
    pub payload: &'a str,
    /// Everything before the payload, where nothing comes behind it: messages of one schema have it in common to the byte.
    pub prefix: Option<&'a str>,
}

/// Both parts of a message, where it has them: an object of `schema` and `payload` and nothing else.
pub fn unwrap(json: &str) -> Option<Wrapped<'_>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Both<'a> {
        #[serde(borrow)]
        schema: &'a RawValue,
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    // Most messages without a schema need not be read to see that.
    let first = json.trim_ascii_start().strip_prefix('{')?.trim_ascii_start();
    if !first.starts_with("\"schema\"") && !first.starts_with("\"payload\"") {
        return None;
    }
    let Both { schema, payload } = serde_json::from_str(json).ok()?;
    let (schema, payload) = (schema.get(), payload.get());
    let begin = payload.as_ptr() as usize - json.as_ptr() as usize;
    let is_last = json[begin + payload.len()..].trim_ascii() == "}";
    Some(Wrapped { schema, payload, prefix: is_last.then(|| &json[..begin]) })
}

/// The payload of a message that begins as another one did.
pub fn payload_behind<'a>(json: &'a str, prefix: &str) -> Option<&'a str> {
    json.strip_prefix(prefix)?.trim_ascii_end().strip_suffix('}')
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Update,
    Delete,
    /// Of a snapshot.
    Read,
    Truncate,
}

/// The table that a change is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin<'a> {
    /// The connector's name for the whole database: the prefix of its topics.
    pub server: Cow<'a, str>,
    pub database: Cow<'a, str>,
    pub schema: Cow<'a, str>,
    pub table: Cow<'a, str>,
}

pub struct Change<'a> {
    pub op: Op,
    pub before: Option<&'a str>,
    pub after: Option<&'a str>,
    /// None where the row came without its envelope.
    pub origin: Option<Origin<'a>>,
    /// Where in the source's log it stands. Changes of one row follow each other there; the order of rows is another one,
    /// as transactions are sent when they are committed. None where nothing tells it.
    pub lsn: Option<i64>,
    /// When it was committed at the source, or read by a snapshot.
    pub at_ms: Option<i64>,
}

pub enum Message<'a> {
    Change(Change<'a>),
    /// Of the stream, not of a row: what it is.
    Aside(&'static str),
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ts_ms: Option<&'a RawValue>,
    // Of the messages that are about the stream.
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event_count: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "tableChanges")]
    table_changes: Option<&'a RawValue>,
    // Of a row without its envelope.
    #[serde(borrow, default, rename = "__deleted")]
    deleted: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "__source_lsn", alias = "__lsn")]
    lsn: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "__source_ts_ms")]
    source_ts_ms: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    db: Cow<'a, str>,
    #[serde(borrow, default)]
    schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    table: Option<Cow<'a, str>>,
    #[serde(default)]
    lsn: Option<i64>,
    #[serde(default)]
    ts_ms: Option<i64>,
}

fn unreadable(what: &str, error: &serde_json::Error) -> Cause {
    // The error's own words may repeat a value.
    Cause::new("cdc.payload", format!("{what} cannot be read: line {} column {}", error.line(), error.column()))
}

/// What the payload is. `is_enveloped`: what the schema says of it, where there is one.
pub fn read<'a>(payload: &'a str, is_enveloped: Option<bool>) -> Result<Message<'a>, Cause> {
    let parts: Parts<'a> = serde_json::from_str(payload).map_err(|error| unreadable("the payload", &error))?;
    let looks_enveloped = parts.op.is_some_and(|op| op.get().len() == 3)
        && parts.source.is_some_and(|source| source.get().starts_with('{'));
    if !is_enveloped.unwrap_or(looks_enveloped) {
        return Ok(flat(payload, &parts));
    }
    let source: Source<'a> = match parts.source {
        Some(source) => serde_json::from_str(source.get()).map_err(|error| unreadable("its source", &error))?,
        None => return Err(Cause::new("cdc.payload", "an envelope has no source")),
    };
    let op = match parts.op.map(RawValue::get) {
        Some("\"c\"") => Op::Create,
        Some("\"u\"") => Op::Update,
        Some("\"d\"") => Op::Delete,
        Some("\"r\"") => Op::Read,
        Some("\"t\"") => Op::Truncate,
        Some("\"m\"") => return Ok(Message::Aside("logical_message")),
        _ => return Err(Cause::new("cdc.op", "the op of an envelope is none of c, u, d, r, t and m")),
    };
    let (lsn, at_ms) = (source.lsn.filter(|lsn| *lsn >= 0), source.ts_ms.or_else(|| number(parts.ts_ms)));
    let origin = Origin {
        server: source.name,
        database: source.db,
        schema: source.schema.unwrap_or_default(),
        table: source.table.unwrap_or_default(),
    };
    let (before, after) = (parts.before.map(RawValue::get), parts.after.map(RawValue::get));
    Ok(Message::Change(Change { op, before, after, origin: Some(origin), lsn, at_ms }))
}

fn flat<'a>(payload: &'a str, parts: &Parts<'a>) -> Message<'a> {
    if parts.table_changes.is_some() {
        return Message::Aside("schema_change");
    }
    let is_status = parts.status.is_some_and(|status| matches!(status.get(), "\"BEGIN\"" | "\"END\""));
    if is_status && parts.id.is_some() && parts.event_count.is_some() {
        return Message::Aside("transaction");
    }
    let is_deleted = parts.deleted.is_some_and(|deleted| matches!(deleted.get(), "\"true\"" | "true"));
    let (op, before, after) =
        if is_deleted { (Op::Delete, Some(payload), None) } else { (Op::Create, None, Some(payload)) };
    let (lsn, at_ms) = (number(parts.lsn).filter(|lsn| *lsn >= 0), number(parts.source_ts_ms));
    Message::Change(Change { op, before, after, origin: None, lsn, at_ms })
}

fn number(json: Option<&RawValue>) -> Option<i64> {
    json.and_then(|json| json.get().parse().ok())
}

/// Shows each field of an object with its value as it was written. What `see` says ends it.
pub fn each_field<'a>(
    json: &'a str,
    see: &mut dyn FnMut(Cow<'a, str>, &'a str) -> Result<(), Cause>,
) -> Result<(), Cause> {
    struct Each<'f, 'a>(&'f mut dyn FnMut(Cow<'a, str>, &'a str) -> Result<(), Cause>, &'f mut Option<Cause>);
    impl<'a> DeserializeSeed<'a> for Each<'_, 'a> {
        type Value = ();
        fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'a> Visitor<'a> for Each<'_, 'a> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
            #[derive(Deserialize)]
            struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
            while let Some(Name(name)) = map.next_key()? {
                let value: &'a RawValue = map.next_value()?;
                if let Err(cause) = (self.0)(name, value.get()) {
                    *self.1 = Some(cause);
                    return Err(serde::de::Error::custom("ended"));
                }
            }
            Ok(())
        }
    }
    let mut said = None;
    let read = Each(see, &mut said).deserialize(&mut serde_json::Deserializer::from_str(json));
    match (said, read) {
        (Some(cause), _) => Err(cause),
        (None, Err(error)) => Err(unreadable("a row", &error)),
        (None, Ok(())) => Ok(()),
    }
}

impl Origin<'_> {
    pub fn to_static(&self) -> Origin<'static> {
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        Origin {
            server: owned(&self.server),
            database: owned(&self.database),
            schema: owned(&self.schema),
            table: owned(&self.table),
        }
    }
}
