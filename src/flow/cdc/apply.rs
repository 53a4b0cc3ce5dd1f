//! The changes of a group, table by table: of each key the last one counts, and all of them are one statement that puts
//! rows and one that deletes them. Where nothing tells rows apart, changes are done in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use postgres::types::Type;

use super::array::Array;
use super::cut::{STATEMENT_BYTES_MAX, cut};
use super::gone;
use super::lane::Known;
use super::moves::Moves;
use super::naming::TableName;
use super::order::children_first;
use super::pending::{At, Key, Pending, Place, head, index_order, key};
use super::plan::{Need, Plans};
use super::rows::{Act, CdcRows, Lsn, Told, Value};
use super::shape::Shape;
use super::statement::Plan;
use crate::engine::Batch;
use crate::fault::Fault;
use crate::flow::AGAIN;
use crate::pg::{OBJECT_IN_USE, Work};

const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('sluicegate cdc rows'), hashtext($1))";
const TOGETHER: &str = "SELECT pg_advisory_xact_lock_shared(hashtext('sluicegate cdc rows'), hashtext($1))";
const TRUNCATED: &str = include_str!("../../../sql/cdc/truncated.sql");
const LAST_TRUNCATED: &str = "SELECT (truncated - '0/0')::bigint FROM sluicegate_cdc_tables WHERE id = $1";

/// The changes of a group that are to be applied, by table, each in order.
pub struct Changes<'a> {
    tables: Vec<(&'a TableName, Vec<At<'a>>)>,
    /// Of all their values.
    bytes: usize,
    /// Letters, and not what a partition has next.
    is_replay: bool,
}

impl<'a> Changes<'a> {
    pub fn of(batches: &'a [&'a Batch<CdcRows>]) -> Changes<'a> {
        let mut numbers: HashMap<&TableName, usize> = HashMap::new();
        let mut tables: Vec<(&TableName, Vec<At<'_>>)> = Vec::new();
        // Rows of one table mostly follow each other.
        let mut last: Option<(&Arc<Shape>, usize)> = None;
        for batch in batches {
            for row in batch.rows.rows() {
                let at = At { rows: &batch.rows, row };
                let shape = at.shape();
                let number = match last {
                    Some((known, number)) if Arc::ptr_eq(known, shape) => number,
                    _ => *numbers.entry(&shape.table).or_insert_with(|| {
                        tables.push((&shape.table, Vec::new()));
                        tables.len() - 1
                    }),
                };
                last = Some((shape, number));
                tables[number].1.push(at);
            }
        }
        // In one global order, so that two groups that change tables cannot deadlock.
        tables.sort_by_key(|(table, _)| *table);
        let bytes = batches.iter().map(|batch| batch.rows.text_len()).sum();
        Changes { tables, bytes, is_replay: batches.iter().any(|batch| batch.is_replay()) }
    }

    /// For people.
    pub fn count(&self, work: &mut Work<'_>) {
        let mut counts = [0; Told::ALL.len()];
        for (_, rows) in &self.tables {
            rows.iter().for_each(|at| counts[at.row.told as usize] += 1);
        }
        for (told, count) in Told::ALL.into_iter().zip(counts) {
            work.count(told.word(), count);
        }
    }

    pub fn write(&self, work: &mut Work<'_>, plans: &Plans, known: &Known, does_mirror: bool) -> Result<(), Fault> {
        let mut tables = Vec::with_capacity(self.tables.len());
        for (number, (_, rows)) in self.tables.iter().enumerate() {
            let mut table = Table {
                plans,
                known,
                does_mirror,
                bytes: self.bytes,
                is_replay: self.is_replay,
                pending: HashMap::with_capacity(rows.len()),
                order: Vec::new(),
                target: None,
                is_sorted: false,
                moves: Moves::default(),
            };
            if let Err(fault) = table.open(work, rows) {
                if fault.cause().code == AGAIN {
                    self.hear_others(work, plans, known, number);
                }
                return Err(fault);
            }
            tables.push(table);
        }
        let targets: Vec<Option<i32>> = tables.iter().map(|table| table.target).collect();
        let order = match tables.len() {
            0 | 1 => None,
            _ => children_first(&targets, &plans.references(work)?),
        };
        let Some(order) = order else {
            return tables.iter_mut().zip(&self.tables).try_for_each(|(table, (_, rows))| {
                table.write(work, rows)?;
                table.put_all(work)
            });
        };
        // First what goes, from those that refer to others on; and what comes the other way round.
        for number in &order {
            tables[*number].write(work, &self.tables[*number].1)?;
        }
        order.iter().rev().try_for_each(|number| tables[*number].put_all(work))
    }

    /// A table has turned out to be other than its source. That costs all of them a pause: what there is to be known of
    /// those behind it is noted now.
    fn hear_others(&self, work: &mut Work<'_>, plans: &Plans, known: &Known, number: usize) {
        for (_, rows) in &self.tables[number + 1..] {
            let mut heard = BTreeSet::new();
            for at in rows.iter().filter(|at| heard.insert(at.shape().number)) {
                let _ = plans.check_fit(work, known, at.shape());
            }
        }
    }
}

pub struct Table<'a, 'p> {
    pub plans: &'p Plans,
    known: &'p Known,
    pub does_mirror: bool,
    /// Of all values of the group: no more can come to one statement.
    bytes: usize,
    is_replay: bool,
    pending: HashMap<Key<'a>, usize>,
    /// In the order in which keys came first.
    order: Vec<Pending<'a>>,
    /// Its number among those that are followed, where it is there.
    target: Option<i32>,
    /// As its plans have it.
    is_sorted: bool,
    moves: Moves,
}

impl<'a> Table<'a, '_> {
    /// Locks the table and has it made fit for these rows.
    fn open(&mut self, work: &mut Work<'_>, rows: &[At<'a>]) -> Result<(), Fault> {
        // A row that changes its key may be two partitions' affair: what the one does with the new key and the other has
        // not committed yet, no statement would see.
        let table = rows[0].shape().table.quoted();
        let is_alone = rows.iter().any(|at| matches!(at.row.act, Act::Move | Act::Truncate));
        work.query(if is_alone { ALONE } else { TOGETHER }, &[&table])?;
        // A table that has been written to cannot be changed any more in the same transaction, where its foreign keys wait.
        let mut planned = BTreeSet::new();
        for at in rows {
            let need = match at.row.act {
                Act::Put => Need::Put,
                Act::Delete | Act::Move => Need::Delete,
                Act::Truncate => Need::Truncate,
            };
            if planned.insert((at.shape().number, need))
                && let Some(plan) = self.plan(work, at.shape(), need)?
            {
                self.target = Some(plan.target);
                self.is_sorted = plan.is_sorted;
            }
        }
        match self.target {
            Some(target) => self.moves.look(work, target, rows),
            None => Ok(()),
        }
    }

    /// All that these rows ask for, but for what `put_all` puts.
    fn write(&mut self, work: &mut Work<'_>, rows: &[At<'a>]) -> Result<(), Fault> {
        let mut index = 0;
        while index < rows.len() {
            let at = rows[index];
            if at.row.act == Act::Truncate {
                // Whatever came before is gone with it; another partition may have brought what came after.
                if self.order.iter().any(|pending| pending.at().row.lsn > at.row.lsn) {
                    self.flush(work)?;
                }
                self.pending.clear();
                self.order.clear();
                self.truncate(work, at)?;
            } else if at.shape().key.is_empty() {
                self.flush(work)?;
                index += self.write_keyless(work, &rows[index..])?;
                continue;
            } else {
                self.add(work, at)?;
            }
            index += 1;
        }
        self.delete_all(work)
    }

    pub fn plan(&self, work: &mut Work<'_>, shape: &Shape, need: Need) -> Result<Option<Arc<Plan>>, Fault> {
        let plan = self.plans.plan(work, self.known, shape, need)?;
        match self.is_replay {
            false => Ok(plan),
            true => Ok(plan.map(|plan| Arc::new(Plan { is_replay: true, ..Plan::clone(&plan) }))),
        }
    }

    fn add(&mut self, work: &mut Work<'_>, at: At<'a>) -> Result<(), Fault> {
        let shape = at.shape();
        let of_key =
            |number: usize| if at.row.act == Act::Put { at.after(shape.key[number]) } else { at.before(number) };
        if self.is_older(&key(shape.key.len(), of_key), &at) {
            work.count("stale", 1);
            return Ok(());
        }
        if at.row.act == Act::Move {
            self.flush(work)?;
            return self.leave(work, at);
        }
        if at.row.act == Act::Delete {
            let key = key(shape.key.len(), |number| at.before(number));
            // Of the same deletion, a tombstone says less: it has no place.
            let is_gone = |number: &usize| matches!(self.order[*number], Pending::Delete(_));
            if at.row.lsn.is_none() && self.pending.get(&key).is_some_and(is_gone) {
                return Ok(());
            }
            // A row that is only marked has to be there first.
            if shape.marks_deleted() && !self.pending.is_empty() {
                self.flush(work)?;
            }
            self.pend(key, Pending::Delete(at));
            return Ok(());
        }
        if let Some(target) = self.target {
            self.moves.change(work, target, &at)?;
        }
        let new = key(shape.key.len(), |number| at.after(shape.key[number]));
        if at.row.has_before() && self.change_key(work, at, &new)? {
            return Ok(());
        }
        let mut unchanged = at.unchanged();
        let (mut joined, mut first) = (None, None);
        if !unchanged.is_empty()
            && let Some(number) = self.pending.get(&new)
            && let pending = &mut self.order[*number]
            && let Pending::Put { at: former, joined: of_former, unchanged: unknown, first: of_first, .. } = pending
        {
            let takes_nothing = unchanged.iter().all(|column| unknown.contains(column));
            if former.shape().number == shape.number && (takes_nothing || former.row.lsn.is_none()) {
                let value = |column: usize| match (at.after(column), &*of_former) {
                    (Value::Unchanged, Some(values)) => values[column],
                    (Value::Unchanged, None) => former.after(column),
                    (value, _) => value,
                };
                joined = Some((0..shape.columns.len()).map(value).collect());
                unchanged = unknown.iter().copied().filter(|column| unchanged.contains(column)).collect();
                first = of_first.take();
            } else if of_first.is_none() {
                first = Some(Box::new(pending.clone()));
            } else {
                self.flush(work)?;
            }
        }
        let place = if at.row.told == Told::Inserted { Place::Free } else { Place::Taken };
        self.pend(new, Pending::Put { at, joined, unchanged, place, first });
        Ok(())
    }

    /// A row that had another key. True: it is put.
    fn change_key(&mut self, work: &mut Work<'_>, at: At<'a>, new: &Key<'a>) -> Result<bool, Fault> {
        let shape = at.shape();
        let old = key(shape.key.len(), |number| at.before(number));
        if old == *new {
            return Ok(false);
        }
        let is_whole = at.unchanged().is_empty();
        if !is_whole || shape.marks_deleted() {
            self.flush(work)?;
        }
        // One message may tell both: that a row leaves, and that it comes.
        if at.row.told == Told::Updated {
            if is_whole {
                // What came to the former key later stays.
                if !self.is_older(&old, &at) {
                    self.pend(old, Pending::Delete(at));
                }
                return Ok(false);
            }
            self.leave(work, at)?;
        }
        match self.plan(work, shape, Need::Put)? {
            Some(plan) => self.moves.arrive(work, &plan, &at),
            None => Ok(false),
        }
    }

    fn leave(&mut self, work: &mut Work<'_>, at: At<'a>) -> Result<(), Fault> {
        if let Some(plan) = self.plan(work, at.shape(), Need::Delete)? {
            self.moves.leave(work, &plan, &at)?;
        }
        self.delete(work, &[at])
    }

    /// Two partitions may bring changes of one key, in any order. As `Plan::guard` has it; of letters that are replayed
    /// together the order is known too.
    fn is_older(&self, key: &Key<'a>, at: &At<'a>) -> bool {
        let Some(pending) = self.pending.get(key).map(|number| self.order[*number].at().row) else { return false };
        let was_open = pending.is_read() && !at.row.is_read();
        at.row.lsn.is_some() && at.row.lsn < pending.lsn && !was_open
    }

    fn pend(&mut self, key: Key<'a>, mut pending: Pending<'a>) {
        let order = &mut self.order;
        match self.pending.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                let former = &mut order[*entry.get()];
                pending.follow(former);
                *former = pending;
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(order.len());
                order.push(pending);
            }
        }
    }

    /// First what goes, so that what comes may take its place in other unique indexes.
    fn flush(&mut self, work: &mut Work<'_>) -> Result<(), Fault> {
        self.delete_all(work)?;
        self.put_all(work)
    }

    /// Where nothing but the key is unique, in the order of keys: a row's neighbours in the index are near its own place then,
    /// and often in one page with it.
    fn settle(&mut self) {
        if !self.is_sorted {
            return self.pending.clear();
        }
        let mut keys: Vec<(u64, Key<'a>, usize)> =
            self.pending.drain().map(|(key, number)| (head(&key), key, number)).collect();
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| index_order(&a.1).cmp(&index_order(&b.1))));
        let mut order: Vec<Option<Pending<'a>>> = self.order.drain(..).map(Some).collect();
        self.order = keys.iter().filter_map(|(.., number)| order[*number].take()).collect();
    }

    /// What is to go of what is pending.
    fn delete_all(&mut self, work: &mut Work<'_>) -> Result<(), Fault> {
        self.settle();
        let mut deletes: BTreeMap<u64, Vec<At<'a>>> = BTreeMap::new();
        for pending in &self.order {
            if let Pending::Delete(at) = pending {
                deletes.entry(at.shape().number).or_default().push(*at);
            }
        }
        for rows in deletes.values() {
            for part in self.parts(rows, At::bytes) {
                self.delete(work, &rows[part])?;
            }
        }
        Ok(())
    }

    /// The rest of it. Nothing is pending then.
    fn put_all(&mut self, work: &mut Work<'_>) -> Result<(), Fault> {
        let order = std::mem::take(&mut self.order);
        self.put_each(work, order.iter().map(|pending| pending.first().unwrap_or(pending)))?;
        self.put_each(work, order.iter().filter(|pending| pending.first().is_some()))
    }

    fn put_each<'o>(&self, work: &mut Work<'_>, order: impl Iterator<Item = &'o Pending<'a>>) -> Result<(), Fault>
    where
        'a: 'o,
    {
        let mut puts: BTreeMap<(u64, &[usize]), Vec<&Pending<'a>>> = BTreeMap::new();
        for pending in order {
            if let Pending::Put { at, unchanged, .. } = pending {
                puts.entry((at.shape().number, unchanged)).or_default().push(pending);
            }
        }
        for ((_, unchanged), rows) in &puts {
            for part in self.parts(rows, |pending| pending.bytes()) {
                self.put(work, unchanged, &rows[part])?;
            }
        }
        Ok(())
    }

    /// What of these rows is one statement.
    pub fn parts<T>(&self, rows: &[T], bytes: impl Fn(&T) -> usize) -> Vec<Range<usize>> {
        match self.bytes <= STATEMENT_BYTES_MAX {
            true => std::iter::once(0..rows.len()).collect(),
            false => cut(rows.iter().map(bytes), STATEMENT_BYTES_MAX),
        }
    }

    fn delete(&self, work: &mut Work<'_>, rows: &[At<'a>]) -> Result<(), Fault> {
        let Some(plan) = self.plan(work, rows[0].shape(), Need::Delete)? else { return Ok(()) };
        call(work, leaving(&plan, rows), |sent| plan.delete(sent))?;
        match plan.lsn {
            Some(_) => gone::note(work, plan.target, rows),
            None => Ok(()),
        }
    }

    /// Where the table was emptied last.
    pub fn truncated(&self, work: &mut Work<'_>, plan: &Plan) -> Result<Option<i64>, Fault> {
        Ok(work.query(LAST_TRUNCATED, &[&plan.target])?.first().and_then(|row| row.get(0)))
    }

    fn truncate(&self, work: &mut Work<'_>, at: At<'a>) -> Result<(), Fault> {
        let Some(plan) = self.plan(work, at.shape(), Need::Truncate)? else {
            // Other partitions may still bring what was in it.
            if let Some(lsn) = at.row.lsn {
                let target = self.plans.target(work, at.shape())?;
                work.execute(TRUNCATED, &[&target, &lsn])?;
            }
            return Ok(());
        };
        let lsn = at.row.lsn.filter(|_| plan.lsn.is_some());
        if let Some(lsn) = lsn {
            if Some(lsn) <= self.truncated(work, &plan)? {
                work.count("stale", 1);
                return Ok(());
            }
            work.execute(TRUNCATED, &[&plan.target, &lsn])?;
        }
        if let Some(deleted) = plan.deleted {
            let mut arrays = vec![Array::of_places([at.row.lsn].into_iter())];
            arrays.extend(beside(&plan, &[at]));
            return call(work, arrays, |sent| plan.mark_all(deleted, sent)).map(drop);
        }
        let [at_once, one_by_one] = plan.truncate(lsn.map(|lsn| Lsn(lsn).to_string()).as_deref());
        if let Some(question) = lsn.and_then(|lsn| plan.has_later(&Lsn(lsn).to_string()))
            && work.query(&question, &[])?.first().is_some_and(|row| row.get(0))
        {
            return work.run(&one_by_one);
        }
        let mut inner = work.begin()?;
        match inner.run(&at_once) {
            Ok(()) => inner.commit(),
            // Other tables refer to it, or it was written to just now.
            Err(fault) if matches!(&*fault.cause().code, "pg.0A000" | OBJECT_IN_USE) => {
                drop(inner);
                work.run(&one_by_one)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// Of rows that go: their keys, their places, and what is kept beside those that stay.
pub fn leaving(plan: &Plan, rows: &[At<'_>]) -> Vec<Array> {
    let mut arrays = Array::of_columns(plan.sql_types(&plan.key), rows, |at, number| at.before(number));
    arrays.extend(plan.lsn.map(|_| Array::of_places(rows.iter().map(|at| at.row.lsn))));
    arrays.extend(beside(plan, rows));
    arrays
}

fn beside(plan: &Plan, rows: &[At<'_>]) -> Vec<Array> {
    let columns = plan.beside();
    Array::of_columns(plan.sql_types(&columns), rows, |at, number| at.after(plan.used[columns[number]].column))
}

/// A statement of these arrays, by their types.
pub fn call(work: &mut Work<'_>, arrays: Vec<Array>, statement: impl FnOnce(&[Type]) -> String) -> Result<u64, Fault> {
    given(arrays, |sent, values| work.call(&statement(sent), sent, values)).map_err(of_value)
}

/// Arrays as a statement takes them.
pub fn given<T>(arrays: Vec<Array>, give: impl FnOnce(&[Type], &[Option<&[u8]>]) -> T) -> T {
    let sent: Vec<Type> = arrays.iter().map(Array::array_type).collect();
    let arrays: Vec<Vec<u8>> = arrays.into_iter().map(Array::finish).collect();
    let values: Vec<Option<&[u8]>> = arrays.iter().map(|array| Some(array.as_slice())).collect();
    give(&sent, &values)
}

/// The statement is ours: where its syntax is said to be wrong, that of a value is. The server's words may repeat it.
pub fn of_value(fault: Fault) -> Fault {
    match &*fault.cause().code {
        "pg.42601" | "pg.XX000" | "pg.428C9" => {
            let code = fault.cause().code.clone();
            Fault::reject(code, "PostgreSQL does not take a value into its column")
        }
        _ => fault,
    }
}
