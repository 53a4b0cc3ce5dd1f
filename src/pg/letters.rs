//! Letters into their table, in the transaction of the batch that they were set aside from. What is done with them
//! there is in `kept`.

pub mod kept;

use log::kv::Value;

use super::Work;
use super::copy::{field, timestamp_us};
use crate::engine::Letter;
use crate::fault::{Cause, Fault};
use crate::record::Partition;
use crate::trace::Trace;

pub const CREATE: &str = include_str!("../../sql/letters/create.sql");
const COPY: &str = include_str!("../../sql/letters/copy.sql");
const COLUMNS: i16 = 11;
/// Names, numbers and lengths beside what the letter itself holds.
const ROOM_FOR_THE_REST: usize = 512;
const TEXT_OID: i32 = 25;
const BYTEA_OID: i32 = 17;

pub fn write<'a>(
    work: &mut Work<'_>,
    flow: &str,
    letters: impl Iterator<Item = (&'a Partition, &'a Letter)>,
) -> Result<(), Fault> {
    let (mut letters, mut written) = (letters.peekable(), Vec::new());
    if letters.peek().is_some() {
        // One at a time: each may be as large as a record can be.
        work.copy(
            COPY,
            letters.map(|(partition, letter)| {
                written.push((partition, letter));
                encoded(flow, partition, letter)
            }),
        )?;
    }
    written.into_iter().for_each(|(partition, letter)| work.count_letter(partition, letter));
    Ok(())
}

/// What the log says of a letter: which record it is, why, and which trace that belongs to.
#[derive(Debug)]
pub struct Line {
    partition: Partition,
    offset: i64,
    reason: Cause,
    trace: Option<Trace>,
}

impl Line {
    pub fn of(partition: &Partition, letter: &Letter, reason: Cause) -> Line {
        Line { partition: partition.clone(), offset: letter.offset, reason, trace: Trace::of(&letter.headers) }
    }

    /// `what` has become of it. `id`: that of the letter, where it has been one before.
    pub fn write(&self, flow: &str, id: Option<i64>, what: &str) {
        let Line { partition: Partition { topic, id: partition }, offset, reason, trace } = self;
        let trace = trace.map(|trace| (trace.trace_id(), trace.span_id()));
        let mut fields: Vec<(&str, Value<'_>)> = vec![
            ("flow", flow.into()),
            ("topic", (&**topic).into()),
            ("partition", (*partition).into()),
            ("offset", (*offset).into()),
            ("code", (&*reason.code).into()),
        ];
        fields.extend(id.map(|id| ("letter", id.into())));
        if let Some((trace_id, span_id)) = &trace {
            fields.extend([("trace_id", trace_id.as_str().into()), ("span_id", span_id.as_str().into())]);
        }
        // The macros have fields that are always there, or never.
        let mut line = log::Record::builder();
        line.level(log::Level::Debug).target(module_path!()).key_values(&fields);
        log::logger().log(&line.args(format_args!("{what}: {}", reason.text)).build());
    }
}

fn encoded(flow: &str, partition: &Partition, letter: &Letter) -> Vec<u8> {
    let mut row = Vec::with_capacity(letter.bytes() + ROOM_FOR_THE_REST);
    row.extend_from_slice(&COLUMNS.to_be_bytes());
    encode(&mut row, flow, partition, letter);
    row
}

fn encode(out: &mut Vec<u8>, flow: &str, partition: &Partition, letter: &Letter) {
    text(out, flow);
    text(out, &partition.topic);
    field(out, Some(&partition.id.to_be_bytes()));
    field(out, Some(&letter.offset.to_be_bytes()));
    // Where PostgreSQL has no such moment the letter goes without.
    let timestamp_us = letter.timestamp_ms.and_then(timestamp_us);
    field(out, timestamp_us.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    field(out, letter.key.as_deref());
    field(out, letter.payload.as_deref());
    let names = letter.headers.iter().map(|(name, _)| Some(without_nul(name).into_bytes()));
    array(out, TEXT_OID, names);
    array(out, BYTEA_OID, letter.headers.iter().map(|(_, value)| value.clone()));
    text(out, &letter.reason.code);
    text(out, &letter.reason.text);
}

/// PostgreSQL has no NUL in text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn text(out: &mut Vec<u8>, value: &str) {
    field(out, Some(without_nul(value).as_bytes()));
}

/// A one-dimensional array in the binary format: dimensions, null flag, element type, length, lower bound.
fn array(out: &mut Vec<u8>, element_oid: i32, items: impl ExactSizeIterator<Item = Option<Vec<u8>>>) {
    let mut body = Vec::new();
    let dimensions = if items.len() == 0 { 0i32 } else { 1 };
    for number in [dimensions, 1, element_oid] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    if dimensions == 1 {
        body.extend_from_slice(&(items.len() as i32).to_be_bytes());
        body.extend_from_slice(&1i32.to_be_bytes());
    }
    items.for_each(|item| field(&mut body, item.as_deref()));
    field(out, Some(&body));
}
