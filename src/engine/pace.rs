//! So many records a second and no more, over all partitions of a flow in this process. Who asks is told when to ask again;
//! nobody waits in here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::rate::Rate;

/// What may be made up for after a pause: partition threads wait for receipts now and then.
pub(super) const BURST: Duration = Duration::from_millis(100);

pub(super) struct Pace(Option<Mutex<Rate>>);

impl Pace {
    /// Without a rate nobody is ever told to wait.
    pub fn new(per_s: Option<u32>) -> Self {
        Pace(per_s.map(|per_s| Mutex::new(Rate::with_burst(f64::from(per_s), BURST))))
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the turn of one record; or says when the next one is due.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        match &self.0 {
            Some(rate) => rate.lock().unwrap_or_else(PoisonError::into_inner).take(now),
            None => Ok(()),
        }
    }
}
