//! Rows in PostgreSQL's binary COPY format, and nothing about what the columns mean.
//! The header and trailer of a stream are added when rows are written, so that buffers can be joined.

use std::ops::Range;

use crate::engine::Rows;

/// Signature, flags and extension length: the 19 bytes that open every binary COPY stream.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The field count of -1 that closes it.
pub const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// 2000-01-01 in Unix time: where PostgreSQL's clock starts.
pub const EPOCH_MS: i64 = 946_684_800_000;
/// PostgreSQL's timestamps: from 4713 BC up to, but without, the year 294277, from its own epoch.
pub const TIMESTAMP_US: Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A moment on PostgreSQL's clock. None where it has no such moment.
pub fn timestamp_us(unix_ms: i64) -> Option<i64> {
    let us = unix_ms.checked_sub(EPOCH_MS)?.checked_mul(1000)?;
    TIMESTAMP_US.contains(&us).then_some(us)
}

/// Appends a field: its length, -1 for null, and its bytes.
pub fn field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// What a buffer keeps for the next rows: one record of unusual size must not hold its memory for ever.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Encoded rows one after the other. Where each ends, the format itself says.
#[derive(Default, Debug, Clone)]
pub struct CopyRows {
    bytes: Vec<u8>,
    rows: usize,
}

impl CopyRows {
    /// Appends one row. When `fill` fails, what it had written is taken back and the row does not exist.
    #[inline(always)]
    pub fn row<E>(&mut self, columns: i16, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        match fill(&mut self.bytes) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(fault) => {
                self.bytes.truncate(start);
                Err(fault)
            }
        }
    }

    /// All rows, ready to stand between `HEADER` and `TRAILER`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the row ends that starts at `start`: a count of fields, then each with its length, -1 for null.
    fn row_end(&self, start: usize) -> usize {
        let word = |at: usize| i32::from_be_bytes([0, 1, 2, 3].map(|byte| self.bytes[at + byte]));
        let fields = i16::from_be_bytes([self.bytes[start], self.bytes[start + 1]]);
        (0..fields).fold(start + 2, |at, _| at + 4 + usize::try_from(word(at)).unwrap_or(0))
    }
}

impl Rows for CopyRows {
    fn len(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.rows = 0;
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let from = (0..rows.start).fold(0, |at, _| self.row_end(at));
        let to = rows.clone().fold(from, |at, _| self.row_end(at));
        CopyRows { bytes: self.bytes[from..to].to_vec(), rows: rows.len() }
    }
}
