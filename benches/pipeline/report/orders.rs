//! What the runs of the orders flow come to, and those of its desk.

use super::{Table, costs, cpu_s, grouped, number, others, spread, thousands};
use crate::orders::{Contender, SEED_WORKERS};
use crate::program::{DECODING, FETCHING, OTHER_WORK, TELLING, WRITING};
use crate::results::{Accept, Orders, Results, Run, Spread, median, ratios};

/// The contenders side by side, and where the program's CPU time goes.
pub fn table(results: &Results) -> Option<String> {
    let Orders { load, runs } = results.orders.as_ref()?;
    let of = |contender: Contender| runs.iter().filter(move |run| run.contender == contender.name());
    let ratio = |of: Contender, over: Contender| spread(ratios(runs.iter(), of.name(), over.name()));
    let mut table = Table::new(&[
        "",
        "orders/s",
        "min .. max",
        "told/s",
        "of raw copy",
        "seed's way",
        "CPU s/1M: own",
        "Kafka",
        "PostgreSQL",
        "peak MB",
    ]);
    for contender in Contender::ALL {
        let Some(rate) = spread(of(contender).map(|run| run.rows_per_s)) else { continue };
        let [own, kafka, postgres, peak] = costs(of(contender));
        table.row([
            contender.name().to_owned(),
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            median(of(contender).filter_map(|run| run.told_per_s)).map_or("-".to_owned(), thousands),
            number(ratio(contender, Contender::RawCopy).map(|ratio| ratio.median), 2),
            number(ratio(contender, Contender::Seed).map(|ratio| ratio.median), 1) + "x",
            own,
            kafka,
            postgres,
            peak,
        ]);
    }
    let rounds = runs.iter().map(|run| run.round).max()?;
    let mut text = format!(
        "{} orders of about {} B in {} partitions, keyed by customer, 90% of them for one product; {} writers, and {SEED_WORKERS}\n\
         workers of the seed's way; median of {rounds} interleaved rounds. *told/s* counts until others have been told of the\n\
         last order. CPU time is in seconds for a million orders; ratios are taken pair by pair within a round.\n\n{table}",
        grouped(load.rows),
        load.record_bytes,
        load.partitions,
        load.writers,
    );
    for (of, over) in [
        (Contender::Sluicegate, Contender::RawCopy),
        (Contender::NoEvents, Contender::RawCopy),
        (Contender::Sluicegate, Contender::Seed),
        (Contender::Buckets, Contender::Sluicegate),
    ] {
        if let Some(Spread { median, low, high }) = ratio(of, over) {
            text += &format!("\n*{}* beside *{}*: {median:.2} ({low:.2} .. {high:.2}).\n", of.name(), over.name());
        }
    }
    text += &others(runs.iter().filter_map(|run| run.others_percent));
    let whole = cpu_s(of(Contender::Sluicegate), |run| Some(run.cpu_s))?;
    Some(format!("{text}\n{}", threads(of(Contender::Sluicegate), whole)))
}

fn threads<'a>(runs: impl Iterator<Item = &'a Run> + Clone, whole_s: f64) -> Table {
    let mut table = Table::new(&["threads of the program", "CPU s/1M", "share"]);
    for (work, name) in [
        (FETCHING, "Kafka client: fetching, sending"),
        (DECODING, DECODING),
        (WRITING, "writers: deciding, COPY, the ledger"),
        (TELLING, TELLING),
        (OTHER_WORK, OTHER_WORK),
    ] {
        let work_s = cpu_s(runs.clone(), |run| run.threads_cpu_s.get(work).copied());
        let share = work_s.map_or("-".to_owned(), |work_s| format!("{:.0}%", work_s / whole_s * 100.0));
        table.row([name.to_owned(), number(work_s, 2), share]);
    }
    table.row(["all".to_owned(), number(Some(whole_s), 2), "100%".to_owned()]);
    table
}

/// What HTTP accepts.
pub fn accept(results: &Results) -> Option<String> {
    let mut endpoints: Vec<(&str, u64)> =
        results.accept.iter().map(|accept| (accept.endpoint.as_str(), accept.orders_per_request)).collect();
    endpoints.sort_by_key(|(_, orders)| *orders);
    endpoints.dedup();
    let mut table =
        Table::new(&["", "orders/s", "min .. max", "requests/s", "p50 ms", "p99 ms", "worst p99", "max ms", "failed"]);
    for (endpoint, orders) in &endpoints {
        let of = || results.accept.iter().filter(|accept| accept.endpoint == *endpoint);
        let of_each = |value: fn(&Accept) -> f64| spread(of().map(value));
        let (rate, p99) = (of_each(Accept::orders_per_s)?, of_each(|accept| accept.p99_ms)?);
        table.row([
            if *orders == 1 { format!("`{endpoint}`") } else { format!("`{endpoint}`, {orders} each") },
            thousands(rate.median),
            format!("{} .. {}", thousands(rate.low), thousands(rate.high)),
            thousands(rate.median / *orders as f64),
            number(of_each(|accept| accept.p50_ms).map(|p50| p50.median), 1),
            number(Some(p99.median), 1),
            number(Some(p99.high), 1),
            number(of_each(|accept| accept.max_ms).map(|max| max.high), 0),
            grouped(of().map(|accept| accept.failed).sum()),
        ]);
    }
    let first = results.accept.first()?;
    let rounds = results.accept.iter().map(|accept| accept.round).max()?;
    Some(format!(
        "Orders that HTTP accepts: wrk, {} connections that are kept and ask again as soon as they are answered, {:.0} s,\n\
         median of {rounds} rounds. An order is accepted when Kafka has acknowledged it; the flow writes it meanwhile. wrk,\n\
         Kafka, PostgreSQL and the program share {} cores.\n\n{table}",
        first.connections, first.seconds, results.machine.cores,
    ))
}

/// The figures in one sentence.
pub fn line(results: &Results) -> Option<String> {
    let Orders { load, runs } = results.orders.as_ref()?;
    let of = |contender: Contender| {
        median(runs.iter().filter(|run| run.contender == contender.name()).map(|run| run.rows_per_s))
    };
    let over = |other: Contender| median(ratios(runs.iter(), Contender::Sluicegate.name(), other.name()));
    let (us, quiet, raw) = (of(Contender::Sluicegate)?, of(Contender::NoEvents)?, over(Contender::RawCopy)?);
    let told = runs.iter().filter(|run| run.contender == Contender::Sluicegate.name());
    let told = median(told.filter_map(|run| run.told_per_s))?;
    let seed = over(Contender::Seed).map_or(String::new(), |seed| {
        format!(" That is {seed:.0} times one transaction for each order with `SELECT ... FOR UPDATE` and {SEED_WORKERS} workers.")
    });
    Some(format!(
        "Orders, 90% of them for one product: {} reserved per second while their events go to three topics,\n\
         the last of them at {} orders per second, or {} without events; {raw:.2} of raw COPY of finished rows with the same indexes\n\
         ({} orders).{seed}\n",
        thousands(us),
        thousands(told),
        thousands(quiet),
        grouped(load.rows),
    ))
}
