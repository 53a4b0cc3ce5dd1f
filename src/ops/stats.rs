//! A line of figures for each flow that did something, for those who read logs: `docker logs | grep Stats:`.

use std::sync::Arc;
use std::time::Duration;

use crate::track::Track;

/// One flow, and what had been done when its last line was written.
pub struct Stats {
    track: Arc<Track>,
    at: Duration,
    processed: u64,
}

impl Stats {
    pub fn new(track: Arc<Track>, now: Duration) -> Self {
        Stats { track, at: now, processed: 0 }
    }

    /// None where nothing was done since.
    pub fn line(&mut self, now: Duration) -> Option<String> {
        let (written, set_aside) = (self.track.written.get(), self.track.set_aside.get());
        let processed = written + set_aside;
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        let before = std::mem::replace(&mut self.processed, processed);
        self.at = now;
        if processed == before || seconds <= 0.0 {
            return None;
        }
        let is_rejection = |(outcome, _): &(&str, u64)| outcome.starts_with("rejected");
        let rejected: u64 = self.track.outcomes().into_iter().filter(is_rejection).map(|(_, count)| count).sum();
        let failed = set_aside + rejected.min(written);
        let (success, rate) = (processed - failed, (processed - before) as f64 / seconds);
        let percent = success as f64 * 100.0 / processed as f64;
        Some(format!(
            "Stats: Processed={processed}, Success={success}, Failed={failed}, Throughput={rate:.0} msg/sec, \
             Success Rate={percent:.2}%"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_all_but_its_rate_and_idle_flows_say_nothing() {
        let track = Track::new("orders");
        let mut stats = Stats::new(track.clone(), Duration::ZERO);
        assert_eq!(stats.line(Duration::from_secs(10)), None);
        track.written.add(14_990);
        track.set_aside.add(10);
        track.count("rejected_insufficient_stock", 40);
        track.count("reserved", 14_950);
        let line = "Stats: Processed=15000, Success=14950, Failed=50, Throughput=1500 msg/sec, \
                    Success Rate=99.67%";
        assert_eq!(stats.line(Duration::from_secs(20)).as_deref(), Some(line));
        assert_eq!(stats.line(Duration::from_secs(30)), None);
    }
}
