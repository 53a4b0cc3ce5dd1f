//! Traces, as W3C writes them: which trace a record belongs to is in its header `traceparent`, and what is published because
//! of it belongs to the same one. And the course that a batch took, for those who collect spans. Nothing here sends any.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use uuid::Uuid;

use crate::record::{Headers, Partition};
use crate::track::Track;

pub const HEADER: &str = "traceparent";
/// Records of a batch that are looked at for their trace, and traces that a batch is linked to: what is over is not told.
pub const LOOKS_MAX: usize = 64;
pub const LINKS_MAX: usize = 8;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: u128,
    pub span_id: u64,
    /// Whether somebody collects it.
    pub is_sampled: bool,
}

impl Trace {
    /// A trace that begins here. `seed`: what its span is known by.
    pub fn begin(seed: &str) -> Trace {
        Trace { trace_id: Uuid::now_v7().as_u128(), span_id: hashed(&seed), is_sampled: true }
    }

    /// From a header's value. None where it is none, or not a sound one.
    pub fn read(value: &[u8]) -> Option<Trace> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex =
            |part: &str, len| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_sound = is_hex(version, 2) && is_hex(trace_id, 32) && is_hex(span_id, 16) && is_hex(flags, 2);
        // Later versions may have more behind the flags; this one has not.
        if !is_sound || version == "ff" || version == "00" && parts.next().is_some() {
            return None;
        }
        let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
        Some(Trace { trace_id, span_id, is_sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }

    /// The trace that a record belongs to.
    pub fn of(headers: &dyn Headers) -> Option<Trace> {
        let mut found = None;
        headers.each(&mut |name, value| {
            if found.is_none() && name == HEADER {
                found = value.and_then(Trace::read);
            }
        });
        found
    }

    /// The same trace, one step on. A step of the same `seed` is the same: what is published twice has one span.
    pub fn next(self, seed: impl Hash) -> Trace {
        Trace { span_id: hashed(&(self.trace_id, self.span_id, seed)), ..self }
    }

    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

/// The same for the same, in this version of the program. Zero stands for no id.
fn hashed(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish().max(1)
}

/// The way of one batch that was written. Moments are milliseconds since 1970, with fractions.
#[derive(Clone)]
pub struct Course {
    pub track: Arc<Track>,
    pub partition: Partition,
    pub first: i64,
    pub next: i64,
    pub rows: usize,
    pub letters: usize,
    pub opened_ms: f64,
    pub closed_ms: f64,
    pub taken_ms: f64,
    pub began_ms: f64,
    pub done_ms: f64,
    /// Added up over the batch: its records came in several turns.
    pub polling: Duration,
    pub decoding: Duration,
    pub commit: Option<Duration>,
    /// Of its first records, those that somebody collects.
    pub links: Vec<Trace>,
}

impl Course {
    /// The trace of the batch itself, and one of its spans by name.
    pub fn span(&self, name: &str) -> Trace {
        let seed = (&*self.partition.topic, self.partition.id, self.first, self.done_ms.to_bits());
        let trace_id = u128::from(hashed(&seed)) << 64 | u128::from(hashed(&(seed, 1)));
        Trace { trace_id, span_id: hashed(&(seed, name)), is_sampled: true }
    }
}

/// Where courses go, and which ones. Whoever tells of one never waits.
pub struct Courses {
    pub to: Sender<Course>,
    /// From 0 to 1.
    pub ratio: f64,
}

impl Courses {
    /// Whether this batch is one of those that are told of. The same batch is or is not, whenever it is asked.
    pub fn wants(&self, partition: &Partition, first: i64) -> bool {
        let draw = hashed(&(&*partition.topic, partition.id, first));
        (draw as f64) < self.ratio * u64::MAX as f64 || self.ratio >= 1.0
    }

    /// What there is no room for is dropped, and counted.
    pub fn tell(&self, course: Course) {
        if let Err(refused) = self.to.try_send(course) {
            refused.into_inner().track.spans_dropped.add(1);
        }
    }
}

#[cfg(test)]
impl Course {
    /// Of one record, in no time.
    pub fn of_one(track: &Arc<Track>, partition: Partition, offset: i64) -> Course {
        Course {
            track: track.clone(),
            partition,
            first: offset,
            next: offset + 1,
            rows: 1,
            letters: 0,
            opened_ms: 0.0,
            closed_ms: 0.0,
            taken_ms: 0.0,
            began_ms: 0.0,
            done_ms: 0.0,
            polling: Duration::ZERO,
            decoding: Duration::ZERO,
            commit: None,
            links: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NoHeaders;

    const SOUND: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        let trace = Trace::read(SOUND.as_bytes()).unwrap();
        assert_eq!((trace.to_string().as_str(), trace.is_sampled), (SOUND, true));
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.span_id(), "00f067aa0ba902b7");
        let later = Trace::read(SOUND.replace("00-4", "cc-4").replace("-01", "-00-more").as_bytes()).unwrap();
        assert_eq!((later.trace_id, later.is_sampled), (trace.trace_id, false));
    }

    #[test]
    fn what_is_not_sound_is_none() {
        for bad in [
            "",
            "00",
            &SOUND[..54],
            &SOUND.to_uppercase(),
            &SOUND.replace("00-4", "ff-4"),
            &SOUND.replace("00-4", "0-4"),
            &format!("{SOUND}-more"),
            &SOUND.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &SOUND.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &SOUND.replace("4bf92f", "+bf92f"),
        ] {
            assert_eq!(Trace::read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Trace::read(b"\xff\xff"), None);
        assert_eq!(Trace::of(&NoHeaders), None);
    }

    #[test]
    fn a_step_is_in_the_same_trace_and_always_the_same_one() {
        let trace = Trace::of(&vec![
            ("other".to_owned(), Some(b"x".to_vec())),
            (HEADER.to_owned(), Some(SOUND.as_bytes().to_vec())),
        ])
        .unwrap();
        let step = trace.next(("retry-1", "t/0/7"));
        assert_eq!((step.trace_id, step.is_sampled), (trace.trace_id, true));
        assert!(step.span_id != trace.span_id && step == trace.next(("retry-1", "t/0/7")));
        assert_ne!(step, trace.next(("retry-2", "t/0/7")));
    }

    #[test]
    fn as_many_batches_are_told_of_as_the_ratio_says_and_what_does_not_fit_is_counted() {
        let (to, heard) = crossbeam_channel::bounded(1);
        let partition = Partition::new("t", 3);
        let wanted = |ratio| {
            let courses = Courses { to: to.clone(), ratio };
            (0..10_000).filter(|first| courses.wants(&partition, *first)).count()
        };
        assert_eq!((wanted(0.0), wanted(1.0)), (0, 10_000));
        assert!((800..1200).contains(&wanted(0.1)), "{}", wanted(0.1));
        let track = Track::new("status");
        let course = Course::of_one(&track, partition, 0);
        let courses = Courses { to, ratio: 1.0 };
        (0..3).for_each(|_| courses.tell(course.clone()));
        assert_eq!((heard.len(), track.spans_dropped.get()), (1, 2));
    }
}
