//! Where a record goes that failed, when it is due there, and what it says of itself on the way: the history of a record
//! is in its headers, the same in the retry topics and in the one for dead letters.

use std::sync::Arc;

use crate::flow::packed::{PackedRecord, Unpacked};
use crate::outlet::Message;
use crate::pg::copy::field;
use crate::record::{Partition, Record};
use crate::trace::{self, Trace};

pub const DUE: &str = "sluicegate-due";
pub const SOURCE: &str = "sluicegate-source";
const TOPIC: &str = "sluicegate-original-topic";
const PARTITION: &str = "sluicegate-original-partition";
const OFFSET: &str = "sluicegate-original-offset";
const TIMESTAMP: &str = "sluicegate-original-timestamp";
const ATTEMPT: &str = "sluicegate-attempt";
const FIRST_ERROR: &str = "sluicegate-first-error";
const LAST_ERROR: &str = "sluicegate-last-error";

/// Where a record comes from that has been tried before, and how often that was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub attempt: u32,
    pub first_error: String,
    /// The name that the message had in the outbox was seen: another header of that name is the record's own.
    has_source: bool,
}

impl Origin {
    /// The first attempt.
    pub fn of(partition: &Partition, offset: i64, timestamp_ms: Option<i64>) -> Self {
        let (topic, partition) = (partition.topic.clone(), partition.id);
        Origin { topic, partition, offset, timestamp_ms, ..Origin::default() }
    }

    /// Takes a header of a retry topic, if it is one of ours.
    pub fn take(&mut self, name: &str, value: Option<&[u8]>) -> bool {
        let text = || value.map(String::from_utf8_lossy).unwrap_or_default();
        match name {
            SOURCE if !self.has_source => self.has_source = true,
            TOPIC => self.topic = text().into(),
            PARTITION => self.partition = text().parse().unwrap_or_default(),
            OFFSET => self.offset = text().parse().unwrap_or_default(),
            TIMESTAMP => self.timestamp_ms = text().parse().ok(),
            ATTEMPT => self.attempt = text().parse().unwrap_or_default(),
            FIRST_ERROR => self.first_error = text().into_owned(),
            LAST_ERROR | DUE => {}
            _ => return false,
        }
        true
    }

    /// The record's name, whatever topic it is in.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// When a record of a retry topic is due.
pub fn due_ms(record: &Record<'_>) -> Option<u64> {
    let mut due_ms = None;
    record.headers.each(&mut |name, value| {
        if name == DUE {
            due_ms = value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        }
    });
    due_ms
}

/// The retry topics, and how long a record waits in each.
#[derive(Clone, Debug)]
pub struct Retries {
    /// One for each further attempt.
    pub topics: Vec<String>,
    pub dead: String,
    pub delay_ms: u64,
    /// Each wait is so many times the one before.
    pub factor: u64,
    /// A wait is up to so much of it shorter, so that what failed together does not come back together.
    pub jitter_percent: u64,
}

impl Retries {
    pub fn has_next(&self, attempt: u32) -> bool {
        self.topics.len() > attempt as usize
    }

    /// Where a record waits for the attempt after this one.
    pub fn topic(&self, attempt: u32) -> &str {
        &self.topics[(attempt as usize).min(self.topics.len() - 1)]
    }

    /// That, and when it is due there, where there is such an attempt. `draw` spreads.
    pub fn next(&self, attempt: u32, now_ms: u64, draw: u64) -> (&str, u64) {
        let wait_ms = self.delay_ms.saturating_mul(self.factor.saturating_pow(attempt));
        let jitter_ms = wait_ms / 100 * self.jitter_percent;
        (self.topic(attempt), now_ms.saturating_add(wait_ms - draw.checked_rem(jitter_ms + 1).unwrap_or(0)))
    }
}

/// Messages of one batch while they are collected.
#[derive(Default)]
pub struct Messages(Vec<u8>);

impl Messages {
    /// The record, with its history. `attempt` is the one that comes next, or the last one where nothing is due any more.
    pub fn failed(
        &mut self,
        topic: &str,
        record: PackedRecord<'_>,
        origin: &Origin,
        attempt: u32,
        error: &str,
        due_ms: Option<u64>,
    ) {
        let number = |number: i64| number.to_string().into_bytes();
        let first = if origin.first_error.is_empty() { error } else { &origin.first_error };
        let mut ours = vec![
            (TOPIC, origin.topic.as_bytes().to_vec()),
            (PARTITION, number(origin.partition.into())),
            (OFFSET, number(origin.offset)),
            (ATTEMPT, number(attempt.into())),
            (FIRST_ERROR, first.as_bytes().to_vec()),
            (LAST_ERROR, error.as_bytes().to_vec()),
        ];
        ours.extend(origin.timestamp_ms.map(|ms| (TIMESTAMP, number(ms))));
        ours.extend(due_ms.map(|ms| (DUE, ms.to_string().into_bytes())));
        let source = format!("{}/{attempt}", origin.name());
        self.add(topic, record.key, record, &source, &ours);
    }

    /// The record as it is, for others.
    pub fn forwarded(&mut self, topic: &str, key: Option<&[u8]>, record: PackedRecord<'_>, origin: &Origin) {
        self.add(topic, key, record, &origin.name(), &[]);
    }

    fn add(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        record: PackedRecord<'_>,
        source: &str,
        ours: &[(&str, Vec<u8>)],
    ) {
        let out = &mut self.0;
        field(out, Some(topic.as_bytes()));
        field(out, key);
        field(out, record.payload);
        field(out, Some(source.as_bytes()));
        // The trace goes on, one step further for each message.
        let is_trace = |name: &str| name == trace::HEADER;
        let found = record.headers().find(|(name, _)| is_trace(name)).and_then(|(_, value)| Trace::read(value?));
        let step = found.map(|found| found.next((topic, source)).to_string());
        out.extend_from_slice(&((record.headers().count() + ours.len()) as u32).to_be_bytes());
        let ours = ours.iter().map(|(name, value)| (*name, Some(value.as_slice())));
        for (name, value) in record.headers().chain(ours) {
            field(out, Some(name.as_bytes()));
            field(out, step.as_deref().filter(|_| is_trace(name)).map(str::as_bytes).or(value));
        }
    }

    pub fn into_body(self) -> Vec<u8> {
        self.0
    }
}

/// Shows every message of a body. None where it does not hold what was packed.
pub fn unfold(body: &[u8], see: &mut dyn FnMut(Message<'_>)) -> Option<()> {
    let mut rest = Unpacked(body);
    let mut headers = Vec::new();
    while !rest.0.is_empty() {
        let (topic, key, payload) = (rest.text()?, rest.optional()?, rest.optional()?);
        let source = rest.text()?;
        headers.clear();
        for _ in 0..rest.count()? {
            headers.push((rest.text()?, rest.optional()?));
        }
        see(Message { topic, key, payload, source: Some(source), headers: &headers });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries() -> Retries {
        let topics = vec!["r-1".to_owned(), "r-2".to_owned(), "r-3".to_owned()];
        Retries { topics, dead: "dead".to_owned(), delay_ms: 1_000, factor: 5, jitter_percent: 20 }
    }

    #[test]
    fn waits_grow_and_are_spread_and_come_to_an_end() {
        for (attempt, topic, most) in [(0, "r-1", 1_000), (1, "r-2", 5_000), (2, "r-3", 25_000)] {
            let waits: Vec<u64> = (0..most * 2).map(|draw| retries().next(attempt, 7, draw).1 - 7).collect();
            assert_eq!((retries().next(attempt, 7, 0).0, retries().has_next(attempt)), (topic, true));
            assert_eq!((*waits.iter().min().unwrap(), *waits.iter().max().unwrap()), (most / 5 * 4, most));
        }
        assert!(!retries().has_next(3));
        let all = Retries { delay_ms: u64::MAX, ..retries() };
        assert_eq!(all.next(2, 7, 0).1, u64::MAX);
    }

    #[test]
    fn a_trace_goes_on_with_a_step_for_each_message_and_what_is_none_stays_as_it_is() {
        let sound = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let through = |value: &str, origin: &Origin, attempt| {
            let mut record = Vec::new();
            for part in [None, Some(&b"p"[..]), Some(trace::HEADER.as_bytes()), Some(value.as_bytes())] {
                field(&mut record, part);
            }
            let mut messages = Messages::default();
            messages.failed("r-1", PackedRecord::read(&record).unwrap(), origin, attempt, "", None);
            let mut seen = None;
            unfold(&messages.into_body(), &mut |message| {
                let found = message.headers.iter().find(|(name, _)| *name == trace::HEADER).unwrap();
                seen = found.1.map(<[u8]>::to_vec);
            });
            String::from_utf8(seen.unwrap()).unwrap()
        };
        let origin = Origin::of(&Partition::new("t", 3), 40, None);
        let first = Trace::read(through(sound, &origin, 1).as_bytes()).unwrap();
        assert_eq!(first.trace_id(), &sound[3..35]);
        assert_ne!(first.span_id(), &sound[36..52]);
        assert_eq!(through(sound, &origin, 1), first.to_string(), "published again it is the same");
        assert_ne!(through(sound, &origin, 2), first.to_string());
        assert_eq!(through("no trace", &origin, 1), "no trace");
    }

    #[test]
    fn a_history_goes_through_the_headers_unchanged_and_the_records_own_stay() {
        let mut record = Vec::new();
        for part in [Some(&b"key"[..]), None, Some(b"own"), Some(b"1"), Some(SOURCE.as_bytes()), Some(b"its own")] {
            field(&mut record, part);
        }
        let record = PackedRecord::read(&record).unwrap();
        let origin = Origin::of(&Partition::new("t", 3), 40, Some(5));
        let mut messages = Messages::default();
        messages.failed("r-1", record, &origin, 1, "first (a)", Some(900));
        let body = messages.into_body();
        let (mut again, mut own, mut source) = (Origin::default(), Vec::new(), None);
        unfold(&body, &mut |message| {
            assert_eq!((message.topic, message.key, message.payload), ("r-1", Some(&b"key"[..]), None));
            source = message.source.map(str::to_owned);
            let all = [(SOURCE, message.source.map(str::as_bytes))];
            for (name, value) in all.iter().chain(message.headers) {
                if !again.take(name, *value) {
                    own.push((name.to_string(), value.unwrap().to_vec()));
                }
            }
        })
        .unwrap();
        assert_eq!(source.as_deref(), Some("t/3/40/1"));
        assert_eq!(own, [("own".to_owned(), b"1".to_vec()), (SOURCE.to_owned(), b"its own".to_vec())]);
        assert_eq!((again.attempt, again.first_error.as_str(), again.timestamp_ms), (1, "first (a)", Some(5)));
        assert_eq!(again.name(), "t/3/40");

        let mut messages = Messages::default();
        messages.failed("dead", record, &again, 1, "second (b)", None);
        let body = messages.into_body();
        unfold(&body, &mut |message| {
            assert_eq!(message.source, Some("t/3/40/1"));
            let value =
                |name| message.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.unwrap());
            assert_eq!((value(FIRST_ERROR), value(LAST_ERROR)), (Some(&b"first (a)"[..]), Some(&b"second (b)"[..])));
            assert_eq!((value(DUE), value(ATTEMPT)), (None, Some(&b"1"[..])));
        })
        .unwrap();
        assert!((1..body.len()).all(|len| unfold(&body[..len], &mut |_| {}).is_none()));
    }
}
