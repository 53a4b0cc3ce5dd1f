//! The user's words on tables and columns: which are taken, what they are called, which of their values are hidden, and
//! what tells their rows apart. Nothing in here looks at a record or a database.

use std::collections::HashMap;

use regex_lite::Regex;
use sha2::{Digest, Sha256};

use crate::config;
use crate::decode::debezium::Origin;
use crate::fault::Cause;

/// PostgreSQL cuts longer names, silently, and two of them may become one.
pub const NAME_BYTES_MAX: usize = 63;

/// A table by its schema and name, as they are, without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// One name, whatever is in it, as PostgreSQL takes it literally.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// In hexadecimal digits.
pub fn hashed(salt: &str, value: &[u8]) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(value).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is written in place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    Null,
    /// Its SHA-256 behind this salt, so that equal ones stay equal.
    Hash(String),
    Text(String),
}

pub struct Naming {
    template: String,
    is_snake: bool,
    pattern: Option<(Regex, String)>,
    tables: Choice,
    columns: Choice,
    renames: HashMap<String, String>,
    masks: Vec<(Regex, Mask)>,
    keys: HashMap<String, Vec<String>>,
}

/// What is taken: of what some pattern names, or of all, that which none forbids.
struct Choice {
    include: Vec<Regex>,
    exclude: Vec<Regex>,
}

impl Choice {
    fn new(include: &[String], exclude: &[String]) -> Result<Choice, Cause> {
        let all =
            |patterns: &[String]| patterns.iter().map(|pattern| whole(pattern)).collect::<Result<Vec<_>, Cause>>();
        Ok(Choice { include: all(include)?, exclude: all(exclude)? })
    }

    fn takes(&self, name: &str) -> bool {
        let any = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// A pattern is meant for the whole of a name.
fn whole(pattern: &str) -> Result<Regex, Cause> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| Cause::new("config.pattern", format!("{pattern}: {error}")))
}

impl Naming {
    pub fn from_config(config: &config::Flow) -> Result<Naming, Cause> {
        let pattern = match config.table_pattern.as_str() {
            "" => None,
            pattern => Some((whole(pattern)?, config.table_replacement.clone())),
        };
        let mask = |(pattern, how): (&String, &String)| {
            let mask = match how.as_str() {
                "null" => Mask::Null,
                "hash" => Mask::Hash(config.mask_salt.clone()),
                text => Mask::Text(text.strip_prefix("text:").unwrap_or(text).to_owned()),
            };
            Ok((whole(pattern)?, mask))
        };
        let key = |(table, columns): (&String, &String)| {
            let columns = match columns.as_str() {
                "none" => Vec::new(),
                columns => columns.split('+').map(|column| column.trim().to_owned()).collect(),
            };
            (table.clone(), columns)
        };
        Ok(Naming {
            template: config.table_name.clone(),
            is_snake: config.table_case == config::Case::Snake,
            pattern,
            tables: Choice::new(&config.tables_include, &config.tables_exclude)?,
            columns: Choice::new(&config.columns_include, &config.columns_exclude)?,
            renames: config.columns_rename.clone().into_iter().collect(),
            masks: config.columns_mask.iter().map(mask).collect::<Result<Vec<_>, Cause>>()?,
            keys: config.key_columns.iter().map(key).collect(),
        })
    }

    /// None where the table is left out.
    pub fn target(&self, origin: &Origin<'_>) -> Result<Option<TableName>, Cause> {
        let source = source_name(origin);
        if !self.tables.takes(&source) {
            return Ok(None);
        }
        let replaced = match &self.pattern {
            Some((pattern, replacement)) => pattern.replace(&source, replacement.as_str()),
            None => (&*source).into(),
        };
        let (schema, table) = match replaced == source {
            true => (&*origin.schema, &*origin.table),
            false => parted(&replaced, &origin.schema),
        };
        let values =
            [("server", &*origin.server), ("database", &*origin.database), ("schema", schema), ("table", table)];
        // Only the dot of the template parts schema and table; one in a name of the source is part of that name.
        let (schema, name) = self.template.split_once('.').unwrap_or(("public", &self.template));
        let case = |name: String| if self.is_snake { snake(&name) } else { name };
        let target = TableName { schema: case(filled(schema, &values)), name: case(filled(name, &values)) };
        check_name(&target.schema, "the schema of the target")?;
        check_name(&target.name, "the target table")?;
        if target.schema.starts_with("pg_") || target.schema == "information_schema" {
            let text = format!(
                "the schema \"{}\" of the target is one that PostgreSQL keeps for itself: give it another name",
                target.schema
            );
            return Err(Cause::new("cdc.name", text));
        }
        if target.name.starts_with("sluicegate_") {
            let text =
                format!("the target table \"{}\" has a name of this program's own: give it another one", target.name);
            return Err(Cause::new("cdc.name", text));
        }
        Ok(Some(target))
    }

    /// None where the column is left out.
    pub fn column(&self, source: &str, column: &str) -> Result<Option<String>, Cause> {
        let full = format!("{source}.{column}");
        if !self.columns.takes(&full) {
            return Ok(None);
        }
        let name = match self.renames.get(&full) {
            Some(name) => name.clone(),
            None if self.is_snake => snake(column),
            None => column.to_owned(),
        };
        check_name(&name, "a column")?;
        Ok(Some(name))
    }

    pub fn mask(&self, source: &str, column: &str) -> Option<&Mask> {
        let full = format!("{source}.{column}");
        self.masks.iter().find(|(pattern, _)| pattern.is_match(&full)).map(|(_, mask)| mask)
    }

    /// What the user says of a table's key, in the source's names. Empty: its rows have none.
    pub fn key(&self, source: &str) -> Option<&[String]> {
        self.keys.get(source).map(Vec::as_slice)
    }
}

/// By what patterns and lists know a table: schema and name, or the topic where a row came without its envelope.
pub fn source_name(origin: &Origin<'_>) -> String {
    match &*origin.schema {
        "" => origin.table.to_string(),
        schema => format!("{schema}.{}", origin.table),
    }
}

/// A source among all others: no two tables have it in common. It is kept in the database, and reads as the names do unless
/// one of them has in it what parts them.
pub fn identity(origin: &Origin<'_>) -> String {
    let apart = |name: &str, parting: &[char]| if name.contains(parting) { quoted(name) } else { name.to_owned() };
    let (server, any) = (apart(&origin.server, &['/', '"']), ['.', '/', '"']);
    match &*origin.schema {
        "" => format!("{server}/{}", apart(&origin.table, &any)),
        schema => format!("{server}/{}.{}", apart(schema, &any), origin.table),
    }
}

/// Schema and table of a name that a pattern has made. A schema that it left as it was may have a dot in it.
fn parted<'a>(name: &'a str, schema: &'a str) -> (&'a str, &'a str) {
    match name.strip_prefix(schema).and_then(|rest| rest.strip_prefix('.')) {
        Some(table) if !schema.is_empty() => (schema, table),
        _ => name.split_once('.').unwrap_or((schema, name)),
    }
}

fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, behind)) = rest.split_once('{') {
        out += before;
        let (name, behind) = behind.split_once('}').unwrap_or((behind, ""));
        out += values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        rest = behind;
    }
    out + rest
}

fn check_name(name: &str, what: &str) -> Result<(), Cause> {
    let rule = match name {
        "" => "has an empty name".to_owned(),
        name if name.contains('\0') => "has a name with a zero byte, which PostgreSQL has not".to_owned(),
        name if name.len() > NAME_BYTES_MAX => {
            format!("has a name of {} bytes, and PostgreSQL keeps {NAME_BYTES_MAX}: rename it", name.len())
        }
        _ => return Ok(()),
    };
    let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    Err(Cause::new("cdc.name", format!("{what} \"{shown}\" {rule}")))
}

/// `CustomerID`, `customerId` and `Customer Id` become `customer_id`.
fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 4);
    for (index, c) in chars.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| chars[before]);
        let is_word = c.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_numeric()
                    || before.is_uppercase() && chars.get(index + 1).is_some_and(|next| next.is_lowercase())
            });
        if is_word {
            out.push('_');
        }
        match c {
            ' ' | '-' | '.' => out.push('_'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin<'a>(schema: &'a str, table: &'a str) -> Origin<'a> {
        Origin {
            server: "cdc".into(),
            database: "shop".into(),
            schema: schema.into(),
            table: table.into(),
            is_by_topic: false,
        }
    }

    fn naming(change: impl FnOnce(&mut Naming)) -> Naming {
        let mut naming = Naming {
            template: "{schema}.{table}".to_owned(),
            is_snake: false,
            pattern: None,
            tables: Choice::new(&[], &[]).unwrap(),
            columns: Choice::new(&[], &[]).unwrap(),
            renames: HashMap::new(),
            masks: Vec::new(),
            keys: HashMap::new(),
        };
        change(&mut naming);
        naming
    }

    fn target(naming: &Naming, schema: &str, table: &str) -> String {
        naming.target(&origin(schema, table)).unwrap().map_or("-".to_owned(), |name| name.quoted())
    }

    #[test]
    fn names_are_kept_whatever_is_in_them_and_never_cut() {
        let plain = naming(|_| {});
        assert_eq!(target(&plain, "public", "users"), "\"public\".\"users\"");
        assert_eq!(target(&plain, "public", "a\"; DROP TABLE b; --"), "\"public\".\"a\"\"; DROP TABLE b; --\"");
        assert_eq!(target(&plain, "public", "a.b"), "\"public\".\"a.b\"");
        assert_eq!(target(&plain, "S", &"ü".repeat(31)), format!("\"S\".\"{}\"", "ü".repeat(31)));
        for name in ["", "a\0b", &"ü".repeat(32), &"a".repeat(64)] {
            let cause = plain.target(&origin("public", name)).unwrap_err();
            assert_eq!((&*cause.code, cause.text.contains('\0')), ("cdc.name", false));
        }
    }

    #[test]
    fn a_dot_in_a_name_is_a_part_of_it_and_no_two_sources_have_one_identity() {
        let plain = naming(|_| {});
        assert_eq!(target(&plain, "my.app", "users"), "\"my.app\".\"users\"");
        assert_eq!(target(&plain, "my", "app.users"), "\"my\".\"app.users\"");
        let parts = |replacement: &str| {
            naming(|naming| naming.pattern = Some((whole(r"(.*)_p\d+").unwrap(), replacement.to_owned())))
        };
        assert_eq!(target(&parts("$1"), "my.app", "users_p1"), "\"my.app\".\"users\"");
        assert_eq!(target(&parts("$1"), "my", "app.users_p1"), "\"my\".\"app.users\"");
        assert_eq!(target(&parts("$1"), "my.app", "users"), "\"my.app\".\"users\"");
        let bare = naming(|naming| naming.template = "{table}".to_owned());
        assert_eq!(target(&bare, "my", "app.users"), "\"public\".\"app.users\"");

        // As it was stored before any name had to be quoted.
        let of = |schema: &str, table: &str| identity(&origin(schema, table));
        assert_eq!((&*of("public", "users"), &*of("my", "app.users")), ("cdc/public.users", "cdc/my.app.users"));
        let server =
            |server: &'static str, schema, table| identity(&Origin { server: server.into(), ..origin(schema, table) });
        let all = [
            of("my.app", "users"),
            of("my", "app.users"),
            of("", "my.app.users"),
            of("\"my.app\"", "users"),
            of("", "\"my.app\".users"),
            server("cdc/my", "app", "users"),
            of("my/app", "users"),
            server("cdc/my", "", "app"),
            of("", "my/app"),
        ];
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }

    #[test]
    fn no_table_is_made_where_postgresql_keeps_its_own_nor_under_a_name_with_a_zero_byte() {
        let bare = naming(|naming| naming.template = "{table}".to_owned());
        let snaked = naming(|naming| naming.is_snake = true);
        let plain = naming(|_| {});
        for (naming, schema, table) in [
            (&plain, "pg_catalog", "pg_class"),
            (&plain, "pg_toast", "t"),
            (&plain, "pg_temp_3", "t"),
            (&plain, "information_schema", "tables"),
            (&snaked, "PgCatalog", "t"),
            (&bare, "public", "x\0y"),
            (&plain, "x\0y", "t"),
        ] {
            let cause = naming.target(&origin(schema, table)).unwrap_err();
            assert_eq!((&*cause.code, cause.text.contains('\0')), ("cdc.name", false), "{schema:?}");
        }
        assert_eq!(target(&plain, "pgx", "t"), "\"pgx\".\"t\"");
    }

    #[test]
    fn a_template_a_pattern_and_the_case_make_the_name() {
        let archived = naming(|naming| naming.template = "archive.{database}_{schema}_{table}".to_owned());
        assert_eq!(target(&archived, "public", "users"), "\"archive\".\"shop_public_users\"");
        let bare = naming(|naming| naming.template = "{table}".to_owned());
        assert_eq!(target(&bare, "sales", "users"), "\"public\".\"users\"");
        let parts = naming(|naming| {
            naming.pattern = Some((whole(r"public\.(\w+)_p\d+").unwrap(), "all.$1".to_owned()));
        });
        assert_eq!(target(&parts, "public", "orders_p7"), "\"all\".\"orders\"");
        assert_eq!(target(&parts, "public", "orders"), "\"public\".\"orders\"");
        let snaked = naming(|naming| naming.is_snake = true);
        assert_eq!(target(&snaked, "Public", "OrderHTTPLine 2b"), "\"public\".\"order_http_line_2b\"");
    }

    #[test]
    fn tables_and_columns_are_chosen_by_patterns_of_their_whole_names() {
        let some = naming(|naming| {
            naming.tables = Choice::new(&[r"public\..*".to_owned()], &[r"public\.secret".to_owned()]).unwrap();
            naming.columns = Choice::new(&[], &[r"public\.\w+\.password".to_owned()]).unwrap();
            naming.renames.insert("public.users.nick".to_owned(), "nickname".to_owned());
        });
        assert_eq!(target(&some, "public", "secrets"), "\"public\".\"secrets\"");
        assert_eq!((&*target(&some, "public", "secret"), &*target(&some, "other", "users")), ("-", "-"));
        assert_eq!(some.column("public.users", "password").unwrap(), None);
        assert_eq!(some.column("public.users", "nick").unwrap().as_deref(), Some("nickname"));
        assert_eq!(some.column("public.people", "nick").unwrap().as_deref(), Some("nick"));
    }
}
