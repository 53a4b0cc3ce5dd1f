//! Digits: integers, floats and decimals of any length.

use super::text;
use super::value::Flaw;

/// Digits that PostgreSQL's `numeric` has before the point and behind it.
const WHOLE_DIGITS_MAX: i64 = 131_072;
const SCALE_MAX: i64 = 16_383;
/// Bytes that can make so many digits.
const DECIMAL_BYTES_MAX: usize = 61_300;

/// An integer as it stands, of at most so many bits.
pub fn integer(json: &str, bits: u32, out: &mut Vec<u8>) -> Result<(), Flaw> {
    const RULE: Flaw = Flaw::Rule("must be an integer of its size");
    let number = parse(json).ok_or(RULE)?;
    if bits < 64 && !(-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&number) {
        return Err(RULE);
    }
    out.extend_from_slice(json.as_bytes());
    Ok(())
}

/// An integer as JSON has it: Rust also reads a plus.
pub fn parse(json: &str) -> Option<i64> {
    json.parse().ok().filter(|_| !json.starts_with('+'))
}

/// A float as it stands, if one of its size can hold it. Where the source has no number it has one of three words.
pub fn float(json: &str, bits: u32, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let number = match text::inner(json).and_then(word) {
        Some(word) => word,
        _ if is_number(json) => json,
        _ => return Err(Flaw::Rule("must be a number")),
    };
    // So few digits without an exponent are in reach of each size.
    if number.len() > 36 || number.contains(['e', 'E']) {
        let is_zero = !number.split(['e', 'E']).next().unwrap_or("").bytes().any(|byte| matches!(byte, b'1'..=b'9'));
        let read = match bits {
            32 => number.parse::<f32>().ok().map(f64::from),
            _ => number.parse::<f64>().ok(),
        };
        if !read.is_some_and(|read| read.is_finite() && (read != 0.0 || is_zero)) {
            return Err(Flaw::Rule("is beyond what a float of its size can hold"));
        }
    }
    out.extend_from_slice(number.as_bytes());
    Ok(())
}

/// What is no number, as PostgreSQL has it: of floats the event has the same words, of decimals in texts others.
pub fn word(text: &str) -> Option<&'static str> {
    match text {
        "NaN" | "NAN" => Some("NaN"),
        "Infinity" | "POSITIVE_INFINITY" => Some("Infinity"),
        "-Infinity" | "NEGATIVE_INFINITY" => Some("-Infinity"),
        _ => None,
    }
}

/// As JSON has it: Rust also reads words and bare points.
pub fn is_number(json: &str) -> bool {
    let rest = json.strip_prefix('-').unwrap_or(json);
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(whole) && are_digits(fraction) && are_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

/// How many digits a decimal has behind the point, but for zeros at the end. None where it is no number.
pub fn scale_of(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok().filter(|text| is_number(text))?;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = match (fraction.trim_end_matches('0'), whole.trim_end_matches('0')) {
        ("", "" | "-") => return Some(0),
        ("", digits) => digits.len() as i64 - whole.len() as i64,
        (digits, _) => digits.len() as i64,
    };
    Some(scale - exponent.parse::<i64>().ok()?)
}

/// A number of any size, as it stands.
pub fn number(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    match text::inner(json).and_then(word) {
        Some(word) => out.extend_from_slice(word.as_bytes()),
        _ if is_number(json) => out.extend_from_slice(json.as_bytes()),
        _ => return Err(Flaw::Rule("must be a number")),
    }
    Ok(())
}

/// Unscaled bytes in base64, most significant first, in two's complement.
pub fn decimal(base64: &str, scale: i64, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if !(-WHOLE_DIGITS_MAX..=SCALE_MAX).contains(&scale) {
        return Err(Flaw::Rule("has a scale that PostgreSQL has not"));
    }
    let (mut small, mut count) = (0i128, 0);
    text::from_base64(base64, |byte| {
        small = if count == 0 { i128::from(byte as i8) } else { small << 8 | i128::from(byte) };
        count += 1;
    })?;
    match count {
        0 => Err(Flaw::Rule("has no digits")),
        1..=16 => {
            let mut digits = [0; 40];
            let start = digits_of(small.unsigned_abs(), &mut digits);
            place(small < 0, &digits[start..], scale, out)
        }
        _ if count > DECIMAL_BYTES_MAX => Err(Flaw::Rule("has more digits than PostgreSQL's numeric")),
        _ => {
            let mut bytes = Vec::with_capacity(count);
            text::from_base64(base64, |byte| bytes.push(byte))?;
            let is_negative = bytes[0] >= 0x80;
            if is_negative {
                negate(&mut bytes);
            }
            place(is_negative, &long_digits(&bytes), scale, out)
        }
    }
}

/// From the end of the buffer; where they begin.
fn digits_of(mut number: u128, digits: &mut [u8; 40]) -> usize {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
        // Most are small, and their division is cheap.
        if let Ok(mut small) = u64::try_from(number) {
            while small > 0 {
                at -= 1;
                digits[at] = b'0' + (small % 10) as u8;
                small /= 10;
            }
            return at;
        }
    }
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}

/// Nine digits at a time, the least first.
fn long_digits(bytes: &[u8]) -> Vec<u8> {
    let mut limbs: Vec<u32> =
        bytes.rchunks(4).rev().map(|limb| limb.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect();
    let mut digits = Vec::with_capacity(bytes.len() * 5 / 2);
    let mut first = 0;
    while first < limbs.len() {
        let mut rest = 0u64;
        for limb in &mut limbs[first..] {
            let sum = rest << 32 | u64::from(*limb);
            *limb = (sum / 1_000_000_000) as u32;
            rest = sum % 1_000_000_000;
        }
        first += limbs[first..].iter().take_while(|limb| **limb == 0).count();
        for _ in 0..9 {
            digits.push(b'0' + (rest % 10) as u8);
            rest /= 10;
        }
    }
    while digits.len() > 1 && digits.last() == Some(&b'0') {
        digits.pop();
    }
    digits.reverse();
    digits
}

/// Sets the point.
fn place(is_negative: bool, digits: &[u8], scale: i64, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let is_zero = digits == b"0";
    if !is_zero && digits.len() as i64 - scale > WHOLE_DIGITS_MAX {
        return Err(Flaw::Rule("has more digits than PostgreSQL's numeric"));
    }
    if is_negative {
        out.push(b'-');
    }
    if scale <= 0 {
        out.extend_from_slice(digits);
        if !is_zero {
            out.resize(out.len() + scale.unsigned_abs() as usize, b'0');
        }
        return Ok(());
    }
    let scale = scale as usize;
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    out.push(b'.');
    out.resize(out.len() + scale - fraction.len(), b'0');
    out.extend_from_slice(fraction);
    Ok(())
}

/// Without an exponent, for types that read none.
pub fn plain(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if !is_number(json) {
        return Err(Flaw::Rule("must be a number"));
    }
    let (mantissa, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().map_err(|_| Flaw::Rule("has an exponent out of reach"))?;
    let scale = fraction.len() as i64 - exponent;
    if !(-WHOLE_DIGITS_MAX..=SCALE_MAX).contains(&scale) {
        return Err(Flaw::Rule("has an exponent out of reach"));
    }
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    place(is_negative, if digits.is_empty() { b"0" } else { digits.as_bytes() }, scale, out)
}
