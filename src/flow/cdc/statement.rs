//! The statements of a plan. Parameters are arrays, one for each column, which the server makes rows of. `sent` are their
//! types: that of a column, or texts.

use postgres::types::Type;

use super::naming::quoted;

/// A column that is written.
#[derive(Clone, Debug)]
pub struct Used {
    /// Which of the shape's it is.
    pub column: usize,
    pub name: String,
    /// The type that a text becomes, without limits: an explicit cast to varchar(2) would cut, in silence.
    pub cast: String,
    /// Whether it is a field of the row, and no addition to it.
    pub is_field: bool,
}

/// What is done with a row that only its values tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Image {
    Change,
    Delete,
}

/// Which rows are put.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// All: what is there is replaced.
    Any,
    /// Those that are not there.
    Missing,
    /// All, as new ones: where one is there, none is put.
    New,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub table: String,
    /// Its number among those that are followed.
    pub target: i32,
    pub used: Vec<Used>,
    /// All that the table has: a message may know less of its row.
    pub columns: Vec<String>,
    /// Places in `used`.
    pub key: Vec<usize>,
    /// Where the place in the source's log is kept beside each row.
    pub lsn: Option<usize>,
    pub deleted: Option<usize>,
    /// Whether it is for letters that are replayed.
    pub is_replay: bool,
    /// Whether rows may come in the order of their keys: where something else is unique too, one may have to make room for
    /// another.
    pub is_sorted: bool,
}

impl Plan {
    /// What these columns take.
    pub fn sql_types<'p>(&'p self, columns: &'p [usize]) -> impl Iterator<Item = &'p str> {
        columns.iter().map(|at| self.used[*at].cast.as_str())
    }

    fn name(&self, at: usize) -> String {
        quoted(&self.used[at].name)
    }

    /// Those of the key and, where it is kept, the place in the log.
    pub fn place(&self) -> Vec<usize> {
        self.key.iter().copied().chain(self.lsn).collect()
    }

    /// Of a row that stays and is marked, what is kept beside it, but for its place.
    pub fn beside(&self) -> Vec<usize> {
        let is_beside = |at: &usize| !self.used[*at].is_field && Some(*at) != self.deleted && Some(*at) != self.lsn;
        (0..self.used.len()).filter(|at| self.deleted.is_some() && is_beside(at)).collect()
    }

    /// Those that are written to, the key first.
    pub fn written(&self, unchanged: &[usize]) -> Vec<usize> {
        let others = (0..self.used.len()).filter(|at| !self.key.contains(at));
        self.key.iter().copied().chain(others.filter(|at| !unchanged.contains(&self.used[*at].column))).collect()
    }

    fn value(&self, columns: &[usize], number: usize) -> String {
        format!("x.c{}::{}", number + 1, self.used[columns[number]].cast)
    }

    /// `t.key = x.c1` for the key's columns, which are the first of these.
    fn is_row(&self, columns: &[usize]) -> String {
        let parts = (0..self.key.len()).map(|at| format!("t.{} = {}", self.name(columns[at]), self.value(columns, at)));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    /// What keeps an older change from a newer row. One that a snapshot has read takes all changes: those with places before
    /// it, which were not committed when it was read. Not where letters are replayed, which may be older than that.
    fn guard(&self, given: &str) -> String {
        let Some(at) = self.lsn else { return "true".to_owned() };
        let there = format!("t.{}", self.name(at));
        let is_read = |place: &str| format!("({place} - '0/0'::pg_lsn) % 2 = 1");
        let was_open = match self.is_replay {
            true => String::new(),
            false => format!(" OR {} AND NOT {}", is_read(&there), is_read(given)),
        };
        format!("({given} IS NULL OR {there} IS NULL OR {there} <= {given}{was_open})")
    }

    /// Puts rows: parameters are all that are `written`.
    pub fn put(&self, sent: &[Type], rows: Where) -> String {
        let columns = self.written(&[]);
        let names: Vec<String> = columns.iter().map(|at| self.name(*at)).collect();
        let values: Vec<String> = (0..columns.len()).map(|number| self.value(&columns, number)).collect();
        let from = from(sent);
        let only = match rows {
            Where::Missing => {
                format!(" WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})", self.table, self.is_row(&columns))
            }
            Where::Any | Where::New => String::new(),
        };
        let (names, values) = (names.join(", "), values.join(", "));
        // A key that its table would otherwise count up by itself.
        let is_given = "OVERRIDING SYSTEM VALUE";
        let insert = format!("INSERT INTO {} AS t ({names}) {is_given} SELECT {values} FROM {from}{only}", self.table);
        if self.key.is_empty() || rows == Where::New {
            return insert;
        }
        let key: Vec<String> = self.key.iter().map(|at| self.name(*at)).collect();
        let others: Vec<String> = columns
            .iter()
            .filter(|at| !self.key.contains(at))
            .map(|at| format!("{0} = excluded.{0}", self.name(*at)))
            .collect();
        let conflict = format!("{insert} ON CONFLICT ({})", key.join(", "));
        match others.is_empty() {
            true => format!("{conflict} DO NOTHING"),
            false => {
                let given = self.lsn.map_or(String::new(), |at| format!("excluded.{}", self.name(at)));
                format!("{conflict} DO UPDATE SET {} WHERE {}", others.join(", "), self.guard(&given))
            }
        }
    }

    /// Changes columns of rows that are there, unless they are further on: parameters are `written`.
    pub fn change(&self, columns: &[usize], sent: &[Type]) -> String {
        let sets: Vec<String> = (self.key.len()..columns.len())
            .map(|number| format!("{} = {}", self.name(columns[number]), self.value(columns, number)))
            .collect();
        let sets = match sets.is_empty() {
            true => format!("{0} = t.{0}", self.name(columns[0])),
            false => sets.join(", "),
        };
        let (from, is_row) = (from(sent), self.is_row(columns));
        let lsn = self.lsn.and_then(|lsn| columns.iter().position(|at| *at == lsn));
        let guard = lsn.map_or_else(String::new, |lsn| format!(" AND {}", self.guard(&self.value(columns, lsn))));
        format!("UPDATE {} AS t SET {sets} FROM {from} WHERE {is_row}{guard}", self.table)
    }

    /// Deletes a row, or marks it, and gives it as it was: the texts of all columns.
    pub fn leave(&self, sent: &[Type]) -> String {
        let texts: Vec<String> = self.columns.iter().map(|name| format!("t.{}::text", quoted(name))).collect();
        format!("{} RETURNING ARRAY[{}]", self.delete(sent), texts.join(", "))
    }

    /// Keeps a row that left, unless the one of its new key has come: parameters are the columns of the new key, the place
    /// in the log, the ids of the former key and the new one, and names and texts of the row's columns.
    pub fn stand_by(&self) -> String {
        let keys = self.key.len();
        let at = |number: usize| format!("(${}::text[])[1]", keys + number);
        let (lsn, old, new) = (format!("{}::pg_lsn", at(1)), at(2), at(3));
        let is_row = (0..keys).map(|number| {
            let used = &self.used[self.key[number]];
            format!("t.{} = (${}::text[])[1]::{}", quoted(&used.name), number + 1, used.cast)
        });
        let is_row = is_row.collect::<Vec<_>>().join(" AND ");
        let came = match self.lsn {
            // What left by a tombstone has no place to be compared by.
            Some(place) => format!("{lsn} > '0/0' AND t.{} >= {lsn}", self.name(place)),
            None => "false".to_owned(),
        };
        let gone = format!("g.target = {} AND g.key = {new}::uuid AND {lsn} > '0/0' AND g.lsn > {lsn}", self.target);
        format!(
            "INSERT INTO sluicegate_cdc_left AS l (target, key, lsn, columns, texts)
             SELECT {target}, {old}::uuid, {lsn}, ${names}::text[], ${texts}::text[]
             WHERE NOT EXISTS (SELECT FROM {table} t WHERE {is_row} AND {came})
               AND NOT EXISTS (SELECT FROM sluicegate_cdc_gone g WHERE {gone})
             ON CONFLICT (target, key, lsn) DO UPDATE SET columns = excluded.columns, texts = excluded.texts",
            target = self.target,
            table = self.table,
            names = keys + 4,
            texts = keys + 5,
        )
    }

    /// One row for each of these that is there by its change or a later one: parameters are `place`.
    pub fn came(&self, sent: &[Type]) -> String {
        let columns = self.place();
        let came = self.lsn.map(|lsn| format!("t.{} >= {}", self.name(lsn), self.value(&columns, self.key.len())));
        let came = came.as_deref().unwrap_or("false");
        format!("SELECT FROM {} AS t, {} WHERE {} AND {came}", self.table, from(sent), self.is_row(&columns))
    }

    /// How many of these rows are there: parameters are the columns of the key.
    pub fn present(&self, sent: &[Type]) -> String {
        format!("SELECT count(*) FROM {} AS t, {} WHERE {}", self.table, from(sent), self.is_row(&self.key))
    }

    /// Deletes rows, or marks them: parameters are `place`, and what is `beside`.
    pub fn delete(&self, sent: &[Type]) -> String {
        let columns = [self.place(), self.beside()].concat();
        let given = self.lsn.map_or("NULL".to_owned(), |_| self.value(&columns, self.key.len()));
        let (from, is_row, guard) = (from(sent), self.is_row(&columns), self.guard(&given));
        let Some(deleted) = self.deleted.map(|at| self.name(at)) else {
            return format!("DELETE FROM {} AS t USING {from} WHERE {is_row} AND {guard}", self.table);
        };
        let beside = (self.key.len()..columns.len())
            .map(|number| format!(", {} = {}", self.name(columns[number]), self.value(&columns, number)));
        let set = format!("{deleted} = true{}", beside.collect::<String>());
        // A tombstone behind the deletion has no place, and says less than that one.
        let is_news = format!("({given} IS NOT NULL OR t.{deleted} IS NOT TRUE)");
        format!("UPDATE {} AS t SET {set} FROM {from} WHERE {is_row} AND {guard} AND {is_news}", self.table)
    }

    /// All rows of the table at once, and all of them one by one, but for those that came later than this place.
    pub fn truncate(&self, lsn: Option<&str>) -> [String; 2] {
        let older = match (self.lsn, lsn) {
            (Some(at), Some(lsn)) => format!("({0} IS NULL OR {0} <= '{lsn}'::pg_lsn)", self.name(at)),
            _ => "true".to_owned(),
        };
        [format!("TRUNCATE {}", self.table), format!("DELETE FROM {} WHERE {older}", self.table)]
    }

    /// Marks all rows that are there and came no later: parameters are the place, and what is `beside`.
    pub fn mark_all(&self, deleted: usize, sent: &[Type]) -> String {
        let (columns, deleted, from) = (self.beside(), self.name(deleted), from(sent));
        let place = self.lsn.map(|at| self.name(at));
        let beside = (0..columns.len())
            .map(|at| format!(", {} = x.c{}::{}", self.name(columns[at]), at + 2, self.used[columns[at]].cast));
        let place_set = place.iter().map(|name| format!(", {name} = x.c1"));
        let set: String = place_set.chain(beside).collect();
        let older = place.iter().map(|name| format!(" AND (x.c1 IS NULL OR t.{name} IS NULL OR t.{name} <= x.c1)"));
        let older: String = older.collect();
        let table = &self.table;
        format!("UPDATE {table} AS t SET {deleted} = true{set} FROM {from} WHERE t.{deleted} IS NOT TRUE{older}")
    }

    /// Whether a row came later than a place.
    pub fn has_later(&self, lsn: &str) -> Option<String> {
        let at = self.name(self.lsn?);
        Some(format!("SELECT EXISTS (SELECT FROM {} WHERE {at} > '{lsn}'::pg_lsn)", self.table))
    }

    /// The columns that tell a row where there is no key.
    pub fn compared(&self) -> impl Iterator<Item = &Used> {
        self.used.iter().filter(|used| used.is_field)
    }

    /// One row that has the values of `compared`; and then those that it is to have: of a change of `used`, of a row that is
    /// marked its place and what is `beside`.
    pub fn by_image(&self, image: Image) -> String {
        // As texts: json and some others cannot be compared.
        let same = self.compared().enumerate().map(|(number, used)| {
            let (name, value) = (quoted(&used.name), format!("(${}::text)::{}::text", number + 1, used.cast));
            format!("{name}::text IS NOT DISTINCT FROM {value}")
        });
        let mut same: Vec<String> = same.collect();
        let first = same.len() + 1;
        same.extend(self.deleted.map(|at| format!("{} IS NOT TRUE", self.name(at))));
        let row = format!("ctid = (SELECT ctid FROM {} WHERE {} LIMIT 1)", self.table, same.join(" AND "));
        let set = |(number, at): (usize, usize)| {
            format!("{} = (${}::text)::{}", self.name(at), first + number, self.used[at].cast)
        };
        let mut sets: Vec<String> = match (image, self.deleted) {
            (Image::Delete, None) => return format!("DELETE FROM {} WHERE {row}", self.table),
            (Image::Delete, Some(_)) => self.lsn.into_iter().chain(self.beside()).enumerate().map(set).collect(),
            (Image::Change, _) => (0..self.used.len()).enumerate().map(set).collect(),
        };
        if image == Image::Delete {
            sets.extend(self.deleted.map(|at| format!("{} = true", self.name(at))));
        }
        format!("UPDATE {} SET {} WHERE {row}", self.table, sets.join(", "))
    }
}

/// `x.c1, x.c2` and so on: parameters are arrays of one length, one for each of these columns. What is unfolded in a list of
/// values goes from row to row; a function in FROM would be called to its end first, and what it gives kept.
fn from(sent: &[Type]) -> String {
    let column = |(number, sent): (usize, &Type)| format!("unnest(${number}::{}) AS c{number}", sent.name());
    let columns: Vec<String> = (1..).zip(sent).map(column).collect();
    format!("(SELECT {}) AS x", columns.join(", "))
}
