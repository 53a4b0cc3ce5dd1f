//! One round, as its seed says.

use crate::support::random::Random;

#[derive(Debug)]
pub struct Round {
    pub point: &'static str,
    pub action: &'static str,
    pub count: u64,
    /// Instances that work from the start, beside the one that is hit.
    pub others: u64,
    /// Whoever takes over is in the same group, and waits for the session of its former member, or in another
    /// one: then two groups believe that they own the topic.
    pub same_group: bool,
    pub records: u64,
    /// At the end, an order to stop in place of SIGKILL.
    pub drained: bool,
}

impl Round {
    pub fn draw(random: &mut Random, point: &'static str) -> Round {
        let mut action = ["kill", "kill", "stop", "lose"][random.below(4) as usize];
        if action == "lose" && !["committed", "before_commit", "in_copy", "in_claim"].contains(&point) {
            action = "kill";
        }
        let often = ["fetched", "in_copy", "before_commit", "committed"].contains(&point);
        Round {
            point,
            action,
            count: if often { 1 + random.below(4) } else { 1 },
            others: if point == "revoked" { 1 } else { random.below(3) },
            same_group: point == "revoked" || random.chance(25),
            records: 200 + random.below(600),
            drained: random.chance(30),
        }
    }
}
