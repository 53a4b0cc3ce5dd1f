//! Changes of tables whose rows nothing tells apart: in their order, each row found by the values that it had, or appended.

use postgres::types::Type;

use super::apply::{Table, call, of_value};
use super::array::Array;
use super::pending::{At, Pending};
use super::plan::Need;
use super::rows::{Act, Value};
use super::statement::{Image, Where};
use crate::fault::Fault;
use crate::pg::Work;

impl<'a> Table<'a, '_> {
    /// The first of these changes, with those behind it that are done in the same statement. Gives how many.
    pub fn write_keyless(&self, work: &mut Work<'_>, rows: &[At<'a>]) -> Result<usize, Fault> {
        let (at, shape) = (rows[0], rows[0].shape());
        let is_new = |at: &At<'_>| at.row.act == Act::Put && !(self.does_mirror && at.row.has_before());
        if is_new(&at) {
            let is_alike = |next: &&At<'_>| is_new(next) && next.shape().number == shape.number;
            let count = rows.iter().take_while(is_alike).count();
            let count = self.parts(&rows[..count], At::bytes).first().map_or(count, ExactSizeIterator::len);
            let puts: Vec<Pending<'a>> = rows[..count].iter().map(|at| Pending::put(*at)).collect();
            self.put(work, &[], &puts.iter().collect::<Vec<_>>())?;
            return Ok(count);
        }
        let Some(plan) = self.plan(work, shape, Need::Put)? else { return Ok(1) };
        // What it is about is gone with all that was in the table.
        if plan.lsn.is_some() && at.row.lsn.is_some() && at.row.lsn <= self.truncated(work, &plan)? {
            work.count("stale", 1);
            return Ok(1);
        }
        if !self.does_mirror {
            // A change more, as the row was.
            let columns = plan.written(&[]);
            let before = |at: &At<'a>, number: usize| at.before(plan.used[columns[number]].column);
            let arrays = Array::of_columns(plan.sql_types(&columns), &[at], before);
            return call(work, arrays, |sent| plan.put(sent, Where::Any)).map(|_| 1);
        }
        let is_change = at.row.act == Act::Put;
        let text = |value: Value<'a>| match value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged => None,
        };
        let mut values: Vec<Option<&[u8]>> = plan.compared().map(|used| text(at.before(used.column))).collect();
        if is_change {
            values.extend(plan.used.iter().map(|used| match at.after(used.column) {
                Value::Unchanged => text(at.before(used.column)),
                value => text(value),
            }));
        } else if plan.deleted.is_some() {
            let kept = plan.lsn.into_iter().chain(plan.beside());
            values.extend(kept.map(|number| text(at.before(plan.used[number].column))));
        }
        let statement = plan.by_image(if is_change { Image::Change } else { Image::Delete });
        let touched = work.call(&statement, &vec![Type::TEXT; values.len()], &values).map_err(of_value)?;
        match touched {
            0 => Err(Fault::reject("cdc.image", format!("{} has no row with the values that it had", plan.table))),
            _ => Ok(1),
        }
    }
}
