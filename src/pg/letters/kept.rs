//! Letters as they lie in their table: found by a filter, shown, held while somebody deals with them, and settled.
//! Nothing in here knows what a record becomes, and nothing deletes a letter.

use std::time::SystemTime;

use postgres::Row;
use postgres::types::ToSql;
use serde::Serialize;
use serde_json::value::RawValue;

use super::without_nul;
use crate::engine::Letter;
use crate::fault::{Cause, Fault};
use crate::pg::Work;
use crate::record::Partition;
use crate::trace::{self, Trace};

const FILTER: &str = include_str!("../../../sql/letters/filter.sql");
const LIST: &str = include_str!("../../../sql/letters/list.sql");
const SHOW: &str = include_str!("../../../sql/letters/show.sql");
const FIND: &str = include_str!("../../../sql/letters/find.sql");
const COUNT: &str = include_str!("../../../sql/letters/count.sql");
const LOCK: &str = include_str!("../../../sql/letters/lock.sql");
const READ: &str = include_str!("../../../sql/letters/read.sql");
const SETTLE: &str = include_str!("../../../sql/letters/settle.sql");
const NOTE: &str = include_str!("../../../sql/letters/note.sql");
const OPEN: &str = include_str!("../../../sql/letters/open.sql");

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Its record went through its flow after all.
    Replayed,
    /// A person decided to go without its record.
    Dropped,
}

impl State {
    pub const ALL: [State; 3] = [State::Open, State::Replayed, State::Dropped];

    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Replayed => "replayed",
            State::Dropped => "dropped",
        }
    }
}

/// Which letters. What is empty or None asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub flows: Vec<String>,
    /// The code of the reason, whole.
    pub reason: Option<String>,
    /// When it was set aside: from this moment on,
    pub since: Option<SystemTime>,
    /// and before this one.
    pub until: Option<SystemTime>,
    pub topic: Option<String>,
    pub key: Option<String>,
    pub state: Option<State>,
    pub ids: Vec<i64>,
}

/// A stretch of ids, and how many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub after: i64,
    pub up_to: i64,
    pub limit: i64,
}

impl Span {
    pub fn after(after: i64, limit: i64) -> Span {
        Span { after, up_to: i64::MAX, limit }
    }
}

/// A letter in a list.
#[derive(Debug, Serialize)]
pub struct Line {
    pub id: i64,
    pub flow: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub set_aside_at: String,
    pub reason_code: String,
    pub reason: String,
    pub state: String,
    pub tries: i32,
}

/// A letter with all that there is to know.
#[derive(Debug, Serialize)]
pub struct Whole {
    #[serde(flatten)]
    pub line: Line,
    pub record_timestamp: Option<String>,
    pub settled_at: Option<String>,
    pub key: Option<Content>,
    /// The trace that the record belongs to, by its headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    pub headers: Vec<Header>,
    pub payload: Option<Content>,
    /// A list of `{at, what}`, with `code` and `reason` where it was refused.
    pub history: Box<RawValue>,
}

#[derive(Debug, Serialize)]
pub struct Header {
    pub name: String,
    pub value: Option<Content>,
}

/// Bytes as they are shown: as text where they are printable text, and else as hex.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Of all of it.
    pub bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// More is there than is shown.
    pub is_cut: bool,
}

impl Content {
    /// `head`: the first of its `bytes` bytes.
    fn new(head: &[u8], bytes: usize) -> Content {
        let is_cut = head.len() < bytes;
        let text = match std::str::from_utf8(head) {
            Ok(text) => Some(text),
            // A character that was cut through is no reason to show the rest as hex.
            Err(error) if is_cut && error.error_len().is_none() => {
                std::str::from_utf8(&head[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
        let text = text.filter(|text| text.chars().all(is_plain)).map(str::to_owned);
        let hex = text.is_none().then(|| head.iter().map(|byte| format!("{byte:02x}")).collect());
        Content { bytes, text, hex, is_cut }
    }

    fn within(bytes: &[u8], bytes_max: usize) -> Content {
        Content::new(&bytes[..bytes.len().min(bytes_max)], bytes.len())
    }
}

/// One that is next in turn.
#[derive(Debug)]
pub struct Found {
    pub id: i64,
    pub flow: String,
    pub bytes: i64,
}

/// One whose record is to go through its flow again.
#[derive(Debug)]
pub struct Held {
    pub id: i64,
    pub partition: Partition,
    pub letter: Letter,
}

pub fn list(work: &mut Work<'_>, filter: &Filter, span: Span) -> Result<Vec<Line>, Fault> {
    Ok(filtered(work, LIST, filter, span)?.iter().map(line).collect())
}

/// In the order of their ids.
pub fn find(work: &mut Work<'_>, filter: &Filter, span: Span) -> Result<Vec<Found>, Fault> {
    let found = |row: &Row| Found { id: row.get(0), flow: row.get(1), bytes: row.get(2) };
    Ok(filtered(work, FIND, filter, span)?.iter().map(found).collect())
}

/// How many there are behind this id, and the last one's.
pub fn count(work: &mut Work<'_>, filter: &Filter, after: i64) -> Result<(u64, i64), Fault> {
    let rows = filtered(work, COUNT, filter, Span::after(after, 0))?;
    Ok(rows.first().map_or((0, 0), |row| (row.get::<_, i64>(0) as u64, row.get(1))))
}

fn filtered(work: &mut Work<'_>, sql: &str, filter: &Filter, span: Span) -> Result<Vec<Row>, Fault> {
    let flows = (!filter.flows.is_empty()).then_some(&filter.flows);
    let ids = (!filter.ids.is_empty()).then_some(&filter.ids);
    let key = filter.key.as_deref().map(str::as_bytes);
    // There is none in the table either.
    let (reason, topic) = (filter.reason.as_deref().map(without_nul), filter.topic.as_deref().map(without_nul));
    let state = filter.state.map(State::name);
    let mut values: Vec<&(dyn ToSql + Sync)> =
        vec![&flows, &reason, &filter.since, &filter.until, &topic, &key, &state, &ids, &span.after, &span.up_to];
    if sql.contains("$11") {
        values.push(&span.limit);
    }
    work.query(&sql.replace("{filter}", FILTER), &values)
}

/// Of key, payload and each header no more than so many bytes.
pub fn show(work: &mut Work<'_>, id: i64, bytes_max: usize) -> Result<Option<Whole>, Fault> {
    let rows = work.query(SHOW, &[&id, &(bytes_max as i32)])?;
    let Some(row) = rows.first() else { return Ok(None) };
    let content = |head: usize, bytes: usize| {
        let (head, bytes): (Option<&[u8]>, Option<i32>) = (row.get(head), row.get(bytes));
        head.zip(bytes).map(|(head, bytes)| Content::new(head, bytes as usize))
    };
    let (names, values): (Vec<String>, Vec<Option<&[u8]>>) = (row.get(16), row.get(17));
    let value = |value: Option<&[u8]>| value.map(|value| Content::within(value, bytes_max));
    let is_trace = |(name, _): &(&String, &Option<&[u8]>)| *name == trace::HEADER;
    let trace = names.iter().zip(&values).find(is_trace).and_then(|(_, value)| Trace::read((*value)?));
    let headers = names.into_iter().zip(values).map(|(name, bytes)| Header { name, value: value(bytes) }).collect();
    let history = RawValue::from_string(row.get(18))
        .map_err(|_| Fault::stop("letters.history", format!("the history of letter {id} is no JSON")))?;
    Ok(Some(Whole {
        line: line(row),
        record_timestamp: row.get(10),
        settled_at: row.get(11),
        key: content(12, 13),
        trace_id: trace.map(|trace| trace.trace_id()),
        span_id: trace.map(|trace| trace.span_id()),
        headers,
        payload: content(14, 15),
        history,
    }))
}

fn line(row: &Row) -> Line {
    Line {
        id: row.get(0),
        flow: row.get(1),
        topic: row.get(2),
        partition: row.get(3),
        offset: row.get(4),
        set_aside_at: row.get(5),
        reason_code: row.get(6),
        reason: row.get(7),
        state: row.get(8),
        tries: row.get(9),
    }
}

/// Those of them that are open, and stay so for others until `work` ends. Nobody else can settle them meanwhile.
pub fn lock(work: &mut Work<'_>, ids: &[i64]) -> Result<Vec<i64>, Fault> {
    Ok(work.lock(LOCK, &[&ids])?.iter().map(|row| row.get(0)).collect())
}

/// Letters of a flow, whole, in the order of their ids.
pub fn read(work: &mut Work<'_>, flow: &str, ids: &[i64]) -> Result<Vec<Held>, Fault> {
    let held = |row: &Row| {
        let (names, values): (Vec<String>, Vec<Option<Vec<u8>>>) = (row.get(7), row.get(8));
        Held {
            id: row.get(0),
            partition: Partition::new(row.get::<_, String>(1), row.get(2)),
            letter: Letter {
                offset: row.get(3),
                timestamp_ms: row.get(4),
                key: row.get(5),
                payload: row.get(6),
                headers: names.into_iter().zip(values).collect(),
                reason: Cause::new(row.get::<_, String>(9), row.get::<_, String>(10)),
            },
        }
    };
    Ok(work.query(READ, &[&ids, &flow])?.iter().map(held).collect())
}

/// They are dealt with, and their history says so.
pub fn settle(work: &mut Work<'_>, ids: &[i64], state: State) -> Result<(), Fault> {
    match ids.is_empty() {
        true => Ok(()),
        false => work.execute(SETTLE, &[&ids, &state.name()]).map(drop),
    }
}

/// They were refused again, and their history says why.
pub fn note<'a>(work: &mut Work<'_>, refused: impl Iterator<Item = (i64, &'a Cause)>) -> Result<(), Fault> {
    let (mut ids, mut codes, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for (id, cause) in refused {
        ids.push(id);
        codes.push(without_nul(&cause.code));
        reasons.push(without_nul(&cause.text));
    }
    match ids.is_empty() {
        true => Ok(()),
        false => work.execute(NOTE, &[&ids, &codes, &reasons]).map(drop),
    }
}

/// How many letters of a flow are open, by the code of their reason, the largest number first.
pub fn open(work: &mut Work<'_>, flow: &str) -> Result<Vec<(String, i64)>, Fault> {
    Ok(work.query(OPEN, &[&flow])?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_printable_text_is_shown_as_hex() {
        let shown = |head: &[u8], bytes| {
            let content = Content::new(head, bytes);
            (content.text, content.hex, content.is_cut)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown("a\tß\n".as_bytes(), 5), (text("a\tß\n"), None, false));
        assert_eq!(shown(b"", 0), (text(""), None, false));
        assert_eq!(shown(b"a\x1b[2J", 5), (None, text("611b5b324a"), false));
        assert_eq!(shown("\u{9b}2J".as_bytes(), 4), (None, text("c29b324a"), false));
        assert_eq!(shown(b"\xff", 1), (None, text("ff"), false));
        assert_eq!(shown(&"aß".as_bytes()[..2], 3), (text("a"), None, true), "cut through a character");
        assert_eq!(shown(&"aß".as_bytes()[..2], 2), (None, text("61c3"), false), "half a character is all there is");
        assert_eq!(Content::within(b"abc", 2), Content { bytes: 3, text: text("ab"), hex: None, is_cut: true });
    }
}
