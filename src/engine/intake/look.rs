//! Intake's rounds: every few seconds it asks both sides how things stand, and repairs what went wrong without an
//! error: a partition that stalls, a topic that was made again, a ledger that went back in time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Claim, Sink, Source};
use super::{FENCED_PAUSE, Intake};
use crate::record::Partition;
use crate::track::Side;

impl<K: Source, S: Sink> Intake<K, S> {
    /// Asks both sides how things stand, which also tells whether they are there while nothing flows.
    pub(super) fn look_around(&mut self) {
        let now = self.clock.now();
        if now < self.look_at {
            return;
        }
        self.look_at = now + self.policy.look_every;
        let is_answered = self.look_at_ends();
        if is_answered {
            self.look_at_topics();
            self.look_for_stalls();
        }
        self.look_at_client(is_answered);
        self.look_at_ledger();
    }

    /// A client can lose all of its brokers at once and never look for one again (librdkafka#5301). Where the group has
    /// given us nothing for long, and the broker does not answer all the while, another client is tried.
    fn look_at_client(&mut self, is_answered: bool) {
        let now = self.clock.now();
        self.unanswered = if is_answered { None } else { self.unanswered.or(Some(now)) };
        let (Some(without), Some(unanswered)) = (self.without_share, self.unanswered) else { return };
        if now.saturating_sub(without.max(unanswered)) < self.policy.stall_after * 2 {
            return;
        }
        self.unanswered = Some(now);
        match self.source.renew() {
            Ok(()) => {
                log::error!(flow = self.track.flow.as_str(); "the client had lost its way to the brokers; another one has taken its place");
                self.unanswered = None;
            }
            Err(fault) => self.track.troubled(Side::Source, fault.cause()),
        }
    }

    /// Whether the broker answered.
    fn look_at_ends(&mut self) -> bool {
        let places = self.track.partitions();
        let partitions: Vec<Partition> = places.iter().map(|(partition, _)| partition.clone()).collect();
        match self.source.ends(&partitions) {
            Ok(ends) => {
                places.iter().zip(ends).for_each(|((_, place), end)| place.end_offset.set(end));
                if self.claim_failed != Some(Side::Source) {
                    self.track.recovered(Side::Source);
                }
                true
            }
            Err(fault) => {
                self.track.troubled(Side::Source, fault.cause());
                // A broker that does not answer is cause enough for silence.
                self.running.values_mut().for_each(|running| running.behind = None);
                false
            }
        }
    }

    /// A topic that was made again under its name has other records under the same offsets: claiming its partitions
    /// once more says so, and halts them.
    fn look_at_topics(&mut self) {
        let topics: BTreeSet<Arc<str>> = self.running.keys().map(|partition| partition.topic.clone()).collect();
        for topic in topics {
            if self.is_another_topic(&topic) {
                log::error!(flow = self.track.flow.as_str(), topic = &*topic; "the topic is not the one that was claimed");
                let its = |partition: &&Partition| partition.topic == topic;
                let partitions: Vec<Partition> = self.running.keys().filter(its).cloned().collect();
                self.claim_again(partitions, Duration::ZERO);
            }
        }
    }

    /// The client can lose a partition's wake-up, or stop fetching it, and say nothing. A partition that asks,
    /// is behind its end, and hears nothing for long, is opened again at the ledger's offset.
    fn look_for_stalls(&mut self) {
        let now = self.clock.now();
        let mut stalled = Vec::new();
        for (partition, running) in &mut self.running {
            let read = running.place.read_offset.get();
            let is_behind = running.place.asking.get() == 1 && read < running.place.end_offset.get();
            running.behind = match running.behind {
                Some((at, since)) if is_behind && at == read => Some((at, since)),
                _ => is_behind.then_some((read, now)),
            };
            if running.behind.is_some_and(|(_, since)| now.saturating_sub(since) >= self.policy.stall_after) {
                stalled.push(partition.clone());
            }
        }
        for partition in &stalled {
            let (flow, Partition { topic, id }) = (self.track.flow.as_str(), partition);
            log::error!(flow, topic = &**topic, partition = id; "gives nothing and is behind its end; it is opened again");
            self.track.stalls_repaired.add(1);
        }
        self.claim_again(stalled, Duration::ZERO);
    }

    /// A partition that the ledger no longer knows as ours, or not as far, is claimed and read again.
    fn look_at_ledger(&mut self) {
        let claims: Vec<(Arc<Claim>, i64)> =
            self.running.values().map(|running| (running.claim.clone(), running.place.next_offset.get())).collect();
        let asked = claims.clone();
        let held = match self.ask(move |sink| sink.holds(&asked)) {
            Ok(held) => held,
            Err(fault) => return self.track.troubled(Side::Sink, fault.cause()),
        };
        // While a writer is at work, it is the one to say whether writing succeeds.
        if self.track.active_writers.get() == 0 && self.claim_failed != Some(Side::Sink) {
            self.track.recovered(Side::Sink);
        }
        let lost = claims.iter().zip(held).filter(|(_, held)| !held).map(|((claim, _), _)| claim.partition.clone());
        let lost: Vec<Partition> = lost.collect();
        for partition in &lost {
            let (flow, Partition { topic, id }) = (self.track.flow.as_str(), partition);
            log::warn!(flow, topic = &**topic, partition = id; "the ledger stands elsewhere; it is claimed again");
        }
        self.claim_again(lost, FENCED_PAUSE);
    }
}
