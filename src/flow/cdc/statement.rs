//! The statements of a plan. Parameters are arrays of texts, one for each column, which the server makes rows of.

use super::naming::quoted;

/// A column that is written.
#[derive(Debug)]
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

#[derive(Debug)]
pub struct Plan {
    pub table: String,
    /// Its number among those that are followed.
    pub target: i32,
    pub used: Vec<Used>,
    /// Places in `used`.
    pub key: Vec<usize>,
    /// Where the place in the source's log is kept beside each row.
    pub lsn: Option<usize>,
    pub deleted: Option<usize>,
}

impl Plan {
    /// `x.c1, x.c2` and so on: parameters are arrays, one for each of these columns.
    fn from(&self, count: usize) -> String {
        let arrays: Vec<String> = (1..=count).map(|number| format!("${number}::text[]")).collect();
        let names: Vec<String> = (1..=count).map(|number| format!("c{number}")).collect();
        format!("unnest({}) AS x ({})", arrays.join(", "), names.join(", "))
    }

    fn value(&self, columns: &[usize], number: usize) -> String {
        format!("x.c{}::{}", number + 1, self.used[columns[number]].cast)
    }

    fn name(&self, at: usize) -> String {
        quoted(&self.used[at].name)
    }

    fn all(&self) -> Vec<usize> {
        (0..self.used.len()).collect()
    }

    /// `t.key = x.c1` for the key's columns, which are the first of these.
    fn is_row(&self, columns: &[usize]) -> String {
        let parts = (0..self.key.len()).map(|at| format!("t.{} = {}", self.name(columns[at]), self.value(columns, at)));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    /// What keeps an older change from a newer row.
    fn guard(&self, given: &str) -> String {
        match self.lsn {
            Some(at) => format!("({given} IS NULL OR t.{0} IS NULL OR t.{0} <= {given})", self.name(at)),
            None => "true".to_owned(),
        }
    }

    /// Puts rows, whatever there was: the columns are those of `used`, in order. `looks`: none that was deleted later; then
    /// the ids of the keys follow.
    pub fn put(&self, looks: bool) -> String {
        let columns = self.all();
        let names: Vec<String> = columns.iter().map(|at| self.name(*at)).collect();
        let values: Vec<String> = (0..columns.len()).map(|number| self.value(&columns, number)).collect();
        let (from, only) = match self.lsn.filter(|_| looks) {
            None => (self.from(columns.len()), String::new()),
            Some(lsn) => {
                let (key, lsn) = (columns.len() + 1, self.value(&columns, lsn));
                let gone = format!("g.target = {} AND g.key = x.c{key}::uuid AND g.lsn > {lsn}", self.target);
                (self.from(key), format!(" WHERE NOT EXISTS (SELECT FROM sluicegate_cdc_gone g WHERE {gone})"))
            }
        };
        let (names, values) = (names.join(", "), values.join(", "));
        let insert = format!("INSERT INTO {} AS t ({names}) SELECT {values} FROM {from}{only}", self.table);
        if self.key.is_empty() {
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

    /// Changes some columns of rows that are there. Gives the columns, in the order of the parameters.
    pub fn change(&self, unchanged: &[usize]) -> (String, Vec<usize>) {
        let others = (0..self.used.len()).filter(|at| !self.key.contains(at) && !unchanged.contains(at));
        let columns: Vec<usize> = self.key.iter().copied().chain(others).collect();
        let sets: Vec<String> = (self.key.len()..columns.len())
            .map(|number| {
                let (name, value) = (self.name(columns[number]), self.value(&columns, number));
                match self.lsn.and_then(|lsn| columns.iter().position(|at| *at == lsn)) {
                    // The row counts as found all the same.
                    Some(lsn) => {
                        let guard = self.guard(&self.value(&columns, lsn));
                        format!("{name} = CASE WHEN {guard} THEN {value} ELSE t.{name} END")
                    }
                    None => format!("{name} = {value}"),
                }
            })
            .collect();
        let sets = match sets.is_empty() {
            true => format!("{0} = t.{0}", self.name(columns[0])),
            false => sets.join(", "),
        };
        let (from, is_row) = (self.from(columns.len()), self.is_row(&columns));
        (format!("UPDATE {} AS t SET {sets} FROM {from} WHERE {is_row}", self.table), columns)
    }

    /// Deletes a row, or marks it, and gives it as it was: the texts of all columns.
    pub fn leave(&self) -> (String, Vec<usize>) {
        let (statement, columns) = self.delete();
        let texts: Vec<String> = (0..self.used.len()).map(|at| format!("t.{}::text", self.name(at))).collect();
        (format!("{statement} RETURNING ARRAY[{}]", texts.join(", ")), columns)
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
            Some(place) => format!("t.{} >= {lsn}", self.name(place)),
            None => "false".to_owned(),
        };
        format!(
            "INSERT INTO sluicegate_cdc_left AS l (target, key, lsn, columns, texts)
             SELECT {target}, {old}::uuid, {lsn}, ${names}::text[], ${texts}::text[]
             WHERE NOT EXISTS (SELECT FROM {table} t WHERE {is_row} AND {came})
               AND NOT EXISTS (SELECT FROM sluicegate_cdc_gone g WHERE g.target = {target} AND g.key = {new}::uuid AND g.lsn > {lsn})
             ON CONFLICT (target, key, lsn) DO UPDATE SET columns = excluded.columns, texts = excluded.texts",
            target = self.target,
            table = self.table,
            names = keys + 4,
            texts = keys + 5,
        )
    }

    /// How many of these rows are neither there nor known to be gone: the columns are those of the key, the place in the
    /// log, if it is kept, and the ids of the keys.
    pub fn missing(&self) -> (String, Vec<usize>) {
        let columns: Vec<usize> = self.key.iter().copied().chain(self.lsn).collect();
        let (from, is_row) = (self.from(columns.len() + 1), self.is_row(&columns));
        let gone = match self.lsn {
            Some(_) => {
                let (key, lsn) = (columns.len() + 1, self.value(&columns, self.key.len()));
                format!("g.target = {} AND g.key = x.c{key}::uuid AND g.lsn > {lsn}", self.target)
            }
            None => "false".to_owned(),
        };
        let is_there = format!("SELECT FROM {} AS t WHERE {is_row}", self.table);
        let is_gone = format!("SELECT FROM sluicegate_cdc_gone g WHERE {gone}");
        (format!("SELECT count(*) FROM {from} WHERE NOT EXISTS ({is_there}) AND NOT EXISTS ({is_gone})"), columns)
    }

    /// Deletes rows, or marks them: parameters are the columns of the key and, where it is kept, the place in the log.
    pub fn delete(&self) -> (String, Vec<usize>) {
        let columns: Vec<usize> = self.key.iter().copied().chain(self.lsn).collect();
        let given = self.lsn.map_or(String::new(), |_| self.value(&columns, self.key.len()));
        let (from, is_row, guard) = (self.from(columns.len()), self.is_row(&columns), self.guard(&given));
        let statement = match self.deleted {
            None => format!("DELETE FROM {} AS t USING {from} WHERE {is_row} AND {guard}", self.table),
            Some(at) => {
                let lsn = self.lsn.map_or(String::new(), |at| format!(", {} = {given}", self.name(at)));
                let set = format!("{} = true{lsn}", self.name(at));
                format!("UPDATE {} AS t SET {set} FROM {from} WHERE {is_row} AND {guard}", self.table)
            }
        };
        (statement, columns)
    }

    /// All rows of the table at once, and all of them one by one, but for those that came later than this place.
    pub fn truncate(&self, lsn: Option<&str>) -> [String; 2] {
        let older = match (self.lsn, lsn) {
            (Some(at), Some(lsn)) => format!("({0} IS NULL OR {0} <= '{lsn}'::pg_lsn)", self.name(at)),
            _ => "true".to_owned(),
        };
        match self.deleted {
            Some(at) => {
                let mark = format!("UPDATE {} SET {} = true WHERE {older}", self.table, self.name(at));
                [mark.clone(), mark]
            }
            None => [format!("TRUNCATE {}", self.table), format!("DELETE FROM {} WHERE {older}", self.table)],
        }
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

    /// One row that has the values of `compared`, and then, for a change, those of `used` that it is to have.
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
        match (image, self.deleted) {
            (Image::Delete, None) => format!("DELETE FROM {} WHERE {row}", self.table),
            (Image::Delete, Some(at)) => format!("UPDATE {} SET {} = true WHERE {row}", self.table, self.name(at)),
            (Image::Change, _) => {
                let set = |(number, used): (usize, &Used)| {
                    format!("{} = (${}::text)::{}", quoted(&used.name), first + number, used.cast)
                };
                let sets: Vec<String> = self.used.iter().enumerate().map(set).collect();
                format!("UPDATE {} SET {} WHERE {row}", self.table, sets.join(", "))
            }
        }
    }
}
