//! What a message says by itself, before anybody asks for its table: its key, its headers, what is kept beside its row.

use std::io::Write;

use super::naming::{Mask, hashed};
use super::rows::Lsn;
use super::shape::Extra;
use crate::decode::debezium::{Change, Fields, Kind, Modes, Op, Origin, Written, fields};
use crate::fault::Cause;
use crate::record::Record;

/// Headers of the two messages that a change of a key becomes: what the row is called then, and what it was called.
pub const NEW_KEY: &str = "__debezium.newkey";
pub const OLD_KEY: &str = "__debezium.oldkey";

/// The connector's own topic, of messages that say that it lives.
pub const HEARTBEATS: &str = "__debezium-heartbeat";

pub fn utf8(bytes: &[u8]) -> Result<&str, Cause> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Cause::new("cdc.payload", "the message is not UTF-8"))
}

/// The text of a header, where the record has it.
pub fn header(record: &Record<'_>, name: &str) -> Option<String> {
    let mut found = None;
    record.headers.each(&mut |known, value| {
        if known == name {
            found = value.and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned);
        }
    });
    found
}

/// The fields of a record's key; none where it has no key. An error where it is none of fields: what it is instead.
pub fn key_of(payload: Result<&str, Cause>) -> Result<Fields<'_>, &'static str> {
    let payload = payload.map_err(|_| "no text")?.trim_ascii();
    match payload.bytes().next() {
        None => Ok(Fields::new()),
        _ if payload == "null" => Ok(Fields::new()),
        Some(b'{') => fields(payload).map_err(|_| "no JSON"),
        Some(b'"') => Err("a text"),
        Some(b'[') => Err("a list"),
        Some(b'-' | b'0'..=b'9') => Err("a number"),
        Some(_) => Err("no JSON"),
    }
}

/// The fields of a key that a header has, where it is an object of them.
pub fn fields_of(payload: &str) -> Result<Fields<'_>, Cause> {
    if payload.starts_with('{') { fields(payload) } else { Ok(Fields::new()) }
}

/// Of a row that came without its envelope: a topic is called after server, schema and table.
pub fn origin_of(topic: &str) -> Origin<'_> {
    let (rest, table) = topic.rsplit_once('.').unwrap_or(("", topic));
    let (server, schema) = rest.rsplit_once('.').unwrap_or(("", rest));
    let schema = if schema.is_empty() { "public" } else { schema };
    Origin { server: server.into(), database: "".into(), schema: schema.into(), table: table.into(), is_by_topic: true }
}

/// False where there is nothing to be written.
pub fn fill_extra(extra: Extra, moment: &Kind, record: &Record<'_>, change: &Change<'_>, out: &mut Vec<u8>) -> bool {
    let written = match extra {
        Extra::Op => out.write_all(match change.op {
            Op::Create => b"c",
            Op::Update => b"u",
            Op::Delete => b"d",
            Op::Read => b"r",
            Op::Truncate => b"t",
        }),
        Extra::SourceTime => match change.at_ms {
            Some(at_ms) => {
                return moment.write(&at_ms.to_string(), &Modes::default(), out).is_ok_and(|written| {
                    out.push(b'Z');
                    written == Written::Value
                });
            }
            None => return false,
        },
        Extra::Lsn => match change.lsn {
            Some(lsn) => write!(out, "{}", Lsn(lsn)),
            None => return false,
        },
        Extra::Topic => out.write_all(record.partition.topic.as_bytes()),
        Extra::Partition => write!(out, "{}", record.partition.id),
        Extra::Offset => write!(out, "{}", record.offset),
    };
    written.is_ok()
}

/// Puts what may be seen in the place of the text since `at`.
pub fn hide(mask: &Mask, at: usize, text: &mut Vec<u8>) {
    let shown = match mask {
        Mask::Null => String::new(),
        Mask::Text(shown) => shown.clone(),
        Mask::Hash(salt) => hashed(salt, &text[at..]),
    };
    text.truncate(at);
    text.extend_from_slice(shown.as_bytes());
}
