//! Every value of the events that the connector has really sent, in each of its modes, is written as a text that means
//! what the source shows. What the connector itself loses is listed here with its reason, and nothing else is let pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use sluicegate::decode::debezium::{Binary, Decimals, Field, Kind, Modes, NameRules, Widening, Written};

#[derive(Deserialize)]
struct Golden<'a> {
    options: BTreeMap<String, String>,
    columns: BTreeMap<String, Vec<(String, String)>>,
    schemas: Vec<serde_json::Value>,
    #[serde(borrow)]
    events: Vec<Event<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    topic: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    expected: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct Enveloped<'a> {
    schema: usize,
    #[serde(borrow)]
    payload: &'a RawValue,
}

type Row<'a> = BTreeMap<String, &'a RawValue>;

/// The schema of the row, if there is one, and the row itself.
fn row<'a>(value: &'a RawValue, schemas: &'a [serde_json::Value]) -> Option<(Option<&'a serde_json::Value>, Row<'a>)> {
    let (schema, payload) = match serde_json::from_str::<Enveloped>(value.get()) {
        Ok(Enveloped { schema, payload }) => (Some(&schemas[schema]), payload),
        Err(_) => (None, value),
    };
    let fields: Row = serde_json::from_str(payload.get()).ok()?;
    let Some(after) = fields.get("after") else { return Some((schema, fields)) };
    let schema = schema.map(|schema| {
        let fields = schema["fields"].as_array().unwrap();
        fields.iter().find(|field| field["field"] == "after").unwrap()
    });
    Some((schema, serde_json::from_str(after.get()).ok()?))
}

fn modes(options: &BTreeMap<String, String>) -> Modes {
    let mut modes = Modes::default();
    modes.binary = match options.get("binary.handling.mode").map(String::as_str) {
        Some("base64") => Binary::Base64,
        Some("base64-url-safe") => Binary::Base64Url,
        Some("hex") => Binary::Hex,
        _ => Binary::Bytes,
    };
    if options.get("decimal.handling.mode").is_some_and(|mode| mode == "string") {
        modes.decimals = Decimals::Digits;
    }
    modes
}

#[test]
fn every_value_that_was_captured_is_written_as_the_source_shows_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cdc");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(files.len() >= 15, "{files:?}");
    let (mut compared, mut wrong) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let golden: Golden = serde_json::from_str(&text).unwrap();
        compare(name, &golden, &mut compared, &mut wrong);
    }
    println!("{compared} values");
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 5_000, "{compared}");
}

fn compare(file: &str, golden: &Golden, compared: &mut usize, wrong: &mut Vec<String>) {
    let modes = modes(&golden.options);
    for event in &golden.events {
        let (Some(value), Some(expected)) = (event.value, &event.expected) else { continue };
        let Some((schema, row)) = row(value, &golden.schemas) else { continue };
        let table = event.topic.rsplit('.').next().unwrap();
        let types: BTreeMap<&str, &str> = match golden.columns.get(table) {
            Some(columns) => columns.iter().map(|(name, kind)| (&**name, &**kind)).collect(),
            None => continue,
        };
        for (column, json) in &row {
            let (Some(source), Some(expected)) = (types.get(&**column), expected.get(column)) else { continue };
            let field = schema.map(|schema| {
                let fields = schema["fields"].as_array().unwrap();
                Field::read(fields.iter().find(|field| field["field"] == **column).unwrap()).unwrap().kind
            });
            let Some(kind) = field.or_else(|| Kind::guess(column, json.get(), Some(&NameRules::default()))) else {
                continue;
            };
            *compared += 1;
            let mut tell = |what: String| {
                wrong.push(format!("{file} {table}.{column} {source} [{}]: {what}", kind.sql_type()));
            };
            if !matches!(kind.widening(source), Widening::Fits | Widening::Perhaps(_)) && !is_domain(source) {
                tell(format!("{:?}", kind.widening(source)));
            }
            let mut out = Vec::new();
            let kind = kind.fitted(source);
            let written = kind.write(json.get(), &modes, &mut out);
            let text = String::from_utf8(out).unwrap();
            let ours = match written {
                Ok(Written::Value) => Some(text),
                Ok(Written::Null) => None,
                Ok(Written::Unchanged) => continue,
                Err(cause) => {
                    if is_lost(file, table, column, source, json.get(), None, expected.as_deref()) {
                        continue;
                    }
                    tell(format!("{} for {} of {expected:?}", cause, json.get()));
                    continue;
                }
            };
            let is_same = match (&ours, expected) {
                (Some(ours), Some(expected)) => is_same(source, ours, expected),
                (ours, expected) => ours == expected,
            };
            if !is_same && !is_lost(file, table, column, source, json.get(), ours.as_deref(), expected.as_deref()) {
                tell(format!("{ours:?} for {} of {expected:?}", json.get()));
            }
        }
    }
}

/// A type that the source's users made of another one: of it nothing is known here.
fn is_domain(source: &str) -> bool {
    ["positive", "price", "word", "short_word"].contains(&source)
}

/// What the connector does not send as the source has it. Nobody who reads its events can tell.
fn is_lost(
    file: &str,
    table: &str,
    column: &str,
    source: &str,
    json: &str,
    ours: Option<&str>,
    expected: Option<&str>,
) -> bool {
    let (Some(ours), Some(expected)) = (ours, expected) else {
        // Numbers that are none, where decimals are precise; years that 64 bits of microseconds do not reach.
        let is_late = column == "stamp" && expected.is_some_and(|expected| expected.starts_with("294276-"));
        // Of these lists the connector has no placeholder where they are long and did not change.
        let is_unchanged = table == "toast" && ["nums", "shares"].contains(&column);
        return ((table == "specials" || is_unchanged) && json == "null") || is_late;
    };
    let is_early = expected.ends_with(" BC") || expected < "1582-10-15";
    match (table, column) {
        // Lists of lists.
        ("grids", _) => true,
        // Zeros before the first bit.
        ("bits", "bits_any" | "bits_20") => ours == expected.trim_start_matches('0'),
        // Without a schema a domain says nothing of the point of its decimals.
        ("domains", "cost") if file == "schemaless" => true,
        // A float is all that is left of it.
        ("numbers" | "domains", _) if file == "decimal-double" => {
            let digits = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
            let (ours, expected) = (digits(ours), digits(&expected.replace(['$', ','], "")));
            (ours - expected).abs() <= expected.abs() * 1e-15
        }
        // The snapshot reads money as a float.
        ("numbers", "cash") => expected.len() > 20,
        // A month is 30.4375 days, except where the mode says otherwise.
        ("spans", "span") => file != "interval-string" && (expected.contains("mon") || expected.contains("year")),
        // Milliseconds, of lists of times in every mode.
        ("times", "hours") => true,
        ("times" | "extremes", _) if file == "time-connect" && !is_early => {
            let cut = |text: &str| text.find('.').map_or(text.len(), |at| (at + 4).min(text.len()));
            ours[..cut(ours)] == expected[..cut(expected)]
        }
        // Moments of the snapshot before the Gregorian calendar, and its days before Christ.
        ("times" | "extremes", _) if is_early => true,
        // 64 bits of nanoseconds.
        ("times" | "extremes", "stamp") if file == "time-nanoseconds" => !("1678".."2262").contains(&expected),
        // Midnight of the day after.
        ("times", "at") => source.starts_with("time") && expected == "24:00:00" && ours == "00:00:00",
        _ => false,
    }
}

/// Whether PostgreSQL reads the same value from both texts of a type.
fn is_same(kind: &str, ours: &str, expected: &str) -> bool {
    if ours == expected {
        return true;
    }
    if let Some(element) = kind.strip_suffix("[]") {
        let (ours, expected) = (elements(ours), elements(expected));
        let same = |(ours, expected): (&Option<String>, &Option<String>)| match (ours, expected) {
            (Some(ours), Some(expected)) => is_same(element, ours, expected),
            (ours, expected) => ours == expected,
        };
        return ours.len() == expected.len() && ours.iter().zip(&expected).all(same);
    }
    let base = kind.split('(').next().unwrap();
    let floats = |text: &str| -> Vec<f64> {
        text.split(|sign: char| "()<>[]{},".contains(sign)).filter_map(|part| part.parse().ok()).collect()
    };
    match base {
        "numeric" => BigDecimal::from_str(ours).is_ok_and(|ours| BigDecimal::from_str(expected) == Ok(ours)),
        "real" => ours.parse::<f32>().is_ok_and(|ours| expected.parse() == Ok(ours)),
        "double precision" => ours.parse::<f64>().is_ok_and(|ours| expected.parse() == Ok(ours)),
        "boolean" => ours.starts_with(expected),
        "money" => {
            let plain: String = expected.chars().filter(|sign| !"$,".contains(*sign)).collect();
            BigDecimal::from_str(ours).is_ok_and(|ours| BigDecimal::from_str(&plain) == Ok(ours))
        }
        "jsonb" => json(ours) == json(expected),
        "point" | "circle" | "line" | "lseg" | "box" | "path" | "polygon" => floats(ours) == floats(expected),
        "character" => ours.trim_end() == expected.trim_end(),
        "inet" => ours == expected.trim_end_matches("/32").trim_end_matches("/128"),
        "time with time zone" => in_utc(ours) == in_utc(expected),
        "hstore" => {
            let pairs = |text: &str| elements(&format!("{{{}}}", text.replace("\"=>", "\",").replace(", ", ",")));
            let sorted = |text: &str| {
                let mut pairs: Vec<Vec<Option<String>>> = pairs(text).chunks(2).map(<[_]>::to_vec).collect();
                pairs.sort();
                pairs
            };
            sorted(ours) == sorted(expected)
        }
        _ if base.starts_with("interval") => match (interval(ours), interval(expected)) {
            (Some((0, 0, ours)), Some((0, days, us))) => ours == days * 86_400_000_000 + us,
            (ours, expected) => ours.is_some() && ours == expected,
        },
        _ if base.starts_with("timestamp") || base.starts_with("time") || base == "date" => {
            clock(ours) == clock(expected)
        }
        _ => false,
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The elements of a list, without their quotes.
fn elements(text: &str) -> Vec<Option<String>> {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_else(|| panic!("{text}"));
    let (mut all, mut current, mut was_quoted) = (Vec::new(), String::new(), false);
    let (mut is_quoted, mut signs) = (false, inner.chars());
    let end = |current: &mut String, was_quoted: &mut bool| {
        let text = std::mem::take(current);
        if !std::mem::take(was_quoted) && text == "NULL" { None } else { Some(text) }
    };
    while let Some(sign) = signs.next() {
        match sign {
            '"' => (is_quoted, was_quoted) = (!is_quoted, true),
            '\\' => current.extend(signs.next()),
            ',' if !is_quoted => all.push(end(&mut current, &mut was_quoted)),
            _ => current.push(sign),
        }
    }
    if !inner.is_empty() {
        all.push(end(&mut current, &mut was_quoted));
    }
    all
}

/// Without what says nothing: the T between, zeros behind the last digit of a second, the ways to write UTC.
fn clock(text: &str) -> String {
    let text = text.replace('T', " ").replace('Z', "+00").replace("+00:00", "+00");
    let Some((before, fraction)) = text.split_once('.') else { return text };
    let end = fraction.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(fraction.len());
    let digits = fraction[..end].trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{before}{point}{digits}{}", &fraction[end..])
}

/// Microseconds since midnight in UTC, of a time with a zone.
fn in_utc(text: &str) -> i64 {
    let text = text.replace('Z', "+00");
    let at = text.rfind(['+', '-']).unwrap();
    let minutes = |text: &str| {
        let (hours, minutes) = text.split_once(':').unwrap_or((text, "0"));
        hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap()
    };
    let (hours_minutes, seconds) = text[..at].rsplit_once(':').unwrap();
    let us = minutes(hours_minutes) * 60_000_000 + (seconds.parse::<f64>().unwrap() * 1e6).round() as i64;
    let offset = minutes(&text[at + 1..]) * if text[at..].starts_with('-') { -1 } else { 1 };
    (us - offset * 60_000_000).rem_euclid(86_400_000_000)
}

/// Months, days and microseconds.
fn interval(text: &str) -> Option<(i64, i64, i64)> {
    let micros = |text: &str| Some((text.parse::<f64>().ok()? * 1e6).round() as i64);
    let (mut months, mut days, mut us) = (0, 0, 0);
    if let Some(iso) = text.strip_prefix('P') {
        let (mut number, mut is_time) = (String::new(), false);
        for sign in iso.chars() {
            let count = || number.parse::<i64>().ok();
            match (sign, is_time) {
                ('T', _) => is_time = true,
                ('Y', _) => months += 12 * count()?,
                ('M', false) => months += count()?,
                ('D', _) => days += count()?,
                ('H', _) => us += 3_600_000_000 * count()?,
                ('M', true) => us += 60_000_000 * count()?,
                ('S', _) => us += micros(&number)?,
                _ => {
                    number.push(sign);
                    continue;
                }
            }
            number.clear();
        }
        return Some((months, days, us));
    }
    let words: Vec<&str> = text.split(' ').collect();
    for pair in words.chunks(2) {
        match pair {
            [count, unit] => match unit.trim_end_matches('s') {
                "year" => months += 12 * count.parse::<i64>().ok()?,
                "mon" => months += count.parse::<i64>().ok()?,
                "day" => days += count.parse::<i64>().ok()?,
                _ => return None,
            },
            [time] => {
                let parts: Vec<&str> = time.trim_start_matches(['-', '+']).split(':').collect();
                let [hours, minutes, seconds] = parts[..] else { return None };
                let whole = hours.parse::<i64>().ok()? * 3_600_000_000 + minutes.parse::<i64>().ok()? * 60_000_000;
                us = (whole + micros(seconds)?) * if time.starts_with('-') { -1 } else { 1 };
            }
            _ => return None,
        }
    }
    Some((months, days, us))
}
