//! A message of `events` under handlers of one column each: one value as every type that there is, held to what serde_json
//! and an exact decimal make of it. It is the same in a retry topic, whatever the headers say there.

use std::str::FromStr;
use std::sync::LazyLock;

use bigdecimal::BigDecimal;
use serde_json::Value;
use serde_json::value::RawValue;
use sluicegate::config::Sources;
use sluicegate::engine::Rows;
use sluicegate::flow::{EventRows, Events, Flow};
use sluicegate::record::{Partition, Record};

use super::fields::{numeric, object, uuid_digits};
use super::{memory, rows};

const TYPES: [&str; 9] =
    ["text", "bigint", "integer", "double", "numeric", "boolean", "timestamptz", "uuid", "jsonb"];
/// Digits of a number on either side of its point.
const DIGITS_MAX: i64 = 1_000;
/// How deep a message may nest.
const DEPTH_MAX: usize = 500;
/// PostgreSQL counts from the year 2000, in microseconds, and no further than this.
const EPOCH_MS: i64 = 946_684_800_000;
const MOMENTS_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
/// A rule and the name of a place.
const FATE_BYTES_MAX: usize = 400;

/// A column of each type, all of the same value.
static FLOWS: LazyLock<Vec<(&str, Events)>> = LazyLock::new(|| TYPES.map(|kind| (kind, flow(kind))).into());

fn flow(kind: &str) -> Events {
    let column = format!(r#"{{"name": "v", "path": "/v", "type": "{kind}"}}"#);
    let handlers = format!(r#"[{{"kind": "table", "table": "t", "columns": [{column}]}}]"#);
    let name = |leaf: &str| format!("SLUICEGATE_FLOWS_EVENTS_{leaf}");
    let environment = vec![
        ("DB_URL".to_owned(), "postgres://localhost/x".to_owned()),
        (name("HANDLERS"), handlers),
        (name("MESSAGE_ID"), "@headers/message_id,/id".to_owned()),
    ];
    let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
    let sources = Sources { file: None, flows: vec!["events".to_owned()], environment, folder };
    let config = sources.load().unwrap_or_else(|findings| panic!("{findings}"));
    Events::from_config(&config.flows["events"]).unwrap_or_else(|cause| panic!("{cause}"))
}

/// Lines of headers, each a name and a value with a colon between them; an empty line; the payload.
pub fn run(input: &[u8]) {
    let end = input.windows(2).position(|two| two == b"\n\n");
    let (head, payload) = end.map_or((&b""[..], input), |end| (&input[..end], &input[end + 2..]));
    let headers: Vec<(String, Option<Vec<u8>>)> = head.split(|byte| *byte == b'\n').map(header).collect();
    let raw = found(payload);
    for (kind, flow) in FLOWS.iter() {
        let decode = |topic: &str| {
            let partition = Partition::new(topic, 0);
            let record = Record {
                partition: &partition,
                offset: 7,
                timestamp_ms: Some(1_767_225_600_000),
                key: Some(b"key"),
                payload: Some(payload),
                headers: &headers,
            };
            flow.due_ms(&record);
            let mut events = EventRows::default();
            let decoded = memory::at_most(32 * 1024 + 16 * input.len(), || flow.decode(&record, &mut events));
            assert!(decoded.is_ok() && events.len() == 1, "whatever is wrong with a message is its fate");
            events
        };
        let events = decode("events");
        let fate = format!("{:?}", events.rows()[0].fate);
        assert!(fate.len() <= FATE_BYTES_MAX && fate.is_ascii(), "{fate}");
        let made = events.of_handler(0, 0..1);
        assert_eq!((fate == "Handled", made.is_empty()), (!made.is_empty(), made.is_empty()), "{fate}");
        match &raw {
            None => assert!(fate.contains("events.not_json"), "{fate}"),
            Some(raw) => {
                let value = if made.is_empty() { None } else { Some(rows::parse(made).remove(0)) };
                assert!(value.is_some() || fate.contains("events.value"), "{fate}");
                check(kind, raw.map(RawValue::get).filter(|raw| *raw != "null"), value.as_ref().map(Option::as_deref));
            }
        }
        let again = decode("events-retry-1");
        assert_eq!(again.of_handler(0, 0..1), made, "in a retry topic");
        assert!(again.rows()[0].id.is_some(), "what is tried again has a name");
    }
}

fn header(line: &[u8]) -> (String, Option<Vec<u8>>) {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = colon.map_or((line, None), |colon| (&line[..colon], Some(line[colon + 1..].to_vec())));
    (String::from_utf8_lossy(name).into_owned(), value)
}

/// Whether it is JSON that we take, and what stands under the name `v`, the last of them where there are more.
fn found(json: &[u8]) -> Option<Option<&RawValue>> {
    let text = std::str::from_utf8(json).ok()?;
    if depth(text) > DEPTH_MAX {
        return None;
    }
    match text.trim_ascii_start().bytes().next()? {
        b'{' => object(json).map(|fields| fields.get("v").copied()),
        b'[' => serde_json::from_str::<Vec<&RawValue>>(text).ok().map(|_| None),
        _ => serde_json::from_str::<Value>(text).ok().map(|_| None),
    }
}

/// Of what may be no JSON at all: as deep as it gets by its brackets.
fn depth(text: &str) -> usize {
    let (mut depth, mut most, mut chars) = (0usize, 0, text.chars());
    let mut is_text = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => is_text = !is_text,
            '\\' if is_text => drop(chars.next()),
            '[' | '{' if !is_text => depth += 1,
            ']' | '}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// `made`: what was made of the value, where it was not refused.
fn check(kind: &str, raw: Option<&str>, made: Option<Option<&[u8]>>) {
    let Some(raw) = raw else { return assert_eq!(made, Some(None), "what is not there is null") };
    let made = made.map(|field| field.expect("what is there is no null"));
    let is = |bytes: Option<Vec<u8>>| assert_eq!(made, bytes.as_deref(), "{kind} of {raw}");
    let (text, decimal) = (serde_json::from_str::<String>(raw).ok(), decimal(raw));
    let whole = || if raw.contains(['.', 'e', 'E']) { None } else { decimal.as_ref()?.0.to_string().parse::<i128>().ok() };
    match kind {
        "text" => {
            let bare = (!raw.starts_with(['"', '[', '{'])).then(|| raw.to_owned());
            is(text.or(bare).filter(|text| !text.contains('\0')).map(String::into_bytes));
        }
        "bigint" => is(whole().and_then(|whole| i64::try_from(whole).ok()).map(|number| number.to_be_bytes().into())),
        "integer" => is(whole().and_then(|whole| i32::try_from(whole).ok()).map(|number| number.to_be_bytes().into())),
        "double" => {
            let number = decimal.and_then(|_| f64::from_str(raw).ok()).filter(|number| number.is_finite());
            is(number.map(|number| number.to_be_bytes().into()));
        }
        "numeric" => {
            let due = decimal.filter(|(_, scale, point)| *scale <= DIGITS_MAX && point.abs() <= DIGITS_MAX);
            let due = due.filter(|_| raw.bytes().take_while(|byte| !b"eE".contains(byte)).filter(u8::is_ascii_digit).count() as i64 <= DIGITS_MAX);
            let made = made.map(numeric);
            assert_eq!(made, due.map(|(decimal, scale, _)| (decimal, scale as i16)), "{raw}");
        }
        "boolean" => is(["false", "true"].iter().position(|word| *word == raw).map(|number| vec![number as u8])),
        "timestamptz" => {
            let us = made.map(|bytes| i64::from_be_bytes(bytes.try_into().expect("eight bytes")));
            assert!(us.is_none_or(|us| MOMENTS_US.contains(&us)), "{raw}");
            match (text, whole()) {
                (Some(text), _) => moment(&text, us),
                (None, Some(ms)) => {
                    let due = ms.checked_sub(EPOCH_MS.into()).and_then(|ms| i64::try_from(ms.checked_mul(1000)?).ok());
                    assert_eq!(us, due.filter(|us| MOMENTS_US.contains(us)), "{raw}");
                }
                (None, None) => assert_eq!(us, None, "{raw}"),
            }
        }
        "uuid" => {
            let digits = text.or_else(|| Some(raw.to_owned())).and_then(|text| uuid_digits(&text));
            let made = made.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            assert_eq!(made, digits, "{raw}");
        }
        "jsonb" => is(Some([b"\x01", raw.as_bytes()].concat())),
        other => panic!("{other} is not held to anything"),
    }
}

/// The number, its digits behind the point, and those before it. An exponent of more than 32 bits means nothing.
fn decimal(raw: &str) -> Option<(BigDecimal, i64, i64)> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    digits.bytes().next().filter(u8::is_ascii_digit)?;
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let exponent = i64::from(exponent.parse::<i32>().ok()?);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = (fraction.len() as i64 - exponent).max(0);
    Some((BigDecimal::from_str(raw).ok()?, scale, whole.len() as i64 + exponent))
}

/// What was taken for a moment is the moment that its text says: its date by another way than it was read by.
fn moment(text: &str, us: Option<i64>) {
    // Only of those in UTC: of the others the offset is added, and that is all.
    let (Some(us), Some(text)) = (us, text.strip_suffix(['Z', 'z'])) else { return };
    let ms = us.div_euclid(1_000) + EPOCH_MS;
    let (days, second) = (ms.div_euclid(86_400_000), ms.div_euclid(1_000).rem_euclid(86_400));
    // One year after the other, from 1970 on.
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = |year: i64| if is_leap(year) { 366 } else { 365 };
    let (mut year, mut day) = (1970, days);
    while day < 0 {
        year -= 1;
        day += length(year);
    }
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let mut month = 0;
    let months = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let date = format!("{year:04}-{:02}-{:02}", month + 1, day + 1);
    let time = format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    // A second that is none is the first one of the next minute.
    if &text[17..19] != "60" {
        assert_eq!((&text[..10], &text[11..19]), (&*date, &*time));
        let fraction = text.get(20..).unwrap_or("").bytes().chain([b'0'; 6]).take(6);
        let fraction_us = fraction.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        assert_eq!(us.rem_euclid(1_000_000), fraction_us, "{text}");
    }
}
