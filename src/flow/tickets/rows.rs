//! Tickets of one batch: each record whole, as it may have to be set aside or parked, beside its row for COPY. One record
//! is one row, whatever becomes of it.

use std::ops::Range;

use super::ticket::Ticket;
use crate::engine::Rows;
use crate::fault::Cause;
use crate::flow::packed::{PackedRecord, Unpacked};
use crate::record::Record;

#[derive(Clone, Debug)]
pub struct Row {
    pub timestamp_ms: Option<i64>,
    /// The number of the ticket in its order; or why the record is none.
    pub sequence: Result<i64, Box<Cause>>,
    /// Where its packed record ends, and its row for COPY; they begin where those of the row before end.
    record_end: usize,
    copy_end: usize,
}

#[derive(Clone, Debug, Default)]
pub struct TicketRows {
    rows: Vec<Row>,
    records: Vec<u8>,
    copy: Vec<u8>,
}

/// What a buffer keeps for the next rows: one record of unusual size must not hold its memory for ever.
const KEPT_BYTES_MAX: usize = 8 << 20;

impl TicketRows {
    pub fn add(&mut self, record: &Record<'_>, read: Result<Ticket<'_>, Cause>) {
        PackedRecord::pack(record, &mut self.records);
        let sequence = read.map_err(Box::new).map(|ticket| {
            ticket.copy(&mut self.copy);
            ticket.sequence
        });
        let (record_end, copy_end) = (self.records.len(), self.copy.len());
        self.rows.push(Row { timestamp_ms: record.timestamp_ms, sequence, record_end, copy_end });
    }

    pub fn row(&self, row: usize) -> &Row {
        &self.rows[row]
    }

    pub fn packed(&self, row: usize) -> PackedRecord<'_> {
        PackedRecord::read(self.record(row)).expect("packed by decode")
    }

    pub fn record(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].record_end);
        &self.records[start..self.rows[row].record_end]
    }

    /// These rows for COPY, one after the other.
    pub fn copy(&self, rows: Range<usize>) -> &[u8] {
        let at = |row: usize| row.checked_sub(1).map_or(0, |before| self.rows[before].copy_end);
        &self.copy[at(rows.start)..at(rows.end)]
    }

    /// The status of a ticket, out of its row for COPY.
    pub fn status(&self, row: usize) -> &str {
        let mut fields = Unpacked(&self.copy(row..row + 1)[size_of::<i16>()..]);
        // Behind the order, the sequence and the ticket's own id.
        (0..3).try_for_each(|_| fields.field().map(|_| ())).and_then(|()| fields.text()).expect("encoded by decode")
    }
}

impl Rows for TicketRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.records.len() + self.copy.len() + self.rows.len() * size_of::<Row>()
    }

    fn clear(&mut self) {
        self.rows.clear();
        for buffer in [&mut self.records, &mut self.copy] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES_MAX);
        }
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let mut part = TicketRows::default();
        for row in rows {
            part.records.extend_from_slice(self.record(row));
            part.copy.extend_from_slice(self.copy(row..row + 1));
            let (record_end, copy_end) = (part.records.len(), part.copy.len());
            part.rows.push(Row { record_end, copy_end, ..self.rows[row].clone() });
        }
        part
    }
}
