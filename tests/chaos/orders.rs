//! The orders flow: each record is an order, and the stock is what its orders have left of it.

use uuid::Uuid;

use super::load::{Load, Numbers, Sent, count, difference};
use crate::support::random::Random;

/// Whom it tells of orders.
const TOLD: [&str; 3] = ["validated", "inventory", "warehouse"];

pub struct Orders {
    topic: String,
    numbers: Numbers,
}

impl Orders {
    pub fn load(topic: &str) -> Box<dyn Load> {
        Box::new(Orders { topic: topic.to_owned(), numbers: Numbers::default() })
    }
}

/// The rows of a table by the partition and the number that their ids are made of, in order.
pub fn placed(client: &mut postgres::Client, sql: &str) -> Result<Vec<(i32, i32)>, postgres::Error> {
    let place = |id: Uuid| (id.as_u64_pair().0 as i32, id.as_u64_pair().1 as i32);
    Ok(client.query(sql, &[])?.iter().map(|row| place(row.get(0))).collect())
}

impl Load for Orders {
    fn flow(&self) -> &'static str {
        "orders"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let [validated, inventory, warehouse] = TOLD.map(|told| format!("{}-{told}", self.topic));
        vec![
            ("TOPIC", self.topic.clone()),
            ("VALIDATED_TOPIC", validated),
            ("INVENTORY_TOPIC", inventory),
            ("WAREHOUSE_TOPIC", warehouse),
        ]
    }

    fn topics(&self) -> Vec<String> {
        TOLD.map(|told| format!("{}-{told}", self.topic)).into()
    }

    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent> {
        let drawn = self.numbers.draw(random, is_aborted);
        let order_id = Uuid::from_u64_pair(drawn.partition as u64, drawn.number as u64);
        let (customer, product) = (drawn.partition, drawn.number % 11 + 1);
        let quantity = if is_aborted { 1_000 } else { 1 + drawn.number % 3 };
        let payload = format!(
            r#"{{"order_id":"{order_id}","customer_id":"CUST{customer}","product_id":"PROD{product:03}","quantity":{quantity},"amount":9.99}}"#
        );
        vec![Sent::plain(drawn.partition, payload.into_bytes())]
    }

    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error> {
        Ok((count(client, "SELECT count(*) FROM orders")?, self.numbers.count()))
    }

    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        let found = placed(client, "SELECT order_id FROM orders ORDER BY 1")?;
        if let Some(difference) = difference(&found, &self.numbers.all()) {
            return Ok(Some(difference));
        }
        // What is reserved is what the reserved orders asked for, and no more than there was.
        let sql = "SELECT product_id, reserved_quantity, taken FROM inventory
                   LEFT JOIN (SELECT product_id, sum(quantity)::bigint AS taken FROM orders
                              WHERE status = 'reserved' GROUP BY 1) AS o USING (product_id)
                   WHERE reserved_quantity <> coalesce(taken, 0) OR available_quantity < 0
                      OR available_quantity + reserved_quantity <> total_quantity";
        let product = |row: &postgres::Row| {
            let (reserved, taken): (i64, Option<i64>) = (row.get(1), row.get(2));
            format!("{} has {reserved} reserved, its orders {taken:?}", row.get::<_, String>(0))
        };
        Ok(client.query(sql, &[])?.first().map(product))
    }
}
