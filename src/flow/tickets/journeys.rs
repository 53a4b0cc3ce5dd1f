//! Made-up tickets: orders that live side by side, each through one of some courses of five steps, in their true sequence.

use std::time::UNIX_EPOCH;

use uuid::Uuid;

use super::ticket::Ticket;
use crate::flow::Sample;
use crate::flow::field::Amount;

const STEPS: u64 = 5;
const COURSES: [[&str; STEPS as usize]; 3] = [
    ["created", "paid", "issued", "checked_in", "used"],
    ["created", "paid", "issued", "cancelled", "refunded"],
    ["created", "reserved", "paid", "issued", "expired"],
];

pub struct Journeys {
    /// Orders of two runs are not the same ones.
    run: String,
    alive: u64,
}

impl Journeys {
    /// `alive`: how many orders are under way at once.
    pub fn new(alive: u64) -> Self {
        // The lower half is random.
        Journeys { run: format!("{:016x}", Uuid::now_v7().as_u128() as u64), alive: alive.max(1) }
    }

    /// The order of a record, and its step in it, from 0 on. The orders that are alive take turns.
    fn place(&self, number: u64) -> (u64, u64) {
        let (round, turn) = (number / self.alive, number % self.alive);
        (round / STEPS * self.alive + turn, round % STEPS)
    }

    fn order_id(&self, order: u64) -> String {
        format!("{}-{order}", self.run)
    }
}

impl Sample for Journeys {
    fn key(&self, number: u64) -> Option<String> {
        Some(self.order_id(self.place(number).0))
    }

    fn payload(&self, number: u64, out: &mut Vec<u8>) {
        let (order, step) = self.place(number);
        let cents = 1_000 + (order % 500) as i64 * 50;
        let ticket = Ticket {
            ticket_id: Uuid::now_v7(),
            order_id: self.order_id(order).into(),
            sequence: step as i64 + 1,
            status: COURSES[(order % COURSES.len() as u64) as usize][step as usize].into(),
            customer_id: format!("CUST{:03}", order % 1000).into(),
            price: Amount::from_cents(cents).expect("an amount"),
            changed_at_ms: UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64,
        };
        ticket.write(out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_order_goes_through_its_course_in_its_sequence_and_no_more_are_alive_than_may_be() {
        for alive in [1, 7, 100] {
            let journeys = Journeys::new(alive);
            let mut orders: HashMap<String, i64> = HashMap::new();
            for number in 0..2_000 {
                let mut json = Vec::new();
                journeys.payload(number, &mut json);
                let ticket = Ticket::read(&json).unwrap();
                assert_eq!(journeys.key(number).as_deref(), Some(&*ticket.order_id));
                let former = orders.insert(ticket.order_id.to_string(), ticket.sequence).unwrap_or(0);
                assert_eq!(ticket.sequence, former + 1);
                let under_way = orders.values().filter(|sequence| **sequence < STEPS as i64).count();
                assert!(under_way <= alive as usize, "{under_way}");
            }
            let other = Journeys::new(alive);
            assert_ne!(other.key(0), journeys.key(0), "another run has other orders");
        }
    }
}
