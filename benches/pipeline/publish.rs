//! Where a run goes: into target/bench/, and when it is published, into benches/runs/, the pictures, and the marked
//! places of README.md and docs/BENCH.md. What a run did not measure stays there as it was.

use std::fs;
use std::path::{Path, PathBuf};

use crate::results::Results;
use crate::{plot, report};

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Keeps the run where git does not look.
pub fn keep(results: &Results) -> PathBuf {
    write(&format!("target/bench/{}", file_name(results)), &json(results))
}

/// Fewer rounds than this say nothing that could be published.
pub const ROUNDS_MIN: u64 = 5;

pub fn publish(results: &Results) {
    let rounds =
        |of: Option<u64>| assert!(of.is_none_or(|rounds| rounds >= ROUNDS_MIN), "{ROUNDS_MIN} rounds at least");
    rounds(results.rounds.iter().map(|run| run.round).max());
    rounds(results.growth.iter().map(|growth| growth.run.round).max());
    rounds(results.orders.iter().flat_map(|orders| orders.runs.iter().map(|run| run.round)).max());
    rounds(results.events.iter().flat_map(|events| events.runs.iter().map(|run| run.round)).max());
    rounds(results.cdc.iter().flat_map(|cdc| cdc.runs.iter().map(|run| run.round)).max());
    rounds(results.accept.iter().map(|accept| accept.round).max());
    let run = format!("benches/runs/{}", file_name(results));
    write(&run, &json(results));
    let measured_on =
        |link: &str| format!("{}. Every single run: [{}]({link}{run}).\n", results.machine.line(), &run[8..]);
    if let Some(rounds) = report::rounds(results) {
        write("docs/img/bench-rates.svg", &plot::rates(results));
        let picture = "![Rows per second of each contender](docs/img/bench-rates.svg)\n".to_owned();
        let parts = [Some(picture), Some(rounds), report::latency(results), report::footprint(results)];
        let parts = parts.into_iter().flatten().chain([measured_on("")]).collect::<Vec<_>>();
        mark("README.md", "bench", &parts.join("\n"));
    }
    if let Some(growth) = report::growth(results) {
        write("docs/img/bench-growth.svg", &plot::growth(results));
        let picture = "![Rates and memory as the load grows](img/bench-growth.svg)\n".to_owned();
        mark("docs/BENCH.md", "growth", &[picture, growth, measured_on("../")].join("\n"));
    }
    if let Some(latency) = report::growth_latency(results) {
        mark("docs/BENCH.md", "growth-latency", &[latency, measured_on("../")].join("\n"));
    }
    if let Some(away) = report::away(results) {
        mark("docs/BENCH.md", "away", &[away, measured_on("../")].join("\n"));
    }
    if let Some((table, line)) = report::orders::table(results).zip(report::orders::line(results)) {
        mark("docs/BENCH.md", "orders", &[table, measured_on("../")].join("\n"));
        mark("README.md", "orders", &line);
    }
    if let Some((table, steady)) = report::events::table(results).zip(report::events::steady(results)) {
        mark("docs/BENCH.md", "events", &[table, steady, measured_on("../")].join("\n"));
    }
    if let Some(table) = report::cdc::table(results) {
        mark("docs/BENCH.md", "cdc", &[table, measured_on("../")].join("\n"));
    }
    if let Some(tickets) = report::tickets::table(results) {
        mark("docs/BENCH.md", "tickets", &[tickets, measured_on("../")].join("\n"));
    }
    if let Some(accept) = report::orders::accept(results) {
        mark("docs/BENCH.md", "accept", &[accept, measured_on("../")].join("\n"));
    }
}

/// The minute and the commit: names sort by time.
fn file_name(results: &Results) -> String {
    let minute: String = results.date.chars().take(16).filter(|letter| *letter != ':').collect();
    format!("{minute}-{}.json", results.machine.commit.trim_end_matches('+'))
}

fn json(results: &Results) -> String {
    serde_json::to_string_pretty(results).expect("numbers and names") + "\n"
}

fn write(path: &str, text: &str) -> PathBuf {
    let path = checkout().join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Puts text between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
fn mark(path: &str, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let former = fs::read_to_string(checkout().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let parts = former.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.unwrap_or_else(|| panic!("{path} has no {} ... {end}", begin.trim_end()));
    write(path, &format!("{before}{begin}{text}{end}{after}"));
}
