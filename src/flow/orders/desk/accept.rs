//! The way of orders into Kafka. A request is answered when Kafka has answered for the last of its orders, on the thread
//! that brings that word; until then it holds memory and no thread.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};
use serde_json::json;
use uuid::Uuid;

use super::recent::Recent;
use crate::fault::{Cause, Fault};
use crate::flow::orders::order::{Order, Wish};
use crate::ops::Answer;
use crate::ops::service::Reply;
use crate::outlet::{Message, Outlet};
use crate::trace::{self, Trace};
use crate::track::Track;

/// Orders that Kafka has not answered for yet, over all requests: at 100,000 a second those of half a second. A tenth of
/// what the publisher's queue holds, so that no request is taken by halves.
pub const UNDER_WAY_MAX: usize = 50_000;
/// Orders with a key whose wish is remembered: some 6 MB.
const KEYED_MAX: usize = 100_000;
/// Orders that are known to be accepted before the flow has written them: some 4 MB.
const ACCEPTED_MAX: usize = 100_000;
/// Names of orders are made in it from customers and keys. It never changes: a key means the same order for ever.
const NAMES: Uuid = Uuid::from_u128(0x6d1f_3c52_90a7_4e0b_8a4d_27c1_5e96_b3f8);

/// What a request for orders looks like, and its answer too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
}

/// What is known of an order that came with a key.
struct Keyed {
    /// Stands for the whole of it.
    digest: Uuid,
    is_accepted: bool,
}

/// What the desk counts and remembers.
struct Memory {
    under_way: AtomicUsize,
    keyed: Mutex<Recent<Uuid, Keyed>>,
    accepted: Mutex<Recent<Uuid, ()>>,
    track: Arc<Track>,
}

pub struct Acceptance {
    outlet: Arc<dyn Outlet>,
    topic: String,
    memory: Arc<Memory>,
}

impl Acceptance {
    pub fn new(outlet: Arc<dyn Outlet>, topic: &str, track: Arc<Track>) -> Self {
        let memory = Memory {
            under_way: AtomicUsize::new(0),
            keyed: Mutex::new(Recent::new(KEYED_MAX)),
            accepted: Mutex::new(Recent::new(ACCEPTED_MAX)),
            track,
        };
        Acceptance { outlet, topic: topic.to_owned(), memory: Arc::new(memory) }
    }

    /// Has the reply answered, once.
    pub fn accept<'a>(&self, wishes: Vec<Wish<'a>>, key: Option<&str>, shape: Shape, reply: Reply) {
        if !self.memory.take(wishes.len()) {
            return reply.answer(crowded());
        }
        let name = |(index, wish): (usize, Wish<'a>)| {
            let index = (shape == Shape::List).then_some(index);
            Order { order_id: order_id(&wish.customer_id, key, index), wish }
        };
        let orders: Vec<Order<'_>> = wishes.into_iter().enumerate().map(name).collect();
        let known = match key.map(|_| self.memory.recall(&orders)).transpose() {
            Ok(known) => known.unwrap_or_default(),
            Err(others) => {
                self.memory.give_back(orders.len());
                return reply.answer(reused(&others));
            }
        };
        let group = Arc::new(Group::new(&orders, key.is_some(), shape, reply, self.memory.clone()));
        let mut payload = Vec::new();
        for (index, order) in orders.iter().enumerate() {
            let pending = Pending { group: group.clone(), index, is_settled: false };
            if known.get(index).is_some_and(|is_accepted| *is_accepted) {
                pending.settle(ACCEPTED);
                continue;
            }
            payload.clear();
            order.write(&mut payload);
            let (key, payload) = (Some(order.wish.customer_id.as_bytes()), Some(payload.as_slice()));
            let parent = Trace::begin(&order.order_id.to_string()).to_string();
            let headers = [(trace::HEADER, Some(parent.as_bytes()))];
            let message = Message { topic: &self.topic, key, payload, source: None, headers: &headers };
            if let Err(fault) = self.outlet.publish(&message, Box::new(move |result| pending.told(result))) {
                group.note(index, NOT_SENT, fault.into_cause());
            }
        }
        group.count_down();
    }

    /// Whether Kafka has acknowledged this order, as far as is remembered.
    pub fn knows(&self, order_id: Uuid) -> bool {
        lock(&self.memory.accepted).get(&order_id).is_some()
    }
}

/// The same key gives the same order on every instance, now and later; without one each is another.
fn order_id(customer_id: &str, key: Option<&str>, index: Option<usize>) -> Uuid {
    let Some(key) = key else { return Uuid::now_v7() };
    // Neither the customer nor the key holds a NUL, so that no two of these are spelled alike.
    let mut name = format!("{customer_id}\0{key}");
    if let Some(index) = index {
        name.push_str(&format!("\0{index}"));
    }
    Uuid::new_v5(&NAMES, name.as_bytes())
}

impl Memory {
    fn take(&self, orders: usize) -> bool {
        let more = |under_way: usize| Some(under_way + orders).filter(|sum| *sum <= UNDER_WAY_MAX);
        self.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self, orders: usize) {
        self.under_way.fetch_sub(orders, Ordering::AcqRel);
    }

    /// Whether each of them is accepted already; or those whose key came with another wish before.
    fn recall(&self, orders: &[Order<'_>]) -> Result<Vec<bool>, Vec<Uuid>> {
        let mut payload = Vec::new();
        let digests = orders.iter().map(|order| {
            payload.clear();
            order.write(&mut payload);
            Uuid::new_v5(&NAMES, &payload)
        });
        let digests: Vec<Uuid> = digests.collect();
        let mut keyed = lock(&self.keyed);
        let (mut known, mut others) = (Vec::with_capacity(orders.len()), Vec::new());
        for (order, digest) in orders.iter().zip(&digests) {
            match keyed.get(&order.order_id) {
                Some(same) if same.digest == *digest => known.push(same.is_accepted),
                Some(_) => others.push(order.order_id),
                None => known.push(false),
            }
        }
        if !others.is_empty() {
            return Err(others);
        }
        for ((order, digest), is_accepted) in orders.iter().zip(digests).zip(&known) {
            keyed.insert(order.order_id, Keyed { digest, is_accepted: *is_accepted });
        }
        Ok(known)
    }

    fn accepted(&self, order_id: Uuid, has_key: bool) {
        self.track.produced.add(1);
        lock(&self.accepted).insert(order_id, ());
        if has_key && let Some(keyed) = lock(&self.keyed).get_mut(&order_id) {
            keyed.is_accepted = true;
        }
    }
}

const UNANSWERED: u8 = 0;
const ACCEPTED: u8 = 1;
/// It may be in Kafka all the same.
const UNKNOWN: u8 = 2;
const NOT_SENT: u8 = 3;

/// The orders of one request.
struct Group {
    orders: Vec<(Uuid, AtomicU8)>,
    /// Orders that are not answered for, and one more until all are handed over.
    left: AtomicUsize,
    /// Why one failed.
    cause: Mutex<Option<Cause>>,
    reply: Mutex<Option<Reply>>,
    has_key: bool,
    shape: Shape,
    memory: Arc<Memory>,
}

/// An order that is not answered for. Dropped, it is one of which nobody knows anything.
struct Pending {
    group: Arc<Group>,
    index: usize,
    is_settled: bool,
}

impl Pending {
    fn told(self, result: Result<(), Fault>) {
        let (order_id, _) = self.group.orders[self.index];
        match result {
            Ok(()) => {
                self.group.memory.accepted(order_id, self.group.has_key);
                self.settle(ACCEPTED);
            }
            Err(fault) => {
                self.group.note(self.index, UNKNOWN, fault.into_cause());
                // Dropped as it is: it stays unknown.
            }
        }
    }

    fn settle(mut self, outcome: u8) {
        self.is_settled = true;
        self.group.orders[self.index].1.store(outcome, Ordering::Release);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_settled {
            self.group.orders[self.index].1.store(UNKNOWN, Ordering::Release);
        }
        self.group.memory.give_back(1);
        self.group.count_down();
    }
}

impl Group {
    fn new(orders: &[Order<'_>], has_key: bool, shape: Shape, reply: Reply, memory: Arc<Memory>) -> Self {
        Group {
            orders: orders.iter().map(|order| (order.order_id, AtomicU8::new(UNANSWERED))).collect(),
            left: AtomicUsize::new(orders.len() + 1),
            cause: Mutex::new(None),
            reply: Mutex::new(Some(reply)),
            has_key,
            shape,
            memory,
        }
    }

    /// That an order failed, and why.
    fn note(&self, index: usize, outcome: u8, cause: Cause) {
        self.orders[index].1.store(outcome, Ordering::Release);
        self.memory.track.publish_failed.add(1);
        self.memory.track.failed(&cause);
        lock(&self.cause).get_or_insert(cause);
    }

    fn count_down(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(reply) = lock(&self.reply).take()
        {
            reply.answer(self.answer());
        }
    }

    fn answer(&self) -> Answer {
        let lines: Vec<Line> = self.orders.iter().map(|(order_id, outcome)| Line::new(*order_id, outcome)).collect();
        let count = |status: &str| lines.iter().filter(|line| line.status == status).count();
        match (count("not_sent"), count("unknown")) {
            (0, 0) if self.shape == Shape::One => Answer::json(202, &lines[0]),
            (0, 0) => Answer::json(202, &lines),
            (not_sent, unknown) => self.refusal(&lines, not_sent, unknown),
        }
    }

    /// A part is no success: whoever looks at nothing but the status must not take it for the whole.
    fn refusal(&self, lines: &[Line], not_sent: usize, unknown: usize) -> Answer {
        let cause = lock(&self.cause).clone();
        let cause = cause.unwrap_or_else(|| Cause::new("publish_unanswered", "nobody said what became of it"));
        let mut message = format!("of {} orders {} are accepted", lines.len(), lines.len() - not_sent - unknown);
        if unknown > 0 {
            message += &format!(", of {unknown} it is not known, since Kafka has not acknowledged them");
        }
        if not_sent > 0 {
            message += &format!(", {not_sent} were not sent");
        }
        let cure = match (self.has_key, unknown) {
            (true, _) => "send the same again with the same Idempotency-Key: each order is made once",
            (false, 0) => "send those again that were not sent",
            (false, _) => {
                "GET /orders/{id} tells what became of those that are not known; with an Idempotency-Key a request can \
                 simply be sent again"
            }
        };
        let code = if unknown > 0 { "not_acknowledged" } else { "not_sent" };
        let message = format!("{message}: {cause}");
        Answer::error_with(503, code, message, cure, &json!({ "orders": lines })).with("Retry-After", "2")
    }
}

/// What a client is told of one order.
#[derive(Serialize)]
pub struct Line {
    #[serde(serialize_with = "as_text")]
    pub order_id: Uuid,
    pub status: &'static str,
}

impl Line {
    fn new(order_id: Uuid, outcome: &AtomicU8) -> Line {
        let status = match outcome.load(Ordering::Acquire) {
            ACCEPTED => "accepted",
            NOT_SENT => "not_sent",
            _ => "unknown",
        };
        Line { order_id, status }
    }
}

fn as_text<S: Serializer>(order_id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(order_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

fn crowded() -> Answer {
    let message = format!("{UNDER_WAY_MAX} orders wait for Kafka; none of this request was sent");
    Answer::error(503, "overloaded", message, "send it again after a moment").with("Retry-After", "1")
}

fn reused(others: &[Uuid]) -> Answer {
    let names: Vec<String> = others.iter().map(Uuid::to_string).collect();
    let message = "this Idempotency-Key came with other orders before; nothing of this request was sent";
    let cure = "take a new key for what is new, and the very same request for what is repeated";
    Answer::error_with(422, "idempotency_key_reused", message, cure, &json!({ "order_ids": names }))
}

/// What these locks guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
