//! The handlers as they run: what each needs of a record is found in one pass over it, and what it makes of the record is
//! encoded at once. Nothing is written here.

use std::ops::Range;

use uuid::Uuid;

use super::retry::Origin;
use super::rows::{EventRows, Fate, Id, MESSAGE_BYTES_MAX};
use super::value::{Value, encode, native};
use crate::config::handlers::{Column, Handler, Path, Test, Type};
use crate::decode::json::{Paths, Places};
use crate::decode::schema::JsonSchema;
use crate::fault::Cause;
use crate::flow::packed::{PackedRecord, Unpacked};
use crate::pg::copy::field;
use crate::pg::quoted;
use crate::record::Record;

/// Names of messages are made ids of in a namespace that never changes: in another one each message would be another.
/// Version 5 is SHA-1 cut to 122 bits: the same on every machine and in every version, and nobody comes by two names of
/// one id by chance or with little effort.
const NAMESPACE: Uuid = Uuid::from_u128(0x8c0b_51c5_0b0f_4a52_9c1f_6f0d_7d3a_2e91);

/// What is written of a record.
pub enum Effect {
    /// Rows of a table, as COPY takes them.
    Table { copy: String },
    /// A statement for each record; its parameters are packed as a row of COPY is.
    Sql { sql: String, types: Vec<postgres::types::Type> },
    /// A message through the outbox; its key is packed as a field.
    Forward { topic: String },
}

enum Step {
    Drop {
        from: From,
        test: Test,
    },
    Fail {
        transient: f64,
        permanent: f64,
    },
    /// Effect `number` takes these.
    Row {
        number: usize,
        columns: Vec<(Column, From)>,
    },
    Key {
        number: usize,
        from: From,
    },
}

/// Where a value comes from, by the number under which it was looked for.
#[derive(Clone, Copy)]
enum From {
    Json(usize),
    Header(usize),
    Key,
    Topic,
    Partition,
    Offset,
    Timestamp,
    MessageId,
    Attempt,
}

#[derive(Default)]
struct Wanted {
    json: Paths,
    headers: Vec<String>,
}

impl Wanted {
    fn from(&mut self, path: &Path) -> Result<From, Cause> {
        let too_many = || Cause::new("config.handlers", "the handlers look for too many different paths");
        Ok(match path {
            Path::Json(parts) => From::Json(self.json.add(parts).ok_or_else(too_many)?),
            Path::Header(name) => {
                let known = self.headers.iter().position(|known| known == name);
                From::Header(known.unwrap_or_else(|| {
                    self.headers.push(name.clone());
                    self.headers.len() - 1
                }))
            }
            Path::Key => From::Key,
            Path::Topic => From::Topic,
            Path::Partition => From::Partition,
            Path::Offset => From::Offset,
            Path::Timestamp => From::Timestamp,
            Path::MessageId => From::MessageId,
            Path::Attempt => From::Attempt,
        })
    }
}

pub struct Chain {
    /// Checked before any handler.
    pub schema: Option<JsonSchema>,
    wanted: Wanted,
    message_id: Vec<From>,
    steps: Vec<Step>,
    pub effects: Vec<Effect>,
    /// Statements that create the tables of handlers that are not there.
    pub tables: String,
}

/// One record while it is looked at.
struct Seen<'a> {
    record: &'a Record<'a>,
    places: Option<Places<'a>>,
    packed: &'a [u8],
    /// Where in `packed` the headers are that are looked for.
    headers: Vec<Option<Range<usize>>>,
    message_id: Option<String>,
    origin: &'a Origin,
}

impl Seen<'_> {
    fn value(&self, from: From) -> Value<'_> {
        match from {
            From::Json(number) => Value::json(self.places.as_ref().and_then(|places| places[number])),
            From::Header(number) => Value::bytes(self.headers[number].clone().map(|range| &self.packed[range])),
            From::Key => Value::bytes(self.record.key),
            From::Topic => Value::Bytes(self.origin.topic.as_bytes()),
            From::Partition => Value::Number(self.origin.partition.into()),
            From::Offset => Value::Number(self.origin.offset),
            From::Timestamp => self.origin.timestamp_ms.map_or(Value::Absent, Value::Moment),
            From::MessageId => Value::bytes(self.message_id.as_ref().map(String::as_bytes)),
            From::Attempt => Value::Number(self.origin.attempt.into()),
        }
    }
}

/// The default table, for messages as most send them: an object with a type, its id and source in headers.
fn usual_columns() -> Vec<Column> {
    let column = |name: &str, path: &str, kind, required| {
        let path = Path::read(path).expect("a path");
        Column { name: name.to_owned(), path, kind, required }
    };
    vec![
        column("message_id", "@message_id", Type::Text, false),
        column("event_type", "/type", Type::Text, false),
        column("source", "@headers/source", Type::Text, false),
        column("key", "@key", Type::Text, false),
        column("occurred_at", "@timestamp", Type::Timestamptz, false),
        column("payload", "", Type::Jsonb, true),
    ]
}

impl Chain {
    /// No handlers are one: a row of `table`.
    pub fn new(handlers: &[Handler], message_id: &[Path], table: &str) -> Result<Chain, Cause> {
        let mut chain = Chain {
            schema: None,
            wanted: Wanted::default(),
            message_id: Vec::new(),
            steps: Vec::new(),
            effects: Vec::new(),
            tables: String::new(),
        };
        for path in message_id {
            let from = chain.wanted.from(path)?;
            chain.message_id.push(from);
        }
        let usual = [Handler::Table { table: None, columns: Vec::new() }];
        for handler in if handlers.is_empty() { &usual } else { handlers } {
            chain.add(handler, table)?;
        }
        Ok(chain)
    }

    fn add(&mut self, handler: &Handler, usual_table: &str) -> Result<(), Cause> {
        let number = self.effects.len();
        match handler {
            Handler::Drop { path, test } => {
                let from = self.wanted.from(path)?;
                self.steps.push(Step::Drop { from, test: test.clone() });
            }
            Handler::Fail { transient_percent: transient, permanent_percent: permanent } => {
                self.steps.push(Step::Fail { transient: *transient, permanent: *permanent });
            }
            Handler::Table { table, columns } => {
                let table = quoted(table.as_deref().unwrap_or(usual_table));
                let columns = if columns.is_empty() { usual_columns() } else { columns.clone() };
                let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
                let copy = format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
                let declared: Vec<String> = names
                    .iter()
                    .zip(&columns)
                    .map(|(name, column)| {
                        let required = if column.required { " NOT NULL" } else { "" };
                        format!("{name} {}{required}", native(column.kind).name())
                    })
                    .collect();
                self.tables += &format!("CREATE TABLE IF NOT EXISTS {table} ({});\n", declared.join(", "));
                self.row(number, columns)?;
                self.effects.push(Effect::Table { copy });
            }
            Handler::Sql { sql, params } => {
                self.row(number, params.clone())?;
                let types = params.iter().map(|param| native(param.kind)).collect();
                self.effects.push(Effect::Sql { sql: sql.clone(), types });
            }
            Handler::Forward { topic, key } => {
                let from = self.wanted.from(key.as_ref().unwrap_or(&Path::Key))?;
                self.steps.push(Step::Key { number, from });
                self.effects.push(Effect::Forward { topic: topic.clone() });
            }
        }
        Ok(())
    }

    fn row(&mut self, number: usize, columns: Vec<Column>) -> Result<(), Cause> {
        let with_source = |column: Column| self.wanted.from(&column.path).map(|from| (column, from));
        let columns = columns.into_iter().map(with_source).collect::<Result<_, _>>()?;
        self.steps.push(Step::Row { number, columns });
        Ok(())
    }

    /// Topics that records are forwarded to.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Forward { topic } => Some(topic.as_str()),
            _ => None,
        })
    }

    /// Adds what the record becomes. Whatever is wrong with it is its fate: so it is known by its id like any other.
    pub fn decode(&self, record: &Record<'_>, is_retry: bool, rows: &mut EventRows) {
        let mut origin = Origin::of(record.partition, record.offset, record.timestamp_ms);
        let mut headers = vec![None; self.wanted.headers.len()];
        let out = rows.record();
        let start = out.len();
        field(out, record.key);
        field(out, record.payload);
        record.headers.each(&mut |name, value| {
            if is_retry && origin.take(name, value) {
                return;
            }
            field(out, Some(name.as_bytes()));
            field(out, value);
            if let (Some(number), Some(value)) = (self.wanted.headers.iter().position(|known| known == name), value) {
                let end = out.len() - start;
                headers[number] = Some(end - value.len()..end);
            }
        });
        // Taken out while the rows are written to.
        let records = std::mem::take(rows.record());
        let read = match record.payload {
            Some(payload) => self
                .wanted
                .json
                .read(payload)
                .map_err(|rule| Cause::new("events.not_json", format!("the payload {rule}"))),
            None => Err(Cause::new("events.no_payload", "the record has no payload")),
        };
        let (places, flaw) = match read {
            Ok(places) => (Some(places), None),
            Err(cause) => (None, Some(cause)),
        };
        let broken = || self.schema.as_ref()?.check(record.payload?).err();
        let flaw = flaw.or_else(broken);
        let mut seen = Seen { record, places, packed: &records[start..], headers, message_id: None, origin: &origin };
        seen.message_id =
            self.message_id.iter().find_map(|from| seen.value(*from).text().map(|text| text.into_owned()));
        let id = match &seen.message_id {
            Some(name) => Some(Uuid::new_v5(&NAMESPACE, name.as_bytes())),
            // A message of the outbox may be published twice, and then it is one record in two places.
            None if is_retry => Some(Uuid::new_v5(&NAMESPACE, origin.name().as_bytes())),
            None => None,
        };
        let fate = flaw.map_or_else(|| self.run(&seen, id, rows), Fate::Permanent);
        *rows.record() = records;
        let timestamp_ms = record.timestamp_ms.or(origin.timestamp_ms);
        let origin = is_retry.then(|| Box::new(origin));
        rows.push(id, timestamp_ms, origin, fate);
    }

    fn run(&self, seen: &Seen<'_>, id: Option<Id>, rows: &mut EventRows) -> Fate {
        let count = self.effects.len();
        for step in &self.steps {
            match step {
                Step::Drop { from, test } => {
                    if is_met(test, seen.value(*from)) {
                        return Fate::Dropped;
                    }
                }
                Step::Fail { transient, permanent } => {
                    let name = id.unwrap_or_else(|| Uuid::new_v5(&NAMESPACE, seen.origin.name().as_bytes()));
                    // The first draw is the message's own, the second one of the attempt.
                    if draw(name, 0) < *permanent {
                        return Fate::Permanent(Cause::new("events.fail_permanent", "made to fail for good"));
                    }
                    if draw(name, 1 + u64::from(seen.origin.attempt)) < *transient {
                        return Fate::Transient(Cause::new("events.fail_transient", "made to fail for now"));
                    }
                }
                Step::Row { number, columns } => {
                    let out = rows.made(*number, count);
                    out.extend_from_slice(&(columns.len() as i16).to_be_bytes());
                    for (column, from) in columns {
                        let value = seen.value(*from);
                        let encoded = match value {
                            Value::Absent if column.required => Err("is required and not there"),
                            value => encode(value, column.kind, out),
                        };
                        if let Err(rule) = encoded {
                            return Fate::Permanent(Cause::new("events.value", format!("{} {rule}", column.path)));
                        }
                    }
                }
                Step::Key { .. }
                    if PackedRecord::read(seen.packed).is_some_and(|record| record.bytes() > MESSAGE_BYTES_MAX) =>
                {
                    let text = format!("more than {MESSAGE_BYTES_MAX} bytes cannot be forwarded");
                    return Fate::Permanent(Cause::new("events.too_large", text));
                }
                Step::Key { number, from } => {
                    let value = seen.value(*from);
                    let text = match value {
                        Value::Bytes(bytes) => Some(bytes.to_vec()),
                        other => other.text().map(|text| text.as_bytes().to_vec()),
                    };
                    field(rows.made(*number, count), text.as_deref());
                }
            }
        }
        Fate::Handled
    }
}

fn is_met(test: &Test, value: Value<'_>) -> bool {
    match test {
        Test::Exists(wanted) => (value != Value::Absent) == *wanted,
        Test::OneOf(known) => match value {
            Value::Json(json) => {
                serde_json::from_str::<serde_json::Value>(json).is_ok_and(|found| known.contains(&found))
            }
            other => other.text().is_some_and(|text| {
                known.iter().any(|known| match known {
                    serde_json::Value::String(known) => *known == text,
                    known => known.to_string() == text,
                })
            }),
        },
    }
}

/// From 0 up to 100, by one step of splitmix64.
fn draw(id: Id, salt: u64) -> f64 {
    let z = spread(id, salt);
    (z >> 11) as f64 / (1u64 << 53) as f64 * 100.0
}

/// A number that an id and a salt always have.
pub fn spread(id: Id, salt: u64) -> u64 {
    let (high, low) = id.as_u64_pair();
    let mut z = (high ^ low.rotate_left(32)).wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a row of COPY, or the parameters of a statement, are: the fields.
pub fn fields(row: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut rest = Unpacked(row);
    let count = i16::from_be_bytes(rest.array()?);
    (0..count).map(|_| rest.optional()).collect()
}
