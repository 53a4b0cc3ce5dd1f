//! What comes of the real producer: from produced to visible, and the memory of both processes meanwhile.
//!
//! A record is *produced* at its own timestamp, which its producer gave it when it handed it to the Kafka client: whole
//! milliseconds, so that a latency is up to one too long. It is *visible* as in `latency`: when another session sees that
//! the ledger is past it.

use std::time::{Duration, Instant, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::meter::Meter;
use crate::process;
use crate::program::Program;
use crate::results::{Latency, Memory, median};
use crate::stage::{Settings, Stage};

/// Not measured: connections come up, and the broker compiles what producing needs.
const WARM_UP_S: f64 = 10.0;
/// How long the last records may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the ledger, and between two at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const WEIGH_EVERY: Duration = Duration::from_millis(250);

/// Which records come, and where to.
pub struct Supply<'a> {
    pub flow: &'a str,
    /// A new one, of so many partitions.
    pub topic: &'a str,
    pub partitions: u32,
    pub settings: &'a Settings,
    pub keys: u64,
    pub per_s: f64,
    /// That are measured, behind the warm-up.
    pub seconds: f64,
}

/// Each partition's offsets, and when they were first seen.
type Steps = Vec<Vec<(f64, i64)>>;

fn unix_ms() -> f64 {
    UNIX_EPOCH.elapsed().expect("a clock that is set").as_secs_f64() * 1e3
}

pub fn measure(stage: &Stage, supply: &Supply<'_>) -> (Latency, Memory) {
    let count = (supply.per_s * (WARM_UP_S + supply.seconds)) as u64;
    let meter = Meter::start(stage);
    let program = Program::start(supply.settings);
    program.await_ready();
    let (rate, all, keys) = (supply.per_s.to_string(), count.to_string(), supply.keys.to_string());
    let arguments = ["produce", supply.flow, "--rate", &rate, "--count", &all, "--keys", &keys];
    let producer = Program::start_with(supply.settings, &arguments);

    let mut client = stage.connect();
    let sql = "SELECT partition, next_offset FROM sluicegate_ledger WHERE flow = $1 AND topic = $2";
    let statement = client.prepare(sql).expect("prepared");
    let mut steps: Steps = vec![Vec::new(); supply.partitions as usize];
    let (mut memory, mut weighed_at, mut producer_cpu_s) = (Memory::default(), None::<Instant>, 0.0);
    let (mut looks, mut seen) = (Vec::new(), 0);
    let began = Instant::now();
    let limit = Duration::from_secs_f64(WARM_UP_S + supply.seconds) + PATIENCE;
    while seen < count {
        assert!(began.elapsed() < limit, "{seen} of {count} records came through within {limit:?}");
        let rows = client.query(&statement, &[&supply.flow, &supply.topic]).expect("the ledger");
        let now_ms = unix_ms();
        looks.push(now_ms);
        for row in rows {
            let (partition, next): (i32, i64) = (row.get(0), row.get(1));
            let steps = &mut steps[partition as usize];
            if steps.last().is_none_or(|(_, before)| *before < next) {
                steps.push((now_ms, next));
            }
        }
        seen = steps.iter().filter_map(|steps| steps.last()).map(|(_, next)| *next as u64).sum();
        if weighed_at.is_none_or(|at| at.elapsed() >= WEIGH_EVERY) {
            weighed_at = Some(Instant::now());
            // Once it has ended there is nothing to weigh any more.
            if let Some(producer_mb) = process::memory_mb(producer.pid()) {
                memory.producer_mb.push(producer_mb);
                memory.consumer_mb.push(process::memory_mb(program.pid()).expect("it runs"));
                producer_cpu_s = process::cpu_s(producer.pid()).unwrap_or(producer_cpu_s);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let others_percent = meter.finish(program.cpu_s() + producer_cpu_s).others_percent;
    producer.await_end();
    program.stop();

    let produced_ms = timestamps(stage, supply, count);
    let first_ms = produced_ms.iter().flatten().copied().min().expect("records") as f64;
    let last_ms = produced_ms.iter().flatten().copied().max().expect("records") as f64;
    let (mut latencies_ms, mut behind_records) = (Vec::with_capacity(count as usize), 0);
    for (produced_ms, steps) in produced_ms.iter().zip(&steps) {
        for (offset, produced_ms) in produced_ms.iter().enumerate() {
            let step = steps.partition_point(|(_, next)| *next <= offset as i64);
            behind_records += u64::from(steps[step].0 > last_ms);
            if *produced_ms as f64 >= first_ms + WARM_UP_S * 1e3 {
                latencies_ms.push(steps[step].0 - *produced_ms as f64);
            }
        }
    }
    latencies_ms.sort_by(f64::total_cmp);
    let at = |share: f64| latencies_ms[((latencies_ms.len() - 1) as f64 * share) as usize];
    let latency = Latency {
        percent: 0,
        sent: count,
        records_per_s: supply.per_s,
        produced_per_s: (count - 1) as f64 / (last_ms - first_ms) * 1e3,
        records: latencies_ms.len() as u64,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        behind_records,
        look_every_ms: median(looks.windows(2).map(|pair| pair[1] - pair[0])).unwrap_or(0.0),
        others_percent,
    };
    (latency, memory)
}

/// When each record was produced, by partition and offset: all of the topic is read again.
fn timestamps(stage: &Stage, supply: &Supply<'_>, count: u64) -> Vec<Vec<i64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &stage.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..supply.partitions as i32 {
        all.add_partition_offset(supply.topic, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&all).expect("assigned");
    let (mut found, mut left) = (vec![Vec::new(); supply.partitions as usize], count);
    while left > 0 {
        let record = consumer.poll(PATIENCE).expect("a record").expect("no error");
        let of = &mut found[record.partition() as usize];
        assert_eq!(record.offset(), of.len() as i64, "offsets without gaps");
        of.push(record.timestamp().to_millis().expect("a timestamp"));
        left -= 1;
    }
    found
}
