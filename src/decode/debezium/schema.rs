//! Which kind a field is: by its schema, with the type of the source's column where the connector propagates it, or by
//! its name and first value where there is no schema.

use serde_json::Value;

use super::name::mended;
use super::number;
use super::time::Iso;
use super::value::Form;
use super::{Field, Kind, NameRules, Unit, column};
use crate::fault::Cause;

/// Where the connector says what the source's column is, when it is asked to (`column.propagate.source.type`).
const SOURCE: [&str; 3] =
    ["__debezium.source.column.type", "__debezium.source.column.length", "__debezium.source.column.scale"];

fn unreadable(rule: &str) -> Cause {
    Cause::new("cdc.schema", format!("a field of the schema {rule}"))
}

pub fn field(schema: &Value) -> Result<Field, Cause> {
    let name = schema["field"].as_str().ok_or_else(|| unreadable("has no name"))?;
    let is_optional = schema["optional"].as_bool().unwrap_or(false);
    let kind = kind(schema)?;
    let kind = source_type(schema).map_or(kind.clone(), |column| kind.fitted(&column));
    Ok(Field { name: mended(name.into()).into_owned(), is_optional, kind })
}

fn parameter<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema["parameters"][name].as_str()
}

/// By the semantic type, or by the plain one where that is none of these.
fn kind(schema: &Value) -> Result<Kind, Cause> {
    let plain = schema["type"].as_str().ok_or_else(|| unreadable("has no type"))?;
    let name = schema["name"].as_str().unwrap_or(plain);
    match semantic(name, plain, schema) {
        Some((form, column)) => Ok(Kind::new(form, column, short(name))),
        None => unnamed(plain, schema),
    }
}

/// A name of a user is no word of ours: not more of it than shows which type is meant.
fn short(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(80).collect()
}

fn semantic(name: &str, plain: &str, schema: &Value) -> Option<(Form, String)> {
    let moment = |unit| (Form::Moment { unit, is_zoned: false }, column::TIMESTAMP);
    let (form, column) = match (name, plain) {
        ("org.apache.kafka.connect.data.Decimal", _) => {
            let scale: i64 = parameter(schema, "scale")?.parse().ok()?;
            let precision: Option<i64> =
                parameter(schema, "connect.decimal.precision").and_then(|text| text.parse().ok());
            return Some((Form::Decimal { scale }, column::numeric(precision, scale)));
        }
        ("org.apache.kafka.connect.data.Date" | "io.debezium.time.Date", _) => (Form::Days, "date"),
        ("org.apache.kafka.connect.data.Time" | "io.debezium.time.Time", _) => (Form::Time(Unit::Milli), column::TIME),
        ("io.debezium.time.MicroTime", _) => (Form::Time(Unit::Micro), column::TIME),
        ("io.debezium.time.NanoTime", _) => (Form::Time(Unit::Nano), column::TIME),
        ("org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp", _) => moment(Unit::Milli),
        ("io.debezium.time.MicroTimestamp", _) => moment(Unit::Micro),
        ("io.debezium.time.NanoTimestamp", _) => moment(Unit::Nano),
        ("io.debezium.time.ZonedTimestamp", _) => (Form::Iso(Iso::ZonedMoment), column::TIMESTAMPTZ),
        ("io.debezium.time.ZonedTime", _) => (Form::Iso(Iso::ZonedTime), column::TIMETZ),
        ("io.debezium.time.IsoDate", _) => (Form::Iso(Iso::Date), "date"),
        ("io.debezium.time.IsoTime", _) => (Form::Iso(Iso::Time), column::TIME),
        ("io.debezium.time.IsoTimestamp", _) => (Form::Iso(Iso::Moment), column::TIMESTAMP),
        ("io.debezium.time.MicroDuration", _) => (Form::Duration(Unit::Micro), "interval"),
        ("io.debezium.time.NanoDuration", _) => (Form::Duration(Unit::Nano), "interval"),
        ("io.debezium.time.Interval", _) => (Form::Text, "interval"),
        ("io.debezium.time.Year", _) => (Form::Integer(32), "integer"),
        ("io.debezium.data.Json", _) => (Form::Json { is_jsonb: true }, "jsonb"),
        ("io.debezium.data.Xml", _) => (Form::Text, "xml"),
        ("io.debezium.data.Uuid", _) => (Form::Text, "uuid"),
        ("io.debezium.data.Ltree", _) => (Form::Text, "ltree"),
        ("io.debezium.data.Tsvector" | "io.debezium.data.TsVector", _) => (Form::Text, "tsvector"),
        ("io.debezium.data.Enum" | "io.debezium.data.EnumSet", _) => (Form::Text, "text"),
        ("io.debezium.data.Bits", _) => {
            // Of a type without a limit it says the largest integer.
            let count = parameter(schema, "length").and_then(|text| text.parse().ok());
            let count = count.filter(|count| (1..i32::MAX as usize).contains(count));
            let column = count.map_or("bit varying".to_owned(), |count| format!("bit({count})"));
            return Some((Form::Bits(count), column));
        }
        ("io.debezium.data.VariableScaleDecimal", _) => (Form::VariableDecimal, "numeric"),
        ("io.debezium.data.geometry.Point", _) => (Form::Point, "point"),
        ("io.debezium.data.geometry.Circle", _) => (Form::Circle, "circle"),
        ("io.debezium.data.geometry.Line", _) => (Form::Line, "line"),
        ("io.debezium.data.geometry.Geometry", _) => (Form::Shape { is_bytea: false }, "geometry"),
        ("io.debezium.data.geometry.Geography", _) => (Form::Shape { is_bytea: false }, "geography"),
        ("io.debezium.data.DoubleVector", "array") => (Form::Vector, "vector"),
        ("io.debezium.data.FloatVector", "array") => (Form::Vector, "halfvec"),
        ("io.debezium.data.SparseVector" | "io.debezium.data.SparseDoubleVector", "struct") => {
            (Form::SparseVector, "sparsevec")
        }
        _ => return None,
    };
    Some((form, column.to_owned()))
}

fn unnamed(plain: &str, schema: &Value) -> Result<Kind, Cause> {
    let (form, column) = match plain {
        "boolean" => (Form::Boolean, "boolean"),
        "int8" => (Form::Integer(8), "smallint"),
        "int16" => (Form::Integer(16), "smallint"),
        "int32" => (Form::Integer(32), "integer"),
        "int64" => (Form::Integer(64), "bigint"),
        "float" | "float32" => (Form::Float(32), "real"),
        "double" | "float64" => (Form::Float(64), "double precision"),
        "string" => (Form::Text, "text"),
        "bytes" => (Form::Bytes, "bytea"),
        "map" | "struct" => (Form::Raw { is_jsonb: true }, "jsonb"),
        "array" => {
            let Kind { form, column, name, .. } = kind(&schema["items"])?;
            // PostgreSQL has no type for a list of lists: it is the same type with one more dimension.
            let column = if matches!(form, Form::Array(_)) { column } else { format!("{column}[]") };
            return Ok(Kind::new(Form::Array(Box::new(form)), column, format!("a list of {name}")));
        }
        _ => return Err(unreadable("has a type that is none of Connect's")),
    };
    Ok(Kind::new(form, column, plain))
}

/// The type of the source's column, where it is one that every server knows by this name.
fn source_type(schema: &Value) -> Option<String> {
    let [name, length, scale] = SOURCE.map(|name| parameter(schema, name));
    let name = name?.to_ascii_lowercase();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    match name.strip_prefix('_') {
        Some(element) => Some(format!("{}[]", column::named(element, number(length), number(scale))?)),
        None => column::named(&name, number(length), number(scale)),
    }
}

pub fn guess(name: &str, json: &str, rules: Option<&NameRules>) -> Option<Kind> {
    if json == "null" {
        return None;
    }
    let guess = |form, column, name: &str| Some(Kind { is_guess: true, ..Kind::new(form, column, name) });
    if let Some(rules) = rules.filter(|_| json.starts_with('"') || number::is_number(json)) {
        match name {
            "price" | "amount" | "total" => {
                return guess(Form::LooseDecimal { scale: rules.scale.into() }, "numeric", "a decimal by its name");
            }
            _ if name.ends_with("_at") => {
                return guess(column::any_moment(), column::TIMESTAMP, "a moment by its name");
            }
            "__deleted" => return guess(Form::Boolean, "boolean", "a boolean by its name"),
            _ => {}
        }
    }
    match json.as_bytes().first()? {
        b't' | b'f' => guess(Form::Boolean, "boolean", "a boolean"),
        b'"' => guess(Form::Text, "text", "a text"),
        b'{' | b'[' => guess(Form::Raw { is_jsonb: true }, "jsonb", "JSON"),
        _ if number::parse(json).is_some() => guess(Form::Integer(64), "bigint", "an integer"),
        _ if json.contains(['.', 'e', 'E']) => guess(Form::Float(64), "double precision", "a float"),
        _ => guess(Form::Number, "numeric", "a number"),
    }
}
