//! From produced to visible, at rates below what the program reaches.
//!
//! A record is *produced* at the moment that the even spacing of the rate gives it, not when a producer that is late
//! comes to it: a stall then counts for every record that it held up. It is *visible* when a transaction that another
//! session begins sees it. The ledger says when that is: its rows are moved in the transaction that writes the records,
//! so a record is visible as soon as the ledger's offset is past it. One look at the ledger costs a fraction of a
//! millisecond, and finds out about all partitions. (The commit times that PostgreSQL can keep would cost nothing to
//! ask for, but they are taken before the COMMIT is flushed to disk and leave that wait out.)

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluicegate::kafka::Producer;

use crate::meter::Meter;
use crate::program::Program;
use crate::records::Payloads;
use crate::results::{Latency, Load, median};
use crate::stage::{Settings, Stage};

/// Not measured: connections and batches come up to the rate, and the broker compiles what producing needs, which the
/// rounds did not ask of it.
const WARM_UP_S: f64 = 10.0;
pub const MEASURED_S: f64 = 15.0;
/// How long the last records may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks of the observer.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Between two turns of the producer, which hands over what has become due.
const TURN: Duration = Duration::from_millis(1);
/// librdkafka's own default.
const LINGER_MS: &str = "5";
/// How long the producer stays with a partition before it goes on to the next: what librdkafka does by default with
/// records that have no key (`sticky.partitioning.linger.ms`). Here it does so by count, so that a record's number says
/// where it is.
const STICKY_S: f64 = 0.010;

/// What the observer saw: when each partition's offset was first seen where.
struct Seen {
    steps: Vec<Vec<(Duration, i64)>>,
    looks: Vec<Instant>,
}

/// Which record is where in the new topic, whose producer keeps order: stretches of records go around the partitions.
struct Places {
    partitions: u64,
    stretch: u64,
    records: u64,
}

impl Places {
    fn partition(&self, number: u64) -> i32 {
        (number / self.stretch % self.partitions) as i32
    }

    /// The records of one partition in the order of their offsets.
    fn numbers(&self, partition: u64) -> impl Iterator<Item = u64> {
        (partition * self.stretch..self.records)
            .step_by((self.stretch * self.partitions) as usize)
            .flat_map(|first| first..self.records.min(first + self.stretch))
    }
}

impl Seen {
    fn next_offsets(&self) -> i64 {
        self.steps.iter().filter_map(|steps| steps.last()).map(|(_, next)| next).sum()
    }
}

/// Into which flow records come, and what they are.
pub struct Offer<'a> {
    pub flow: &'a str,
    /// A new one, of so many partitions.
    pub topic: &'a str,
    pub partitions: u32,
    pub settings: &'a Settings,
    pub payload: &'a (dyn Fn(u64, &mut Vec<u8>) + Sync),
}

/// Of status records, at a share of what was reached.
pub fn at_percent(stage: &Stage, load: &Load, percent: u32, reached_per_s: f64, measured_s: f64) -> Latency {
    let topic = stage.new_topic(load);
    stage.clean();
    let payloads = Payloads::new(load.record_bytes);
    let offer = Offer {
        flow: "status",
        topic: &topic,
        partitions: load.partitions,
        settings: &stage.settings(load, &topic),
        payload: &|number, out| payloads.append(number, out),
    };
    let rate = reached_per_s * f64::from(percent) / 100.0;
    let latency = measure(stage, &offer, rate, measured_s);
    assert_eq!(stage.count(), latency.sent, "every record is a row");
    Latency { percent, ..latency }
}

pub fn measure(stage: &Stage, offer: &Offer<'_>, rate: f64, measured_s: f64) -> Latency {
    let records = (rate * (WARM_UP_S + measured_s)) as u64;
    let meter = Meter::start(stage);
    let program = Program::start(offer.settings);
    program.await_ready();

    let partitions = u64::from(offer.partitions);
    let places = Places { partitions, stretch: ((rate * STICKY_S) as u64).max(1), records };
    let gone = AtomicBool::new(false);
    let begin = Instant::now();
    let (seen, took, behind_records) = std::thread::scope(|scope| {
        let observer = scope.spawn(|| observe(stage, offer, &places, begin, &gone));
        let took = produce(stage, offer, &places, rate, begin);
        let behind = records.saturating_sub(stage.applied(offer.topic)());
        let deadline = Instant::now() + PATIENCE;
        while !observer.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        gone.store(true, Ordering::Release);
        (observer.join().expect("the observer's own errors are panics"), took, behind)
    });
    let others_percent = meter.finish(program.cpu_s()).others_percent;
    program.stop();
    assert_eq!(seen.next_offsets() as u64, records, "every record came through at {rate:.0}/s within {PATIENCE:?}");

    let mut latencies_ms = latencies_ms(&seen, &places, rate);
    latencies_ms.sort_by(f64::total_cmp);
    let at = |share: f64| latencies_ms[((latencies_ms.len() - 1) as f64 * share) as usize];
    let pauses = seen.looks.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3);
    Latency {
        percent: 0,
        sent: records,
        records_per_s: rate,
        produced_per_s: records as f64 / took.as_secs_f64(),
        records: latencies_ms.len() as u64,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        behind_records,
        look_every_ms: median(pauses).unwrap_or(0.0),
        others_percent,
    }
}

/// Record `n` is due at `n / rate`, and `places` says where it goes.
fn produce(stage: &Stage, offer: &Offer<'_>, places: &Places, rate: f64, begin: Instant) -> Duration {
    let records = places.records;
    let options = BTreeMap::from([("linger.ms".to_owned(), LINGER_MS.to_owned())]);
    let producer = Producer::new(&stage.brokers, &options, offer.topic).expect("a producer");
    let mut payload = Vec::new();
    let mut number = 0;
    while number < records {
        let due = records.min((begin.elapsed().as_secs_f64() * rate) as u64);
        while number < due {
            payload.clear();
            (offer.payload)(number, &mut payload);
            producer.send(Some(places.partition(number)), None, &payload).expect("the broker takes records");
            number += 1;
        }
        std::thread::sleep(TURN);
    }
    let took = begin.elapsed();
    let (sent, fault) = producer.finish();
    assert_eq!((sent.delivered, fault), (records, None), "every record is in the topic");
    took
}

fn observe(stage: &Stage, offer: &Offer<'_>, places: &Places, begin: Instant, gone: &AtomicBool) -> Seen {
    let mut client = stage.connect();
    let sql = "SELECT partition, next_offset FROM sluicegate_ledger WHERE flow = $1 AND topic = $2";
    let statement = client.prepare(sql).expect("prepared");
    let mut seen = Seen { steps: vec![Vec::new(); places.partitions as usize], looks: Vec::new() };
    while (seen.next_offsets() as u64) < places.records && !gone.load(Ordering::Acquire) {
        let rows = client.query(&statement, &[&offer.flow, &offer.topic]).expect("the ledger");
        let now = begin.elapsed();
        seen.looks.push(Instant::now());
        for row in rows {
            let (partition, next): (i32, i64) = (row.get(0), row.get(1));
            let steps = &mut seen.steps[partition as usize];
            if steps.last().is_none_or(|(_, before)| *before < next) {
                steps.push((now, next));
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    seen
}

/// Of each record after the warm-up.
fn latencies_ms(seen: &Seen, places: &Places, rate: f64) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(places.records as usize);
    for (partition, steps) in seen.steps.iter().enumerate() {
        let mut steps = steps.iter();
        let mut step = steps.next();
        for (offset, number) in places.numbers(partition as u64).enumerate() {
            while step.is_some_and(|(_, next)| *next <= offset as i64) {
                step = steps.next();
            }
            let (visible, _) = step.expect("every record was seen");
            let produced_s = number as f64 / rate;
            if produced_s >= WARM_UP_S {
                latencies.push((visible.as_secs_f64() - produced_s) * 1e3);
            }
        }
    }
    latencies
}
