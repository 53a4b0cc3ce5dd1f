//! Changes of one batch: for each what it does, which shape its values have, and where they stand in one buffer, each
//! as the text that PostgreSQL reads. What the last records taught about their topic stays with the buffer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::lane::Lane;
use super::shape::Shape;
use crate::engine::Rows;

/// A value, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// The connector does not know it and the row has it: it stays.
    Unchanged,
    Text(&'a [u8]),
}

impl Value<'_> {
    pub fn bytes(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Null | Value::Unchanged => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u32,
    len: u32,
}

const NULL: u32 = u32::MAX;
const UNCHANGED: u32 = u32::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The row is to be as its values say.
    Put,
    Delete,
    /// It gets another key, and what it is to have besides comes by itself.
    Move,
    Truncate,
}

/// What becomes of a row for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Inserted,
    Updated,
    Deleted,
    Truncated,
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub act: Act,
    pub told: Told,
    shape: u32,
    /// Its place in the source's log.
    pub lsn: Option<i64>,
    /// Where the values of the key, or of the whole former row where there is no key, begin.
    before: Option<u32>,
    /// Where those of all columns begin. Of a row that goes: its new key, where it has one, and what is kept beside it, where
    /// it stays.
    after: Option<u32>,
}

/// Where a row is in the log that was read there, or a change. What PostgreSQL logs begins at multiples of eight: the last
/// bit says that it is a snapshot's, at whose place changes with former ones may still have been open.
pub fn place_of(lsn: i64, is_read: bool) -> i64 {
    if is_read { lsn | 1 } else { lsn & !1 }
}

/// A place, as PostgreSQL writes one.
pub struct Lsn(pub i64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 as u64 >> 32, self.0 as u32)
    }
}

impl Row {
    /// Whether a snapshot has read it, at a known place.
    pub fn is_read(&self) -> bool {
        self.lsn.is_some_and(|lsn| lsn == place_of(lsn, true))
    }

    pub fn has_before(&self) -> bool {
        self.before.is_some()
    }
}

impl Told {
    pub const ALL: [Told; 4] = [Told::Inserted, Told::Updated, Told::Deleted, Told::Truncated];

    pub fn word(self) -> &'static str {
        match self {
            Told::Inserted => "inserted",
            Told::Updated => "updated",
            Told::Deleted => "deleted",
            Told::Truncated => "truncated",
        }
    }
}

#[derive(Default)]
pub struct CdcRows {
    rows: Vec<Row>,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    shapes: Vec<Arc<Shape>>,
    /// Messages about the stream, which became no row.
    pub asides: u64,
    pub lane: Lane,
}

/// What a buffer keeps for the next rows: one record of unusual size must not hold its memory for ever.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Where a buffer stood, to go back to.
pub struct Mark(usize, usize);

impl CdcRows {
    pub fn mark(&self) -> Mark {
        Mark(self.slots.len(), self.bytes.len())
    }

    pub fn reset(&mut self, mark: &Mark) {
        self.slots.truncate(mark.0);
        self.bytes.truncate(mark.1);
    }

    /// So many values, null until they are set.
    pub fn values(&mut self, count: usize) -> u32 {
        let start = self.slots.len();
        self.slots.resize(start + count, Slot { start: 0, len: NULL });
        start as u32
    }

    /// Where the next value's text goes.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn text_len(&self) -> usize {
        self.bytes.len()
    }

    /// The value is what was written into `text` since it had this length.
    pub fn set(&mut self, slot: u32, start: usize) {
        self.slots[slot as usize] = Slot { start: start as u32, len: (self.bytes.len() - start) as u32 };
    }

    pub fn set_unchanged(&mut self, slot: u32) {
        self.slots[slot as usize].len = UNCHANGED;
    }

    pub fn has_text(&self, slot: u32) -> bool {
        self.slots[slot as usize].len < UNCHANGED
    }

    pub fn push(
        &mut self,
        shape: &Arc<Shape>,
        (act, told): (Act, Told),
        lsn: Option<i64>,
        (before, after): (Option<u32>, Option<u32>),
    ) {
        let known = self.shapes.iter().rposition(|known| known.number == shape.number);
        let shape = known.unwrap_or_else(|| {
            self.shapes.push(shape.clone());
            self.shapes.len() - 1
        });
        self.rows.push(Row { act, told, shape: shape as u32, lsn, before, after });
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn shape(&self, row: &Row) -> &Arc<Shape> {
        &self.shapes[row.shape as usize]
    }

    /// Of all values of the row.
    pub fn row_bytes(&self, row: &Row) -> usize {
        let shape = self.shape(row);
        let of = |start: Option<u32>, count: usize| -> usize {
            start.map_or(0, |start| (start..start + count as u32).map(|slot| self.value(slot).bytes()).sum())
        };
        of(row.before, shape.before_len()) + of(row.after, shape.columns.len())
    }

    fn value(&self, slot: u32) -> Value<'_> {
        match self.slots[slot as usize] {
            Slot { len: NULL, .. } => Value::Null,
            Slot { len: UNCHANGED, .. } => Value::Unchanged,
            Slot { start, len } => Value::Text(&self.bytes[start as usize..start as usize + len as usize]),
        }
    }

    /// Value `number` of those that the row had.
    pub fn before(&self, row: &Row, number: usize) -> Option<Value<'_>> {
        row.before.map(|start| self.value(start + number as u32))
    }

    /// Value `number` of those that it is to have.
    pub fn after(&self, row: &Row, number: usize) -> Option<Value<'_>> {
        row.after.map(|start| self.value(start + number as u32))
    }
}

impl Rows for CdcRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.bytes.len() + self.slots.len() * size_of::<Slot>() + self.rows.len() * size_of::<Row>()
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.slots.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.shapes.clear();
        self.asides = 0;
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let mut part = CdcRows::default();
        let copied = |part: &mut CdcRows, start: Option<u32>, count: usize| {
            let start = start?;
            let to = part.values(count);
            for number in 0..count as u32 {
                match self.value(start + number) {
                    Value::Null => {}
                    Value::Unchanged => part.set_unchanged(to + number),
                    Value::Text(text) => {
                        let at = part.text_len();
                        part.text().extend_from_slice(text);
                        part.set(to + number, at);
                    }
                }
            }
            Some(to)
        };
        for row in &self.rows[rows] {
            let shape = self.shape(row);
            let before = copied(&mut part, row.before, shape.before_len());
            let after = copied(&mut part, row.after, shape.columns.len());
            part.push(shape, (row.act, row.told), row.lsn, (before, after));
        }
        part
    }
}
