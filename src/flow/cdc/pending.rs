//! A change as it stands in its batch, its key, and what becomes of a key until its table is written to.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::rows::{CdcRows, Row, Value};
use super::shape::Shape;

/// A row of some batch.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub rows: &'a CdcRows,
    pub row: &'a Row,
}

impl<'a> At<'a> {
    pub fn shape(&self) -> &'a Arc<Shape> {
        self.rows.shape(self.row)
    }

    pub fn before(&self, number: usize) -> Value<'a> {
        self.rows.before(self.row, number).unwrap_or(Value::Null)
    }

    pub fn after(&self, number: usize) -> Value<'a> {
        self.rows.after(self.row, number).unwrap_or(Value::Null)
    }

    /// Of its values.
    pub fn bytes(&self) -> usize {
        self.rows.row_bytes(self.row)
    }

    /// Which columns the connector does not know.
    pub fn unchanged(&self) -> Vec<usize> {
        (0..self.shape().columns.len()).filter(|column| self.after(*column) == Value::Unchanged).collect()
    }

    /// What the key that it had is known by.
    pub fn id_before(&self) -> [u8; 16] {
        id(self.shape().key.len(), |number| self.before(number))
    }

    /// What the key that it is to have is known by.
    pub fn id_after(&self) -> [u8; 16] {
        let key = &self.shape().key;
        id(key.len(), |number| self.after(key[number]))
    }
}

/// What a row that is put will find in its place, as far as the source tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Taken,
    Free,
    Unknown,
}

impl Place {
    /// Of a change behind another one of its key, of which the table has not heard: none is a deletion, whose row is still there.
    fn behind(self, former: Option<Place>) -> Place {
        match (former, self) {
            (Some(Place::Taken), Place::Taken) => Place::Taken,
            (Some(Place::Free), _) => Place::Free,
            _ => Place::Unknown,
        }
    }
}

/// What becomes of a key.
#[derive(Clone)]
pub enum Pending<'a> {
    Put {
        at: At<'a>,
        /// Values of all columns, where some are those of an earlier change.
        joined: Option<Vec<Value<'a>>>,
        unchanged: Vec<usize>,
        place: Place,
        /// What is put before it, with the large values that it leaves out: if that comes again and the row is further on,
        /// they are not the row's, which nobody knows here.
        first: Option<Box<Pending<'a>>>,
    },
    Delete(At<'a>),
}

impl<'a> Pending<'a> {
    pub fn at(&self) -> &At<'a> {
        match self {
            Pending::Put { at, .. } | Pending::Delete(at) => at,
        }
    }

    /// Of a row that is put.
    pub fn value(&self, column: usize) -> Value<'a> {
        match self {
            Pending::Put { joined: Some(values), .. } => values[column],
            Pending::Put { at, .. } | Pending::Delete(at) => at.after(column),
        }
    }

    /// A row that nothing is known of.
    pub fn put(at: At<'a>) -> Pending<'a> {
        Pending::Put { at, joined: None, unchanged: Vec::new(), place: Place::Unknown, first: None }
    }

    pub fn first(&self) -> Option<&Pending<'a>> {
        match self {
            Pending::Put { first, .. } => first.as_deref(),
            Pending::Delete(_) => None,
        }
    }

    /// Where it is put.
    pub fn place(&self) -> Option<Place> {
        match self {
            Pending::Put { place, .. } => Some(*place),
            Pending::Delete(_) => None,
        }
    }

    /// Takes the place of the key's last change until now.
    pub fn follow(&mut self, former: &Pending<'_>) {
        if let Pending::Put { place, .. } = self {
            *place = place.behind(former.place());
        }
    }

    /// Of the values that are written.
    pub fn bytes(&self) -> usize {
        match self {
            Pending::Put { joined: Some(values), .. } => values.iter().map(Value::bytes).sum(),
            Pending::Put { at, .. } | Pending::Delete(at) => at.bytes(),
        }
    }
}

pub type Key<'a> = Cow<'a, [u8]>;

/// Near what an index has: whole numbers come by their size, and what always has one length as the bytes of its text.
pub fn index_order<'k>(key: &'k Key<'_>) -> (usize, &'k [u8]) {
    (key.len(), key)
}

/// What mostly decides that order: the length, as far as it counts, and the first bytes.
pub fn head(key: &Key<'_>) -> u64 {
    let mut head = [0; 8];
    let taken = key.len().min(7);
    head[0] = key.len().min(255) as u8;
    head[1..=taken].copy_from_slice(&key[..taken]);
    u64::from_be_bytes(head)
}

/// What a key is known by when its row is gone.
pub fn id<'a>(columns: usize, value: impl Fn(usize) -> Value<'a>) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(key(columns, value))[..16]);
    id
}

/// One column is its own key; of several each has its length before it.
pub fn key<'a>(columns: usize, value: impl Fn(usize) -> Value<'a>) -> Key<'a> {
    if columns == 1
        && let Value::Text(text) = value(0)
    {
        return Cow::Borrowed(text);
    }
    let mut key = Vec::new();
    for column in 0..columns {
        match value(column) {
            Value::Text(text) => {
                key.extend_from_slice(&(text.len() as u32).to_be_bytes());
                key.extend_from_slice(text);
            }
            Value::Null | Value::Unchanged => key.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
    Cow::Owned(key)
}

#[cfg(test)]
mod tests {
    use super::Place::{Free, Taken, Unknown};

    #[test]
    fn only_a_row_that_its_first_change_inserts_is_taken_for_new() {
        assert_eq!(Taken.behind(Some(Taken)), Taken);
        assert_eq!(Taken.behind(Some(Free)), Free);
        assert_eq!(Free.behind(None), Unknown, "it was deleted in the same group, and is still there");
        assert_eq!(Free.behind(Some(Taken)), Unknown);
        assert_eq!(Taken.behind(Some(Unknown)), Unknown);
    }
}
