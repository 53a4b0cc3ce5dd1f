//! What the Avro targets share: rows as the transcoder wrote them, datums as apache-avro reads them, and what a row
//! has to be for a value, said once more and as plainly as can be.

use std::io::Read;

use apache_avro::error::Details;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::{Schema, util};
use sluicegate::decode::avro::{Column, Kind};

/// The fields of one row of binary COPY.
pub type Row = Vec<Option<Vec<u8>>>;

pub fn parse(mut row: &[u8]) -> Row {
    let mut take = |count: usize| {
        let (head, rest) = row.split_at(count);
        row = rest;
        head.to_vec()
    };
    let columns = i16::from_be_bytes(take(2).try_into().expect("two bytes"));
    let fields = (0..columns).map(|_| {
        let len = i32::from_be_bytes(take(4).try_into().expect("four bytes"));
        (len >= 0).then(|| take(len as usize))
    });
    let fields = fields.collect();
    assert!(row.is_empty(), "bytes behind the row");
    fields
}

/// A type as far as columns know types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    Null,
    Int,
    Long,
    Millis,
    Micros,
    Text,
    Other,
}

/// Whether a value that was written as one type and is wanted as one of these can go into such a column.
pub fn fits(written: Leaf, wanted: &[Leaf], kind: Kind) -> bool {
    let any = |leaves: &[Leaf]| wanted.iter().any(|leaf| leaves.contains(leaf));
    match (written, kind) {
        (Leaf::Null, _) => any(&[Leaf::Null]),
        (Leaf::Int, Kind::Int4 | Kind::Int8) => any(&[Leaf::Int, Leaf::Long]),
        (Leaf::Long | Leaf::Millis | Leaf::Micros, Kind::Int4 | Kind::Int8) => any(&[Leaf::Long]),
        (Leaf::Int | Leaf::Long | Leaf::Millis | Leaf::Micros, Kind::Timestamp) => any(&[Leaf::Millis, Leaf::Micros]),
        (Leaf::Text, Kind::Text | Kind::Varchar { .. }) => any(&[Leaf::Text]),
        _ => false,
    }
}

/// The column's field for a value that the writer wrote, or the code of the reason why there is none.
pub fn field(column: &Column, wanted: &[Leaf], value: &Value) -> Result<Option<Vec<u8>>, &'static str> {
    let (leaf, number) = match value {
        Value::Union(_, inner) => return field(column, wanted, inner),
        Value::Null => (Leaf::Null, 0),
        Value::Int(number) => (Leaf::Int, i128::from(*number)),
        Value::Long(number) => (Leaf::Long, i128::from(*number)),
        Value::TimestampMillis(number) | Value::LocalTimestampMillis(number) => (Leaf::Millis, i128::from(*number)),
        Value::TimestampMicros(number) | Value::LocalTimestampMicros(number) => (Leaf::Micros, i128::from(*number)),
        Value::String(_) | Value::Bytes(_) => (Leaf::Text, 0),
        _ => (Leaf::Other, 0),
    };
    if !fits(leaf, wanted, column.kind) {
        return Err("avro.union_branch");
    }
    match (value, column.kind) {
        (Value::Null, _) if column.not_null => Err("null.not_null"),
        (Value::Null, _) => Ok(None),
        (Value::String(text), kind) => text_field(text.as_bytes(), kind),
        (Value::Bytes(bytes), kind) => text_field(bytes, kind),
        (_, Kind::Int4) => {
            i32::try_from(number).map(|number| Some(number.to_be_bytes().to_vec())).map_err(|_| "int.range")
        }
        (_, Kind::Timestamp) => {
            // A number without a unit has the one that is wanted.
            let unit = if matches!(leaf, Leaf::Int | Leaf::Long) { wanted } else { &[leaf] };
            let unix_us = if unit.contains(&Leaf::Millis) { number * 1000 } else { number };
            let since_2000_us = unix_us - 946_684_800_000_000;
            let is_known = (-211_813_488_000_000_000..9_223_371_331_200_000_000).contains(&since_2000_us);
            if is_known { Ok(Some((since_2000_us as i64).to_be_bytes().to_vec())) } else { Err("timestamp.range") }
        }
        _ => Ok(Some((number as i64).to_be_bytes().to_vec())),
    }
}

fn text_field(bytes: &[u8], kind: Kind) -> Result<Option<Vec<u8>>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "text.utf8")?;
    match kind {
        _ if text.contains('\0') => Err("text.nul"),
        Kind::Varchar { chars_max } if text.chars().count() > chars_max => Err("text.too_long"),
        _ => Ok(Some(bytes.to_vec())),
    }
}

/// What apache-avro makes of a datum.
pub enum Reading {
    Value(Value),
    /// Cut short, longer than its value, or no value at all.
    None,
    /// Beyond what it reads: more memory than it may have, or more bits than it keeps.
    Undefined,
}

/// A datum, and whether somebody wanted more of it than there is: apache-avro takes its end for a null here and there.
struct Datum<'a> {
    rest: &'a [u8],
    is_short: bool,
}

impl Read for Datum<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.is_short |= out.len() > self.rest.len();
        self.rest.read(out)
    }
}

pub fn read(writer: &Schema, reader: Option<&Schema>, datum: &[u8]) -> Reading {
    // A count of values without bytes is no reason to hold them all.
    util::max_allocation_bytes(64 * 1024);
    let reading = GenericDatumReader::builder(writer).maybe_reader_schema(reader).build().expect("a reader");
    let mut datum = Datum { rest: datum, is_short: false };
    match reading.read_value(&mut datum) {
        Err(error) if matches!(error.details(), Details::MemoryAllocation { .. } | Details::IntegerOverflow) => {
            Reading::Undefined
        }
        Ok(value) if !datum.is_short && datum.rest.is_empty() => Reading::Value(value),
        _ => Reading::None,
    }
}

/// Whether an integer of more than 64 bits may be among these bytes. apache-avro leaves out the bits that have no room.
pub fn may_overflow(datum: &[u8]) -> bool {
    datum.windows(10).any(|bytes| bytes[..9].iter().all(|byte| *byte >= 0x80) && bytes[9] > 1)
}
