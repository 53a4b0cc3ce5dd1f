//! A change of a key is two messages: a row leaves, and one comes. What the connector leaves out of the one that comes is in
//! the row that leaves; and where a topic has several partitions, either may be first. So a row that leaves first stands by
//! until it is fetched; and one that comes first is put without what it lacks, which is noted, and given to it later.

use std::collections::HashSet;

use postgres::types::Type;
use uuid::Uuid;

use super::apply::{call, given, leaving};
use super::array::Array;
use super::gone;
use super::pending::At;
use super::rows::{Act, Lsn, Told, Value};
use super::statement::{Plan, Where};
use crate::fault::Fault;
use crate::pg::Work;

const ANY_LACKS: &str = "SELECT FROM sluicegate_cdc_lacks WHERE target = $1 LIMIT 1";
const BEHIND: &str = include_str!("../../../sql/cdc/behind.sql");
const FETCH: &str = include_str!("../../../sql/cdc/fetch.sql");
const LACK: &str = include_str!("../../../sql/cdc/lack.sql");
const LACKING: &str = include_str!("../../../sql/cdc/lacking.sql");
const PASS_ON: &str = include_str!("../../../sql/cdc/pass_on.sql");
const PATCH: &str = include_str!("../../../sql/cdc/patch.sql");
const SETTLE: &str = include_str!("../../../sql/cdc/settle.sql");

/// Rows without a place in the log have this one.
const NOWHERE: &str = "0/0";

/// A row that left: its columns by their names, as texts.
struct Left {
    names: Vec<String>,
    texts: Vec<Option<String>>,
}

impl Left {
    fn of(&self, name: &str) -> Option<Value<'_>> {
        let at = self.names.iter().position(|known| known == name)?;
        Some(self.texts[at].as_deref().map_or(Value::Null, |text| Value::Text(text.as_bytes())))
    }
}

/// Who lacks values: a row, or without a key one that left and stands by.
struct Taker {
    id: String,
    key: Option<Vec<String>>,
    since: String,
    columns: Vec<String>,
}

/// Rows of a table that may lack values, by the ids of their keys: of those that a group changes, and is given to know of.
#[derive(Default)]
pub struct Moves {
    lacking: HashSet<String>,
}

impl Moves {
    /// Before a group's changes of the table. Almost always none of its rows lacks anything.
    pub fn look(&mut self, work: &mut Work<'_>, target: i32, rows: &[At<'_>]) -> Result<(), Fault> {
        if work.query(ANY_LACKS, &[&target])?.is_empty() {
            return Ok(());
        }
        let of = |at: &At<'_>| {
            let has_key = !at.shape().key.is_empty();
            let before = (has_key && at.row.has_before()).then(|| at.id_before());
            [before, (has_key && at.row.act == Act::Put).then(|| at.id_after())]
        };
        let ids = Array::of_ids(rows.iter().flat_map(of).filter(Option::is_some));
        let (target, ids) = (target.to_be_bytes(), ids.finish());
        let found = work.ask(LACKING, &[Type::INT4, Type::UUID_ARRAY], &[Some(&target), Some(&ids)])?;
        self.lacking = found.iter().map(|row| row.get(0)).collect();
        Ok(())
    }

    /// Whoever lacked values of these columns is another one from now on, and lacks no others.
    fn pass_on(
        &mut self,
        work: &mut Work<'_>,
        target: i32,
        (from, stands_by, lsn): (&str, bool, &str),
        to: &Taker,
    ) -> Result<(), Fault> {
        let Taker { id, key, since, columns } = to;
        let touched = work.execute(PASS_ON, &[&target, &from, &stands_by, &lsn, id, key, since, columns])?;
        if touched > 0 && key.is_some() && !columns.is_empty() {
            self.lacking.insert(id.clone());
        }
        Ok(())
    }

    /// A row that is put has what it brings, and a new one lacks nothing that a former one did.
    pub fn change(&mut self, work: &mut Work<'_>, target: i32, at: &At<'_>) -> Result<(), Fault> {
        if self.lacking.is_empty() || !self.lacking.contains(&shown_id(at.id_after())) {
            return Ok(());
        }
        let lsn = shown(at.row.lsn);
        let mut taker = taker(at, &lsn);
        if at.row.told == Told::Inserted && at.row.has_before() {
            taker.columns.clear();
        }
        self.pass_on(work, target, (&taker.id, false, &lsn), &taker)
    }

    /// The row leaves its key for a new one. Where that one has come, it gets what it lacks; otherwise the row stands by.
    pub fn leave(&mut self, work: &mut Work<'_>, plan: &Plan, at: &At<'_>) -> Result<(), Fault> {
        let (key, lsn) = (&at.shape().key, place(at, plan));
        let (old_id, new_id) = (shown_id(at.id_before()), shown_id(at.id_after()));
        let found = given(leaving(plan, &[*at]), |sent, values| work.ask(&plan.leave(sent), sent, values))?;
        let row = found.first().map(|row| Left { names: plan.columns.clone(), texts: row.get(0) });
        let settled = work.query(SETTLE, &[&plan.target, &old_id, &lsn])?;
        let mut next = Taker { id: old_id.clone(), key: None, since: lsn.clone(), columns: Vec::new() };
        if let Some(waiting) = settled.first() {
            next = Taker { columns: waiting.get(0), id: waiting.get(1), key: waiting.get(2), since: waiting.get(3) };
            give(work, plan, &next, row.as_ref())?;
        } else if let Some(row) = &row {
            let mut arrays: Vec<Array> = key.iter().map(|column| Array::of_texts([at.after(*column)])).collect();
            arrays.extend([&lsn, &old_id, &new_id].map(|text| Array::of_texts([Value::Text(text.as_bytes())])));
            arrays.push(Array::of_texts(row.names.iter().map(|name| Value::Text(name.as_bytes()))));
            arrays.push(Array::of_texts(row.names.iter().map(|name| row.of(name).unwrap_or(Value::Null))));
            if call(work, arrays, |_| plan.stand_by())? > 0 {
                next.columns = row.names.clone();
            }
        }
        if self.lacking.contains(&old_id) {
            // What it lacks itself.
            self.pass_on(work, plan.target, (&old_id, false, &lsn), &next)?;
        }
        Ok(())
    }

    /// The row comes from another key: with what it lacks, or without that for now. False: it is a change like any other.
    pub fn arrive(&mut self, work: &mut Work<'_>, plan: &Plan, at: &At<'_>) -> Result<bool, Fault> {
        let (target, lsn, is_whole) = (plan.target, place(at, plan), at.unchanged().is_empty());
        let old_id = shown_id(at.id_before());
        let (mut left_at, mut fetched) = (lsn.as_str(), work.query(FETCH, &[&target, &old_id, &lsn])?);
        if fetched.is_empty() && lsn != NOWHERE {
            // It left by a tombstone, which has no place.
            left_at = NOWHERE;
            fetched = work.query(FETCH, &[&target, &old_id, &left_at])?;
        }
        let mut taker = taker(at, &lsn);
        let Some(row) = fetched.first() else {
            if is_whole || lsn == NOWHERE {
                return Ok(false);
            }
            let (has_left, is_over) = behind(work, target, &old_id, &lsn)?;
            // It came long ago, and from where is forgotten: what it leaves out it has.
            if has_left || !is_over && came(work, plan, at)? {
                return Ok(false);
            }
            if is_over || !put(work, plan, at, None)? {
                work.count("stale", 1);
                return Ok(true);
            }
            let Taker { id, key, since, columns } = &taker;
            work.execute(LACK, &[&target, &old_id, &since, &columns, &id, &key])?;
            self.lacking.insert(taker.id);
            return Ok(true);
        };
        let (left, lacks): (_, bool) = (Left { names: row.get(0), texts: row.get(1) }, row.get(2));
        let mut is_put = false;
        if !is_whole {
            let (_, is_over) = behind(work, target, &old_id, &lsn)?;
            is_put = !is_over && put(work, plan, at, Some(&left))?;
            work.count("stale", u64::from(!is_put));
        }
        if lacks {
            if !is_put {
                taker.columns.clear();
            }
            self.pass_on(work, target, (&old_id, true, left_at), &taker)?;
        }
        Ok(!is_whole)
    }
}

fn place(at: &At<'_>, plan: &Plan) -> String {
    shown(at.row.lsn.filter(|_| plan.lsn.is_some()))
}

fn shown(lsn: Option<i64>) -> String {
    lsn.map_or_else(|| NOWHERE.to_owned(), |lsn| Lsn(lsn).to_string())
}

/// The row that came, as one that lacks what it does not bring.
fn taker(at: &At<'_>, lsn: &str) -> Taker {
    let shape = at.shape();
    let text = |column: &usize| match at.after(*column) {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Null | Value::Unchanged => String::new(),
    };
    let columns = at.unchanged().iter().map(|column| shape.columns[*column].name.clone()).collect();
    Taker {
        id: shown_id(at.id_after()),
        key: Some(shape.key.iter().map(text).collect()),
        since: lsn.to_owned(),
        columns,
    }
}

/// Whether the row of a former key has left, and whether the table was emptied since.
fn behind(work: &mut Work<'_>, target: i32, old_id: &str, lsn: &str) -> Result<(bool, bool), Fault> {
    let found = work.query(BEHIND, &[&target, &old_id, &lsn])?;
    Ok((found[0].get(0), found[0].get(1)))
}

/// Whether the row is there by this very change, or by a later one.
fn came(work: &mut Work<'_>, plan: &Plan, at: &At<'_>) -> Result<bool, Fault> {
    let mut arrays =
        Array::of_columns(plan.sql_types(&plan.key), &[at], |at, number| at.after(plan.used[plan.key[number]].column));
    arrays.push(Array::of_places([at.row.lsn].into_iter()));
    let found = given(arrays, |sent, values| work.ask(&plan.came(sent), sent, values))?;
    Ok(!found.is_empty())
}

/// False where it is older than what is there.
fn put(work: &mut Work<'_>, plan: &Plan, at: &At<'_>, left: Option<&Left>) -> Result<bool, Fault> {
    if plan.lsn.is_some() && !gone::since(work, plan.target, [at].into_iter())?.is_empty() {
        return Ok(false);
    }
    let value = |column: usize, name: &str| match at.after(column) {
        Value::Unchanged => left.and_then(|left| left.of(name)).unwrap_or(Value::Null),
        value => value,
    };
    let written = plan.written(&[]);
    let used = written.iter().map(|at| &plan.used[*at]);
    let arrays = used.map(|used| Array::of_texts([value(used.column, &used.name)])).collect();
    Ok(call(work, arrays, |sent| plan.put(sent, Where::Any))? > 0)
}

/// What a row that left has, to whoever lacks it.
fn give(work: &mut Work<'_>, plan: &Plan, taker: &Taker, row: Option<&Left>) -> Result<(), Fault> {
    if taker.columns.is_empty() {
        return Ok(());
    }
    let Some(row) = row else {
        let text = format!("{} has no row whose large values another key could keep", plan.table);
        return Err(Fault::reject("cdc.unchanged", text));
    };
    let Some(key) = &taker.key else {
        let texts: Vec<Option<&str>> = taker
            .columns
            .iter()
            .map(|name| row.names.iter().position(|known| known == name).and_then(|at| row.texts[at].as_deref()))
            .collect();
        return work.execute(PATCH, &[&plan.target, &taker.id, &taker.since, &taker.columns, &texts]).map(drop);
    };
    let lacks = |at: &usize| !plan.key.contains(at) && taker.columns.contains(&plan.used[*at].name);
    let columns: Vec<usize> = plan.key.iter().copied().chain((0..plan.used.len()).filter(lacks)).collect();
    let value = |(number, at): (usize, &usize)| match key.get(number) {
        Some(text) => Value::Text(text.as_bytes()),
        None => row.of(&plan.used[*at].name).unwrap_or(Value::Null),
    };
    let arrays = columns.iter().enumerate().map(|column| Array::of_texts([value(column)])).collect();
    call(work, arrays, |sent| plan.change(&columns, sent)).map(drop)
}

fn shown_id(id: [u8; 16]) -> String {
    Uuid::from_bytes(id).simple().to_string()
}
