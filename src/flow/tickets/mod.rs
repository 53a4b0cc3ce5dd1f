//! Tickets: JSON in, one row for each change of an order, in the order's own sequence, and a row for each order that says
//! where it stands. The key of a record is its order.
//!
//! A group of records is one transaction: their orders' rows are locked in one global order, what becomes of each ticket is
//! decided in memory (`plan`), and all of it is written by one COPY and a statement for each table, however many there are.
//!
//! What fails is a letter. By configuration it also stops its key: later records of the key are parked (`pg/held`) until
//! somebody replays the letter or drops it, and follow in the transaction that does so (`turns`). Other keys go on.

mod group;
mod journeys;
mod plan;
mod rows;
pub mod ticket;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use postgres::types::{FromSql, Type};

use self::group::{Group, source};
pub use self::journeys::Journeys;
use self::plan::{Books, Plan, Policy, REPEAT, STEP_BACK, Stand, is_gap};
pub use self::rows::TicketRows;
use self::ticket::{COLUMNS, SCALE_BYTES, Ticket};
use self::turns::Turns;
use crate::config;
use crate::decode::schema::JsonSchema;
use crate::engine::Batch;
use crate::fault::{Cause, Fault};
use crate::flow::apply::ASK;
use crate::flow::field::{self as fields, Amount, Flaw};
use crate::flow::{Flow, json_schema};
use crate::pg::copy::field;
use crate::pg::held::{Behind, ToPark};
use crate::pg::letters::kept::Held;
use crate::pg::search::Search;
use crate::pg::{Work, held, letters, quoted};
use crate::record::Record;

pub const NAME: &str = "tickets";

/// Of a ticket under the key of another order, and of one whose key no order can have.
const KEY: &str = "tickets.key";

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

/// Where an order stands, and by which of the group's tickets.
struct Moved<'a> {
    id: &'a str,
    sequence: i64,
    status: &'a str,
    before: Stand,
    newest: usize,
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
            false => Err(Cause::new(KEY, "order_id is not the key of the record")),
        }
    }

    /// Does with these tickets what is to be done with them, and notes whose turn that makes it. Gives whether any is not
    /// parked, or not any more.
    fn apply(&self, work: &mut Work<'_>, group: &Group<'_>, turns: &mut Turns) -> Result<bool, Fault> {
        let books = self.look(work, group, turns)?;
        let plan = self.write_all(work, group, &books)?;
        if group.is_replay()
            && let Some((_, cause)) = plan.failures().next()
        {
            // The letter is there already, and stays open.
            return Err(Fault::Reject(cause.clone()));
        }
        let failed: Vec<_> = plan.failures().map(|(index, cause)| group.letter(index, cause.clone())).collect();
        letters::write(work, NAME, failed.iter().map(|(partition, letter)| (*partition, letter)))?;
        keep(work, group, &plan)?;
        let stays = |index: usize| plan.steps[index] == plan::Step::Parked && group.parked(index).is_some();
        for index in (0..group.len()).filter(|index| !stays(*index)) {
            work.count(plan.steps[index].word(), 1);
        }
        turns.note(&plan);
        Ok(plan.steps.iter().any(|step| *step != plan::Step::Parked))
    }

    /// Where these orders stand, with their rows locked.
    fn stands(&self, work: &mut Work<'_>, ids: &[&str]) -> Result<HashMap<Vec<u8>, Stand>, Fault> {
        let stand = |row: &postgres::Row| {
            let stand = Stand { is_known: true, sequence: row.get(1), skip_to: row.get(2) };
            (row.get::<_, &str>(0).as_bytes().to_vec(), stand)
        };
        Ok(work.lock(&self.sql.lock, &[&ids])?.iter().map(stand).collect())
    }

    /// What is known of the keys, with all that is held of them and their orders locked. What held those back that have
    /// their turn is dealt with.
    fn look(&self, work: &mut Work<'_>, group: &Group<'_>, turns: &Turns) -> Result<Books, Fault> {
        let keys: BTreeSet<&[u8]> = (0..group.len()).map(|index| group.key(index)).collect();
        let mut heads = held::lock(work, NAME, || keys.iter().copied().collect())?;
        heads.retain(|key, _| !turns.freed.contains_key(key));
        let ids: Vec<&str> = keys.iter().filter_map(|key| order_id(key)).collect();
        let stands = self.stands(work, &ids)?;
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
                let (id, sequence): (&str, i64) = (row.get(0), row.get(1));
                stored.insert((id.as_bytes().to_vec(), sequence), copy_of(&row));
            }
        }
        Ok(Books { heads, stands, stored })
    }

    /// Copies what is to be written, and moves the orders of that. What PostgreSQL refuses may change what becomes of others
    /// of its key: then all of it is done again with that known.
    fn write_all<'g>(&self, work: &mut Work<'_>, group: &'g Group<'_>, books: &Books) -> Result<Plan<'g>, Fault> {
        let (mut refused, mut rounds) = (HashMap::new(), HashMap::new());
        loop {
            let mut plan = Plan::new(group, books, self.policy, &refused);
            let mut written = plan.written();
            let mut inner = work.begin()?;
            let mut found = HashMap::new();
            let mut search = Search {
                attempt: &mut |work, items| {
                    work.copy(&self.sql.copy, group.pieces(&written[items]).into_iter())?;
                    // What a deferred constraint would only say at COMMIT, it has to say here.
                    work.run(ASK)
                },
                is_theirs: &|fault| matches!(fault, Fault::Reject(_)),
                found: &mut |item, fault| drop(found.insert(written[item], fault.into_cause())),
            };
            search.run(&mut inner, 0..written.len())?;
            if !found.is_empty() {
                written.retain(|index| !found.contains_key(index));
                refused.extend(found);
                plan = Plan::new(group, books, self.policy, &refused);
                if plan.written() != written {
                    continue;
                }
            }
            let stuck = self.move_orders(&mut inner, group, &plan)?;
            if stuck.is_empty() {
                return inner.commit().map(|()| plan);
            }
            for (newest, cause) in stuck {
                // The newest of an order is what its row is about. Where the one before it does no better it is two, then
                // four: an order that is refused whatever its row says is through with in a few rounds.
                let key = group.key(newest);
                let round = rounds.entry(key).and_modify(|round| *round += 1).or_insert(0);
                let of_order = written.iter().rev().filter(|index| group.key(**index) == key);
                refused.extend(of_order.take(1 << *round).map(|index| (*index, cause.clone())));
            }
        }
    }

    /// Where the orders stand now. Gives the tickets, by their numbers, whose orders PostgreSQL will not have stand there.
    fn move_orders(
        &self,
        work: &mut Work<'_>,
        group: &Group<'_>,
        plan: &Plan<'_>,
    ) -> Result<HashMap<usize, Cause>, Fault> {
        let moved = plan.orders.iter().filter_map(|(key, order)| {
            let newest = order.newest?;
            let status = group.status(newest);
            Some(Moved { id: order_id(key)?, sequence: order.sequence, status, before: order.before, newest })
        });
        let mut moved: Vec<Moved<'_>> = moved.collect();
        moved.sort_unstable_by_key(|moved| moved.id);
        let mut stuck = HashMap::new();
        let mut search = Search {
            attempt: &mut |work, items| self.move_some(work, &moved[items]),
            is_theirs: &|fault| matches!(fault, Fault::Reject(_)),
            found: &mut |item, fault| drop(stuck.insert(moved[item].newest, fault.into_cause())),
        };
        search.run(work, 0..moved.len())?;
        Ok(stuck)
    }

    /// They are locked, or there was none, so anything but all of them is a race that is lost.
    fn move_some(&self, work: &mut Work<'_>, moved: &[Moved<'_>]) -> Result<(), Fault> {
        for is_known in [false, true] {
            let some = || moved.iter().filter(|moved| moved.before.is_known == is_known);
            let ids: Vec<&str> = some().map(|moved| moved.id).collect();
            if ids.is_empty() {
                continue;
            }
            let sequences: Vec<i64> = some().map(|moved| moved.sequence).collect();
            let statuses: Vec<&str> = some().map(|moved| moved.status).collect();
            let formers: Vec<i64> = some().map(|moved| moved.before.sequence).collect();
            let count = match is_known {
                true => work.execute(&self.sql.advance, &[&ids, &sequences, &statuses, &formers])?,
                false => work.execute(&self.sql.begin, &[&ids, &sequences, &statuses])?,
            };
            if count != ids.len() as u64 {
                let text = format!("{count} of {} orders stood where they were found", ids.len());
                return Err(Fault::retry("tickets.compare_and_set", text));
            }
        }
        // What a deferred constraint of somebody's own would only say at COMMIT, it has to say here.
        work.run(ASK)
    }

    /// Nobody waits for what was dropped, nor for what is missing before it. Gives where the orders stand that this is about,
    /// and up to where nothing of them is waited for.
    fn skip(&self, work: &mut Work<'_>, dropped: &[Held]) -> Result<BTreeMap<Vec<u8>, Behind>, Fault> {
        // Of these nothing is missing, or nothing of the order that their key names.
        let leaves_gap = |held: &&Held| ![STEP_BACK, REPEAT, KEY].contains(&&*held.letter.reason.code);
        let of_orders = || {
            dropped.iter().filter(leaves_gap).filter_map(|held| Some((held, order_id(held.letter.key.as_deref()?)?)))
        };
        let ids: BTreeSet<&str> = of_orders().map(|(_, id)| id).collect();
        let stands = self.stands(work, &ids.into_iter().collect::<Vec<_>>())?;
        let mut skips: BTreeMap<&str, Behind> = BTreeMap::new();
        for (held, id) in of_orders() {
            let stand = stands.get(id.as_bytes()).copied().unwrap_or_default();
            let Behind { floor, .. } = skips.entry(id).or_insert_with(|| stand.behind());
            // What is no ticket tells no number: it stands for the next one.
            *floor = number(held, id).map_or(*floor + 1, |number| number.max(*floor));
        }
        if !skips.is_empty() {
            let (ids, floors): (Vec<&str>, Vec<i64>) = skips.iter().map(|(id, behind)| (*id, behind.floor)).unzip();
            work.execute(&self.sql.skip, &[&ids, &floors])?;
        }
        Ok(skips.into_iter().map(|(id, behind)| (id.as_bytes().to_vec(), behind)).collect())
    }
}

/// Which ticket of its order a letter's record is, if it is one. Whether it keeps somebody's own rules does not matter.
fn number(held: &Held, id: &str) -> Option<i64> {
    let ticket = Ticket::read(held.letter.payload.as_deref()?).ok()?;
    (ticket.order_id == id).then_some(ticket.sequence)
}

/// A row of `stored`, as it would be copied. A table of somebody's own may have columns that are empty, and amounts with
/// more places behind the point.
fn copy_of(row: &postgres::Row) -> Vec<u8> {
    let mut copy = COLUMNS.to_be_bytes().to_vec();
    for (index, column) in row.columns().iter().enumerate() {
        let mut value = row.get::<_, Option<Raw>>(index).map(|raw| raw.0);
        if *column.type_() == Type::NUMERIC
            && let Some(scale) = value.as_mut().and_then(|bytes| bytes.get_mut(SCALE_BYTES))
        {
            scale.copy_from_slice(&Amount::SCALE.to_be_bytes());
        }
        field(&mut copy, value.as_deref());
    }
    copy
}

/// The order that a key is of, where one can have that name.
fn order_id(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok().filter(|id| fields::is_id(id))
}

/// Writes down what holds keys back now, and what is parked and what is not any more.
fn keep(work: &mut Work<'_>, group: &Group<'_>, plan: &Plan<'_>) -> Result<(), Fault> {
    let heads = plan.orders.iter().filter(|(_, order)| order.has_new_head);
    held::hold(work, NAME, heads.filter_map(|(key, order)| Some((*key, order.head.as_ref()?))))?;
    let mut to_park = ToPark::default();
    let (mut unpark_keys, mut unpark_places) = (Vec::new(), Vec::new());
    for (index, step) in plan.steps.iter().enumerate() {
        match (step == &plan::Step::Parked, group.parked(index)) {
            (true, None) => {
                let number = group.row(index).sequence.as_ref().ok().copied();
                to_park.add(group.key(index), group.packed(index), number);
            }
            (false, Some(place)) => {
                unpark_keys.push(group.key(index));
                unpark_places.push(place);
            }
            _ => {}
        }
    }
    held::park(work, NAME, &to_park)?;
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
        if order_id(key).is_none() {
            return Err(Fault::reject(KEY, "the key of the record is none that an order can have"));
        }
        rows.add(record, self.read(record, key));
        Ok(())
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<TicketRows>]) -> Result<(), Fault> {
        let group = Group::of_batches(batches);
        if group.len() == 0 {
            return Ok(());
        }
        let mut turns = Turns::default();
        self.apply(work, &group, &mut turns)?;
        self.follow(work, turns)
    }

    /// Their orders go on behind them.
    fn dropped(&self, work: &mut Work<'_>, letters: &[Held]) -> Result<(), Fault> {
        let keyed = || letters.iter().filter_map(|held| Some((held, held.letter.key.as_deref()?)));
        let keys: BTreeSet<&[u8]> = keyed().map(|(_, key)| key).collect();
        let heads = held::lock(work, NAME, || keys.iter().copied().collect())?;
        let mut skipped = self.skip(work, letters)?;
        let is_head = |held: &Held, key: &[u8]| {
            heads.get(key).is_some_and(|head| head.name == source(&held.partition, held.letter.offset))
        };
        let freed = keyed().filter(|(held, key)| is_head(held, key)).map(|(_, key)| key.to_vec());
        let mut turns = Turns::of_freed(freed);
        // Where one that would have filled a gap is dropped, the one behind it is the next.
        skipped.retain(|key, _| heads.get(key).is_some_and(is_gap) && !turns.freed.contains_key(key));
        turns.gapped = skipped;
        self.follow(work, turns)
    }

    fn go_on(&self, work: &mut Work<'_>) -> Result<bool, Fault> {
        Tickets::go_on(self, work)
    }
}
