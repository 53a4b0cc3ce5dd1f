//! Avro's wire format: reading primitive values and stepping over any value at all. Every count is held
//! against the bytes that are left, so that hostile input costs no more than its own length.

use crate::fault::Fault;

/// How deep a value may nest before it is called hostile.
const DEPTH_MAX: u32 = 64;

/// The shape of a value on the wire, for stepping over it.
#[derive(Debug)]
pub(super) enum Wire {
    Null,
    /// Int, long, enum.
    Varint,
    /// Boolean, float, double, fixed.
    Fixed(usize),
    /// Bytes, string.
    Bytes,
    Array(Box<Wire>),
    Map(Box<Wire>),
    Union(Vec<Wire>),
    Record(Vec<Wire>),
    /// A named type inside itself, by its index in the plan's list.
    Named(usize),
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

fn truncated() -> Fault {
    Fault::reject("avro.truncated", "the datum ends in the middle of a value")
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(datum: &'a [u8]) -> Self {
        Reader { rest: datum }
    }

    /// A datum has nothing behind it: bytes that are left mean that another schema wrote it.
    #[inline]
    pub fn finish(&self) -> Result<(), Fault> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Fault::reject(
                "avro.trailing_bytes",
                format!("{left} bytes follow the datum: it was written with another schema"),
            )),
        }
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub fn long(&mut self) -> Result<i64, Fault> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if index == 9 && byte > 1 {
                return Err(Fault::reject("avro.varint", "an integer has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(match self.rest.len() {
            0..10 => truncated(),
            _ => Fault::reject("avro.varint", "an integer has more than 64 bits"),
        })
    }

    #[inline]
    pub fn int(&mut self) -> Result<i64, Fault> {
        let value = self.long()?;
        match i32::try_from(value) {
            Ok(_) => Ok(value),
            Err(_) => Err(Fault::reject("avro.int", "an int has more than 32 bits")),
        }
    }

    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let count = self.long()?;
        match usize::try_from(count) {
            Ok(count) => self.take(count),
            Err(_) => Err(Fault::reject("avro.length", format!("a length of {count} is negative"))),
        }
    }

    /// Which of a union's `branches` follows.
    #[inline]
    pub fn branch(&mut self, branches: usize) -> Result<usize, Fault> {
        let index = self.long()?;
        usize::try_from(index)
            .ok()
            .filter(|index| *index < branches)
            .ok_or_else(|| Fault::reject("avro.union_index", format!("branch {index} of a union that has {branches}")))
    }

    /// Steps over a value. `named` has the shapes that `Wire::Named` stands for.
    pub fn skip(&mut self, wire: &Wire, named: &[Wire]) -> Result<(), Fault> {
        self.skip_at(wire, named, 0)
    }

    fn skip_at(&mut self, wire: &Wire, named: &[Wire], depth: u32) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::reject("avro.depth", format!("values nest deeper than {DEPTH_MAX}")));
        }
        match wire {
            Wire::Null => Ok(()),
            Wire::Varint => self.long().map(drop),
            Wire::Fixed(count) => self.take(*count).map(drop),
            Wire::Bytes => self.bytes().map(drop),
            Wire::Named(index) => self.skip_at(&named[*index], named, depth + 1),
            Wire::Record(fields) => fields.iter().try_for_each(|field| self.skip_at(field, named, depth + 1)),
            Wire::Union(branches) => {
                let branch = self.branch(branches.len())?;
                self.skip_at(&branches[branch], named, depth + 1)
            }
            Wire::Array(item) => self.skip_blocks(named, depth, &[item]),
            Wire::Map(value) => self.skip_blocks(named, depth, &[&Wire::Bytes, value]),
        }
    }

    /// Blocks of items until one of none. A negative count is followed by the block's size in bytes.
    fn skip_blocks(&mut self, named: &[Wire], depth: u32, item: &[&Wire]) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size is a hint for readers that trust it; the items say the same.
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                let before = self.rest.len();
                for part in item {
                    self.skip_at(part, named, depth + 1)?;
                }
                // Items that take no bytes: the rest of them take none either, however many are claimed.
                if self.rest.len() == before {
                    break;
                }
            }
        }
    }
}
