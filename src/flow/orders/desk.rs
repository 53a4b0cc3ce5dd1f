//! The desk: where people and programs order over HTTP, and ask what became of it. An order is accepted when Kafka has
//! acknowledged it; what it comes to, the flow decides. Nothing is accepted that the flow could not read: both read
//! orders in the same place.
//!
//! A request with an Idempotency-Key may be repeated for ever, at any instance: its orders have the same ids each time,
//! and the flow drops an order whose id it has. That a key is not used again for other orders is seen as long as it is
//! remembered here.

mod accept;
pub mod books;
mod recent;
mod request;

use std::sync::Arc;

use uuid::Uuid;

use self::accept::{Acceptance, Line, Shape};
use self::books::{Books, LIST_MAX, Restock, Written};
use self::request::{order_id, restock_quantity, wish, wishes};
use crate::fault::Fault;
use crate::flow::field::ID_CHARS_MAX;
use crate::ops::service::{Call, Endpoint, Pace, Reply};
use crate::ops::{Answer, Service};
use crate::outlet::Outlet;
use crate::pg::Database;
use crate::track::Track;

const ORDER: &str = "/order";
const BATCH: &str = "/orders/batch";
const SHOW: &str = "/orders/{id}";
const CANCEL: &str = "/orders/{id}/cancel";
const STOCK: &str = "/inventory";
const RESTOCK: &str = "/inventory/{product}/restock";

#[rustfmt::skip]
const ENDPOINTS: &[Endpoint] = &[
    Endpoint { method: "POST", path: ORDER, body_bytes_max: 16 << 10, pace: Pace::Prompt,
        line: "one order: customer_id, product_id, quantity, amount; 202 once Kafka has it; Idempotency-Key" },
    Endpoint { method: "POST", path: BATCH, body_bytes_max: 1 << 20, pace: Pace::Prompt,
        line: "a list of 1 to 1000 orders; 202 once Kafka has them all, 503 with the status of each otherwise; Idempotency-Key" },
    Endpoint { method: "GET", path: SHOW, body_bytes_max: 0, pace: Pace::Waiting,
        line: "an order and what became of it" },
    Endpoint { method: "POST", path: CANCEL, body_bytes_max: 0, pace: Pace::Waiting,
        line: "gives a reservation back, once however often it is asked for" },
    Endpoint { method: "GET", path: STOCK, body_bytes_max: 0, pace: Pace::Waiting,
        line: "?after=PRODUCT: the stock, up to 1000 products behind this one" },
    Endpoint { method: "POST", path: RESTOCK, body_bytes_max: 4 << 10, pace: Pace::Waiting,
        line: "adds quantity to the stock of a product; Idempotency-Key" },
];

pub struct Desk {
    acceptance: Acceptance,
    books: Books,
}

impl Desk {
    /// `database`: from `books::database`. Its tables are the flow's, and `books::CREATE`. `tells`: whether others hear of
    /// what is cancelled and restocked; then there is an outbox as well.
    pub fn new(
        outlet: Arc<dyn Outlet>,
        database: Database,
        topic: &str,
        orders_table: &str,
        inventory_table: &str,
        tells: bool,
        track: Arc<Track>,
    ) -> Self {
        let acceptance = Acceptance::new(outlet, topic, track);
        Desk { acceptance, books: Books::new(database, orders_table, inventory_table, tells) }
    }

    fn order(&self, call: &Call, reply: Reply) {
        match call.key().and_then(|key| Ok((key, wish(call)?))) {
            Ok((key, wish)) => self.acceptance.accept(vec![wish], key, Shape::One, reply),
            Err(refusal) => reply.answer(refusal),
        }
    }

    fn batch(&self, call: &Call, reply: Reply) {
        match call.key().and_then(|key| Ok((key, wishes(call)?))) {
            Ok((key, wishes)) => self.acceptance.accept(wishes, key, Shape::List, reply),
            Err(refusal) => reply.answer(refusal),
        }
    }

    fn show(&self, call: &Call) -> Result<Answer, Answer> {
        let order_id = order_id(call)?;
        match self.books.order(order_id).map_err(|fault| failed(&fault))? {
            Some(order) => Ok(Answer::json(200, &order)),
            None if self.acceptance.knows(order_id) => Ok(Answer::json(200, &Line { order_id, status: "accepted" })),
            None => Err(no_order(order_id)),
        }
    }

    fn cancel(&self, call: &Call) -> Result<Answer, Answer> {
        let order_id = order_id(call)?;
        match self.books.cancel(order_id).map_err(|fault| failed(&fault))? {
            Some(Written { status, .. }) if status == "rejected" => {
                let message = format!("order {order_id} is rejected; there is no reservation to give back");
                Err(Answer::error(409, "order_rejected", message, "nothing is to be done"))
            }
            Some(order) => Ok(Answer::json(200, &order)),
            None if self.acceptance.knows(order_id) => {
                let message = format!("order {order_id} is accepted, and not decided yet");
                Err(Answer::error(409, "order_undecided", message, "cancel it after a moment").with("Retry-After", "1"))
            }
            None => Err(no_order(order_id)),
        }
    }

    fn stock(&self, call: &Call) -> Result<Answer, Answer> {
        let after = call.parameter("after").unwrap_or_default();
        if after.contains('\0') {
            return Err(Answer::error(400, "parameter_malformed", "after holds a NUL", "give the id of a product"));
        }
        let products = self.books.products(after).map_err(|fault| failed(&fault))?;
        let answer = Answer::json(200, &products);
        match products.last() {
            Some(last) if products.len() == LIST_MAX => {
                let next = format!("<{STOCK}?after={}>; rel=\"next\"", percent_encoded(&last.product_id));
                Ok(answer.with("Link", next))
            }
            _ => Ok(answer),
        }
    }

    fn restock(&self, call: &Call) -> Result<Answer, Answer> {
        let (key, quantity, product) = (call.key()?, restock_quantity(call)?, &call.param);
        let unknown = || {
            let message = format!("there is no product {product:?}");
            Answer::error(404, "product_unknown", message, "GET /inventory lists them")
        };
        if product.chars().count() > ID_CHARS_MAX || product.contains(char::is_control) {
            return Err(unknown());
        }
        match self.books.restock(product, quantity, key).map_err(|fault| failed(&fault))? {
            Restock::Done(product) => Ok(Answer::json(200, &product)),
            Restock::NoProduct => Err(unknown()),
            Restock::Other(noted) => {
                let message = format!("this Idempotency-Key came with a restock of {noted} before; nothing was added");
                Err(Answer::error(422, "idempotency_key_reused", message, "take a new key for a new restock"))
            }
        }
    }
}

impl Service for Desk {
    fn endpoints(&self) -> &'static [Endpoint] {
        ENDPOINTS
    }

    fn call(&self, call: Call, reply: Reply) {
        let answer = match call.endpoint.path {
            ORDER => return self.order(&call, reply),
            BATCH => return self.batch(&call, reply),
            SHOW => self.show(&call),
            CANCEL => self.cancel(&call),
            STOCK => self.stock(&call),
            _ => self.restock(&call),
        };
        reply.answer(answer.unwrap_or_else(|refusal| refusal));
    }
}

fn no_order(order_id: Uuid) -> Answer {
    let cure =
        "one that was just accepted appears once the flow has written it; /tracking-status shows how far that is";
    Answer::error(404, "order_unknown", format!("there is no order {order_id}"), cure)
}

/// What the books say where they say no.
fn failed(fault: &Fault) -> Answer {
    let cause = fault.cause();
    let (code, text) = (&*cause.code, &*cause.text);
    match fault {
        Fault::Retry(_) => {
            Answer::error(503, code, text, "send it again after a moment; /health has the state of PostgreSQL")
                .with("Retry-After", "2")
        }
        Fault::Reject(_) => Answer::error(409, code, text, "the rules of the table do not allow it as it stands"),
        Fault::Stop(_) => Answer::error(500, code, text, "a person has to look at the tables"),
    }
}

/// For a header: what is not a letter, a digit or one of four marks, byte by byte.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests;
