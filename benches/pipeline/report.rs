//! What a run comes to, as tables: the same text for a terminal and for the documentation.

pub mod cdc;
pub mod events;
pub mod orders;
pub mod tickets;

use crate::contenders::Contender;
use crate::growth::CURVES;
use crate::program::{DECODING, FETCHING, OTHER_WORK, WRITING};
use crate::results::{Growth, Results, Run, Spread, median, ratios, spread};

/// Above this share of the machine's CPU time, what other processes took may have decided a comparison.
const OTHERS_PERCENT_MAX: f64 = 10.0;

/// Everything that was measured.
pub fn all(results: &Results) -> String {
    let parts = [
        rounds(results),
        latency(results),
        footprint(results),
        growth(results),
        growth_latency(results),
        away(results),
        orders::table(results),
        orders::accept(results),
        events::table(results),
        events::steady(results),
        cdc::table(results),
        tickets::table(results),
    ];
    format!("\n{}\n\n{}", results.machine.line(), parts.into_iter().flatten().collect::<Vec<_>>().join("\n"))
}

/// The contenders side by side, and where the CPU time goes.
pub fn rounds(results: &Results) -> Option<String> {
    let of = |contender: Contender| results.rounds.iter().filter(move |run| run.contender == contender.name());
    let mut table =
        Table::new(&["", "rows/s", "min .. max", "of raw copy", "CPU s/1M: own", "Kafka", "PostgreSQL", "peak MB"]);
    for contender in Contender::ALL.into_iter().filter(|contender| contender.writes()) {
        let Some(rate) = spread(of(contender).map(|run| run.rows_per_s)) else { continue };
        let ratio = spread(ratios(results.rounds.iter(), contender.name(), Contender::RawCopy.name()));
        let [own, kafka, postgres, peak] = costs(of(contender));
        table.row([
            contender.name().to_owned(),
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            match ratio {
                Some(Spread { median, low, high }) if low < high => format!("{median:.2} ({low:.2} .. {high:.2})"),
                ratio => number(ratio.map(|ratio| ratio.median), 2),
            },
            own,
            kafka,
            postgres,
            peak,
        ]);
    }
    if table.rows.is_empty() {
        return None;
    }
    let load = &results.load;
    let rounds = results.rounds.iter().map(|run| run.round).max().unwrap_or(0);
    let mut text = format!(
        "{} records of about {} B in {} partitions, {} writers, median of {rounds} interleaved rounds. CPU time is in seconds\n\
         for a million rows; ratios are taken pair by pair within a round.\n\n{table}",
        grouped(load.rows),
        load.record_bytes,
        load.partitions,
        load.writers,
    );
    let us = Contender::Sluicegate.name();
    for peer in [Contender::Franz, Contender::Sarama] {
        if let Some(ratio) = spread(ratios(results.rounds.iter(), us, peer.name())) {
            let Spread { median, low, high } = ratio;
            text += &format!("\nBeside {}: {median:.2} times the rows ({low:.2} .. {high:.2}).\n", peer.name());
        }
    }
    text += &others(results.rounds.iter().filter_map(|run| run.others_percent));
    Some(text + &stages(results))
}

/// A word on what else the machine was doing.
fn others(percents: impl Iterator<Item = f64>) -> String {
    let Some(percent) = median(percents) else { return String::new() };
    let verdict = if percent > OTHERS_PERCENT_MAX { ": too much to rely on these numbers" } else { "" };
    format!("\nOther processes took {percent:.0}% of the machine's CPU time meanwhile{verdict}.\n")
}

/// Where the program's CPU time goes, and what consuming and decoding do by themselves.
fn stages(results: &Results) -> String {
    let of = |contender: Contender| results.rounds.iter().filter(move |run| run.contender == contender.name());
    let own = |contender| cpu_s(of(contender), |run| Some(run.cpu_s));
    let rate = |contender| median(of(contender).map(|run| run.rows_per_s)).map_or("-".to_owned(), thousands);
    let Some(whole) = own(Contender::Sluicegate) else { return String::new() };
    let mut table = Table::new(&["threads of the program", "CPU s/1M", "share"]);
    for work in [FETCHING, DECODING, WRITING, OTHER_WORK] {
        let work_s = cpu_s(of(Contender::Sluicegate), |run| run.threads_cpu_s.get(work).copied());
        let share = work_s.map_or("-".to_owned(), |work_s| format!("{:.0}%", work_s / whole * 100.0));
        table.row([work.to_owned(), number(work_s, 2), share]);
    }
    table.row(["all".to_owned(), number(Some(whole), 2), "100%".to_owned()]);
    let mut alone = Table::new(&["alone", "rows/s", "CPU s/1M"]);
    for (name, contender) in
        [("consuming, as fast as it goes", Contender::Consumer), ("decoding in memory, one thread", Contender::Decode)]
    {
        alone.row([name.to_owned(), rate(contender), number(own(contender), 2)]);
    }
    let both = |run: &Run| Some(run.cpu_s + run.postgres_cpu_s?);
    let ledger = cpu_s(of(Contender::Sluicegate), both).zip(cpu_s(of(Contender::NoLedger), both));
    let ledger = ledger.map_or(String::new(), |(with, without)| {
        format!("\nThe ledger, in the program and in PostgreSQL together: {:+.2} CPU s/1M.\n", with - without)
    });
    format!("\n{table}\n{alone}{ledger}")
}

pub fn latency(results: &Results) -> Option<String> {
    let mut table = Table::new(&["rate", "records/s", "p50 ms", "p99 ms", "max ms", "produced/s", "behind at the end"]);
    for latency in &results.latency {
        table.row([
            format!("{}%", latency.percent),
            thousands(latency.records_per_s),
            number(Some(latency.p50_ms), 0),
            number(Some(latency.p99_ms), 0),
            number(Some(latency.max_ms), 0),
            thousands(latency.produced_per_s),
            grouped(latency.behind_records),
        ]);
    }
    let look_every_ms = median(results.latency.iter().map(|latency| latency.look_every_ms))?;
    let others = others(results.latency.iter().filter_map(|latency| latency.others_percent));
    Some(format!(
        "From produced to visible, default settings, at shares of the rate that the rounds reached. The producer, the\n\
         broker, PostgreSQL and the observer share the cores with the program, which had them without a producer in the\n\
         rounds: near the top that is the queue of a full machine. Seen to {look_every_ms:.1} ms.\n\n{table}{others}"
    ))
}

pub fn footprint(results: &Results) -> Option<String> {
    let footprint = results.footprint.as_ref()?;
    let start = spread(footprint.start_ms.iter().copied())?;
    let mut table = Table::new(&["at rest", ""]);
    let ready = format!("{:.0} ms ({:.0} .. {:.0})", start.median, start.low, start.high);
    table.row(["from exec to ready, dependencies up".into(), ready]);
    let idle = format!("{:.1}% of a core", footprint.idle_cpu_percent);
    table.row([format!("CPU with {} assigned, empty partitions", results.load.partitions), idle]);
    table.row(["memory then".into(), format!("{:.0} MB", footprint.idle_memory_mb)]);
    let stripped = footprint.stripped_mb.map_or(String::new(), |mb| format!(", {mb:.1} MB stripped"));
    table.row(["the binary, with line tables".into(), format!("{:.1} MB{stripped}", footprint.binary_mb)]);
    Some(table.to_string())
}

/// One point of a curve, over all its rounds.
pub struct Point {
    pub at: u64,
    pub rate: f64,
    pub raw_rate: f64,
    pub ratio: f64,
    pub cpu_s: f64,
    pub memory_peak_mb: f64,
    pub rows_per_transaction: f64,
}

pub fn points(results: &Results, over: &str) -> Vec<Point> {
    let of_curve = |growth: &&Growth| growth.over == over;
    let mut ats: Vec<u64> = results.growth.iter().filter(of_curve).map(|growth| growth.at).collect();
    ats.sort_unstable();
    ats.dedup();
    let (us, raw) = (Contender::Sluicegate.name(), Contender::RawCopy.name());
    let point = |at: u64| {
        let runs = results.growth.iter().filter(|growth| growth.over == over && growth.at == at);
        let runs = runs.map(|growth| &growth.run);
        let of = |contender: &'static str| runs.clone().filter(move |run| run.contender == contender);
        Some(Point {
            at,
            rate: median(of(us).map(|run| run.rows_per_s))?,
            raw_rate: median(of(raw).map(|run| run.rows_per_s))?,
            ratio: median(ratios(runs.clone(), us, raw))?,
            cpu_s: cpu_s(of(us), |run| Some(run.cpu_s))?,
            memory_peak_mb: spread(of(us).filter_map(|run| run.memory_peak_mb))?.high,
            rows_per_transaction: median(of(us).filter_map(|run| run.rows_per_transaction))?,
        })
    };
    ats.into_iter().filter_map(point).collect()
}

pub fn growth(results: &Results) -> Option<String> {
    let mut table =
        Table::new(&["over", "at", "rows/s", "raw copy", "of raw copy", "CPU s/1M", "peak MB", "rows/transaction"]);
    for over in CURVES {
        for point in points(results, over) {
            table.row([
                over.to_owned(),
                grouped(point.at),
                thousands(point.rate),
                thousands(point.raw_rate),
                format!("{:.2}", point.ratio),
                number(Some(point.cpu_s), 2),
                number(Some(point.memory_peak_mb), 0),
                grouped(point.rows_per_transaction as u64),
            ]);
        }
    }
    if table.rows.is_empty() {
        return None;
    }
    let rounds = results.growth.iter().map(|growth| growth.run.round).max().unwrap_or(0);
    Some(format!("Where one thing varies and the rest stays as it is, median of {rounds} rounds.\n\n{table}"))
}

pub fn growth_latency(results: &Results) -> Option<String> {
    let mut table = Table::new(&["over", "at", "records/s", "p50 ms", "p99 ms", "max ms", "behind at the end"]);
    for point in &results.growth_latency {
        let latency = &point.latency;
        table.row([
            point.over.clone(),
            grouped(point.at),
            thousands(latency.records_per_s),
            number(Some(latency.p50_ms), 0),
            number(Some(latency.p99_ms), 0),
            number(Some(latency.max_ms), 0),
            grouped(latency.behind_records),
        ]);
    }
    let percent = results.growth_latency.first()?.latency.percent;
    let others = others(results.growth_latency.iter().filter_map(|point| point.latency.others_percent));
    Some(format!(
        "From produced to visible, at {percent}% of the rate that each point reaches, measured once.\n\n{table}{others}"
    ))
}

pub fn away(results: &Results) -> Option<String> {
    let mut table = Table::new(&["partitions", "records", "peak MB before", "PostgreSQL stopped", "all written"]);
    for away in &results.away {
        table.row([
            away.partitions.to_string(),
            format!("{} of {} B", grouped(away.rows), grouped(away.record_bytes as u64)),
            number(Some(away.before_mb), 0),
            number(Some(away.away_mb), 0),
            number(Some(away.after_mb), 0),
        ]);
    }
    let away_s = median(results.away.iter().map(|away| away.away_s))?;
    Some(format!("Memory while PostgreSQL is stopped for {away_s:.0} s and the topic is full.\n\n{table}"))
}

/// CPU seconds for a million rows.
fn cpu_s<'a>(runs: impl Iterator<Item = &'a Run>, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    median(runs.filter_map(|run| of(run).map(|cpu_s| cpu_s * 1e6 / run.rows as f64)))
}

/// What runs cost, in the cells of a table: CPU seconds of the contender itself, of Kafka and of PostgreSQL, and the
/// highest peak of memory.
fn costs<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> [String; 4] {
    let peak = spread(runs.clone().filter_map(|run| run.memory_peak_mb)).map(|peak| peak.high);
    [
        number(cpu_s(runs.clone(), |run| Some(run.cpu_s)), 2),
        number(cpu_s(runs.clone(), |run| run.kafka_cpu_s), 2),
        number(cpu_s(runs, |run| run.postgres_cpu_s), 2),
        number(peak, 0),
    ]
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// To the nearest hundred, or the nearest one where that matters.
fn thousands(value: f64) -> String {
    let step = if value < 10_000.0 { 1.0 } else { 100.0 };
    grouped(((value / step).round() * step) as u64)
}

pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table in Markdown, with its columns aligned for people who read it as text.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.head.len(), "a cell for each column");
        self.rows.push(cells.into());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].len()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        for (index, line) in lines().enumerate() {
            write!(f, "|")?;
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, " {cell:<width$} |")?,
                    _ => write!(f, " {cell:>width$} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                write!(f, "|")?;
                for (column, width) in widths.iter().enumerate() {
                    let (line, end) = ("-".repeat(width - 1), if column == 0 { '-' } else { ':' });
                    write!(f, " {line}{end} |")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
