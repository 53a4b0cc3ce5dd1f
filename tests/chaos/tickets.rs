//! The tickets flow: each record is a row, and the rows of an order are its sequence without a gap.

use uuid::Uuid;

use super::load::{Load, Numbers, Sent, count, difference};
use super::orders::placed;
use crate::support::random::Random;

/// Orders in each partition.
const ORDERS: usize = 8;

pub struct Tickets {
    topic: String,
    numbers: Numbers,
}

impl Tickets {
    pub fn load(topic: &str) -> Box<dyn Load> {
        Box::new(Tickets { topic: topic.to_owned(), numbers: Numbers::default() })
    }
}

impl Load for Tickets {
    fn flow(&self) -> &'static str {
        "tickets"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("TOPIC", self.topic.clone())]
    }

    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent> {
        let drawn = self.numbers.draw(random, is_aborted);
        let ticket_id = Uuid::from_u64_pair(drawn.partition as u64, drawn.number as u64);
        let order_id = format!("order-{}-{}", drawn.partition, drawn.before % ORDERS);
        // What is aborted has the number of one that is not, or leaves a gap.
        let sequence = drawn.before / ORDERS + 1 + if is_aborted { drawn.number as usize % 3 } else { 0 };
        let payload = format!(
            r#"{{"ticket_id":"{ticket_id}","order_id":"{order_id}","sequence":{sequence},"status":"paid","customer_id":"c","price":9.99,"changed_at_ms":0}}"#
        );
        vec![Sent { key: Some(order_id), ..Sent::plain(drawn.partition, payload.into_bytes()) }]
    }

    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error> {
        Ok((count(client, "SELECT count(*) FROM tickets")?, self.numbers.count()))
    }

    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        let found = placed(client, "SELECT ticket_id FROM tickets ORDER BY 1")?;
        if let Some(difference) = difference(&found, &self.numbers.all()) {
            return Ok(Some(difference));
        }
        // None is missing in an order, and each stands where its tickets do.
        let sql = "SELECT order_id, t.count, t.sequence, o.sequence FROM ticket_orders o
                   FULL JOIN (SELECT order_id, count(*), max(sequence) AS sequence FROM tickets GROUP BY 1) AS t
                       USING (order_id)
                   WHERE (t.count, t.sequence) IS DISTINCT FROM (o.sequence, o.sequence)";
        let order = |row: &postgres::Row| {
            let (count, highest): (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
            format!("{} has {count:?} tickets up to {highest:?}", row.get::<_, String>(0))
        };
        Ok(client.query(sql, &[])?.first().map(order))
    }
}
