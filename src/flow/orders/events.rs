//! What others are told of orders: one outbox row a batch, packed as it lay in memory, and the messages that it
//! unfolds to when it is published. Packing is a copy; all the JSON is made on the relay's thread.
//!
//! | topic | key | one message for |
//! | --- | --- | --- |
//! | `orders-validated` | customer | each order, reserved or rejected, and each that is cancelled |
//! | `orders-warehouse` | customer | each reserved order, and each that is cancelled |
//! | `orders-inventory` | product | each row of the inventory that a transaction changed |

use std::io::Write;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::stock::{Reason, Shelf, Verdict};
use crate::fault::Fault;
use crate::flow::field::{Amount, text};
use crate::flow::packed::Unpacked;
use crate::outlet::Message;
use crate::record::Partition;
use crate::trace::{self, Trace};

/// Where the messages go.
#[derive(Clone, Debug)]
pub struct Topics {
    pub validated: String,
    pub inventory: String,
    pub warehouse: String,
}

/// The messages of one batch while they are collected.
#[derive(Debug, Default)]
pub struct Packed(Vec<u8>);

const CHANGE: u8 = 0;
const RESERVED: u8 = 1;
const REJECTED_UNKNOWN: u8 = 2;
const REJECTED_STOCK: u8 = 3;
const CANCELLED: u8 = 4;
/// The order behind it belongs to a trace.
const TRACE: u8 = 5;

impl Packed {
    /// `taken`: how much of the shelf this transaction reserved.
    pub fn change(&mut self, product_id: &str, shelf: Shelf, taken: i64, offset: i64) {
        let out = &mut self.0;
        out.push(CHANGE);
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&shelf.bucket.to_be_bytes());
        for number in [taken, shelf.available, shelf.reserved] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&(product_id.len() as u32).to_be_bytes());
        out.extend_from_slice(product_id.as_bytes());
    }

    /// What the next order belongs to.
    pub fn trace(&mut self, trace: Option<Trace>) {
        if let Some(Trace { trace_id, span_id, is_sampled }) = trace {
            self.0.push(TRACE);
            self.0.extend_from_slice(&trace_id.to_be_bytes());
            self.0.extend_from_slice(&span_id.to_be_bytes());
            self.0.push(u8::from(is_sampled));
        }
    }

    /// `fields`: as they were encoded for COPY.
    pub fn order(&mut self, offset: i64, verdict: Verdict, fields: &[u8]) {
        let out = &mut self.0;
        out.push(match verdict {
            Verdict::Reserved { .. } => RESERVED,
            Verdict::Rejected(Reason::UnknownProduct) => REJECTED_UNKNOWN,
            Verdict::Rejected(Reason::InsufficientStock) => REJECTED_STOCK,
        });
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(fields);
    }

    /// An order that had been reserved before. `fields` as in `order`.
    pub fn cancelled(&mut self, fields: &[u8]) {
        self.0.push(CANCELLED);
        self.0.extend_from_slice(&0i64.to_be_bytes());
        self.0.extend_from_slice(fields);
    }

    pub fn into_body(self) -> Vec<u8> {
        self.0
    }
}

/// Shows every message of a body. `from` is where its records came from.
pub fn unfold(body: &[u8], from: &Partition, topics: &Topics, see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
    let mut body = Unpacked(body);
    let mut made = Made { payload: Vec::new(), source: format!("{from}/"), source_start: 0, trace: None };
    made.source_start = made.source.len();
    while let [kind, rest @ ..] = body.0 {
        body.0 = rest;
        let shown = match *kind {
            CHANGE => show_change(&mut body, topics, &mut made, see),
            TRACE => read_trace(&mut body).map(|trace| made.trace = Some(trace)),
            kind => show_order(kind, &mut body, topics, &mut made, see),
        };
        shown.ok_or_else(|| {
            Fault::stop("outbox.malformed", "a row of sluicegate_outbox does not hold what was packed")
        })?;
    }
    Ok(())
}

/// One message in the making. There are tens of thousands a second: nothing is allocated for one, but for its trace where it has
/// one.
struct Made {
    payload: Vec<u8>,
    /// Begins with where the records came from.
    source: String,
    source_start: usize,
    /// Of the order that comes next.
    trace: Option<Trace>,
}

fn read_trace(body: &mut Unpacked<'_>) -> Option<Trace> {
    let (trace_id, span_id) = (u128::from_be_bytes(body.array()?), u64::from_be_bytes(body.array()?));
    let [flags] = body.array()?;
    Some(Trace { trace_id, span_id, is_sampled: flags == 1 })
}

impl Made {
    /// Of a message that comes from this offset, with more behind it to tell it from others.
    fn name(&mut self, offset: i64, more: std::fmt::Arguments<'_>) {
        self.source.truncate(self.source_start);
        let written = std::fmt::Write::write_fmt(&mut self.source, format_args!("{offset}{more}"));
        written.expect("a string takes everything");
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.payload.write_fmt(text).expect("a vector takes everything");
    }
}

fn show_change(
    body: &mut Unpacked<'_>,
    topics: &Topics,
    made: &mut Made,
    see: &mut dyn FnMut(Message<'_>),
) -> Option<()> {
    let offset = body.number()?;
    let bucket = i16::from_be_bytes(body.array()?);
    let (taken, available, reserved) = (body.number()?, body.number()?, body.number()?);
    let product_id = body.text()?;
    made.payload.clear();
    made.payload.extend_from_slice(b"{\"product_id\":");
    text(&mut made.payload, product_id);
    made.put(format_args!(
        ",\"bucket\":{bucket},\"taken\":{taken},\"available_quantity\":{available},\"reserved_quantity\":{reserved}}}"
    ));
    made.name(offset, format_args!("/{product_id}/{bucket}"));
    let (payload, source) = (&made.payload, Some(made.source.as_str()));
    let key = Some(product_id.as_bytes());
    see(Message { topic: &topics.inventory, key, payload: Some(payload), source, headers: &[] });
    Some(())
}

fn show_order(
    kind: u8,
    body: &mut Unpacked<'_>,
    topics: &Topics,
    made: &mut Made,
    see: &mut dyn FnMut(Message<'_>),
) -> Option<()> {
    let (status, reason) = match kind {
        RESERVED => ("reserved", None),
        REJECTED_UNKNOWN => ("rejected", Some(Reason::UnknownProduct)),
        REJECTED_STOCK => ("rejected", Some(Reason::InsufficientStock)),
        CANCELLED => ("cancelled", None),
        _ => return None,
    };
    let offset = body.number()?;
    let order_id = Uuid::from_slice(body.field()?).ok()?;
    let (customer_id, product_id) = (body.text()?, body.text()?);
    let quantity = i32::from_be_bytes(body.field()?.try_into().ok()?);
    let amount = Amount::of_numeric(body.field()?)?;
    let _created_at = body.field()?;
    made.name(offset, format_args!(""));

    // One step on for each message: they go to different topics.
    let trace = made.trace.take();
    let step = |topic: &str| trace.map(|trace| trace.next((topic, &made.source)).to_string());
    let steps = [step(&topics.warehouse), step(&topics.validated)];
    let [to_warehouse, to_validated] =
        steps.each_ref().map(|step| step.as_ref().map(|step| (trace::HEADER, Some(step.as_bytes()))));

    let mut id = [0; Hyphenated::LENGTH];
    made.payload.clear();
    made.payload.extend_from_slice(b"{\"order_id\":\"");
    made.payload.extend_from_slice(order_id.hyphenated().encode_lower(&mut id).as_bytes());
    made.payload.extend_from_slice(b"\",\"customer_id\":");
    text(&mut made.payload, customer_id);
    made.payload.extend_from_slice(b",\"product_id\":");
    text(&mut made.payload, product_id);
    made.put(format_args!(",\"quantity\":{quantity},\"amount\":{amount}"));
    let (key, end) = (Some(customer_id.as_bytes()), made.payload.len());
    if kind == RESERVED {
        made.payload.push(b'}');
        let (payload, source) = (Some(made.payload.as_slice()), Some(made.source.as_str()));
        see(Message { topic: &topics.warehouse, key, payload, source, headers: to_warehouse.as_slice() });
        made.payload.truncate(end);
    }
    for part in [",\"status\":\"", status, "\""] {
        made.payload.extend_from_slice(part.as_bytes());
    }
    if let Some(reason) = reason {
        for part in [",\"reason\":\"", reason.name(), "\""] {
            made.payload.extend_from_slice(part.as_bytes());
        }
    }
    made.payload.push(b'}');
    let (payload, source) = (Some(made.payload.as_slice()), Some(made.source.as_str()));
    if kind == CANCELLED {
        see(Message { topic: &topics.warehouse, key, payload, source, headers: to_warehouse.as_slice() });
    }
    see(Message { topic: &topics.validated, key, payload, source, headers: to_validated.as_slice() });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::order::{Order, Wish};
    use super::super::rows::OrderRows;
    use super::*;

    #[test]
    fn what_was_packed_unfolds_to_one_message_for_each_who_wants_it() {
        let json = br#"{"order_id":"00000000-0000-0000-0000-000000000007","customer_id":"C\"1","product_id":"P1","quantity":2,"amount":19.90}"#;
        let mut rows = OrderRows::default();
        let order = Order::read(json).unwrap();
        assert_eq!(order.wish.amount, Wish::read(json).unwrap().amount);
        rows.add(&order, 0);
        let mut packed = Packed::default();
        packed.change("P1", Shelf { bucket: 1, available: 8, reserved: 2 }, 2, 40);
        packed.trace(Trace::read(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        packed.order(40, Verdict::Reserved { bucket: 1 }, rows.fields(0));
        packed.order(41, Verdict::Rejected(Reason::InsufficientStock), rows.fields(0));
        packed.cancelled(rows.fields(0));
        let body = packed.into_body();

        let topics = Topics { validated: "v".into(), inventory: "i".into(), warehouse: "w".into() };
        let from = Partition::new("orders-placed", 3);
        let (mut seen, mut traces) = (Vec::new(), Vec::new());
        let mut see = |message: Message<'_>| {
            traces.push(message.headers.first().map(|(_, value)| Trace::read(value.unwrap()).unwrap()));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            seen.push([
                message.topic.to_owned(),
                text(message.key.unwrap()),
                text(message.payload.unwrap()),
                message.source.unwrap().to_owned(),
            ]);
        };
        unfold(&body, &from, &topics, &mut see).unwrap();
        let order = r#"{"order_id":"00000000-0000-0000-0000-000000000007","customer_id":"C\"1","product_id":"P1","quantity":2,"amount":19.90"#;
        assert_eq!(
            seen,
            [
                [
                    "i",
                    "P1",
                    r#"{"product_id":"P1","bucket":1,"taken":2,"available_quantity":8,"reserved_quantity":2}"#,
                    "orders-placed/3/40/P1/1"
                ],
                ["w", "C\"1", &format!("{order}}}"), "orders-placed/3/40"],
                ["v", "C\"1", &format!("{order},\"status\":\"reserved\"}}"), "orders-placed/3/40"],
                [
                    "v",
                    "C\"1",
                    &format!("{order},\"status\":\"rejected\",\"reason\":\"insufficient_stock\"}}"),
                    "orders-placed/3/41"
                ],
                ["w", "C\"1", &format!("{order},\"status\":\"cancelled\"}}"), "orders-placed/3/0"],
                ["v", "C\"1", &format!("{order},\"status\":\"cancelled\"}}"), "orders-placed/3/0"],
            ]
        );
        let of: Vec<Option<String>> = traces.iter().map(|trace| Some(trace.as_ref()?.trace_id())).collect();
        let same = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        assert_eq!(of, [None, same.clone(), same, None, None, None], "of the order that came with it, and of no other");
        assert_ne!(traces[1], traces[2]);
        for len in 1..body.len() {
            // Whatever is cut off, it is told, or the cut is between two messages.
            let _ = unfold(&body[..len], &from, &topics, &mut |_| {});
        }
        assert!(unfold(&body[..body.len() - 1], &from, &topics, &mut |_| {}).is_err());
        assert!(unfold(&[9], &from, &topics, &mut |_| {}).is_err());
    }
}
