//! The table that changes of one shape go into, made or changed where it must be, and with it how they are written.
//! A table is only ever changed so that it loses nothing: a column more, or a wider one. Names are always quoted, and
//! types come out of a list; nothing else of a record ever becomes a part of a statement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lane::Known;
use super::naming::{TableName, quoted};
use super::shape::{Column, Content, Extra, Shape, Types};
use super::statement::{Plan, Used};
use crate::decode::debezium::{Kind, Widening};
use crate::fault::{Cause, Fault};
use crate::flow::AGAIN;
use crate::pg::Work;

const COLUMNS: &str = include_str!("../../../sql/cdc/columns.sql");
const KEYS: &str = include_str!("../../../sql/cdc/keys.sql");
const FOLLOW: &str = include_str!("../../../sql/cdc/follow.sql");
const FOLLOWED: &str = include_str!("../../../sql/cdc/followed.sql");
const REFERENCES: &str = include_str!("../../../sql/cdc/references.sql");

const HAS_TYPE: &str = "SELECT to_regtype($1) IS NOT NULL";

/// All are forgotten at once where there are more. Memory: some KiB each.
const PLANS_MAX: usize = 2_000;
/// So long a table that does not fit is not looked at again.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// So long a plan holds: by then it is noticed what somebody else has made of the table.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How long nothing is taken for new in a table that had such a row.
const MET_FOR: Duration = Duration::from_secs(60);

/// What a plan is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    Put,
    /// What is not there cannot be deleted; but that it was is noted.
    Delete,
    Truncate,
}

/// Plans of shapes, as long as they hold.
pub struct Plans {
    evolves: bool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    plans: HashMap<u64, (Instant, Arc<Plan>)>,
    refused: HashMap<(u64, Need), (Instant, Cause)>,
    references: Option<(Instant, References)>,
    /// When a table had a row, last, that was taken for a new one.
    met: HashMap<i32, Instant>,
}

/// Which of the tables that are followed refers to which, by their numbers.
type References = Arc<Vec<(i32, i32)>>;

/// A table as the catalog has it.
pub struct Found {
    pub columns: Vec<FoundColumn>,
}

pub struct FoundColumn {
    name: String,
    sql_type: String,
    /// Without limits.
    cast: String,
    /// The table makes its value of other columns, and takes none.
    is_generated: bool,
    /// It takes a value where a row comes, and no other later: GENERATED ALWAYS AS IDENTITY.
    is_fixed: bool,
}

impl Found {
    pub fn look(work: &mut Work<'_>, table: &TableName) -> Result<Found, Fault> {
        let rows = work.query(COLUMNS, &[&table.schema, &table.name])?;
        let column = |row: &postgres::Row| FoundColumn {
            name: row.get(0),
            sql_type: row.get(1),
            cast: row.get(2),
            is_generated: row.get(3),
            is_fixed: row.get(4),
        };
        Ok(Found { columns: rows.iter().map(column).collect() })
    }

    fn column(&self, name: &str) -> Option<&FoundColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub fn generates(&self, name: &str) -> bool {
        self.column(name).is_some_and(|column| column.is_generated)
    }
}

impl Plans {
    pub fn new(evolves: bool) -> Plans {
        Plans { evolves, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.plans.len() + held.refused.len() > PLANS_MAX {
            *held = Held::default();
        }
        held
    }

    /// After a transaction has failed: what it has made is gone, and what failed may be older than its table.
    pub fn forget(&self) {
        let mut held = self.held();
        held.plans.clear();
        held.references = None;
    }

    /// By foreign keys that do not wait for the end of a transaction.
    pub fn references(&self, work: &mut Work<'_>) -> Result<References, Fault> {
        if let Some((since, references)) = &self.held().references
            && since.elapsed() < HELD_FOR
        {
            return Ok(references.clone());
        }
        let rows = work.query(REFERENCES, &[])?;
        let references: References = Arc::new(rows.iter().map(|row| (row.get(0), row.get(1))).collect());
        if !work.is_inner() {
            self.held().references = Some((Instant::now(), references.clone()));
        }
        Ok(references)
    }

    /// Whether rows that a source inserts are taken for new ones.
    pub fn takes_new(&self, target: i32) -> bool {
        self.held().met.get(&target).is_none_or(|since| since.elapsed() >= MET_FOR)
    }

    /// One of them was there: a topic is read again, and the next ones will be there as well.
    pub fn met(&self, target: i32) {
        self.held().met.insert(target, Instant::now());
    }

    /// None where there is no table, and none is needed.
    pub fn plan(
        &self,
        work: &mut Work<'_>,
        known: &Known,
        shape: &Shape,
        need: Need,
    ) -> Result<Option<Arc<Plan>>, Fault> {
        {
            let held = self.held();
            if let Some((since, plan)) = held.plans.get(&shape.number)
                && since.elapsed() < HELD_FOR
            {
                return Ok(Some(plan.clone()));
            }
            if let Some((since, cause)) = held.refused.get(&(shape.number, need))
                && since.elapsed() < REFUSED_FOR
            {
                return Err(Fault::Reject(cause.clone()));
            }
        }
        let made = self.make(work, known, shape, need);
        match &made {
            // A trial is taken back, with the tables that it has made.
            Ok(Some((plan, false))) if !work.is_inner() => {
                drop(self.held().plans.insert(shape.number, (Instant::now(), plan.clone())));
            }
            Err(Fault::Reject(cause)) => {
                drop(self.held().refused.insert((shape.number, need), (Instant::now(), cause.clone())));
            }
            _ => {}
        }
        made.map(|made| made.map(|(plan, _)| plan))
    }

    /// The plan, and whether it is for now only: of a table as this transaction has just made it, which is nobody else's until
    /// it is committed, or of one that lacks what a row would need.
    fn make(
        &self,
        work: &mut Work<'_>,
        known: &Known,
        shape: &Shape,
        need: Need,
    ) -> Result<Option<(Arc<Plan>, bool)>, Fault> {
        let mut found = Found::look(work, &shape.table)?;
        let is_needed = need == Need::Put || need == Need::Delete && !shape.is_guess;
        if found.columns.is_empty() && !is_needed {
            return Ok(None);
        }
        self.fit(work, known, shape, &found)?;
        let (target, mut is_passing) = self.follow(work, shape)?;
        let changes = |found: &Found| changes_of(shape, found);
        if need != Need::Put && !found.columns.is_empty() {
            // What goes needs no column more; what comes must not be written by the same plan.
            is_passing |= !changes(&found).is_ok_and(|changes| changes.is_empty());
        } else if !changes(&found)?.is_empty() {
            // One at a time, and by what is there then.
            work.run("SELECT pg_advisory_xact_lock(hashtext('sluicegate cdc'))")?;
            found = Found::look(work, &shape.table)?;
            let changes = changes(&found)?;
            if !changes.is_empty() {
                self.may_change(shape)?;
                self.change(work, shape, &changes)?;
                found = Found::look(work, &shape.table)?;
                is_passing = true;
            }
        }
        is_passing |= lacks_column(shape, &found);
        let mut plan = plan_of(shape, &found, target)?;
        plan.check_key(work, shape)?;
        Ok(Some((Arc::new(plan), is_passing)))
    }

    /// Whether values are written as the table wants them by now, and nothing else of what `plan` looks at.
    pub fn check_fit(&self, work: &mut Work<'_>, known: &Known, shape: &Shape) -> Result<(), Fault> {
        let found = Found::look(work, &shape.table)?;
        self.fit(work, known, shape, &found)
    }

    /// Values are written as their columns want them: where those are others than their source's, by kind or because the
    /// server has no such type, they have to be read again.
    pub fn fit(&self, work: &mut Work<'_>, known: &Known, shape: &Shape, found: &Found) -> Result<(), Fault> {
        let written = found.columns.iter().filter(|column| !column.is_generated);
        let mut types: Types = written.map(|column| (column.name.clone(), column.sql_type.clone())).collect();
        let mut is_other = false;
        for column in shape.columns.iter().filter(|column| column.is_plain()) {
            let Some(kind) = column.kind() else { continue };
            let former = shape.fitted_to.as_ref().and_then(|types| types.get(&column.name));
            match types.get(&column.name) {
                Some(have) if former == Some(have) => {}
                // What a column was that is another one by now, values must not be written for any longer.
                Some(have) => {
                    let (is_taken, is_same) = (is_taken(kind, have), kind.fitted(have) == *kind);
                    is_other |= !is_same && (is_taken || former.is_some());
                }
                None if kind.extension().is_some() => {
                    let is_there: bool = work.query(HAS_TYPE, &[&kind.sql_type()])?[0].get(0);
                    if !is_there {
                        types.insert(column.name.clone(), kind.without_extension().sql_type().to_owned());
                        is_other = true;
                    }
                }
                None => {}
            }
        }
        if !is_other {
            return Ok(());
        }
        known.note_target(&shape.table, types);
        Err(Fault::retry(AGAIN, format!("{} has other types than its source", shape.table.quoted())))
    }

    /// The number of a table that need not be there yet.
    pub fn target(&self, work: &mut Work<'_>, shape: &Shape) -> Result<i32, Fault> {
        self.follow(work, shape).map(|(target, _)| target)
    }

    /// The table's number, and whether this transaction has given it.
    fn follow(&self, work: &mut Work<'_>, shape: &Shape) -> Result<(i32, bool), Fault> {
        if let Some(target) = followed(work, shape)? {
            return Ok((target, false));
        }
        let TableName { schema, name } = &shape.table;
        work.execute(FOLLOW, &[schema, name, &shape.identity])?;
        // Another one may have been first.
        self.follow(work, shape).map(|(target, _)| (target, true))
    }

    pub fn may_change(&self, shape: &Shape) -> Result<(), Fault> {
        if self.evolves {
            return Ok(());
        }
        let text = format!("{} does not fit the record, and evolve is off", shape.table.quoted());
        Err(Fault::reject("cdc.table", text))
    }

    fn change(&self, work: &mut Work<'_>, shape: &Shape, changes: &[String]) -> Result<(), Fault> {
        let mut inner = work.begin()?;
        match changes.iter().try_for_each(|change| inner.run(change)) {
            Ok(()) => inner.commit(),
            // Words that the server does not take are the record's affair; that something may not be done is not.
            Err(fault) if is_its_affair(&fault.cause().code) => {
                drop(inner);
                let code = fault.cause().code.trim_start_matches("pg.").to_owned();
                let text = format!("{} cannot be made to fit: SQLSTATE {code}", shape.table.quoted());
                Err(Fault::reject("cdc.table", text))
            }
            Err(fault) => Err(fault),
        }
    }
}

/// The table's number, where it has one. Two sources are never mixed in one table.
pub fn followed(work: &mut Work<'_>, shape: &Shape) -> Result<Option<i32>, Fault> {
    let rows = work.query(FOLLOWED, &[&shape.table.schema, &shape.table.name])?;
    let Some(row) = rows.first() else { return Ok(None) };
    let source: &str = row.get(1);
    if source == shape.identity {
        return Ok(Some(row.get(0)));
    }
    let text = format!(
        "{} follows {source}, and {} would be mixed into it: give one of them another name",
        shape.table.quoted(),
        shape.identity
    );
    Err(Fault::reject("cdc.collision", text))
}

/// Words, limits, and others that depend on the table; a right that is missing is none of these.
fn is_its_affair(code: &str) -> bool {
    code.starts_with("pg.42") && code != "pg.42501"
        || code.starts_with("pg.54")
        || matches!(code, "pg.0A000" | "pg.2BP01" | "pg.22023")
}

/// Whether a column takes values of a kind as it is.
fn is_taken(kind: &Kind, have: &str) -> bool {
    matches!(kind.widening(have), Widening::Fits | Widening::Perhaps(_))
}

/// The statements without which the table does not take all values of the shape.
pub fn changes_of(shape: &Shape, found: &Found) -> Result<Vec<String>, Fault> {
    let table = shape.table.quoted();
    if found.columns.is_empty() {
        let key: Vec<String> = shape.key.iter().map(|column| quoted(&shape.columns[*column].name)).collect();
        let column = |(index, column): (usize, &Column)| {
            let sql_type = column.sql_type()?;
            let not_null = if shape.key.contains(&index) { " NOT NULL" } else { "" };
            Some(format!("{} {sql_type}{not_null}", quoted(&column.name)))
        };
        let mut parts: Vec<String> = shape.columns.iter().enumerate().filter_map(column).collect();
        if parts.is_empty() {
            return Err(Fault::reject("cdc.table", format!("{table} would have no column: all values are null")));
        }
        if !key.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        return Ok(vec![
            format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&shape.table.schema)),
            format!("CREATE TABLE {table} ({})", parts.join(", ")),
        ]);
    }
    let mut changes = Vec::new();
    for column in &shape.columns {
        let Some(want) = column.sql_type() else { continue };
        let name = quoted(&column.name);
        let Some(FoundColumn { sql_type: have, is_generated, .. }) = found.column(&column.name) else {
            changes.push(format!("ALTER TABLE {table} ADD COLUMN {name} {want}"));
            continue;
        };
        let Some(kind) = column.kind().filter(|_| column.is_plain() && !is_generated) else { continue };
        match kind.widening(have) {
            // What does not keep to a limit the server refuses, row by row.
            Widening::Fits | Widening::Perhaps(_) => {}
            Widening::To(wider) => {
                changes.push(format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {wider}"));
            }
            Widening::No => {
                let text = format!(
                    "column {name} of {table} is {have} and would have to be {want}, which is not safe: change it by hand"
                );
                return Err(Fault::reject("cdc.column", text));
            }
        }
    }
    Ok(changes)
}

/// Whether it has no column yet for a field of which there was only null so far. Another instance may make one at any time,
/// and from then on null has to be written there.
fn lacks_column(shape: &Shape, found: &Found) -> bool {
    let mut unknown = shape.columns.iter().filter(|column| column.is_field() && column.sql_type().is_none());
    unknown.any(|column| found.column(&column.name).is_none())
}

pub fn plan_of(shape: &Shape, found: &Found, target: i32) -> Result<Plan, Fault> {
    let mut used = Vec::new();
    let mut places = vec![None; shape.columns.len()];
    for (index, column) in shape.columns.iter().enumerate() {
        let Some(FoundColumn { name, cast, is_generated: false, is_fixed, .. }) = found.column(&column.name) else {
            continue;
        };
        if *is_fixed && !shape.key.contains(&index) {
            let text = format!(
                "column {} of {} is GENERATED ALWAYS AS IDENTITY and not of the key, so that its rows could not change: \
                 make it BY DEFAULT",
                quoted(name),
                shape.table.quoted()
            );
            return Err(Fault::reject("cdc.column", text));
        }
        places[index] = Some(used.len());
        let is_field = column.is_field();
        used.push(Used { column: index, name: name.clone(), cast: cast.clone(), is_field });
    }
    let key = shape.key.iter().map(|column| {
        places[*column].ok_or_else(|| {
            let name = quoted(&shape.columns[*column].name);
            let table = shape.table.quoted();
            Fault::reject("cdc.key", format!("{table} has no column {name} to be written, and it is of the key"))
        })
    });
    let key = key.collect::<Result<Vec<usize>, Fault>>()?;
    let find = |wanted: &dyn Fn(&Content) -> bool| {
        let column = shape.columns.iter().position(|column| wanted(&column.content));
        column.and_then(|column| places[column])
    };
    Ok(Plan {
        table: shape.table.quoted(),
        target,
        columns: found.columns.iter().map(|column| column.name.clone()).collect(),
        key,
        lsn: find(&|content| matches!(content, Content::Extra(Extra::Lsn))),
        deleted: find(&|content| matches!(content, Content::Deleted)),
        is_replay: false,
        is_sorted: false,
        used,
    })
}

impl Plan {
    /// A row that its key tells is put by an index of just that.
    pub fn check_key(&mut self, work: &mut Work<'_>, shape: &Shape) -> Result<(), Fault> {
        if shape.key.is_empty() || self.is_keyed_in(work, shape)? {
            return Ok(());
        }
        let columns: Vec<String> = self.key.iter().map(|at| quoted(&self.used[*at].name)).collect();
        let (table, columns) = (shape.table.quoted(), columns.join(", "));
        let text =
            format!("{table} has no unique index on exactly ({columns}), by which rows are told apart: make one");
        Err(Fault::reject("cdc.table", text))
    }

    fn is_keyed_in(&mut self, work: &mut Work<'_>, shape: &Shape) -> Result<bool, Fault> {
        let mut names: Vec<&str> = self.key.iter().map(|at| self.used[*at].name.as_str()).collect();
        names.sort_unstable();
        let rows = work.query(KEYS, &[&shape.table.schema, &shape.table.name])?;
        let decides = |row: &postgres::Row| {
            let mut columns: Vec<String> = row.get(0);
            columns.sort_unstable();
            columns == names && row.get(1)
        };
        let is_keyed = rows.iter().any(decides);
        self.is_sorted = rows.len() == 1;
        Ok(is_keyed)
    }
}
