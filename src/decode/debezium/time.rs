//! Days and moments by arithmetic: from counts since 1970 to the text that PostgreSQL reads, in the Gregorian calendar
//! from 4714 BC to the years that it ends with. What is finer than a microsecond is cut off.

use std::ops::Range;

use super::text;
use super::value::Flaw;
use super::{Unit, number};

/// Days of `date` and of `timestamp`, from the first day of the Julian count.
const DATES: Range<i64> = -2_440_588..2_145_042_906;
const TIMESTAMPS: Range<i64> = -2_440_588..106_762_940;
/// What the connector sends for infinity: days that no calendar here has, others from its log than from its snapshot, and
/// moments of the JDBC driver in the unit of the field. In nanoseconds these overflow to half a minute around 1970, and
/// later connectors send the ends of the integer.
const INFINITE_DAYS: [i64; 2] = [-2_147_472_692, -622_191_234];
const MINUS_INFINITE_DAYS: [i64; 2] = [-2_147_472_691, -625_821_272];
const INFINITE_MOMENTS: (i64, i64) = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000);
const INFINITE_NANOS: (i64, i64) = (-29_575_808_000, 22_375_808_000);
/// The same as ISO 8601 has them: days of the snapshot, those of the log, and moments.
const INFINITE_ISO: [&[u8]; 3] = [b"+292278994-08-16", b"-5877611-06-21", b"+294247-01-10T04:00:25.2"];
const MINUS_INFINITE_ISO: [&[u8]; 3] = [b"+292269055-12-02", b"-5877611-06-22", b"-290308-12-21T19:59:27.6"];

impl Unit {
    const fn per_second(self) -> i64 {
        match self {
            Unit::Milli => 1_000,
            Unit::Micro => 1_000_000,
            Unit::Nano => 1_000_000_000,
        }
    }

    /// Whole seconds, and microseconds of the one that has begun.
    fn split(self, count: i64) -> (i64, u32) {
        let (seconds, rest) = (count.div_euclid(self.per_second()), count.rem_euclid(self.per_second()));
        let us = match self {
            Unit::Milli => rest * 1_000,
            Unit::Micro => rest,
            Unit::Nano => rest / 1_000,
        };
        (seconds, us as u32)
    }

    /// Positive and negative infinity. Milliseconds of them are those that the driver itself has, or a thousandth.
    fn is_infinite(self, count: i64) -> Option<&'static [u8]> {
        let (positive, negative) = INFINITE_MOMENTS;
        let (is_positive, is_negative) = match self {
            Unit::Nano => {
                ([INFINITE_NANOS.0, i64::MAX].contains(&count), [INFINITE_NANOS.1, i64::MIN].contains(&count))
            }
            Unit::Micro => (count == positive, count == negative),
            Unit::Milli => {
                ([positive, positive / 1_000].contains(&count), [negative, negative / 1_000].contains(&count))
            }
        };
        if is_positive { Some(b"infinity") } else { is_negative.then_some(b"-infinity") }
    }
}

/// Year, month and day of a day since 1970. Years here begin in March, so that the leap day is their last, and come in
/// cycles of 400.
fn civil(day: i64) -> (i64, u32, u32) {
    const CYCLE_DAYS: i64 = 146_097;
    let day = day + 719_468;
    let (cycle, day) = (day.div_euclid(CYCLE_DAYS), day.rem_euclid(CYCLE_DAYS) as u32);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + i64::from(year) + i64::from(month <= 2), month, day)
}

fn two(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Four digits at least.
fn year(year: u64, out: &mut Vec<u8>) {
    if year > 9_999 {
        out.extend_from_slice(year.to_string().as_bytes());
    } else {
        two(year as u32 / 100, out);
        two(year as u32 % 100, out);
    }
}

/// The date, and whether its year is before Christ.
fn put_day(day: i64, out: &mut Vec<u8>) -> bool {
    let (number, month, day) = civil(day);
    let is_before = number <= 0;
    year(if is_before { 1 - number } else { number } as u64, out);
    out.push(b'-');
    two(month, out);
    out.push(b'-');
    two(day, out);
    is_before
}

fn put_time(second: u32, us: u32, out: &mut Vec<u8>) {
    two(second / 3_600, out);
    out.push(b':');
    two(second / 60 % 60, out);
    out.push(b':');
    two(second % 60, out);
    fraction(us, out);
}

fn fraction(us: u32, out: &mut Vec<u8>) {
    if us > 0 {
        out.push(b'.');
        two(us / 10_000, out);
        two(us / 100 % 100, out);
        two(us % 100, out);
    }
}

fn count(json: &str) -> Result<i64, Flaw> {
    number::parse(json).ok_or(Flaw::Rule("must be an integer of 64 bits"))
}

/// Days since 1970.
pub fn days(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let day = count(json)?;
    if INFINITE_DAYS.contains(&day) {
        out.extend_from_slice(b"infinity");
    } else if MINUS_INFINITE_DAYS.contains(&day) {
        out.extend_from_slice(b"-infinity");
    } else if !DATES.contains(&day) {
        return Err(Flaw::Rule("is beyond PostgreSQL's dates"));
    } else if put_day(day, out) {
        out.extend_from_slice(b" BC");
    }
    Ok(())
}

/// A moment since 1970, which is in UTC where the column has a zone.
pub fn moment(json: &str, unit: Unit, is_zoned: bool, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let count = count(json)?;
    if let Some(word) = unit.is_infinite(count) {
        out.extend_from_slice(word);
        return Ok(());
    }
    // Where the connector's 64 bits end, it cuts off.
    if unit == Unit::Micro && count == i64::MAX {
        return Err(Flaw::Rule("is beyond what 64 bits can say"));
    }
    let (seconds, us) = unit.split(count);
    let day = seconds.div_euclid(86_400);
    if !TIMESTAMPS.contains(&day) {
        return Err(Flaw::Rule("is beyond PostgreSQL's timestamps"));
    }
    let is_before = put_day(day, out);
    out.push(b' ');
    put_time(seconds.rem_euclid(86_400) as u32, us, out);
    if is_zoned {
        out.extend_from_slice(b"+00");
    }
    if is_before {
        out.extend_from_slice(b" BC");
    }
    Ok(())
}

/// Since midnight, up to the 24:00 that PostgreSQL has too.
pub fn time(json: &str, unit: Unit, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let (second, us) = unit.split(count(json)?);
    if !(0..86_400).contains(&second) && (second, us) != (86_400, 0) {
        return Err(Flaw::Rule("is no time of a day"));
    }
    put_time(second as u32, us, out);
    Ok(())
}

/// A length of time, in hours and less: days and months are not in it.
pub fn duration(json: &str, unit: Unit, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let count = count(json)?;
    let us = match unit {
        Unit::Milli => i128::from(count) * 1_000,
        Unit::Micro => count.into(),
        Unit::Nano => (count / 1_000).into(),
    };
    // The least of 64 bits is an interval that PostgreSQL writes and does not read.
    if us.unsigned_abs() > i64::MAX as u128 {
        return Err(Flaw::Rule("is beyond PostgreSQL's intervals"));
    }
    if us < 0 {
        out.push(b'-');
    }
    let (seconds, us) = (us.unsigned_abs() / 1_000_000, (us.unsigned_abs() % 1_000_000) as u32);
    let hours = seconds / 3_600;
    if hours < 100 {
        two(hours as u32, out);
    } else {
        out.extend_from_slice(hours.to_string().as_bytes());
    }
    let second = (seconds % 3_600) as u32;
    out.push(b':');
    two(second / 60, out);
    out.push(b':');
    two(second % 60, out);
    fraction(us, out);
    Ok(())
}

/// Which parts a text of ISO 8601 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iso {
    Date,
    Time,
    ZonedTime,
    Moment,
    ZonedMoment,
}

/// Dates and times as ISO 8601 has them. Almost all are what PostgreSQL reads; a year with a sign and the year zero are
/// not, nor is a zone behind what has none.
pub fn iso(json: &str, kind: Iso, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let inner = text::inner(json).ok_or(Flaw::Rule("must be a text"))?;
    let start = out.len();
    text::unescape(inner, out)?;
    if matches!(kind, Iso::Date | Iso::Time | Iso::Moment) && out[start..].ends_with(b"Z") {
        out.pop();
    }
    let written = &out[start..];
    let is_dated = !matches!(kind, Iso::Time | Iso::ZonedTime);
    let is_odd = match written {
        [b'+' | b'-', digit, ..] => digit.is_ascii_digit(),
        _ => written.starts_with(b"0000-"),
    };
    if is_dated && is_odd {
        let written = out.split_off(start);
        let is_one = |of: &[&[u8]]| of.contains(&&*written);
        if is_one(&INFINITE_ISO) || is_one(&MINUS_INFINITE_ISO) {
            out.extend_from_slice(if is_one(&INFINITE_ISO) { b"infinity" } else { b"-infinity" });
            return Ok(());
        }
        let written = std::str::from_utf8(&written).map_err(|_| Flaw::Rule("must be a text"))?;
        with_era(written, out).ok_or(Flaw::Rule("must begin with a year"))?;
    }
    Ok(())
}

/// A date whose year has a sign or is zero, which is the year 1 before Christ.
fn with_era(written: &str, out: &mut Vec<u8>) -> Option<()> {
    let (is_negative, unsigned) = match written.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, written.strip_prefix('+').unwrap_or(written)),
    };
    let (digits, rest) = unsigned.split_once('-')?;
    let number: i64 = digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let is_before = is_negative || number == 0;
    year(if is_before { number.checked_add(1)? } else { number } as u64, out);
    out.push(b'-');
    if !is_before {
        out.extend_from_slice(rest.as_bytes());
        return Some(());
    }
    // The era is read behind a zone of digits only.
    let (rest, zone) = rest.strip_suffix('Z').map_or((rest, ""), |rest| (rest, "+00"));
    out.extend(rest.bytes().map(|byte| if byte == b'T' { b' ' } else { byte }));
    out.extend_from_slice(zone.as_bytes());
    out.extend_from_slice(b" BC");
    Some(())
}
