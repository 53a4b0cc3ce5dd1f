//! A writer's schema held against the reader's, once: which of the writer's fields fill which columns, how
//! each is read, what is stepped over, and what stands in for fields that the writer did not know.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, RecordField, RecordSchema, UuidSchema};

use super::column::{Column, Value};
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
    Fill { column: usize, read: Read },
}

/// How a value that fills a column is read.
enum Read {
    Leaf(Leaf),
    /// By the writer's branch; none where the reader has no place for it.
    Union(Vec<Option<Leaf>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Null,
    Int,
    Long,
    IntAsTimestampMs,
    TimestampMs,
    TimestampUs,
    Text,
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
                Some(column) if !filled[column] => {
                    filled[column] = true;
                    let theirs = reader_field(reader, &columns[column])?;
                    Step::Fill { column, read: Read::compile(&field.schema, &theirs.schema, &columns[column])? }
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
            Step::Fill { column, .. } => Some(*column),
            Step::Skip(_) => None,
        });
        let in_order = order.eq(0..columns.len());
        Ok(Plan { columns, steps, in_order, defaults, named: shapes.named })
    }

    #[inline]
    pub fn transcode(&self, datum: &[u8], rows: &mut CopyRows) -> Result<(), Fault> {
        rows.row(self.columns.len() as i16, |out| {
            let mut reader = Reader::new(datum);
            match self.in_order {
                true => self.straight(&mut reader, out)?,
                false => self.reordered(&mut reader, out)?,
            }
            reader.finish()
        })
    }

    #[inline]
    fn straight(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        for step in &self.steps {
            match step {
                Step::Skip(wire) => reader.skip(wire, &self.named)?,
                Step::Fill { column, read } => {
                    let column = &self.columns[*column];
                    column.put(read.value(reader, column)?, out)?;
                }
            }
        }
        Ok(())
    }

    fn reordered(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut values = [Value::Null; COLUMNS_MAX];
        for step in &self.steps {
            match step {
                Step::Skip(wire) => reader.skip(wire, &self.named)?,
                Step::Fill { column, read } => values[*column] = read.value(reader, &self.columns[*column])?,
            }
        }
        for ((column, value), default) in self.columns.iter().zip(values).zip(&self.defaults) {
            match default {
                Some(field) => out.extend_from_slice(field),
                None => column.put(value, out)?,
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
    let value = match (leaf_of(schema), default) {
        (Some(Leaf::Null), serde_json::Value::Null) => Some(Value::Null),
        (Some(Leaf::Int | Leaf::Long), number) => number.as_i64().map(Value::Long),
        (Some(Leaf::TimestampMs), number) => number.as_i64().map(Value::TimestampMs),
        (Some(Leaf::TimestampUs), number) => number.as_i64().map(Value::TimestampUs),
        (Some(Leaf::Text), serde_json::Value::String(text)) => Some(Value::Text(text.as_bytes())),
        _ => None,
    };
    let mut out = Vec::new();
    let value = value.ok_or_else(|| unfit(format!("the default of field {} does not fit its type", column.field)))?;
    column.accepts(value)?;
    column.put(value, &mut out).map_err(Fault::into_cause)?;
    Ok(out)
}

/// A type that a column can be filled from, as its own writer puts it.
fn leaf_of(schema: &Schema) -> Option<Leaf> {
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

/// The writer's type seen as the reader's, by Avro's rules of promotion. The unit of a timestamp is the
/// writer's where it names one: it knows what it wrote.
fn resolve(writer: &Schema, reader: &Schema) -> Option<Leaf> {
    let (written, wanted) = (leaf_of(writer)?, leaf_of(reader)?);
    match (written, wanted) {
        (Leaf::Null, Leaf::Null) => Some(Leaf::Null),
        (Leaf::Int, Leaf::Int | Leaf::Long) => Some(Leaf::Int),
        (Leaf::Int, Leaf::TimestampMs) => Some(Leaf::IntAsTimestampMs),
        (Leaf::Long, Leaf::Long | Leaf::TimestampMs | Leaf::TimestampUs) => Some(wanted),
        (Leaf::TimestampMs | Leaf::TimestampUs, Leaf::TimestampMs | Leaf::TimestampUs) => Some(written),
        (Leaf::TimestampMs | Leaf::TimestampUs, Leaf::Long) => Some(Leaf::Long),
        (Leaf::Text, Leaf::Text) => Some(Leaf::Text),
        _ => None,
    }
}

impl Read {
    fn compile(writer: &Schema, reader: &Schema, column: &Column) -> Result<Read, Cause> {
        let wanted: Vec<&Schema> = match reader {
            Schema::Union(union) => union.variants().iter().collect(),
            plain => vec![plain],
        };
        let pick = |written: &Schema| wanted.iter().find_map(|wanted| resolve(written, wanted));
        let read = match writer {
            Schema::Union(union) => Read::Union(union.variants().iter().map(pick).collect()),
            plain => Read::Leaf(pick(plain).ok_or_else(|| {
                unfit(format!("field {}: the writer's type cannot be read as the reader's", column.field))
            })?),
        };
        let leaves: Vec<Leaf> = match &read {
            Read::Leaf(leaf) => vec![*leaf],
            Read::Union(branches) => branches.iter().flatten().copied().collect(),
        };
        if leaves.is_empty() {
            return Err(unfit(format!("field {}: no branch of the writer's union can be read", column.field)));
        }
        leaves.iter().try_for_each(|leaf| column.accepts(leaf.example()))?;
        Ok(read)
    }

    #[inline]
    fn value<'a>(&self, reader: &mut Reader<'a>, column: &Column) -> Result<Value<'a>, Fault> {
        match self {
            Read::Leaf(leaf) => leaf.value(reader),
            Read::Union(branches) => match branches[reader.branch(branches.len())?] {
                Some(leaf) => leaf.value(reader),
                None => Err(Fault::reject(
                    "avro.union_branch",
                    format!("field {} has a type that the reader's schema has no place for", column.field),
                )),
            },
        }
    }
}

impl Leaf {
    #[inline]
    fn value<'a>(self, reader: &mut Reader<'a>) -> Result<Value<'a>, Fault> {
        Ok(match self {
            Leaf::Null => Value::Null,
            Leaf::Int => Value::Long(reader.int()?),
            Leaf::Long => Value::Long(reader.long()?),
            Leaf::IntAsTimestampMs => Value::TimestampMs(reader.int()?),
            Leaf::TimestampMs => Value::TimestampMs(reader.long()?),
            Leaf::TimestampUs => Value::TimestampUs(reader.long()?),
            Leaf::Text => Value::Text(reader.bytes()?),
        })
    }

    /// Any value of the kind that this leaf gives.
    fn example(self) -> Value<'static> {
        match self {
            Leaf::Null => Value::Null,
            Leaf::Int | Leaf::Long => Value::Long(0),
            Leaf::IntAsTimestampMs | Leaf::TimestampMs => Value::TimestampMs(0),
            Leaf::TimestampUs => Value::TimestampUs(0),
            Leaf::Text => Value::Text(b""),
        }
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
                Ok(Wire::Record(fields.collect::<Result<_, _>>()?))
            })?,
            Schema::Ref { name } => match self.index_of.get(name) {
                Some(index) => Wire::Named(*index),
                None => return Err(unfit(format!("type {name} is used before it is defined"))),
            },
        })
    }

    /// The name is known before its shape is, so that the shape can refer to it.
    fn name(&mut self, name: &Name, shape: impl FnOnce(&mut Self) -> Result<Wire, Cause>) -> Result<Wire, Cause> {
        let index = self.named.len();
        self.named.push(Wire::Null);
        self.index_of.insert(name.clone(), index);
        self.named[index] = shape(self)?;
        Ok(Wire::Named(index))
    }
}
