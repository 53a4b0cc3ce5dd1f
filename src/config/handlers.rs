//! What is done with each event, as it is configured: a list of handlers, checked down to each path and each type. What
//! a handler does is not known here.

use std::fmt;

use serde_json::{Map, Value};

use super::keys::nearest;
use super::kind::{self, Flaw};

/// What stands in a list of handlers.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    /// The record is done, and nothing behind this has an effect.
    Drop { path: Path, test: Test },
    /// A row. Without a name or columns, those of the flow.
    Table { table: Option<String>, columns: Vec<Column> },
    /// A statement or a function for each record.
    Sql { sql: String, params: Vec<Column> },
    /// A message with the record's payload.
    Forward { topic: String, key: Option<Path> },
    /// Failures to try things out with, the same for each message whenever it comes.
    Fail { transient_percent: f64, permanent_percent: f64 },
}

/// When a record is dropped.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    Exists(bool),
    OneOf(Vec<Value>),
}

/// A value and what it is written as. A parameter has no name.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub path: Path,
    pub kind: Type,
    pub required: bool,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// A JSON pointer into the payload, in its parts; none is the whole of it.
    Json(Vec<String>),
    Header(String),
    Key,
    Topic,
    Partition,
    Offset,
    Timestamp,
    MessageId,
    Attempt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Bigint,
    Integer,
    Double,
    Numeric,
    Boolean,
    Timestamptz,
    Uuid,
    Jsonb,
}

impl Type {
    const ALL: [(&'static str, Type); 9] = [
        ("text", Type::Text),
        ("bigint", Type::Bigint),
        ("integer", Type::Integer),
        ("double", Type::Double),
        ("numeric", Type::Numeric),
        ("boolean", Type::Boolean),
        ("timestamptz", Type::Timestamptz),
        ("uuid", Type::Uuid),
        ("jsonb", Type::Jsonb),
    ];
}

const WORDS: [(&str, Path); 7] = [
    ("@key", Path::Key),
    ("@topic", Path::Topic),
    ("@partition", Path::Partition),
    ("@offset", Path::Offset),
    ("@timestamp", Path::Timestamp),
    ("@message_id", Path::MessageId),
    ("@attempt", Path::Attempt),
];
const HEADERS: &str = "@headers/";
const PATH_CURE: &str = "write a JSON pointer as /user/id, or @key, @headers/NAME, @timestamp, @message_id, @topic, \
                         @partition, @offset or @attempt";

impl Path {
    pub fn read(text: &str) -> Result<Path, Flaw> {
        let flaw = |rule: &str| Err(Flaw::new(rule, PATH_CURE));
        if let Some(name) = text.strip_prefix(HEADERS) {
            return if name.is_empty() { flaw("names no header") } else { Ok(Path::Header(name.to_owned())) };
        }
        if text.starts_with('@') {
            let found = WORDS.iter().find(|(word, _)| *word == text);
            return found.map_or_else(|| flaw("is no part of a record"), |(_, path)| Ok(path.clone()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return if text.is_empty() { Ok(Path::Json(Vec::new())) } else { flaw("is not a path") };
        };
        let part = |part: &str| part.replace("~1", "/").replace("~0", "~");
        Ok(Path::Json(rest.split('/').map(part).collect()))
    }
}

/// As it was written, near enough to find it.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Json(parts) if parts.is_empty() => write!(f, "the payload"),
            Path::Json(parts) => parts.iter().try_for_each(|part| write!(f, "/{part}")),
            Path::Header(name) => write!(f, "{HEADERS}{name}"),
            word => write!(f, "{}", WORDS.iter().find(|(_, path)| path == word).map_or("", |(name, _)| name)),
        }
    }
}

/// For a list of paths in the environment or a file.
pub fn path(text: &str) -> Result<(), Flaw> {
    Path::read(text).map(drop)
}

/// One thing that is wrong, and where below the key.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub place: String,
    pub value: Option<String>,
    pub flaw: Flaw,
}

/// The handlers that were written, or everything that is wrong with them.
pub fn read(written: &Value) -> Result<Vec<Handler>, Vec<Found>> {
    let mut found = Vec::new();
    let handlers = match written {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| handler(&At::new(format!("[{index}]"), item), &mut found))
            .collect(),
        other => {
            At::new(String::new(), other).flaw(&mut found, "must be a list of handlers", "write a list");
            Vec::new()
        }
    };
    if found.is_empty() { Ok(handlers) } else { Err(found) }
}

/// A value, and where it was written.
struct At<'a> {
    place: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    fn new(place: String, value: &'a Value) -> Self {
        At { place, value }
    }

    fn flaw(&self, found: &mut Vec<Found>, rule: impl Into<String>, cure: impl Into<String>) {
        let value = (!self.value.is_object()).then(|| self.value.to_string());
        found.push(Found { place: self.place.clone(), value, flaw: Flaw::new(rule, cure) });
    }

    fn object(&self, found: &mut Vec<Found>) -> Option<&'a Map<String, Value>> {
        if !self.value.is_object() {
            self.flaw(found, "must be a section", "write `name: value` lines");
        }
        self.value.as_object()
    }

    fn part(&self, name: &str) -> Option<At<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(At::new(format!("{}.{name}", self.place), value))
    }

    /// A part that has to be there.
    fn needed(&self, name: &str, found: &mut Vec<Found>) -> Option<At<'a>> {
        let part = self.part(name);
        if part.is_none() {
            let flaw = Flaw::new("is not given", "every handler of this kind needs it");
            found.push(Found { place: format!("{}.{name}", self.place), value: None, flaw });
        }
        part
    }

    fn known(&self, names: &[&str], found: &mut Vec<Found>) {
        for (name, value) in self.value.as_object().into_iter().flatten() {
            if !names.contains(&name.as_str()) {
                let cure = match nearest(name, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("what it has: {}", names.join(", ")),
                };
                At::new(format!("{}.{name}", self.place), value).flaw(found, "is not a part of it", cure);
            }
        }
    }

    fn text(&self, found: &mut Vec<Found>, rule: kind::Rule) -> Option<String> {
        let Some(text) = self.value.as_str() else {
            self.flaw(found, "must be text", "put it in quotes");
            return None;
        };
        match kind::plain(text).and_then(|()| rule(text)) {
            Ok(()) => Some(text.to_owned()),
            Err(flaw) => {
                self.flaw(found, flaw.rule, flaw.cure);
                None
            }
        }
    }

    fn path(&self, found: &mut Vec<Found>) -> Option<Path> {
        Path::read(&self.text(found, path)?).ok()
    }

    fn is_true(&self, found: &mut Vec<Found>) -> Option<bool> {
        if !self.value.is_boolean() {
            self.flaw(found, "must be true or false", "write true or false");
        }
        self.value.as_bool()
    }

    fn items(&self, found: &mut Vec<Found>) -> Vec<At<'a>> {
        let Some(items) = self.value.as_array() else {
            self.flaw(found, "must be a list", "write a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| At::new(format!("{}[{index}]", self.place), item)).collect()
    }

    fn percent(&self, name: &str, found: &mut Vec<Found>) -> Option<f64> {
        let Some(part) = self.part(name) else { return Some(0.0) };
        let percent = part.value.as_f64().filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            part.flaw(found, "must be a number from 0 to 100", "write a share of all messages");
        }
        percent
    }
}

const KINDS: [(&str, &[&str]); 5] = [
    ("drop", &["kind", "path", "equals", "exists", "one_of"]),
    ("table", &["kind", "table", "columns"]),
    ("sql", &["kind", "sql", "params"]),
    ("forward", &["kind", "topic", "key"]),
    ("fail", &["kind", "transient_percent", "permanent_percent"]),
];

fn handler(at: &At<'_>, found: &mut Vec<Found>) -> Option<Handler> {
    at.object(found)?;
    let kind = at.needed("kind", found)?;
    let Some((word, parts)) = KINDS.iter().find(|(word, _)| kind.value.as_str() == Some(word)) else {
        let words = KINDS.map(|(word, _)| word).join(", ");
        kind.flaw(found, format!("must be one of {words}"), "write one of these words");
        return None;
    };
    at.known(parts, found);
    match *word {
        "drop" => {
            let path = at.needed("path", found).and_then(|part| part.path(found));
            let test = test(at, found);
            Some(Handler::Drop { path: path?, test: test? })
        }
        "table" => {
            let table = at.part("table").map(|part| part.text(found, kind::table));
            let columns = at.part("columns").map_or_else(Vec::new, |part| columns(&part, true, found));
            Some(Handler::Table { table: table.flatten(), columns })
        }
        "sql" => {
            let sql = at.needed("sql", found).and_then(|part| part.text(found, kind::not_empty));
            let params = at.part("params").map_or_else(Vec::new, |part| columns(&part, false, found));
            Some(Handler::Sql { sql: sql?, params })
        }
        "forward" => {
            let topic = at.needed("topic", found).and_then(|part| part.text(found, kind::topic));
            let key = at.part("key").map(|part| part.path(found));
            Some(Handler::Forward { topic: topic?, key: key.flatten() })
        }
        _ => {
            let transient = at.percent("transient_percent", found);
            let permanent = at.percent("permanent_percent", found);
            Some(Handler::Fail { transient_percent: transient?, permanent_percent: permanent? })
        }
    }
}

fn test(at: &At<'_>, found: &mut Vec<Found>) -> Option<Test> {
    let given: Vec<At<'_>> = ["equals", "exists", "one_of"].into_iter().filter_map(|name| at.part(name)).collect();
    let [part] = given.as_slice() else {
        at.flaw(found, "needs one condition", "give it one of equals, exists and one_of");
        return None;
    };
    match part.place.rsplit('.').next() {
        Some("equals") => Some(Test::OneOf(vec![part.value.clone()])),
        Some("exists") => part.is_true(found).map(Test::Exists),
        _ => Some(Test::OneOf(part.items(found).into_iter().map(|item| item.value.clone()).collect())),
    }
}

/// Columns have names, parameters have none.
fn columns(at: &At<'_>, are_named: bool, found: &mut Vec<Found>) -> Vec<Column> {
    let parts: &[&str] = if are_named { &["name", "path", "type", "required"] } else { &["path", "type", "required"] };
    let mut columns: Vec<Column> = Vec::new();
    for item in at.items(found) {
        if item.object(found).is_none() {
            continue;
        }
        item.known(parts, found);
        let name = match are_named {
            true => item.needed("name", found).and_then(|part| part.text(found, kind::table)),
            false => Some(String::new()),
        };
        let path = item.needed("path", found).and_then(|part| part.path(found));
        let kind = item.needed("type", found).and_then(|part| {
            let kind = Type::ALL.iter().find(|(word, _)| part.value.as_str() == Some(word));
            if kind.is_none() {
                let words = Type::ALL.map(|(word, _)| word).join(", ");
                part.flaw(found, format!("must be one of {words}"), "write one of these words");
            }
            kind.map(|(_, kind)| *kind)
        });
        let required = item.part("required").map_or(Some(false), |part| part.is_true(found));
        let (Some(name), Some(path), Some(kind), Some(required)) = (name, path, kind, required) else { continue };
        if are_named && columns.iter().any(|column| column.name == name) {
            item.flaw(found, format!("names column \"{name}\" a second time"), "keep one of the two");
        }
        columns.push(Column { name, path, kind, required });
    }
    columns
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_right_is_read_down_to_its_paths() {
        let read = read(&json!([
            {"kind": "drop", "path": "/type", "one_of": ["ping", 7]},
            {"kind": "fail", "transient_percent": 5},
            {"kind": "table", "table": "app.events", "columns": [
                {"name": "id", "path": "@message_id", "type": "text", "required": true},
                {"name": "odd", "path": "/a~1b/~0/0", "type": "numeric"},
                {"name": "whole", "path": "", "type": "jsonb"}]},
            {"kind": "sql", "sql": "SELECT note($1)", "params": [{"path": "@headers/source", "type": "text"}]},
            {"kind": "forward", "topic": "others", "key": "/user"},
        ]));
        let json = |parts: &[&str]| Path::Json(parts.iter().map(|part| part.to_string()).collect());
        let column = |name: &str, path, kind, required| Column { name: name.to_owned(), path, kind, required };
        assert_eq!(
            read.unwrap(),
            [
                Handler::Drop { path: json(&["type"]), test: Test::OneOf(vec!["ping".into(), 7.into()]) },
                Handler::Fail { transient_percent: 5.0, permanent_percent: 0.0 },
                Handler::Table {
                    table: Some("app.events".into()),
                    columns: vec![
                        column("id", Path::MessageId, Type::Text, true),
                        column("odd", json(&["a/b", "~", "0"]), Type::Numeric, false),
                        column("whole", json(&[]), Type::Jsonb, false),
                    ],
                },
                Handler::Sql {
                    sql: "SELECT note($1)".into(),
                    params: vec![column("", Path::Header("source".into()), Type::Text, false)],
                },
                Handler::Forward { topic: "others".into(), key: Some(json(&["user"])) },
            ]
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let found = read(&json!([
            7,
            {"kind": "tabel"},
            {"kind": "drop", "path": "type", "equals": 1, "exists": true},
            {"kind": "table", "colums": [], "columns": [
                {"name": "A", "path": "@offest", "type": "int"}, {"name": "b", "path": "/b", "type": "text"},
                {"name": "b", "path": "/c", "type": "text", "required": "yes"}]},
            {"kind": "sql"},
            {"kind": "forward", "topic": "a b"},
            {"kind": "fail", "permanent_percent": 101},
        ]))
        .unwrap_err();
        let told: Vec<String> = found.iter().map(|found| format!("{} {}", found.place, found.flaw.rule)).collect();
        assert_eq!(
            told,
            [
                "[0] must be a section",
                "[1].kind must be one of drop, table, sql, forward, fail",
                "[2].path is not a path",
                "[2] needs one condition",
                "[3].colums is not a part of it",
                "[3].columns[0].name is not a table name that works without quotes",
                "[3].columns[0].path is no part of a record",
                "[3].columns[0].type must be one of text, bigint, integer, double, numeric, boolean, timestamptz, uuid, jsonb",
                "[3].columns[2].required must be true or false",
                "[4].sql is not given",
                "[5].topic is not a legal topic name",
                "[6].permanent_percent must be a number from 0 to 100",
            ]
        );
        assert_eq!(found[4].flaw.cure, "did you mean `columns`?");
        assert_eq!(found[11].value.as_deref(), Some("101"));
        assert_eq!(read(&json!({})).unwrap_err()[0].flaw.rule, "must be a list of handlers");
    }
}
