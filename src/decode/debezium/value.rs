//! Values: how the JSON of each type becomes the text of PostgreSQL's.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::time::{self, Iso};
use super::{Binary, Decimals, Modes, Unit, number, text, unfolded_max};

/// Why a value has no text. Neither shows the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Nul,
    Rule(&'static str),
}

/// What JSON means and how it is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Also in quotes.
    Boolean,
    /// As 1 and 0, for bits and numbers.
    Digit,
    /// Of so many bits.
    Integer(u32),
    Float(u32),
    Number,
    /// Without an exponent.
    Plain,
    /// Whatever it is, as text.
    Text,
    /// The same of so many bytes at most.
    Short(usize),
    /// A text that is a decimal, of so many digits behind the point.
    Digits {
        scale_max: Option<i64>,
    },
    /// Base64.
    Bytes,
    /// Base64 of a text, which the connector sends of types that it does not know.
    Unknown,
    /// A text that holds bytes, by the mode of the connector.
    Coded,
    Decimal {
        scale: i64,
    },
    /// In base64 or as digits, for payloads that do not say.
    LooseDecimal {
        scale: i64,
    },
    VariableDecimal,
    Days,
    Time(Unit),
    Moment {
        unit: Unit,
        is_zoned: bool,
    },
    Duration(Unit),
    Iso(Iso),
    /// A text, or a number by the mode of the connector and by whether the column has up to three digits of a second.
    Loose {
        kind: Iso,
        is_coarse: bool,
    },
    LooseDuration,
    /// A text that holds JSON.
    Json {
        is_jsonb: bool,
    },
    /// JSON itself.
    Raw {
        is_jsonb: bool,
    },
    /// A text that holds JSON, or whatever else there is.
    LooseJson {
        is_jsonb: bool,
    },
    /// So many bits, or those from the first that is set.
    Bits(Option<usize>),
    Point,
    Circle,
    Line,
    /// Geometry of PostGIS, in hexadecimal; or the bytes of it.
    Shape {
        is_bytea: bool,
    },
    Vector,
    SparseVector,
    /// Names and texts, also as JSON in a text.
    Hstore,
    Array(Box<Form>),
}

/// More dimensions an array of PostgreSQL has not.
const DIMENSIONS_MAX: usize = 6;
/// A short value may stand for many bits, if a schema says so.
const BITS_MAX: usize = 8 << 20;

const TEXT: Flaw = Flaw::Rule("must be a text");
const LIST: &str = "must be a list";

fn string(json: &str) -> Result<&str, Flaw> {
    text::inner(json).ok_or(TEXT)
}

fn read<'a, T: Deserialize<'a>>(json: &'a str, rule: &'static str) -> Result<T, Flaw> {
    serde_json::from_str(json).map_err(|_| Flaw::Rule(rule))
}

impl Form {
    pub fn write(&self, json: &str, modes: &Modes, out: &mut Vec<u8>) -> Result<(), Flaw> {
        match self {
            Form::Boolean | Form::Digit => {
                let (word, digit): (&[u8], &[u8]) = match json.trim_matches('"') {
                    "true" => (b"true", b"1"),
                    "false" => (b"false", b"0"),
                    _ => return Err(Flaw::Rule("must be true or false")),
                };
                out.extend_from_slice(if *self == Form::Digit { digit } else { word });
                Ok(())
            }
            Form::Integer(bits) => number::integer(json, *bits, out),
            Form::Float(bits) => number::float(json, *bits, out),
            Form::Number => number::number(json, out),
            Form::Plain => number::plain(text::inner(json).unwrap_or(json), out),
            Form::Text => match text::inner(json) {
                Some(inner) => text::unescape(inner, out),
                None => raw(json, true, out),
            },
            Form::Short(bytes_max) => {
                let start = out.len();
                Form::Text.write(json, modes, out)?;
                match out.len() - start <= *bytes_max {
                    true => Ok(()),
                    false => Err(Flaw::Rule("is longer than its column takes")),
                }
            }
            Form::Digits { scale_max } => match text::inner(json).and_then(number::word) {
                Some(word) => {
                    out.extend_from_slice(word.as_bytes());
                    Ok(())
                }
                None => {
                    let start = out.len();
                    Form::Text.write(json, modes, out)?;
                    match scale_max {
                        Some(scale_max) if number::scale_of(&out[start..]).is_some_and(|scale| scale > *scale_max) => {
                            Err(Flaw::Rule("has more digits behind the point than its column, which would round it"))
                        }
                        _ => Ok(()),
                    }
                }
            },
            Form::Bytes => bytes(string(json)?, out),
            Form::Unknown => unknown(string(json)?, out),
            Form::Coded => match modes.binary {
                Binary::Hex => hex(string(json)?, out),
                Binary::Bytes | Binary::Base64 | Binary::Base64Url => bytes(string(json)?, out),
            },
            Form::Decimal { scale } => match text::inner(json) {
                Some(base64) => number::decimal(base64, *scale, out),
                None => number::number(json, out),
            },
            Form::LooseDecimal { scale } => loose_decimal(json, *scale, modes, out),
            Form::VariableDecimal => variable_decimal(json, out),
            Form::Days => time::days(json, out),
            Form::Time(unit) => time::time(json, *unit, out),
            Form::Moment { unit, is_zoned } => time::moment(json, *unit, *is_zoned, out),
            Form::Duration(unit) => time::duration(json, *unit, out),
            Form::Iso(kind) => time::iso(json, *kind, out),
            Form::Loose { kind, .. } if json.starts_with('"') => time::iso(json, *kind, out),
            Form::Loose { kind: Iso::Date, .. } => time::days(json, out),
            Form::Loose { kind: Iso::Time | Iso::ZonedTime, is_coarse } => {
                time::time(json, modes.unit(false, *is_coarse), out)
            }
            Form::Loose { kind, is_coarse } => {
                time::moment(json, modes.unit(true, *is_coarse), *kind == Iso::ZonedMoment, out)
            }
            Form::LooseDuration => match text::inner(json) {
                Some(inner) => text::unescape(inner, out),
                None => time::duration(json, Unit::Micro, out),
            },
            Form::Json { is_jsonb } => match text::inner(json) {
                Some(inner) => {
                    let start = out.len();
                    text::unescape(inner, out)?;
                    if *is_jsonb && text::escapes_nul(&out[start..]) { Err(Flaw::Nul) } else { Ok(()) }
                }
                None => raw(json, *is_jsonb, out),
            },
            Form::Raw { is_jsonb } => raw(json, *is_jsonb, out),
            Form::LooseJson { is_jsonb } => loose_json(json, *is_jsonb, modes, out),
            // One bit comes as what is true or false.
            Form::Bits(_) if matches!(json, "true" | "false") => Form::Digit.write(json, modes, out),
            Form::Bits(count) => bits(string(json)?, *count, out),
            Form::Point => point(json, out),
            Form::Circle => circle(json, out),
            Form::Line => line(json, out),
            Form::Shape { is_bytea } => shape(json, *is_bytea, out),
            Form::Vector => vector(json, out),
            Form::SparseVector => sparse_vector(json, out),
            Form::Hstore => hstore(json, out),
            Form::Array(element) => array(element, json, modes, 1, out),
        }
    }

    /// Whether its texts have nothing in them that an array would take for its own.
    fn is_bare(&self) -> bool {
        use Form::*;
        matches!(self, Boolean | Digit | Integer(_) | Float(_) | Number | Plain | Days | Duration(_))
            || matches!(self, Decimal { .. } | LooseDecimal { .. } | VariableDecimal | Bits(Some(1..)))
    }

    /// Whether a list in a list of these is a further dimension, and not one of them.
    fn is_dimension(&self) -> bool {
        !matches!(self, Form::Raw { .. } | Form::Json { .. } | Form::LooseJson { .. } | Form::Vector | Form::Array(_))
    }
}

/// JSON as it stands. What jsonb does not take is looked for there.
fn raw(json: &str, is_jsonb: bool, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if json.contains('\0') || (is_jsonb && text::escapes_nul(json.as_bytes())) {
        return Err(Flaw::Nul);
    }
    out.extend_from_slice(json.as_bytes());
    Ok(())
}

fn bytes(base64: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    out.extend_from_slice(b"\\x");
    text::from_base64(base64, |byte| text::hex(byte, out))
}

fn hex(digits: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Flaw::Rule("is not hexadecimal"));
    }
    out.extend_from_slice(b"\\x");
    out.extend_from_slice(digits.as_bytes());
    Ok(())
}

fn unknown(base64: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let start = out.len();
    text::from_base64(base64, |byte| out.push(byte))?;
    if out[start..].contains(&0) {
        return Err(Flaw::Nul);
    }
    std::str::from_utf8(&out[start..]).map_err(|_| TEXT).map(drop)
}

/// Base64 comes with its padding. What has its length and its letters is base64, unless the connector sends digits.
fn loose_decimal(json: &str, scale: i64, modes: &Modes, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let Some(inner) = text::inner(json) else {
        return variable_decimal(json, out);
    };
    let start = out.len();
    if modes.decimals == Decimals::Precise && inner.len().is_multiple_of(4) {
        if number::decimal(inner, scale, out).is_ok() {
            return Ok(());
        }
        out.truncate(start);
    }
    number::number(if number::is_number(inner) { inner } else { json }, out)
}

fn loose_json(json: &str, is_jsonb: bool, modes: &Modes, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let start = out.len();
    Form::Json { is_jsonb }.write(json, modes, out)?;
    if json.starts_with('"') && serde_json::from_slice::<serde::de::IgnoredAny>(&out[start..]).is_err() {
        out.truncate(start);
        return raw(json, is_jsonb, out);
    }
    Ok(())
}

fn variable_decimal(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    #[derive(Deserialize)]
    struct Variable<'a> {
        scale: i64,
        #[serde(borrow)]
        value: Cow<'a, str>,
    }
    if !json.starts_with('{') {
        let digits = text::inner(json).filter(|inner| number::is_number(inner)).unwrap_or(json);
        return number::number(digits, out);
    }
    let Variable { scale, value } = read(json, "must have a scale and a value")?;
    number::decimal(&value, scale, out)
}

/// Bits from the last to the first, as the least significant is sent first.
fn bits(base64: &str, count: Option<usize>, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let mut bytes = Vec::new();
    text::from_base64(base64, |byte| bytes.push(byte))?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| 8 * at + bytes[at].ilog2() as usize + 1);
    let count = count.unwrap_or(used);
    if used > count || count > BITS_MAX {
        return Err(Flaw::Rule("has more bits than its type"));
    }
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    out.extend((0..count).rev().map(|at| b'0' + u8::from(bit(at))));
    Ok(())
}

#[derive(Deserialize)]
struct Coordinates<'a> {
    #[serde(borrow)]
    x: &'a RawValue,
    #[serde(borrow)]
    y: &'a RawValue,
}

impl Coordinates<'_> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), Flaw> {
        list(b"(", &[self.x, self.y], b")", out)
    }
}

/// Floats between brackets.
fn list(open: &[u8], floats: &[&RawValue], close: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
    out.extend_from_slice(open);
    for (at, float) in floats.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        number::float(float.get(), 64, out)?;
    }
    out.extend_from_slice(close);
    Ok(())
}

fn point(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if let Some(inner) = text::inner(json) {
        return text::unescape(inner, out);
    }
    read::<Coordinates>(json, "must have x and y")?.write(out)
}

fn circle(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    #[derive(Deserialize)]
    struct Circle<'a> {
        #[serde(borrow)]
        center: Coordinates<'a>,
        radius: &'a RawValue,
    }
    let Circle { center, radius } = read(json, "must have a center and a radius")?;
    out.push(b'<');
    center.write(out)?;
    list(b",", &[radius], b">", out)
}

fn line(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        a: &'a RawValue,
        #[serde(borrow)]
        b: &'a RawValue,
        #[serde(borrow)]
        c: &'a RawValue,
    }
    let Line { a, b, c } = read(json, "must have a, b and c")?;
    list(b"{", &[a, b, c], b"}", out)
}

/// In the extended form of PostGIS, which has the reference system behind the type.
fn shape(json: &str, is_bytea: bool, out: &mut Vec<u8>) -> Result<(), Flaw> {
    #[derive(Deserialize)]
    struct Shape<'a> {
        #[serde(borrow)]
        wkb: Cow<'a, str>,
        srid: Option<i32>,
    }
    const HAS_SRID: u32 = 0x2000_0000;
    let Shape { wkb, srid } = read(json, "must have wkb and srid")?;
    let mut bytes = Vec::new();
    text::from_base64(&wkb, |byte| bytes.push(byte))?;
    let (head, body) = bytes.split_at_checked(5).ok_or(Flaw::Rule("is no geometry"))?;
    let kind = [head[1], head[2], head[3], head[4]];
    let (kind, is_little) = match head[0] {
        0 => (u32::from_be_bytes(kind), false),
        1 => (u32::from_le_bytes(kind), true),
        _ => return Err(Flaw::Rule("is no geometry")),
    };
    let word = |number: u32| if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
    let srid = srid.filter(|srid| *srid != 0 && kind & HAS_SRID == 0);
    if is_bytea {
        out.extend_from_slice(b"\\x");
    }
    text::hex(head[0], out);
    word(kind | srid.map_or(0, |_| HAS_SRID)).iter().for_each(|byte| text::hex(*byte, out));
    srid.iter().flat_map(|srid| word(*srid as u32)).for_each(|byte| text::hex(byte, out));
    body.iter().for_each(|byte| text::hex(*byte, out));
    Ok(())
}

fn vector(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if let Some(inner) = text::inner(json) {
        return text::unescape(inner, out);
    }
    list(b"[", &read::<Vec<&RawValue>>(json, LIST)?, b"]", out)
}

/// Its map has numbers for names, which JSON has not: they come as a list of pairs.
fn sparse_vector(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    #[derive(Deserialize)]
    struct Sparse<'a> {
        dimensions: u32,
        #[serde(borrow)]
        vector: &'a RawValue,
    }
    const RULE: &str = "must have dimensions and a vector";
    let Sparse { dimensions, vector } = read(json, RULE)?;
    let mut pairs: Vec<(u32, &RawValue)> = match vector.get().starts_with('{') {
        true => read::<std::collections::BTreeMap<u32, &RawValue>>(vector.get(), RULE)?.into_iter().collect(),
        false => read(vector.get(), RULE)?,
    };
    pairs.sort_by_key(|(index, _)| *index);
    out.push(b'{');
    for (at, (index, float)) in pairs.into_iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        out.extend_from_slice(format!("{comma}{index}:").as_bytes());
        number::float(float.get(), 64, out)?;
    }
    out.extend_from_slice(format!("}}/{dimensions}").as_bytes());
    Ok(())
}

fn hstore(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let Some(inner) = text::inner(json) else {
        return pairs(json, out);
    };
    let start = out.len();
    text::unescape(inner, out)?;
    if out[start..].starts_with(b"{") {
        let written = out.split_off(start);
        pairs(std::str::from_utf8(&written).map_err(|_| TEXT)?, out)?;
    }
    Ok(())
}

fn pairs(json: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    let pairs: std::collections::BTreeMap<Cow<'_, str>, Option<Cow<'_, str>>> = read(json, "must have texts by names")?;
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        quoted(name, out)?;
        out.extend_from_slice(b"=>");
        match value {
            Some(value) => quoted(value, out)?,
            None => out.extend_from_slice(b"NULL"),
        }
    }
    Ok(())
}

fn quoted(plain: &str, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if plain.contains('\0') {
        return Err(Flaw::Nul);
    }
    let start = out.len();
    out.extend_from_slice(plain.as_bytes());
    text::quote(out, start);
    Ok(())
}

fn array(element: &Form, json: &str, modes: &Modes, depth: usize, out: &mut Vec<u8>) -> Result<(), Flaw> {
    if depth > DIMENSIONS_MAX {
        return Err(Flaw::Rule("has more dimensions than PostgreSQL's arrays"));
    }
    let bytes_max = out.len() + unfolded_max(json.len());
    out.push(b'{');
    for (at, value) in read::<Vec<&RawValue>>(json, LIST)?.into_iter().map(RawValue::get).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if out.len() > bytes_max {
            return Err(Flaw::Rule("unfolds beyond all measure"));
        }
        let start = out.len();
        match element {
            _ if value == "null" => out.extend_from_slice(b"NULL"),
            Form::Array(inner) => array(inner, value, modes, depth + 1, out)?,
            _ if value.starts_with('[') && element.is_dimension() => array(element, value, modes, depth + 1, out)?,
            _ => {
                element.write(value, modes, out)?;
                if !element.is_bare() {
                    text::quote(out, start);
                }
            }
        }
    }
    out.push(b'}');
    Ok(())
}
