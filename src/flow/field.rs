//! Fields of JSON records that flows know by name: each looked at by itself, so that all flaws are told at once, and none
//! with its value to others than who wrote it. Money is exact: no float comes near it. Which fields there are is not said
//! here.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The longest name of a person or a thing, in characters.
pub const ID_CHARS_MAX: usize = 64;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Empty where it is about the whole.
    pub field: &'static str,
    /// As it was written, shortened.
    value: Option<String>,
    rule: String,
}

impl Flaw {
    pub fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Flaw { field, value: None, rule: rule.into() }
    }

    pub fn of(field: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Flaw { field, value: Some(shown(value)), rule: rule.into() }
    }

    /// What is wrong, in the words for whoever wrote the value.
    pub fn told(&self) -> String {
        match &self.value {
            Some(value) => format!("is {value}; {}", self.rule),
            None => self.rule.clone(),
        }
    }

    /// The same for everybody else: a letter's reason is logged and listed, and repeats nothing of its record.
    pub fn discreet(&self) -> String {
        match self.field {
            "" => self.rule.clone(),
            field if self.value.is_some() => format!("{field}: {}", self.rule),
            field => format!("{field} {}", self.rule),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            "" => self.told().fmt(f),
            field => write!(f, "{field} {}", self.told()),
        }
    }
}

/// An amount of money in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    cents: i64,
}

/// The fields of an object, as they were written.
pub fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Vec<Flaw>> {
    // Of a list serde would take the fields in their order.
    let is_object = json.trim_ascii_start().starts_with(b"{");
    // Fields that are passed over would not be looked at.
    let text = std::str::from_utf8(json)
        .map_err(|error| vec![Flaw::new("", format!("is not UTF-8 behind byte {}", error.valid_up_to()))])?;
    let rule = match serde_json::from_str(text) {
        Ok(written) if is_object => return Ok(written),
        Err(error) if error.classify() != serde_json::error::Category::Data => format!("is not JSON: {error}"),
        // Its words repeat what was there in place of an object, however long that is.
        _ => "must be an object with each field once".to_owned(),
    };
    Err(vec![Flaw::new("", rule)])
}

/// Appends a JSON string.
pub fn text(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("a string is JSON, and a vector takes everything");
}

pub fn uuid(field: &'static str, raw: Option<&RawValue>) -> Result<Uuid, Flaw> {
    let text = string(field, raw)?;
    Uuid::try_parse(&text).map_err(|_| Flaw::of(field, &text, "a UUID is expected"))
}

/// A name: of a person or a thing, as somebody else gave it.
pub fn id<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, Flaw> {
    let text = string(field, raw)?;
    if !has_length_of_id(&text) {
        let chars = text.chars().count();
        return Err(Flaw::new(field, format!("has {chars} characters; 1 to {ID_CHARS_MAX} are allowed")));
    }
    if !has_shape_of_id(&text) {
        let rule = "it may neither begin nor end with a space, nor hold control characters";
        return Err(Flaw::of(field, &text, rule));
    }
    Ok(text)
}

/// Whether `id` would take it.
pub fn is_id(text: &str) -> bool {
    has_length_of_id(text) && has_shape_of_id(text)
}

fn has_length_of_id(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(ID_CHARS_MAX).is_none()
}

fn has_shape_of_id(text: &str) -> bool {
    text.trim().len() == text.len() && !text.chars().any(char::is_control)
}

/// The text of a JSON string, borrowed where nothing in it is escaped.
pub fn string<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, Flaw> {
    let json = raw.ok_or_else(|| Flaw::new(field, "is missing"))?.get();
    let plain = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|text| !text.contains('\\'));
    match plain {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => serde_json::from_str(json).map(Cow::Owned).map_err(|_| Flaw::of(field, json, "a string is expected")),
    }
}

/// Digits and nothing else, but for a sign.
pub fn whole<N: std::str::FromStr + PartialOrd + fmt::Display>(
    field: &'static str,
    raw: Option<&RawValue>,
    range: RangeInclusive<N>,
) -> Result<N, Flaw> {
    let json = raw.ok_or_else(|| Flaw::new(field, "is missing"))?.get();
    let number = json.parse().ok().filter(|number| range.contains(number));
    let rule = || format!("a whole number from {} to {} is expected", range.start(), range.end());
    number.ok_or_else(|| Flaw::of(field, json, rule()))
}

/// A value in a message: short, and without control characters.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let plain: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(CHARS_MAX).collect();
    if text.chars().nth(CHARS_MAX).is_some() { format!("{plain}…") } else { plain }
}

impl Amount {
    /// As much as a `numeric(14, 2)` holds.
    pub const MAX: Amount = Amount { cents: 99_999_999_999_999 };
    /// Places behind the point.
    pub const SCALE: i16 = 2;

    /// None above `MAX`, and below nothing.
    pub fn from_cents(cents: i64) -> Option<Amount> {
        (0..=Amount::MAX.cents).contains(&cents).then_some(Amount { cents })
    }

    /// A JSON number, or a string that holds one: both are common for money.
    pub fn read(field: &'static str, raw: Option<&RawValue>) -> Result<Amount, Flaw> {
        let json = raw.ok_or_else(|| Flaw::new(field, "is missing"))?.get();
        let digits = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json);
        Amount::parse(digits).ok_or_else(|| {
            let rule = format!("0 to {} with at most two places is expected", Amount::MAX);
            Flaw::of(field, json, rule)
        })
    }

    /// Plain digits with at most two places that are not zero. No sign and no exponent: nobody writes money so.
    fn parse(text: &str) -> Option<Amount> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(places) {
            return None;
        }
        let places = places.trim_end_matches('0');
        let hundredths = match places.len() {
            0 => 0,
            1 => places.parse::<i64>().ok()? * 10,
            2 => places.parse().ok()?,
            _ => return None,
        };
        Amount::from_cents(whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(hundredths)?)
    }

    /// As PostgreSQL's `numeric` is sent in binary, and how many of the bytes count: a number of digits, the weight of
    /// the first, a sign, a scale, then the digits, which are groups of four decimal ones around the point.
    pub fn numeric(self) -> ([u8; 16], usize) {
        let mut whole = self.cents / 100;
        let mut groups = [0i16; 4];
        let mut first = groups.len() - 1;
        groups[first] = (self.cents % 100) as i16 * 100;
        while whole > 0 {
            first -= 1;
            groups[first] = (whole % 10_000) as i16;
            whole /= 10_000;
        }
        let last = groups.iter().rposition(|group| *group != 0).map_or(first, |last| last + 1);
        let digits = groups.get(first..last).unwrap_or(&[]);
        let positive = 0;
        let mut bytes = [0; 16];
        let words = [digits.len() as i16, 2 - first as i16, positive, Self::SCALE];
        for (place, word) in bytes.chunks_exact_mut(2).zip(words.iter().chain(digits)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        (bytes, 8 + 2 * digits.len())
    }

    /// What `numeric` made.
    pub fn of_numeric(bytes: &[u8]) -> Option<Amount> {
        let mut words = bytes.chunks_exact(2).map(|word| i16::from_be_bytes([word[0], word[1]]));
        let (_, weight) = (words.next()?, words.next()?);
        let mut cents = 0i64;
        for (index, digits) in words.skip(2).enumerate() {
            cents += match i32::from(weight) - index as i32 {
                -1 => i64::from(digits / 100),
                place @ 0..=2 => i64::from(digits) * 10_000i64.pow(place as u32) * 100,
                _ => return None,
            };
        }
        Amount::from_cents(cents)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.cents / 100, self.cents % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_not_exactly_money_passes() {
        for (text, cents) in
            [("0", 0), ("12", 1200), ("12.3", 1230), ("12.340", 1234), ("999999999999.99", 99_999_999_999_999)]
        {
            assert_eq!(Amount::parse(text).map(|amount| amount.cents), Some(cents), "{text}");
        }
        for text in
            ["", ".", "1.", ".5", "1.005", "-1", "+1", "1e2", "1000000000000", "99999999999999999999", "NaN", " 1"]
        {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
        for cents in [0, 1, 10, 100, 12_345, 1_000_000, 1_000_001, 100_000_000, 99_999_999_999_999] {
            let (bytes, len) = Amount { cents }.numeric();
            assert_eq!(Amount::of_numeric(&bytes[..len]), Some(Amount { cents }));
        }
    }
}
