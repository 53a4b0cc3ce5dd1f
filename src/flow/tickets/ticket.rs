//! A ticket as it stands in a Kafka record: one change of one order, with its number in the order's sequence. Read from
//! JSON, checked field by field, and written again.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::flow::field::{self, Amount, Flaw, id, text, whole};
use crate::pg::copy::{field, timestamp_us};

/// Columns of `sql/tickets/copy.sql`.
pub const COLUMNS: i16 = 7;
/// Where a `numeric` says how many places behind the point it shows. Its value does not depend on it.
pub const SCALE_BYTES: std::ops::Range<usize> = 6..8;
/// The end of the year 9999: what is later was not meant.
pub const MOMENT_MS_MAX: i64 = 253_402_300_799_999;
/// The highest number that every reader of JSON takes exactly.
pub const SEQUENCE_MAX: i64 = 1 << 53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket<'a> {
    pub ticket_id: Uuid,
    pub order_id: Cow<'a, str>,
    /// From 1 on in each order, without a gap.
    pub sequence: i64,
    pub status: Cow<'a, str>,
    pub customer_id: Cow<'a, str>,
    pub price: Amount,
    pub changed_at_ms: i64,
}

/// The fields as written. Each is looked at by itself, so that all flaws are told at once.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    ticket_id: Option<&'a RawValue>,
    #[serde(borrow)]
    order_id: Option<&'a RawValue>,
    #[serde(borrow)]
    sequence: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    price: Option<&'a RawValue>,
    #[serde(borrow)]
    changed_at_ms: Option<&'a RawValue>,
}

impl<'a> Ticket<'a> {
    /// From the payload of a record; or everything that is wrong with it.
    pub fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        let written: Written<'_> = field::object(json)?;
        let mut flaws = Vec::new();
        let mut note = |flaw: Flaw| flaws.push(flaw);
        let ticket_id = field::uuid("ticket_id", written.ticket_id).map_err(&mut note);
        let order_id = id("order_id", written.order_id).map_err(&mut note);
        let sequence = whole("sequence", written.sequence, 1..=SEQUENCE_MAX).map_err(&mut note);
        let status = id("status", written.status).map_err(&mut note);
        let customer_id = id("customer_id", written.customer_id).map_err(&mut note);
        let price = Amount::read("price", written.price).map_err(&mut note);
        let changed_at_ms = whole("changed_at_ms", written.changed_at_ms, 0..=MOMENT_MS_MAX).map_err(&mut note);
        let read = || {
            Ok::<Self, ()>(Ticket {
                ticket_id: ticket_id?,
                order_id: order_id?,
                sequence: sequence?,
                status: status?,
                customer_id: customer_id?,
                price: price?,
                changed_at_ms: changed_at_ms?,
            })
        };
        read().map_err(|()| flaws)
    }

    /// Appends the payload of its record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Ticket { ticket_id, order_id, sequence, status, customer_id, price, changed_at_ms } = self;
        out.extend_from_slice(format!("{{\"ticket_id\":\"{ticket_id}\",\"order_id\":").as_bytes());
        text(out, order_id);
        out.extend_from_slice(format!(",\"sequence\":{sequence},\"status\":").as_bytes());
        text(out, status);
        out.extend_from_slice(b",\"customer_id\":");
        text(out, customer_id);
        out.extend_from_slice(format!(",\"price\":{price},\"changed_at_ms\":{changed_at_ms}}}").as_bytes());
    }

    /// Appends its row for COPY.
    pub fn copy(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&COLUMNS.to_be_bytes());
        field(out, Some(self.order_id.as_bytes()));
        field(out, Some(&self.sequence.to_be_bytes()));
        field(out, Some(self.ticket_id.as_bytes()));
        field(out, Some(self.status.as_bytes()));
        field(out, Some(self.customer_id.as_bytes()));
        let (bytes, len) = self.price.numeric();
        field(out, Some(&bytes[..len]));
        let changed_at_us = timestamp_us(self.changed_at_ms).expect("PostgreSQL has all moments that are read");
        field(out, Some(&changed_at_us.to_be_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_all_flaws_are_told_at_once() {
        let ticket = Ticket {
            ticket_id: Uuid::from_u128(7),
            order_id: "order \"1\"".into(),
            sequence: 3,
            status: "paid".into(),
            customer_id: "é".into(),
            price: Amount::from_cents(1_250).unwrap(),
            changed_at_ms: 1_767_225_600_000,
        };
        let mut json = Vec::new();
        ticket.write(&mut json);
        assert_eq!(Ticket::read(&json).unwrap(), ticket);
        let flaws = |json: &str| Ticket::read(json.as_bytes()).unwrap_err().len();
        assert_eq!((flaws("{}"), flaws("[]"), flaws("{")), (7, 1, 1));
        let json = String::from_utf8(json).unwrap();
        for (field, bad) in [
            ("\"sequence\":3", "\"sequence\":0"),
            ("\"sequence\":3", "\"sequence\":3.0"),
            ("1767225600000", "253402300800000"),
            ("12.50", "12.505"),
            ("\"paid\"", "\"\""),
        ] {
            assert_eq!(flaws(&json.replace(field, bad)), 1, "{bad}");
        }
    }
}
