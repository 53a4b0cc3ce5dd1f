//! Rows in PostgreSQL's binary COPY format, and nothing about what the columns mean.
//! The header and trailer of a stream are added when rows are written, so that buffers can be joined.

use crate::engine::Rows;
use crate::fault::Fault;

/// Signature, flags and extension length: the 19 bytes that open every binary COPY stream.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The field count of -1 that closes it.
pub const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// Encoded rows one after the other, with the end of each.
#[derive(Default, Debug, Clone)]
pub struct CopyRows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl CopyRows {
    /// Appends one row. When `fill` fails, what it had written is taken back and the row does not exist.
    #[inline]
    pub fn row(&mut self, columns: i16, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) -> Result<(), Fault> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        match fill(&mut self.bytes) {
            Ok(()) => {
                self.ends.push(self.bytes.len());
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
}

impl Rows for CopyRows {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let start_of = |row: usize| if row == 0 { 0 } else { self.ends[row - 1] };
        let (from, to) = (start_of(rows.start), start_of(rows.end));
        CopyRows { bytes: self.bytes[from..to].to_vec(), ends: self.ends[rows].iter().map(|end| end - from).collect() }
    }
}
