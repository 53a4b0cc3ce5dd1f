//! Progress of a flow since a baseline: the counters of its `Track` less what they were at the last reset, the
//! rate over the last second, and the average since the first record. All of it is told the time; nothing in
//! here asks a clock, and nothing in here changes a counter: those only grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::track::{PartitionState, PartitionTrack, Track};

/// The rate "now" is taken over at least this much time, or it would show batches instead of a rate.
const WINDOW: Duration = Duration::from_secs(1);
/// Samples nearer than this are not kept, so that a storm of requests cannot grow the ring.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// The counters that a reset sets back. Read one by one while others add to them: each is right, their
/// differences are right once the flow is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub produced: u64,
    pub publish_failed: u64,
    pub consumed: u64,
    pub written: u64,
    pub set_aside: u64,
    pub retried: u64,
    pub fenced: u64,
}

impl Counts {
    pub fn of(track: &Track) -> Self {
        Counts {
            produced: track.produced.get(),
            publish_failed: track.publish_failed.get(),
            consumed: track.consumed.get(),
            written: track.written.get(),
            set_aside: track.set_aside.get(),
            retried: track.retried.get(),
            fenced: track.fenced.get(),
        }
    }

    fn since(&self, base: &Counts) -> Counts {
        Counts {
            produced: self.produced.saturating_sub(base.produced),
            publish_failed: self.publish_failed.saturating_sub(base.publish_failed),
            consumed: self.consumed.saturating_sub(base.consumed),
            written: self.written.saturating_sub(base.written),
            set_aside: self.set_aside.saturating_sub(base.set_aside),
            retried: self.retried.saturating_sub(base.retried),
            fenced: self.fenced.saturating_sub(base.fenced),
        }
    }

    /// What a record moves on its way. Retries move nothing.
    fn moving(&self) -> [u64; 4] {
        [self.produced, self.consumed, self.written, self.set_aside]
    }
}

/// The memory of one flow's progress.
#[derive(Debug)]
pub struct Progress {
    base: Counts,
    base_at: SystemTime,
    /// The newest look at the counters, whether it was kept as a sample or not.
    seen: (Instant, Counts),
    /// In order of time; the first is the newest one that is at least `WINDOW` old, if there is one.
    samples: VecDeque<(Instant, Counts)>,
    /// From the last moment before the first movement to the newest one.
    active: Option<(Instant, Instant)>,
}

/// What `Progress` knows at one moment.
#[derive(Debug, PartialEq)]
pub struct Reading {
    pub counts: Counts,
    pub rate_now: f64,
    pub rate_average: f64,
    pub elapsed: Duration,
}

impl Progress {
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        let zero = Counts::default();
        Progress { base: zero, base_at: wall, seen: (now, zero), samples: VecDeque::from([(now, zero)]), active: None }
    }

    pub fn observe(&mut self, now: Instant, counts: Counts) {
        if counts.moving() != self.seen.1.moving() {
            self.active.get_or_insert((self.seen.0, now)).1 = now;
        }
        self.seen = (now, counts);
        if self.samples.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE_EVERY) {
            self.samples.push_back((now, counts));
        }
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Counts from here on; answers with what was counted until here.
    pub fn reset(&mut self, now: Instant, wall: SystemTime, counts: Counts) -> Counts {
        let until_now = counts.since(&self.base);
        *self = Progress {
            base: counts,
            base_at: wall,
            seen: (now, counts),
            samples: VecDeque::from([(now, counts)]),
            active: None,
        };
        until_now
    }

    /// `idle`: there is nothing left to do, so that the time stands still at the last record.
    pub fn read(&mut self, now: Instant, counts: Counts, idle: bool) -> Reading {
        self.observe(now, counts);
        let since_base = counts.since(&self.base);
        let (window, before) = match self.samples.front() {
            Some((at, before)) => (now.saturating_duration_since(*at).max(WINDOW), before.written),
            None => (WINDOW, counts.written),
        };
        let elapsed = match self.active {
            Some((from, to)) => (if idle { to } else { now }).saturating_duration_since(from),
            None => Duration::ZERO,
        };
        Reading {
            counts: since_base,
            rate_now: counts.written.saturating_sub(before) as f64 / window.as_secs_f64(),
            rate_average: if elapsed.is_zero() { 0.0 } else { since_base.written as f64 / elapsed.as_secs_f64() },
            elapsed,
        }
    }

    /// Whether everything that was produced since the baseline is in the table or among the letters.
    fn caught_up(&self, counts: &Counts) -> bool {
        let counts = counts.since(&self.base);
        counts.written + counts.set_aside >= counts.produced
    }
}

/// One flow, as `/tracking-status` shows it.
#[derive(Debug, Serialize)]
pub struct FlowStatus {
    /// All that was produced through this process is written or set aside, and nothing is left to read.
    pub complete: bool,
    #[serde(flatten)]
    pub counts: Counts,
    /// Records between the ledger and the end of the partitions; null while one of the two is unknown.
    pub lag: Option<i64>,
    /// Keys that one of their records stops, and the records that are parked behind those, over all instances, when they were
    /// last counted. The ledger is past them, so they are in no lag.
    pub held_keys: i64,
    pub parked_records: i64,
    pub rate_per_second: Rate,
    pub elapsed_seconds: f64,
    pub last_error: Option<LastError>,
    pub partitions: Vec<PartitionStatus>,
}

/// Records written a second.
#[derive(Debug, Serialize)]
pub struct Rate {
    pub now: f64,
    pub average: f64,
}

#[derive(Debug, Serialize)]
pub struct LastError {
    pub time: String,
    pub code: String,
    pub text: String,
}

#[derive(Debug, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub next_offset: Option<i64>,
    pub end_offset: Option<i64>,
    pub lag: Option<i64>,
    pub ahead: i64,
}

/// The offsets of a partition as far as they are known: the ledger's, and the end.
pub(super) fn offsets(partition: &PartitionTrack) -> (Option<i64>, Option<i64>) {
    // Until the ledger has answered, the zero in the track is no offset.
    let claimed = partition.state() != PartitionState::Claiming;
    (claimed.then(|| partition.next_offset.get()), Some(partition.end_offset.get()).filter(|end| *end >= 0))
}

/// The lag of a partition, if both of its ends are known.
pub(super) fn lag(partition: &PartitionTrack) -> Option<i64> {
    match offsets(partition) {
        (Some(_), Some(_)) => Some(partition.lag()),
        _ => None,
    }
}

pub fn flow_status(track: &Track, progress: &mut Progress, now: Instant) -> FlowStatus {
    let partitions: Vec<PartitionStatus> = track
        .partitions()
        .into_iter()
        .map(|(name, partition)| {
            let (next_offset, end_offset) = offsets(&partition);
            let (state, reason) = match partition.state() {
                PartitionState::Claiming => ("claiming", None),
                PartitionState::Running => ("running", None),
                PartitionState::Halted(cause) => ("halted", Some(cause.to_string())),
            };
            PartitionStatus {
                topic: name.topic.to_string(),
                partition: name.id,
                state,
                reason,
                next_offset,
                end_offset,
                lag: lag(&partition),
                ahead: partition.ahead.get(),
            }
        })
        .collect();
    let lag = if track.is_joined() { partitions.iter().map(|partition| partition.lag).sum() } else { None };
    let counts = Counts::of(track);
    // The end offsets are a moment old: lag alone would call a flow complete right after something was produced.
    let complete = lag == Some(0) && progress.caught_up(&counts);
    let reading = progress.read(now, counts, complete);
    FlowStatus {
        complete,
        counts: reading.counts,
        lag,
        held_keys: track.held_keys.get(),
        parked_records: track.parked_records.get(),
        rate_per_second: Rate { now: tenths(reading.rate_now), average: tenths(reading.rate_average) },
        elapsed_seconds: (reading.elapsed.as_secs_f64() * 1e3).round() / 1e3,
        last_error: track.last_error().filter(|(at, _)| *at >= progress.base_at).map(|(at, cause)| LastError {
            time: super::rfc3339(at),
            code: cause.code.into_owned(),
            text: cause.text,
        }),
        partitions,
    }
}

/// More digits of a rate than this are noise.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cause;
    use crate::record::Partition;

    const TICK: Duration = Duration::from_millis(100);

    fn written(n: u64) -> Counts {
        Counts { consumed: n, written: n, ..Counts::default() }
    }

    fn start() -> (Progress, Instant) {
        let now = Instant::now();
        (Progress::new(now, SystemTime::now()), now)
    }

    #[test]
    fn nothing_has_no_rate_and_no_time() {
        let (mut progress, now) = start();
        let reading = progress.read(now + WINDOW * 9, Counts::default(), true);
        assert_eq!(
            reading,
            Reading { counts: Counts::default(), rate_now: 0.0, rate_average: 0.0, elapsed: Duration::ZERO }
        );
    }

    #[test]
    fn rate_now_forgets_what_is_older_than_the_window() {
        let (mut progress, now) = start();
        // Ten seconds at 1,000 a second, then a standstill.
        for tick in 0..100u32 {
            progress.observe(now + TICK * tick, written(u64::from(tick) * 100));
        }
        assert_eq!(progress.read(now + TICK * 100, written(10_000), false).rate_now, 1000.0);
        for tick in 101..=111u32 {
            progress.observe(now + TICK * tick, written(10_000));
        }
        let later = progress.read(now + TICK * 112, written(10_000), false);
        assert_eq!(later.rate_now, 0.0);
        assert!((later.rate_average - 10_000.0 / 11.2).abs() < 0.01, "{later:?}");
    }

    #[test]
    fn a_short_history_never_overstates_the_rate() {
        let (mut progress, now) = start();
        let reading = progress.read(now + Duration::from_millis(1), written(500), false);
        assert_eq!(reading.rate_now, 500.0);
    }

    #[test]
    fn the_average_starts_with_the_first_record_and_stands_still_when_idle() {
        let (mut progress, now) = start();
        progress.observe(now + WINDOW * 60, Counts::default());
        progress.observe(now + WINDOW * 61, written(500));
        progress.observe(now + WINDOW * 62, written(3000));
        let idle = progress.read(now + WINDOW * 600, written(3000), true);
        assert_eq!(idle.elapsed, WINDOW * 2);
        assert_eq!(idle.rate_average, 1500.0);
        let busy = progress.read(now + WINDOW * 660, written(3000), false);
        assert_eq!(busy.elapsed, WINDOW * 600);
    }

    #[test]
    fn retries_are_no_movement() {
        let (mut progress, now) = start();
        progress.observe(now + WINDOW, Counts { retried: 7, ..Counts::default() });
        assert_eq!(
            progress.read(now + WINDOW * 2, Counts { retried: 7, ..Counts::default() }, false).elapsed,
            Duration::ZERO
        );
    }

    #[test]
    fn reset_answers_with_the_past_and_counts_from_zero() {
        let (mut progress, now) = start();
        progress.observe(now + WINDOW, written(1000));
        assert_eq!(progress.reset(now + WINDOW * 2, SystemTime::now(), written(1500)), written(1500));
        let reading = progress.read(now + WINDOW * 3, written(1500), true);
        assert_eq!((reading.counts, reading.rate_now, reading.elapsed), (Counts::default(), 0.0, Duration::ZERO));
        let reading = progress.read(now + WINDOW * 4, written(1700), false);
        assert_eq!((reading.counts, reading.rate_now), (written(200), 200.0));
        assert_eq!(progress.reset(now + WINDOW * 5, SystemTime::now(), written(1700)), written(200));
    }

    #[test]
    fn a_storm_of_looks_keeps_the_ring_small() {
        let (mut progress, now) = start();
        for micros in 0..100_000u64 {
            progress.observe(now + Duration::from_micros(micros * 50), written(micros));
        }
        assert!(progress.samples.len() <= 13, "{}", progress.samples.len());
        // 20,000 looks a second, one record each.
        let rate = progress.read(now + Duration::from_secs(5), written(100_000), false).rate_now;
        assert!((rate - 20_000.0).abs() < 100.0, "{rate}");
    }

    #[test]
    fn complete_needs_the_group_the_offsets_and_every_produced_record() {
        let track = Track::new("status");
        let (mut progress, now) = start();
        let mut complete = || flow_status(&track, &mut progress, now).complete;
        assert!(!complete(), "the group has not answered");
        let partition = track.add_partition(&Partition::new("topic", 0));
        assert!(!complete(), "the ledger has not answered");
        partition.set_state(PartitionState::Running);
        assert!(!complete(), "the end is unknown");
        partition.end_offset.set(0);
        assert!(complete());
        track.produced.add(3);
        assert!(!complete(), "produced, and the end offset does not know yet");
        partition.end_offset.set(3);
        track.consumed.add(3);
        track.written.add(2);
        partition.next_offset.set(2);
        assert!(!complete());
        track.set_aside.add(1);
        partition.next_offset.set(3);
        assert!(complete());
    }

    #[test]
    fn an_error_before_the_baseline_is_not_shown() {
        let track = Track::new("status");
        let (mut progress, now) = start();
        track.failed(&Cause::new("53300", "too many connections"));
        assert_eq!(flow_status(&track, &mut progress, now).last_error.unwrap().code, "53300");
        progress.reset(now, SystemTime::now() + WINDOW, Counts::of(&track));
        assert!(flow_status(&track, &mut progress, now).last_error.is_none());
    }
}
