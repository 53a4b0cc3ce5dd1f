//! What a column takes, and its fields in binary COPY.

use super::Decoded;
use crate::fault::Fault;
use crate::pg::copy::{EPOCH_MS, TIMESTAMP_US};

/// What PostgreSQL takes as a text: a field ends below 1 GiB.
pub(super) const TEXT_CHARS_MAX: usize = 0x3fff_ff00;

/// A column of the target table and the reader's field that fills it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub field: &'static str,
    pub kind: Kind,
    pub not_null: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without time zone, from Avro's timestamp-millis or timestamp-micros.
    Timestamp,
    Text,
    Varchar {
        chars_max: usize,
    },
    Int4,
    Int8,
}

impl Column {
    #[inline(always)]
    pub(super) fn put_null(&self, out: &mut Vec<u8>) -> Decoded<()> {
        match self.not_null {
            true => Err(self.refuse("null.not_null", "is null, and the column takes no null")),
            false => {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                Ok(())
            }
        }
    }

    #[inline(always)]
    pub(super) fn put_int4(&self, value: i64, out: &mut Vec<u8>) -> Decoded<()> {
        match i32::try_from(value) {
            Ok(value) => {
                put_4(out, value);
                Ok(())
            }
            Err(_) => Err(self.refuse("int.range", "is outside the range of an integer")),
        }
    }

    #[inline(always)]
    pub(super) fn put_int8(&self, value: i64, out: &mut Vec<u8>) -> Decoded<()> {
        put_8(out, value);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn put_timestamp_ms(&self, unix_ms: i64, out: &mut Vec<u8>) -> Decoded<()> {
        let since_epoch_ms = unix_ms.checked_sub(EPOCH_MS);
        self.put_since_epoch(since_epoch_ms.and_then(|ms| ms.checked_mul(1000)), out)
    }

    #[inline(always)]
    pub(super) fn put_timestamp_us(&self, unix_us: i64, out: &mut Vec<u8>) -> Decoded<()> {
        self.put_since_epoch(unix_us.checked_sub(EPOCH_MS * 1000), out)
    }

    #[cold]
    fn refuse(&self, code: &'static str, rule: &str) -> Box<Fault> {
        Box::new(Fault::reject(code, format!("field {} {rule}", self.field)))
    }

    #[inline(always)]
    fn put_since_epoch(&self, since_epoch_us: Option<i64>, out: &mut Vec<u8>) -> Decoded<()> {
        match since_epoch_us {
            Some(us) if TIMESTAMP_US.contains(&us) => {
                put_8(out, us);
                Ok(())
            }
            _ => Err(self.refuse("timestamp.range", "is outside the range of a timestamp, 4713 BC to 294276 AD")),
        }
    }

    #[inline(always)]
    pub(super) fn put_text(&self, bytes: &[u8], chars_max: usize, out: &mut Vec<u8>) -> Decoded<()> {
        // Characters are at most as many as bytes: counting is for long ones only.
        if bytes.len() > chars_max || !is_plain(bytes) {
            self.judge_text(bytes, chars_max)?;
        }
        out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// All that text can be refused for.
    #[inline(never)]
    fn judge_text(&self, bytes: &[u8], chars_max: usize) -> Decoded<()> {
        let Ok(text) = simdutf8::basic::from_utf8(bytes) else {
            return Err(self.refuse("text.utf8", "is not valid UTF-8"));
        };
        if bytes.contains(&0) {
            return Err(self.refuse("text.nul", "has a NUL character, which PostgreSQL cannot store"));
        }
        if bytes.len() > chars_max {
            let chars = text.chars().count();
            if chars > chars_max {
                return Err(self.refuse("text.too_long", &format!("has {chars} characters of {chars_max} allowed")));
            }
        }
        Ok(())
    }
}

/// Whether text is ASCII without NUL, which is all that most text needs to be asked.
#[inline(always)]
fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    // A byte that is 0 borrows from its high bit, one that is over 127 has it.
    let odd = |word: u64| (word | word.wrapping_sub(0x0101_0101_0101_0101)) & 0x8080_8080_8080_8080;
    let in_words = words.iter().fold(0, |found, word| found | odd(u64::from_le_bytes(*word)));
    let in_rest = rest.iter().fold(false, |found, byte| found | (byte.wrapping_sub(1) >= 0x7f));
    in_words == 0 && !in_rest
}

/// Length and value in one piece, so that the buffer grows once.
#[inline(always)]
fn put_4(out: &mut Vec<u8>, value: i32) {
    let mut field = [0, 0, 0, 4, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value.to_be_bytes());
    out.extend_from_slice(&field);
}

#[inline(always)]
fn put_8(out: &mut Vec<u8>, value: i64) {
    let mut field = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value.to_be_bytes());
    out.extend_from_slice(&field);
}
