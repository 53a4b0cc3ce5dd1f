//! Events of one batch: each record whole, as it may have to be published again, beside what the handlers made of it. One
//! record is one row, whatever becomes of it.

use std::ops::Range;

use uuid::Uuid;

use super::retry::Origin;
use crate::engine::Rows;
use crate::fault::Cause;
use crate::flow::packed::PackedRecord;

/// What a message is known by: a hash of 128 bits.
pub type Id = Uuid;

/// What the handlers said of a record, before anything was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Handled,
    Dropped,
    /// It may do better later.
    Transient(Cause),
    /// It never will.
    Permanent(Cause),
}

#[derive(Clone, Debug)]
pub struct Row {
    /// None where nothing tells two records of one message apart from two messages.
    pub id: Option<Id>,
    pub timestamp_ms: Option<i64>,
    /// None in the topic where records begin.
    pub origin: Option<Box<Origin>>,
    pub fate: Fate,
    /// Where its packed record ends; it begins where that of the row before ends.
    end: usize,
}

/// What one handler made of the records: for each its bytes, or none.
#[derive(Clone, Debug, Default)]
struct Made {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct EventRows {
    rows: Vec<Row>,
    records: Vec<u8>,
    made: Vec<Made>,
}

/// What a buffer keeps for the next rows: one record of unusual size must not hold its memory for ever.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// librdkafka takes a message of 1,000,000 bytes, unless it is told otherwise; a history needs room.
pub const MESSAGE_BYTES_MAX: usize = 950_000;

impl EventRows {
    /// Where the next record is packed: key and payload, then each header's name and value, all as fields.
    pub fn record(&mut self) -> &mut Vec<u8> {
        &mut self.records
    }

    /// Where handler `number` of `count` writes what it makes of the next record.
    pub fn made(&mut self, number: usize, count: usize) -> &mut Vec<u8> {
        if self.made.len() < count {
            let ends = vec![0; self.rows.len()];
            self.made.resize(count, Made { bytes: Vec::new(), ends });
        }
        &mut self.made[number].bytes
    }

    /// Ends the row. What handlers made of a record that they do not handle is taken back.
    pub fn push(&mut self, id: Option<Id>, timestamp_ms: Option<i64>, origin: Option<Box<Origin>>, fate: Fate) {
        for made in &mut self.made {
            let end = made.ends.last().copied().unwrap_or(0);
            if fate != Fate::Handled {
                made.bytes.truncate(end);
            }
            made.ends.push(made.bytes.len());
        }
        self.rows.push(Row { id, timestamp_ms, origin, fate, end: self.records.len() });
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn packed(&self, row: usize) -> PackedRecord<'_> {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        PackedRecord::read(&self.records[start..self.rows[row].end]).expect("packed by decode")
    }

    /// What a handler made of these rows, one after the other. Empty where it had nothing to do with them.
    pub fn of_handler(&self, number: usize, rows: Range<usize>) -> &[u8] {
        let Some(made) = self.made.get(number) else { return &[] };
        let at = |row: usize| row.checked_sub(1).map_or(0, |before| made.ends[before]);
        &made.bytes[at(rows.start)..at(rows.end)]
    }
}

impl Rows for EventRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        let made: usize = self.made.iter().map(|made| made.bytes.len()).sum();
        self.records.len() + made + self.rows.len() * size_of::<Row>()
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.records.clear();
        self.records.shrink_to(KEPT_BYTES_MAX);
        for made in &mut self.made {
            made.bytes.clear();
            made.bytes.shrink_to(KEPT_BYTES_MAX);
            made.ends.clear();
        }
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let mut part = EventRows::default();
        for index in rows {
            let start = index.checked_sub(1).map_or(0, |before| self.rows[before].end);
            part.records.extend_from_slice(&self.records[start..self.rows[index].end]);
            for number in 0..self.made.len() {
                part.made(number, self.made.len()).extend_from_slice(self.of_handler(number, index..index + 1));
            }
            let Row { id, timestamp_ms, origin, fate, .. } = self.rows[index].clone();
            part.push(id, timestamp_ms, origin, fate);
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::copy::field;

    #[test]
    fn rows_are_found_again_alone_and_in_parts() {
        let mut rows = EventRows::default();
        for (number, fate) in [Fate::Handled, Fate::Dropped, Fate::Handled].into_iter().enumerate() {
            let record = rows.record();
            field(record, Some(&[number as u8]));
            field(record, None);
            field(record, Some(b"name"));
            field(record, Some(b"value"));
            rows.made(1, 2).push(number as u8);
            rows.push(None, Some(number as i64), None, fate);
        }
        assert_eq!(rows.of_handler(1, 0..3), [0, 2]);
        assert_eq!(rows.of_handler(1, 1..2), [0u8; 0]);
        assert_eq!(rows.of_handler(0, 0..3), [0u8; 0]);
        let part = rows.part(1..3);
        assert_eq!((part.len(), part.of_handler(1, 1..2)), (2, &[2u8][..]));
        let packed = part.packed(1);
        assert_eq!((packed.key, packed.payload), (Some(&[2u8][..]), None));
        assert_eq!(packed.headers().collect::<Vec<_>>(), [("name", Some(&b"value"[..]))]);
        rows.clear();
        rows.made(0, 2).push(9);
        rows.push(None, None, None, Fate::Handled);
        assert_eq!(rows.of_handler(0, 0..1), [9]);
    }
}
