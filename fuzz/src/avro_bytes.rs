//! Payloads as Kafka gives them to the status flow: the datum by itself or behind a header that names its schema. The
//! row says what apache-avro reads; under a schema made to be hostile there is a row or a reason, soon and for little.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::types::Value;
use sluicegate::decode::avro::{Column, Kind};
use sluicegate::engine::Rows;
use sluicegate::flow::{Flow, Status};
use sluicegate::pg::copy::CopyRows;
use sluicegate::record::{NoHeaders, Partition, Record};

use super::memory;
use super::rows::{self, Leaf, Reading, Row};

const SCHEMA: &str = include_str!("../../schema/seed_status.avsc");

/// Everything that can be made large by few bytes, in front of the fields that count.
const HOSTILE: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "tree", "type": {"type": "record", "name": "T", "fields": [
        {"name": "nothing", "type": {"type": "array", "items": "null"}},
        {"name": "empty", "type": {"type": "map", "values": {"type": "record", "name": "E", "fields": []}}},
        {"name": "more", "type": {"type": "array", "items": "T"}},
        {"name": "chain", "type": ["null", "T", {"type": "fixed", "name": "F", "size": 3}, "bytes"]},
        {"name": "named", "type": {"type": "map", "values": "T"}}]}},
    {"name": "status", "type": ["string", "null", "double"]},
    {"name": "event_timestamp", "type": "long"},
    {"name": "seed_id", "type": "int"}, {"name": "sub_scenario_id", "type": "int"},
    {"name": "scenario_id", "type": "int"}, {"name": "script_id", "type": "int"}]}"#;

static FIELDS: [(Column, &[Leaf]); 7] = {
    const fn column(field: &'static str, kind: Kind, not_null: bool) -> Column {
        Column { field, kind, not_null }
    }
    [
        (column("event_timestamp", Kind::Timestamp, true), &[Leaf::Millis]),
        (column("response_message", Kind::Text, false), &[Leaf::Null, Leaf::Text]),
        (column("status", Kind::Varchar { chars_max: 255 }, true), &[Leaf::Text]),
        (column("seed_id", Kind::Int4, false), &[Leaf::Int]),
        (column("sub_scenario_id", Kind::Int4, false), &[Leaf::Int]),
        (column("scenario_id", Kind::Int4, false), &[Leaf::Int]),
        (column("script_id", Kind::Int4, false), &[Leaf::Int]),
    ]
};

struct World {
    status: Status,
    partition: Partition,
    schema: Schema,
    header: Vec<u8>,
    hostile_header: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let header = |schema: &Schema| [&[0xc3, 0x01][..], &schema.fingerprint::<Rabin>().bytes].concat();
    let (schema, hostile) = (Schema::parse_str(SCHEMA).expect("ours"), Schema::parse_str(HOSTILE).expect("theirs"));
    World {
        status: Status::new("t", &[HOSTILE]).expect("the flow"),
        partition: Partition::new("t", 0),
        header: header(&schema),
        hostile_header: header(&hostile),
        schema,
    }
});

pub fn run(payload: &[u8]) {
    let world = &*WORLD;
    let ours = decode(payload);
    if !payload.starts_with(&world.hostile_header) {
        compare(payload, payload.strip_prefix(&world.header[..]).unwrap_or(payload), &ours);
        // Whatever a fuzzer finds is a datum of the other schema too.
        let _ = decode(&[&world.hostile_header, payload].concat());
        let framed = [&world.header, payload].concat();
        compare(&framed, payload, &decode(&framed));
    }
}

fn decode(payload: &[u8]) -> Result<Row, String> {
    let record = Record {
        partition: &WORLD.partition,
        offset: 0,
        timestamp_ms: None,
        key: None,
        payload: Some(payload),
        headers: &NoHeaders,
    };
    let mut rows = CopyRows::default();
    let result = memory::at_most(4096 + 4 * payload.len(), || WORLD.status.decode(&record, &mut rows));
    assert_eq!(rows.len(), usize::from(result.is_ok()), "a row or a reason, never both");
    result.map(|()| rows::parse(rows.as_bytes())).map_err(|fault| fault.into_cause().code.into_owned())
}

fn compare(payload: &[u8], datum: &[u8], ours: &Result<Row, String>) {
    let says = || format!("payload {payload:02x?}\nours {ours:?}");
    let value = match rows::read(&WORLD.schema, None, datum) {
        Reading::Value(Value::Record(fields)) => fields,
        Reading::Value(other) => panic!("a record is read as {other:?}"),
        Reading::Undefined => return,
        Reading::None => return assert!(ours.is_err(), "apache-avro reads nothing\n{}", says()),
    };
    // Where the mark of a header stands by chance that reason is not told.
    let is_varint = |code: &String| code == "avro.varint" || code == "avro.unknown_fingerprint";
    if ours.as_ref().is_err_and(is_varint) && rows::may_overflow(datum) {
        return;
    }
    let fields = FIELDS.iter().zip(&value).map(|((column, wanted), (_, value))| rows::field(column, wanted, value));
    match fields.collect::<Result<Row, &'static str>>() {
        Ok(row) => assert_eq!(ours.as_ref(), Ok(&row), "{}", says()),
        // Which of several reasons comes first is not promised.
        Err(_) => assert!(ours.is_err(), "{}", says()),
    }
}
