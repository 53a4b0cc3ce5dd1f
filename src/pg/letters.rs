//! Letters into their table, in the transaction of the batch that they were set aside from. What is done with them
//! there is in `kept`.

pub mod kept;

use super::Work;
use super::copy::{field, timestamp_us};
use crate::engine::Letter;
use crate::fault::Fault;
use crate::record::Partition;

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
    let (mut letters, mut codes) = (letters.peekable(), Vec::new());
    if letters.peek().is_some() {
        // One at a time: each may be as large as a record can be.
        work.copy(
            COPY,
            letters.map(|(partition, letter)| {
                codes.push(&letter.reason.code);
                encoded(flow, partition, letter)
            }),
        )?;
    }
    codes.into_iter().for_each(|code| work.count_letter(code));
    Ok(())
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
