//! `lag`: how far groups are behind, as a table that stays up to date on a terminal, as one table anywhere else, or as
//! JSON. What is known of groups comes from `kafka::lag`, and what our flows hold back of their keys from their tables.

use std::cmp::Reverse;
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
use crate::flow;
use crate::kafka::lag::{Lag, Place};
use crate::ops::log::one_line;
use crate::pg::{Database, held};
use crate::run::database_for_check;

/// Between tables on a terminal.
const USUAL_S: u64 = 2;
/// What is held back is not waited for any longer where PostgreSQL is away.
const HELD_WAIT: Duration = Duration::from_secs(1);
/// Where the terminal does not say how high it is.
const HEIGHT_USUAL: usize = 24;
/// A screen of its own without a cursor, on which a line that is too long is cut off: one that went on in the next row would push
/// the first ones out of sight. And back to what was there before.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
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

/// An object in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    group: &'a str,
    state: &'a str,
    /// None, as all that follows, of a group of which no partition is known.
    topic: Option<&'a str>,
    partition: Option<i32>,
    committed: Option<i64>,
    end: Option<i64>,
    lag_records: Option<i64>,
    lag_seconds: Option<f64>,
    /// Of the whole group.
    held_keys: Option<i64>,
    parked_records: Option<i64>,
    /// Why its end is not known, or something of its group.
    trouble: Option<&'a str>,
}

/// A group and what is known of it.
#[derive(Debug, Default)]
struct Group {
    name: String,
    state: String,
    places: Vec<Place>,
    held: Option<Held>,
    trouble: Option<String>,
}

/// What one of our flows holds back: no partition is behind by it, for the ledger went past it.
#[derive(Debug)]
struct Held {
    keys: i64,
    parked_records: i64,
}

/// All that one look shows, and why there may be other groups beside these.
#[derive(Debug)]
struct Seen {
    groups: Vec<Group>,
    trouble: Option<String>,
}

/// Whom to ask.
struct Asked<'a> {
    lag: Lag,
    /// Flows that may hold keys back: name, group, and where.
    holders: Vec<(&'a str, &'a str, Database)>,
}

pub fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let kafka = &config.kafka;
    let lag = Lag::new(&kafka.brokers.join(","), &kafka.options, kafka.request_timeout).map_err(failed_for)?;
    let holders = config.enabled().filter(|(name, _)| flow::may_hold_keys(name));
    let holders = holders.map(|(name, flow)| Ok((name, flow.group_id.as_str(), database_for_check(config, flow)?)));
    let asked = Asked { lag, holders: holders.collect::<Result<_, _>>().map_err(failed_for)? };
    let is_live = std::io::stdout().is_terminal() && !options.json && !options.once;
    let every = options.watch.or(is_live.then_some(USUAL_S)).map(Duration::from_secs);
    let Some(every) = every else { return show(&look(&asked, config, options)?, options.json) };

    let clock = Clock::real();
    let (stopper, stop) = Stop::new(&clock, Duration::ZERO);
    crate::run::stop_on_signals(stopper)?;
    let screen = is_live.then(Screen::enter);
    while !stop.asked() {
        match (&screen, look(&asked, config, options)) {
            (_, Err(Failure::Refused(text))) => return Err(Failure::Refused(text)),
            // A broker that is away for a while is waited for, as long as somebody watches.
            (Some(screen), Err(Failure::Failed(text))) => screen.draw(&format!("{}\n", one_line(&text))),
            (None, Err(Failure::Failed(text))) => eprintln!("error: {}", one_line(&text)),
            (Some(screen), Ok(seen)) => screen.draw(&table(&seen, Order::Urgency)),
            (None, Ok(seen)) => show(&seen, options.json)?,
        }
        stop.pause(every);
    }
    Ok(())
}

/// What cannot be known of a group is said beside it; it is a failure where that is so of all of them.
fn look(asked: &Asked<'_>, config: &Config, options: &Options) -> Result<Seen, Failure> {
    let (known, trouble) = asked.lag.groups().map_err(failed)?;
    let names: BTreeSet<&str> = match (options.all_groups, options.group.is_empty()) {
        (true, _) => known.keys().map(String::as_str).collect(),
        (false, false) => options.group.iter().map(String::as_str).collect(),
        (false, true) => config.enabled().map(|(_, flow)| flow.group_id.as_str()).collect(),
    };
    if let Some(unknown) = options.group.iter().find(|name| trouble.is_none() && !known.contains_key(*name)) {
        let cure = "`sluicegate lag --all-groups` has those there are";
        return Err(Failure::Failed(format!("there is no group \"{unknown}\"; {cure}")));
    }
    let (mut groups, mut first, mut failures) = (Vec::new(), None, 0);
    for name in names {
        let state = known.get(name).map_or("Unknown", String::as_str);
        let mut group = Group { name: name.to_owned(), state: state.to_owned(), ..Group::default() };
        match asked.lag.of(name) {
            Ok(places) => group.places = places,
            Err(fault) => {
                failures += 1;
                group.trouble = Some(fault.to_string());
                first.get_or_insert(fault);
            }
        }
        match asked.held(name) {
            Ok(held) => group.held = held,
            Err(fault) => drop(group.trouble.get_or_insert_with(|| format!("what it holds back: {fault}"))),
        }
        groups.push(group);
    }
    match first {
        Some(fault) if failures == groups.len() => Err(failed(fault)),
        _ => Ok(Seen { groups, trouble }),
    }
}

impl Asked<'_> {
    /// None of a group that is not that of a flow which may hold something back.
    fn held(&self, group: &str) -> Result<Option<Held>, Fault> {
        let Some((flow, _, database)) = self.holders.iter().find(|(_, of, _)| *of == group) else { return Ok(None) };
        database.live_session(HELD_WAIT)?.work(|work| {
            let (keys, parked_records) = (held::level(work, flow)?.keys, held::count(work, flow)?);
            Ok(Some(Held { keys, parked_records }))
        })
    }
}

impl Group {
    fn lines<'a>(&'a self) -> Vec<Line<'a>> {
        let of_all = || Line {
            group: &self.name,
            state: &self.state,
            topic: None,
            partition: None,
            committed: None,
            end: None,
            lag_records: None,
            lag_seconds: None,
            held_keys: self.held.as_ref().map(|held| held.keys),
            parked_records: self.held.as_ref().map(|held| held.parked_records),
            trouble: self.trouble.as_deref(),
        };
        if self.places.is_empty() {
            return vec![of_all()];
        }
        let of_place = |place: &'a Place| Line {
            topic: Some(&place.partition.topic),
            partition: Some(place.partition.id),
            committed: place.committed,
            end: place.end.as_ref().ok().copied(),
            lag_records: place.lag_records,
            lag_seconds: behind_s(place),
            trouble: place.end.as_ref().err().map(String::as_str).or(self.trouble.as_deref()),
            ..of_all()
        };
        self.places.iter().map(of_place).collect()
    }
}

fn behind_s(place: &Place) -> Option<f64> {
    place.lag_ms.map(|lag_ms| lag_ms as f64 / 1e3)
}

fn show(seen: &Seen, is_json: bool) -> Result<(), Failure> {
    if !is_json {
        say(&table(seen, Order::Place));
        return Ok(());
    }
    seen.trouble.iter().for_each(|text| eprintln!("error: {}", one_line(text)));
    for line in seen.groups.iter().flat_map(Group::lines) {
        let object = serde_json::to_string(&line).map_err(|error| Failure::Failed(error.to_string()))?;
        say(&format!("{object}\n"));
    }
    Ok(())
}

/// How the lines of a table follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Each group with its partitions behind it.
    Place,
    /// All groups, and then partitions, those that nobody can ask or that have most to do first: there is not room for all of
    /// them on a screen.
    Urgency,
}

/// A line for each partition, and one for each group with the sum and the longest wait of those that are known. Behind a
/// line stands what is in the way of knowing more.
fn table(seen: &Seen, order: Order) -> String {
    const HEAD: [&str; 11] =
        ["GROUP", "STATE", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "BEHIND", "HELD", "PARKED", ""];
    let unknown = || "-".to_owned();
    let number = |number: Option<i64>| number.map_or_else(unknown, |number| number.to_string());
    let behind = |seconds: Option<f64>| seconds.map_or_else(unknown, |seconds| format!("{seconds:.1} s"));
    // Each row with its place in the order of urgency.
    let mut rows = Vec::new();
    for group in &seen.groups {
        let sum = group.places.iter().filter_map(|place| place.lag_records).reduce(|sum, lag| sum + lag);
        let longest = group.places.iter().filter_map(behind_s).reduce(f64::max);
        let mut row = [const { String::new() }; 11];
        row[0] = one_line(&group.name);
        row[1] = one_line(&group.state);
        row[2..6].fill_with(unknown);
        row[6] = number(sum);
        row[7] = behind(longest);
        row[8] = number(group.held.as_ref().map(|held| held.keys));
        row[9] = number(group.held.as_ref().map(|held| held.parked_records));
        row[10] = one_line(group.trouble.as_deref().unwrap_or_default());
        rows.push(((false, Reverse(0)), row));
        for place in &group.places {
            let mut row = [const { String::new() }; 11];
            row[0] = one_line(&group.name);
            row[2] = one_line(&place.partition.topic);
            row[3] = place.partition.id.to_string();
            row[4] = number(place.committed);
            row[5] = number(place.end.as_ref().ok().copied());
            row[6] = number(place.lag_records);
            row[7] = behind(behind_s(place));
            row[10] = place.end.as_ref().err().map(|text| one_line(text)).unwrap_or_default();
            let urgency = if place.end.is_err() { i64::MAX } else { place.lag_records.unwrap_or(-1) };
            rows.push(((true, Reverse(urgency)), row));
        }
    }
    if order == Order::Urgency {
        rows.sort_by_key(|(urgency, _)| *urgency);
    }
    let rows: Vec<[String; 11]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(rows.into_iter().map(|(_, row)| row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 11] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            text += &if column < 3 || column == 10 { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.extend(seen.trouble.iter().map(|trouble| format!("{}\n", one_line(trouble))));
    text
}

/// A terminal that is ours until this is dropped, however that comes.
struct Screen;

impl Screen {
    fn enter() -> Screen {
        say(ENTER);
        Screen
    }

    /// As much of it as there is room for: what is cut off is said.
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

    fn place(id: i32, committed: Option<i64>, lag_records: Option<i64>, lag_ms: Option<i64>) -> Place {
        Place { partition: Partition::new("orders", id), committed, end: Ok(100), lag_records, lag_ms }
    }

    fn seen() -> Seen {
        let lost = Place { end: Err("it has no leader".to_owned()), ..place(3, Some(7), None, None) };
        let places = vec![
            place(0, Some(90), Some(10), Some(61_500)),
            place(1, Some(100), Some(0), Some(0)),
            place(2, None, None, None),
            lost,
        ];
        let group = |name: &str, state: &str| Group { name: name.into(), state: state.into(), ..Group::default() };
        let held = Some(Held { keys: 2, parked_records: 31 });
        let more = vec![place(5, Some(40), Some(60), None)];
        let groups = vec![
            Group { places, held, ..group("a\nb", "Stable") },
            Group { trouble: Some("no right to see it".to_owned()), ..group("none", "Empty") },
            Group { places: more, ..group("z", "Dead") },
        ];
        Seen { groups, trouble: Some("a broker said\nnothing".to_owned()) }
    }

    #[test]
    fn a_table_has_the_sum_of_each_group_and_a_dash_for_what_is_not_known() {
        let expected = "\
GROUP  STATE   TOPIC   PARTITION  COMMITTED  END  LAG  BEHIND  HELD  PARKED
a\\nb   Stable  -               -          -    -   10  61.5 s     2      31
a\\nb           orders          0         90  100   10  61.5 s
a\\nb           orders          1        100  100    0   0.0 s
a\\nb           orders          2          -  100    -       -
a\\nb           orders          3          7    -    -       -                it has no leader
none   Empty   -               -          -    -    -       -     -       -  no right to see it
z      Dead    -               -          -    -   60       -     -       -
z              orders          5         40  100   60       -
a broker said\\nnothing
";
        assert_eq!(table(&seen(), Order::Place), expected);
    }

    #[test]
    fn on_a_screen_all_groups_come_first_and_then_what_is_most_behind() {
        let table = table(&seen(), Order::Urgency);
        let cells = |line: &str| line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = table.lines().skip(1).take(8).map(cells).collect();
        let (groups, partitions) = rows.split_at(3);
        let names = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
        assert_eq!(names(groups), ["a\\nb", "none", "z"]);
        let ids: Vec<&str> = partitions.iter().map(|row| row[2].as_str()).collect();
        assert_eq!(ids, ["3", "5", "0", "1", "2"], "{table}");
    }

    #[test]
    fn a_group_of_which_nothing_is_known_is_an_object_too() {
        let seen = seen();
        let objects = |group: &Group| serde_json::to_value(group.lines()).unwrap();
        assert_eq!(
            objects(&seen.groups[1]),
            serde_json::json!([{
                "group": "none", "state": "Empty", "topic": null, "partition": null, "committed": null, "end": null,
                "lag_records": null, "lag_seconds": null, "held_keys": null, "parked_records": null,
                "trouble": "no right to see it",
            }])
        );
        let first = &objects(&seen.groups[0])[0];
        assert_eq!(
            (&first["held_keys"], &first["parked_records"], &first["lag_seconds"]),
            (&2.into(), &31.into(), &61.5.into())
        );
    }
}
