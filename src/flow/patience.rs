//! How long records wait that need what other partitions have not brought yet. Their partition is read again until then,
//! and others go on; whoever has waited in vain waits no more until a batch passes without such a record.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::apply::Refused;
use crate::engine::{Batch, Outcome, Rows};
use crate::fault::Cause;
use crate::record::Partition;

pub struct Patience {
    flow: &'static str,
    lasts: Duration,
    /// Since when partitions wait.
    waiting: Mutex<HashMap<Partition, Instant>>,
}

impl Patience {
    pub fn new(flow: &'static str, lasts: Duration) -> Patience {
        Patience { flow, lasts, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Partition, Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a batch with these records. `waits`: whether one may only be early.
    pub fn outcome(&self, partition: &Partition, refused: Refused, waits: impl Fn(&Cause) -> bool) -> Outcome {
        let (early, others): (Refused, Refused) = refused.into_iter().partition(|(_, cause)| waits(cause));
        // Others are set aside first, and what is early is looked at again without them.
        if self.lasts.is_zero() || early.is_empty() || !others.is_empty() {
            return Outcome::Refused(if others.is_empty() { early } else { others });
        }
        let mut waiting = self.waiting();
        let since = *waiting.entry(partition.clone()).or_insert_with(|| {
            let Partition { topic, id } = partition;
            let (offset, cause) = &early[0];
            log::info!(flow = self.flow, topic = &**topic, partition = id, offset; "waits for other partitions: {cause}");
            Instant::now()
        });
        match since.elapsed() < self.lasts {
            true => Outcome::Fenced,
            false => Outcome::Refused(early),
        }
    }

    /// Of batches that were written.
    pub fn note<R: Rows>(&self, batches: &[Batch<R>], outcomes: &[Outcome], waits: impl Fn(&Cause) -> bool) {
        let mut waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        for (batch, outcome) in batches.iter().zip(outcomes) {
            if *outcome == Outcome::Written && !batch.letters.iter().any(|letter| waits(&letter.reason)) {
                waiting.remove(batch.partition());
            }
        }
    }
}
