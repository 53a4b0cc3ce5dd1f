//! Orders: JSON in, stock reserved under row locks, one row of `orders` for each, reserved or rejected, and events for
//! others through the outbox.
//!
//! A group of orders is decided in the order of its arrival, in memory, in one transaction: their products' rows are
//! locked in one global order, then changed by one UPDATE, and the orders are copied. Copying takes most of the time,
//! and a popular product is in every group; so the orders are copied first, by a guess at what the stock will be, and
//! the rows are locked only then. A guess that does not hold under the locks is rolled back and done again with them.
//!
//! Orders that were sent twice are found by their key: the copy is refused, and done again without those that have a
//! row. Only a group that comes after one with repeats asks beforehand, for asking costs a lookup an order.

pub mod desk;
pub mod events;
pub mod order;
mod rows;
pub mod stock;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use postgres::types::ToSql;
use uuid::Uuid;

pub use self::desk::Desk;
use self::desk::books;
use self::events::{Packed, Topics, unfold};
use self::order::{Order, Wish};
pub use self::rows::OrderRows;
use self::stock::{Need, Reason, Shelf, Stock, Verdict};
use crate::config;
use crate::decode::schema::JsonSchema;
use crate::engine::{Batch, Rows};
use crate::fault::{Cause, Fault};
use crate::flow::field::{Amount, Flaw};
use crate::flow::{Flow, Sample, json_schema};
use crate::outlet::Message;
use crate::pg::copy::timestamp_us;
use crate::pg::{UNIQUE_VIOLATION, Work, outbox, quoted};
use crate::record::{Partition, Record};
use crate::trace::Trace;

pub const NAME: &str = "orders";

pub struct Orders {
    sql: Sql,
    /// Checked before anything else.
    schema: Option<JsonSchema>,
    /// None where nobody wants to hear of orders.
    topics: Option<Topics>,
    waits: bool,
    /// Where the next group begins to look for a shelf.
    turn: AtomicUsize,
    /// Whether the newest group that asked had orders with a row.
    repeats: AtomicBool,
}

/// The statements, with the names of the tables in them.
struct Sql {
    tables: String,
    known: String,
    look: String,
    lock: String,
    copy: String,
    reserve: String,
}

/// Puts the names of the tables into a statement of `sql/orders/`.
pub fn named(sql: &str, orders: &str, inventory: &str) -> String {
    let index = quoted(&format!("idx_{}_customer", orders.rsplit('.').next().unwrap_or(orders)));
    sql.replace("{orders_customer}", &index)
        .replace("{orders}", &quoted(orders))
        .replace("{inventory}", &quoted(inventory))
}

impl Orders {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let topics = Topics {
            validated: config.validated_topic.clone(),
            inventory: config.inventory_topic.clone(),
            warehouse: config.warehouse_topic.clone(),
        };
        let waits = config.lock == config::Lock::Wait;
        let topics = config.events.then_some(topics);
        let orders = Orders::new(&config.table, &config.inventory_table, config.buckets, waits, topics);
        Ok(Orders { schema: json_schema(config)?, ..orders })
    }

    /// `waits`: for locks that others hold, in place of asking again and again.
    pub fn new(orders: &str, inventory: &str, buckets: i16, waits: bool, topics: Option<Topics>) -> Self {
        let named = |sql: &str| named(sql, orders, inventory);
        let mut tables = named(include_str!("../../../sql/orders/create.sql")) + books::CREATE;
        if buckets > 1 {
            let more = named(include_str!("../../../sql/orders/buckets.sql"));
            tables.push_str(&more.replace("{buckets}", &buckets.to_string()));
        }
        let lock = named(include_str!("../../../sql/orders/lock.sql"));
        let sql = Sql {
            tables,
            known: named(include_str!("../../../sql/orders/known.sql")),
            look: named(include_str!("../../../sql/orders/look.sql")),
            lock: lock.replace("{wait}", if waits { "" } else { "NOWAIT" }),
            copy: named(include_str!("../../../sql/orders/copy.sql")),
            reserve: named(include_str!("../../../sql/orders/reserve.sql")),
        };
        Orders { sql, schema: None, topics, waits, turn: AtomicUsize::new(0), repeats: AtomicBool::new(false) }
    }

    /// Orders of the group that have a row already.
    fn known(&self, work: &mut Work<'_>, batches: &[&Batch<OrderRows>]) -> Result<HashSet<Uuid>, Fault> {
        let ids: Vec<Uuid> =
            batches.iter().flat_map(|batch| batch.rows.rows().iter().map(|row| row.order_id)).collect();
        let rows = work.query(&self.sql.known, &[&ids])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn look(&self, work: &mut Work<'_>, group: &Group<'_>) -> Result<Stock, Fault> {
        let rows = work.query(&self.sql.look, &[&group.products])?;
        Ok(group.stock(&rows))
    }

    /// Locks these shelves until the end of `work`, and says what is on them.
    fn lock(&self, work: &mut Work<'_>, group: &Group<'_>, shelves: &Stock) -> Result<Stock, Fault> {
        let (products, buckets): (Vec<&str>, Vec<i16>) =
            shelves.shelves().map(|(product, shelf)| (group.products[product], shelf.bucket)).unzip();
        if products.is_empty() {
            return Ok(group.stock(&[]));
        }
        let wanted: [&(dyn ToSql + Sync); 2] = [&products, &buckets];
        let rows = match self.waits {
            // In no savepoint of its own: when one is released, whoever waits for its locks waits for the whole
            // transaction, also when a savepoint around it gives them back. It and we could then wait for each other.
            true => work.lock(&self.sql.lock, &wanted)?,
            false => work.lock_nowait(&self.sql.lock, &wanted)?,
        };
        Ok(group.stock(&rows))
    }

    fn copy(&self, work: &mut Work<'_>, group: &Group<'_>, verdicts: &[Verdict]) -> Result<(), Fault> {
        let mut rows = Vec::new();
        for (order, verdict) in group.orders.iter().zip(verdicts) {
            group.batches[order.batch].rows.copy(order.row, *verdict, &mut rows);
        }
        work.copy(&self.sql.copy, std::iter::once(rows.as_slice())).map(drop)
    }

    /// Writes the books of the shelves that changed, and says which those are and how much was taken from each.
    fn reserve(
        &self,
        work: &mut Work<'_>,
        group: &Group<'_>,
        before: &Stock,
        after: &Stock,
    ) -> Result<Vec<Change>, Fault> {
        let changes: Vec<Change> = before
            .shelves()
            .zip(after.shelves())
            .filter(|((_, before), (_, after))| before != after)
            .map(|((_, before), (product, shelf))| Change { product, shelf, taken: shelf.reserved - before.reserved })
            .collect();
        if changes.is_empty() {
            return Ok(changes);
        }
        let products: Vec<&str> = changes.iter().map(|change| group.products[change.product]).collect();
        let buckets: Vec<i16> = changes.iter().map(|change| change.shelf.bucket).collect();
        let available: Vec<i64> = changes.iter().map(|change| change.shelf.available).collect();
        let reserved: Vec<i64> = changes.iter().map(|change| change.shelf.reserved).collect();
        let changed = work.execute(&self.sql.reserve, &[&products, &buckets, &available, &reserved])?;
        match changed == changes.len() as u64 {
            true => Ok(changes),
            // They are locked, so nobody can have taken them away.
            false => Err(Fault::retry("orders.inventory", format!("{changed} of {} rows changed", changes.len()))),
        }
    }

    /// Copies by a guess, then locks. None where the guess did not hold: then nothing was done.
    fn try_guess(&self, work: &mut Work<'_>, group: &Group<'_>, guess: Stock) -> Result<Option<Done>, Fault> {
        let mut inner = work.begin()?;
        let verdicts = guess.clone().decide(&group.needs);
        self.copy(&mut inner, group, &verdicts)?;
        let before = self.lock(&mut inner, group, &guess)?;
        let mut after = before.clone();
        if after.decide(&group.needs) != verdicts {
            return Ok(None);
        }
        let changes = self.reserve(&mut inner, group, &before, &after)?;
        inner.commit()?;
        Ok(Some(Done { verdicts, changes }))
    }

    /// Locks all that the group may need, then decides.
    fn decide_locked(&self, work: &mut Work<'_>, group: &Group<'_>, seen: &Stock, turn: usize) -> Result<Done, Fault> {
        let before = self.lock(work, group, seen)?;
        let mut after = before.clone();
        after.gather(turn);
        let verdicts = after.decide(&group.needs);
        after.spread();
        self.copy(work, group, &verdicts)?;
        let changes = self.reserve(work, group, &before, &after)?;
        Ok(Done { verdicts, changes })
    }

    /// Decides and writes what is not `known` of these batches.
    fn apply(
        &self,
        work: &mut Work<'_>,
        batches: &[&Batch<OrderRows>],
        known: HashSet<Uuid>,
    ) -> Result<Vec<Verdict>, Fault> {
        let group = Group::new(batches, known);
        if group.orders.is_empty() {
            return Ok(Vec::new());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let seen = self.look(work, &group)?;
        let mut guess = seen.clone();
        let guessed = match guess.settle(turn, &group.needs) {
            true => {
                guess.keep_homes();
                self.try_guess(work, &group, guess)?
            }
            false => None,
        };
        let done = match guessed {
            Some(done) => done,
            None => self.decide_locked(work, &group, &seen, turn)?,
        };
        if self.topics.is_some() {
            self.tell(work, &group, &done)?;
        }
        Ok(done.verdicts)
    }

    /// The same for what has no row yet.
    fn apply_new(&self, work: &mut Work<'_>, batches: &[&Batch<OrderRows>]) -> Result<Vec<Verdict>, Fault> {
        if !self.repeats.load(Ordering::Relaxed) {
            let mut inner = work.begin()?;
            match self.apply(&mut inner, batches, HashSet::new()) {
                Ok(verdicts) => return inner.commit().map(|()| verdicts),
                Err(fault) if fault.cause().code == UNIQUE_VIOLATION => {}
                Err(fault) => return Err(fault),
            }
        }
        let known = self.known(work, batches)?;
        self.repeats.store(!known.is_empty(), Ordering::Relaxed);
        self.apply(work, batches, known)
    }

    fn tell(&self, work: &mut Work<'_>, group: &Group<'_>, done: &Done) -> Result<(), Fault> {
        let mut bodies: Vec<Packed> = group.batches.iter().map(|_| Packed::default()).collect();
        let offset = |order: &Placed| group.batches[order.batch].offsets[order.row];
        if let Some(first) = group.orders.first() {
            for change in &done.changes {
                let product = group.products[change.product];
                bodies[first.batch].change(product, change.shelf, change.taken, offset(first));
            }
        }
        for (order, verdict) in group.orders.iter().zip(&done.verdicts) {
            let fields = group.batches[order.batch].rows.fields(order.row);
            bodies[order.batch].trace(group.batches[order.batch].rows.trace_of(order.row));
            bodies[order.batch].order(offset(order), *verdict, fields);
        }
        let told =
            group.batches.iter().zip(bodies).map(|(batch, body)| (batch.partition(), batch.first, body.into_body()));
        outbox::put(work, NAME, told.filter(|(_, _, body)| !body.is_empty()))
    }
}

/// The orders of one transaction that are new.
struct Group<'a> {
    batches: &'a [&'a Batch<OrderRows>],
    /// By the number that `needs` and the stock know them under.
    products: Vec<&'a str>,
    product_numbers: HashMap<&'a str, usize>,
    orders: Vec<Placed>,
    /// Of each order.
    needs: Vec<Need>,
}

/// Where an order is in the batches.
struct Placed {
    batch: usize,
    row: usize,
}

/// A shelf as it is after the transaction.
struct Change {
    product: usize,
    shelf: Shelf,
    taken: i64,
}

struct Done {
    verdicts: Vec<Verdict>,
    changes: Vec<Change>,
}

impl<'a> Group<'a> {
    /// An order that is `known`, or came before in this group, is left out: it was sent twice.
    fn new(batches: &'a [&'a Batch<OrderRows>], known: HashSet<Uuid>) -> Self {
        let mut seen = known;
        let (orders, needs) = (Vec::new(), Vec::new());
        let mut group = Group { batches, products: Vec::new(), product_numbers: HashMap::new(), orders, needs };
        for (number, batch) in batches.iter().enumerate() {
            let products: Vec<usize> =
                batch.rows.products().iter().map(|product| group.product_number(product)).collect();
            for (index, row) in batch.rows.rows().iter().enumerate() {
                if seen.insert(row.order_id) {
                    group.orders.push(Placed { batch: number, row: index });
                    group.needs.push(Need { product: products[row.product], quantity: i64::from(row.quantity) });
                }
            }
        }
        group
    }

    fn product_number(&mut self, product: &'a str) -> usize {
        let products = &mut self.products;
        *self.product_numbers.entry(product).or_insert_with(|| {
            products.push(product);
            products.len() - 1
        })
    }

    /// From rows of product, bucket, available and reserved.
    fn stock(&self, rows: &[postgres::Row]) -> Stock {
        let mut stock = Stock::new(self.products.len());
        for row in rows {
            let product: &str = row.get(0);
            if let Some(number) = self.product_numbers.get(product) {
                stock.add(*number, Shelf { bucket: row.get(1), available: row.get(2), reserved: row.get(3) });
            }
        }
        stock
    }
}

impl Flow for Orders {
    type Rows = OrderRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        self.sql.tables.clone()
    }

    fn decode(&self, record: &Record<'_>, rows: &mut OrderRows) -> Result<(), Fault> {
        let payload = record.payload.ok_or_else(|| {
            Fault::reject("orders.no_payload", "the record has no payload, and an order is not deleted but cancelled")
        })?;
        self.schema.as_ref().map_or(Ok(()), |schema| schema.check(payload)).map_err(Fault::Reject)?;
        let order = Order::read(payload).map_err(|flaws| {
            let text = flaws.iter().map(Flaw::discreet).collect::<Vec<_>>().join("; ");
            Fault::reject("orders.invalid", text)
        })?;
        let created_at_us = record.timestamp_ms.and_then(timestamp_us).ok_or_else(|| {
            Fault::reject("orders.no_timestamp", "the record has no timestamp that PostgreSQL could hold")
        })?;
        rows.add(&order, created_at_us);
        if self.topics.is_some() {
            Trace::of(record.headers).into_iter().for_each(|trace| rows.trace(trace));
        }
        Ok(())
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<OrderRows>]) -> Result<(), Fault> {
        let rows: usize = batches.iter().map(|batch| batch.rows.len()).sum();
        if rows == 0 {
            return Ok(());
        }
        let verdicts = self.apply_new(work, batches)?;
        work.count("repeated", (rows - verdicts.len()) as u64);
        for verdict in verdicts {
            let outcome = match verdict {
                Verdict::Reserved { .. } => verdict.status(),
                Verdict::Rejected(Reason::UnknownProduct) => "rejected_unknown_product",
                Verdict::Rejected(Reason::InsufficientStock) => "rejected_insufficient_stock",
            };
            work.count(outcome, 1);
        }
        Ok(())
    }

    fn outlets(&self) -> Vec<&str> {
        match &self.topics {
            Some(Topics { validated, inventory, warehouse }) => vec![validated, inventory, warehouse],
            None => Vec::new(),
        }
    }

    fn messages(&self, body: &[u8], from: &Partition, see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
        match &self.topics {
            Some(topics) => unfold(body, from, topics, see),
            None => Ok(()),
        }
    }
}

/// Made-up orders: ten products, one of which is in nine of ten orders, and some customers.
pub struct Wishes {
    pub customers: u64,
}

impl Sample for Wishes {
    fn key(&self, number: u64) -> Option<String> {
        Some(format!("CUST{:03}", number % self.customers))
    }

    fn payload(&self, number: u64, out: &mut Vec<u8>) {
        let product = if number.is_multiple_of(10) { number / 10 % 10 + 1 } else { 7 };
        let amount = Amount::from_cents(19_999).expect("an amount");
        let (customer_id, product_id) = (format!("CUST{:03}", number % self.customers), format!("PROD{product:03}"));
        let wish = Wish { customer_id: customer_id.into(), product_id: product_id.into(), quantity: 1, amount };
        Order { order_id: Uuid::now_v7(), wish }.write(out);
    }
}
