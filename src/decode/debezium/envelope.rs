//! What a message of the connector is: a row's change in its envelope, a row by itself as ExtractNewRecordState leaves
//! it, or a message about the stream. Values stay as they were written; which columns they make is `Field`'s affair.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::name::mended;
use super::scan::{Broken, Scan};
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

/// Fields of a row or a key by their names, in their order, each with its value as it was written.
pub type Fields<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// A row as a message has it.
pub struct Image<'a> {
    pub fields: Fields<'a>,
    /// Of its JSON.
    pub len: usize,
}

impl<'a> Image<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self, Broken> {
        let begin = scan.at();
        // Few tables have more columns.
        let mut fields = Fields::with_capacity(16);
        scan.enter()?;
        while let Some(name) = scan.name()? {
            fields.push((mended(name), scan.value()?));
        }
        Ok(Image { fields, len: scan.at() - begin })
    }
}

/// Those of an object, and nothing behind it.
pub fn fields(json: &str) -> Result<Fields<'_>, Cause> {
    let mut scan = Scan::new(json);
    let read = Image::read(&mut scan).and_then(|image| scan.end().map(|()| image.fields));
    read.map_err(|broken| unreadable("a row", broken))
}

pub struct Change<'a> {
    pub op: Op,
    pub before: Option<Image<'a>>,
    pub after: Option<Image<'a>>,
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

/// The fields of a payload that say what it is. What is null is as if it were not there.
#[derive(Default)]
struct Parts<'a> {
    before: Option<Image<'a>>,
    after: Option<Image<'a>>,
    /// One of these is there and is no object.
    has_odd_image: bool,
    source: Option<Source<'a>>,
    op: Option<&'a str>,
    ts_ms: Option<&'a str>,
    // Of the messages that are about the stream.
    status: Option<&'a str>,
    id: Option<&'a str>,
    event_count: Option<&'a str>,
    table_changes: Option<&'a str>,
    // Of a row without its envelope.
    deleted: Option<&'a str>,
    flat_op: Option<&'a str>,
    source_lsn: Option<&'a str>,
    lsn: Option<&'a str>,
    source_ts_ms: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn read(payload: &'a str) -> Result<Self, Broken> {
        let mut parts = Parts::default();
        let mut scan = Scan::new(payload);
        scan.enter()?;
        while let Some(name) = scan.name()? {
            let part = match &*name {
                // Of an envelope these are objects, and of a row whatever their columns have.
                "before" | "after" if scan.is_object() => {
                    let image = if name == "before" { &mut parts.before } else { &mut parts.after };
                    *image = Some(Image::read(&mut scan)?);
                    continue;
                }
                "before" | "after" => {
                    parts.has_odd_image |= given(scan.value()?).is_some();
                    continue;
                }
                "source" if scan.is_object() => {
                    parts.source = Some(Source::read(&mut scan)?);
                    continue;
                }
                "op" => &mut parts.op,
                "ts_ms" => &mut parts.ts_ms,
                "status" => &mut parts.status,
                "id" => &mut parts.id,
                "event_count" => &mut parts.event_count,
                "tableChanges" => &mut parts.table_changes,
                "__deleted" => &mut parts.deleted,
                "__op" => &mut parts.flat_op,
                "__source_lsn" => &mut parts.source_lsn,
                "__lsn" => &mut parts.lsn,
                "__source_ts_ms" => &mut parts.source_ts_ms,
                _ => {
                    scan.value()?;
                    continue;
                }
            };
            *part = given(scan.value()?);
        }
        scan.end().map(|()| parts)
    }
}

fn given(json: &str) -> Option<&str> {
    Some(json).filter(|json| *json != "null")
}

#[derive(Default)]
struct Source<'a> {
    name: Option<&'a str>,
    db: Option<&'a str>,
    schema: Option<&'a str>,
    table: Option<&'a str>,
    lsn: Option<&'a str>,
    ts_ms: Option<&'a str>,
}

impl<'a> Source<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self, Broken> {
        let mut source = Source::default();
        scan.enter()?;
        while let Some(name) = scan.name()? {
            let value = scan.value()?;
            match &*name {
                "name" => source.name = given(value),
                "db" => source.db = given(value),
                "schema" => source.schema = given(value),
                "table" => source.table = given(value),
                "lsn" => source.lsn = given(value),
                "ts_ms" => source.ts_ms = given(value),
                _ => {}
            }
        }
        Ok(source)
    }

    fn origin(&self) -> Option<Origin<'a>> {
        let [server, database, schema, table] = [self.name, self.db, self.schema, self.table].map(word);
        let (schema, table) = (mended(schema?), mended(table?));
        Some(Origin { server: server?, database: database?, schema, table, is_by_topic: false })
    }
}

/// What is not there is empty. None where it is no text.
fn word(json: Option<&str>) -> Option<Cow<'_, str>> {
    match json {
        None => Some(Cow::Borrowed("")),
        Some(json) => match text::inner(json)? {
            inner if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
            _ => serde_json::from_str(json).ok().map(Cow::Owned),
        },
    }
}

/// What is not there is none. An error where it is no integer.
fn integer(json: Option<&str>) -> Result<Option<i64>, ()> {
    json.map(str::parse).transpose().map_err(drop)
}

fn unreadable(what: &str, broken: Broken) -> Cause {
    Cause::new("cdc.payload", format!("{what} cannot be read: line {} column {}", broken.line, broken.column))
}

/// What the payload is. `is_enveloped`: what the schema says of it, where there is one.
pub fn read<'a>(payload: &'a str, is_enveloped: Option<bool>) -> Result<Message<'a>, Cause> {
    let parts = Parts::read(payload).map_err(|broken| unreadable("the payload", broken))?;
    let looks_enveloped = parts.op.is_some_and(|op| op.len() == 3) && parts.source.is_some();
    if !is_enveloped.unwrap_or(looks_enveloped) {
        return flat(payload, &parts);
    }
    if parts.has_odd_image {
        return Err(Cause::new("cdc.payload", "an envelope has a row that is no object"));
    }
    let Some(source) = &parts.source else { return Err(Cause::new("cdc.payload", "an envelope has no source")) };
    let (Some(origin), Ok(lsn), Ok(at_ms)) = (source.origin(), integer(source.lsn), integer(source.ts_ms)) else {
        return Err(Cause::new("cdc.payload", "an envelope's source has a field of another type than the connector's"));
    };
    let op = match parts.op {
        Some("\"c\"") => Op::Create,
        Some("\"u\"") => Op::Update,
        Some("\"d\"") => Op::Delete,
        Some("\"r\"") => Op::Read,
        Some("\"t\"") => Op::Truncate,
        Some("\"m\"") => return Ok(Message::Aside("logical_message")),
        _ => return Err(Cause::new("cdc.op", "the op of an envelope is none of c, u, d, r, t and m")),
    };
    let (lsn, at_ms) = (lsn.filter(|lsn| *lsn >= 0), at_ms.or_else(|| number(parts.ts_ms)));
    let Parts { before, after, .. } = parts;
    Ok(Message::Change(Change { op, before, after, origin: Some(origin), lsn, at_ms }))
}

fn flat<'a>(payload: &'a str, parts: &Parts<'a>) -> Result<Message<'a>, Cause> {
    if parts.table_changes.is_some() {
        return Ok(Message::Aside("schema_change"));
    }
    let is_status = parts.status.is_some_and(|status| matches!(status, "\"BEGIN\"" | "\"END\""));
    if is_status && parts.id.is_some() && parts.event_count.is_some() {
        return Ok(Message::Aside("transaction"));
    }
    let is_deleted = parts.deleted.is_some_and(|deleted| matches!(deleted, "\"true\"" | "true"));
    let is_read = parts.flat_op.is_some_and(|op| op == "\"r\"");
    let row = Image { fields: fields(payload)?, len: payload.len() };
    let (op, before, after) = match (is_deleted, is_read) {
        (true, _) => (Op::Delete, Some(row), None),
        (false, true) => (Op::Read, None, Some(row)),
        (false, false) => (Op::Create, None, Some(row)),
    };
    // By both names where a transform was told to add it twice.
    let lsn = number(parts.source_lsn).or_else(|| number(parts.lsn)).filter(|lsn| *lsn >= 0);
    let at_ms = number(parts.source_ts_ms);
    Ok(Message::Change(Change { op, before, after, origin: None, lsn, at_ms }))
}

fn number(json: Option<&str>) -> Option<i64> {
    json.and_then(|json| json.parse().ok())
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
