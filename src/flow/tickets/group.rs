//! The tickets of one turn, wherever they lie: in batches as they came, or parked before and decoded again.

use std::ops::Range;

use super::rows::{Row, TicketRows};
use crate::engine::{Batch, Letter, Rows};
use crate::fault::{Cause, Fault};
use crate::flow::packed::{PackedRecord, Unpacked};
use crate::pg::copy::field;
use crate::record::{Partition, Record};

/// In the order in which they are looked at.
pub struct Group<'a> {
    places: Vec<Place<'a>>,
    is_replay: bool,
}

struct Place<'a> {
    rows: &'a TicketRows,
    row: usize,
    partition: &'a Partition,
    offset: i64,
    /// Its place among the parked ones, if it is one of them.
    parked: Option<i64>,
}

/// Records that were parked, decoded again.
#[derive(Default)]
pub struct Parked {
    rows: TicketRows,
    /// Of each: where it was read, and its place.
    sources: Vec<(Partition, i64, i64)>,
}

impl Parked {
    /// `body`: as `Group::packed` made it.
    pub fn add(
        &mut self,
        place: i64,
        body: &[u8],
        read: impl FnOnce(&Record<'_>, &mut TicketRows),
    ) -> Result<(), Fault> {
        let unpack = || {
            let mut rest = Unpacked(body);
            let partition = Partition::new(rest.text()?, i32::from_be_bytes(rest.array()?));
            let (offset, timestamp_ms) = (rest.number()?, rest.optional()?);
            let timestamp_ms = timestamp_ms.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
            Some((partition, offset, timestamp_ms, PackedRecord::read(rest.0)?))
        };
        let Some((partition, offset, timestamp_ms, packed)) = unpack() else {
            return Err(Fault::retry("tickets.parked", "a row of sluicegate_parked does not hold what was packed"));
        };
        let (key, payload, headers) = (packed.key, packed.payload, &packed);
        read(&Record { partition: &partition, offset, timestamp_ms, key, payload, headers }, &mut self.rows);
        self.sources.push((partition, offset, place));
        Ok(())
    }
}

impl<'a> Group<'a> {
    pub fn of_batches(batches: &'a [&'a Batch<TicketRows>]) -> Self {
        let places = batches.iter().flat_map(|batch| {
            let (rows, partition) = (&batch.rows, batch.partition());
            (0..rows.len()).map(move |row| Place { rows, row, partition, offset: batch.offsets[row], parked: None })
        });
        Group { places: places.collect(), is_replay: batches.iter().any(|batch| batch.is_replay()) }
    }

    pub fn of_parked(parked: &'a Parked) -> Self {
        let rows = &parked.rows;
        let place = |(row, (partition, offset, place)): (usize, &'a (Partition, i64, i64))| Place {
            rows,
            row,
            partition,
            offset: *offset,
            parked: Some(*place),
        };
        Group { places: parked.sources.iter().enumerate().map(place).collect(), is_replay: false }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    pub fn row(&self, index: usize) -> &'a Row {
        self.places[index].rows.row(self.places[index].row)
    }

    pub fn key(&self, index: usize) -> &'a [u8] {
        self.record(index).key.expect("what has no key is no row")
    }

    pub fn record(&self, index: usize) -> PackedRecord<'a> {
        self.places[index].rows.packed(self.places[index].row)
    }

    /// Where it was read: what a head is called by.
    pub fn source(&self, index: usize) -> String {
        source(self.places[index].partition, self.places[index].offset)
    }

    pub fn parked(&self, index: usize) -> Option<i64> {
        self.places[index].parked
    }

    /// Its row for COPY; nothing where it is no ticket.
    pub fn copy(&self, index: usize) -> &'a [u8] {
        let Place { rows, row, .. } = &self.places[index];
        rows.copy(*row..row + 1)
    }

    pub fn status(&self, index: usize) -> &'a str {
        self.places[index].rows.status(self.places[index].row)
    }

    /// The rows of all of these for COPY, in as few pieces as they lie in.
    pub fn pieces(&self, indexes: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut rest = indexes.iter().map(|index| &self.places[*index]).peekable();
        while let Some(first) = rest.next() {
            let mut rows: Range<usize> = first.row..first.row + 1;
            while rest.next_if(|next| std::ptr::eq(next.rows, first.rows) && next.row == rows.end).is_some() {
                rows.end += 1;
            }
            pieces.push(first.rows.copy(rows));
        }
        pieces
    }

    pub fn letter(&self, index: usize, reason: Cause) -> (&'a Partition, Letter) {
        let Place { partition, offset, .. } = self.places[index];
        (partition, self.record(index).letter(self.row(index).timestamp_ms, offset, reason))
    }

    /// As it is parked: where it was read and when it was made, then the record.
    pub fn packed(&self, index: usize) -> Vec<u8> {
        let Place { rows, row, partition, offset, .. } = &self.places[index];
        let record = rows.record(*row);
        let mut body = Vec::with_capacity(record.len() + partition.topic.len() + 32);
        field(&mut body, Some(partition.topic.as_bytes()));
        body.extend_from_slice(&partition.id.to_be_bytes());
        body.extend_from_slice(&offset.to_be_bytes());
        let timestamp_ms = rows.row(*row).timestamp_ms.map(i64::to_be_bytes);
        field(&mut body, timestamp_ms.as_ref().map(<[u8; 8]>::as_slice));
        body.extend_from_slice(record);
        body
    }
}

pub fn source(partition: &Partition, offset: i64) -> String {
    format!("{partition}/{offset}")
}
