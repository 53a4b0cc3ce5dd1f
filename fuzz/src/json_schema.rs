//! Any record under JSON Schemas: a verdict in a bounded text that repeats nothing of the record; and where the rules are
//! so few that they can be said in a line, the right one.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;
use sluicegate::decode::schema::JsonSchema;

use super::memory;

const EVENT: &str = include_str!("../../schema/event.schema.json");
const ORDER: &str = include_str!("../../schema/order.schema.json");
const TICKET: &str = include_str!("../../schema/ticket.schema.json");
/// One of each kind of rule, and one that comes back to itself.
const RULES: &str = r##"{"$defs": {"tree": {"type": "object", "maxProperties": 4, "additionalProperties": {"$ref": "#/$defs/tree"}}},
    "type": "object", "minProperties": 1, "propertyNames": {"maxLength": 12}, "required": ["kind"],
    "patternProperties": {"^x-": {"type": ["string", "null"], "pattern": "^[a-z]+$"}},
    "properties": {"kind": {"const": "tree"}, "tree": {"$ref": "#/$defs/tree"},
        "at": {"format": "date-time"}, "mail": {"format": "email"}, "host": {"format": "ipv4"},
        "list": {"type": "array", "uniqueItems": true, "maxItems": 8, "items": {"multipleOf": 0.5}, "contains": {"const": 1}},
        "any": {"oneOf": [{"type": "integer"}, {"type": "number", "exclusiveMinimum": 0}]},
        "not": {"not": {"type": "boolean"}}},
    "if": {"required": ["tree"]}, "then": {"required": ["at"]}, "dependentRequired": {"mail": ["host"]}}"##;

/// Our own words beside those of the schemas.
const WORDS: &str = "is not JSON: line column the whole breaks and more";
/// The patterns of a schema keep what they have worked with.
const MEMORY_BYTES: usize = 4 << 20;
/// Places and rules of five flaws.
const TEXT_BYTES_MAX: usize = 1_000;

static SCHEMAS: LazyLock<[(JsonSchema, &str); 4]> = LazyLock::new(|| {
    [EVENT, ORDER, TICKET, RULES].map(|text| (JsonSchema::new(text).expect("a schema"), text))
});

pub fn run(json: &[u8]) {
    let schemas = &*SCHEMAS;
    let value = serde_json::from_slice::<Value>(json).ok();
    let mut names = BTreeSet::new();
    value.iter().for_each(|value| collect(value, &mut names));
    for (schema, rules) in schemas {
        // A value is some 70 bytes for two of its text.
        let verdict = memory::at_most(MEMORY_BYTES + 256 * json.len(), || schema.check(json));
        assert!(value.is_some() || verdict.is_err(), "serde_json reads nothing");
        let Err(cause) = verdict else { continue };
        assert_eq!(&*cause.code, if value.is_some() { "json.schema" } else { "json.invalid" });
        assert!(cause.text.len() <= TEXT_BYTES_MAX && !cause.text.chars().any(char::is_control), "{cause}");
        let said = names.iter().find(|word| {
            let is_ours = rules.contains(&***word) || WORDS.contains(&***word);
            !is_ours && cause.text.contains(&***word)
        });
        assert_eq!(said, None, "{cause}");
    }
    let is_event = value.as_ref().and_then(Value::as_object).map(|event| event.get("type").is_none_or(Value::is_string));
    assert_eq!(schemas[0].0.check(json).is_ok(), is_event == Some(true));
}

/// Words that nobody comes by without having read the record.
fn collect(value: &Value, words: &mut BTreeSet<String>) {
    let mut add = |text: &str| {
        let long = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() >= 6);
        words.extend(long.filter(|word| word.chars().any(char::is_alphabetic)).map(str::to_owned));
    };
    match value {
        Value::String(text) => add(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, words)),
        Value::Object(fields) => {
            fields.keys().for_each(|name| add(name));
            fields.values().for_each(|value| collect(value, words));
        }
        _ => {}
    }
}
