//! Arrays in the binary form of PostgreSQL, as parameters of statements: one for each column. Values are texts; where all
//! of a column are plain integers, places in a log or moments, they are sent as such, which the server takes without
//! reading them. Any other text is left for the server to judge, and its column is sent as texts.

use postgres::types::Type;

use super::rows::Value;

/// Dimensions, whether there are nulls, the type, so many elements, the first one's number.
const HEADER_BYTES: usize = 20;
/// Of most elements, with their lengths.
const ELEMENT_BYTES: usize = 12;
/// So many rows and what they have are in a processor's nearest memory.
const TOGETHER: usize = 64;
/// From 1970 to where PostgreSQL's moments begin.
const EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Id,
    Integer16,
    Integer32,
    Integer64,
    Lsn,
    Moment { is_zoned: bool },
}

impl Form {
    /// The one that a column of this type is sent in, if its values let it.
    fn of(sql_type: &str) -> Form {
        match sql_type {
            "smallint" => Form::Integer16,
            "integer" => Form::Integer32,
            "bigint" => Form::Integer64,
            "pg_lsn" => Form::Lsn,
            "timestamp without time zone" => Form::Moment { is_zoned: false },
            "timestamp with time zone" => Form::Moment { is_zoned: true },
            _ => Form::Text,
        }
    }

    /// Of the elements, and of the array of them.
    fn types(self) -> (Type, Type) {
        match self {
            Form::Text => (Type::TEXT, Type::TEXT_ARRAY),
            Form::Id => (Type::UUID, Type::UUID_ARRAY),
            Form::Integer16 => (Type::INT2, Type::INT2_ARRAY),
            Form::Integer32 => (Type::INT4, Type::INT4_ARRAY),
            Form::Integer64 => (Type::INT8, Type::INT8_ARRAY),
            Form::Lsn => (Type::PG_LSN, Type::PG_LSN_ARRAY),
            Form::Moment { is_zoned: false } => (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
            Form::Moment { is_zoned: true } => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        }
    }

    /// Appends an element with its length. None where only the server can say what the text means.
    fn put(self, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Form::Text | Form::Id => put(out, text),
            Form::Integer16 => put(out, &integer::<i16>(text)?.to_be_bytes()),
            Form::Integer32 => put(out, &integer::<i32>(text)?.to_be_bytes()),
            Form::Integer64 => put(out, &integer::<i64>(text)?.to_be_bytes()),
            Form::Lsn => put(out, &lsn(text)?.to_be_bytes()),
            Form::Moment { is_zoned } => put(out, &moment(text, is_zoned)?.to_be_bytes()),
        }
        Some(())
    }
}

fn put(out: &mut Vec<u8>, element: &[u8]) {
    out.extend_from_slice(&(element.len() as i32).to_be_bytes());
    out.extend_from_slice(element);
}

/// Digits behind a sign or none, as long as they are.
fn integer<T: TryFrom<i64>>(text: &[u8]) -> Option<T> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // Downwards, where there is one number more.
    let number = digits.iter().try_fold(0i64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_sub(i64::from(byte - b'0')),
        _ => None,
    })?;
    T::try_from(if is_negative { number } else { number.checked_neg()? }).ok()
}

/// Two halves in hexadecimal.
fn lsn(text: &[u8]) -> Option<u64> {
    let middle = text.iter().position(|byte| *byte == b'/')?;
    let half = |digits: &[u8]| match digits.len() {
        1..=8 => digits.iter().try_fold(0, |half, byte| match byte {
            b'0'..=b'9' => Some(half << 4 | u64::from(byte - b'0')),
            b'A'..=b'F' => Some(half << 4 | u64::from(byte - b'A' + 10)),
            _ => None,
        }),
        _ => None,
    };
    Some(half(&text[..middle])? << 32 | half(&text[middle + 1..])?)
}

/// Digits and nothing else.
fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// Microseconds since the year 2000, of a date of four digits a year and a time to the second or finer.
fn moment(text: &[u8], is_zoned: bool) -> Option<i64> {
    let text = if is_zoned { text.strip_suffix(b"+00")? } else { text };
    let (date, time) = (text.get(..10)?, text.get(11..19)?);
    let marks = [date[4], date[7], text[10], time[2], time[5]];
    let (year, month, day) = (digits(&date[..4])?, digits(&date[5..7])?, digits(&date[8..])?);
    let (hour, minute, second) = (digits(&time[..2])?, digits(&time[3..5])?, digits(&time[6..])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_there = year > 0 && (1..=12).contains(&month) && (1..=days_of_month).contains(&day);
    if marks != *b"-- ::" || !is_there || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let us = match &text[19..] {
        [] => 0,
        [b'.', fraction @ ..] if (1..=6).contains(&fraction.len()) => {
            digits(fraction)? * 10_i64.pow(6 - fraction.len() as u32)
        }
        _ => return None,
    };
    // Years that begin in March end with their leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((days - EPOCH_DAYS) * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000 + us)
}

/// The elements of a column.
pub struct Array {
    form: Form,
    bytes: Vec<u8>,
    count: i32,
    has_null: bool,
    /// One of them has no other form than that of a text.
    is_odd: bool,
}

impl Array {
    fn new(form: Form) -> Array {
        Array::with_room(form, 0)
    }

    fn with_room(form: Form, elements: usize) -> Array {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + elements * ELEMENT_BYTES);
        bytes.resize(HEADER_BYTES, 0);
        Array { form, bytes, count: 0, has_null: false, is_odd: false }
    }

    /// What keys are known by.
    pub fn of_ids(ids: impl IntoIterator<Item = Option<[u8; 16]>>) -> Array {
        let mut array = Array::new(Form::Id);
        ids.into_iter().for_each(|id| array.push(id.as_ref().map_or(Value::Null, |id| Value::Text(id))));
        array
    }

    /// Whatever these are, as texts.
    pub fn of_texts<'a>(values: impl IntoIterator<Item = Value<'a>>) -> Array {
        let mut array = Array::new(Form::Text);
        values.into_iter().for_each(|value| array.push(value));
        array
    }

    /// Places in a log.
    pub fn of_places(lsns: impl Iterator<Item = Option<i64>>) -> Array {
        let mut array = Array::new(Form::Lsn);
        for lsn in lsns {
            match lsn {
                Some(lsn) => {
                    array.count += 1;
                    put(&mut array.bytes, &lsn.to_be_bytes());
                }
                None => array.push(Value::Null),
            }
        }
        array
    }

    /// One array for each of these types, with what the rows have for it.
    pub fn of_columns<'a, R>(
        sql_types: impl Iterator<Item = &'a str>,
        rows: &[R],
        value: impl Fn(&R, usize) -> Value<'a>,
    ) -> Vec<Array> {
        let array = |sql_type| Array::with_room(Form::of(sql_type), rows.len());
        let mut arrays: Vec<Array> = sql_types.map(array).collect();
        // Rows lie anywhere in memory, and are fetched together here.
        for some in rows.chunks(TOGETHER) {
            for (number, array) in arrays.iter_mut().enumerate() {
                some.iter().for_each(|row| array.push(value(row, number)));
            }
        }
        for (number, array) in arrays.iter_mut().enumerate().filter(|(_, array)| array.is_odd) {
            *array = Array::new(Form::Text);
            rows.iter().for_each(|row| array.push(value(row, number)));
        }
        arrays
    }

    pub fn push(&mut self, value: Value<'_>) {
        self.count += 1;
        match value {
            Value::Text(text) => self.is_odd |= self.form.put(text, &mut self.bytes).is_none(),
            Value::Null | Value::Unchanged => {
                self.has_null = true;
                self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
            }
        }
    }

    pub fn array_type(&self) -> Type {
        self.form.types().1
    }

    pub fn finish(mut self) -> Vec<u8> {
        let header = [1, i32::from(self.has_null), self.form.types().0.oid() as i32, self.count, 1];
        for (number, word) in header.into_iter().enumerate() {
            self.bytes[number * 4..number * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use postgres::types::{FromSql, FromSqlOwned};
    use proptest::prelude::*;

    use super::*;
    use crate::decode::debezium::{Field, Modes};

    fn array<'t>(sql_type: &str, texts: &[Option<&'t str>]) -> Array {
        let value = |text: &Option<&'t str>, _: usize| text.map_or(Value::Null, |text| Value::Text(text.as_bytes()));
        Array::of_columns([sql_type].into_iter(), texts, value).pop().unwrap()
    }

    fn read<T: FromSqlOwned>(array: Array) -> Vec<Option<T>> {
        let array_type = array.array_type();
        Vec::<Option<T>>::from_sql(&array_type, &array.finish()).unwrap()
    }

    #[test]
    fn the_client_reads_what_is_written() {
        let texts = [Some("a"), None, Some(""), Some("\u{fc},\"{}\\")];
        let read_back: Vec<Option<String>> = read(array("text", &texts));
        assert_eq!(read_back, texts.map(|text| text.map(str::to_owned)));
        assert_eq!(read::<i16>(array("smallint", &[Some("-32768"), None])), [Some(i16::MIN), None]);
        assert_eq!(read::<i32>(array("integer", &[Some("2147483647")])), [Some(i32::MAX)]);
        assert_eq!(read::<i64>(array("bigint", &[None, Some("-7")])), [None, Some(-7)]);
        let lsn: Vec<Option<postgres::types::PgLsn>> = read(array("pg_lsn", &[Some("16/B374D848")]));
        assert_eq!(lsn, [Some(postgres::types::PgLsn::from(0x16_B374_D848))]);
    }

    #[test]
    fn what_only_the_server_can_judge_is_sent_as_texts() {
        for (sql_type, odd) in [
            ("smallint", "32768"),
            ("integer", "1e3"),
            ("bigint", " 1"),
            ("pg_lsn", "16"),
            ("timestamp without time zone", "infinity"),
            ("timestamp without time zone", "0044-03-15 12:00:00 BC"),
            ("timestamp without time zone", "12026-01-01 00:00:00"),
            ("timestamp without time zone", "2026-02-29 00:00:00"),
            ("timestamp without time zone", "2026-01-01 24:00:00"),
            ("timestamp without time zone", "2026-01-01T00:00:00"),
            ("timestamp without time zone", "2026-01-01 00:00:00.1234567"),
            ("timestamp without time zone", "2026-01-01 00:00:00+00"),
            ("timestamp with time zone", "2026-01-01 00:00:00+02"),
            ("timestamp with time zone", "2026-01-01 00:00:00"),
        ] {
            let texts = [None, Some(odd)];
            let array = array(sql_type, &texts);
            assert_eq!(array.array_type(), Type::TEXT_ARRAY, "{sql_type} {odd}");
            assert_eq!(read::<String>(array), texts.map(|text| text.map(str::to_owned)));
        }
    }

    proptest! {
        /// Two ways round: from the connector's count to a text to PostgreSQL's count, and what the client makes of that.
        #[test]
        fn moments_are_what_their_texts_say(us in -62_135_596_800_000_000i64..253_402_300_800_000_000, is_zoned: bool) {
            let sql_type = if is_zoned { "timestamp with time zone" } else { "timestamp without time zone" };
            let field = serde_json::json!({"type": "int64", "field": "at", "name": "io.debezium.time.MicroTimestamp"});
            let mut text = Vec::new();
            Field::read(&field).unwrap().kind.write(&us.to_string(), &Modes::default(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap() + if is_zoned { "+00" } else { "" };
            let array = array(sql_type, &[Some(&text)]);
            prop_assert_ne!(array.array_type(), Type::TEXT_ARRAY, "{}", text);
            let away = Duration::from_micros(us.unsigned_abs());
            let want = if us < 0 { SystemTime::UNIX_EPOCH - away } else { SystemTime::UNIX_EPOCH + away };
            prop_assert_eq!(read::<SystemTime>(array), [Some(want)], "{}", text);
        }
    }
}
