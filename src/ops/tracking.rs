//! Progress of each flow since the last reset: counts, rates, lag. The tracks only grow; a reset remembers
//! where they stood.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::track::{PartitionState, Track};

/// The rate of now is taken over at least this long.
const WINDOW: Duration = Duration::from_secs(2);
const SAMPLES_MAX: usize = 8;

/// Counters of a track at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    produced: u64,
    publish_failed: u64,
    consumed: u64,
    written: u64,
    set_aside: u64,
    retried: u64,
    fenced: u64,
}

impl Counts {
    fn of(track: &Track) -> Self {
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

    fn since(self, base: Counts) -> Self {
        Counts {
            produced: self.produced - base.produced,
            publish_failed: self.publish_failed - base.publish_failed,
            consumed: self.consumed - base.consumed,
            written: self.written - base.written,
            set_aside: self.set_aside - base.set_aside,
            retried: self.retried - base.retried,
            fenced: self.fenced - base.fenced,
        }
    }
}

/// One flow between two resets.
struct Progress {
    base: Counts,
    since: Instant,
    /// When the first and the last row since the reset were seen.
    first: Option<Instant>,
    last: Option<(Instant, u64)>,
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    fn new(base: Counts, now: Instant) -> Self {
        Progress { base, since: now, first: None, last: None, samples: VecDeque::new() }
    }

    /// Notes how far the flow is. Called at least once a second.
    fn sample(&mut self, now: Instant, written: u64) {
        let before = self.last.map_or(0, |(_, written)| written);
        if written > before {
            self.first.get_or_insert_with(|| self.samples.back().map_or(self.since, |(at, _)| *at));
            self.last = Some((now, written));
        }
        self.samples.push_back((now, written));
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    fn rate_now(&self, now: Instant, written: u64) -> f64 {
        let before = self.samples.iter().rev().find(|(at, _)| now.duration_since(*at) >= WINDOW);
        let Some((at, then)) = before.or(self.samples.front()) else { return 0.0 };
        let seconds = now.duration_since(*at).as_secs_f64();
        if seconds > 0.0 { written.saturating_sub(*then) as f64 / seconds } else { 0.0 }
    }

    /// Rows a second from the first row to the last one so far.
    fn rate_average(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some((last, written))) => {
                written as f64 / last.duration_since(first).as_secs_f64().max(0.001)
            }
            _ => 0.0,
        }
    }
}

pub struct Tracking {
    flows: Vec<(Arc<Track>, Mutex<Progress>)>,
}

impl Tracking {
    pub fn new(tracks: &[Arc<Track>], now: Instant) -> Self {
        let progress = |track: &Arc<Track>| Mutex::new(Progress::new(Counts::of(track), now));
        Tracking { flows: tracks.iter().map(|track| (track.clone(), progress(track))).collect() }
    }

    pub fn sample(&self, now: Instant) {
        for (track, progress) in &self.flows {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            let written = Counts::of(track).since(progress.base).written;
            progress.sample(now, written);
        }
    }

    /// Counts from here on. What was counted so far stays in the metrics.
    pub fn reset(&self, now: Instant) {
        for (track, progress) in &self.flows {
            *progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress::new(Counts::of(track), now);
        }
    }

    pub fn status(&self, now: Instant) -> Value {
        let flows: serde_json::Map<String, Value> =
            self.flows.iter().map(|(track, progress)| (track.flow.clone(), flow(track, progress, now))).collect();
        json!({ "flows": flows })
    }
}

fn flow(track: &Track, progress: &Mutex<Progress>, now: Instant) -> Value {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = Counts::of(track).since(progress.base);
    progress.sample(now, counts.written);
    let partitions = track.partitions();
    let halted = partitions.iter().filter(|(_, at)| matches!(at.state(), PartitionState::Halted(_))).count();
    let lag = track.lag();
    let last_error =
        track.last_error().map(|(at, cause)| json!({ "time": rfc3339(at), "code": cause.code, "text": cause.text }));
    json!({
        "produced": counts.produced,
        "publish_failed": counts.publish_failed,
        "consumed": counts.consumed,
        "written": counts.written,
        "set_aside": counts.set_aside,
        "retried": counts.retried,
        "fenced": counts.fenced,
        "lag": lag,
        "complete": lag == 0 && halted == 0 && counts.written + counts.set_aside >= counts.produced,
        "rate_per_second": progress.rate_now(now, counts.written).round(),
        "average_per_second": progress.rate_average().round(),
        "elapsed_seconds": (now.duration_since(progress.since).as_secs_f64() * 1000.0).round() / 1000.0,
        "last_error": last_error,
        "partitions": partitions.iter().map(|(partition, at)| {
            let (state, reason) = match at.state() {
                PartitionState::Claiming => ("claiming", None),
                PartitionState::Running => ("running", None),
                PartitionState::Halted(cause) => ("halted", Some(cause.to_string())),
            };
            json!({
                "topic": &*partition.topic,
                "partition": partition.id,
                "state": state,
                "reason": reason,
                "next_offset": at.next_offset.get(),
                "end_offset": match at.end_offset.get() { -1 => None, end => Some(end) },
                "lag": at.lag(),
                "ahead": at.ahead.get(),
            })
        }).collect::<Vec<Value>>(),
    })
}

/// Seconds since 1970 as a date, by the rules of the Gregorian calendar.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in cycles of 400 years, so that the leap day ends the year.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + 400 * cycle + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_hides_what_was_counted_and_the_track_keeps_it() {
        let (track, start) = (Track::new("status"), Instant::now());
        let tracking = Tracking::new(std::slice::from_ref(&track), start);
        track.written.add(500);
        let written = |at| tracking.status(at)["flows"]["status"]["written"].clone();
        assert_eq!(written(start + Duration::from_secs(1)), 500);
        tracking.reset(start + Duration::from_secs(2));
        track.written.add(3);
        assert_eq!((written(start + Duration::from_secs(3)), track.written.get()), (json!(3), 503));
    }

    #[test]
    fn the_rate_of_now_forgets_and_the_average_does_not() {
        let (track, start) = (Track::new("status"), Instant::now());
        let tracking = Tracking::new(std::slice::from_ref(&track), start);
        let at = |second| start + Duration::from_secs(second);
        tracking.sample(at(0));
        for second in 1..=4 {
            track.written.add(1000);
            tracking.sample(at(second));
        }
        let status = tracking.status(at(4));
        assert_eq!(status["flows"]["status"]["rate_per_second"], 1000.0);
        for second in 5..=10 {
            tracking.sample(at(second));
        }
        let status = tracking.status(at(10));
        assert_eq!(status["flows"]["status"]["rate_per_second"], 0.0);
        assert_eq!(status["flows"]["status"]["average_per_second"], 1000.0, "until the last row, not until now");
    }

    #[test]
    fn times_are_dates() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_798_761_600), "2027-01-01T00:00:00Z");
    }
}
