//! `letters`: what was set aside, as a table or as JSON, and what is done with it. What it does lives in `letters`; here
//! are the options, the lines and the pace.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::{Choice, say};
use crate::config::Config;
use crate::engine::Clock;
use crate::fault::{Failure, Fault};
use crate::letters::wish::Wish;
use crate::letters::{self, STEP_MAX, Verb};
use crate::ops::log::{is_unruly, one_line};
use crate::pg::letters::kept::{Content, Filter, Line, Span, State, Whole};
use crate::progress::Progress;
use crate::run;

/// Letters in a list that nobody has given a limit for.
const LIST_USUAL: i64 = 100;
/// With a rate, letters of this stretch of time are one transaction.
const PACE: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub enum Letters {
    /// One line for each letter, oldest first
    List {
        #[command(flatten)]
        which: Which,
        /// open, replayed, dropped or all
        #[arg(long, default_value = "open")]
        state: String,
        /// Only letters behind this id: to go on where a list ended
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: i64,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Letters whole, with payload and history
    Show {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<i64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Put records through their flow again, each exactly once; what is refused again stays open
    Replay(Deal),
    /// Mark letters as dropped: nobody is asked to deal with them any more, and none is deleted
    Drop(Deal),
}

/// What `replay` and `drop` have in common.
#[derive(Args)]
pub struct Deal {
    #[command(flatten)]
    which: Which,
    /// All open letters: for want of any filter
    #[arg(long)]
    all: bool,
    /// Only say what would become of them
    #[arg(long)]
    dry_run: bool,
    /// No more than so many a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

/// Which letters.
#[derive(Args)]
pub struct Which {
    #[command(flatten)]
    choice: Choice,
    /// With this reason code, whole, such as avro.short or pg.23505
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// Set aside from this moment on: 2026-01-31T08:00:00Z, or how long ago: 30m, 2h, 7d
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Set aside before this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    #[arg(long)]
    topic: Option<String>,
    /// With this key, as text
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// With this id; may be given several times
    #[arg(long, value_name = "N")]
    id: Vec<i64>,
    /// No more than so many letters
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
}

impl Which {
    fn wish(&self) -> Wish {
        Wish {
            flow: self.choice.flow.clone(),
            reason: self.reason.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            topic: self.topic.clone(),
            key: self.key.clone(),
            id: self.id.clone(),
            limit: self.limit,
            ..Wish::default()
        }
    }
}

impl Letters {
    /// A flow that is named counts as enabled.
    pub fn choice(&self) -> &Choice {
        const ANY: &Choice = &Choice { flow: Vec::new() };
        match self {
            Letters::List { which, .. } => &which.choice,
            Letters::Replay(deal) | Letters::Drop(deal) => &deal.which.choice,
            Letters::Show { .. } => ANY,
        }
    }
}

pub fn run(config: &Config, verb: &Letters) -> Result<(), Failure> {
    let letters = run::letters(config, &[], |options| options)?;
    let flows: Vec<String> = config.flows.keys().cloned().collect();
    let now = SystemTime::now();
    match verb {
        Letters::List { which, state, after, json } => {
            let wish = Wish { state: Some(state.clone()), ..which.wish() };
            let filter = wish.filter(&flows, now).map_err(|flaw| Failure::Refused(format!("--{flaw}")))?;
            list(&letters, &filter, Span::after(*after, wish.limit.unwrap_or(LIST_USUAL)), *json)
        }
        Letters::Show { ids, json } => ids.iter().try_for_each(|id| show(&letters, *id, *json)),
        Letters::Replay(deal) => self::deal(&letters, &flows, deal, Verb::Replay, now),
        Letters::Drop(deal) => self::deal(&letters, &flows, deal, Verb::Drop, now),
    }
}

fn list(letters: &letters::Letters, filter: &Filter, span: Span, json: bool) -> Result<(), Failure> {
    let lines = letters.list(filter, span).map_err(failed)?;
    if json {
        lines.iter().for_each(|line| say(&in_json(line)));
        return Ok(());
    }
    say(&table(&lines));
    if lines.len() as i64 == span.limit {
        let last = lines.last().map_or(span.after, |line| line.id);
        say(&format!("there may be more: --after {last}, or a larger --limit\n"));
    }
    Ok(())
}

/// As wide as they have to be; the text, which may be long, comes last.
fn table(lines: &[Line]) -> String {
    const HEAD: [&str; 7] = ["ID", "FLOW", "WHERE", "WHEN", "STATE", "TRIES", "REASON"];
    let row = |line: &Line| {
        let place = format!("{}/{}/{}", line.topic, line.partition, line.offset);
        let reason = format!("{}: {}", line.reason_code, line.reason);
        let (id, tries) = (line.id.to_string(), line.tries.to_string());
        [id, line.flow.clone(), place, line.set_aside_at.clone(), line.state.clone(), tries, reason]
            .map(|cell| one_line(&cell))
    };
    let rows: Vec<[String; 7]> = std::iter::once(HEAD.map(str::to_owned)).chain(lines.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len() - 1).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("{cell:width$}  ");
        }
        text += &format!("{}\n", row[HEAD.len() - 1]);
    }
    text
}

fn show(letters: &letters::Letters, id: i64, json: bool) -> Result<(), Failure> {
    match letters.show(id).map_err(failed)? {
        Some(whole) if json => say(&in_json(&whole)),
        Some(whole) => say(&page(&whole)),
        None => {
            return Err(Failure::Failed(format!(
                "there is no letter {id}; `sluicegate letters list` has those there are"
            )));
        }
    }
    Ok(())
}

fn page(whole: &Whole) -> String {
    let Whole { line, record_timestamp, settled_at, key, trace_id, span_id, headers, payload, history } = whole;
    let none = || "none".to_owned();
    let content = |content: &Option<Content>| content.as_ref().map_or_else(none, shown);
    let mut fields = vec![
        ("letter".to_owned(), line.id.to_string()),
        ("flow".to_owned(), line.flow.clone()),
        ("topic".to_owned(), line.topic.clone()),
        ("partition".to_owned(), line.partition.to_string()),
        ("offset".to_owned(), line.offset.to_string()),
        ("timestamp".to_owned(), record_timestamp.clone().unwrap_or_else(none)),
        ("set aside at".to_owned(), line.set_aside_at.clone()),
        ("reason".to_owned(), format!("{}: {}", line.reason_code, line.reason)),
        ("state".to_owned(), line.state.clone()),
        ("settled at".to_owned(), settled_at.clone().unwrap_or_else(none)),
        ("tries".to_owned(), line.tries.to_string()),
        ("key".to_owned(), content(key)),
    ];
    let ids = [("trace id", trace_id), ("span id", span_id)];
    fields.extend(ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id.clone()?))));
    fields.extend(headers.iter().map(|header| (format!("header {}", header.name), content(&header.value))));
    fields.push(("payload".to_owned(), content(payload)));
    let entries: Vec<serde_json::Value> = serde_json::from_str(history.get()).unwrap_or_default();
    fields.extend(entries.iter().map(|entry| {
        let word = |name: &str| entry[name].as_str().unwrap_or_default();
        let why =
            if word("code").is_empty() { String::new() } else { format!(" {}: {}", word("code"), word("reason")) };
        ("history".to_owned(), format!("{} {}{why}", word("at"), word("what")))
    }));
    let lines = fields.iter().map(|(name, value)| format!("{:14}{}\n", one_line(name), one_line(value)));
    lines.chain(["\n".to_owned()]).collect()
}

fn shown(content: &Content) -> String {
    let what = match (&content.text, &content.hex) {
        (Some(text), _) => text.clone(),
        (None, hex) => format!("hex {}", hex.as_deref().unwrap_or_default()),
    };
    match content.is_cut {
        true => format!("{what} … ({} bytes in all)", content.bytes),
        false => what,
    }
}

fn deal(letters: &letters::Letters, flows: &[String], deal: &Deal, verb: Verb, now: SystemTime) -> Result<(), Failure> {
    let wish = Wish { all: deal.all, ..deal.which.wish() };
    let filter = wish.filter_of_open(flows, now).map_err(|flaw| Failure::Refused(format!("--{flaw}")))?;
    let open = Filter { state: Some(State::Open), ..filter.clone() };
    // Whatever is set aside from here on is for the next time: there may be more of it than anybody can replay.
    let (there, up_to) = letters.count(&open, 0).map_err(failed)?;
    let total = wish.limit.map_or(there, |limit| there.min(limit as u64));
    let (done_to_it, would) = match verb {
        Verb::Replay => ("letters replayed", "would be replayed"),
        Verb::Drop => ("letters dropped", "would be dropped"),
    };
    let mut progress = Progress::new(total, done_to_it);
    let at_once = deal.rate.map_or(STEP_MAX as u32, |rate| (rate / (1000 / PACE.as_millis() as u32)).max(1));
    let (clock, mut seen, mut after) = (Clock::real(), 0, 0);
    let mut sums = Sums::default();
    while seen < total {
        let limit = i64::from(at_once).min((total - seen) as i64);
        let step = letters.step(verb, &filter, Span { after, up_to, limit }, deal.dry_run);
        let step = match step {
            Ok(step) => step,
            Err(fault) => {
                progress.finish();
                // What earlier steps let go on goes on, if it can: the same command would not find their letters again.
                if !deal.dry_run {
                    let _ = letters.go_on(&sums.flows);
                }
                return Err(Failure::Failed(format!("{fault}; {}", sums.so_far())));
            }
        };
        let Some(last) = step.last else { break };
        (after, seen) = (last, seen + step.letters());
        for (id, cause) in &step.refused {
            progress.say(&format!("letter {id} stays open: {}", one_line(&cause.to_string())));
        }
        sums.add(step);
        progress.at(seen);
        if let Some(rate) = deal.rate.filter(|_| seen < total) {
            clock.sleep(Duration::from_secs_f64(seen as f64 / f64::from(rate)).saturating_sub(clock.now()));
        }
    }
    progress.finish();
    if !deal.dry_run {
        // Nobody else may be there to do it.
        letters.go_on(&sums.flows).map_err(|fault| Failure::Failed(format!("{fault}; {}", sums.so_far())))?;
    }
    let what = if deal.dry_run { would } else { done_to_it };
    say(&format!("{}\n", sums.told(what)));
    match sums.refused {
        refused @ 1.. if !deal.dry_run => Err(Failure::Failed(format!(
            "{refused} letters were refused again; `sluicegate letters show ID` has the reasons"
        ))),
        _ => Ok(()),
    }
}

/// What became of the letters so far.
#[derive(Default)]
struct Sums {
    done: u64,
    refused: u64,
    settled: u64,
    strange: std::collections::BTreeMap<String, u64>,
    flows: std::collections::BTreeSet<String>,
}

impl Sums {
    fn add(&mut self, step: letters::Step) {
        self.done += step.done;
        self.refused += step.refused.len() as u64;
        self.settled += step.settled;
        self.flows.extend(step.flows);
        for (flow, count) in step.strange {
            *self.strange.entry(flow).or_default() += count;
        }
    }

    fn told(&self, what: &str) -> String {
        let mut text = format!("{} {what}, {} refused", self.done, self.refused);
        if self.settled > 0 {
            text += &format!(", {} settled by somebody else meanwhile", self.settled);
        }
        for (flow, count) in &self.strange {
            text += &format!(", {count} left alone: flow {flow} is not enabled; name it with --flow");
        }
        text
    }

    fn so_far(&self) -> String {
        format!("before that {} letters were done and {} refused; it can be run again", self.done, self.refused)
    }
}

fn failed(fault: Fault) -> Failure {
    Failure::Failed(fault.to_string())
}

/// With what a terminal would act on as JSON can have it too.
fn in_json(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).expect("keys are text and numbers are finite");
    let ruly = |c: char| if is_unruly(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(ruly).chain(["\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_can_drive_a_terminal() {
        let text = "a\u{1b}[2J\u{9b}\u{202e}\n\u{7f}b";
        let json = in_json(&text);
        assert_eq!(json.trim_end().chars().find(|c| is_unruly(*c)), None);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        let line = Line {
            id: 7,
            flow: text.into(),
            topic: text.into(),
            partition: 1,
            offset: 2,
            set_aside_at: String::new(),
            reason_code: "c".into(),
            reason: text.into(),
            state: "open".into(),
            tries: 0,
        };
        let table = table(&[line]);
        assert_eq!(table.lines().count(), 2);
        assert_eq!(table.replace('\n', "").chars().find(|c| is_unruly(*c)), None);
    }
}
