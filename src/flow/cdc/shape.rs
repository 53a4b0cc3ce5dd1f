//! The shape of a table's changes: its target, its columns with what their values mean, and which of these are the key.
//! Made of a schema, or, where records come without one, of the values that have been seen so far.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::naming::{Mask, Naming, TableName, identity, quoted, source_name};
use crate::decode::debezium::{Field, Kind, Origin};
use crate::fault::Cause;

/// A field of rows that come without their envelope.
const DELETED: &str = "__deleted";

/// PostgreSQL has room for no more.
pub const COLUMNS_MAX: usize = 1600;

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub content: Content,
}

/// What is written into a column.
#[derive(Clone, Debug)]
pub enum Content {
    /// A field's value. None: every one that was seen so far was null, and nothing asks for a column.
    Field(Option<Kind>),
    Masked(Kind, Mask),
    Extra(Extra),
    /// Whether the row is deleted at the source.
    Deleted,
}

/// What can be kept beside a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    Op,
    SourceTime,
    Lsn,
    Topic,
    Partition,
    Offset,
}

impl Extra {
    pub const ALL: [(&str, Extra); 6] = [
        ("op", Extra::Op),
        ("source_time", Extra::SourceTime),
        ("lsn", Extra::Lsn),
        ("topic", Extra::Topic),
        ("partition", Extra::Partition),
        ("offset", Extra::Offset),
    ];
}

impl Column {
    /// None where there is nothing to be written yet.
    pub fn sql_type(&self) -> Option<String> {
        match &self.content {
            Content::Field(kind) => kind.as_ref().map(|kind| kind.sql_type().to_owned()),
            Content::Masked(kind, Mask::Null) => Some(kind.sql_type().to_owned()),
            Content::Masked(..) => Some("text".to_owned()),
            Content::Extra(extra) => Some(
                match extra {
                    Extra::Op | Extra::Topic => "text",
                    Extra::SourceTime => "timestamp with time zone",
                    Extra::Lsn => "pg_lsn",
                    Extra::Partition => "integer",
                    Extra::Offset => "bigint",
                }
                .to_owned(),
            ),
            Content::Deleted => Some("boolean".to_owned()),
        }
    }

    /// Whether its values are those of a field, as they come.
    pub fn is_plain(&self) -> bool {
        matches!(self.content, Content::Field(Some(_)))
    }

    /// Whether it is of the row, and no addition to it.
    pub fn is_field(&self) -> bool {
        matches!(self.content, Content::Field(_) | Content::Masked(..))
    }

    pub fn kind(&self) -> Option<&Kind> {
        match &self.content {
            Content::Field(kind) => kind.as_ref(),
            Content::Masked(kind, _) => Some(kind),
            Content::Extra(_) | Content::Deleted => None,
        }
    }
}

/// What a field of the row becomes.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    /// None where it is left out.
    pub column: Option<usize>,
}

#[derive(Debug)]
pub struct Shape {
    /// No other shape of this process has it.
    pub number: u64,
    /// Of all that may come under one name the one that it is: where two of them become one table, rows would be mixed.
    pub identity: String,
    pub table: TableName,
    pub columns: Vec<Column>,
    /// Which columns tell its rows apart. Empty: nothing does.
    pub key: Vec<usize>,
    /// The same by the names of their fields.
    pub key_fields: Vec<String>,
    /// In the order in which they come.
    pub fields: Vec<Source>,
    /// Without a schema kinds are a guess.
    pub is_guess: bool,
    /// The target's columns, where it is not as this program would have made it: values are written as these want them.
    pub fitted_to: Option<Arc<Types>>,
}

/// Types of columns by their names.
pub type Types = HashMap<String, String>;

/// What is the same for every table.
pub struct Additions {
    pub extras: Vec<(String, Extra)>,
    pub deleted: Option<String>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A row's field: its name and, unless only null was seen of it, its kind.
pub type Named = (String, Option<Kind>);

/// What a row is made of.
pub struct Fields {
    pub table: TableName,
    pub fields: Vec<Named>,
    pub is_guess: bool,
    pub fitted_to: Option<Arc<Types>>,
}

impl Shape {
    /// `key`: the fields that the record's key has.
    pub fn new(
        naming: &Naming,
        additions: &Additions,
        origin: &Origin<'_>,
        Fields { table, fields, is_guess, fitted_to }: Fields,
        key: &[String],
    ) -> Result<Shape, Cause> {
        let source = source_name(origin);
        let (mut columns, mut sources) = (Vec::new(), Vec::new());
        let mut names = HashSet::new();
        let mut taken = |name: &str| match names.insert(name.to_owned()) {
            true => Ok(()),
            false => {
                Err(Cause::new("cdc.column", format!("{source} has two fields for column \"{name}\": rename one")))
            }
        };
        for (field, kind) in fields {
            let column = naming.column(&source, &field)?;
            // What says that a row is deleted is done, and kept only where that is wanted.
            let column = column.filter(|name| field != DELETED || additions.deleted.as_ref() == Some(name));
            if let Some(name) = &column {
                taken(name)?;
                let content = match (naming.mask(&source, &field), kind) {
                    (Some(mask), Some(kind)) => Content::Masked(kind, mask.clone()),
                    (_, kind) => Content::Field(kind),
                };
                columns.push(Column { name: name.clone(), content });
            }
            sources.push(Source { name: field, column: column.map(|_| columns.len() - 1) });
        }
        let key_fields: Vec<String> = naming.key(&source).unwrap_or(key).to_vec();
        let of_key = |name: &String| {
            let column = sources.iter().find(|field| field.name == *name).and_then(|field| field.column);
            column.ok_or_else(|| {
                let text = format!("{source} has no column for the key's field \"{}\"", shown(name));
                Cause::new("cdc.key", text)
            })
        };
        let key = key_fields.iter().map(of_key).collect::<Result<Vec<usize>, Cause>>()?;
        if let Some(hidden) = key
            .iter()
            .find(|column| matches!(columns[**column].content, Content::Masked(_, Mask::Null | Mask::Text(_))))
        {
            let text = format!("{source}: column \"{}\" is of the key; only hash can hide it", columns[*hidden].name);
            return Err(Cause::new("cdc.key", text));
        }
        let extras = additions.extras.iter().map(|(name, extra)| (name, Content::Extra(*extra)));
        for (name, content) in extras.chain(additions.deleted.iter().map(|name| (name, Content::Deleted))) {
            let Some(at) = columns.iter().position(|column| column.name == *name) else {
                columns.push(Column { name: name.clone(), content });
                continue;
            };
            // A row that came without its envelope may bring it by itself. Any other column of the source is not to be lost.
            let is_brought = |field: &Source| field.column == Some(at) && field.name.starts_with("__");
            if !(origin.is_by_topic && sources.iter().any(is_brought)) {
                let text = format!(
                    "{source} has a column {} of its own, where soft_delete or extra_columns puts something else: give one \
                     of them another name, or leave the source's out (columns_rename, columns_exclude)",
                    quoted(name)
                );
                return Err(Cause::new("cdc.column", text));
            }
            columns[at].content = content;
        }
        if columns.len() > COLUMNS_MAX {
            let text = format!("{source} has {} columns, and PostgreSQL has room for {COLUMNS_MAX}", columns.len());
            return Err(Cause::new("cdc.columns", text));
        }
        Ok(Shape {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            identity: identity(origin),
            table,
            columns,
            key,
            key_fields,
            fields: sources,
            is_guess,
            fitted_to,
        })
    }

    /// How many values tell which row a change was of.
    pub fn before_len(&self) -> usize {
        if self.key.is_empty() { self.columns.len() } else { self.key.len() }
    }

    /// Whether deleted rows stay, and say so.
    pub fn marks_deleted(&self) -> bool {
        self.columns.iter().any(|column| matches!(column.content, Content::Deleted))
    }

    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

/// A name out of a record, for people.
pub fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Fields of a schema by their names.
pub fn named(fields: &[Field]) -> Vec<Named> {
    fields.iter().map(|field| (field.name.clone(), Some(field.kind.clone()))).collect()
}
