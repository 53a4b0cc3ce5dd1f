//! How rows of a table are put: those that are there by an UPDATE, others by an INSERT that takes what it meets there.

use super::apply::{Table, call, given};
use super::array::Array;
use super::pending::Pending;
use super::plan::Need;
use super::statement::{Plan, Where};
use crate::fault::Fault;
use crate::pg::Work;

impl<'a> Table<'a, '_> {
    pub fn put(&self, work: &mut Work<'_>, unchanged: &[usize], rows: &[&Pending<'a>]) -> Result<(), Fault> {
        let Some(Pending::Put { at: first, .. }) = rows.first() else { return Ok(()) };
        let Some(plan) = self.plan(work, first.shape(), Need::Put)? else { return Ok(()) };
        let (gone, truncated) = if plan.lsn.is_some() { self.furthest(work, &plan)? } else { (None, None) };
        // Of rows without a key nobody knows which are gone.
        let gone = gone.filter(|_| !first.shape().key.is_empty());
        let is_newer = |pending: &&&Pending<'a>| pending.at().row.lsn.is_none_or(|lsn| Some(lsn) > truncated);
        let newer: Vec<&Pending<'a>> = rows.iter().filter(is_newer).copied().collect();
        let mut touched = 0;
        if !unchanged.is_empty() {
            touched = change(work, &plan, unchanged, &newer)?;
            if touched != newer.len() as u64 && self.misses(work, &plan, &newer)? {
                let text =
                    format!("{} has no row whose large values, which the change leaves out, it could keep", plan.table);
                return Err(Fault::reject("cdc.unchanged", text));
            }
        } else {
            let (changes, others): (Vec<&Pending<'a>>, _) =
                newer.iter().partition(|pending| pending.is_change() && !plan.key.is_empty());
            // An UPDATE is the cheaper statement by a row's lock, and of what is there nobody has to ask whether it is gone.
            let changed = change(work, &plan, unchanged, &changes)?;
            touched += changed;
            if changed != changes.len() as u64 {
                touched += insert(work, &plan, gone, &changes, Where::Missing)?;
            }
            touched += insert(work, &plan, gone, &others, Where::Any)?;
        }
        work.count("stale", (rows.len() as u64).saturating_sub(touched));
        Ok(())
    }

    /// Whether one of these rows is not there, although nothing says that it was deleted later.
    fn misses(&self, work: &mut Work<'_>, plan: &Plan, rows: &[&Pending<'a>]) -> Result<bool, Fault> {
        let columns = plan.place();
        let mut arrays = Array::of_columns(plan.sql_types(&columns), rows, |pending, number| {
            pending.at().after(plan.used[columns[number]].column)
        });
        arrays.push(Array::of_ids(rows.iter().map(|pending| Some(pending.at().id_after()))));
        let counted = given(arrays, |sent, values| work.ask(&plan.missing(sent), sent, values))?;
        Ok(counted.first().is_some_and(|row| row.get::<_, i64>(0) > 0))
    }
}

fn change(work: &mut Work<'_>, plan: &Plan, unchanged: &[usize], rows: &[&Pending<'_>]) -> Result<u64, Fault> {
    if rows.is_empty() {
        return Ok(0);
    }
    let columns = plan.written(unchanged);
    call(work, arrays_of(plan, &columns, rows), |sent| plan.change(&columns, sent))
}

/// `gone`: how far deletions have come. Changes before that may be of a row that was deleted after them.
fn insert(
    work: &mut Work<'_>,
    plan: &Plan,
    gone: Option<i64>,
    rows: &[&Pending<'_>],
    which: Where,
) -> Result<u64, Fault> {
    if rows.is_empty() {
        return Ok(0);
    }
    let may_be_gone = |pending: &Pending<'_>| pending.at().row.lsn.is_some_and(|lsn| Some(lsn) < gone);
    let mut arrays = arrays_of(plan, &plan.written(&[]), rows);
    if rows.iter().any(|pending| may_be_gone(pending)) {
        let id = |pending: &&Pending<'_>| may_be_gone(pending).then(|| pending.at().id_after());
        arrays.push(Array::of_ids(rows.iter().map(id)));
    }
    call(work, arrays, |sent| plan.put(sent, which))
}

fn arrays_of(plan: &Plan, columns: &[usize], rows: &[&Pending<'_>]) -> Vec<Array> {
    Array::of_columns(plan.sql_types(columns), rows, |pending, number| pending.value(plan.used[columns[number]].column))
}
