//! So many records a second and no more, over all partitions of a flow in this process. Who asks is told when to ask again;
//! nobody waits in here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::rate::Rate;

/// What may be made up for after a pause: partition threads wait for receipts now and then.
const BURST: Duration = Duration::from_millis(100);
/// Who is told to wait does so for at least this long, and finds what has become due meanwhile: else all partitions would
/// wake for each single record, and all but one of them for nothing. With what is added it is a part of the burst, so that
/// the rate is kept.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// And for up to so much longer: those who wait for the same moment take turns at being the first.
const SPREAD: Duration = Duration::from_millis(10);

pub(super) struct Pace(Option<Mutex<Turns>>);

struct Turns {
    rate: Rate,
    random: u64,
}

impl Pace {
    /// Without a rate nobody is ever told to wait.
    pub fn new(per_s: Option<u32>) -> Self {
        let turns = |per_s| Turns { rate: Rate::with_burst(f64::from(per_s), BURST), random: 0 };
        Pace(per_s.map(turns).map(Mutex::new))
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the turn of one record; or says when to ask again.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        match &self.0 {
            Some(turns) => turns.lock().unwrap_or_else(PoisonError::into_inner).take(now),
            None => Ok(()),
        }
    }
}

impl Turns {
    fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.rate.take(now).map_err(|due| {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            due.max(now + WAIT_MIN) + SPREAD.mul_f64((self.random >> 40) as f64 / (1u64 << 24) as f64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: u32 = 10;

    /// Partitions that are full and ask whenever they were told to: how many records each has taken in `SECONDS`, and how
    /// often one woke.
    fn drain(per_s: u32, partitions: usize) -> (Vec<u64>, u64) {
        let (pace, begin) = (Pace::new(Some(per_s)), Duration::from_secs(1));
        let (mut next, mut taken, mut woken) = (vec![begin; partitions], vec![0; partitions], 0);
        loop {
            let (who, now) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at).expect("partitions");
            if now >= begin + Duration::from_secs(u64::from(SECONDS)) {
                return (taken, woken);
            }
            woken += 1;
            next[who] = loop {
                match pace.take(now) {
                    Ok(()) => taken[who] += 1,
                    Err(again) => break again,
                }
            };
        }
    }

    #[test]
    fn the_rate_is_kept_and_partitions_wake_no_more_often_than_it_takes() {
        for (per_s, partitions) in [(5_000, 20), (100_000, 64), (1_000, 1), (50, 20), (3, 2)] {
            let (taken, woken) = drain(per_s, partitions);
            let (all, due) = (taken.iter().sum::<u64>() as f64, f64::from(per_s * SECONDS));
            assert!(all >= due * 0.98 - 1.0, "{all} of {due} at {per_s}/s");
            // The burst comes once, and an interval is whole nanoseconds.
            assert!(
                all <= (due + f64::from(per_s) * BURST.as_secs_f64()) * 1.0001 + 1.0,
                "{all} of {due} at {per_s}/s"
            );
            let most = partitions as u64 * u64::from(SECONDS) * 100;
            assert!(woken <= most, "{woken} times for {all} records in {partitions} partitions");
            let share = all / partitions as f64;
            let fair = |count: &u64| share < 50.0 || (share / 2.0..share * 2.0).contains(&(*count as f64));
            assert!(taken.iter().all(fair), "{taken:?} at {per_s}/s");
        }
    }
}
