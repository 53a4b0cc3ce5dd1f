//! What a real connector has sent, in every mode: the target has what the source had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::target::{Event, Target};

/// What the connector itself does not carry in some mode or at its ends (tests/golden/cdc/README.md): tables and columns.
/// Each of their values is held against what can be expected of it by the test of `decode::debezium`.
const NOT_CARRIED: &[(&str, &str)] = &[
    ("extremes", ""),
    ("unknown", ""),
    ("spans", ""),
    ("grids", ""),
    ("times", "at_zone"),
    ("times", "hours"),
    ("times", "at"),
    ("times", "stamp"),
    ("times", "moment"),
    ("numbers", "cash"),
    ("numbers", "num"),
    ("numbers", "num_wide"),
    ("numbers", "num_coarse"),
    ("numbers", "num_fine"),
    ("numbers", "nums"),
    ("bits", "bits_any"),
    ("bits", "bits_20"),
    ("maps", ""),
    ("specials", ""),
    ("texts", "fixed"),
    ("texts", "host"),
    ("texts", "letter"),
    ("toast", "nums"),
    ("toast", "pairs"),
    ("toast", "shares"),
    ("arrays", "feelings"),
    ("domains", "cost"),
    ("times", "stamp_6"),
    ("times", "stamps"),
];

fn text(part: &Value, schemas: &[Value]) -> Option<String> {
    if part.is_null() {
        return None;
    }
    let mut part = part.clone();
    if let Some(number) = part.get("schema").and_then(Value::as_u64) {
        // As the converter writes it: the schema first.
        let (schema, payload) = (&schemas[number as usize], part["payload"].take());
        return Some(format!("{{\"schema\":{schema},\"payload\":{payload}}}"));
    }
    Some(part.to_string())
}

fn golden(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cdc").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Its events as records, by topic.
fn topics(golden: &Value) -> BTreeMap<&str, Vec<(&Value, Event)>> {
    let schemas = golden["schemas"].as_array().cloned().unwrap_or_default();
    let mut topics: BTreeMap<&str, Vec<(&Value, Event)>> = BTreeMap::new();
    for event in golden["events"].as_array().unwrap() {
        let header = |header: &Value| {
            (header[0].as_str().unwrap().to_owned(), header[1].as_str().map(|text| text.as_bytes().to_vec()))
        };
        let headers = event["headers"].as_array().unwrap().iter().map(header).collect();
        let record = (text(&event["key"], &schemas), text(&event["value"], &schemas), headers);
        topics.entry(event["topic"].as_str().unwrap()).or_default().push((event, record));
    }
    topics
}

fn check(file: &str) -> Vec<String> {
    let golden = golden(file);
    let binary = golden["options"]["binary.handling.mode"].as_str().unwrap_or("bytes").to_owned();
    let decimals = golden["options"]["decimal.handling.mode"].as_str().unwrap_or("precise").to_owned();
    let times = golden["options"]["time.precision.mode"].as_str().unwrap_or("adaptive").to_owned();
    let mut target = Target::new(&[("binary_mode", &binary), ("decimal_mode", &decimals), ("time_precision", &times)]);
    // Rows of types of extensions need these; of the source's own types the target knows nothing.
    for extension in ["hstore", "citext", "ltree"] {
        let _ = target.client.batch_execute(&format!("CREATE EXTENSION IF NOT EXISTS {extension}"));
    }
    // What no event says, a table says that is there: the source's own, as far as its types are everywhere.
    let is_bare =
        ["binary", "decimal-string", "schemaless", "flat-schemaless"].iter().any(|name| file.starts_with(name));
    for (table, columns) in golden["columns"].as_object().unwrap().iter().filter(|_| is_bare) {
        let columns: Vec<(&str, &str)> = columns
            .as_array()
            .unwrap()
            .iter()
            .map(|column| (column[0].as_str().unwrap(), column[1].as_str().unwrap()))
            .collect();
        let mut parts: Vec<String> = Vec::new();
        for (name, kind) in &columns {
            let is_known = target.rows(&format!("SELECT to_regtype('{kind}')")) != ["null"];
            let kind = if is_known { kind } else { "text" };
            parts.push(format!("\"{name}\" {kind}"));
        }
        let key = if columns.iter().any(|(name, _)| *name == "id") { ", PRIMARY KEY (id)" } else { "" };
        let sql = format!("CREATE TABLE public.\"{table}\" ({}{key})", parts.join(", "));
        target.client.batch_execute(&sql).unwrap();
    }
    let mut wrong = Vec::new();
    for (topic, events) in topics(&golden) {
        let records: Vec<Event> = events.iter().map(|(_, record)| record.clone()).collect();
        target.apply(topic, 0, &records);
        let letters = std::mem::take(&mut target.letters);
        // Beyond all dates; and money at its end, which the snapshot has rounded beyond it.
        let is_beyond = |code: &str| topic.ends_with(".extremes") || topic.ends_with(".numbers") && code == "pg.22003";
        let has_beyond = letters.iter().any(|(_, code, _)| is_beyond(code));
        wrong.extend(
            letters
                .iter()
                .filter(|(_, code, _)| !is_beyond(code))
                .map(|letter| format!("{file} {topic} letter {letter:?}")),
        );
        // The last word on each key.
        let mut last: BTreeMap<String, &Value> = BTreeMap::new();
        for (event, _) in &events {
            let payload = event["value"].get("payload").unwrap_or(&event["value"]);
            if payload["op"] == "t" {
                last.clear();
            }
            let key = event["key"].get("payload").unwrap_or(&event["key"]);
            if key.is_null() {
                continue;
            }
            match event["expected"].is_null() {
                true => drop(last.remove(&key["id"].to_string())),
                false => drop(last.insert(key["id"].to_string(), event)),
            }
        }
        let table = topic.trim_start_matches("cdc.public.");
        let columns: BTreeSet<String> = target
            .rows(&format!(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('public.\"{table}\"') AND attnum > 0"
            ))
            .into_iter()
            .collect();
        if columns.is_empty() || !columns.contains("id") {
            continue;
        }
        for event in last.values() {
            let expected = event["expected"].as_object().unwrap();
            for (column, value) in expected.iter().filter(|(column, _)| columns.contains(*column)) {
                if NOT_CARRIED.iter().any(|(of, name)| *of == table && (name.is_empty() || name == column)) {
                    continue;
                }
                let id = expected["id"].as_str().unwrap_or("0");
                let quoted = value.as_str().map_or("NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")));
                let kind = target
                    .rows(&format!(
                        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                         WHERE attrelid = to_regclass('public.\"{table}\"') AND attname = '{column}'"
                    ))
                    .remove(0);
                let sql =
                    format!("SELECT \"{column}\"::text, {quoted}::text FROM public.\"{table}\" WHERE id = '{id}'");
                let normal = format!("SELECT ({quoted})::{kind}::text");
                let rows = target.rows(&sql);
                let Some(row) = rows.first() else {
                    if has_beyond {
                        break;
                    }
                    wrong.push(format!("{file} {table} {id}: no row"));
                    break;
                };
                let have = row.split('|').next().unwrap_or("").to_owned();
                let want = match target.client.simple_query(&normal) {
                    Ok(_) => target.rows(&normal).remove(0),
                    Err(_) => value.as_str().unwrap_or("null").to_owned(),
                };
                if have != want.split('|').next().unwrap_or("") {
                    wrong.push(format!("{file} {table}.{column} ({kind}) row {id}: {have} for {want}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn the_target_has_what_the_source_had_in_every_mode() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cdc");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    let wrong: Vec<String> = files.iter().flat_map(|file| check(file)).collect();
    assert!(wrong.is_empty(), "{}\n{} in all", wrong.join("\n"), wrong.len());
}

/// The connector has sent `S`, U+FFC3, U+FFA9, `lect`.
#[test]
fn a_name_that_is_not_ascii_is_as_the_source_has_it() {
    let golden = golden("changes.json");
    let (topic, events) = topics(&golden).into_iter().find(|(topic, _)| topic.ends_with(".Mixed_Case")).unwrap();
    let events: Vec<Event> = events.into_iter().map(|(_, record)| record).collect();
    assert!(events[0].1.as_ref().is_some_and(|value| value.contains("S\u{ffc3}\u{ffa9}lect")));
    let mut target = Target::new(&[]);
    target.apply(topic, 0, &events);
    let rows = target.rows(r#"SELECT id, "Sélect", "a.b" FROM public."Mixed Case""#);
    assert_eq!((rows, target.codes()), (vec!["1|one|dot".to_owned()], vec![]));
}
