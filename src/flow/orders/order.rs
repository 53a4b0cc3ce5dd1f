//! An order as it is asked for, and as it stands in a Kafka record: read from JSON, checked field by field, and written
//! again. Whoever accepts orders and whoever applies them read them here, so that nothing is accepted that cannot be
//! applied.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::flow::field::{self, Amount, Flaw, id, text};

pub const QUANTITY_MAX: i32 = 1_000_000;

/// What a customer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    pub customer_id: Cow<'a, str>,
    pub product_id: Cow<'a, str>,
    pub quantity: i32,
    pub amount: Amount,
}

/// A wish that was given a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    pub order_id: Uuid,
    pub wish: Wish<'a>,
}

/// The fields as written. Each is looked at by itself, so that all flaws are told at once.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    order_id: Option<&'a RawValue>,
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    product_id: Option<&'a RawValue>,
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    #[serde(borrow)]
    amount: Option<&'a RawValue>,
}

impl<'a> Written<'a> {
    fn wish(&self, flaws: &mut Vec<Flaw>) -> Option<Wish<'a>> {
        let mut note = |flaw: Flaw| flaws.push(flaw);
        let customer_id = id("customer_id", self.customer_id).map_err(&mut note).ok();
        let product_id = id("product_id", self.product_id).map_err(&mut note).ok();
        let quantity = field::whole("quantity", self.quantity, 1..=QUANTITY_MAX).map_err(&mut note).ok();
        let amount = Amount::read("amount", self.amount).map_err(&mut note).ok();
        Some(Wish { customer_id: customer_id?, product_id: product_id?, quantity: quantity?, amount: amount? })
    }
}

impl<'a> Wish<'a> {
    /// Or everything that is wrong with it.
    pub fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Vec::new();
        field::object::<Written<'_>>(json)?.wish(&mut flaws).ok_or(flaws)
    }
}

impl<'a> Order<'a> {
    /// From the payload of a record; or everything that is wrong with it.
    pub fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        let written = field::object::<Written<'_>>(json)?;
        let mut flaws = Vec::new();
        let order_id = field::uuid("order_id", written.order_id).map_err(|flaw| flaws.push(flaw)).ok();
        let wish = written.wish(&mut flaws);
        match (order_id, wish) {
            (Some(order_id), Some(wish)) => Ok(Order { order_id, wish }),
            _ => Err(flaws),
        }
    }

    /// Appends the payload of its record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Wish { customer_id, product_id, quantity, amount } = &self.wish;
        out.extend_from_slice(b"{\"order_id\":\"");
        out.extend_from_slice(self.order_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.extend_from_slice(b"\",\"customer_id\":");
        text(out, customer_id);
        out.extend_from_slice(b",\"product_id\":");
        text(out, product_id);
        out.extend_from_slice(format!(",\"quantity\":{quantity},\"amount\":{amount}}}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(json: &str) -> Vec<String> {
        Wish::read(json.as_bytes()).map_or_else(|flaws| flaws.iter().map(Flaw::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let wish = Wish::read(
            br#"{"customer_id":"CUST\u00e9 \"1\"","product_id":"PROD001","quantity":5,"amount":6499.95,"note":{}}"#,
        )
        .unwrap();
        assert_eq!(
            (&*wish.customer_id, wish.quantity, wish.amount),
            ("CUST\u{e9} \"1\"", 5, Amount::from_cents(649_995).unwrap())
        );
        let order = Order { order_id: Uuid::from_u128(7), wish };
        let mut json = Vec::new();
        order.write(&mut json);
        assert_eq!(Order::read(&json).unwrap(), order);
        assert!(String::from_utf8(json).unwrap().ends_with("\"quantity\":5,\"amount\":6499.95}"));
    }

    #[test]
    fn every_flaw_is_told_at_once_with_its_value_and_rule() {
        assert_eq!(
            flaws(r#"{"customer_id":"","product_id":7,"quantity":0,"amount":-1}"#),
            [
                "customer_id has 0 characters; 1 to 64 are allowed",
                "product_id is 7; a string is expected",
                "quantity is 0; a whole number from 1 to 1000000 is expected",
                "amount is -1; 0 to 999999999999.99 with at most two places is expected",
            ]
        );
        let flaws_of = r#"{"customer_id":" a","product_id":7,"quantity":"b","amount":"c","order_id":"d"}"#;
        let discreet: Vec<String> = Order::read(flaws_of.as_bytes()).unwrap_err().iter().map(Flaw::discreet).collect();
        let expected = [
            "order_id: a UUID is expected",
            "customer_id: it may neither begin nor end with a space, nor hold control characters",
            "product_id: a string is expected",
            "quantity: a whole number from 1 to 1000000 is expected",
            "amount: 0 to 999999999999.99 with at most two places is expected",
        ];
        assert_eq!(discreet, expected, "nothing of the record is in what others are told");
        assert_eq!(flaws("{}").len(), 4);
        for (json, begin) in [
            ("[]", "must be an object"),
            (r#"["018f3f2e-7a2b-7c3d-8e4f-5a6b7c8d9e0f", "a", "b", 1, 1]"#, "must be an object"),
            ("", "is not JSON"),
            ("{\"quantity\":1,\"quantity\":2}", "must be an object with each field once"),
            ("{\"quantity\":1", "is not JSON"),
        ] {
            assert!(flaws(json)[0].starts_with(begin), "{json} {:?}", flaws(json));
        }
        let long = flaws(&format!("\"{}\"", "x".repeat(1000)));
        assert!(long[0].len() < 100, "{long:?}");
        assert!(Order::read(b"{\"order_id\":\"x\"}").unwrap_err()[0].to_string().contains("is x; a UUID is expected"));
    }

    #[test]
    fn money_is_a_number_or_a_text_that_holds_one() {
        let amount =
            |json: &str| flaws(&format!(r#"{{"customer_id":"a","product_id":"b","quantity":1,"amount":{json}}}"#));
        assert!(amount("\"12.30\"").is_empty() && amount("12.30").is_empty());
        assert_eq!(amount("true").len(), 1);
    }

    #[test]
    fn ids_are_names_and_quantities_whole() {
        let one = |field: &str, json: &str| {
            let fields = [("customer_id", "\"a\""), ("product_id", "\"b\""), ("quantity", "1"), ("amount", "1")];
            let written =
                fields.map(|(name, value)| format!("\"{name}\":{}", if name == field { json } else { value }));
            flaws(&format!("{{{}}}", written.join(","))).len()
        };
        let (longest, longer) = (format!("\"{}\"", "é".repeat(64)), format!("\"{}\"", "é".repeat(65)));
        for (json, flaws) in
            [(&*longest, 0), (&*longer, 1), ("\" a\"", 1), ("\"a\\u0000b\"", 1), ("null", 1), ("\"a b\"", 0)]
        {
            assert_eq!((one("customer_id", json), one("product_id", json)), (flaws, flaws), "{json}");
        }
        for (json, flaws) in [("1000000", 0), ("1000001", 1), ("1.0", 1), ("1e1", 1), ("\"1\"", 1), ("99999999999", 1)]
        {
            assert_eq!(one("quantity", json), flaws, "{json}");
        }
    }
}
