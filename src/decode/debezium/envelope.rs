//! What a message of the connector is: a row's change in its envelope, a row by itself as ExtractNewRecordState leaves
//! it, or a message about the stream. Values stay as they were written; which columns they make is `Field`'s affair.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::name::mended;
use super::text;
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
pub fn payload_behind<'a>(json: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    json.strip_prefix(prefix.as_bytes())?.trim_ascii_end().strip_suffix(b"}")
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
    /// Only the topic says all this: the row came without its envelope.
    pub is_by_topic: bool,
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
    source: Anything<'a>,
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
    #[serde(borrow, default, rename = "__op")]
    flat_op: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "__source_lsn")]
    source_lsn: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "__lsn")]
    lsn: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "__source_ts_ms")]
    source_ts_ms: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    db: Option<&'a RawValue>,
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    table: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lsn: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ts_ms: Option<&'a RawValue>,
}

/// What is called `source`: of an envelope it is an object, and of a row whatever its column has.
#[derive(Default)]
struct Anything<'a>(Option<Source<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Anything<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Anything<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Anything<'de>, M::Error> {
        Source::deserialize(MapAccessDeserializer::new(map)).map(|source| Anything(Some(source)))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<Anything<'de>, S::Error> {
        IgnoredAny.visit_seq(seq).map(|_| Anything(None))
    }

    fn visit_unit<E>(self) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Anything<'de>, E> {
        Ok(Anything(None))
    }
}

impl<'a> Source<'a> {
    fn origin(&self) -> Option<Origin<'a>> {
        let [server, database, schema, table] = [self.name, self.db, self.schema, self.table].map(word);
        let (schema, table) = (mended(schema?), mended(table?));
        Some(Origin { server: server?, database: database?, schema, table, is_by_topic: false })
    }
}

/// What is not there is empty. None where it is no text.
fn word(json: Option<&RawValue>) -> Option<Cow<'_, str>> {
    match json.map(RawValue::get) {
        None | Some("null") => Some(Cow::Borrowed("")),
        Some(json) => match text::inner(json)? {
            inner if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
            _ => serde_json::from_str(json).ok().map(Cow::Owned),
        },
    }
}

/// What is not there is none. An error where it is no integer.
fn integer(json: Option<&RawValue>) -> Result<Option<i64>, ()> {
    match json.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(json) => json.parse().map(Some).map_err(drop),
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> Cause {
    // The error's own words may repeat a value.
    Cause::new("cdc.payload", format!("{what} cannot be read: line {} column {}", error.line(), error.column()))
}

/// What the payload is. `is_enveloped`: what the schema says of it, where there is one.
pub fn read<'a>(payload: &'a str, is_enveloped: Option<bool>) -> Result<Message<'a>, Cause> {
    let parts: Parts<'a> = serde_json::from_str(payload).map_err(|error| unreadable("the payload", &error))?;
    let looks_enveloped = parts.op.is_some_and(|op| op.get().len() == 3) && parts.source.0.is_some();
    if !is_enveloped.unwrap_or(looks_enveloped) {
        return Ok(flat(payload, &parts));
    }
    let Some(source) = &parts.source.0 else { return Err(Cause::new("cdc.payload", "an envelope has no source")) };
    let (Some(origin), Ok(lsn), Ok(at_ms)) = (source.origin(), integer(source.lsn), integer(source.ts_ms)) else {
        return Err(Cause::new("cdc.payload", "an envelope's source has a field of another type than the connector's"));
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
    let (lsn, at_ms) = (lsn.filter(|lsn| *lsn >= 0), at_ms.or_else(|| number(parts.ts_ms)));
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
    let is_read = parts.flat_op.is_some_and(|op| op.get() == "\"r\"");
    let (op, before, after) = match (is_deleted, is_read) {
        (true, _) => (Op::Delete, Some(payload), None),
        (false, true) => (Op::Read, None, Some(payload)),
        (false, false) => (Op::Create, None, Some(payload)),
    };
    // By both names where a transform was told to add it twice.
    let lsn = number(parts.source_lsn).or_else(|| number(parts.lsn)).filter(|lsn| *lsn >= 0);
    let at_ms = number(parts.source_ts_ms);
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
                if let Err(cause) = (self.0)(mended(name), value.get()) {
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
            is_by_topic: self.is_by_topic,
        }
    }
}
