//! The connector's modes, what of each type it does not carry in them, and how what came of it is read. The one place
//! for both: who compares source and target does it by these.

use crate::golden::{FLAT, JSON};
use crate::kinds::{self, Table};
use crate::replica::{Exception, NOT_CARRIED, Replica};
use crate::support::connect;

/// What a target has before there is a connector.
#[derive(Clone, Copy, PartialEq)]
pub enum Target {
    Empty,
    /// It knows the types of extensions as well; what it does not know is text there.
    Extensions,
    /// Tables whose columns say what no value tells.
    Tables,
}

pub struct Mode {
    pub name: &'static str,
    /// Rows without their envelope; TRUNCATE is dropped there, by the transform itself.
    pub is_flat: bool,
    pub has_schemas: bool,
    options: &'static [(&'static str, &'static str)],
    pub target: Target,
    /// What the connector itself does not carry in this mode: by family and column, "*" for all of a family.
    lost: &'static [Exception],
    /// What is text to everybody who does not know the column it came from.
    read: &'static [Exception],
}

/// What it carries in no mode; tests/golden/cdc/README.md says how it sends them.
const LOST: &[Exception] = &[
    ("spans", "spans", NOT_CARRIED),
    // Without the zeros at its end, but in the mode for text.
    ("numbers", "num", "trim_scale({})::text"),
    ("times", "hours", "{}::time(3)[]::text"),
    // Without their leading zeros.
    ("bits", "bits_any", "ltrim({}::text, '0')"),
    ("bits", "bits_20", "ltrim({}::text, '0')"),
    // The same moment.
    ("times", "at_zone", "({} AT TIME ZONE 'UTC')::text"),
    ("told", "hour", "({} AT TIME ZONE 'UTC')::text"),
    // Their keys in another order, and one of two that are equal.
    ("texts", "doc", "{}::jsonb::text"),
    ("told", "doc", "{}::jsonb::text"),
    ("arrays", "docs", "{}::text::jsonb[]::text"),
    // Of two dimensions it makes a list of nothing, as long as the first of them.
    (
        "grids",
        "grid",
        "CASE WHEN array_ndims({}) > 1 THEN array_fill(NULL::integer, ARRAY[array_length({}, 1)])::text ELSE {}::text END",
    ),
    // Left out, unless it is told to send them.
    ("unknown", "*", NOT_CARRIED),
];

/// As an object in JSON, or as it is.
pub const HSTORE: &str = "CASE WHEN {} LIKE '{%' THEN (SELECT coalesce(hstore(array_agg(key), array_agg(value)), '')
    FROM json_each_text({}::json)) ELSE {}::hstore END";

/// As the connector's mode for text has them, in a column of text.
const WORDS: &str = "replace(replace({}, 'POSITIVE_INFINITY', 'Infinity'), 'NEGATIVE_INFINITY', '-Infinity')";

const READ: &[Exception] = &[
    ("maps", "pairs", HSTORE),
    ("told", "pairs", HSTORE),
    (
        "maps",
        "many",
        "CASE WHEN {} IS NOT NULL THEN (SELECT coalesce(array_agg(CASE WHEN e LIKE '{%'
             THEN (SELECT coalesce(hstore(array_agg(key), array_agg(value)), '') FROM json_each_text(CASE WHEN e LIKE '{%' THEN e::json END))
             ELSE e::hstore END), ARRAY[]::hstore[]) FROM unnest({}::text[]) AS e) END",
    ),
    // A single bit is true or false to the connector.
    ("bits", "bit_1", "CASE {} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {} END"),
    ("specials", "num", WORDS),
    ("specials", "num_2", WORDS),
];

/// What has become of lists and shapes where neither a schema nor a column told what they are.
const READ_BARE: &[Exception] = &[
    ("told", "ints", LIST),
    ("told", "texts", LIST),
    (
        "told",
        "spot",
        "CASE WHEN {} IS NOT NULL THEN point(({}::jsonb->>'x')::float8, ({}::jsonb->>'y')::float8)::text END",
    ),
];

const LIST: &str = "CASE WHEN {} IS NOT NULL THEN ARRAY(SELECT e FROM jsonb_array_elements_text({}::jsonb)
    WITH ORDINALITY AS a (e, n) ORDER BY n) END";

/// No Decimal says them.
const LOST_PRECISE: &[Exception] =
    &[("specials", "num", NOT_CARRIED), ("specials", "num_2", NOT_CARRIED), ("specials", "nums", NOT_CARRIED)];

/// The connector counts a month as a twelfth of 365.25 days, and a day as 24 hours.
const COUNTED: &str =
    "trim_scale((extract(year FROM {}) * 12 + extract(month FROM {})) * 2629800 + extract(day FROM {}) * 86400
    + extract(hour FROM {}) * 3600 + extract(minute FROM {}) * 60 + extract(second FROM {}))::text";

const SPANS_IN_WORDS: (&str, &str) = ("interval.handling.mode", "string");

/// Each setting of the connector that changes what it sends, several at once.
pub const ALL: &[Mode] = &[
    Mode { name: "precise", options: &[SPANS_IN_WORDS], target: Target::Extensions, lost: LOST_PRECISE, ..ENVELOPE },
    Mode {
        name: "text",
        options: &[
            SPANS_IN_WORDS,
            ("decimal.handling.mode", "string"),
            ("time.precision.mode", "isostring"),
            ("binary.handling.mode", "base64"),
        ],
        read: &[
            ("bits", "bytes", "decode({}, 'base64')"),
            (
                "bits",
                "blobs",
                "CASE WHEN {} IS NOT NULL THEN (SELECT coalesce(array_agg(decode(e, 'base64')), ARRAY[]::bytea[]) FROM unnest({}::text[]) AS e) END",
            ),
        ],
        lost: &[("specials", "nums", NOT_CARRIED), ("times", "at", "replace({}::text, '24:00:00', '00:00:00')")],
        ..ENVELOPE
    },
    Mode {
        name: "connect",
        options: &[
            SPANS_IN_WORDS,
            ("decimal.handling.mode", "double"),
            ("time.precision.mode", "connect"),
            ("binary.handling.mode", "hex"),
            ("hstore.handling.mode", "map"),
        ],
        read: &[
            ("bits", "bytes", "decode({}, 'hex')"),
            (
                "bits",
                "blobs",
                "CASE WHEN {} IS NOT NULL THEN (SELECT coalesce(array_agg(decode(e, 'hex')), ARRAY[]::bytea[]) FROM unnest({}::text[]) AS e) END",
            ),
        ],
        lost: &[
            ("numbers", "num", NOT_CARRIED),
            ("numbers", "num_0", NOT_CARRIED),
            ("numbers", "num_wide", NOT_CARRIED),
            ("numbers", "cash", NOT_CARRIED),
            ("specials", "nums", NOT_CARRIED),
            ("times", "at", "date_trunc('milliseconds', {}::interval)::text"),
            ("times", "stamp", "date_trunc('milliseconds', {})::text"),
            ("times", "stamp_6", "date_trunc('milliseconds', {})::text"),
            ("told", "made_at", "date_trunc('milliseconds', {})::text"),
            ("times", "stamps", NOT_CARRIED),
            ("extremes", "stamp", NOT_CARRIED),
        ],
        ..ENVELOPE
    },
    Mode {
        name: "propagated",
        options: &[
            SPANS_IN_WORDS,
            ("time.precision.mode", "microseconds"),
            ("column.propagate.source.type", ".*"),
            ("binary.handling.mode", "base64-url-safe"),
        ],
        target: Target::Extensions,
        lost: LOST_PRECISE,
        ..ENVELOPE
    },
    // Spans as numbers, and what it does not know as the bytes of its text.
    Mode {
        name: "counted",
        options: &[
            ("interval.handling.mode", "numeric"),
            ("time.precision.mode", "adaptive_time_microseconds"),
            ("include.unknown.datatypes", "true"),
        ],
        read: &[("unknown", "*", "convert_from({}::bytea, 'UTF8')")],
        lost: &[
            ("specials", "num", NOT_CARRIED),
            ("specials", "num_2", NOT_CARRIED),
            ("specials", "nums", NOT_CARRIED),
            ("spans", "span", COUNTED),
            ("spans", "span_day", COUNTED),
            ("told", "span", COUNTED),
            ("unknown", "*", "{}::text"),
        ],
        ..ENVELOPE
    },
    Mode {
        name: "nanoseconds",
        options: &[SPANS_IN_WORDS, ("time.precision.mode", "nanoseconds")],
        lost: &[
            ("specials", "num", NOT_CARRIED),
            ("specials", "num_2", NOT_CARRIED),
            ("specials", "nums", NOT_CARRIED),
            // Overflown before 1678 and after 2261, and there nobody can tell.
            ("times", "stamp", NOT_CARRIED),
            ("extremes", "stamp", NOT_CARRIED),
        ],
        ..ENVELOPE
    },
    Mode { name: "bare", has_schemas: false, target: Target::Tables, read: READ_BARE, ..PLAIN },
    Mode { name: "flat", is_flat: true, ..PLAIN },
    Mode { name: "flat-bare", is_flat: true, has_schemas: false, target: Target::Tables, read: READ_BARE, ..PLAIN },
];

const ENVELOPE: Mode =
    Mode { name: "", is_flat: false, has_schemas: true, options: &[], target: Target::Empty, lost: &[], read: &[] };

const PLAIN: Mode = Mode { options: &[SPANS_IN_WORDS], lost: LOST_PRECISE, ..ENVELOPE };

impl Mode {
    /// Whether types are told by schemas, of rows in their envelope.
    pub fn is_usual(&self) -> bool {
        self.has_schemas && !self.is_flat
    }

    pub fn options(&self) -> Vec<(&'static str, &'static str)> {
        let mut options = self.options.to_vec();
        if self.is_flat {
            options.extend([
                ("transforms", "flat"),
                FLAT,
                ("transforms.flat.add.fields", "op,source.lsn,source.ts_ms"),
                ("transforms.flat.delete.tombstone.handling.mode", "rewrite"),
            ]);
        }
        if !self.has_schemas {
            options.extend([
                ("key.converter", JSON),
                ("key.converter.schemas.enable", "false"),
                ("value.converter", JSON),
                ("value.converter.schemas.enable", "false"),
                ("value.converter.replace.null.with.default", "false"),
            ]);
        }
        options
    }

    /// Gives the target what it has beforehand, but for tables, and the program what it has to be told.
    pub fn prepare(&self, mut replica: Replica) -> Replica {
        let sql = match self.target {
            Target::Empty => "",
            Target::Extensions => "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree",
            Target::Tables => kinds::SETUP,
        };
        connect(&replica.url).batch_execute(sql).expect("types");
        for (option, setting) in [
            ("binary.handling.mode", "SLUICEGATE_FLOWS_CDC_BINARY_MODE"),
            ("time.precision.mode", "SLUICEGATE_FLOWS_CDC_TIME_PRECISION"),
            ("decimal.handling.mode", "SLUICEGATE_FLOWS_CDC_DECIMAL_MODE"),
        ] {
            if let Some((_, value)) = self.options.iter().find(|(name, _)| *name == option) {
                replica = replica.with(setting, value);
            }
        }
        replica
    }

    /// How a table's columns are read that are of these families.
    pub fn read(&self, families: &[&Table]) -> Vec<Exception> {
        of(families, &[self.read, READ])
    }

    /// How they are compared.
    pub fn lost(&self, families: &[&Table]) -> Vec<Exception> {
        of(families, &[self.lost, LOST])
    }
}

/// The first that is found for a column counts.
fn of(families: &[&Table], lists: &[&[Exception]]) -> Vec<Exception> {
    let mut found = Vec::new();
    for (family, column, by) in lists.iter().copied().flatten() {
        for table in families.iter().filter(|table| table.name == *family) {
            let names = table.columns.iter().map(|(name, _, _)| *name);
            found.extend(names.filter(|name| column == name || *column == "*").map(|name| ("*", name, *by)));
        }
    }
    found
}
