//! `lag`: how far groups are behind, as a table that stays up to date on a terminal, as one table anywhere else, or as
//! JSON. What is known of groups comes from `kafka::lag`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::say;
use crate::config::Config;
use crate::engine::{Clock, Stop};
use crate::fault::{Cause, Failure, Fault};
use crate::kafka::lag::{Lag, Place};
use crate::ops::log::one_line;

/// Between tables on a terminal.
const USUAL_S: u64 = 2;
/// Where the terminal does not say how high it is.
const HEIGHT_USUAL: usize = 24;
/// A screen of its own without a cursor, and back to what was there before.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H\x1b[J";

/// Show how far consumer groups are behind, in records and in seconds
#[derive(Args)]
pub struct Options {
    /// This group, ours or not; may be given several times [default: those of the enabled flows]
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Every group of the cluster
    #[arg(long, conflicts_with = "group")]
    all_groups: bool,
    /// One JSON object a line for each partition
    #[arg(long)]
    json: bool,
    /// Look again after so many seconds, until told to stop [default: 2 on a terminal, else look once]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
    /// Look once, on a terminal too
    #[arg(long, conflicts_with = "watch")]
    once: bool,
}

/// A line of the table and an object in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    group: &'a str,
    state: &'a str,
    topic: &'a str,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    lag_records: Option<i64>,
    lag_seconds: Option<f64>,
    /// Why its end is not known.
    trouble: Option<&'a str>,
}

/// A group and what is known of its partitions.
type Group = (String, String, Vec<Place>);

pub fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let kafka = &config.kafka;
    let lag = Lag::new(&kafka.brokers.join(","), &kafka.options, kafka.request_timeout).map_err(failed_for)?;
    let is_live = std::io::stdout().is_terminal() && !options.json && !options.once;
    let every = options.watch.or(is_live.then_some(USUAL_S)).map(Duration::from_secs);
    let Some(every) = every else { return show(&look(&lag, config, options)?, options.json) };

    let clock = Clock::real();
    let (stopper, stop) = Stop::new(&clock, Duration::ZERO);
    crate::run::stop_on_signals(stopper)?;
    let screen = is_live.then(Screen::enter);
    while !stop.asked() {
        let seen = look(&lag, config, options);
        match (&screen, seen) {
            (_, Err(Failure::Refused(text))) => return Err(Failure::Refused(text)),
            // A broker that is away for a while is waited for, as long as somebody watches.
            (Some(screen), Err(Failure::Failed(text))) => screen.draw(&format!("{}\n", one_line(&text))),
            (Some(screen), Ok(groups)) => screen.draw(&table(&groups)),
            (None, seen) => show(&seen?, options.json)?,
        }
        stop.pause(every);
    }
    Ok(())
}

fn look(lag: &Lag, config: &Config, options: &Options) -> Result<Vec<Group>, Failure> {
    let known = lag.groups().map_err(failed)?;
    let names: BTreeSet<&str> = match (options.all_groups, options.group.is_empty()) {
        (true, _) => known.keys().map(String::as_str).collect(),
        (false, false) => options.group.iter().map(String::as_str).collect(),
        (false, true) => config.enabled().map(|(_, flow)| flow.group_id.as_str()).collect(),
    };
    if let Some(unknown) = options.group.iter().find(|name| !known.contains_key(*name)) {
        let cure = "`sluicegate lag --all-groups` has those there are";
        return Err(Failure::Failed(format!("there is no group \"{unknown}\"; {cure}")));
    }
    let group = |name: &str| {
        let state = known.get(name).cloned().unwrap_or_else(|| "Unknown".to_owned());
        lag.of(name).map(|places| (name.to_owned(), state, places)).map_err(failed)
    };
    names.into_iter().map(group).collect()
}

fn lines(groups: &[Group]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for (group, state, places) in groups {
        lines.extend(places.iter().map(|place| Line {
            group,
            state,
            topic: &place.partition.topic,
            partition: place.partition.id,
            committed: place.committed,
            end: place.end.as_ref().ok().copied(),
            lag_records: place.lag_records,
            lag_seconds: place.lag_ms.map(|lag_ms| lag_ms as f64 / 1e3),
            trouble: place.end.as_ref().err().map(String::as_str),
        }));
    }
    lines
}

fn show(groups: &[Group], is_json: bool) -> Result<(), Failure> {
    let lines = lines(groups);
    if !is_json {
        say(&table(groups));
        return Ok(());
    }
    for line in &lines {
        let object = serde_json::to_string(line).map_err(|error| Failure::Failed(error.to_string()))?;
        say(&format!("{object}\n"));
    }
    Ok(())
}

/// A line for each partition, and one for each group with the sum and the longest wait of those that are known. Behind a
/// partition's line stands what is in the way of knowing more.
fn table(groups: &[Group]) -> String {
    const HEAD: [&str; 9] = ["GROUP", "STATE", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "BEHIND", ""];
    let unknown = || "-".to_owned();
    let number = |number: Option<i64>| number.map_or_else(unknown, |number| number.to_string());
    let behind = |seconds: Option<f64>| seconds.map_or_else(unknown, |seconds| format!("{seconds:.1} s"));
    let mut rows: Vec<[String; 9]> = vec![HEAD.map(str::to_owned)];
    for group in groups {
        let lines = lines(std::slice::from_ref(group));
        let sum = lines.iter().filter_map(|line| line.lag_records).reduce(|sum, lag| sum + lag);
        let longest = lines.iter().filter_map(|line| line.lag_seconds).reduce(f64::max);
        let (name, state) = (one_line(&group.0), one_line(&group.1));
        let (sum, longest) = (number(sum), behind(longest));
        rows.push([name.clone(), state, unknown(), unknown(), unknown(), unknown(), sum, longest, String::new()]);
        rows.extend(lines.iter().map(|line| {
            [
                name.clone(),
                String::new(),
                one_line(line.topic),
                line.partition.to_string(),
                number(line.committed),
                number(line.end),
                number(line.lag_records),
                behind(line.lag_seconds),
                one_line(line.trouble.unwrap_or_default()),
            ]
        }));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            text += &if column < 3 || column == 8 { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A terminal that is ours until this is dropped, however that comes.
struct Screen;

impl Screen {
    fn enter() -> Screen {
        say(ENTER);
        Screen
    }

    /// As much of it as there is room for: what is cut off is said, and the sums of groups come before their partitions.
    fn draw(&self, table: &str) {
        let height = height().unwrap_or(HEIGHT_USUAL);
        let count = table.lines().count();
        let fits: Vec<&str> =
            table.lines().take(if count < height { count } else { height.saturating_sub(2) }).collect();
        let more = match count - fits.len() {
            0 => String::new(),
            more => format!("… and {more} more lines: sluicegate lag --once\n"),
        };
        say(&format!("{HOME}{}\n{more}", fits.join("\n")));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        say(LEAVE);
    }
}

/// Rows of the terminal, as `stty` says.
fn height() -> Option<usize> {
    let asked = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(asked.stdout).ok()?.split_ascii_whitespace().next()?.parse().ok().filter(|rows| *rows > 4)
}

fn failed(fault: Fault) -> Failure {
    Failure::Failed(fault.to_string())
}

fn failed_for(cause: Cause) -> Failure {
    Failure::Failed(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Partition;

    #[test]
    fn a_table_has_the_sum_of_each_group_and_a_dash_for_what_is_not_known() {
        let place = |id, committed: Option<i64>, lag_records, lag_ms| Place {
            partition: Partition::new("orders", id),
            committed,
            end: Ok(100),
            lag_records,
            lag_ms,
        };
        let lost = Place { end: Err("it has no leader".to_owned()), ..place(3, Some(7), None, None) };
        let places = vec![
            place(0, Some(90), Some(10), Some(61_500)),
            place(1, Some(100), Some(0), Some(0)),
            place(2, None, None, None),
            lost,
        ];
        let groups = [("a\nb".to_owned(), "Stable".to_owned(), places), ("none".into(), "Empty".into(), Vec::new())];
        let expected = "\
GROUP  STATE   TOPIC   PARTITION  COMMITTED  END  LAG  BEHIND
a\\nb   Stable  -               -          -    -   10  61.5 s
a\\nb           orders          0         90  100   10  61.5 s
a\\nb           orders          1        100  100    0   0.0 s
a\\nb           orders          2          -  100    -       -
a\\nb           orders          3          7    -    -       -  it has no leader
none   Empty   -               -          -    -    -       -
";
        assert_eq!(table(&groups), expected);
    }
}
