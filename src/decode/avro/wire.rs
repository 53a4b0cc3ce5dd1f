//! Avro's wire format: reading primitive values and stepping over any value at all. Every count is held
//! against the bytes that are left, so that hostile input costs no more than its own length.

use super::Decoded;
use crate::fault::Fault;

/// How deep records, arrays and maps may nest in a value that is stepped over before it is called hostile.
const DEPTH_MAX: u32 = 500;

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

impl Wire {
    /// Values of this shape take no bytes.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Wire::Null | Wire::Fixed(0))
    }
}

#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

#[cold]
fn truncated() -> Box<Fault> {
    Box::new(Fault::reject("avro.truncated", "the datum ends in the middle of a value"))
}

#[cold]
fn too_many_bits() -> Box<Fault> {
    Box::new(Fault::reject("avro.varint", "an integer has more than 64 bits"))
}

#[cold]
fn refuse(code: &'static str, text: String) -> Box<Fault> {
    Box::new(Fault::reject(code, text))
}

/// The seven low bits of each byte of a little-endian word, pushed together.
#[inline(always)]
fn squeeze(word: u64) -> u64 {
    let pairs = (word & 0x7f00_7f00_7f00_7f00) >> 1 | word & 0x007f_007f_007f_007f;
    let fours = (pairs & 0x3fff_0000_3fff_0000) >> 2 | pairs & 0x0000_3fff_0000_3fff;
    (fours & 0x0fff_ffff_0000_0000) >> 4 | fours & 0x0fff_ffff
}

#[inline(always)]
fn from_zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl<'a> Reader<'a> {
    #[inline(always)]
    pub fn new(datum: &'a [u8]) -> Self {
        Reader { rest: datum }
    }

    /// A datum has nothing behind it: bytes that are left mean that another schema wrote it.
    #[inline(always)]
    pub fn finish(&self) -> Decoded<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(refuse(
                "avro.trailing_bytes",
                format!("{left} bytes follow the datum: it was written with another schema"),
            )),
        }
    }

    #[inline(always)]
    pub fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else { return Err(truncated()) };
        self.rest = rest;
        Ok(head)
    }

    /// One byte, as lengths and branches are, costs a comparison; up to eight are read as one word.
    #[inline(always)]
    pub fn long(&mut self) -> Decoded<i64> {
        if let [first @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(from_zigzag(u64::from(*first)));
        }
        if let Some((head, _)) = self.rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*head);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                // Everything up to the first byte without its high bit.
                let value = squeeze(word & (ends ^ (ends - 1)));
                self.rest = &self.rest[(ends.trailing_zeros() / 8 + 1) as usize..];
                return Ok(from_zigzag(value));
            }
        }
        self.long_by_bytes()
    }

    /// Near the end of the datum, and for integers of nine bytes and ten.
    #[inline(never)]
    fn long_by_bytes(&mut self) -> Decoded<i64> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if index == 9 && byte > 1 {
                return Err(too_many_bits());
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(from_zigzag(value));
            }
        }
        Err(if self.rest.len() < 10 { truncated() } else { too_many_bits() })
    }

    #[inline(always)]
    pub fn int(&mut self) -> Decoded<i64> {
        let value = self.long()?;
        match i32::try_from(value) {
            Ok(_) => Ok(value),
            Err(_) => Err(refuse("avro.int", "an int has more than 32 bits".into())),
        }
    }

    #[inline(always)]
    pub fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let count = self.long()?;
        match usize::try_from(count) {
            Ok(count) => self.take(count),
            Err(_) => Err(refuse("avro.length", format!("a length of {count} is negative"))),
        }
    }

    /// Which of a union's `branches` follows.
    #[inline(always)]
    pub fn branch(&mut self, branches: usize) -> Decoded<usize> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(branch) if branch < branches => Ok(branch),
            _ => Err(refuse("avro.union_index", format!("branch {index} of a union that has {branches}"))),
        }
    }

    /// Steps over a value. `named` has the shapes that `Wire::Named` stands for.
    pub fn skip(&mut self, wire: &Wire, named: &[Wire]) -> Decoded<()> {
        self.skip_at(wire, named, 0)
    }

    fn skip_at(&mut self, wire: &Wire, named: &[Wire], depth: u32) -> Decoded<()> {
        if depth > DEPTH_MAX {
            return Err(refuse("avro.depth", format!("values nest deeper than {DEPTH_MAX}")));
        }
        match wire {
            Wire::Null => Ok(()),
            Wire::Varint => self.long().map(drop),
            Wire::Fixed(count) => self.take(*count).map(drop),
            Wire::Bytes => self.bytes().map(drop),
            Wire::Named(index) => self.skip_at(&named[*index], named, depth),
            Wire::Record(fields) => fields.iter().try_for_each(|field| self.skip_at(field, named, depth + 1)),
            Wire::Union(branches) => {
                let branch = self.branch(branches.len())?;
                self.skip_at(&branches[branch], named, depth)
            }
            Wire::Array(item) => self.skip_blocks(named, depth, &[item]),
            Wire::Map(value) => self.skip_blocks(named, depth, &[&Wire::Bytes, value]),
        }
    }

    /// Blocks of items until one of none. A negative count is followed by the block's size in bytes.
    fn skip_blocks(&mut self, named: &[Wire], depth: u32, item: &[&Wire]) -> Decoded<()> {
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
