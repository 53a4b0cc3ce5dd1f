//! A value of a record, in the binary form of a PostgreSQL type. What PostgreSQL would refuse is refused here, with the
//! rule and without the value.

use std::borrow::Cow;

use postgres::types::Type as Native;
use uuid::Uuid;

use crate::config::handlers::Type;
use crate::pg::copy::{EPOCH_MS, TIMESTAMP_US, field, timestamp_us};

/// A value where it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Absent,
    /// As it was written, without space around it.
    Json(&'a str),
    Bytes(&'a [u8]),
    Number(i64),
    /// Milliseconds since 1970.
    Moment(i64),
}

impl<'a> Value<'a> {
    pub fn json(found: Option<&'a str>) -> Self {
        found.filter(|json| *json != "null").map_or(Value::Absent, Value::Json)
    }

    pub fn bytes(found: Option<&'a [u8]>) -> Self {
        found.map_or(Value::Absent, Value::Bytes)
    }

    /// As text, of what is text or a number or a truth value.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Value::Absent => None,
            Value::Json(json) => match json.strip_prefix('"') {
                Some(rest) if !rest.contains('\\') => rest.strip_suffix('"').map(Cow::Borrowed),
                Some(_) => serde_json::from_str(json).ok().map(Cow::Owned),
                None => (!json.starts_with(['{', '['])).then_some(Cow::Borrowed(json)),
            },
            Value::Bytes(bytes) => simdutf8::basic::from_utf8(bytes).ok().map(Cow::Borrowed),
            Value::Number(number) | Value::Moment(number) => Some(number.to_string().into()),
        }
    }

    /// What stands there where no quotes may be: a number or a truth value. Text of a header or a key is as good.
    fn word(self) -> Option<Cow<'a, str>> {
        self.text().filter(|_| !matches!(self, Value::Json(json) if json.starts_with('"')))
    }
}

/// The type as PostgreSQL calls it.
pub fn native(kind: Type) -> Native {
    match kind {
        Type::Text => Native::TEXT,
        Type::Bigint => Native::INT8,
        Type::Integer => Native::INT4,
        Type::Double => Native::FLOAT8,
        Type::Numeric => Native::NUMERIC,
        Type::Boolean => Native::BOOL,
        Type::Timestamptz => Native::TIMESTAMPTZ,
        Type::Uuid => Native::UUID,
        Type::Jsonb => Native::JSONB,
    }
}

/// Appends the field: its length and its bytes, -1 for what is absent.
pub fn encode(value: Value<'_>, kind: Type, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if value == Value::Absent {
        field(out, None);
        return Ok(());
    }
    match kind {
        Type::Text => {
            let text = value.text().ok_or("must be text")?;
            let text = Some(text).filter(|text| !text.contains('\0')).ok_or("has a NUL, which PostgreSQL has not")?;
            field(out, Some(text.as_bytes()));
        }
        Type::Bigint => {
            let number: i64 = value.word().and_then(|word| word.parse().ok()).ok_or("must be an integer of 64 bits")?;
            field(out, Some(&number.to_be_bytes()));
        }
        Type::Integer => {
            let number: i32 = value.word().and_then(|word| word.parse().ok()).ok_or("must be an integer of 32 bits")?;
            field(out, Some(&number.to_be_bytes()));
        }
        Type::Double => {
            let number = value.word().filter(|word| is_number(word)).and_then(|word| word.parse::<f64>().ok());
            let number = number.filter(|number| number.is_finite()).ok_or("must be a number")?;
            field(out, Some(&number.to_be_bytes()));
        }
        Type::Numeric => {
            let numeric =
                value.word().and_then(|word| numeric(&word)).ok_or("must be a number of up to 1,000 digits")?;
            field(out, Some(&numeric));
        }
        Type::Boolean => match value.word().as_deref() {
            Some("true") => field(out, Some(&[1])),
            Some("false") => field(out, Some(&[0])),
            _ => return Err("must be true or false"),
        },
        Type::Timestamptz => {
            let moment = moment(value).ok_or("must be a moment: RFC 3339, or milliseconds since 1970")?;
            field(out, Some(&moment.to_be_bytes()));
        }
        Type::Uuid => {
            let id = value.text().and_then(|text| Uuid::try_parse(&text).ok()).ok_or("must be a UUID")?;
            field(out, Some(id.as_bytes()));
        }
        Type::Jsonb => {
            let json = match value {
                Value::Json(json) => Cow::Borrowed(json),
                Value::Number(_) | Value::Moment(_) => value.text().ok_or("must be JSON")?,
                _ => {
                    let text = value.text().ok_or("must be JSON")?;
                    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|_| "must be JSON")?;
                    text
                }
            };
            // The version of the format, then the text.
            out.extend_from_slice(&(json.len() as i32 + 1).to_be_bytes());
            out.push(1);
            out.extend_from_slice(json.as_bytes());
        }
    }
    Ok(())
}

/// As JSON has it: Rust also reads words and bare points.
fn is_number(word: &str) -> bool {
    parts(word).is_some()
}

/// Sign, digits before the point, digits behind it, exponent.
fn parts(word: &str) -> Option<(bool, &str, &str, i32)> {
    let (is_negative, rest) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (are_digits(whole) && are_digits(fraction)).then_some((
        is_negative,
        whole,
        if mantissa.contains('.') { fraction } else { "" },
        exponent,
    ))
}

const DIGITS_MAX: usize = 1_000;

/// The binary form of `numeric`: how many groups of four digits, the power of ten thousand of the first, the sign, how
/// many digits are shown behind the point, and the groups.
fn numeric(word: &str) -> Option<Vec<u8>> {
    let (is_negative, whole, fraction, exponent) = parts(word)?;
    let point = whole.len() as i64 + i64::from(exponent);
    let scale = (fraction.len() as i64 - i64::from(exponent)).max(0);
    let digits_max = DIGITS_MAX as i64;
    if whole.len() + fraction.len() > DIGITS_MAX || !(-digits_max..=digits_max).contains(&point) || scale > digits_max {
        return None;
    }
    // Zeros around, so that groups begin at the point.
    let before = point.rem_euclid(4);
    let mut digits = vec![0u8; if before == 0 { 0 } else { 4 - before as usize }];
    let first_weight = (point + digits.len() as i64) / 4 - 1;
    digits.extend(whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0'));
    digits.resize(digits.len().next_multiple_of(4), 0);
    let mut groups: Vec<i16> =
        digits.chunks(4).map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(*digit))).collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    let weight = if groups.is_empty() { 0 } else { first_weight - zeros as i64 };
    let sign: u16 = if is_negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut bytes = Vec::with_capacity(8 + 2 * groups.len());
    bytes.extend_from_slice(&(groups.len() as i16).to_be_bytes());
    bytes.extend_from_slice(&(weight as i16).to_be_bytes());
    bytes.extend_from_slice(&sign.to_be_bytes());
    bytes.extend_from_slice(&(scale as i16).to_be_bytes());
    groups.iter().for_each(|group| bytes.extend_from_slice(&group.to_be_bytes()));
    Some(bytes)
}

/// On PostgreSQL's clock, in microseconds.
fn moment(value: Value<'_>) -> Option<i64> {
    if let Value::Moment(ms) = value {
        return timestamp_us(ms);
    }
    let text = value.text()?;
    match value.word().and_then(|word| word.parse().ok()) {
        Some(ms) => timestamp_us(ms),
        None => rfc3339(&text),
    }
}

fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let part = bytes.get(from..to).filter(|part| part.iter().all(u8::is_ascii_digit))?;
        Some(part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, known: &[u8]| bytes.get(at).is_some_and(|byte| known.contains(byte));
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    let last = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let last = *last.get(usize::try_from(month - 1).ok()?)?;
    if !marks || !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction_us = 0;
    if is(at, b".") {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        fraction_us = match digits {
            0 => return None,
            // What is finer than PostgreSQL's clock is cut off.
            _ => number(at + 1, at + 1 + digits.min(6))? * 10i64.pow(6 - digits.min(6) as u32),
        };
        at += 1 + digits;
    }
    let offset_s = match &bytes[at..] {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            let offset_s = (hours * 60 + minutes) * 60;
            if hours > 23 || minutes > 59 {
                return None;
            }
            if *sign == b'-' { -offset_s } else { offset_s }
        }
        _ => return None,
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_s;
    let us = (seconds * 1_000 - EPOCH_MS) * 1_000 + fraction_us;
    TIMESTAMP_US.contains(&us).then_some(us)
}

/// In the Gregorian calendar, by years that begin in March: the leap day is their last then.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 306 + 5) / 10 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: Value<'_>, kind: Type) -> Result<Vec<u8>, &'static str> {
        let mut out = Vec::new();
        encode(value, kind, &mut out).map(|()| out.split_off(4))
    }

    #[test]
    fn each_type_takes_what_it_can_hold_and_nothing_else() {
        let json = Value::Json;
        assert_eq!(bytes(json(r#""a\u00e4""#), Type::Text), Ok("aä".into()));
        assert_eq!(bytes(json("1.50"), Type::Text), Ok("1.50".into()));
        assert!(bytes(json(r#""a\u0000""#), Type::Text).is_err() && bytes(json("{}"), Type::Text).is_err());
        assert!(bytes(Value::Bytes(b"\xff"), Type::Text).is_err());
        assert_eq!(bytes(json("-7"), Type::Bigint), Ok((-7i64).to_be_bytes().into()));
        assert_eq!(bytes(Value::Bytes(b"7"), Type::Integer), Ok(7i32.to_be_bytes().into()));
        for odd in ["\"7\"", "7.0", "9223372036854775808", "true", "[7]"] {
            assert!(bytes(json(odd), Type::Bigint).is_err(), "{odd}");
        }
        assert!(bytes(json("2147483648"), Type::Integer).is_err());
        assert_eq!(bytes(json("-1.5e3"), Type::Double), Ok((-1500f64).to_be_bytes().into()));
        assert!(bytes(json("1e999"), Type::Double).is_err() && bytes(Value::Bytes(b"inf"), Type::Double).is_err());
        assert_eq!(bytes(json("true"), Type::Boolean), Ok(vec![1]));
        assert!(bytes(json("1"), Type::Boolean).is_err());
        assert_eq!(bytes(json("{\"a\": 1}"), Type::Jsonb), Ok(b"\x01{\"a\": 1}".to_vec()));
        assert!(bytes(Value::Bytes(b"a"), Type::Jsonb).is_err());
        assert!(bytes(json("\"x\""), Type::Uuid).is_err());
        let mut out = Vec::new();
        encode(Value::json(Some("null")), Type::Uuid, &mut out).unwrap();
        assert_eq!(out, [0xff; 4]);
    }

    #[test]
    fn moments_are_read_to_the_microsecond_and_odd_ones_refused() {
        let at = |text: &str| rfc3339(text).map(|us| us + EPOCH_MS * 1_000);
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2025-01-01T10:00:00.123456789+02:00"), Some(1_735_718_400_123_456));
        assert_eq!(at("2024-02-29 23:59:60-00:30"), Some(1_709_253_000_000_000));
        assert_eq!(at("0001-01-01T00:00:00Z"), Some(-62_135_596_800_000_000));
        for odd in ["", "2025-01-01", "2025-02-29T00:00:00Z", "2025-13-01T00:00:00Z", "2025-01-01T24:00:00Z"] {
            assert_eq!(at(odd), None, "{odd}");
        }
        for odd in ["2025-01-01T00:00:00", "2025-01-01T00:00:00.Z", "2025-01-01T00:00:00+0100", "2025-1-01T00:00:00Zx"]
        {
            assert_eq!(at(odd), None, "{odd}");
        }
        assert_eq!(moment(Value::Json("1735718400123")), timestamp_us(1_735_718_400_123));
        assert_eq!(moment(Value::Moment(5)), timestamp_us(5));
    }

    #[test]
    fn numerics_are_what_postgresql_makes_of_the_same_digits() {
        let of = |word: &str| {
            numeric(word)
                .map(|bytes| bytes.chunks(2).map(|two| i16::from_be_bytes([two[0], two[1]])).collect::<Vec<_>>())
        };
        assert_eq!(of("0"), Some(vec![0, 0, 0, 0]));
        assert_eq!(of("-0.00"), Some(vec![0, 0, 0, 2]));
        assert_eq!(of("12345.678"), Some(vec![3, 1, 0, 3, 1, 2345, 6780]));
        assert_eq!(of("-1e-5"), Some(vec![1, -2, 0x4000, 5, 1000]));
        assert_eq!(of("1.5e6"), Some(vec![1, 1, 0, 0, 150]));
        assert_eq!(of("1e2000"), None);
        assert_eq!(of("abc"), None);
        assert_eq!(of("1."), None);
    }
}
