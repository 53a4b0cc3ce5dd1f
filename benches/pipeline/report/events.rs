//! What the runs of the events flow come to.

use super::{Table, costs, grouped, number, others, spread, thousands};
use crate::events::{Contender, PARTITIONS, WRITERS};
use crate::results::{Events, Results, Spread, median, ratios};

/// The contenders side by side.
pub fn table(results: &Results) -> Option<String> {
    let Events { load, runs, .. } = results.events.as_ref()?;
    let of = |contender: Contender| runs.iter().filter(move |run| run.contender == contender.name());
    let ratio = |of: Contender, over: Contender| spread(ratios(runs.iter(), of.name(), over.name()));
    let mut table = Table::new(&[
        "",
        "events/s",
        "min .. max",
        "of raw copy",
        "CPU s/1M: own",
        "Kafka",
        "PostgreSQL",
        "peak MB",
        "rows/transaction",
    ]);
    for contender in Contender::ALL {
        let Some(rate) = spread(of(contender).map(|run| run.rows_per_s)) else { continue };
        let rows = median(of(contender).filter_map(|run| run.rows_per_transaction));
        let [own, kafka, postgres, peak] = costs(of(contender));
        table.row([
            contender.name().to_owned(),
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            number(ratio(contender, Contender::RawCopy).map(|ratio| ratio.median), 2),
            own,
            kafka,
            postgres,
            peak,
            rows.map_or("-".to_owned(), |rows| grouped(rows as u64)),
        ]);
    }
    let rounds = runs.iter().map(|run| run.round).max()?;
    let mut text = format!(
        "{} events of about {} B in {PARTITIONS} partitions, each with an id of its own, {WRITERS} writers; median of {rounds} interleaved\n\
         rounds. CPU time is in seconds for a million events; ratios are taken pair by pair within a round.\n\n{table}",
        grouped(load.rows),
        load.record_bytes,
    );
    for (of, over) in [(Contender::Sluicegate, Contender::NoDedupe), (Contender::Failing, Contender::Sluicegate)] {
        if let Some(Spread { median, low, high }) = ratio(of, over) {
            text += &format!("\n*{}* beside *{}*: {median:.2} ({low:.2} .. {high:.2}).\n", of.name(), over.name());
        }
    }
    text += &others(runs.iter().filter_map(|run| run.others_percent));
    Some(text)
}

/// What failures cost the others.
pub fn steady(results: &Results) -> Option<String> {
    let Events { steady, .. } = results.events.as_ref()?;
    let rate = steady.first()?.1.records_per_s;
    let mut table = Table::new(&["", "p50 ms", "min .. max", "p99 ms", "min .. max"]);
    for contender in [Contender::Sluicegate, Contender::Failing] {
        let of = || steady.iter().filter(move |(name, _)| name == contender.name()).map(|(_, latency)| latency);
        let (p50, p99) = (spread(of().map(|latency| latency.p50_ms))?, spread(of().map(|latency| latency.p99_ms))?);
        let cells =
            |spread: Spread| [format!("{:.1}", spread.median), format!("{:.1} .. {:.1}", spread.low, spread.high)];
        let ([p50, p50_range], [p99, p99_range]) = (cells(p50), cells(p99));
        table.row([contender.name().to_owned(), p50, p50_range, p99, p99_range]);
    }
    Some(format!("From produced to visible at {} events/s, by rounds in turn.\n\n{table}", thousands(rate)))
}
