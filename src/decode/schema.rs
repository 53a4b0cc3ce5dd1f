//! The operator's own rules for JSON records, as a JSON Schema: compiled once, and each record held against it. What is
//! said of a record that breaks a rule is where and which, and never what was there.

use std::path::Path;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

use crate::fault::Cause;

/// Of a record that breaks more rules than this, the others are not told.
const TOLD_MAX: usize = 5;
/// A rule's value is shown up to this length.
const RULE_CHARS_MAX: usize = 60;

pub struct JsonSchema {
    validator: Validator,
    text: Value,
    /// Every name in the schema: what a record calls its fields beside these is not repeated.
    names: Vec<String>,
}

impl JsonSchema {
    pub fn read(file: &Path) -> Result<Self, Cause> {
        let problem = |error: String| Cause::new("config.json_schema_file", format!("{}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| problem(error.to_string()))?;
        JsonSchema::new(&text).map_err(problem)
    }

    /// Or why it is no schema. It may refer to its own parts and to nothing outside.
    pub fn new(text: &str) -> Result<Self, String> {
        let text: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let options = jsonschema::options().should_validate_formats(true);
        let validator = options.build(&text).map_err(|error| format!("is no JSON Schema: {error}"))?;
        let mut names = Vec::new();
        collect_names(&text, &mut names);
        Ok(JsonSchema { validator, text, names })
    }

    /// Whether a record keeps all rules; or which it breaks, and where.
    pub fn check(&self, payload: &[u8]) -> Result<(), Cause> {
        let value: Value = serde_json::from_slice(payload).map_err(|error| {
            let text = format!("is not JSON: line {} column {}", error.line(), error.column());
            Cause::new("json.invalid", text)
        })?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let mut broken: Vec<String> = Vec::new();
        for error in self.validator.iter_errors(&value) {
            if broken.len() == TOLD_MAX {
                broken.push("and more".to_owned());
                break;
            }
            let place = self.place(error.instance_path().as_str());
            broken.push(format!("{place} breaks {}", self.rule(error.kind(), error.schema_path().as_str())));
        }
        Err(Cause::new("json.schema", broken.join("; ")))
    }

    fn place(&self, path: &str) -> String {
        let known = |name: &str| {
            let plain = name.replace("~1", "/").replace("~0", "~");
            let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
            if is_number || self.names.contains(&plain) { name.to_owned() } else { "*".to_owned() }
        };
        match path.is_empty() {
            true => "the whole".to_owned(),
            false => path.split('/').skip(1).map(|name| format!("/{}", known(name))).collect(),
        }
    }

    /// In the schema's own words.
    fn rule(&self, kind: &ValidationErrorKind, path: &str) -> String {
        let word = path.rsplit('/').next().unwrap_or_default();
        if let ValidationErrorKind::Required { property } = kind {
            return format!("{word} {property}");
        }
        let shown = match self.text.pointer(path) {
            Some(Value::Object(_)) | None => String::new(),
            Some(value) => value.to_string(),
        };
        match shown.is_empty() || shown.chars().count() > RULE_CHARS_MAX {
            true => word.to_owned(),
            false => format!("{word} {shown}"),
        }
    }
}

fn collect_names(schema: &Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            names.push(name.clone());
            collect_names(value, names);
        }),
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(schema: &str, json: &str) -> String {
        JsonSchema::new(schema)
            .unwrap()
            .check(json.as_bytes())
            .map_or_else(|cause| cause.to_string(), |()| String::new())
    }

    #[test]
    fn violations_are_told_by_place_and_rule_and_never_by_value() {
        let schema = r##"{"$defs": {"sum": {"type": "number", "minimum": 0}},
            "type": "object", "required": ["id"], "additionalProperties": {"type": "integer"},
            "properties": {"id": {"type": "string", "format": "uuid"}, "sum": {"$ref": "#/$defs/sum"},
                "list": {"items": {"enum": ["a", "b"]}}}}"##;
        assert_eq!(told(schema, r#"{"id": "018f3f2e-7a2b-7c3d-8e4f-5a6b7c8d9e0f", "sum": 1, "list": ["a"]}"#), "");
        assert_eq!(told(schema, "{}"), r#"the whole breaks required "id" (json.schema)"#);
        let all = told(schema, r#"{"id": "canary", "sum": -77777, "list": ["a", "canary"], "canary-name": "canary"}"#);
        for part in
            [r#"/id breaks format "uuid""#, "/sum breaks minimum", r#"/list/1 breaks enum ["a","b"]"#, "/* breaks type"]
        {
            assert!(all.contains(part), "{all}");
        }
        assert!(!all.contains("canary") && !all.contains("77777"), "{all}");
        assert!(told(schema, "{\"id\": canary").starts_with("is not JSON: line 1"));
        let many = told(r#"{"items": {"type": "string"}}"#, "[1,2,3,4,5,6,7,8]");
        assert_eq!((many.matches("breaks").count(), many.contains("and more")), (TOLD_MAX, true), "{many}");
    }

    #[test]
    fn what_is_no_schema_and_what_lies_outside_is_refused() {
        for bad in [
            "{",
            "7",
            r#"{"type": 7}"#,
            r#"{"$ref": "https://example.org/schema.json"}"#,
            r#"{"$ref": "file:///etc/passwd"}"#,
        ] {
            assert!(JsonSchema::new(bad).is_err(), "{bad}");
        }
    }

    /// The contracts in `schema/` are those that the flows' own records keep.
    #[test]
    fn made_up_records_keep_the_schemas_that_are_shipped() {
        for (flow, text) in [
            ("events", include_str!("../../schema/event.schema.json")),
            ("orders", include_str!("../../schema/order.schema.json")),
            ("tickets", include_str!("../../schema/ticket.schema.json")),
        ] {
            let (schema, sample) = (JsonSchema::new(text).unwrap(), crate::flow::sample(flow, None).unwrap());
            let mut payload = Vec::new();
            sample.payload(5, &mut payload);
            assert_eq!(schema.check(&payload), Ok(()), "{flow}");
            let cut = String::from_utf8(payload).unwrap().replacen("_id", "_ie", 1).replacen(
                "\"type\":\"",
                "\"type\":1,\"x\":\"",
                1,
            );
            assert!(schema.check(cut.as_bytes()).is_err(), "{flow}: {cut}");
        }
    }
}
