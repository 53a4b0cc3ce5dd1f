//! What a column takes, and its fields in binary COPY.

use crate::fault::{Cause, Fault};

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

/// A value of the reader's schema, borrowed from the datum.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Long(i64),
    TimestampUs(i64),
    TimestampMs(i64),
    Text(&'a [u8]),
}

/// 2000-01-01 in Unix time: where PostgreSQL's clock starts.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// PostgreSQL's timestamps: from 4713 BC up to, but without, the year 294277, from its own epoch.
const TIMESTAMP_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

impl Column {
    /// Appends the field, or says why PostgreSQL would not take it.
    #[inline]
    pub(super) fn put(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match (self.kind, value) {
            (_, Value::Null) if self.not_null => {
                Err(self.refuse("null.not_null", "is null, and the column takes no null"))
            }
            (_, Value::Null) => {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                Ok(())
            }
            (Kind::Int4, Value::Long(value)) => match i32::try_from(value) {
                Ok(value) => {
                    put_4(out, value);
                    Ok(())
                }
                Err(_) => Err(self.refuse("int.range", "is outside the range of an integer")),
            },
            (Kind::Int8, Value::Long(value)) => {
                put_8(out, value);
                Ok(())
            }
            (Kind::Timestamp, Value::TimestampMs(ms)) => self.put_timestamp(ms.checked_mul(1000), out),
            (Kind::Timestamp, Value::TimestampUs(us)) => self.put_timestamp(Some(us), out),
            (Kind::Text, Value::Text(bytes)) => self.put_text(bytes, usize::MAX, out),
            (Kind::Varchar { chars_max }, Value::Text(bytes)) => self.put_text(bytes, chars_max, out),
            // Planning lets no other pair through.
            (kind, _) => Err(Fault::stop("avro.plan", format!("field {} cannot fill a {kind:?}", self.field))),
        }
    }

    fn refuse(&self, code: &'static str, rule: &str) -> Fault {
        Fault::reject(code, format!("field {} {rule}", self.field))
    }

    #[inline]
    fn put_timestamp(&self, unix_us: Option<i64>, out: &mut Vec<u8>) -> Result<(), Fault> {
        let since_epoch = unix_us.and_then(|us| us.checked_sub(POSTGRES_EPOCH_US));
        match since_epoch.filter(|us| TIMESTAMP_US.contains(us)) {
            Some(us) => {
                put_8(out, us);
                Ok(())
            }
            None => Err(self.refuse("timestamp.range", "is outside the range of a timestamp, 4713 BC to 294276 AD")),
        }
    }

    #[inline]
    fn put_text(&self, bytes: &[u8], chars_max: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Ok(text) = simdutf8::basic::from_utf8(bytes) else {
            return Err(self.refuse("text.utf8", "is not valid UTF-8"));
        };
        if bytes.contains(&0) {
            return Err(self.refuse("text.nul", "has a NUL character, which PostgreSQL cannot store"));
        }
        // Characters are at most as many as bytes: counting is for long ones only.
        if bytes.len() > chars_max {
            let chars = text.chars().count();
            if chars > chars_max {
                return Err(self.refuse("text.too_long", &format!("has {chars} characters of {chars_max} allowed")));
            }
        }
        let Ok(len) = i32::try_from(bytes.len()) else {
            return Err(self.refuse("text.too_long", "is longer than PostgreSQL can store"));
        };
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// Can this column be filled from such a value at all?
    pub(super) fn accepts(&self, value: Value<'_>) -> Result<(), Cause> {
        let fits = match value {
            Value::Null => true,
            Value::Long(_) => matches!(self.kind, Kind::Int4 | Kind::Int8),
            Value::TimestampMs(_) | Value::TimestampUs(_) => self.kind == Kind::Timestamp,
            Value::Text(_) => matches!(self.kind, Kind::Text | Kind::Varchar { .. }),
        };
        match fits {
            true => Ok(()),
            false => {
                let text = format!("the reader's field {} cannot fill a column of kind {:?}", self.field, self.kind);
                Err(Cause::new("avro.schema", text))
            }
        }
    }
}

/// Length and value in one piece, so that the buffer grows once.
#[inline]
fn put_4(out: &mut Vec<u8>, value: i32) {
    let mut field = [0, 0, 0, 4, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value.to_be_bytes());
    out.extend_from_slice(&field);
}

#[inline]
fn put_8(out: &mut Vec<u8>, value: i64) {
    let mut field = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    field[4..].copy_from_slice(&value.to_be_bytes());
    out.extend_from_slice(&field);
}
