//! What the runs of the tickets flow come to.

use super::{Table, costs, grouped, number, others, spread, thousands};
use crate::results::{Results, Tickets, ratios, thirds};
use crate::tickets::{PARTITIONS, RAW_COPY, SLUICEGATE, WRITERS};

pub fn table(results: &Results) -> Option<String> {
    let Tickets { load, runs, steady, hour } = results.tickets.as_ref()?;
    let of = |contender: &'static str| runs.iter().filter(move |run| run.contender == contender);
    let mut table =
        Table::new(&["", "tickets/s", "min .. max", "of raw copy", "CPU s/1M: own", "Kafka", "PostgreSQL", "peak MB"]);
    for contender in [RAW_COPY, SLUICEGATE] {
        let Some(rate) = spread(of(contender).map(|run| run.rows_per_s)) else { continue };
        let ratio = spread(ratios(runs.iter(), contender, RAW_COPY));
        let [own, kafka, postgres, peak] = costs(of(contender));
        table.row([
            contender.to_owned(),
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            number(ratio.map(|ratio| ratio.median), 2),
            own,
            kafka,
            postgres,
            peak,
        ]);
    }
    let rounds = runs.iter().map(|run| run.round).max()?;
    let mut text = format!(
        "{} tickets of about {} B in {PARTITIONS} partitions, each checked to be the next one of its order, {WRITERS} writers; median of\n\
         {rounds} interleaved rounds. CPU time is in seconds for a million tickets; ratios are taken pair by pair within a round.\n\n{table}",
        grouped(load.rows),
        load.record_bytes,
    );
    text += &others(runs.iter().filter_map(|run| run.others_percent));
    let per_s = steady.first().map(|latency| latency.records_per_s);
    let produced = spread(steady.iter().map(|latency| latency.produced_per_s));
    let p50 = spread(steady.iter().map(|latency| latency.p50_ms));
    let p99 = spread(steady.iter().map(|latency| latency.p99_ms));
    if let (Some(per_s), Some(produced), Some(p50), Some(p99)) = (per_s, produced, p50, p99) {
        let seconds = steady.first().map_or(0.0, |latency| latency.records as f64 / latency.records_per_s);
        text += &format!(
            "\nFrom produced to visible at {per_s:.0} tickets/s for {seconds:.0} s, out of `sluicegate produce`, which kept {:.2}/s: p50 {:.1} ms\n\
             ({:.1} .. {:.1}), p99 {:.1} ms ({:.1} .. {:.1}).\n",
            produced.median, p50.median, p50.low, p50.high, p99.median, p99.low, p99.high
        );
    }
    if let Some((latency, memory)) = hour
        && let Some(((consumer, consumer_then), (producer, producer_then))) =
            thirds(&memory.consumer_mb).zip(thirds(&memory.producer_mb))
    {
        text += &format!(
            "\n{} tickets at {}/s, of which the producer kept {:.0}/s: the program holds {consumer:.1} MB in the first third of that time and {consumer_then:.1} MB in the\n\
             last, the producer {producer:.1} MB and {producer_then:.1} MB (medians of resident memory); p50 {:.1} ms, p99 {:.1} ms, {} behind at the end.\n",
            grouped(latency.sent),
            grouped(latency.records_per_s as u64),
            latency.produced_per_s,
            latency.p50_ms,
            latency.p99_ms,
            latency.behind_records,
        );
        text += &others(latency.others_percent.into_iter());
    }
    Some(text)
}
