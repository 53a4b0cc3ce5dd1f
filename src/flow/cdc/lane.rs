//! What records have taught about their topic: schemas by the bytes that messages of one schema begin with, and shapes. A
//! lane keeps what its last records used; what is new to a lane is looked for in what all of them know, and made there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::utf8;
use super::naming::{Naming, TableName, identity, source_name};
use super::shape::{Additions, Fields, Named, Shape, Types, named};
use crate::decode::debezium::{Field, Kind, NameRules, Origin, Widening, payload_behind, unwrap};
use crate::fault::Cause;

/// A lane's messages are of few schemas; who alternates between more of them has them read again.
const OF_LANE_MAX: usize = 16;
/// Everything that is known is forgotten at once where it is more than this. Memory: some KiB each.
const KNOWN_MAX: usize = 2_000;

/// A message's schema.
pub struct ValueSchema {
    number: usize,
    pub is_enveloped: bool,
    /// Of the row.
    pub fields: Vec<Field>,
    /// What the message is, where it is about the stream.
    pub aside: Option<&'static str>,
}

/// A shape of the lane and what it was made of.
struct Used {
    schema: Option<usize>,
    origin: Origin<'static>,
    key: Vec<String>,
    /// None where the table is left out.
    shape: Option<Arc<Shape>>,
}

#[derive(Default)]
pub struct Lane {
    /// Whether rows come in an envelope.
    pub is_enveloped: Option<bool>,
    schemas: Vec<(String, Arc<ValueSchema>)>,
    shapes: Vec<Used>,
    /// What the last key with a schema began with, up to its payload.
    key_prefix: String,
}

/// A payload with what is known of its schema.
pub struct Read<'a> {
    pub payload: &'a str,
    pub schema: Option<Arc<ValueSchema>>,
}

impl Lane {
    pub fn read<'a>(&mut self, known: &Known, json: &'a [u8]) -> Result<Read<'a>, Cause> {
        for (prefix, schema) in self.schemas.iter().rev() {
            if let Some(payload) = payload_behind(json, prefix) {
                return Ok(Read { payload: utf8(payload)?, schema: Some(schema.clone()) });
            }
        }
        let json = utf8(json)?;
        let Some(parts) = unwrap(json) else { return Ok(Read { payload: json, schema: None }) };
        if parts.schema == "null" {
            return Ok(Read { payload: parts.payload, schema: None });
        }
        let schema = known.schema(parts.schema)?;
        if let Some(prefix) = parts.prefix {
            if self.schemas.len() == OF_LANE_MAX {
                self.schemas.remove(0);
            }
            self.schemas.push((prefix.to_owned(), schema.clone()));
        }
        Ok(Read { payload: parts.payload, schema: Some(schema) })
    }

    /// A key without its schema.
    pub fn key<'a>(&mut self, json: &'a [u8]) -> Result<&'a str, Cause> {
        if !self.key_prefix.is_empty()
            && let Some(payload) = payload_behind(json, &self.key_prefix)
        {
            return utf8(payload);
        }
        let json = utf8(json)?;
        let Some(parts) = unwrap(json) else { return Ok(json) };
        if let Some(prefix) = parts.prefix {
            prefix.clone_into(&mut self.key_prefix);
        }
        Ok(parts.payload)
    }

    /// None where nothing is known yet; the inner one where the table is left out.
    pub fn shape(&self, schema: Option<&ValueSchema>, origin: &Origin<'_>, key: &[&str]) -> Option<Option<Arc<Shape>>> {
        let schema = schema.map(|schema| schema.number);
        let is_it = |used: &&Used| used.schema == schema && used.key == key && used.origin == *origin;
        self.shapes.iter().rev().find(is_it).map(|used| used.shape.clone())
    }

    pub fn keep(&mut self, schema: Option<&ValueSchema>, origin: &Origin<'_>, key: &[&str], shape: Option<Arc<Shape>>) {
        let schema = schema.map(|schema| schema.number);
        self.shapes.retain(|used| !(used.schema == schema && used.key == key && used.origin == *origin));
        if self.shapes.len() == OF_LANE_MAX {
            self.shapes.remove(0);
        }
        self.shapes.push(Used {
            schema,
            origin: origin.to_static(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            shape,
        });
    }
}

/// What all lanes know.
pub struct Known {
    naming: Naming,
    additions: Additions,
    /// None where names say nothing of values without a schema.
    rules: Option<NameRules>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By their text.
    schemas: HashMap<String, Arc<ValueSchema>>,
    numbers: usize,
    shapes: HashMap<String, Arc<Shape>>,
    /// Kinds of fields without a schema, by the table's identity and field.
    guesses: HashMap<(String, String), Kind>,
    /// Whether the rows of a topic come in an envelope.
    topics: HashMap<String, bool>,
    /// Types of the columns of tables that are not as this program would have made them.
    targets: HashMap<TableName, Arc<Types>>,
}

impl Known {
    pub fn new(naming: Naming, additions: Additions, rules: Option<NameRules>) -> Known {
        Known { naming, additions, rules, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { schemas, shapes, guesses, topics, targets, .. } = &mut *held;
        if schemas.len().max(shapes.len()).max(guesses.len() / 16).max(topics.len()).max(targets.len()) > KNOWN_MAX {
            schemas.clear();
            shapes.clear();
            guesses.clear();
            topics.clear();
            targets.clear();
        }
        held
    }

    /// Whether the user says what tells rows apart, or that nothing does.
    pub fn tells_key(&self, origin: &Origin<'_>) -> bool {
        self.naming.key(&source_name(origin)).is_some()
    }

    fn schema(&self, text: &str) -> Result<Arc<ValueSchema>, Cause> {
        let mut held = self.held();
        if let Some(schema) = held.schemas.get(text) {
            return Ok(schema.clone());
        }
        held.numbers += 1;
        let schema = Arc::new(read_schema(text, held.numbers)?);
        held.schemas.insert(text.to_owned(), schema.clone());
        Ok(schema)
    }

    /// Whether rows of the topic come in an envelope, as far as any lane has seen.
    pub fn is_enveloped(&self, topic: &str) -> Option<bool> {
        self.held().topics.get(topic).copied()
    }

    pub fn note(&self, topic: &str, is_enveloped: bool) {
        self.held().topics.insert(topic.to_owned(), is_enveloped);
    }

    /// From now on values are written as these columns want them.
    pub fn note_target(&self, table: &TableName, types: Types) {
        let mut held = self.held();
        // Several lanes may find out about one table, each by itself.
        if held.targets.get(table).is_none_or(|known| **known != types) {
            held.targets.insert(table.clone(), Arc::new(types));
            held.shapes.clear();
        }
    }

    /// Whether a value that a guessed kind does not take would make another guess.
    pub fn may_become(&self, kind: &Kind, name: &str, json: &str) -> bool {
        let guess = Kind::guess(name, json, self.rules.as_ref());
        guess.is_some_and(|guess| matches!(guess.widening(kind.sql_type()), Widening::To(_)))
    }

    /// None where the table is left out. `values`: the row as it came, for what no schema says.
    pub fn shape(
        &self,
        schema: Option<&ValueSchema>,
        origin: &Origin<'_>,
        key: &[String],
        values: &[(String, &str)],
    ) -> Result<Option<Arc<Shape>>, Cause> {
        let Some(table) = self.naming.target(origin)? else { return Ok(None) };
        let mut held = self.held();
        let fields: Vec<Named> = match schema {
            Some(schema) => named(&schema.fields),
            None => {
                let source = identity(origin);
                let kind = |(name, json): &(String, &str)| {
                    let kind = held.guess(&source, name, json, self.rules.as_ref())?;
                    Ok((name.clone(), kind))
                };
                values.iter().map(kind).collect::<Result<_, Cause>>()?
            }
        };
        let kinds = fields.iter().map(|(name, kind)| (name, kind.as_ref().map(Kind::sql_type)));
        let id = format!("{:?}", (schema.map(|schema| schema.number), origin, key, kinds.collect::<Vec<_>>()));
        if let Some(shape) = held.shapes.get(&id) {
            return Ok(Some(shape.clone()));
        }
        let source = source_name(origin);
        let target = held.targets.get(&table).cloned();
        let fit = |(name, kind): Named| {
            let column = self.naming.column(&source, &name).ok().flatten();
            let have = column.and_then(|column| target.as_ref()?.get(&column));
            let kind = match (kind, have) {
                (Some(kind), Some(have)) => Some(fitted(kind, have)),
                (kind, _) => kind,
            };
            (name, kind)
        };
        let fields = fields.into_iter().map(fit).collect();
        let fields = Fields { table, fields, is_guess: schema.is_none(), fitted_to: target };
        let shape = Arc::new(Shape::new(&self.naming, &self.additions, origin, fields, key)?);
        held.shapes.insert(id, shape.clone());
        Ok(Some(shape))
    }
}

impl Held {
    /// What is known of the field, unless this value says more.
    fn guess(
        &mut self,
        source: &str,
        name: &str,
        json: &str,
        rules: Option<&NameRules>,
    ) -> Result<Option<Kind>, Cause> {
        let place = (source.to_owned(), name.to_owned());
        let former = self.guesses.get(&place);
        let Some(guess) = Kind::guess(name, json, rules) else { return Ok(former.cloned()) };
        let kind = match former {
            None => guess,
            Some(former) => match guess.widening(former.sql_type()) {
                // What was guessed of one number need not be true of the next.
                Widening::To(_) => guess,
                Widening::Fits | Widening::Perhaps(_) | Widening::No => former.clone(),
            },
        };
        self.guesses.insert(place, kind.clone());
        Ok(Some(kind))
    }
}

/// As a column wants it that takes all its values; one that has to be changed first is not asked.
fn fitted(kind: Kind, have: &str) -> Kind {
    let plain = kind.without_extension();
    match kind.widening(have) {
        _ if plain.sql_type() == have => plain,
        Widening::Fits | Widening::Perhaps(_) => kind.fitted(have),
        Widening::To(_) | Widening::No => kind,
    }
}

fn read_schema(text: &str, number: usize) -> Result<ValueSchema, Cause> {
    let broken = |rule: &str| Cause::new("cdc.schema", format!("the schema of the message {rule}"));
    let schema: serde_json::Value = serde_json::from_str(text).map_err(|_| broken("cannot be read"))?;
    let name = schema["name"].as_str().unwrap_or("");
    let aside = match name {
        "io.debezium.connector.common.Heartbeat" => Some("heartbeat"),
        "io.debezium.connector.common.TransactionMetadataValue" => Some("transaction"),
        name if name.ends_with(".SchemaChangeValue") || name.ends_with(".SchemaChangeKey") => Some("schema_change"),
        _ => None,
    };
    let fields = schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let find = |wanted: &str| fields.iter().find(|field| field["field"] == wanted);
    let is_enveloped = name.ends_with(".Envelope") || find("op").is_some() && find("source").is_some();
    let of_row = match (is_enveloped, find("after").or_else(|| find("before"))) {
        (false, _) => fields,
        (true, Some(row)) => row["fields"].as_array().map(Vec::as_slice).unwrap_or_default(),
        (true, None) if aside.is_some() => &[],
        (true, None) => return Err(broken("is of an envelope and has neither before nor after")),
    };
    if aside.is_none() && schema["type"] != "struct" {
        return Err(broken("is no struct"));
    }
    let fields = match aside {
        Some(_) => Vec::new(),
        None => of_row.iter().map(Field::read).collect::<Result<Vec<Field>, Cause>>()?,
    };
    Ok(ValueSchema { number, is_enveloped, fields, aside })
}
