//! What change events say of their fields, and values as the text that PostgreSQL reads: schemas of Kafka Connect with
//! the semantic types of Debezium, in every mode of its PostgreSQL connector, and payloads without a schema.
//! A text is right when the server's input function makes of it what the source had. What only the server can judge (an
//! address, a range, the label of an enum) is passed on and left to it; envelopes, keys and tables are the flow's.

mod column;
mod envelope;
mod name;
mod number;
mod scan;
mod schema;
mod text;
mod time;
mod value;

#[cfg(test)]
mod tests;

use crate::fault::Cause;

pub use column::Widening;
pub use envelope::{Change, Fields, Image, Message, Op, Origin, fields, payload_behind, read, unwrap};
use value::{Flaw, Form};

/// How a field of type string holds what was bytea.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binary {
    /// Of type bytes, which the converter to JSON makes base64.
    #[default]
    Bytes,
    Base64,
    Base64Url,
    Hex,
}

/// What a number without a schema means in a column of time: `time.precision.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Milliseconds for a column of up to three digits of a second, microseconds for others.
    #[default]
    Adaptive,
    /// The same, but for times of a day, which are in microseconds.
    AdaptiveMicros,
    /// As Kafka Connect has them: milliseconds.
    Connect,
    Micros,
    Nanos,
}

/// What a count of time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Milli,
    Micro,
    Nano,
}

/// How a text holds a decimal, in a payload without a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decimals {
    /// Unscaled, in base64.
    #[default]
    Precise,
    Digits,
}

/// What of the connector's modes cannot be seen in an event.
#[derive(Clone, Debug)]
pub struct Modes {
    pub binary: Binary,
    pub decimals: Decimals,
    pub precision: Precision,
    unchanged: Vec<String>,
    /// The shortest of these.
    unchanged_len_min: usize,
}

/// What the connector puts where a large value was not changed and therefore not logged.
const UNCHANGED: &str = "__debezium_unavailable_value";
/// The id that stands for it in arrays of ids: made of the MD5 of the usual placeholder.
const UNCHANGED_ID: &str = r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#;

impl Modes {
    /// `unchanged` is the connector's `unavailable.value.placeholder`.
    pub fn new(unchanged: &str) -> Self {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (plain, base64) = (quoted(unchanged), quoted(&text::to_base64(unchanged.as_bytes())));
        let numbers: Vec<String> = unchanged.bytes().map(|byte| (byte as i8).to_string()).collect();
        let pair = format!("{{{plain}:{plain}}}");
        let lists = [format!("[{plain}]"), format!("[{base64}]"), format!("[{}]", numbers.join(","))];
        let mut unchanged_forms = vec![quoted(&pair), pair, plain, base64];
        unchanged_forms.extend(lists);
        if unchanged == UNCHANGED {
            unchanged_forms.push(UNCHANGED_ID.to_owned());
        }
        let (binary, decimals, precision) = (Binary::default(), Decimals::default(), Precision::default());
        let unchanged_len_min = unchanged_forms.iter().map(String::len).min().unwrap_or(0);
        Modes { binary, decimals, precision, unchanged: unchanged_forms, unchanged_len_min }
    }

    /// What a number counts in a column of time, by whether that has a day, and not more than three digits of a second.
    fn unit(&self, is_dated: bool, is_coarse: bool) -> Unit {
        match self.precision {
            Precision::Connect => Unit::Milli,
            Precision::Nanos => Unit::Nano,
            Precision::Adaptive if is_coarse => Unit::Milli,
            Precision::AdaptiveMicros if is_coarse && is_dated => Unit::Milli,
            Precision::Adaptive | Precision::AdaptiveMicros | Precision::Micros => Unit::Micro,
        }
    }

    /// The placeholder in one of the forms that it takes, by the type of its field.
    fn is_unchanged(&self, json: &str) -> bool {
        json.len() >= self.unchanged_len_min && self.unchanged.iter().any(|form| form == json)
    }
}

impl Default for Modes {
    fn default() -> Self {
        Modes::new(UNCHANGED)
    }
}

/// How many bytes of text may come out of some JSON. A value of a few bytes stands for megabytes where a schema says so,
/// and many of them for more than there is memory; what a connector sends of real rows comes to a tenth of this.
pub fn unfolded_max(json_bytes: usize) -> usize {
    const TIMES: usize = 16;
    const BYTES: usize = 64 << 20;
    json_bytes * TIMES + BYTES
}

/// What names say of values without a schema: `price`, `amount` and `total` are decimals in base64 (or plain digits),
/// `*_at` are microseconds since 1970 (or a text that is a moment), `__deleted` is true or false, in quotes or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRules {
    /// Digits behind the point of a decimal in base64, which does not say it itself.
    pub scale: u32,
}

impl Default for NameRules {
    fn default() -> Self {
        NameRules { scale: 2 }
    }
}

/// A field of a Connect schema: what its JSON means and which column it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub is_optional: bool,
    pub kind: Kind,
}

/// What the JSON of a value means, and the type of the column that it goes into.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    form: Form,
    column: String,
    /// The type as the event has it, for people.
    name: String,
    /// One value was seen, and others of the field may look different.
    is_guess: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Null,
    Value,
    /// The column keeps what it has.
    Unchanged,
}

impl Field {
    /// One entry of a schema's "fields".
    pub fn read(schema: &serde_json::Value) -> Result<Field, Cause> {
        schema::field(schema)
    }
}

/// How the names of kinds end that a rule for names told.
const BY_NAME: &str = " by its name";

impl Kind {
    fn new(form: Form, column: impl Into<String>, name: impl Into<String>) -> Self {
        Kind { form, column: column.into(), name: name.into(), is_guess: false }
    }

    /// The column that is made for it, as `format_type` would show its type.
    pub fn sql_type(&self) -> &str {
        &self.column
    }

    /// The extension that the column's type comes from.
    pub fn extension(&self) -> Option<&'static str> {
        column::extension(&self.column)
    }

    /// The same field where the server has no such extension: with a type that every server has.
    pub fn without_extension(&self) -> Kind {
        column::without_extension(self)
    }

    /// Whether a rule for names told it.
    pub fn is_by_name(&self) -> bool {
        self.is_guess && self.name.ends_with(BY_NAME)
    }

    /// A payload without a schema, by the first value that is seen. None: null says nothing.
    pub fn guess(name: &str, json: &str, rules: Option<&NameRules>) -> Option<Kind> {
        schema::guess(name, json, rules)
    }

    /// The same field for a column of this type, as `format_type` shows it: what has to be written differently then.
    pub fn fitted(&self, column_type: &str) -> Kind {
        column::fitted(self, column_type)
    }

    /// Whether a column of type `have` takes all values of this kind without loss, or can be made to.
    pub fn widening(&self, have: &str) -> Widening {
        column::widening(self, have)
    }

    /// Appends the text of a value, which is JSON as it stands in the record. What fails has written nothing.
    pub fn write(&self, json: &str, modes: &Modes, out: &mut Vec<u8>) -> Result<Written, Cause> {
        if json == "null" {
            return Ok(Written::Null);
        }
        if modes.is_unchanged(json) {
            return Ok(Written::Unchanged);
        }
        let start = out.len();
        self.form.write(json, modes, out).map(|()| Written::Value).map_err(|flaw| {
            out.truncate(start);
            match flaw {
                Flaw::Nul => {
                    Cause::new("cdc.nul", format!("{} with a NUL, which PostgreSQL does not store", self.name))
                }
                Flaw::Rule(rule) => Cause::new("cdc.value", format!("{} {rule}", self.name)),
            }
        })
    }
}
