//! Types of columns as `format_type` shows them: which a field makes, what a field must do for one that is there
//! already, and to which a column can be widened without touching what its rows mean.

use super::time::Iso;
use super::value::Form;
use super::{Kind, Unit};

pub const TIME: &str = "time without time zone";
pub const TIMETZ: &str = "time with time zone";
pub const TIMESTAMP: &str = "timestamp without time zone";
pub const TIMESTAMPTZ: &str = "timestamp with time zone";

/// Whether a column takes all values of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Widening {
    Fits,
    /// If they keep to a limit of which the event says nothing: without it the type is this one. What is too long is
    /// refused by the server; what is too fine is refused here if it is a decimal, and rounded there otherwise.
    Perhaps(String),
    /// It will when its type is changed to this one, which loses nothing of what it has.
    To(String),
    /// No change is safe.
    No,
}

/// A type in its parts.
#[derive(Clone, Debug, PartialEq)]
struct Column<'a> {
    /// Without its schema, what stands in parentheses, and the marks of an array.
    base: String,
    /// What stands in parentheses, as far as it is numbers.
    numbers: Vec<i64>,
    /// The type of the elements, if it is an array.
    element: Option<&'a str>,
}

impl<'a> Column<'a> {
    fn read(name: &'a str) -> Self {
        let element = name.strip_suffix("[]").map(|rest| rest.trim_end_matches("[]"));
        let bare = element.unwrap_or(name);
        let (before, inside, after) = match bare.split_once('(').and_then(|(before, rest)| {
            let (inside, after) = rest.split_once(')')?;
            Some((before, inside, after))
        }) {
            Some(parts) => parts,
            None => (bare, "", ""),
        };
        let before = before.rsplit_once('.').map_or(before, |(_, name)| name);
        // Which of its parts an interval has is no other type.
        let (before, after) = if before.starts_with("interval") { ("interval", "") } else { (before, after) };
        let numbers = inside.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        Column { base: format!("{}{after}", before.trim_end()), numbers, element }
    }

    fn first(&self) -> Option<i64> {
        self.numbers.first().copied()
    }

    fn is_text(&self) -> bool {
        matches!(&*self.base, "text" | "character varying" | "character" | "name" | "citext")
    }

    fn is_json(&self) -> bool {
        matches!(&*self.base, "json" | "jsonb")
    }

    /// Of integers: how many digits the longest has.
    fn integer_digits(&self) -> Option<i64> {
        match &*self.base {
            "smallint" => Some(5),
            "integer" => Some(10),
            "bigint" => Some(19),
            _ => None,
        }
    }

    /// Of numeric: digits before the point and behind it. None inside where it has no limit.
    fn numeric(&self) -> Option<Option<(i64, i64)>> {
        let limits = self.first().map(|precision| {
            let scale = self.numbers.get(1).copied().unwrap_or(0);
            (precision - scale, scale)
        });
        (self.base == "numeric").then_some(limits)
    }
}

pub fn numeric(precision: Option<i64>, scale: i64) -> String {
    match precision {
        Some(precision) if (1..=1_000).contains(&precision) && (0..=precision).contains(&scale) => {
            format!("numeric({precision},{scale})")
        }
        _ => "numeric".to_owned(),
    }
}

/// A type by the name that the connector propagates. None for those that are not the same everywhere: types of a user.
pub fn named(name: &str, length: Option<i64>, scale: Option<i64>) -> Option<String> {
    let length = length.filter(|length| (1..=10_485_760).contains(length));
    let limited = |base: &str| length.map_or(base.to_owned(), |length| format!("{base}({length})"));
    let known = match name {
        "bool" => "boolean",
        "int2" | "smallserial" => "smallint",
        "int4" | "serial" => "integer",
        "int8" | "bigserial" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "time" => TIME,
        "timetz" => TIMETZ,
        "timestamp" => TIMESTAMP,
        "timestamptz" => TIMESTAMPTZ,
        "char" => "\"char\"",
        "numeric" => return Some(numeric(length, scale.unwrap_or(0))),
        "varchar" => return Some(limited("character varying")),
        "bpchar" => return Some(limited("character")),
        "bit" => return Some(limited("bit")),
        "varbit" => return Some(limited("bit varying")),
        "oid" | "money" | "text" | "name" | "citext" | "bytea" | "uuid" | "json" | "jsonb" | "xml" | "date"
        | "interval" | "inet" | "cidr" | "macaddr" | "macaddr8" | "point" | "line" | "lseg" | "box" | "path"
        | "polygon" | "circle" | "int4range" | "int8range" | "numrange" | "tsrange" | "tstzrange" | "daterange"
        | "int4multirange" | "int8multirange" | "nummultirange" | "tsmultirange" | "tstzmultirange"
        | "datemultirange" | "hstore" | "ltree" | "geometry" | "geography" | "tsvector" | "tsquery" | "vector"
        | "halfvec" | "sparsevec" | "pg_lsn" => name,
        _ => return None,
    };
    Some(known.to_owned())
}

pub fn extension(column: &str) -> Option<&'static str> {
    match &*Column::read(column).base {
        "citext" => Some("citext"),
        "hstore" => Some("hstore"),
        "ltree" => Some("ltree"),
        "geometry" | "geography" => Some("postgis"),
        "vector" | "halfvec" | "sparsevec" => Some("vector"),
        _ => None,
    }
}

pub fn without_extension(kind: &Kind) -> Kind {
    let column = Column::read(&kind.column);
    let plain = match &*column.base {
        "geometry" | "geography" => "bytea",
        "hstore" | "sparsevec" => "jsonb",
        "vector" | "halfvec" if column.element.is_some() => "jsonb",
        "vector" => "double precision[]",
        "halfvec" => "real[]",
        _ => "text",
    };
    let plain = if column.element.is_some() { format!("{plain}[]") } else { plain.to_owned() };
    if extension(&kind.column).is_some() { fitted(kind, &plain) } else { kind.clone() }
}

pub fn fitted(kind: &Kind, column_type: &str) -> Kind {
    let column = Column::read(column_type);
    let form = if kind.is_guess { fit_guess(&kind.form, &column) } else { fit(&kind.form, &column) };
    Kind { form, column: column_type.to_owned(), ..kind.clone() }
}

/// Without a schema, the column says what a value means.
fn fit_guess(form: &Form, column: &Column<'_>) -> Form {
    match form {
        Form::LooseDecimal { .. } if column.element.is_none() => match column.numeric() {
            Some(Some((_, scale))) => Form::LooseDecimal { scale: sent_scale(scale) },
            // A word of four letters is base64 as well.
            _ if column.is_text() => Form::Text,
            _ => form.clone(),
        },
        _ => any(column),
    }
}

/// The connector takes the eleven bits of a negative scale for a positive one, and writes all these digits.
fn sent_scale(scale: i64) -> i64 {
    if scale < 0 { scale + 2_048 } else { scale }
}

/// Whatever has a text for this type.
fn any(column: &Column<'_>) -> Form {
    if let Some(element) = column.element {
        return Form::Array(Box::new(any(&Column::read(element))));
    }
    match (&*column.base, column.numeric()) {
        (_, Some(Some((_, scale)))) => Form::LooseDecimal { scale: sent_scale(scale) },
        ("numeric", _) => Form::VariableDecimal,
        ("money", _) => Form::LooseDecimal { scale: 2 },
        ("smallint", _) => Form::Integer(16),
        ("integer", _) => Form::Integer(32),
        ("bigint" | "oid", _) => Form::Integer(64),
        ("real", _) => Form::Float(32),
        ("double precision", _) => Form::Float(64),
        ("boolean", _) => Form::Boolean,
        ("bytea", _) => Form::Coded,
        ("json" | "jsonb", _) => Form::LooseJson { is_jsonb: column.base == "jsonb" },
        ("interval", _) => Form::LooseDuration,
        ("bit" | "bit varying", _) => Form::Bits(bit_count(column)),
        ("hstore", _) => Form::Hstore,
        ("point", _) => Form::Point,
        ("circle", _) => Form::Circle,
        ("line", _) => Form::Line,
        ("geometry" | "geography", _) => Form::Shape { is_bytea: false },
        ("vector" | "halfvec", _) => Form::Vector,
        ("sparsevec", _) => Form::SparseVector,
        _ => loose(column).or(short(column)).unwrap_or(Form::Text),
    }
}

/// Of types that a longer text is cut to without a word.
fn short(column: &Column<'_>) -> Option<Form> {
    match &*column.base {
        "name" => Some(Form::Short(63)),
        "\"char\"" => Some(Form::Short(1)),
        _ => None,
    }
}

fn fit(form: &Form, column: &Column<'_>) -> Form {
    if let Some(element) = column.element {
        let element = |form: &Form| Form::Array(Box::new(fit(form, &Column::read(element))));
        return match form {
            Form::Array(inner) => element(inner_most(inner)),
            Form::Vector => element(&Form::Float(64)),
            Form::Bytes => Form::Unknown,
            _ => form.clone(),
        };
    }
    let is_jsonb = column.base == "jsonb";
    let base = &*column.base;
    match form {
        Form::Text | Form::Coded | Form::Digits { .. } => match base {
            "bytea" => Form::Coded,
            "json" | "jsonb" => Form::Json { is_jsonb },
            "bit" | "bit varying" => Form::Bits(bit_count(column)),
            "hstore" => Form::Hstore,
            "boolean" => Form::Boolean,
            "money" => Form::Plain,
            "numeric" | "real" | "double precision" => {
                Form::Digits { scale_max: column.numeric().flatten().map(|(_, scale)| scale) }
            }
            _ => loose(column).or(short(column)).unwrap_or(Form::Text),
        },
        Form::Integer(_) | Form::Float(_) | Form::Number => match base {
            "interval" => Form::LooseDuration,
            "money" => Form::Plain,
            _ => loose(column).unwrap_or_else(|| form.clone()),
        },
        Form::Bytes if base != "bytea" && !column.is_text() => Form::Unknown,
        Form::Boolean if base != "boolean" && !column.is_text() && !column.is_json() => Form::Digit,
        Form::Days | Form::Time(_) | Form::Moment { .. } | Form::Duration(_)
            if column.integer_digits().is_some() || matches!(base, "numeric" | "double precision") =>
        {
            Form::Number
        }
        Form::Moment { unit, .. } => Form::Moment { unit: *unit, is_zoned: base == TIMESTAMPTZ },
        Form::Bits(_) if base == "bit" => Form::Bits(bit_count(column)),
        Form::Bits(_) if base == "bit varying" => Form::Bits(None),
        Form::Json { .. } if base == "hstore" => Form::Hstore,
        Form::Json { .. } => Form::Json { is_jsonb },
        _ => fit_whole(form, base, is_jsonb),
    }
}

/// What is made of more than one value.
fn fit_whole(form: &Form, base: &str, is_jsonb: bool) -> Form {
    let is_json = matches!(base, "json" | "jsonb");
    match (form, base) {
        (Form::Raw { .. }, "hstore") => Form::Hstore,
        (Form::Point | Form::Shape { .. }, "geometry" | "geography") => Form::Shape { is_bytea: false },
        (Form::Shape { .. }, "bytea") => Form::Shape { is_bytea: true },
        (Form::Raw { .. }, _) => Form::Raw { is_jsonb },
        (Form::Array(inner), _) if is_json && is_plain(inner) => Form::Raw { is_jsonb },
        // By the mode of the connector also a text that holds JSON.
        (Form::Hstore, _) if is_json => Form::LooseJson { is_jsonb },
        (Form::Vector | Form::SparseVector | Form::Point | Form::Circle | Form::Line, _) if is_json => {
            Form::Raw { is_jsonb }
        }
        _ => form.clone(),
    }
}

/// Whether JSON has it as it means it.
fn is_plain(form: &Form) -> bool {
    match form {
        Form::Array(inner) => is_plain(inner),
        _ => matches!(form, Form::Boolean | Form::Integer(_) | Form::Float(_) | Form::Text | Form::Raw { .. }),
    }
}

fn inner_most(form: &Form) -> &Form {
    match form {
        Form::Array(inner) => inner_most(inner),
        _ => form,
    }
}

fn bit_count(column: &Column<'_>) -> Option<usize> {
    // One bit, where a column of type bit says nothing.
    let count = column.first().or(Some(1)).filter(|_| column.base == "bit");
    count.and_then(|count| usize::try_from(count).ok())
}

/// A moment in a column that is made for it.
pub fn any_moment() -> Form {
    Form::Loose { kind: Iso::Moment, is_coarse: false }
}

/// Of a column of time.
fn loose(column: &Column<'_>) -> Option<Form> {
    let kind = match &*column.base {
        "date" => Iso::Date,
        TIME => Iso::Time,
        TIMETZ => Iso::ZonedTime,
        TIMESTAMP => Iso::Moment,
        TIMESTAMPTZ => Iso::ZonedMoment,
        _ => return None,
    };
    Some(Form::Loose { kind, is_coarse: column.first().is_some_and(|digits| digits <= 3) })
}

pub fn widening(kind: &Kind, have: &str) -> Widening {
    if kind.column == have {
        return Widening::Fits;
    }
    let (want, have) = (Column::read(&kind.column), Column::read(have));
    if kind.is_guess {
        return widening_guess(&kind.form, &have);
    }
    if let (Some(want_element), Some(have_element)) = (want.element, have.element) {
        let element = Kind::new(inner_most(&kind.form).clone(), want_element, kind.name.clone());
        return match widening(&element, have_element) {
            Widening::To(wider) => Widening::To(format!("{wider}[]")),
            Widening::Perhaps(wider) => Widening::Perhaps(format!("{wider}[]")),
            fits_or_not => fits_or_not,
        };
    }
    if have.element.is_some() {
        return if kind.form == Form::Vector { Widening::Fits } else { Widening::No };
    }
    if let Some(widening) = to_text(&want, &have) {
        return widening;
    }
    if want.element.is_some() {
        let is_json = have.is_json() && matches!(&kind.form, Form::Array(inner) if is_plain(inner));
        return if is_json { Widening::Fits } else { Widening::No };
    }
    let is_number = have.integer_digits().is_some() || matches!(&*have.base, "real" | "double precision");
    if want.is_text() || want.base == "bytea" {
        // Texts stand for many types, and the server knows which of them are ones of this; so do bytes.
        return if is_number || have.base == "boolean" { Widening::No } else { Widening::Fits };
    }
    if let Some(widening) = numbers(&kind.form, &want, &have) {
        return widening;
    }
    others(kind, &want, &have)
}

/// Without a schema, a column is taken at its word where it can hold what was seen: more than one value is not known.
fn widening_guess(form: &Form, have: &Column<'_>) -> Widening {
    let is_integer = have.integer_digits().is_some() || have.base == "oid";
    let is_float = matches!(&*have.base, "real" | "double precision");
    let is_time = loose(have).is_some() || have.base == "interval";
    let is_decimal = matches!(&*have.base, "numeric" | "money");
    if have.element.is_some() {
        return if matches!(form, Form::Raw { .. }) { Widening::Fits } else { Widening::No };
    }
    if have.is_text() || have.is_json() {
        return Widening::Fits;
    }
    let does_fit = match form {
        Form::Boolean => matches!(&*have.base, "boolean" | "bit" | "bit varying"),
        Form::Integer(_) => is_integer || is_float || is_decimal || is_time,
        Form::Float(_) | Form::Number if have.base == "bigint" => return Widening::To("numeric".to_owned()),
        Form::Float(_) if is_integer => return Widening::To("double precision".to_owned()),
        Form::Float(_) | Form::Number => is_float || is_decimal,
        Form::LooseDecimal { .. } => is_integer || is_float || is_decimal,
        Form::Loose { .. } => is_integer || is_time,
        Form::Text => !is_integer && have.base != "boolean",
        _ => matches!(form, Form::Raw { .. }) && !is_integer && !is_float && !is_time && have.base != "boolean",
    };
    if does_fit { Widening::Fits } else { Widening::No }
}

/// Columns of text take what has a text; only their length may have to grow.
fn to_text(want: &Column<'_>, have: &Column<'_>) -> Option<Widening> {
    if !have.is_text() {
        return None;
    }
    let limit = match &*have.base {
        "character" => Some(have.first().unwrap_or(1)),
        "name" => Some(63),
        _ => have.first(),
    };
    let Some(limit) = limit else { return Some(Widening::Fits) };
    let wanted = match &*want.base {
        "character" => Some(want.first().unwrap_or(1)),
        "character varying" => want.first(),
        _ => None,
    };
    Some(match wanted {
        Some(wanted) if wanted <= limit => Widening::Fits,
        Some(wanted) if have.base == want.base => Widening::To(format!("{}({wanted})", have.base)),
        Some(_) => Widening::To("text".to_owned()),
        None => Widening::Perhaps("text".to_owned()),
    })
}

/// Integers, floats and decimals.
fn numbers(form: &Form, want: &Column<'_>, have: &Column<'_>) -> Option<Widening> {
    let to = |name: &str| Some(Widening::To(name.to_owned()));
    if let (Some(want_digits), Some(have_digits)) = (want.integer_digits(), have.integer_digits()) {
        return if want_digits <= have_digits { Some(Widening::Fits) } else { to(&want.base) };
    }
    let need = match (want.integer_digits(), want.numeric()) {
        (Some(digits), _) => Some(Some((digits, 0))),
        (None, limits) => limits,
    };
    match (need, have.numeric()) {
        (Some(_), Some(None)) => return Some(Widening::Fits),
        (Some(None), Some(Some((_, have_scale)))) => {
            return match form {
                // Of a decimal without a limit that is known, at least the scale is: none of its digits is rounded away.
                Form::Decimal { scale } if *scale <= have_scale || *scale == sent_scale(have_scale) => {
                    Some(Widening::Perhaps("numeric".to_owned()))
                }
                _ => to("numeric"),
            };
        }
        (Some(Some((whole, scale))), Some(Some((have_whole, have_scale)))) => {
            if whole <= have_whole && scale <= have_scale {
                return Some(Widening::Fits);
            }
            let (whole, scale) = (whole.max(have_whole), scale.max(have_scale));
            return to(&numeric(Some(whole + scale), scale));
        }
        _ => {}
    }
    match (&*want.base, &*have.base) {
        ("real", "double precision") | ("smallint", "real") => Some(Widening::Fits),
        ("smallint" | "integer", "double precision") => Some(Widening::Fits),
        ("double precision", "real") | ("integer", "real") => to("double precision"),
        ("real" | "double precision", "smallint" | "integer") => to("double precision"),
        // A float of any size has a decimal that says the same.
        ("real" | "double precision", "numeric") => {
            Some(if have.numbers.is_empty() { Widening::Fits } else { Widening::Perhaps("numeric".to_owned()) })
        }
        ("real" | "double precision", "bigint") => to("numeric"),
        ("numeric", "smallint" | "integer" | "bigint") => match (want.numeric().flatten(), have.integer_digits()) {
            (Some((whole, scale)), Some(digits)) => to(&numeric(Some(whole.max(digits) + scale), scale)),
            _ => to("numeric"),
        },
        _ => None,
    }
}

/// Same in all but their limits, or one holding the other.
fn others(kind: &Kind, want: &Column<'_>, have: &Column<'_>) -> Widening {
    let fits = |does: bool| if does { Widening::Fits } else { Widening::No };
    match (&*want.base, &*have.base) {
        ("bit", "bit") => match (want.first().unwrap_or(1), have.first().unwrap_or(1)) {
            (want, have) if want == have => Widening::Fits,
            (want, have) => Widening::To(format!("bit varying({})", want.max(have))),
        },
        ("bit" | "bit varying", "bit varying" | "bit") => match (want.first(), have.first()) {
            (_, None) if have.base == "bit varying" => Widening::Fits,
            (Some(want), Some(limit)) if want <= limit && have.base == "bit varying" => Widening::Fits,
            (Some(want), limit) => Widening::To(format!("bit varying({})", want.max(limit.unwrap_or(1)))),
            (None, _) => Widening::To("bit varying".to_owned()),
        },
        (TIMESTAMP | TIMESTAMPTZ, TIMESTAMP | TIMESTAMPTZ)
        | (TIME, TIME)
        | (TIMETZ, TIMETZ)
        | ("interval", "interval") => precision(&kind.form, have),
        (want, have) if want == have => Widening::Fits,
        ("json" | "jsonb", "json" | "jsonb" | "hstore") => Widening::Fits,
        ("hstore", "json" | "jsonb") => Widening::Fits,
        ("date", TIMESTAMP) => Widening::Fits,
        (TIMESTAMP, "date") => Widening::To(TIMESTAMP.to_owned()),
        ("boolean", "bit" | "bit varying" | "smallint" | "integer") => Widening::Fits,
        ("geometry" | "geography" | "point", "geometry" | "geography") => Widening::Fits,
        ("geometry" | "geography", "bytea") => Widening::Fits,
        ("vector" | "halfvec", "vector") => Widening::Fits,
        ("vector", "halfvec") => Widening::To("vector".to_owned()),
        ("numeric", "money") => fits(kind.form == Form::Decimal { scale: 2 }),
        ("double precision", "money") | ("bigint", "oid") => Widening::Fits,
        _ if have.is_json() => fits(matches!(fit(&kind.form, have), Form::Raw { .. } | Form::Json { .. })),
        (TIMESTAMP | TIME | "date" | "interval", "bigint") => fits(fit(&kind.form, have) == Form::Number),
        _ => Widening::No,
    }
}

/// Digits of a second. The connector sends milliseconds where there are not more than three, in its usual mode.
fn precision(form: &Form, have: &Column<'_>) -> Widening {
    let is_milli = matches!(form, Form::Time(Unit::Milli) | Form::Moment { unit: Unit::Milli, .. });
    match have.first() {
        None | Some(6..) => Widening::Fits,
        Some(3..) if is_milli => Widening::Fits,
        Some(_) => Widening::Perhaps(have.base.clone()),
    }
}
