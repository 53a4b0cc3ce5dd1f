//! What the targets of JSON records share: fields as serde_json alone reads them, held to what was made of them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use serde_json::value::RawValue;
use sluicegate::flow::field::{Amount, Flaw, ID_CHARS_MAX};

/// What a message about one field may be long, in bytes: a rule, and some characters of the value.
const FLAW_BYTES_MAX: usize = 400;

/// The fields of an object, the last one of each name.
pub fn object(json: &[u8]) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_slice(json).ok()
}

pub fn is_short(flaw: &Flaw) {
    let text = flaw.to_string();
    assert!(!text.is_empty() && text.len() <= FLAW_BYTES_MAX, "{} bytes: {text}", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}

/// A flaw of the field is told where it has one, unless the whole is not looked at; and only there.
pub fn told(field: &str, flaws: &[Flaw], is_sound: bool) {
    let is_told = flaws.iter().any(|flaw| flaw.field == field);
    let is_whole = flaws.iter().any(|flaw| flaw.field.is_empty());
    assert!(is_whole || is_told != is_sound, "{field} is sound: {is_sound}, and told is {flaws:?}");
}

/// Whether it is an amount; and if one was read, that it is this one.
pub fn amount(raw: Option<&RawValue>, read: Option<Amount>) -> bool {
    let written = raw.map_or("", RawValue::get);
    let quoted = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let digits = quoted.unwrap_or(written);
    // No sign, and no exponent: it would be digits by the million.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_bare = digits.is_empty() || digits.starts_with('.') || digits.ends_with('.');
    let decimal = (is_plain && !is_bare).then(|| BigDecimal::from_str(digits).ok()).flatten();
    let most = BigDecimal::from(99_999_999_999_999i64);
    let hundredths = decimal.map(|decimal| -> BigDecimal { decimal * 100 });
    let hundredths = hundredths.filter(|cents| cents.is_integer() && *cents <= most);
    if let Some(amount) = read {
        let shown = BigDecimal::from_str(&amount.to_string()).expect("a decimal") * 100;
        let (bytes, count) = amount.numeric();
        let (decimal, scale) = numeric(&bytes[..count]);
        assert_eq!((Amount::of_numeric(&bytes[..count]), scale), (Some(amount), 2));
        assert_eq!((Some(&shown), Some(&(decimal * 100))), (hundredths.as_ref(), hundredths.as_ref()));
    }
    hundredths.is_some()
}

/// PostgreSQL's binary `numeric`, read as it documents it, and the digits that it shows behind the point. Leading and
/// trailing groups of zeros are not canonical.
pub fn numeric(bytes: &[u8]) -> (BigDecimal, i16) {
    let words: Vec<i16> = bytes.as_chunks::<2>().0.iter().map(|word| i16::from_be_bytes(*word)).collect();
    let [count, weight, sign, scale, digits @ ..] = &words[..] else { panic!("{bytes:?}") };
    assert!(
        bytes.len().is_multiple_of(2) && digits.len() == *count as usize && [0, 0x4000].contains(sign),
        "{words:?}"
    );
    assert!(digits.iter().all(|digit| (0..10_000).contains(digit)), "{words:?}");
    assert!(digits.first() != Some(&0) && digits.last() != Some(&0), "{words:?}");
    let decimal = digits.iter().zip(0i64..).fold(BigDecimal::from(0), |sum, (digit, at)| {
        sum + BigDecimal::new((*digit).into(), 4 * (at - i64::from(*weight)))
    });
    (if *sign == 0 { decimal } else { -decimal }, *scale)
}

/// A number without a point or an exponent.
pub fn whole(raw: Option<&RawValue>, range: RangeInclusive<i64>, read: Option<i64>) -> bool {
    let written = raw.map_or("", RawValue::get);
    let is_plain = written.strip_prefix('-').unwrap_or(written).bytes().all(|byte| byte.is_ascii_digit());
    // Leading zeros are no JSON, so what is longer is beyond any range.
    let number = if is_plain { written.parse::<i128>().ok() } else { None };
    let number = number.and_then(|number| i64::try_from(number).ok()).filter(|number| range.contains(number));
    if read.is_some() {
        assert_eq!(read, number);
    }
    number.is_some()
}

/// A name of a person or a thing.
pub fn id(raw: Option<&RawValue>, read: Option<&str>) -> bool {
    let text = raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let text = text.filter(|text| {
        let chars = text.chars().count();
        (1..=ID_CHARS_MAX).contains(&chars) && text.trim() == text && !text.chars().any(char::is_control)
    });
    if read.is_some() {
        assert_eq!(read, text.as_deref());
    }
    text.is_some()
}

/// The text of a JSON string.
pub fn string(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(raw?.get()).ok()
}

/// The digits of a UUID, in one of the four ways in which it is written, without what stands between them.
pub fn uuid_digits(text: &str) -> Option<String> {
    let braced = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let named =
        text.split_at_checked(9).filter(|(name, _)| name.eq_ignore_ascii_case("urn:uuid:")).map(|(_, rest)| rest);
    let bare = named.or(braced).unwrap_or(text);
    let parts: Vec<usize> = bare.split('-').map(str::len).collect();
    let is_whole = parts == [32] && bare == text || parts == [8, 4, 4, 4, 12];
    let digits = bare.replace('-', "").to_ascii_lowercase();
    (is_whole && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}
