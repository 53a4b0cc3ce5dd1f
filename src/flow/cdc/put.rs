//! How rows of a table are put: those that are there by an UPDATE, new ones by an INSERT, and what only the table knows by one
//! that takes what it meets there.

use super::apply::{Table, call, given};
use super::array::Array;
use super::gone;
use super::pending::{Pending, Place};
use super::plan::Need;
use super::statement::{Plan, Where};
use crate::fault::Fault;
use crate::pg::{UNIQUE_VIOLATION, Work};

/// So many rows are worth the two questions and answers that a savepoint is.
const NEW_ROWS_MIN: usize = 50;

impl<'a> Table<'a, '_> {
    pub fn put(&self, work: &mut Work<'_>, unchanged: &[usize], rows: &[&Pending<'a>]) -> Result<(), Fault> {
        let Some(Pending::Put { at: first, .. }) = rows.first() else { return Ok(()) };
        let Some(plan) = self.plan(work, first.shape(), Need::Put)? else { return Ok(()) };
        let truncated = if plan.lsn.is_some() { self.truncated(work, &plan)? } else { None };
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
                newer.iter().partition(|pending| pending.place() == Some(Place::Taken) && !plan.key.is_empty());
            // An UPDATE is the cheaper statement by a row's lock, and of what is there nobody has to ask whether it is gone.
            let changed = change(work, &plan, unchanged, &changes)?;
            touched += changed;
            if changed != changes.len() as u64 {
                let alive = alive(work, &plan, &changes)?;
                touched += insert(work, &plan, &alive, Where::Missing)?;
            }
            let (new, mut others): (Vec<&Pending<'a>>, _) =
                alive(work, &plan, &others)?.iter().partition(|pending| pending.place() == Some(Place::Free));
            match self.insert_new(work, &plan, &new)? {
                Some(inserted) => touched += inserted,
                None => others.extend(new),
            }
            touched += insert(work, &plan, &others, Where::Any)?;
        }
        work.count("stale", (rows.len() as u64).saturating_sub(touched));
        Ok(())
    }

    /// None where they have to be put in another way: one of them is there. Where none is, as with almost all that a source
    /// inserts, that is half the work: what takes what it meets there has to lock each place before it comes to it.
    fn insert_new(&self, work: &mut Work<'_>, plan: &Plan, rows: &[&Pending<'_>]) -> Result<Option<u64>, Fault> {
        if rows.len() < NEW_ROWS_MIN || plan.key.is_empty() || !self.plans.takes_new(plan.target) {
            return Ok(None);
        }
        let mut inner = work.begin()?;
        match insert(&mut inner, plan, rows, Where::New) {
            Ok(inserted) => inner.commit().map(|()| Some(inserted)),
            Err(fault) if fault.cause().code == UNIQUE_VIOLATION => {
                self.plans.met(plan.target);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether one of these rows is not there, although nothing says that it was deleted later.
    fn misses(&self, work: &mut Work<'_>, plan: &Plan, rows: &[&Pending<'a>]) -> Result<bool, Fault> {
        let alive = alive(work, plan, rows)?;
        let arrays = Array::of_columns(plan.sql_types(&plan.key), &alive, |pending, number| {
            pending.at().after(plan.used[plan.key[number]].column)
        });
        let counted = given(arrays, |sent, values| work.ask(&plan.present(sent), sent, values))?;
        Ok(counted.first().is_some_and(|row| row.get::<_, i64>(0) < alive.len() as i64))
    }
}

/// Those of which nothing says that they were deleted later. Of rows without a key nobody knows.
fn alive<'r, 'a>(work: &mut Work<'_>, plan: &Plan, rows: &[&'r Pending<'a>]) -> Result<Vec<&'r Pending<'a>>, Fault> {
    if plan.lsn.is_none() || plan.key.is_empty() {
        return Ok(rows.to_vec());
    }
    let gone = gone::since(work, plan.target, rows.iter().map(|pending| pending.at()))?;
    let is_alive = |pending: &&&Pending<'_>| gone.is_empty() || !gone.contains(&pending.at().id_after());
    Ok(rows.iter().filter(is_alive).copied().collect())
}

fn change(work: &mut Work<'_>, plan: &Plan, unchanged: &[usize], rows: &[&Pending<'_>]) -> Result<u64, Fault> {
    if rows.is_empty() {
        return Ok(0);
    }
    let columns = plan.written(unchanged);
    call(work, arrays_of(plan, &columns, rows), |sent| plan.change(&columns, sent))
}

fn insert(work: &mut Work<'_>, plan: &Plan, rows: &[&Pending<'_>], which: Where) -> Result<u64, Fault> {
    if rows.is_empty() {
        return Ok(0);
    }
    call(work, arrays_of(plan, &plan.written(&[]), rows), |sent| plan.put(sent, which))
}

fn arrays_of(plan: &Plan, columns: &[usize], rows: &[&Pending<'_>]) -> Vec<Array> {
    Array::of_columns(plan.sql_types(columns), rows, |pending, number| pending.value(plan.used[columns[number]].column))
}
