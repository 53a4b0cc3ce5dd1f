//! Every type of the connector in every mode, and what each must not take.

use super::*;

fn field(schema: &str) -> Field {
    Field::read(&serde_json::from_str(schema).unwrap()).unwrap()
}

fn text(kind: &Kind, json: &str) -> String {
    let mut out = Vec::new();
    match kind.write(json, &Modes::default(), &mut out) {
        Ok(Written::Value) => String::from_utf8(out).unwrap(),
        Ok(other) => format!("{other:?}"),
        Err(cause) => cause.code.into_owned(),
    }
}

#[test]
fn plain_types_are_copied() {
    let kind = field(r#"{"field":"id","type":"int32","optional":false}"#).kind;
    assert_eq!((kind.sql_type(), &*text(&kind, "-7")), ("integer", "-7"));
}
