//! The status flow: each record is a row.

use super::load::{Load, Numbers, Sent, count, difference};
use crate::support::random::Random;
use crate::support::update;

pub struct Status {
    topic: String,
    numbers: Numbers,
}

impl Status {
    pub fn load(topic: &str) -> Box<dyn Load> {
        Box::new(Status { topic: topic.to_owned(), numbers: Numbers::default() })
    }
}

impl Load for Status {
    fn flow(&self) -> &'static str {
        "status"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("TOPIC", self.topic.clone())]
    }

    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent> {
        let drawn = self.numbers.draw(random, is_aborted);
        let word = if is_aborted { "ABORTED" } else { "SUCCESS" };
        vec![Sent::plain(drawn.partition, update(drawn.partition, drawn.number.into(), word))]
    }

    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error> {
        Ok((count(client, "SELECT count(*) FROM processed_seed_status")?, self.numbers.count()))
    }

    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        let sql = "SELECT seed_id, sub_scenario_id FROM processed_seed_status ORDER BY 1, 2";
        let found: Vec<(i32, i32)> = client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(difference(&found, &self.numbers.all()))
    }
}
