//! Twenty tables that point at one another and have the columns of all families of types between them, and what happens
//! to their rows by chance.

use crate::kinds::{self, Table};
use crate::replica::quoted;
use crate::rows;
use crate::shapes::TOLD;
use crate::support::random::Random;

pub const TABLES: u64 = 20;
/// Row numbers are taken from so many: keys that were deleted come again.
const KEYS: u64 = 2_000;

/// What each table has beside the columns that all have: every family in one of one partition, and in one of three.
const FAMILIES: [&[&Table]; TABLES as usize] = [
    &[&kinds::NUMBERS],
    &[&kinds::TEXTS],
    &[&kinds::NUMBERS, &kinds::SPANS], // wide, as each third one is
    &[&kinds::TIMES],
    &[&kinds::ARRAYS],
    &[&kinds::TEXTS, &kinds::BITS],
    &[&kinds::SPECIALS, &kinds::BITS],
    &[&kinds::EXTREMES, &kinds::MAPS],
    &[&kinds::TIMES, &kinds::MAPS],
    &[&kinds::SPANS, &kinds::SHAPES, &kinds::GRIDS],
    &[&kinds::RANGES],
    &[&kinds::ARRAYS, &kinds::SHAPES],
    &[&kinds::DOMAINS],
    &[&kinds::UNKNOWN],
    &[&kinds::SPECIALS, &kinds::EXTREMES, &kinds::DOMAINS],
    &[&kinds::NUMBERS, &kinds::TIMES],
    &[&kinds::TEXTS, &kinds::MAPS],
    &[&kinds::RANGES, &kinds::UNKNOWN, &kinds::GRIDS],
    &[&kinds::ARRAYS, &kinds::BITS],
    &[&TOLD],
];

/// The one whose types are told by values and names, where there are no schemas.
pub const TOLD_BY_VALUES: u64 = 19;

pub fn families(table: u64) -> &'static [&'static Table] {
    FAMILIES[table as usize]
}

/// Every third table has a topic of three partitions: a key and the one that it becomes may be in two of them, and a table
/// that is emptied says so in any.
fn is_wide(table: u64) -> bool {
    table % 3 == 2
}

pub fn name(table: u64) -> String {
    format!("{}_{table}", if is_wide(table) { "wide" } else { "narrow" })
}

fn parent(table: u64) -> Option<u64> {
    table.checked_sub(1).map(|place| place / 2)
}

/// Gives a target that has the tables one of the source's keys.
pub fn refer(table: u64) -> String {
    let (table, parent) = (name(table), parent(table).map(name).expect("a parent"));
    format!(
        "CREATE INDEX ON {table} (parent);
         ALTER TABLE {table} ADD FOREIGN KEY (parent) REFERENCES {parent} (id) DEFERRABLE INITIALLY DEFERRED"
    )
}

/// Of two children one goes with its parent, the other stays without it.
pub fn create_source(table: u64) -> String {
    let action = if table.is_multiple_of(2) { "CASCADE" } else { "SET NULL" };
    let references = parent(table)
        .map(|parent| format!("REFERENCES {} (id) ON UPDATE CASCADE ON DELETE {action}", name(parent)))
        .unwrap_or_default();
    create(table, &references, |kind| kind)
}

/// Its columns have no domains: without a schema nobody knows what these are made of.
pub fn create_target(table: u64) -> String {
    let references = parent(table).map(|parent| format!("REFERENCES {} (id)", name(parent))).unwrap_or_default();
    create(table, &references, |kind| match kind {
        "positive" => "integer",
        "price" => "numeric(6,2)",
        "word" | "short_word" => "varchar(30)",
        other => other,
    })
}

fn create(table: u64, references: &str, of: fn(&'static str) -> &'static str) -> String {
    let columns = families(table).iter().flat_map(|family| family.columns);
    let columns: String = columns.map(|(name, kind, _)| format!(", {} {}", quoted(name), of(kind))).collect();
    format!(
        "CREATE TABLE {0} (id bigint PRIMARY KEY, parent bigint {references}, turns integer NOT NULL DEFAULT 0,
             amount numeric(12,2), title varchar(100), seen timestamptz, notes jsonb, body text, share double precision{columns});
         ALTER TABLE {0} ALTER body SET STORAGE EXTERNAL; CREATE INDEX ON {0} (parent);",
        name(table)
    )
}

/// What chance does to the rows.
pub struct Course {
    pub random: Random,
    /// Without, tables are emptied row by row.
    pub truncates: bool,
    /// A snapshot is yet to read what is done: values of some types it would change.
    pub is_before: bool,
}

impl Course {
    /// What a snapshot is to read: no table is without rows.
    pub fn fill(&mut self, source: &mut postgres::Client, count: u64) {
        self.is_before = true;
        self.change(source, count);
        self.is_before = false;
        for table in 0..TABLES {
            source
                .batch_execute(&format!("INSERT INTO {} (id) VALUES ({KEYS}) ON CONFLICT (id) DO NOTHING", name(table)))
                .expect("a row");
        }
    }

    /// Transactions of a few statements each, of several tables.
    pub fn change(&mut self, source: &mut postgres::Client, count: u64) {
        let mut left = count;
        while left > 0 {
            let statements = (1 + self.random.below(20)).min(left);
            left -= statements;
            let end = if self.random.chance(5) { "ROLLBACK" } else { "COMMIT" };
            let body: Vec<String> = (0..statements).map(|_| self.statement()).collect();
            let sql = format!("BEGIN; {}; {end}", body.join("; "));
            source.batch_execute(&sql).unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        }
    }

    /// The next row that is there, from a random one on.
    fn some(&mut self, table: u64) -> String {
        format!("(SELECT id FROM {} WHERE id >= {} ORDER BY id LIMIT 1)", name(table), self.random.below(KEYS))
    }

    /// Columns of the families, each with one of its values or nothing.
    fn values(&mut self, table: u64, percent: u64) -> Vec<(String, String)> {
        let mut values = Vec::new();
        for family in families(table).iter().filter(|family| !self.is_before || rows::is_in_snapshot(family)) {
            for column in family.columns {
                if self.random.chance(percent) {
                    let row = self.random.below(rows::rows(family) as u64) as usize;
                    let value = kinds::literal(column, row);
                    values.push((quoted(column.0), if self.random.chance(10) { "NULL".to_owned() } else { value }));
                }
            }
        }
        values
    }

    /// The same as assignments behind others.
    fn assignments(&mut self, table: u64, percent: u64) -> String {
        self.values(table, percent).iter().map(|(name, value)| format!(", {name} = {value}")).collect()
    }

    fn insert(&mut self, table: u64, id: u64) -> String {
        let (to, a) = (name(table), self.random.below(1_000_000));
        let parent = parent(table).map_or("NULL".to_owned(), |parent| self.some(parent));
        let body = match self.random.below(4) {
            0 => format!("repeat('large {a} ', 300)"),
            1 => "NULL".to_owned(),
            _ => format!("'small {a}'"),
        };
        let (names, values): (Vec<_>, Vec<_>) = self.values(table, 100).into_iter().unzip();
        let list = |items: &[String]| items.iter().map(|item| format!(", {item}")).collect::<String>();
        format!(
            "INSERT INTO {to} (id, parent, turns, amount, title, seen, notes, body, share{}) VALUES ({id}, {parent}, {a}, {a} / 100.0,
                 'title ''{a}'' ä', to_timestamp({a} / 1000.0), '{{\"a\": [{a}, null]}}', {body}, {a} / 7.0{})
             ON CONFLICT (id) DO UPDATE SET turns = {to}.turns + 1, title = EXCLUDED.title{}",
            list(&names),
            list(&values),
            self.assignments(table, 20)
        )
    }

    fn statement(&mut self) -> String {
        let table = self.random.below(TABLES);
        let (to, of) = (name(table), self.some(table));
        let (a, b) = (self.random.below(1_000_000), self.random.below(KEYS));
        match self.random.below(1000) {
            0..350 => self.insert(table, b),
            350..600 => {
                let others = self.assignments(table, 30);
                format!("UPDATE {to} SET turns = turns + 1, amount = NULL, share = {a} / 3.0{others} WHERE id = {of}")
            }
            600..680 => format!("UPDATE {to} SET body = repeat('other {a} ', 300) WHERE id = {of}"),
            680..740 => {
                let others = self.assignments(table, 10);
                format!("UPDATE {to} SET turns = turns + 1{others} WHERE id BETWEEN {b} AND {b} + 5")
            }
            740..830 => {
                format!("UPDATE {to} SET id = {b} WHERE id = {of} AND NOT EXISTS (SELECT 1 FROM {to} WHERE id = {b})")
            }
            830..990 => format!("DELETE FROM {to} WHERE id = {of}"),
            // With its children; the roots of the tree would take everything along.
            990..993 if table > 4 => {
                let rows = if self.random.chance(50) { 0 } else { 20 };
                let empty = if self.truncates { format!("TRUNCATE {to} CASCADE") } else { format!("DELETE FROM {to}") };
                format!(
                    "{empty}; INSERT INTO {to} (id, turns, body)
                         SELECT n, {a}, repeat('behind {a} ', 300) FROM generate_series({b}, {b} + {rows} - 1) n"
                )
            }
            _ => format!("DELETE FROM {to} WHERE id BETWEEN {b} AND {b} + 20"),
        }
    }
}
