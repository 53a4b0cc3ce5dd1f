//! How flows pack what goes through the outbox: fields with their length before them, as COPY has them too, read back in
//! the order in which they were packed.

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
