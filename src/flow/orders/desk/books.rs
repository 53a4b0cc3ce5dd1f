//! The books as a person sees and changes them: one order, the stock, a cancellation, a restock. Each is a short
//! transaction, and waits for nothing longer than somebody waits for its answer.

use std::time::Duration;

use postgres::Row;
use postgres::types::ToSql;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::fault::Fault;
use crate::flow::field::Amount;
use crate::flow::orders::events::Packed;
use crate::flow::orders::order::{Order, Wish};
use crate::flow::orders::stock::Shelf;
use crate::flow::orders::{NAME, OrderRows, named};
use crate::pg::{Database, MakeTlsConnector, Session, SessionOptions, Work, outbox};
use crate::record::Partition;

/// The table of restocks, which stands beside those of the flow.
pub const CREATE: &str = include_str!("../../../../sql/orders/create_restocks.sql");
const NOTE: &str = include_str!("../../../../sql/orders/note.sql");
const RECALL: &str = include_str!("../../../../sql/orders/recall.sql");

/// Where new stock comes.
const FIRST_BUCKET: i16 = 0;
/// Products in one list.
pub const LIST_MAX: usize = 1000;
/// For a session: a server that is away is told of, not waited for.
const SESSION_WAIT: Duration = Duration::from_secs(1);
const CONNECT_WAIT: Duration = Duration::from_secs(2);
const LOCK_WAIT: Duration = Duration::from_secs(2);
const STATEMENT_WAIT: Duration = Duration::from_secs(5);
/// For a link that says nothing any more.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// An order that the flow has written.
#[derive(Debug, Serialize)]
pub struct Written {
    pub order_id: String,
    pub customer_id: String,
    pub product_id: String,
    pub quantity: i32,
    /// The digits as PostgreSQL has them.
    pub amount: Box<RawValue>,
    pub status: String,
    pub reason: Option<String>,
    #[serde(skip)]
    bucket: Option<i16>,
    pub created_at: String,
}

/// The stock of a product, over all its buckets.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Product {
    pub product_id: String,
    pub product_name: String,
    pub available_quantity: i64,
    pub reserved_quantity: i64,
    pub total_quantity: i64,
    pub buckets: i64,
}

/// What became of a restock.
#[derive(Debug)]
pub enum Restock {
    /// It is in the books, be it since now or since it was first asked for.
    Done(Product),
    NoProduct,
    /// Under its key there is one of this quantity.
    Other(i64),
}

pub struct Books {
    database: Database,
    /// Whether others are told, in the transaction of the change.
    tells: bool,
    inventory: String,
    show: String,
    hold: String,
    cancel: String,
    give_back: String,
    list: String,
    sum: String,
    restock: String,
}

/// Sessions for `Books`, as many as there are threads that can ask at once.
pub fn database(mut target: postgres::Config, tls: MakeTlsConnector, sessions_max: u32) -> Database {
    target.application_name("sluicegate orders desk").connect_timeout(CONNECT_WAIT).tcp_user_timeout(LINK_WAIT);
    let options = SessionOptions {
        synchronous_commit: true,
        lock_timeout: LOCK_WAIT,
        statement_timeout: STATEMENT_WAIT,
        claim_lock_timeout: LOCK_WAIT,
        idle_in_transaction_timeout: LINK_WAIT,
    };
    Database::new(target, tls, &options, sessions_max)
}

impl Books {
    pub fn new(database: Database, orders: &str, inventory: &str, tells: bool) -> Self {
        let named = |sql: &str| named(sql, orders, inventory);
        Books {
            database,
            tells,
            inventory: inventory.to_owned(),
            show: named(include_str!("../../../../sql/orders/show.sql")),
            hold: named(include_str!("../../../../sql/orders/hold.sql")),
            cancel: named(include_str!("../../../../sql/orders/cancel.sql")),
            give_back: named(include_str!("../../../../sql/orders/give_back.sql")),
            list: named(include_str!("../../../../sql/orders/list.sql")),
            sum: named(include_str!("../../../../sql/orders/sum.sql")),
            restock: named(include_str!("../../../../sql/orders/restock.sql")),
        }
    }

    pub fn order(&self, order_id: Uuid) -> Result<Option<Written>, Fault> {
        self.with_session(|session| self.show(&mut session.begin()?, order_id))
    }

    /// In the order of their ids, those that come behind this one.
    pub fn products(&self, after: &str) -> Result<Vec<Product>, Fault> {
        self.with_session(|session| {
            let rows = session.begin()?.query(&self.list, &[&after, &(LIST_MAX as i64)])?;
            Ok(rows.iter().map(product).collect())
        })
    }

    /// Gives the reservation of an order back, once, however often it is asked to. The order as it is then, which may
    /// be rejected; None where there is no such order.
    pub fn cancel(&self, order_id: Uuid) -> Result<Option<Written>, Fault> {
        self.with_session(|session| {
            let mut work = session.begin()?;
            let Some(order) = self.show(&mut work, order_id)? else { return Ok(None) };
            let (Some(bucket), "reserved") = (order.bucket, &*order.status) else { return Ok(Some(order)) };
            let place: [&(dyn ToSql + Sync); 2] = [&order.product_id, &bucket];
            work.query(&self.hold, &place)?;
            if work.execute(&self.cancel, &[&order_id])? == 1 {
                let quantity = i64::from(order.quantity);
                let given_back = work.query(&self.give_back, &[place[0], place[1], &quantity])?;
                let Some(shelf) = given_back.first().map(|row| shelf(bucket, row)) else {
                    let text = format!("order {order_id}: there is no bucket {bucket} of its product any more");
                    return Err(Fault::stop("orders.no_bucket", text));
                };
                let mut told = Packed::default();
                told.change(&order.product_id, shelf, -quantity, 0);
                told.cancelled(&order.fields(order_id)?);
                self.tell(&mut work, format!("cancelled/{order_id}"), told)?;
                work.commit()?;
            } else {
                // Somebody else was first.
                drop(work);
            }
            self.show(&mut session.begin()?, order_id)
        })
    }

    /// Adds stock. With a key, once for all requests with this key.
    pub fn restock(&self, product_id: &str, quantity: i64, key: Option<&str>) -> Result<Restock, Fault> {
        self.with_session(|session| {
            let mut work = session.begin()?;
            let is_new = match key {
                Some(key) => work.execute(NOTE, &[&self.inventory, &product_id, &key, &quantity])? == 1,
                None => true,
            };
            if is_new {
                let restocked = work.query(&self.restock, &[&product_id, &quantity])?;
                let Some(shelf) = restocked.first().map(|row| shelf(FIRST_BUCKET, row)) else {
                    // Nothing is kept of a key under which nothing was done.
                    return Ok(Restock::NoProduct);
                };
                let mut told = Packed::default();
                told.change(product_id, shelf, 0, 0);
                self.tell(&mut work, format!("restocked/{}", Uuid::now_v7()), told)?;
            } else {
                let noted: i64 = match work.query(RECALL, &[&self.inventory, &product_id, &key])?.first() {
                    Some(row) => row.get(0),
                    None => return Err(Fault::retry("orders.restock", "the key was just deleted")),
                };
                if noted != quantity {
                    return Ok(Restock::Other(noted));
                }
            }
            let Some(product) = work.query(&self.sum, &[&product_id])?.first().map(product) else {
                return Ok(Restock::NoProduct);
            };
            work.commit()?;
            Ok(Restock::Done(product))
        })
    }

    /// `from` is a name that no other change has.
    fn tell(&self, work: &mut Work<'_>, from: String, told: Packed) -> Result<(), Fault> {
        if !self.tells {
            return Ok(());
        }
        let from = Partition::new(from, 0);
        outbox::put(work, NAME, std::iter::once((&from, 0, told.into_body())))
    }

    fn show(&self, work: &mut Work<'_>, order_id: Uuid) -> Result<Option<Written>, Fault> {
        work.query(&self.show, &[&order_id])?.first().map(written).transpose()
    }

    fn with_session<T>(&self, work: impl FnOnce(&mut Session) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut session = self.database.live_session(SESSION_WAIT)?;
        match work(&mut session) {
            Ok(result) => Ok(result),
            Err(fault) => {
                session.discard();
                Err(fault)
            }
        }
    }
}

impl Written {
    /// As the flow packs them.
    fn fields(&self, order_id: Uuid) -> Result<Vec<u8>, Fault> {
        let amount = Amount::read("amount", Some(&self.amount))
            .map_err(|flaw| Fault::stop("orders.amount", format!("order {order_id}: {flaw}")))?;
        let wish = Wish {
            customer_id: self.customer_id.as_str().into(),
            product_id: self.product_id.as_str().into(),
            quantity: self.quantity,
            amount,
        };
        let mut rows = OrderRows::default();
        // When it was made is not told.
        rows.add(&Order { order_id, wish }, 0);
        Ok(rows.fields(0).to_vec())
    }
}

/// What is on it now.
fn shelf(bucket: i16, row: &Row) -> Shelf {
    Shelf { bucket, available: row.get(0), reserved: row.get(1) }
}

fn written(row: &Row) -> Result<Written, Fault> {
    let order_id: Uuid = row.get(0);
    let amount = RawValue::from_string(row.get(4))
        .map_err(|_| Fault::stop("orders.amount", format!("the amount of order {order_id} is no number")))?;
    Ok(Written {
        order_id: order_id.to_string(),
        customer_id: row.get(1),
        product_id: row.get(2),
        quantity: row.get(3),
        amount,
        status: row.get(5),
        reason: row.get(6),
        bucket: row.get(7),
        created_at: row.get(8),
    })
}

fn product(row: &Row) -> Product {
    Product {
        product_id: row.get(0),
        product_name: row.get(1),
        available_quantity: row.get(2),
        reserved_quantity: row.get(3),
        total_quantity: row.get(4),
        buckets: row.get(5),
    }
}
