//! Strings of JSON, base64, and what quotes do: characters only, no meaning.

use super::value::Flaw;

/// A string without its quotes. None where it is not one.
pub fn inner(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// Appends what a string says.
pub fn unescape(inner: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let bytes = inner.as_bytes();
    if bytes.contains(&0) {
        return Err(Flaw::Nul);
    }
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = escape(&rest[at + 1..], out)?;
    }
    out.extend_from_slice(rest);
    Ok(())
}

const ESCAPE: Flaw = Flaw::Rule("has an escape that is none");

/// One escape, from behind its backslash. What follows it.
fn escape<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Flaw> {
    let (kind, rest) = rest.split_first().ok_or(ESCAPE)?;
    let plain = match kind {
        b'"' | b'\\' | b'/' => *kind,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => return unicode(rest, out),
        _ => return Err(ESCAPE),
    };
    out.push(plain);
    Ok(rest)
}

fn unicode<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Flaw> {
    let (high, rest) = four(rest).ok_or(ESCAPE)?;
    let (code, rest) = match high {
        0 => return Err(Flaw::Nul),
        0xd800..0xdc00 => {
            let (low, rest) = rest.strip_prefix(b"\\u").and_then(four).ok_or(ESCAPE)?;
            let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or(ESCAPE)?;
            (0x10000 + ((high - 0xd800) << 10) + low, rest)
        }
        _ => (high, rest),
    };
    let character = char::from_u32(code).ok_or(ESCAPE)?;
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(rest)
}

fn four(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = rest.split_at_checked(4)?;
    let code = digits.iter().try_fold(0, |code, digit| Some(code * 16 + (*digit as char).to_digit(16)?))?;
    Some((code, rest))
}

/// Whether a text of JSON has the escape of NUL in one of its strings.
pub fn escapes_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        rest = &rest[at + 1..];
        if rest.starts_with(b"u0000") {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// Puts into double quotes what was written from `start` on, as arrays and hstore have it.
pub fn quote(out: &mut Vec<u8>, start: usize) {
    let marks = out[start..].iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    if marks > 0 {
        let plain = out.split_off(start);
        out.reserve(plain.len() + marks + 2);
        out.push(b'"');
        for byte in plain {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
    } else {
        out.insert(start, b'"');
    }
    out.push(b'"');
}

/// Not a digit of base64.
const NONE: u8 = 0xff;

/// Of the usual alphabet and of the one for URLs: they differ in two characters that are in one of them only.
const DIGITS: [u8; 256] = {
    let mut digits = [NONE; 256];
    let mut at = 0;
    while at < 26 {
        digits[b'A' as usize + at] = at as u8;
        digits[b'a' as usize + at] = 26 + at as u8;
        at += 1;
    }
    at = 0;
    while at < 10 {
        digits[b'0' as usize + at] = 52 + at as u8;
        at += 1;
    }
    digits[b'+' as usize] = 62;
    digits[b'-' as usize] = 62;
    digits[b'/' as usize] = 63;
    digits[b'_' as usize] = 63;
    digits
};

const BASE64: Flaw = Flaw::Rule("is not base64");

/// The bytes of base64 inside a string, each given to `take`. Padding may be missing.
pub fn from_base64(inner: &str, mut take: impl FnMut(u8)) -> Result<(), Flaw> {
    // The one character that some writers escape.
    let plain;
    let inner = match inner.contains('\\') {
        true => {
            plain = inner.replace("\\/", "/");
            plain.as_str()
        }
        false => inner,
    };
    let text = inner.strip_suffix("==").or(inner.strip_suffix('=')).unwrap_or(inner).as_bytes();
    let padding = inner.len() - text.len();
    if text.len() % 4 == 1 || (padding > 0 && !inner.len().is_multiple_of(4)) {
        return Err(BASE64);
    }
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            match DIGITS[*digit as usize] {
                NONE => return Err(BASE64),
                digit => bits = bits << 6 | u32::from(digit),
            }
        }
        let missing = 4 - group.len() as u32;
        let [_, bytes @ ..] = (bits << (6 * missing)).to_be_bytes();
        bytes[..3 - missing as usize].iter().for_each(|byte| take(*byte));
    }
    Ok(())
}

pub fn to_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { digit as char } else { '=' });
        }
    }
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";

pub fn hex(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEX[byte as usize >> 4], HEX[byte as usize & 15]]);
}
