//! What records of a topic would become, before anything runs: for `check`. They are read as all records are, and what
//! their table lacks is found where it is otherwise made. Nothing is written, here or there.

use std::sync::Arc;

use super::Cdc;
use super::naming::quoted;
use super::plan::{Found, Plans, changes_of, followed, plan_of};
use super::rows::{Act, CdcRows};
use super::shape::{Content, Shape};
use crate::fault::{Cause, Fault};
use crate::flow::{AGAIN, Outlook, Preview};
use crate::pg::Work;
use crate::record::Record;

const IS_FOLLOWING: &str = "SELECT to_regclass('sluicegate_cdc_tables') IS NOT NULL";

/// A table may turn out to want other values than its source's, once.
const ATTEMPTS: usize = 2;

impl Outlook for Cdc {
    fn preview(&self, records: &[Record<'_>], work: &mut Work<'_>) -> Result<Option<Preview>, Fault> {
        let mut attempt = 1;
        loop {
            let Some(shape) = self.shape_of(records).map_err(Fault::Reject)? else { return Ok(None) };
            match self.plans.foresee(work, self, &shape) {
                Err(Fault::Retry(cause)) if cause.code == AGAIN && attempt < ATTEMPTS => attempt += 1,
                found => return found.map(Some),
            }
        }
    }
}

impl Cdc {
    /// The shape of the last one that puts a row. Where none comes to that, why the last one does not.
    fn shape_of(&self, records: &[Record<'_>]) -> Result<Option<Arc<Shape>>, Cause> {
        let (mut shape, mut refused) = (None, None);
        for record in records {
            let mut rows = CdcRows::default();
            match self.add(record, &mut rows) {
                Ok(()) => {
                    let row = rows.rows().iter().rfind(|row| row.act == Act::Put);
                    shape = row.map(|row| rows.shape(row).clone()).or(shape);
                }
                Err(cause) => refused = Some(cause),
            }
        }
        match (shape, refused) {
            (None, Some(cause)) => Err(cause),
            (shape, _) => Ok(shape),
        }
    }
}

impl Plans {
    /// What the table is, and what would make it fit.
    fn foresee(&self, work: &mut Work<'_>, cdc: &Cdc, shape: &Shape) -> Result<Preview, Fault> {
        let found = Found::look(work, &shape.table)?;
        self.fit(work, &cdc.known, shape, &found)?;
        let is_following: bool = work.query(IS_FOLLOWING, &[])?[0].get(0);
        if is_following {
            followed(work, shape)?;
        }
        let (is_there, changes) = (!found.columns.is_empty(), changes_of(shape, &found)?);
        if !changes.is_empty() {
            self.may_change(shape)?;
        }
        if is_there {
            plan_of(shape, &found, 0)?.check_key(work, shape)?;
        }
        Ok(shown(shape, &found, changes))
    }
}

fn shown(shape: &Shape, found: &Found, changes: Vec<String>) -> Preview {
    let columns = shape.columns.iter().map(|column| {
        let sql_type =
            column.sql_type().unwrap_or_else(|| "of a type that is not known yet: only null so far".to_owned());
        format!("{} {sql_type}", quoted(&column.name))
    });
    let by_name = shape.columns.iter().filter(|column| match &column.content {
        Content::Field(Some(kind)) | Content::Masked(kind, _) => kind.is_by_name(),
        _ => false,
    });
    let left_out = shape.columns.iter().filter(|column| found.generates(&column.name));
    Preview {
        table: shape.table.quoted(),
        source: shape.identity.clone(),
        key: shape.key.iter().map(|column| quoted(&shape.columns[*column].name)).collect(),
        columns: columns.collect(),
        is_guess: shape.is_guess,
        by_name: by_name.map(|column| quoted(&column.name)).collect(),
        left_out: left_out.map(|column| quoted(&column.name)).collect(),
        is_there: !found.columns.is_empty(),
        changes,
    }
}
