//! Moments as people write them: a date and a time (RFC 3339), or how long ago; and stretches of time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];

/// Or the rule that it breaks.
pub fn parse(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let moment = span(text).map_or_else(|| date(text), |ago| now.checked_sub(ago));
    moment.ok_or_else(|| {
        "must be a moment such as 2026-01-31T08:00:00Z, or how long ago, such as 30m, 2h or 7d".to_owned()
    })
}

/// A stretch of time, as 30m.
pub fn span(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let (_, seconds) = UNITS.iter().find(|(known, _)| *known == unit)?;
    Some(Duration::from_secs(number(&text[..text.len() - 1])?.checked_mul(*seconds)?))
}

/// Digits, and nothing else that `parse` would take.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn date(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = fields(whole, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let is_right =
        (1970..=9999).contains(&year) && (1..=days_in).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let nanos = number(fraction).filter(|_| (1..=9).contains(&fraction.len()))? * 10u64.pow(9 - fraction.len() as u32);
    if !is_right {
        return None;
    }
    // Years counted from March, so that the leap day comes last.
    let (from_march, month_of) = (year - u64::from(month < 3), (month + 9) % 12);
    let days =
        365 * from_march + from_march / 4 - from_march / 100 + from_march / 400 + (153 * month_of + 2) / 5 + day - 1;
    let seconds = ((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second;
    let moment = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos);
    match zone {
        "Z" | "z" => Some(moment),
        _ => {
            let [hours, minutes] = fields(&zone[1..], ':', [2, 2])?;
            let offset = Duration::from_secs(hours * 3600 + minutes * 60);
            let is_right = hours < 24 && minutes < 60;
            if zone.starts_with('-') { moment.checked_add(offset) } else { moment.checked_sub(offset) }
                .filter(|_| is_right)
        }
    }
}

fn fields<const N: usize>(text: &str, border: char, digits: [usize; N]) -> Option<[u64; N]> {
    let parts: Vec<&str> = text.split(border).collect();
    let mut fields = [0; N];
    for (index, digits) in digits.iter().enumerate() {
        fields[index] = number(parts.get(index).filter(|part| part.len() == *digits)?)?;
    }
    (parts.len() == N).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Option<u128> {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        Some(parse(text, now).ok()?.duration_since(UNIX_EPOCH).ok()?.as_millis())
    }

    #[test]
    fn moments_are_dates_or_how_long_ago() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-28T23:59:59.999Z", 951_782_399_999),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2024-03-01 00:00:00z", 1_709_251_200_000),
            ("2024-12-31T23:59:59.001Z", 1_735_689_599_001),
            ("2025-01-01T01:59:59.001+02:00", 1_735_689_599_001),
            ("2024-12-31T18:29:59.001-05:30", 1_735_689_599_001),
            ("2100-02-28T12:00:00Z", 4_107_499_200_000),
            ("0s", 1_000_000_000),
            ("90m", 994_600_000),
            ("2h", 992_800_000),
            ("1w", 395_200_000),
        ] {
            assert_eq!(ms(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2",
            "h",
            "-2h",
            "+2h",
            "2 h",
            "2y",
            "99999999999999999999h",
            "999999999w",
            "2026-01-31",
            "2026-01-31T08:00Z",
            "2026-01-31T08:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.0123456789Z",
            "2026-01-01T00:00:00+2:00",
            "2026-01-01T00:00:00+24:00",
            "2026-1-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "2026-01-01T00:00:00Zß",
            "ßh",
            "2026-01-01T00:00:00+0ß:00",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
    }
}
