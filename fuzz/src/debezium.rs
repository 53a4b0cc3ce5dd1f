//! A field of a change event: a schema or a name, the type of a column, and a value. Whatever they are, what is written
//! is UTF-8 without a NUL, a value that is refused has written nothing, and its cause does not show it. An object is read as the
//! library reads it, and may also be a whole message.

use std::collections::HashMap;

use serde_json::value::RawValue;
use sluicegate::decode::debezium::{Field, Kind, Modes, NameRules, Widening, Written, fields, read};

/// What a cause may be long: a rule, and the name of a type.
const CAUSE_BYTES_MAX: usize = 1_000;

/// A line with the schema, or the name of a field without one; a line with the type of a column; the value.
pub fn run(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let mut lines = input.splitn(3, '\n');
    let (Some(first), Some(column), Some(value)) = (lines.next(), lines.next(), lines.next()) else { return };
    message(value);
    let Ok(value) = serde_json::from_str::<&RawValue>(value) else { return };
    let kind = match serde_json::from_str(first).map(|schema| Field::read(&schema)) {
        Ok(Ok(field)) => field.kind,
        Ok(Err(cause)) => {
            assert_eq!(cause.code, "cdc.schema");
            return;
        }
        Err(_) => match Kind::guess(first, value.get(), Some(&NameRules::default())) {
            Some(kind) => kind,
            None => return assert_eq!(value.get(), "null"),
        },
    };
    assert_eq!(kind.widening(kind.sql_type()), Widening::Fits, "{kind:?}");
    assert_eq!(kind.without_extension().extension(), None, "{kind:?}");
    for kind in [kind.fitted(column), kind.without_extension(), kind] {
        if let Widening::To(wider) | Widening::Perhaps(wider) = kind.widening(column) {
            assert!(!wider.is_empty() && wider != column, "{kind:?} to {column}");
        }
        write(&kind, value.get());
    }
}

fn message(json: &str) {
    let known = serde_json::from_str::<HashMap<String, &RawValue>>(json).ok();
    let found = fields(json).ok();
    assert_eq!(found.is_some(), known.is_some(), "{json}");
    // Of a name that is there twice both have the last value. Names that the connector has mangled are put right.
    for (name, value) in found.into_iter().flatten().collect::<HashMap<_, _>>() {
        let same = known.as_ref().and_then(|known| known.get(&*name)).map(|value| value.get());
        assert!(same == Some(value) || !name.is_ascii(), "{json}");
    }
    for is_enveloped in [None, Some(true), Some(false)] {
        let is_read = read(json, is_enveloped).is_ok();
        assert!(!is_read || known.is_some(), "{json}");
    }
}

fn write(kind: &Kind, json: &str) {
    let mut out = b"before".to_vec();
    let written = kind.write(json, &Modes::default(), &mut out);
    let text = out.strip_prefix(b"before").expect("what stood there is kept");
    match written {
        Ok(Written::Value) => {
            assert!(std::str::from_utf8(text).is_ok_and(|text| !text.contains('\0')), "{kind:?} of {json}");
        }
        Ok(Written::Null) => assert_eq!((json, text), ("null", &b""[..])),
        Ok(Written::Unchanged) => assert!(text.is_empty(), "{kind:?} of {json}"),
        Err(cause) => {
            assert!(text.is_empty() && ["cdc.value", "cdc.nul"].contains(&&*cause.code), "{kind:?} of {json}: {cause}");
            assert!(cause.text.len() <= CAUSE_BYTES_MAX, "{cause}");
        }
    }
}
