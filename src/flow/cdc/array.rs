//! Arrays of texts in the binary form of PostgreSQL, as parameters of statements: one for each column.

use postgres::types::Type;

use super::rows::{Value, shown_lsn};

/// Dimensions, whether there are nulls, the type, so many elements, the first one's number.
const HEADER_BYTES: usize = 20;

pub struct TextArray {
    bytes: Vec<u8>,
    count: i32,
    has_null: bool,
}

impl TextArray {
    pub fn new() -> TextArray {
        TextArray { bytes: vec![0; HEADER_BYTES], count: 0, has_null: false }
    }

    pub fn push(&mut self, value: Value<'_>) {
        self.count += 1;
        match value {
            Value::Text(text) => {
                self.bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
                self.bytes.extend_from_slice(text);
            }
            Value::Null | Value::Unchanged => {
                self.has_null = true;
                self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
            }
        }
    }

    /// A place in the source's log, where there is one.
    pub fn push_place(&mut self, lsn: Option<i64>) {
        match lsn.map(shown_lsn) {
            Some(lsn) => self.push(Value::Text(lsn.as_bytes())),
            None => self.push(Value::Null),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn finish(mut self) -> Vec<u8> {
        let header = [1, i32::from(self.has_null), Type::TEXT.oid() as i32, self.count, 1];
        for (number, word) in header.into_iter().enumerate() {
            self.bytes[number * 4..number * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use postgres::types::FromSql;

    use super::*;

    #[test]
    fn the_client_reads_what_is_written() {
        let mut array = TextArray::new();
        let values = [Value::Text(b"a"), Value::Null, Value::Text(b""), Value::Text("\u{fc},\"{}\\".as_bytes())];
        values.into_iter().for_each(|value| array.push(value));
        let read = Vec::<Option<String>>::from_sql(&Type::TEXT_ARRAY, &array.finish()).unwrap();
        assert_eq!(read, [Some("a".to_owned()), None, Some(String::new()), Some("\u{fc},\"{}\\".to_owned())]);
    }
}
