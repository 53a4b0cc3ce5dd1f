//! The transcoder against apache-avro: a reader's schema, a writer's that evolved from it or away from it, and a datum,
//! sound, damaged or made up. A plan is made exactly where every column has something to be filled from; the row says
//! what apache-avro reads, and where apache-avro reads nothing there is a reason and no row.
//!
//! Fields that are stepped over are held to less than apache-avro asks of them: their bytes have to be there, and are
//! not looked at. So it reads a schema in which they have the same length on the wire and no rules: bytes for a string,
//! a long for an enum, a list of pairs for a map.

use std::collections::HashSet;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use arbitrary::Unstructured;
use sluicegate::decode::avro::write::long;
use sluicegate::decode::avro::{AvroPlans, Column, Kind};
use sluicegate::engine::Rows;
use sluicegate::pg::copy::CopyRows;

use super::memory;
use super::rows::{self, Leaf, Reading, Row};

/// As many levels as there are bytes: the transcoder's own limit is not reached, nor the end of apache-avro's stack.
const INPUT_BYTES_MAX: usize = 480;
const TYPES_MAX: usize = 24;
const NAMED_MAX: usize = 6;

static COLUMNS: [Column; 5] = [
    Column { field: "at", kind: Kind::Timestamp, not_null: true },
    Column { field: "note", kind: Kind::Text, not_null: false },
    Column { field: "word", kind: Kind::Varchar { chars_max: 20 }, not_null: true },
    Column { field: "number", kind: Kind::Int8, not_null: false },
    Column { field: "extra", kind: Kind::Int4, not_null: false },
];

/// What `word` was called once.
const FORMER_NAME: &str = "old_word";

/// A field of the reader's: its type, and its default as JSON and as a value of the type's first branch.
struct Wanted {
    schema: &'static str,
    leaves: &'static [Leaf],
    default: Option<(&'static str, Fallback)>,
}

enum Fallback {
    Null,
    Number(i64),
    Text(&'static str),
}

const fn wanted(
    schema: &'static str,
    leaves: &'static [Leaf],
    default: Option<(&'static str, Fallback)>,
) -> Wanted {
    Wanted { schema, leaves, default }
}

const MILLIS: &str = r#"{"type": "long", "logicalType": "timestamp-millis"}"#;
const MICROS: &str = r#"{"type": "long", "logicalType": "timestamp-micros"}"#;

/// By column: the types that the reader may have.
#[rustfmt::skip]
static READERS: [&[Wanted]; 5] = [
    &[
        wanted(MILLIS, &[Leaf::Millis], None),
        wanted(MICROS, &[Leaf::Micros], None),
        wanted(MILLIS, &[Leaf::Millis], Some(("1700000000000", Fallback::Number(1_700_000_000_000)))),
        wanted(r#"{"type": "long", "logicalType": "local-timestamp-micros"}"#, &[Leaf::Micros], None),
        wanted(r#"["null", {"type": "long", "logicalType": "timestamp-millis"}]"#, &[Leaf::Null, Leaf::Millis], None),
    ],
    &[
        wanted(r#"["null", "string"]"#, &[Leaf::Null, Leaf::Text], Some(("null", Fallback::Null))),
        wanted(r#"["string", "null"]"#, &[Leaf::Null, Leaf::Text], Some((r#""né""#, Fallback::Text("né")))),
        wanted(r#""string""#, &[Leaf::Text], Some((r#""""#, Fallback::Text("")))),
        wanted(r#""bytes""#, &[Leaf::Text], None),
    ],
    &[
        wanted(r#""string""#, &[Leaf::Text], None),
        wanted(r#""bytes""#, &[Leaf::Text], None),
        wanted(r#"["null", "string"]"#, &[Leaf::Null, Leaf::Text], None),
        wanted(r#""string""#, &[Leaf::Text], Some((r#""w""#, Fallback::Text("w")))),
    ],
    &[
        wanted(r#"["null", "long"]"#, &[Leaf::Null, Leaf::Long], Some(("null", Fallback::Null))),
        wanted(r#""long""#, &[Leaf::Long], Some(("-7", Fallback::Number(-7)))),
        wanted(r#"["long", "null"]"#, &[Leaf::Null, Leaf::Long], Some(("5", Fallback::Number(5)))),
        wanted(r#"["null", "int"]"#, &[Leaf::Null, Leaf::Int], Some(("null", Fallback::Null))),
    ],
    &[
        wanted(r#""int""#, &[Leaf::Int], Some(("42", Fallback::Number(42)))),
        wanted(r#""long""#, &[Leaf::Long], Some(("42", Fallback::Number(42)))),
        wanted(r#"["null", "long"]"#, &[Leaf::Null, Leaf::Long], None),
        wanted(r#"["int", "null"]"#, &[Leaf::Null, Leaf::Int], Some(("-1", Fallback::Number(-1)))),
    ],
];

/// A writer's type without parts. `base` is what a union may have once.
struct Plain {
    schema: &'static str,
    base: &'static str,
    leaf: Leaf,
}

const fn plain(schema: &'static str, base: &'static str, leaf: Leaf) -> Plain {
    Plain { schema, base, leaf }
}

#[rustfmt::skip]
static PLAIN: [Plain; 18] = [
    plain(r#""null""#, "null", Leaf::Null),
    plain(r#""int""#, "int", Leaf::Int),
    plain(r#""long""#, "long", Leaf::Long),
    plain(r#""string""#, "string", Leaf::Text),
    plain(r#""bytes""#, "bytes", Leaf::Text),
    plain(MILLIS, "long", Leaf::Millis),
    plain(MICROS, "long", Leaf::Micros),
    plain(r#"{"type": "long", "logicalType": "local-timestamp-millis"}"#, "long", Leaf::Millis),
    plain(r#"{"type": "long", "logicalType": "local-timestamp-micros"}"#, "long", Leaf::Micros),
    plain(r#""boolean""#, "boolean", Leaf::Other),
    plain(r#""float""#, "float", Leaf::Other),
    plain(r#""double""#, "double", Leaf::Other),
    plain(r#"{"type": "long", "logicalType": "timestamp-nanos"}"#, "long", Leaf::Other),
    plain(r#"{"type": "int", "logicalType": "date"}"#, "int", Leaf::Other),
    plain(r#"{"type": "long", "logicalType": "time-micros"}"#, "long", Leaf::Other),
    plain(r#"{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}"#, "bytes", Leaf::Other),
    plain(r#"{"type": "string", "logicalType": "uuid"}"#, "string", Leaf::Other),
    plain(r#"{"type": "bytes", "logicalType": "big-decimal"}"#, "bytes", Leaf::Other),
];

/// A writer's type; parts are indices into `Types`. Those with names may be their own parts.
enum Type {
    Plain(&'static Plain),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
    /// Of two symbols.
    Enum,
    Fixed { size: usize, logical: &'static str },
}

impl Type {
    fn has_name(&self) -> bool {
        matches!(self, Type::Record(_) | Type::Enum | Type::Fixed { .. })
    }
}

struct Choices<'a>(Unstructured<'a>);

impl Choices<'_> {
    /// Below `count`, and 0 when the input is used up.
    fn below(&mut self, count: usize) -> usize {
        self.0.int_in_range(0..=count - 1).unwrap_or(0)
    }

    fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Of any size, small ones often.
    fn number(&mut self) -> i64 {
        let shift = self.below(64);
        self.0.arbitrary::<i64>().unwrap_or(0) >> shift
    }

    fn bytes(&mut self) -> Vec<u8> {
        const WORDS: [&str; 4] = ["", "word", "twenty-one characters", "nul\0"];
        match self.below(3) {
            0 => self.one(&WORDS).as_bytes().to_vec(),
            1 => "é".repeat(self.below(24)).into_bytes(),
            _ => {
                let count = self.below(24);
                (0..count).map(|_| self.0.arbitrary().unwrap_or(0)).collect()
            }
        }
    }
}

#[derive(Default)]
struct Types {
    all: Vec<Type>,
    /// Records that are being drawn: a part of theirs that is one of them must be able to end.
    open: Vec<usize>,
}

impl Types {
    /// A type for a field that fills a column, mostly one that can: without names, so that it can be read with its rules.
    fn filling(&mut self, choices: &mut Choices, column: &Column, wanted: &Wanted) -> usize {
        let fitting: Vec<&'static Plain> =
            PLAIN.iter().filter(|plain| rows::fits(plain.leaf, wanted.leaves, column.kind)).collect();
        let first = *choices.one(&fitting);
        match choices.below(16) {
            0..9 => self.add(Type::Plain(first)),
            9 => self.plain(choices),
            10 => {
                let item = self.plain(choices);
                self.add(Type::Array(item))
            }
            more => {
                let mut bases = HashSet::new();
                let others = (0..1 + choices.below(3)).map(|_| choices.one(&PLAIN)).collect::<Vec<&'static Plain>>();
                let mut picked: Vec<&'static Plain> = others;
                picked.insert(choices.below(2), if more == 15 { choices.one(&PLAIN) } else { first });
                picked.retain(|plain| bases.insert(plain.base));
                let branches = picked.into_iter().map(|plain| self.add(Type::Plain(plain))).collect();
                self.add(Type::Union(branches))
            }
        }
    }

    /// Any type at all. `may_return`: whether it may be a record that it is a part of.
    fn any(&mut self, choices: &mut Choices, depth: usize, may_return: bool) -> usize {
        let named = self.all.iter().filter(|one| one.has_name()).count();
        if depth == 0 || self.all.len() >= TYPES_MAX {
            return self.plain(choices);
        }
        match choices.below(9) {
            0 | 1 => self.plain(choices),
            2 => {
                let item = self.any(choices, depth - 1, true);
                self.add(Type::Array(item))
            }
            3 => {
                let value = self.any(choices, depth - 1, true);
                self.add(Type::Map(value))
            }
            4 => {
                let first = self.add(Type::Plain(&PLAIN[choices.below(4)]));
                let others = (0..choices.below(3)).map(|_| self.any(choices, depth - 1, true)).collect::<Vec<usize>>();
                let others = others.into_iter().filter(|other| !matches!(self.all[*other], Type::Union(_)));
                let branches = std::iter::once(first).chain(others).collect();
                self.add(Type::Union(branches))
            }
            5 if named < NAMED_MAX => {
                let record = self.add(Type::Record(Vec::new()));
                self.open.push(record);
                let parts = (0..choices.below(4)).map(|_| self.any(choices, depth - 1, false)).collect();
                self.open.pop();
                self.all[record] = Type::Record(parts);
                record
            }
            6 if named < NAMED_MAX => self.add(Type::Enum),
            7 if named < NAMED_MAX => {
                let (size, logical) = *choices.one(&[
                    (4, ""),
                    (0, ""),
                    (16, r#", "logicalType": "uuid""#),
                    (12, r#", "logicalType": "duration""#),
                    (3, r#", "logicalType": "decimal", "precision": 3, "scale": 1"#),
                ]);
                self.add(Type::Fixed { size, logical })
            }
            // One that is there already.
            _ => {
                let may = |index: &usize| {
                    self.all[*index].has_name() && (may_return || !self.open.contains(index))
                };
                let known: Vec<usize> = (0..self.all.len()).filter(may).collect();
                if known.is_empty() { self.plain(choices) } else { *choices.one(&known) }
            }
        }
    }

    fn plain(&mut self, choices: &mut Choices) -> usize {
        self.add(Type::Plain(choices.one(&PLAIN)))
    }

    fn add(&mut self, one: Type) -> usize {
        self.all.push(one);
        self.all.len() - 1
    }

    fn leaves(&self, index: usize) -> Vec<Leaf> {
        match &self.all[index] {
            Type::Plain(plain) => vec![plain.leaf],
            Type::Union(branches) => branches.iter().flat_map(|branch| self.leaves(*branch)).collect(),
            _ => vec![Leaf::Other],
        }
    }

    /// As JSON. A name is spelled out where it comes first.
    fn schema(&self, index: usize, names: &mut HashSet<usize>) -> String {
        let one = &self.all[index];
        if one.has_name() && !names.insert(index) {
            return format!(r#""N{index}""#);
        }
        match one {
            Type::Plain(plain) => plain.schema.to_owned(),
            Type::Array(item) => format!(r#"{{"type": "array", "items": {}}}"#, self.schema(*item, names)),
            Type::Map(value) => format!(r#"{{"type": "map", "values": {}}}"#, self.schema(*value, names)),
            Type::Union(branches) => {
                let branches: Vec<String> = branches.iter().map(|branch| self.schema(*branch, names)).collect();
                format!("[{}]", branches.join(", "))
            }
            Type::Record(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.schema(*part, names)).collect();
                record(&format!("N{index}"), &parts)
            }
            Type::Enum => format!(r#"{{"type": "enum", "name": "N{index}", "symbols": ["A", "B"]}}"#),
            Type::Fixed { size, logical } => {
                format!(r#"{{"type": "fixed", "name": "N{index}", "size": {size}{logical}}}"#)
            }
        }
    }

    /// The same on the wire, without rules for what is in it. `fresh` makes names.
    fn free_schema(&self, index: usize, names: &mut HashSet<usize>, fresh: &mut usize) -> String {
        let one = &self.all[index];
        if one.has_name() && !names.insert(index) {
            return format!(r#""N{index}""#);
        }
        let mut name = || {
            *fresh += 1;
            format!("F{fresh}")
        };
        match one {
            Type::Plain(plain) => match plain.base {
                "null" => r#""null""#.to_owned(),
                "int" | "long" => r#""long""#.to_owned(),
                "string" | "bytes" => r#""bytes""#.to_owned(),
                base => {
                    let size = match base {
                        "boolean" => 1,
                        "float" => 4,
                        _ => 8,
                    };
                    format!(r#"{{"type": "fixed", "name": "{}", "size": {size}}}"#, name())
                }
            },
            Type::Array(item) => {
                format!(r#"{{"type": "array", "items": {}}}"#, self.free_schema(*item, names, fresh))
            }
            Type::Map(value) => {
                let pair = name();
                let parts = [r#""bytes""#.to_owned(), self.free_schema(*value, names, fresh)];
                format!(r#"{{"type": "array", "items": {}}}"#, record(&pair, &parts))
            }
            // Branches must differ, and records do by their names.
            Type::Union(branches) => {
                let branches: Vec<String> = branches
                    .iter()
                    .map(|branch| {
                        *fresh += 1;
                        record(&format!("F{fresh}"), &[self.free_schema(*branch, names, fresh)])
                    })
                    .collect();
                format!("[{}]", branches.join(", "))
            }
            Type::Record(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.free_schema(*part, names, fresh)).collect();
                record(&format!("N{index}"), &parts)
            }
            Type::Enum => record(&format!("N{index}"), &[r#""long""#.to_owned()]),
            Type::Fixed { size, .. } => format!(r#"{{"type": "fixed", "name": "N{index}", "size": {size}}}"#),
        }
    }

    /// Appends a value. What nests too deep stays undone, and the datum is a damaged one.
    fn value(&self, index: usize, choices: &mut Choices, depth: usize, out: &mut Vec<u8>) {
        if depth == 0 {
            return;
        }
        match &self.all[index] {
            Type::Plain(plain) => match plain.base {
                "null" => {}
                "boolean" => out.push(u8::from(choices.is())),
                "float" => out.extend_from_slice(&[0; 4]),
                "double" => out.extend_from_slice(&[0; 8]),
                "int" => long(out, i64::from(choices.number() as i32)),
                "long" => long(out, choices.number()),
                _ => bytes(out, &choices.bytes()),
            },
            Type::Array(item) => self.blocks(choices, out, |choices, out| self.value(*item, choices, depth - 1, out)),
            Type::Map(value) => self.blocks(choices, out, |choices, out| {
                bytes(out, &choices.bytes());
                self.value(*value, choices, depth - 1, out);
            }),
            Type::Union(branches) => {
                let branch = choices.below(branches.len());
                long(out, branch as i64);
                self.value(branches[branch], choices, depth - 1, out);
            }
            Type::Record(parts) => parts.iter().for_each(|part| self.value(*part, choices, depth - 1, out)),
            Type::Enum => long(out, choices.below(2) as i64),
            Type::Fixed { size, .. } => out.extend(std::iter::repeat_n(7, *size)),
        }
    }

    /// Blocks with their size in bytes and without.
    fn blocks(&self, choices: &mut Choices, out: &mut Vec<u8>, item: impl Fn(&mut Choices, &mut Vec<u8>)) {
        for _ in 0..choices.below(3) {
            let count = 1 + choices.below(3) as i64;
            let mut items = Vec::new();
            (0..count).for_each(|_| item(choices, &mut items));
            if choices.is() {
                long(out, -count);
                long(out, items.len() as i64);
            } else {
                long(out, count);
            }
            out.extend_from_slice(&items);
        }
        long(out, 0);
    }
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

fn record(name: &str, parts: &[String]) -> String {
    let fields: Vec<String> =
        parts.iter().enumerate().map(|(at, part)| format!(r#"{{"name": "f{at}", "type": {part}}}"#)).collect();
    format!(r#"{{"type": "record", "name": "{name}", "fields": [{}]}}"#, fields.join(", "))
}

/// A field of the writer's.
struct Field {
    name: &'static str,
    schema: usize,
    /// The column that it fills.
    fills: Option<usize>,
}

/// Fields in any order, each column's once or not at all.
fn fields(choices: &mut Choices, types: &mut Types, wanted: &[&'static Wanted]) -> Vec<Field> {
    let mut names = Vec::new();
    for (at, column) in COLUMNS.iter().enumerate() {
        let is_needed = wanted[at].default.is_none();
        if choices.below(if is_needed { 32 } else { 4 }) > 0 {
            names.push((column.field, Some(at)));
        }
    }
    if choices.below(3) == 0 {
        let is_word_there = names.iter().any(|(name, _)| *name == "word");
        names.push((FORMER_NAME, (!is_word_there).then_some(2)));
    }
    for name in ["one", "two"] {
        if choices.is() {
            names.push((name, None));
        }
    }
    for at in (1..names.len()).rev() {
        // In their order when the input is used up.
        let other = at - choices.below(at + 1);
        names.swap(at, other);
    }
    let field = |(name, fills): (&'static str, Option<usize>)| {
        let schema = match fills {
            Some(at) => types.filling(choices, &COLUMNS[at], wanted[at]),
            None => types.any(choices, 3, false),
        };
        Field { name, schema, fills }
    };
    names.into_iter().map(field).collect()
}

fn writer_schema(fields: &[Field], mut name: impl FnMut(&Field) -> &'static str, mut schema: impl FnMut(&Field) -> String) -> String {
    let fields: Vec<String> =
        fields.iter().map(|field| format!(r#"{{"name": "{}", "type": {}}}"#, name(field), schema(field))).collect();
    format!(r#"{{"type": "record", "name": "R", "fields": [{}]}}"#, fields.join(", "))
}

fn reader_schema(wanted: &[&'static Wanted]) -> String {
    let field = |(column, wanted): (&Column, &&Wanted)| {
        let default = wanted.default.as_ref().map(|(json, _)| format!(r#", "default": {json}"#)).unwrap_or_default();
        let aliases = if column.field == "word" { format!(r#", "aliases": ["{FORMER_NAME}"]"#) } else { String::new() };
        format!(r#"{{"name": "{}", "type": {}{default}{aliases}}}"#, column.field, wanted.schema)
    };
    let fields: Vec<String> = COLUMNS.iter().zip(wanted).map(field).collect();
    format!(r#"{{"type": "record", "name": "R", "fields": [{}]}}"#, fields.join(", "))
}

impl Fallback {
    fn value(&self) -> Value {
        match self {
            Fallback::Null => Value::Null,
            // The unit is the reader's.
            Fallback::Number(number) => i32::try_from(*number).map_or(Value::Long(*number), Value::Int),
            Fallback::Text(text) => Value::String((*text).to_owned()),
        }
    }
}

pub fn run(data: &[u8]) {
    let mut choices = Choices(Unstructured::new(&data[..data.len().min(INPUT_BYTES_MAX)]));
    let wanted: Vec<&'static Wanted> = READERS.iter().map(|kinds| choices.one(kinds)).collect();
    let mut types = Types::default();
    let fields = fields(&mut choices, &mut types, &wanted);

    let mut names = HashSet::new();
    let writer_text = writer_schema(&fields, |field| field.name, |field| types.schema(field.schema, &mut names));
    let reader_text = reader_schema(&wanted);
    let reader = Schema::parse_str(&reader_text).expect(&reader_text);
    // Not every union that can be drawn may be.
    let Ok(writer) = Schema::parse_str(&writer_text) else { return };

    let Some(plans) = plan(&reader_text, &reader, &writer_text, &writer, &fields, &types, &wanted) else { return };
    let datum = datum(&mut choices, &fields, &types);
    let ours = memory::at_most(4096 + 8 * datum.len(), || transcode(&plans, &datum));
    let says = || format!("reader {reader_text}\nwriter {writer_text}\ndatum {datum:02x?}\nours {ours:?}");

    let (mut names, mut fresh) = (HashSet::new(), 0);
    let free_text = writer_schema(&fields, |field| field.name, |field| match field.fills {
        Some(_) => types.schema(field.schema, &mut HashSet::new()),
        None => types.free_schema(field.schema, &mut names, &mut fresh),
    });
    let free = Schema::parse_str(&free_text).unwrap_or_else(|error| panic!("{error}: {free_text}"));
    let value = match rows::read(&free, None, &datum) {
        Reading::Value(Value::Record(fields)) => fields,
        Reading::Value(other) => panic!("a record is read as {other:?}"),
        Reading::Undefined => return,
        Reading::None => return assert!(ours.is_err(), "apache-avro reads nothing\n{}", says()),
    };
    if ours.as_ref().is_err_and(|code| code == "avro.varint") && rows::may_overflow(&datum) {
        return;
    }
    let expected = COLUMNS.iter().zip(&wanted).enumerate().map(|(at, (column, wanted))| {
        let found = fields.iter().position(|field| field.fills == Some(at));
        match (found, &wanted.default) {
            (Some(field), _) => rows::field(column, wanted.leaves, &value[field].1),
            (None, Some((_, default))) => rows::field(column, wanted.leaves, &default.value()),
            (None, None) => panic!("a plan without a value for {}\n{}", column.field, says()),
        }
    });
    let expected: Vec<Result<Option<Vec<u8>>, &'static str>> = expected.collect();
    let reasons: Vec<&'static str> = expected.iter().filter_map(|field| field.as_ref().err().copied()).collect();
    match &ours {
        Ok(row) => assert!(reasons.is_empty() && row.iter().eq(expected.iter().flatten()), "{expected:?}\n{}", says()),
        Err(code) => assert!(reasons.contains(&code.as_str()), "{expected:?}\n{}", says()),
    }

    // And what apache-avro makes of it by itself, where it knows how. It knows no aliases.
    let mut names = HashSet::new();
    let today = |field: &Field| field.fills.map_or(field.name, |column| COLUMNS[column].field);
    let renamed = writer_schema(&fields, today, |field| types.schema(field.schema, &mut names));
    let renamed = Schema::parse_str(&renamed).expect(&renamed);
    if let (Ok(row), Reading::Value(Value::Record(theirs))) = (&ours, rows::read(&renamed, Some(&reader), &datum)) {
        let theirs = COLUMNS.iter().zip(&wanted).zip(&theirs);
        let theirs = theirs.map(|((column, wanted), (_, value))| rows::field(column, wanted.leaves, value));
        assert!(row.iter().map(|field| Ok(field.clone())).eq(theirs), "apache-avro resolves otherwise\n{}", says());
    }
}

/// The plans, when there are to be any: every column is filled by a type that fits, or by its default.
fn plan(
    reader_text: &str,
    reader: &Schema,
    writer_text: &str,
    writer: &Schema,
    fields: &[Field],
    types: &Types,
    wanted: &[&'static Wanted],
) -> Option<AvroPlans> {
    let found = |at: usize| fields.iter().find(|field| field.fills == Some(at));
    let can = |(at, (column, wanted)): (usize, (&Column, &&Wanted))| match found(at) {
        Some(field) => types.leaves(field.schema).iter().any(|leaf| rows::fits(*leaf, wanted.leaves, column.kind)),
        None => wanted.default.is_some(),
    };
    let can = COLUMNS.iter().zip(wanted).enumerate().all(can);
    let plans = AvroPlans::new(reader_text, writer_text, &[], &COLUMNS);
    let says = || format!("reader {reader_text}\nwriter {writer_text}\n{:?}", plans.as_ref().err());
    assert_eq!(plans.is_ok(), can, "{}", says());
    // Types that no column is filled from can be read by apache-avro all the same.
    let are_known = fields.iter().filter(|field| field.fills.is_some()).all(|field| {
        !types.leaves(field.schema).contains(&Leaf::Other)
    });
    if are_known && SchemaCompatibility::can_read(writer, reader).is_ok() {
        assert!(plans.is_ok(), "apache-avro can read it\n{}", says());
    }
    plans.ok()
}

/// A sound one, the same with a fault, or bytes as they come.
fn datum(choices: &mut Choices, fields: &[Field], types: &Types) -> Vec<u8> {
    let kind = choices.below(4);
    if kind == 0 {
        let rest = choices.0.len();
        return choices.0.bytes(rest).unwrap_or_default().to_vec();
    }
    let mut datum = Vec::new();
    for field in fields {
        types.value(field.schema, choices, 8, &mut datum);
    }
    if kind == 1 && !datum.is_empty() {
        let at = choices.below(datum.len());
        match choices.below(3) {
            0 => datum[at] ^= 1 << choices.below(8),
            1 => datum.truncate(at),
            _ => datum.insert(at, choices.below(256) as u8),
        }
    }
    datum
}

/// The row, or the code of the reason.
fn transcode(plans: &AvroPlans, datum: &[u8]) -> Result<Row, String> {
    let mut rows = CopyRows::default();
    let result = plans.transcode(datum, &mut rows);
    assert_eq!(rows.len(), usize::from(result.is_ok()), "a row or a reason, never both");
    assert!(result.is_ok() || rows.as_bytes().is_empty(), "something is left of a row that failed");
    result.map(|()| rows::parse(rows.as_bytes())).map_err(|fault| fault.into_cause().code.into_owned())
}
