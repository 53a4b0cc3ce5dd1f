//! A ticket as JSON: what is read and written is read again as the same and keeps the schema that we ship, its row has
//! what was read, and flaws are told in short lines whatever was sent.

use std::sync::LazyLock;

use bigdecimal::BigDecimal;
use serde_json::value::RawValue;
use sluicegate::decode::schema::JsonSchema;
use sluicegate::flow::field::Flaw;
use sluicegate::flow::tickets::ticket::{MOMENT_MS_MAX, SEQUENCE_MAX, Ticket};

use super::fields::{amount, id, is_short, numeric, object, string, told, uuid_digits, whole};
use super::{memory, rows};

/// What we ship for whoever writes tickets. Of the names of states it has those that we know; the flow takes all.
static SCHEMA: LazyLock<JsonSchema> =
    LazyLock::new(|| JsonSchema::new(include_str!("../../schema/ticket.schema.json")).expect("a schema"));

/// PostgreSQL counts from the year 2000, in microseconds.
const EPOCH_MS: i64 = 946_684_800_000;

pub fn run(json: &[u8]) {
    let ticket = memory::at_most(8 * 1024 + 4 * json.len(), || Ticket::read(json));
    let flaws = ticket.as_ref().err().map_or(&[][..], Vec::as_slice);
    flaws.iter().for_each(is_short);
    // To others than who wrote it.
    assert!(flaws.iter().map(Flaw::discreet).all(|text| !text.is_empty() && text.len() < 200), "{flaws:?}");
    let read = ticket.as_ref().ok();
    if let Some(ticket) = read {
        is_read_again(ticket);
        is_copied(ticket);
    }
    // Seen once more, by serde_json alone.
    let Some(fields) = object(json) else { return assert!(ticket.is_err(), "serde_json reads no object") };
    let raw = |field| fields.get(field).copied();
    told("ticket_id", flaws, uuid(raw("ticket_id"), read));
    told("order_id", flaws, id(raw("order_id"), read.map(|ticket| &*ticket.order_id)));
    told("sequence", flaws, whole(raw("sequence"), 1..=SEQUENCE_MAX, read.map(|ticket| ticket.sequence)));
    told("status", flaws, id(raw("status"), read.map(|ticket| &*ticket.status)));
    told("customer_id", flaws, id(raw("customer_id"), read.map(|ticket| &*ticket.customer_id)));
    told("price", flaws, amount(raw("price"), read.map(|ticket| ticket.price)));
    told("changed_at_ms", flaws, whole(raw("changed_at_ms"), 0..=MOMENT_MS_MAX, read.map(|ticket| ticket.changed_at_ms)));
}

fn uuid(raw: Option<&RawValue>, read: Option<&Ticket<'_>>) -> bool {
    let digits = string(raw).and_then(|text| uuid_digits(&text));
    if let Some(ticket) = read {
        assert_eq!(Some(hex(ticket.ticket_id.as_bytes())), digits);
    }
    digits.is_some()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_read_again(ticket: &Ticket<'_>) {
    let mut written = Vec::new();
    ticket.write(&mut written);
    assert_eq!(Ticket::read(&written).as_ref(), Ok(ticket), "{}", String::from_utf8_lossy(&written));
    if let Err(cause) = SCHEMA.check(&written) {
        assert!(cause.text.starts_with("/status breaks enum") && !cause.text.contains(';'), "{cause}");
    }
}

fn is_copied(ticket: &Ticket<'_>) {
    let mut bytes = Vec::new();
    ticket.copy(&mut bytes);
    let fields: Vec<Vec<u8>> = rows::parse(&bytes).into_iter().map(|field| field.expect("no field is null")).collect();
    let [order_id, sequence, ticket_id, status, customer_id, price, changed_at_us] = &fields[..] else {
        panic!("{} fields", fields.len());
    };
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let texts = [&ticket.order_id, &ticket.status, &ticket.customer_id].map(|text| text.as_bytes());
    assert_eq!([order_id, status, customer_id].map(Vec::as_slice), texts);
    assert_eq!((number(sequence), &ticket_id[..]), (ticket.sequence, &ticket.ticket_id.as_bytes()[..]));
    assert_eq!(numeric(price), (ticket.price.to_string().parse::<BigDecimal>().expect("a decimal"), 2));
    assert_eq!(number(changed_at_us) / 1000 + EPOCH_MS, ticket.changed_at_ms);
}
