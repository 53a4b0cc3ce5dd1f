//! What the runs of the cdc flow come to.

use super::{Table, costs, grouped, others, spread, thousands};
use crate::cdc::{Contender, KEYS, PARTITIONS, WRITERS};
use crate::results::{Changes, Results, Spread, ratios};

/// The contenders side by side.
pub fn table(results: &Results) -> Option<String> {
    let Changes { load, runs } = results.cdc.as_ref()?;
    let of = |contender: Contender| runs.iter().filter(move |run| run.contender == contender.name());
    let mut table = Table::new(&["", "changes/s", "min .. max", "CPU s/1M: own", "Kafka", "PostgreSQL", "peak MB"]);
    for contender in Contender::ALL {
        let Some(rate) = spread(of(contender).map(|run| run.rows_per_s)) else { continue };
        let [own, kafka, postgres, peak] = costs(of(contender));
        table.row([
            contender.name().to_owned(),
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            own,
            kafka,
            postgres,
            peak,
        ]);
    }
    let rounds = runs.iter().map(|run| run.round).max()?;
    let mut text = format!(
        "{} changes of {} keys, of about {} B with their schema, 20% inserts, 70% updates, 10% deletes, 8 columns, {PARTITIONS} partitions,\n\
         {WRITERS} writers; median of {rounds} interleaved rounds. CPU time is in seconds for a million changes; ratios are taken pair\n\
         by pair within a round.\n\n{table}",
        grouped(load.rows),
        grouped(KEYS),
        load.record_bytes,
    );
    if let Some(Spread { median, low, high }) =
        spread(ratios(runs.iter(), Contender::Sluicegate.name(), Contender::JdbcSink.name()))
    {
        text += &format!("\nBeside the JDBC sink: {median:.1} times the changes ({low:.1} .. {high:.1}).\n");
    }
    text += &others(runs.iter().filter_map(|run| run.others_percent));
    Some(text)
}
