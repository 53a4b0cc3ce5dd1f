//! Tickets: JSON in, one row for each change of an order, in the order's own sequence, and a row for each order that says
//! where it stands. The key of a record is its order.
//!
//! A group of records is one transaction: their orders' rows are locked in one global order, what becomes of each ticket is
//! decided in memory (`plan`), and all of it is written by one COPY and a statement for each table, however many there are.
//!
//! What fails is a letter. By configuration it also stops its key: later records of the key are parked (`pg/held`) until
//! somebody replays the letter or drops it, and follow in the transaction that does so. Other keys go on.

mod group;
mod journeys;
mod plan;
mod rows;
pub mod ticket;

use std::collections::{BTreeSet, HashMap};

use postgres::types::{FromSql, Type};

use self::group::{Group, Parked, source};
pub use self::journeys::Journeys;
use self::plan::{Books, Plan, Policy, REPEAT, STEP_BACK, Stand};
pub use self::rows::TicketRows;
use self::ticket::{COLUMNS, Ticket};
use crate::config;
use crate::decode::schema::JsonSchema;
use crate::engine::Batch;
use crate::fault::{Cause, Fault};
use crate::flow::field::Flaw;
use crate::flow::{Flow, json_schema};
use crate::pg::copy::field;
use crate::pg::letters::kept::Held;
use crate::pg::search::Search;
use crate::pg::{Work, held, letters, quoted};
use crate::record::Record;

pub const NAME: &str = "tickets";

/// Parked records that are in memory at once while they follow.
const TURNS_MAX: i64 = 1_000;

pub struct Tickets {
    policy: Policy,
    /// Checked before anything else.
    schema: Option<JsonSchema>,
    sql: Sql,
}

/// The statements, with the names of the tables in them.
struct Sql {
    tables: String,
    lock: String,
    copy: String,
    stored: String,
    begin: String,
    advance: String,
    skip: String,
}

/// A column as the server sends it.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Tickets {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let (tickets, orders) = (quoted(&config.table), quoted(&config.order_table));
        let named = |sql: &str| sql.replace("{tickets}", &tickets).replace("{orders}", &orders);
        let sql = Sql {
            tables: named(include_str!("../../../sql/tickets/create.sql")),
            lock: named(include_str!("../../../sql/tickets/lock.sql")),
            copy: named(include_str!("../../../sql/tickets/copy.sql")),
            stored: named(include_str!("../../../sql/tickets/stored.sql")),
            begin: named(include_str!("../../../sql/tickets/begin.sql")),
            advance: named(include_str!("../../../sql/tickets/advance.sql")),
            skip: named(include_str!("../../../sql/tickets/skip.sql")),
        };
        let policy = Policy { on_disorder: config.on_disorder, on_failure: config.on_failure };
        Ok(Tickets { policy, schema: json_schema(config)?, sql })
    }

    fn read<'a>(&self, record: &Record<'a>, key: &[u8]) -> Result<Ticket<'a>, Cause> {
        let payload = record.payload.ok_or_else(|| Cause::new("tickets.no_payload", "the record has no payload"))?;
        self.schema.as_ref().map_or(Ok(()), |schema| schema.check(payload))?;
        let ticket = Ticket::read(payload).map_err(|flaws| {
            let text = flaws.iter().map(Flaw::discreet).collect::<Vec<_>>().join("; ");
            Cause::new("tickets.invalid", text)
        })?;
        match ticket.order_id.as_bytes() == key {
            true => Ok(ticket),
            // In the partition of another key it is in no order with those of its own.
            false => Err(Cause::new("tickets.key", "order_id is not the key of the record")),
        }
    }

    /// One turn. Gives the keys whose head is dealt with.
    fn apply(&self, work: &mut Work<'_>, group: &Group<'_>) -> Result<Vec<Vec<u8>>, Fault> {
        let books = self.look(work, group)?;
        let plan = self.write_all(work, group, &books)?;
        if group.is_replay()
            && let Some((_, cause)) = plan.failures().next()
        {
            // The letter is there already, and stays open.
            return Err(Fault::Reject(cause.clone()));
        }
        let failed: Vec<_> = plan.failures().map(|(index, cause)| group.letter(index, cause.clone())).collect();
        letters::write(work, NAME, failed.iter().map(|(partition, letter)| (*partition, letter)))?;
        self.move_orders(work, group, &plan)?;
        keep(work, group, &plan)?;
        plan.steps.iter().for_each(|step| work.count(step.word(), 1));
        Ok(plan.orders.iter().filter(|(_, order)| order.is_freed).map(|(key, _)| key.to_vec()).collect())
    }

    /// What is known of the keys, with all that is held of them and their orders locked.
    fn look(&self, work: &mut Work<'_>, group: &Group<'_>) -> Result<Books, Fault> {
        let keys: BTreeSet<&[u8]> = (0..group.len()).map(|index| group.key(index)).collect();
        let heads = held::lock(work, NAME, || keys.iter().copied().collect())?;
        let ids: Vec<&str> = keys.iter().filter_map(|key| order_id(key)).collect();
        let mut stands = HashMap::with_capacity(ids.len());
        for row in work.lock(&self.sql.lock, &[&ids])? {
            let id: &str = row.get(0);
            let stand = Stand { is_known: true, sequence: row.get(1), may_skip: row.get(2) };
            stands.insert(id.as_bytes().to_vec(), stand);
        }
        let (mut ids, mut sequences) = (Vec::new(), Vec::new());
        for index in 0..group.len() {
            let (key, stand) = (group.key(index), stands.get(group.key(index)));
            let sequence = group.row(index).sequence.as_ref().ok();
            let is_old = |(sequence, stand): (&i64, &Stand)| (*sequence <= stand.sequence).then_some(*sequence);
            if let Some(sequence) = sequence.zip(stand).and_then(is_old)
                && let Some(id) = order_id(key)
            {
                ids.push(id);
                sequences.push(sequence);
            }
        }
        let mut stored = HashMap::new();
        if !ids.is_empty() {
            for row in work.query(&self.sql.stored, &[&ids, &sequences])? {
                let mut copy = COLUMNS.to_be_bytes().to_vec();
                (0..COLUMNS as usize).for_each(|column| field(&mut copy, Some(&row.get::<_, Raw>(column).0)));
                let (id, sequence): (&str, i64) = (row.get(0), row.get(1));
                stored.insert((id.as_bytes().to_vec(), sequence), copy);
            }
        }
        Ok(Books { heads, stands, stored })
    }

    /// Copies what is to be written. What PostgreSQL refuses may change what becomes of others of its key: then all of it is
    /// done again with that known.
    fn write_all<'g>(&self, work: &mut Work<'_>, group: &'g Group<'_>, books: &Books) -> Result<Plan<'g>, Fault> {
        let mut refused = HashMap::new();
        loop {
            let plan = Plan::new(group, books, self.policy, &refused);
            let mut written = plan.written();
            let mut inner = work.begin()?;
            let mut found = HashMap::new();
            let mut search = Search {
                attempt: &mut |work, items| {
                    work.copy(&self.sql.copy, group.pieces(&written[items]).into_iter())?;
                    // What a deferred constraint would only say at COMMIT, it has to say here.
                    work.run("SET CONSTRAINTS ALL IMMEDIATE")
                },
                is_theirs: &|fault| matches!(fault, Fault::Reject(_)),
                found: &mut |item, fault| drop(found.insert(written[item], fault.into_cause())),
            };
            search.run(&mut inner, 0..written.len())?;
            if found.is_empty() {
                return inner.commit().map(|()| plan);
            }
            written.retain(|index| !found.contains_key(index));
            refused.extend(found);
            let plan = Plan::new(group, books, self.policy, &refused);
            if plan.written() == written {
                return inner.commit().map(|()| plan);
            }
        }
    }

    /// Where the orders stand now. They are locked, or there was none, so anything but all of them is a race that is lost.
    fn move_orders(&self, work: &mut Work<'_>, group: &Group<'_>, plan: &Plan<'_>) -> Result<(), Fault> {
        for is_known in [false, true] {
            let moved = plan.orders.iter().filter(|(_, order)| order.before.is_known == is_known);
            let moved = moved.filter_map(|(key, order)| {
                let status = group.status(order.newest?);
                Some((order_id(key)?, order.sequence, status, order.before.sequence))
            });
            let mut moved: Vec<(&str, i64, &str, i64)> = moved.collect();
            if moved.is_empty() {
                continue;
            }
            moved.sort_unstable();
            let ids: Vec<&str> = moved.iter().map(|order| order.0).collect();
            let sequences: Vec<i64> = moved.iter().map(|order| order.1).collect();
            let statuses: Vec<&str> = moved.iter().map(|order| order.2).collect();
            let formers: Vec<i64> = moved.iter().map(|order| order.3).collect();
            let count = match is_known {
                true => work.execute(&self.sql.advance, &[&ids, &sequences, &statuses, &formers])?,
                false => work.execute(&self.sql.begin, &[&ids, &sequences, &statuses])?,
            };
            if count != moved.len() as u64 {
                let text = format!("{count} of {} orders stood where they were found", moved.len());
                return Err(Fault::retry("tickets.compare_and_set", text));
            }
        }
        Ok(())
    }

    /// The parked records of keys whose head is dealt with, in their order. One of them may be the next head.
    fn follow(&self, work: &mut Work<'_>, keys: &[Vec<u8>]) -> Result<(), Fault> {
        let mut after = i64::MIN;
        while !keys.is_empty() {
            let rows = held::walk(work, NAME, keys, after, TURNS_MAX)?;
            let Some(last) = rows.last() else { break };
            after = last.get(1);
            let mut parked = Parked::default();
            for row in &rows {
                parked.add(row.get(1), row.get(2), |record, rows| self.decode(record, rows))?;
            }
            self.apply(work, &Group::of_parked(&parked))?;
        }
        Ok(())
    }
}

/// The order that a key is of. None has a name that PostgreSQL cannot hold.
fn order_id(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok().filter(|id| !id.contains('\0'))
}

/// Writes down which keys are held back now, and what is parked and what is not any more.
fn keep(work: &mut Work<'_>, group: &Group<'_>, plan: &Plan<'_>) -> Result<(), Fault> {
    let orders = || plan.orders.iter();
    let freed: Vec<&[u8]> = orders().filter(|(_, order)| order.is_freed).map(|(key, _)| *key).collect();
    held::release(work, NAME, &freed)?;
    let is_new = |order: &plan::Order| order.has_new_head;
    let heads = orders().filter(|(_, order)| is_new(order));
    held::hold(work, NAME, heads.filter_map(|(key, order)| Some((*key, order.head.as_ref()?))))?;
    let (mut park_keys, mut park_records) = (Vec::new(), Vec::new());
    let (mut unpark_keys, mut unpark_places) = (Vec::new(), Vec::new());
    for (index, step) in plan.steps.iter().enumerate() {
        match (step == &plan::Step::Parked, group.parked(index)) {
            (true, None) => {
                park_keys.push(group.key(index));
                park_records.push(group.packed(index));
            }
            (false, Some(place)) => {
                unpark_keys.push(group.key(index));
                unpark_places.push(place);
            }
            _ => {}
        }
    }
    held::park(work, NAME, &park_keys, &park_records)?;
    held::unpark(work, NAME, &unpark_keys, &unpark_places)
}

impl Flow for Tickets {
    type Rows = TicketRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        format!("{}{}", self.sql.tables, held::CREATE)
    }

    fn holds_keys(&self) -> bool {
        true
    }

    fn decode(&self, record: &Record<'_>, rows: &mut TicketRows) -> Result<(), Fault> {
        let Some(key) = record.key else {
            return Err(Fault::reject("tickets.no_key", "the record has no key, which is what its order is known by"));
        };
        rows.add(record, self.read(record, key));
        Ok(())
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<TicketRows>]) -> Result<(), Fault> {
        let group = Group::of_batches(batches);
        if group.len() == 0 {
            return Ok(());
        }
        let freed = self.apply(work, &group)?;
        self.follow(work, &freed)
    }

    /// Their orders go on behind them.
    fn dropped(&self, work: &mut Work<'_>, letters: &[Held]) -> Result<(), Fault> {
        let keyed = || letters.iter().filter_map(|held| Some((held, held.letter.key.as_deref()?)));
        let keys: BTreeSet<&[u8]> = keyed().map(|(_, key)| key).collect();
        let heads = held::lock(work, NAME, || keys.iter().copied().collect())?;
        // Of a repeat, and of what came late, nothing is missing.
        let leaves_gap = |held: &Held| ![STEP_BACK, REPEAT].contains(&&*held.letter.reason.code);
        let skipping: BTreeSet<&str> =
            keyed().filter(|(held, _)| leaves_gap(held)).filter_map(|(_, key)| order_id(key)).collect();
        if !skipping.is_empty() {
            work.execute(&self.sql.skip, &[&skipping.into_iter().collect::<Vec<&str>>()])?;
        }
        let is_head = |held: &Held, key: &[u8]| {
            heads.get(key).is_some_and(|head| head.name == source(&held.partition, held.letter.offset))
        };
        let freed: BTreeSet<&[u8]> = keyed().filter(|(held, key)| is_head(held, key)).map(|(_, key)| key).collect();
        let freed: Vec<&[u8]> = freed.into_iter().collect();
        held::release(work, NAME, &freed)?;
        self.follow(work, &freed.iter().map(|key| key.to_vec()).collect::<Vec<_>>())
    }
}
