//! How flows pack what goes through the outbox, and records that they keep whole: fields with their length before them, as
//! COPY has them too, read back in the order in which they were packed.

use crate::engine::Letter;
use crate::fault::Cause;
use crate::pg::copy::field;
use crate::record::{Headers, Record};

/// Takes a body apart.
pub(super) struct Unpacked<'a>(pub &'a [u8]);

impl<'a> Unpacked<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn number(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn count(&mut self) -> Option<usize> {
        self.array().map(u32::from_be_bytes).map(|count| count as usize)
    }

    /// A field that may be null: the outer one is None where there is no field.
    pub fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        match i32::from_be_bytes(self.array()?) {
            -1 => Some(None),
            len => self.bytes(usize::try_from(len).ok()?).map(Some),
        }
    }

    /// A length and so many bytes.
    pub fn field(&mut self) -> Option<&'a [u8]> {
        self.optional()?
    }

    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.field()?).ok()
    }
}

/// A record as it was packed: key and payload, then each header's name and value.
#[derive(Clone, Copy)]
pub struct PackedRecord<'a> {
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    headers: &'a [u8],
}

impl<'a> PackedRecord<'a> {
    pub fn pack(record: &Record<'_>, out: &mut Vec<u8>) {
        field(out, record.key);
        field(out, record.payload);
        record.headers.each(&mut |name, value| {
            field(out, Some(name.as_bytes()));
            field(out, value);
        });
    }

    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Unpacked(bytes);
        Some(PackedRecord { key: rest.optional()?, payload: rest.optional()?, headers: rest.0 })
    }

    pub fn bytes(&self) -> usize {
        let held = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        held(self.key) + held(self.payload) + self.headers.len()
    }

    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut rest = Unpacked(self.headers);
        std::iter::from_fn(move || Some((rest.text()?, rest.optional()?)))
    }

    pub fn letter(&self, timestamp_ms: Option<i64>, offset: i64, reason: Cause) -> Letter {
        Letter {
            offset,
            timestamp_ms,
            key: self.key.map(<[u8]>::to_vec),
            payload: self.payload.map(<[u8]>::to_vec),
            headers: self.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
            reason,
        }
    }
}

impl Headers for PackedRecord<'_> {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.headers().for_each(|(name, value)| see(name, value));
    }
}
