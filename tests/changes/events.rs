//! Made-up events, as the connector sends them through JsonConverter with schemas.

use serde_json::{Value, json};

use crate::target::Event;

/// What PostgreSQL logs begins at multiples of it.
pub const LOG_STEP: i64 = 8;

/// A table of a source: its name and the fields of its rows, each with the type of its schema.
pub struct Table {
    pub schema: String,
    pub name: String,
    pub fields: Vec<(String, Value)>,
    /// Names of the fields of its key.
    pub key: Vec<String>,
}

pub fn plain(kind: &str) -> Value {
    json!({"type": kind, "optional": true})
}

pub fn semantic(kind: &str, name: &str) -> Value {
    json!({"type": kind, "optional": true, "name": name, "version": 1})
}

impl Table {
    pub fn new(name: &str, key: &[&str], fields: &[(&str, Value)]) -> Table {
        Table {
            schema: "public".to_owned(),
            name: name.to_owned(),
            fields: fields.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    pub fn topic(&self) -> String {
        format!("cdc.{}.{}", self.schema, self.name)
    }

    fn fields(&self, only: impl Fn(&str) -> bool) -> Vec<Value> {
        let field = |(name, kind): &(String, Value)| {
            let mut field = kind.clone();
            field["field"] = json!(name);
            field
        };
        self.fields.iter().filter(|(name, _)| only(name)).map(field).collect()
    }

    fn key(&self, row: &Value) -> Option<String> {
        if self.key.is_empty() {
            return None;
        }
        let fields = self.fields(|name| self.key.iter().any(|key| key == name));
        let payload: serde_json::Map<String, Value> =
            self.key.iter().map(|name| (name.clone(), row[name].clone())).collect();
        let schema =
            json!({"type": "struct", "fields": fields, "optional": false, "name": format!("{}.Key", self.topic())});
        Some(format!("{{\"schema\":{schema},\"payload\":{}}}", Value::Object(payload)))
    }

    pub fn event(&self, op: &str, before: Value, after: Value, lsn: i64) -> Event {
        let row = |field: &str| {
            json!({"type": "struct", "fields": self.fields(|_| true), "optional": true, "name": format!("{}.Value", self.topic()),
                "field": field})
        };
        let schema = json!({"type": "struct", "name": format!("{}.Envelope", self.topic()), "optional": false,
            "fields": [row("before"), row("after"), {"type": "struct", "field": "source", "fields": []},
                {"type": "string", "field": "op"}]});
        let payload = self.payload(op, &before, &after, lsn);
        let key = self.key(if after.is_null() { &before } else { &after }).filter(|_| op != "t");
        (key, Some(format!("{{\"schema\":{schema},\"payload\":{payload}}}")), Vec::new())
    }

    /// The same without schemas.
    pub fn bare(&self, op: &str, before: Value, after: Value, lsn: i64) -> Event {
        let row = if after.is_null() { &before } else { &after };
        let key: serde_json::Map<String, Value> =
            self.key.iter().map(|name| (name.clone(), row[name].clone())).collect();
        let key = Some(Value::Object(key).to_string()).filter(|_| !self.key.is_empty() && op != "t");
        (key, Some(self.payload(op, &before, &after, lsn).to_string()), Vec::new())
    }

    fn payload(&self, op: &str, before: &Value, after: &Value, lsn: i64) -> Value {
        json!({"before": before, "after": after, "op": op, "ts_ms": 1_795_000_000_000i64 + lsn,
            "source": {"connector": "postgresql", "name": "cdc", "db": "shop", "schema": self.schema, "table": self.name,
                "lsn": lsn * LOG_STEP, "ts_ms": 1_795_000_000_000i64 + lsn, "snapshot": if op == "r" { "true" } else { "false" }}})
    }
}

/// What follows a deletion.
pub fn tombstone(event: &Event) -> Event {
    (event.0.clone(), None, event.2.clone())
}

/// With a header.
pub fn with(event: Event, name: &str, value: &str) -> Event {
    let (key, payload, mut headers) = event;
    headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
    (key, payload, headers)
}
