//! A writer's schema held against the reader's, once: which of the writer's fields fill which columns, how
//! each is read, what is stepped over, and what stands in for fields that the writer did not know.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, RecordField, RecordSchema, UuidSchema};

use super::Decoded;
use super::column::{Column, Kind, TEXT_CHARS_MAX};
use super::wire::{Reader, Wire};
use crate::fault::{Cause, Fault};
use crate::pg::copy::CopyRows;

/// Fields of one row that can wait for their turn, on the stack.
const COLUMNS_MAX: usize = 32;

pub(super) struct Plan {
    columns: &'static [Column],
    steps: Vec<Step>,
    /// The writer's fields come in the order of the columns and fill all of them.
    in_order: bool,
    /// By column: the finished field of one that the writer does not know.
    defaults: Vec<Option<Vec<u8>>>,
    /// Shapes of types that contain themselves.
    named: Vec<Wire>,
}

/// What to do with the writer's next field.
enum Step {
    Skip(Wire),
    Fill(Cell),
}

/// How a column is filled from a value of the writer's.
struct Cell {
    column: &'static Column,
    /// Where the column stands in the row.
    place: usize,
    read: Read,
    /// For stepping over the value.
    wire: Wire,
}

enum Read {
    Plain(Move),
    /// The union that most optional fields are: null on one of two branches.
    Optional {
        null_branch: usize,
        plain: Move,
    },
    /// By the writer's branch; none where the reader has no place for it.
    Union(Vec<Option<Move>>),
}

/// One writer's type going into one kind of column: a step of the hot path is one of these and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Null,
    IntToInt4,
    IntToInt8,
    IntToTimestampMs,
    IntToTimestampUs,
    LongToInt4,
    LongToInt8,
    LongToTimestampMs,
    LongToTimestampUs,
    Text { chars_max: usize },
}

fn unfit(text: String) -> Cause {
    Cause::new("avro.schema", text)
}

impl Plan {
    pub fn compile(reader: &Schema, writer: &Schema, columns: &'static [Column]) -> Result<Plan, Cause> {
        let (Schema::Record(reader), Schema::Record(writer)) = (reader, writer) else {
            return Err(unfit("a schema of rows is a record".into()));
        };
        if columns.len() > COLUMNS_MAX {
            return Err(unfit(format!("{} columns, and {COLUMNS_MAX} are the most", columns.len())));
        }
        let mut shapes = Shapes::default();
        let mut filled = vec![false; columns.len()];
        let mut steps = Vec::new();
        for field in &writer.fields {
            let wire = shapes.of(&field.schema)?;
            let target = columns.iter().position(|column| reads(reader, column, writer, field));
            steps.push(match target {
                Some(place) if !filled[place] => {
                    filled[place] = true;
                    let column = &columns[place];
                    let read = Read::compile(&field.schema, &reader_field(reader, column)?.schema, column)?;
                    Step::Fill(Cell { column, place, read, wire })
                }
                _ => Step::Skip(wire),
            });
        }
        let defaults = columns
            .iter()
            .zip(&filled)
            .map(|(column, filled)| if *filled { Ok(None) } else { default_of(reader, column).map(Some) })
            .collect::<Result<Vec<Option<Vec<u8>>>, Cause>>()?;
        let order = steps.iter().filter_map(|step| match step {
            Step::Fill(cell) => Some(cell.place),
            Step::Skip(_) => None,
        });
        let in_order = order.eq(0..columns.len());
        Ok(Plan { columns, steps, in_order, defaults, named: shapes.named })
    }

    pub fn transcode(&self, datum: &[u8], rows: &mut CopyRows) -> Result<(), Fault> {
        let fill = |out: &mut Vec<u8>| match self.in_order {
            true => self.straight(datum, out),
            false => self.reordered(datum, out),
        };
        rows.row(self.columns.len() as i16, fill).map_err(|fault| *fault)
    }

    #[inline(always)]
    fn straight(&self, datum: &[u8], out: &mut Vec<u8>) -> Decoded<()> {
        let mut reader = Reader::new(datum);
        for step in &self.steps {
            match step {
                Step::Fill(cell) => cell.fill(&mut reader, out)?,
                Step::Skip(wire) => reader.skip(wire, &self.named)?,
            }
        }
        reader.finish()
    }

    /// Finds where each value starts, then fills the columns in their own order.
    #[inline(never)]
    fn reordered(&self, datum: &[u8], out: &mut Vec<u8>) -> Decoded<()> {
        let mut reader = Reader::new(datum);
        let mut found: [Option<(&Cell, Reader<'_>)>; COLUMNS_MAX] = [const { None }; COLUMNS_MAX];
        for step in &self.steps {
            let wire = match step {
                Step::Fill(cell) => {
                    found[cell.place] = Some((cell, reader.clone()));
                    &cell.wire
                }
                Step::Skip(wire) => wire,
            };
            reader.skip(wire, &self.named)?;
        }
        reader.finish()?;
        for (found, default) in found.iter_mut().zip(&self.defaults) {
            match (found, default) {
                (Some((cell, reader)), _) => cell.fill(reader, out)?,
                (None, default) => out.extend_from_slice(default.as_deref().unwrap_or_default()),
            }
        }
        Ok(())
    }
}

fn reader_field<'a>(reader: &'a RecordSchema, column: &Column) -> Result<&'a RecordField, Cause> {
    let found = reader.fields.iter().find(|field| field.name == column.field);
    found.ok_or_else(|| unfit(format!("the reader's schema has no field {}", column.field)))
}

/// Does this field of the writer's fill the column: by the name of the reader's field, or by one that it had
/// before where the writer has no field of the name itself?
fn reads(reader: &RecordSchema, column: &Column, writer: &RecordSchema, field: &RecordField) -> bool {
    field.name == column.field
        || reader_field(reader, column).is_ok_and(|theirs| theirs.aliases.contains(&field.name))
            && !writer.fields.iter().any(|other| other.name == column.field)
}

fn default_of(reader: &RecordSchema, column: &Column) -> Result<Vec<u8>, Cause> {
    let field = reader_field(reader, column)?;
    let Some(default) = &field.default else {
        let text = format!("the writer has no field {}, and the reader's has no default; give it one", column.field);
        return Err(unfit(text));
    };
    // The default of a union belongs to its first branch.
    let schema = match &field.schema {
        Schema::Union(union) => union.variants().first().unwrap_or(&Schema::Null),
        plain => plain,
    };
    let mut out = Vec::new();
    let put = match (Move::plan(schema, schema, column.kind), default) {
        (Some(Move::Null), serde_json::Value::Null) => column.put_null(&mut out),
        (Some(Move::Text { chars_max }), serde_json::Value::String(text)) => {
            column.put_text(text.as_bytes(), chars_max, &mut out)
        }
        (Some(plain), serde_json::Value::Number(number)) => match (plain, number.as_i64()) {
            (Move::IntToInt4 | Move::LongToInt4, Some(value)) => column.put_int4(value, &mut out),
            (Move::IntToInt8 | Move::LongToInt8, Some(value)) => column.put_int8(value, &mut out),
            (Move::LongToTimestampMs, Some(value)) => column.put_timestamp_ms(value, &mut out),
            (Move::LongToTimestampUs, Some(value)) => column.put_timestamp_us(value, &mut out),
            _ => return Err(default_unfit(column)),
        },
        _ => return Err(default_unfit(column)),
    };
    put.map_err(|fault| fault.into_cause())?;
    Ok(out)
}

fn default_unfit(column: &Column) -> Cause {
    unfit(format!("the default of field {} does not fit its type, or its column's", column.field))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Null,
    Int,
    Long,
    TimestampMs,
    TimestampUs,
    Text,
}

impl Leaf {
    /// A type that a column can be filled from, as its own writer puts it.
    fn of(schema: &Schema) -> Option<Leaf> {
        Some(match schema {
            Schema::Null => Leaf::Null,
            Schema::Int => Leaf::Int,
            Schema::Long => Leaf::Long,
            Schema::TimestampMillis | Schema::LocalTimestampMillis => Leaf::TimestampMs,
            Schema::TimestampMicros | Schema::LocalTimestampMicros => Leaf::TimestampUs,
            Schema::String | Schema::Bytes => Leaf::Text,
            _ => return None,
        })
    }
}

impl Move {
    /// The writer's type seen as the reader's, by Avro's rules of promotion, going into a column. The unit of a
    /// timestamp is the writer's where it names one: it knows what it wrote.
    fn plan(writer: &Schema, reader: &Schema, kind: Kind) -> Option<Move> {
        let (written, wanted) = (Leaf::of(writer)?, Leaf::of(reader)?);
        let is_time = |leaf| matches!(leaf, Leaf::TimestampMs | Leaf::TimestampUs);
        match (written, wanted, kind) {
            (Leaf::Null, Leaf::Null, _) => Some(Move::Null),
            (Leaf::Int, Leaf::Int | Leaf::Long, Kind::Int4) => Some(Move::IntToInt4),
            (Leaf::Int, Leaf::Int | Leaf::Long, Kind::Int8) => Some(Move::IntToInt8),
            (Leaf::Int, Leaf::TimestampMs, Kind::Timestamp) => Some(Move::IntToTimestampMs),
            (Leaf::Int, Leaf::TimestampUs, Kind::Timestamp) => Some(Move::IntToTimestampUs),
            (Leaf::Long, Leaf::TimestampMs, Kind::Timestamp) => Some(Move::LongToTimestampMs),
            (Leaf::Long, Leaf::TimestampUs, Kind::Timestamp) => Some(Move::LongToTimestampUs),
            (Leaf::TimestampMs, wanted, Kind::Timestamp) if is_time(wanted) => Some(Move::LongToTimestampMs),
            (Leaf::TimestampUs, wanted, Kind::Timestamp) if is_time(wanted) => Some(Move::LongToTimestampUs),
            (written, Leaf::Long, Kind::Int4) if written == Leaf::Long || is_time(written) => Some(Move::LongToInt4),
            (written, Leaf::Long, Kind::Int8) if written == Leaf::Long || is_time(written) => Some(Move::LongToInt8),
            (Leaf::Text, Leaf::Text, Kind::Text) => Some(Move::Text { chars_max: TEXT_CHARS_MAX }),
            (Leaf::Text, Leaf::Text, Kind::Varchar { chars_max }) => Some(Move::Text { chars_max }),
            _ => None,
        }
    }
}

impl Read {
    fn compile(writer: &Schema, reader: &Schema, column: &Column) -> Result<Read, Cause> {
        let wanted: Vec<&Schema> = match reader {
            Schema::Union(union) => union.variants().iter().collect(),
            plain => vec![plain],
        };
        let pick = |written: &Schema| wanted.iter().find_map(|wanted| Move::plan(written, wanted, column.kind));
        let Schema::Union(union) = writer else {
            let plain = pick(writer).ok_or_else(|| {
                let text = format!(
                    "field {}: the writer's type cannot be read as the reader's, or put into the column",
                    column.field
                );
                unfit(text)
            })?;
            return Ok(Read::Plain(plain));
        };
        let branches: Vec<Option<Move>> = union.variants().iter().map(pick).collect();
        match branches[..] {
            [Some(Move::Null), Some(plain)] => Ok(Read::Optional { null_branch: 0, plain }),
            [Some(plain), Some(Move::Null)] => Ok(Read::Optional { null_branch: 1, plain }),
            _ if branches.iter().all(Option::is_none) => {
                Err(unfit(format!("field {}: no branch of the writer's union can be read", column.field)))
            }
            _ => Ok(Read::Union(branches)),
        }
    }
}

impl Cell {
    #[inline(always)]
    fn fill(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Decoded<()> {
        let column = self.column;
        let plain = match &self.read {
            Read::Plain(plain) => *plain,
            Read::Optional { null_branch, plain } => match reader.branch(2)? == *null_branch {
                true => return column.put_null(out),
                false => *plain,
            },
            Read::Union(branches) => match branches[reader.branch(branches.len())?] {
                Some(plain) => plain,
                None => return Err(self.no_place()),
            },
        };
        match plain {
            Move::Null => column.put_null(out),
            Move::IntToInt4 => column.put_int4(reader.int()?, out),
            Move::IntToInt8 => column.put_int8(reader.int()?, out),
            Move::IntToTimestampMs => column.put_timestamp_ms(reader.int()?, out),
            Move::IntToTimestampUs => column.put_timestamp_us(reader.int()?, out),
            Move::LongToInt4 => column.put_int4(reader.long()?, out),
            Move::LongToInt8 => column.put_int8(reader.long()?, out),
            Move::LongToTimestampMs => column.put_timestamp_ms(reader.long()?, out),
            Move::LongToTimestampUs => column.put_timestamp_us(reader.long()?, out),
            Move::Text { chars_max } => column.put_text(reader.bytes()?, chars_max, out),
        }
    }

    #[cold]
    fn no_place(&self) -> Box<Fault> {
        let text = format!("field {} has a type that the reader's schema has no place for", self.column.field);
        Box::new(Fault::reject("avro.union_branch", text))
    }
}

/// Shapes of the writer's types, with named ones in a list of their own: they may contain themselves.
#[derive(Default)]
struct Shapes {
    named: Vec<Wire>,
    index_of: HashMap<Name, usize>,
}

impl Shapes {
    fn of(&mut self, schema: &Schema) -> Result<Wire, Cause> {
        Ok(match schema {
            Schema::Null => Wire::Null,
            Schema::Boolean => Wire::Fixed(1),
            Schema::Float => Wire::Fixed(4),
            Schema::Double => Wire::Fixed(8),
            Schema::Int
            | Schema::Long
            | Schema::Date
            | Schema::TimeMillis
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Wire::Varint,
            Schema::Bytes | Schema::String | Schema::BigDecimal => Wire::Bytes,
            Schema::Array(array) => Wire::Array(Box::new(self.of(&array.items)?)),
            Schema::Map(map) => Wire::Map(Box::new(self.of(&map.types)?)),
            Schema::Union(union) => {
                Wire::Union(union.variants().iter().map(|branch| self.of(branch)).collect::<Result<_, _>>()?)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Wire::Bytes,
                InnerDecimalSchema::Fixed(fixed) => self.name(&fixed.name, |_| Ok(Wire::Fixed(fixed.size)))?,
            },
            Schema::Uuid(uuid) => match uuid {
                UuidSchema::Bytes | UuidSchema::String => Wire::Bytes,
                UuidSchema::Fixed(fixed) => self.name(&fixed.name, |_| Ok(Wire::Fixed(fixed.size)))?,
            },
            Schema::Duration(fixed) | Schema::Fixed(fixed) => {
                self.name(&fixed.name, |_| Ok(Wire::Fixed(fixed.size)))?
            }
            Schema::Enum(symbols) => self.name(&symbols.name, |_| Ok(Wire::Varint))?,
            Schema::Record(record) => self.name(&record.name, |shapes| {
                let fields = record.fields.iter().map(|field| shapes.of(&field.schema));
                let mut fields = fields.collect::<Result<Vec<Wire>, Cause>>()?;
                // Records of nothing, many times over, would be steps that no byte of the datum pays for.
                fields.retain(|field| !field.is_nothing());
                Ok(if fields.is_empty() { Wire::Null } else { Wire::Record(fields) })
            })?,
            Schema::Ref { name } => match self.index_of.get(name) {
                Some(index) if self.named[*index].is_nothing() => Wire::Null,
                Some(index) => Wire::Named(*index),
                None => return Err(unfit(format!("type {name} is used before it is defined"))),
            },
        })
    }

    /// The name is known before its shape is, so that the shape can refer to it.
    fn name(&mut self, name: &Name, shape: impl FnOnce(&mut Self) -> Result<Wire, Cause>) -> Result<Wire, Cause> {
        let index = self.named.len();
        self.named.push(Wire::Named(index));
        self.index_of.insert(name.clone(), index);
        self.named[index] = shape(self)?;
        Ok(if self.named[index].is_nothing() { Wire::Null } else { Wire::Named(index) })
    }
}
