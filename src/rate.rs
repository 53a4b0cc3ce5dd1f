//! So many a second, and no more: a token bucket whose tokens are moments. Who asks is told how long to wait; waiting is
//! for whoever asked.

use std::time::Duration;

/// What a wait may be late by, and still be made up for.
const BURST: Duration = Duration::from_millis(10);
pub const PER_S_MIN: f64 = 0.1;
pub const PER_S_MAX: f64 = 100_000.0;

/// No more than `per_s` in any second, and what is due in a burst on top, which is one at the least.
pub struct Rate {
    interval: Duration,
    burst: Duration,
    /// When the next one is due; it may come earlier by the burst.
    due: Duration,
}

impl Rate {
    /// With a burst of 10 ms.
    pub fn new(per_s: f64) -> Rate {
        Rate::with_burst(per_s.clamp(PER_S_MIN, PER_S_MAX), BURST)
    }

    /// Who is late by less than the burst makes up for it.
    pub fn with_burst(per_s: f64, burst: Duration) -> Rate {
        Rate { interval: Duration::from_secs_f64(1.0 / per_s), burst, due: Duration::ZERO }
    }

    /// Takes the next token at `now`, on any clock that does not go back: how long to wait before it is good.
    pub fn next(&mut self, now: Duration) -> Duration {
        // Who comes late has lost what is older than the burst: it is never made up for at once.
        let due = self.due.max(now.saturating_sub(self.burst));
        self.due = due + self.interval;
        due.saturating_sub(now)
    }

    /// Takes the next token if it is good at `now`; or says when it will be, and takes nothing.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let due = self.due.max(now.saturating_sub(self.burst));
        match due > now {
            true => Err(due),
            false => {
                self.due = due + self.interval;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Over 10 seconds it is the rate within 2%, but for the one that may be there at each end.
        #[test]
        fn ten_seconds_have_their_count(
            per_s in prop_oneof![PER_S_MIN..10.0, 10.0..1_000.0, 1_000.0..PER_S_MAX],
            late_us in proptest::collection::vec(0u64..9_000, 1..50),
        ) {
            let (mut rate, mut now, mut count) = (Rate::new(per_s), Duration::from_secs(1), 0u64);
            let end = now + Duration::from_secs(10);
            loop {
                let wait = rate.next(now);
                if !wait.is_zero() {
                    now += wait + Duration::from_micros(late_us[count as usize % late_us.len()]);
                }
                if now >= end {
                    break;
                }
                count += 1;
            }
            let (count, due) = (count as f64, per_s * 10.0);
            prop_assert!((count - due).abs() <= due * 0.02 + 1.0, "{count} in 10 s at {per_s}/s");
        }

        /// Who takes what is good and comes again when it is told to gets as many as who waits for each.
        #[test]
        fn what_is_taken_when_it_is_good_keeps_the_rate(per_s in 1.0f64..100_000.0, burst_ms in 1u64..200) {
            let burst = Duration::from_millis(burst_ms);
            let (mut rate, mut now, mut count) = (Rate::with_burst(per_s, burst), Duration::from_secs(1), 0u64);
            let end = now + Duration::from_secs(2);
            while now < end {
                match rate.take(now) {
                    Ok(()) => count += 1,
                    Err(at) => {
                        prop_assert!(at > now);
                        now = at;
                    }
                }
            }
            // An interval is whole nanoseconds.
                let most = (Duration::from_secs(2) + burst).as_secs_f64() * per_s * 1.0001 + 2.0;
            let least = 2.0 * per_s * 0.98 - 1.0;
            prop_assert!((least..=most).contains(&(count as f64)), "{count} in 2 s at {per_s}/s");
        }

        /// However late each wait ends, and however long nobody asks.
        #[test]
        fn it_is_held_and_never_exceeded_by_more_than_the_burst(
            per_s in PER_S_MIN..PER_S_MAX,
            late_us in proptest::collection::vec(0u64..9_000, 1..50),
            stall_ms in 0u64..5_000,
        ) {
            let (mut rate, mut now, mut sent) = (Rate::new(per_s), Duration::from_secs(1), Vec::new());
            let count = ((per_s * 10.0) as usize).clamp(2, 20_000);
            for number in 0..count {
                if number == count / 2 {
                    now += Duration::from_millis(stall_ms);
                }
                let wait = rate.next(now);
                if !wait.is_zero() {
                    now += wait + Duration::from_micros(late_us[number % late_us.len()]);
                }
                sent.push(now);
            }
            // Never above: between any two, no more than their distance has room for, and the burst.
            let room = |from: Duration, to: Duration| ((to - from + BURST).as_secs_f64() * per_s) as usize + 2;
            for (first, &from) in sent.iter().enumerate().step_by(97) {
                for (last, &to) in sent.iter().enumerate().skip(first).step_by(89) {
                    prop_assert!(last - first < room(from, to), "{} in {:?} at {per_s}/s", last - first, to - from);
                }
            }
            // Held: what is late by less than the burst is made up for.
            let took = (sent[count - 1] - sent[0]).as_secs_f64() - stall_ms as f64 / 1e3;
            prop_assert!(took <= (count as f64 / per_s) + 2.0 * BURST.as_secs_f64(), "{took} s for {count} at {per_s}/s");
        }
    }
}
