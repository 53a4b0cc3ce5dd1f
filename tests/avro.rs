//! The transcoder against apache-avro: whatever a writer's schema and value are, the row says what apache-avro
//! reads with the reader's schema. And whatever the bytes are, there is a row or a reason.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use sluicegate::decode::avro::{AvroPlans, Column, Kind};
use sluicegate::engine::Rows;
use sluicegate::fault::Fault;
use sluicegate::pg::copy::CopyRows;

static COLUMNS: [Column; 5] = [
    Column { field: "at", kind: Kind::Timestamp, not_null: true },
    Column { field: "note", kind: Kind::Text, not_null: false },
    Column { field: "word", kind: Kind::Varchar { chars_max: 20 }, not_null: true },
    Column { field: "number", kind: Kind::Int8, not_null: false },
    Column { field: "extra", kind: Kind::Int4, not_null: false },
];

const READER: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "note", "type": ["null", "string"], "default": null},
    {"name": "word", "type": "string", "aliases": ["old_word"]},
    {"name": "number", "type": ["null", "long"], "default": null},
    {"name": "extra", "type": "int", "default": 42}
]}"#;

/// A writer's field: its schema and a value of it.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    schema: String,
    value: Value,
}

fn field(name: &str, schema: &str, value: Value) -> Field {
    Field { name: name.into(), schema: schema.into(), value }
}

fn in_union(value: Value, null_first: bool) -> (String, Value) {
    let index = u32::from(matches!(value, Value::Null) != null_first);
    (String::new(), Value::Union(index, Box::new(value)))
}

/// Words as people write them, and as they do not.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-zA-Z ]{0,24}", 2 => "\\PC{0,24}", 1 => Just("with\0nul".to_owned()), 1 => "é{18,24}"]
}

fn at() -> impl Strategy<Value = Field> {
    let millis = prop_oneof![6 => -1_000_000_000_000i64..4_000_000_000_000, 1 => any::<i64>()];
    prop_oneof![
        millis.prop_map(|ms| field(
            "at",
            r#"{"type": "long", "logicalType": "timestamp-millis"}"#,
            Value::TimestampMillis(ms)
        )),
        any::<i32>().prop_map(|ms| field("at", r#""int""#, Value::Int(ms))),
    ]
}

fn note() -> impl Strategy<Value = Option<Field>> {
    let value = prop_oneof![Just(Value::Null), text().prop_map(Value::String)];
    prop_oneof![
        1 => Just(None),
        4 => (value, any::<bool>()).prop_map(|(value, null_first)| {
            let schema = if null_first { r#"["null", "string"]"# } else { r#"["string", "null"]"# };
            Some(field("note", schema, in_union(value, null_first).1))
        }),
        1 => text().prop_map(|text| Some(field("note", r#""string""#, Value::String(text)))),
    ]
}

fn word() -> impl Strategy<Value = Field> {
    (text(), any::<bool>(), any::<bool>()).prop_map(|(text, alias, bytes)| {
        let name = if alias { "old_word" } else { "word" };
        match bytes {
            true => field(name, r#""bytes""#, Value::Bytes(text.into_bytes())),
            false => field(name, r#""string""#, Value::String(text)),
        }
    })
}

fn number() -> impl Strategy<Value = Option<Field>> {
    prop_oneof![
        Just(None),
        any::<i64>().prop_map(|n| Some(field("number", r#""long""#, Value::Long(n)))),
        any::<i32>().prop_map(|n| Some(field("number", r#""int""#, Value::Int(n)))),
        (any::<i32>(), any::<bool>()).prop_map(|(n, null)| {
            let value = if null { Value::Null } else { Value::Int(n) };
            Some(field("number", r#"["int", "null"]"#, in_union(value, false).1))
        }),
    ]
}

fn extra() -> impl Strategy<Value = Option<Field>> {
    prop_oneof![Just(None), any::<i32>().prop_map(|n| Some(field("extra", r#""int""#, Value::Int(n))))]
}

/// A field that the reader has no place for, of any shape.
fn junk(name: &'static str) -> impl Strategy<Value = Option<Field>> {
    prop_oneof![
        2 => Just(None),
        1 => any::<f64>().prop_map(move |n| Some(field(name, r#""double""#, Value::Double(n)))),
        1 => any::<bool>().prop_map(move |b| Some(field(name, r#""boolean""#, Value::Boolean(b)))),
        1 => prop::collection::vec(any::<i64>(), 0..5).prop_map(move |items| {
            let items = items.into_iter().map(Value::Long).collect();
            Some(field(name, r#"{"type": "array", "items": "long"}"#, Value::Array(items)))
        }),
        1 => prop::collection::hash_map("[a-z]{0,4}", text(), 0..4).prop_map(move |map| {
            let map = map.into_iter().map(|(key, text)| (key, Value::Array(vec![Value::String(text)]))).collect();
            Some(field(name, r#"{"type": "map", "values": {"type": "array", "items": "string"}}"#, Value::Map(map)))
        }),
        1 => (any::<f32>(), prop::array::uniform4(any::<u8>())).prop_map(move |(n, bytes)| {
            let schema = format!(r#"{{"type": "record", "name": "In_{name}", "fields": [
                {{"name": "f", "type": "float"}},
                {{"name": "x", "type": {{"type": "fixed", "name": "X_{name}", "size": 4}}}},
                {{"name": "e", "type": {{"type": "enum", "name": "E_{name}", "symbols": ["A", "B"]}}}},
                {{"name": "again", "type": ["null", "In_{name}"]}}]}}"#);
            let inner = |again: Value| Value::Record(vec![
                ("f".into(), Value::Float(n)),
                ("x".into(), Value::Fixed(4, bytes.to_vec())),
                ("e".into(), Value::Enum(1, "B".into())),
                ("again".into(), again),
            ]);
            let nested = inner(Value::Union(1, Box::new(inner(Value::Union(0, Box::new(Value::Null))))));
            Some(field(name, &schema, nested))
        }),
    ]
}

/// A writer's fields in any order.
fn fields() -> impl Strategy<Value = Vec<Field>> {
    (at(), note(), word(), number(), extra(), junk("one"), junk("two"))
        .prop_map(|(at, note, word, number, extra, one, two)| {
            [Some(at), note, Some(word), number, extra, one, two].into_iter().flatten().collect::<Vec<Field>>()
        })
        .prop_shuffle()
}

fn schema_of(fields: &[Field]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|field| format!(r#"{{"name": "{}", "type": {}}}"#, field.name, field.schema)).collect();
    format!(r#"{{"type": "record", "name": "R", "fields": [{}]}}"#, fields.join(", "))
}

fn encode(schema: &Schema, fields: &[Field]) -> Vec<u8> {
    let values = fields.iter().map(|field| (field.name.clone(), field.value.clone())).collect();
    write(schema, Value::Record(values))
}

fn write(schema: &Schema, value: Value) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
    writer.write_value_to_vec(value).expect("apache-avro writes its own value")
}

fn read(writer: &Schema, reader: &Schema, datum: &[u8]) -> Value {
    let reading = GenericDatumReader::builder(writer).reader_schema(reader).build().expect("a reader");
    reading.read_value(&mut &datum[..]).expect("apache-avro reads it")
}

fn transcode(plans: &AvroPlans, datum: &[u8]) -> Result<Vec<Option<Vec<u8>>>, Fault> {
    let mut rows = CopyRows::default();
    let result = plans.transcode(datum, &mut rows);
    assert_eq!(rows.len(), usize::from(result.is_ok()), "a row or a reason, never both");
    assert!(result.is_ok() || rows.as_bytes().is_empty(), "nothing is left of a row that failed");
    result.map(|()| parse(rows.as_bytes()))
}

/// The fields of one row in binary COPY.
fn parse(mut row: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut take = |count: usize| {
        let (head, rest) = row.split_at(count);
        row = rest;
        head.to_vec()
    };
    let columns = i16::from_be_bytes(take(2).try_into().expect("two bytes"));
    let fields = (0..columns)
        .map(|_| {
            let len = i32::from_be_bytes(take(4).try_into().expect("four bytes"));
            (len >= 0).then(|| take(len as usize))
        })
        .collect();
    assert!(row.is_empty());
    fields
}

/// What the row has to be, said with apache-avro's value, or the code of the refusal.
fn expected(value: &Value) -> Result<Vec<Option<Vec<u8>>>, &'static str> {
    let Value::Record(fields) = value else { panic!("{value:?}") };
    let plain = |index: usize| match &fields[index].1 {
        Value::Union(_, inner) => (**inner).clone(),
        plain => plain.clone(),
    };
    let ms = match plain(0) {
        Value::TimestampMillis(ms) => ms,
        other => panic!("{other:?}"),
    };
    let us = ms.checked_sub(946_684_800_000).and_then(|ms| ms.checked_mul(1000));
    let us =
        us.filter(|us| (-211_813_488_000_000_000..9_223_371_331_200_000_000).contains(us)).ok_or("timestamp.range")?;
    let text = |value: Value, chars_max: usize| match value {
        Value::String(text) if text.contains('\0') => Err("text.nul"),
        Value::String(text) if text.chars().count() > chars_max => Err("text.too_long"),
        Value::String(text) => Ok(Some(text.into_bytes())),
        Value::Null => Ok(None),
        other => panic!("{other:?}"),
    };
    let number = match plain(3) {
        Value::Long(number) => Some(number.to_be_bytes().to_vec()),
        Value::Null => None,
        other => panic!("{other:?}"),
    };
    let Value::Int(extra) = plain(4) else { panic!("{:?}", plain(4)) };
    let (note, word) = (text(plain(1), usize::MAX)?, text(plain(2), 20)?);
    Ok(vec![Some(us.to_be_bytes().to_vec()), note, word, number, Some(extra.to_be_bytes().to_vec())])
}

fn agrees(ours: Result<Vec<Option<Vec<u8>>>, Fault>, theirs: Result<Vec<Option<Vec<u8>>>, &'static str>) -> bool {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        // A row can have more than one fault; which is met first is the writer's order.
        (Err(Fault::Reject(cause)), Err(_)) => ["text.nul", "text.too_long", "timestamp.range"].contains(&&*cause.code),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_row_says_what_apache_avro_reads(fields in fields()) {
        let text = schema_of(&fields);
        let (writer, reader) = (Schema::parse_str(&text).expect(&text), Schema::parse_str(READER).expect("the reader"));
        let datum = encode(&writer, &fields);
        // apache-avro knows no aliases of fields: it is told the name of today, which is the same on the wire.
        let renamed = Schema::parse_str(&text.replace("old_word", "word")).expect(&text);
        let theirs = read(&renamed, &reader, &datum);
        let plans = AvroPlans::new(READER, &text, &[], &COLUMNS).expect(&text);
        let (ours, theirs) = (transcode(&plans, &datum), expected(&theirs));
        prop_assert!(agrees(ours.clone(), theirs.clone()), "{text}: {ours:?} and {theirs:?}");
    }

    #[test]
    fn a_header_names_the_schema(fields in fields(), known in any::<bool>()) {
        let text = schema_of(&fields);
        let writer = Schema::parse_str(&text).expect(&text);
        let datum = encode(&writer, &fields);
        let mut framed = vec![0xc3, 0x01];
        framed.extend_from_slice(&writer.fingerprint::<apache_avro::rabin::Rabin>().bytes);
        framed.extend_from_slice(&datum);
        let others: &[&str] = if known { &[&text] } else { &[] };
        let with_header = AvroPlans::new(READER, READER, others, &COLUMNS).expect(&text);
        let ours = transcode(&with_header, &framed);
        if known {
            let raw = AvroPlans::new(READER, &text, &[], &COLUMNS).expect(&text);
            prop_assert_eq!(ours, transcode(&raw, &datum));
        } else if writer.canonical_form() != Schema::parse_str(READER).expect("the reader").canonical_form() {
            prop_assert!(matches!(ours, Err(Fault::Reject(cause)) if cause.code == "avro.unknown_fingerprint"));
        }
    }

    #[test]
    fn damaged_bytes_give_a_row_or_a_reason(fields in fields(), cut in any::<prop::sample::Index>(), flip in any::<(prop::sample::Index, u8)>()) {
        let text = schema_of(&fields);
        let writer = Schema::parse_str(&text).expect(&text);
        let plans = AvroPlans::new(READER, &text, &[], &COLUMNS).expect(&text);
        let mut datum = encode(&writer, &fields);
        let short = &datum[..cut.index(datum.len())];
        prop_assert!(transcode(&plans, short).is_err(), "a datum that is cut short is not one");
        let at = flip.0.index(datum.len());
        datum[at] ^= flip.1;
        let _ = transcode(&plans, &datum);
        datum.push(0);
        prop_assert!(flip.1 != 0 || transcode(&plans, &datum).is_err(), "nor is one with bytes behind it");
    }

    #[test]
    fn any_bytes_give_a_row_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let junk = r#"{"type": "record", "name": "R", "fields": [
            {"name": "tree", "type": {"type": "record", "name": "T", "fields": [
                {"name": "nothing", "type": {"type": "array", "items": "null"}},
                {"name": "more", "type": {"type": "array", "items": "T"}},
                {"name": "named", "type": {"type": "map", "values": "T"}}]}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "word", "type": "string"}]}"#;
        let plans = AvroPlans::new(READER, junk, &[], &COLUMNS).expect("a plan");
        let _ = transcode(&plans, &bytes);
    }
}

#[test]
fn bombs_cost_no_more_than_their_own_length() {
    let writer = r#"{"type": "record", "name": "R", "fields": [
        {"name": "bomb", "type": {"type": "array", "items": "null"}},
        {"name": "deep", "type": {"type": "record", "name": "D", "fields": [{"name": "d", "type": ["null", "D"]}]}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "word", "type": "string"}]}"#;
    let plans = AvroPlans::new(READER, writer, &[], &COLUMNS).expect("a plan");
    // As many nulls as fit into a count; they take no bytes, and no time either.
    let many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let mut nulls = many.to_vec();
    nulls.extend_from_slice(&[0, 0, 2, 2, b'x']);
    assert!(transcode(&plans, &nulls).is_ok());
    let mut deep = vec![0];
    deep.extend(std::iter::repeat_n(2, 1_000_000));
    let fault = transcode(&plans, &deep).expect_err("too deep");
    assert_eq!(fault.cause().code, "avro.depth");
    // A string as long as the largest length.
    let mut long = vec![0, 0, 2];
    long.extend_from_slice(&many);
    assert_eq!(transcode(&plans, &long).expect_err("not there").cause().code, "avro.truncated");
}

#[test]
fn schemas_that_cannot_be_read_are_refused_with_the_field() {
    let cases = [
        (r#"{"type": "record", "name": "R", "fields": [{"name": "at", "type": "long"}]}"#, "word"),
        (
            r#"{"type": "record", "name": "R", "fields": [{"name": "at", "type": "string"}, {"name": "word", "type": "string"}]}"#,
            "at",
        ),
        (
            r#"{"type": "record", "name": "R", "fields": [{"name": "at", "type": "long"}, {"name": "word", "type": ["int", "null"]}]}"#,
            "word",
        ),
        (r#"{"type": "record""#, "schema"),
        (r#""string""#, "record"),
    ];
    for (writer, word) in cases {
        let cause = AvroPlans::new(READER, writer, &[], &COLUMNS).err().expect(writer);
        assert!(cause.text.contains(word), "{writer}: {cause}");
    }
}

#[test]
fn a_writer_knows_the_unit_of_its_time() {
    let writer = |unit: &str| {
        format!(
            r#"{{"type": "record", "name": "R", "fields": [
            {{"name": "at", "type": {{"type": "long", "logicalType": "timestamp-{unit}"}}}}, {{"name": "word", "type": "string"}}]}}"#
        )
    };
    let row = |unit: &str, value: i64| {
        let text = writer(unit);
        let schema = Schema::parse_str(&text).expect("a schema");
        let at = if unit == "micros" { Value::TimestampMicros(value) } else { Value::TimestampMillis(value) };
        let record = Value::Record(vec![("at".into(), at), ("word".into(), Value::String("x".into()))]);
        let datum = write(&schema, record);
        transcode(&AvroPlans::new(READER, &text, &[], &COLUMNS).expect("a plan"), &datum).expect("a row")
    };
    assert_eq!(row("micros", 1_700_000_000_000_000), row("millis", 1_700_000_000_000));
}

#[test]
fn a_configured_writer_wins_over_the_reader_where_their_fingerprints_are_one() {
    let micros = READER.replace("timestamp-millis", "timestamp-micros");
    let schema = Schema::parse_str(&micros).expect("a schema");
    let fingerprint = schema.fingerprint::<apache_avro::rabin::Rabin>().bytes;
    assert_eq!(
        fingerprint,
        Schema::parse_str(READER).expect("a schema").fingerprint::<apache_avro::rabin::Rabin>().bytes
    );
    let record = Value::Record(vec![
        ("at".into(), Value::TimestampMicros(1_700_000_000_000_000)),
        ("note".into(), Value::Union(0, Box::new(Value::Null))),
        ("word".into(), Value::String("x".into())),
        ("number".into(), Value::Union(0, Box::new(Value::Null))),
        ("extra".into(), Value::Int(1)),
    ]);
    let framed = [&[0xc3, 0x01][..], &fingerprint, &write(&schema, record)].concat();
    let plans = AvroPlans::new(READER, READER, &[&micros], &COLUMNS).expect("plans");
    let row = transcode(&plans, &framed).expect("a row");
    assert_eq!(row[0], Some((1_700_000_000_000_000i64 - 946_684_800_000_000).to_be_bytes().to_vec()));
}
