//! What the connector really sends, in each of its modes, beside the text by which the source shows each value. The
//! files in `tests/golden/cdc` are for tests that need none of these parts; `make golden-cdc` makes them again.
//!
//! A file has the connector's `options`, the `columns` of each table as the source declares them, the `schemas` that
//! keys and values have (a number in place of a schema is its place in that list), and the `events` of all topics.
//! `expected` is the row that the source has after the change, null where it has none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use postgres::Client;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::kinds::{self, Table};
use crate::support::connect::Connect;
use crate::support::{brokers, connect, unique, wait_for};

const SOON: Duration = Duration::from_secs(120);
const MARKER: &str = "zz_marker";

struct Mode {
    name: &'static str,
    options: &'static [(&'static str, &'static str)],
    tables: &'static [Table],
}

pub const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
pub const FLAT: (&str, &str) = ("transforms.flat.type", "io.debezium.transforms.ExtractNewRecordState");
const FLAT_FIELDS: (&str, &str) = ("transforms.flat.add.fields", "op,table,lsn,source.ts_ms");

const MODES: &[Mode] = &[
    Mode { name: "default", options: &[], tables: kinds::ALL },
    Mode {
        name: "decimal-double",
        options: &[("decimal.handling.mode", "double")],
        tables: &[kinds::NUMBERS, kinds::SPECIALS, kinds::DOMAINS],
    },
    Mode {
        name: "decimal-string",
        options: &[("decimal.handling.mode", "string")],
        tables: &[kinds::NUMBERS, kinds::SPECIALS, kinds::DOMAINS],
    },
    time("time-adaptive-microseconds", &[("time.precision.mode", "adaptive_time_microseconds")]),
    time("time-connect", &[("time.precision.mode", "connect")]),
    time("time-isostring", &[("time.precision.mode", "isostring")]),
    time("time-microseconds", &[("time.precision.mode", "microseconds")]),
    time("time-nanoseconds", &[("time.precision.mode", "nanoseconds")]),
    Mode { name: "interval-string", options: &[("interval.handling.mode", "string")], tables: &[kinds::SPANS] },
    binary("binary-base64", &[("binary.handling.mode", "base64")]),
    binary("binary-base64-url-safe", &[("binary.handling.mode", "base64-url-safe")]),
    binary("binary-hex", &[("binary.handling.mode", "hex")]),
    Mode { name: "hstore-map", options: &[("hstore.handling.mode", "map")], tables: &[kinds::MAPS] },
    Mode {
        name: "unknown",
        options: &[("include.unknown.datatypes", "true")],
        tables: &[kinds::UNKNOWN, kinds::SPANS, kinds::GRIDS],
    },
    Mode { name: "propagated", options: &[("column.propagate.source.type", ".*")], tables: kinds::ALL },
    Mode {
        name: "schemaless",
        options: &[
            ("key.converter", JSON),
            ("key.converter.schemas.enable", "false"),
            ("value.converter", JSON),
            ("value.converter.schemas.enable", "false"),
        ],
        tables: kinds::ALL,
    },
    Mode {
        name: "flat",
        options: &[
            ("transforms", "flat"),
            FLAT,
            FLAT_FIELDS,
            ("transforms.flat.delete.tombstone.handling.mode", "rewrite"),
        ],
        tables: &[kinds::NUMBERS, kinds::TEXTS, kinds::TIMES],
    },
    Mode {
        name: "flat-schemaless",
        options: &[
            ("transforms", "flat"),
            FLAT,
            FLAT_FIELDS,
            ("transforms.flat.delete.tombstone.handling.mode", "rewrite-with-tombstone"),
            ("key.converter", JSON),
            ("key.converter.schemas.enable", "false"),
            ("value.converter", JSON),
            ("value.converter.schemas.enable", "false"),
        ],
        tables: &[kinds::NUMBERS, kinds::TEXTS, kinds::TIMES],
    },
];

const fn time(name: &'static str, options: &'static [(&'static str, &'static str)]) -> Mode {
    Mode { name, options, tables: &[kinds::TIMES, kinds::EXTREMES] }
}

const fn binary(name: &'static str, options: &'static [(&'static str, &'static str)]) -> Mode {
    Mode { name, options, tables: &[kinds::BITS] }
}

/// A row as the source shows it: each column's text.
type Row = Map<String, Value>;

/// What each event of a table, tombstones aside, must leave in the source.
#[derive(Default)]
struct Told {
    columns: BTreeMap<String, Vec<(String, String)>>,
    rows: BTreeMap<String, Vec<Option<Row>>>,
}

impl Told {
    fn note(&mut self, source: &mut Client, table: &str, id: Option<usize>) {
        let row = id.map(|id| self.row(source, table, id));
        self.rows.entry(table.to_owned()).or_default().push(row);
    }

    fn row(&mut self, source: &mut Client, table: &str, id: usize) -> Row {
        let columns = columns(source, table);
        let texts: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"::text")).collect();
        let sql = format!("SELECT {} FROM \"{table}\" WHERE id = {id}", texts.join(", "));
        let row = source.query_one(&sql, &[]).expect(&sql);
        let text = |place| row.get::<_, Option<String>>(place).map_or(Value::Null, Value::String);
        let values = columns.iter().enumerate().map(|(place, (name, _))| (name.clone(), text(place))).collect();
        self.columns.insert(table.to_owned(), columns);
        values
    }
}

fn columns(source: &mut Client, table: &str) -> Vec<(String, String)> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = quote_ident($1)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    source.query(sql, &[&table]).expect("columns").iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Statements, and the ids of the rows that their events leave; none where an event leaves no row.
fn change(source: &mut Client, told: &mut Told, table: &str, sql: &str, left: &[Option<usize>]) {
    source.batch_execute(sql).expect(sql);
    left.iter().for_each(|id| told.note(source, table, *id));
}

/// Rows that are there before the connectors are.
fn fill(source: &mut Client, told: &mut Told) {
    source.batch_execute(kinds::SETUP).expect("types");
    for table in kinds::ALL {
        source.batch_execute(&table.create()).expect(table.name);
        for row in 0..table.rows() {
            change(source, told, table.name, &table.insert(row + 1, row), &[Some(row + 1)]);
        }
        change(source, told, table.name, &table.insert_nulls(99), &[Some(99)]);
    }
}

fn change_all(source: &mut Client, told: &mut Told) {
    for table in kinds::ALL {
        let (name, mut say) = (table.name, |sql: &str, left: &[Option<usize>]| {
            change(source, told, table.name, sql, left);
        });
        for row in 0..table.rows() {
            say(&table.insert(101 + row, row), &[Some(101 + row)]);
        }
        say(&table.insert_nulls(199), &[Some(199)]);
        say(&table.update(101, table.rows() - 1), &[Some(101)]);
        say(&format!("UPDATE {name} SET id = 901 WHERE id = 101"), &[None, Some(901)]);
        say(&format!("DELETE FROM {name} WHERE id = 199"), &[None]);
    }
}

pub const CHANGES_SETUP: &str = "
    CREATE TABLE plain (id integer PRIMARY KEY, name text, many integer);
    CREATE TABLE full_image (id integer PRIMARY KEY, name text, many integer);
    ALTER TABLE full_image REPLICA IDENTITY FULL;
    CREATE TABLE keyless (id integer, name text);
    CREATE TABLE keyless_full (id integer, name text);
    ALTER TABLE keyless_full REPLICA IDENTITY FULL;
    CREATE TABLE by_index (id integer NOT NULL, code text NOT NULL UNIQUE, name text);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
    CREATE TABLE two_keys (id integer, part varchar(10), name text, PRIMARY KEY (part, id));
    CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE TABLE toast (id integer PRIMARY KEY, number integer, body text, bytes bytea, doc jsonb, list text[], parts bytea[],
        ints integer[], bigs bigint[], ids uuid[], shares double precision[], days date[], nums numeric[], pairs hstore,
        markup xml);
    ALTER TABLE toast ALTER body SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL,
        ALTER list SET STORAGE EXTERNAL, ALTER parts SET STORAGE EXTERNAL, ALTER ints SET STORAGE EXTERNAL,
        ALTER bigs SET STORAGE EXTERNAL, ALTER ids SET STORAGE EXTERNAL, ALTER shares SET STORAGE EXTERNAL,
        ALTER days SET STORAGE EXTERNAL, ALTER nums SET STORAGE EXTERNAL, ALTER pairs SET STORAGE EXTERNAL,
        ALTER markup SET STORAGE EXTERNAL;
    CREATE TABLE altered (id integer PRIMARY KEY, small integer, word varchar(5), gone text);
    CREATE TABLE \"Mixed Case\" (id integer PRIMARY KEY, \"Sélect\" text, \"a.b\" text);
    CREATE TABLE parted (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);";

/// A value for each column of `toast` that is kept out of line: what does not change is not sent.
pub const LARGE: &str = "
    repeat('0123456789', 210), repeat('0123456789', 210)::bytea, to_jsonb(repeat('0123456789', 210)),
    ARRAY[repeat('0123456789', 210), NULL], ARRAY[repeat('0123456789', 210)::bytea, NULL],
    array_fill(7, ARRAY[520]), array_fill(7::bigint, ARRAY[260]),
    array_fill('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, ARRAY[130]), array_fill(0.1::double precision, ARRAY[260]),
    array_fill('2024-02-29'::date, ARRAY[520]), array_fill(1.5, ARRAY[260]),
    hstore('key', repeat('0123456789', 210)), ('<a>' || repeat('0123456789', 210) || '</a>')::xml";

/// One table for each thing that can happen to a row or to a table.
fn change_rows(source: &mut Client, told: &mut Told) {
    let mut say = |table: &str, sql: &str, left: &[Option<usize>]| change(source, told, table, sql, left);
    for table in ["plain", "full_image"] {
        let insert = format!("INSERT INTO {table} VALUES (1, 'one', 1), (2, 'two', NULL), (3, NULL, 3)");
        say(table, &insert, &[Some(1), Some(2), Some(3)]);
        say(table, &format!("UPDATE {table} SET many = 10 WHERE id = 1"), &[Some(1)]);
        say(table, &format!("UPDATE {table} SET id = 4, name = 'four' WHERE id = 2"), &[None, Some(4)]);
        say(table, &format!("DELETE FROM {table} WHERE id = 3"), &[None]);
        say(table, &format!("TRUNCATE {table}"), &[None]);
        say(table, &format!("INSERT INTO {table} VALUES (5, 'five', 5)"), &[Some(5)]);
    }
    say("keyless", "INSERT INTO keyless VALUES (1, 'one')", &[Some(1)]);
    say("keyless_full", "INSERT INTO keyless_full VALUES (1, 'one'), (2, 'two')", &[Some(1), Some(2)]);
    say("keyless_full", "UPDATE keyless_full SET name = 'uno' WHERE id = 1", &[Some(1)]);
    say("keyless_full", "DELETE FROM keyless_full WHERE id = 2", &[None]);
    say("by_index", "INSERT INTO by_index VALUES (1, 'a', 'one'), (2, 'b', 'two')", &[Some(1), Some(2)]);
    say("by_index", "UPDATE by_index SET code = 'c' WHERE id = 1", &[None, Some(1)]);
    say("by_index", "DELETE FROM by_index WHERE id = 2", &[None]);
    say("two_keys", "INSERT INTO two_keys VALUES (1, 'a', 'one'), (2, 'a', 'two')", &[Some(1), Some(2)]);
    say("two_keys", "UPDATE two_keys SET part = 'b' WHERE id = 1", &[None, Some(1)]);
    let insert = format!("INSERT INTO toast VALUES (1, 1, {LARGE})");
    say("toast", &insert, &[Some(1)]);
    say("toast", "UPDATE toast SET number = 2 WHERE id = 1", &[Some(1)]);
    say("toast", "UPDATE toast SET body = 'small' WHERE id = 1", &[Some(1)]);
    say("toast", "UPDATE toast SET id = 2 WHERE id = 1", &[None, Some(2)]);
    say("altered", "INSERT INTO altered VALUES (1, 1, 'one', 'x')", &[Some(1)]);
    let alter = "ALTER TABLE altered ADD added timestamptz; ALTER TABLE altered ALTER small TYPE bigint;
                 ALTER TABLE altered ALTER word TYPE varchar(50); ALTER TABLE altered DROP gone;
                 INSERT INTO altered VALUES (2, 5000000000, 'longer than five', '2024-02-29 12:00:00+00')";
    say("altered", alter, &[Some(2)]);
    say(
        "altered",
        "ALTER TABLE altered RENAME added TO renamed; UPDATE altered SET small = 3 WHERE id = 1",
        &[Some(1)],
    );
    let mixed = "Mixed Case";
    source
        .batch_execute(&format!(
            "INSERT INTO \"{mixed}\" VALUES (1, 'one', 'dot');
             INSERT INTO parted VALUES (1, 'one'); UPDATE parted SET name = 'uno';
             BEGIN; INSERT INTO plain VALUES (6, 'six', 6); INSERT INTO full_image VALUES (6, 'six', 6);
             UPDATE plain SET many = 7 WHERE id = 6; COMMIT"
        ))
        .expect("the rest");
    told.note(source, "plain", None); // superseded in its transaction: only the end of it can be looked up
    told.note(source, "plain", Some(6));
    told.note(source, "full_image", Some(6));
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cdc").join(format!("{name}.json"))
}

/// A record as it is, in the order of its partition.
struct Event {
    topic: String,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

/// All topics whose names have this prefix, up to the marker.
fn events(prefix: &str) -> Vec<Event> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", unique("golden"))
        .create()
        .expect("a client");
    let marker = format!("{prefix}.public.{MARKER}");
    wait_for(&format!("the marker of {prefix}"), SOON, || {
        consumer.fetch_watermarks(&marker, 0, SOON).ok().filter(|(_, end)| *end > 0)
    });
    // One producer sends all of them, and what it sent before the marker may still be in the air.
    std::thread::sleep(Duration::from_millis(500));
    let metadata = consumer.fetch_metadata(None, SOON).expect("topics");
    let is_ours = |name: &str| name.split('.').any(|part| part == prefix);
    let mut all = Vec::new();
    let mut topics: Vec<&str> =
        metadata.topics().iter().map(|topic| topic.name()).filter(|name| is_ours(name)).collect();
    topics.sort();
    for topic in topics {
        let (_, end) = consumer.fetch_watermarks(topic, 0, SOON).expect("an end");
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
        consumer.assign(&from).expect("assigned");
        let mut seen = 0;
        while topic != marker && seen < end {
            let message = wait_for("a record", SOON, || consumer.poll(Duration::from_millis(200))).expect("a record");
            seen = message.offset() + 1;
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"));
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            all.push(Event {
                topic: topic.to_owned(),
                key: text(message.key()),
                value: text(message.payload()),
                headers: headers
                    .map(|header| (header.key.to_owned(), text(header.value).unwrap_or_default()))
                    .collect(),
            });
        }
    }
    all
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    schema: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// One file: an event a line, and each schema once.
fn written(mode: &str, options: &[(&str, &str)], prefix: &str, events: &[Event], told: &Told) -> String {
    let mut schemas: Vec<String> = Vec::new();
    let mut split = |text: &Option<String>| -> String {
        let Some(text) = text else { return "null".to_owned() };
        let Ok(parts) = serde_json::from_str::<Parts>(text) else { return text.clone() };
        let schema = parts.schema.get();
        let place = schemas.iter().position(|known| known == schema).unwrap_or_else(|| {
            schemas.push(schema.to_owned());
            schemas.len() - 1
        });
        format!("{{\"schema\":{place},\"payload\":{}}}", parts.payload.get())
    };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for event in events {
        let table = event.topic.strip_prefix(&format!("{prefix}.public.")).unwrap_or_default();
        let place = seen.entry(table).or_default();
        let mut expected = None;
        if event.value.is_some() {
            expected = told.rows.get(table).and_then(|rows| rows.get(*place)).cloned().flatten();
            *place += 1;
        }
        let headers: Vec<Value> = event.headers.iter().map(|(name, value)| json!([name, value])).collect();
        lines.push(format!(
            "{{\"topic\":{},\"key\":{},\"value\":{},\"headers\":{},\"expected\":{}}}",
            json!(event.topic),
            split(&event.key),
            split(&event.value),
            Value::Array(headers),
            json!(expected)
        ));
    }
    for (table, seen) in seen.iter().filter(|(table, _)| told.rows.contains_key(**table)) {
        assert_eq!(*seen, told.rows[*table].len(), "events of {table} in mode {mode}");
    }
    let columns: Map<String, Value> =
        seen.keys().filter_map(|table| Some((table.to_string(), json!(told.columns.get(*table)?)))).collect();
    let options: Map<String, Value> = options.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    let mut out = String::new();
    writeln!(out, "{{\"options\":{},", Value::Object(options)).expect("text");
    writeln!(out, "\"columns\":{},", Value::Object(columns)).expect("text");
    writeln!(out, "\"schemas\":[\n{}\n],", schemas.join(",\n")).expect("text");
    writeln!(out, "\"events\":[\n{}\n]}}", lines.join(",\n")).expect("text");
    out.replace(prefix, "cdc")
}

/// What of a file does not change from run to run: payloads without the place and time of their transactions.
fn lasting(text: &str) -> Value {
    let mut file: Value = serde_json::from_str(text).expect("JSON");
    let events = file["events"].as_array_mut().expect("events");
    events.retain(|event| event["topic"].as_str().is_some_and(|topic| topic.contains(".public.")));
    for event in events {
        event.as_object_mut().expect("an event").remove("headers");
        for path in ["/value/payload", "/value"] {
            let Some(Value::Object(payload)) = event.pointer_mut(path) else { continue };
            for passing in ["source", "transaction", "ts_ms", "ts_us", "ts_ns", "__lsn", "__source_ts_ms"] {
                payload.remove(passing);
            }
        }
    }
    file
}

fn keep_or_compare(mode: &str, text: &str) {
    let path = golden(mode);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, text).expect("written");
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (known, seen) = (lasting(&known), lasting(text));
    let (known_events, seen_events) = (known["events"].as_array(), seen["events"].as_array());
    for (known, seen) in known_events.into_iter().flatten().zip(seen_events.into_iter().flatten()) {
        assert_eq!(known, seen, "{mode} differs: UPDATE_EXPECT=1 make golden-cdc writes it anew");
    }
    assert!(known == seen, "{mode} differs: UPDATE_EXPECT=1 make golden-cdc writes it anew");
}

fn mark(source: &mut Client) {
    source.batch_execute(&format!("INSERT INTO {MARKER} VALUES (1)")).expect("a marker");
}

#[test]
fn the_connector_sends_what_the_golden_files_have_in_each_mode() {
    if !is_asked_for() {
        return;
    }
    let worker = Connect::start("golden");
    let mut source = connect(&worker.url);
    let mut told = Told::default();
    source.batch_execute("SET timezone = 'UTC'; SET bytea_output = 'hex'").expect("set");
    source.batch_execute(&format!("CREATE TABLE {MARKER} (id integer PRIMARY KEY)")).expect("a table");
    fill(&mut source, &mut told);
    let prefixes: Vec<String> = (0..MODES.len()).map(|_| unique("golden")).collect();
    for (mode, prefix) in MODES.iter().zip(&prefixes) {
        let tables: Vec<String> = mode.tables.iter().map(|table| format!("public\\.{}", table.name)).collect();
        worker.put(
            prefix,
            &worker.configuration(prefix, &format!("{},public\\.{MARKER}", tables.join(",")), mode.options),
        );
    }
    prefixes.iter().for_each(|prefix| worker.wait_streaming(prefix));
    change_all(&mut source, &mut told);
    mark(&mut source);
    for (mode, prefix) in MODES.iter().zip(&prefixes) {
        let events = events(prefix);
        if let Some(trace) = worker.failure(prefix) {
            panic!("{}: {trace}", mode.name);
        }
        keep_or_compare(mode.name, &written(mode.name, mode.options, prefix, &events, &told));
    }
}

#[test]
fn the_connector_sends_what_the_golden_file_has_of_each_change() {
    if !is_asked_for() {
        return;
    }
    const OPTIONS: &[(&str, &str)] = &[
        ("skipped.operations", "none"),
        ("provide.transaction.metadata", "true"),
        ("heartbeat.interval.ms", "1000"),
        ("publication.autocreate.mode", "all_tables"),
    ];
    let worker = Connect::start("changes");
    let mut source = connect(&worker.url);
    let mut told = Told::default();
    source.batch_execute("SET timezone = 'UTC'; SET bytea_output = 'hex'").expect("set");
    source.batch_execute(&format!("CREATE TABLE {MARKER} (id integer PRIMARY KEY); {CHANGES_SETUP}")).expect("tables");
    let prefix = unique("golden");
    worker.read(&prefix, "public\\..*", OPTIONS);
    change_rows(&mut source, &mut told);
    std::thread::sleep(Duration::from_millis(2500)); // a heartbeat
    mark(&mut source);
    keep_or_compare("changes", &written("changes", OPTIONS, &prefix, &events(&prefix), &told));
}

/// They start a worker and twenty connectors; every run of the tests would say the same.
fn is_asked_for() -> bool {
    std::env::var_os("SLUICEGATE_CDC_GOLDEN").is_some()
}
