//! The contender that only consumes: the program's own consumer with its lanes, one thread a lane, and nothing done
//! with a record but counting it. The bench starts itself as this, so that its CPU and memory are read like others'.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluicegate::config::{Sources, Start as StartAt};
use sluicegate::engine::{Event, Lane, Seen, Source};
use sluicegate::kafka::{Consumer, ConsumerConfig, Start};

use crate::peers::Told;
use crate::process;

/// As long as a partition thread of the program waits.
const WAIT: Duration = Duration::from_millis(100);

/// Reads so many records of the flow's topic, with the flow's settings, and prints what that took.
pub fn consume(rows: u64) {
    let config = Sources::here(None, Vec::new()).load().unwrap_or_else(|findings| panic!("{findings}"));
    let flow = &config.flows["status"];
    let mut source = Consumer::new(&ConsumerConfig {
        brokers: config.kafka.brokers.join(","),
        group_id: flow.group_id.clone(),
        topics: vec![flow.topic.clone()],
        start: if flow.start == StartAt::Earliest { Start::Earliest } else { Start::Latest },
        session_timeout_ms: flow.session_timeout.as_millis() as u64,
        fetch_memory_bytes: flow.fetch_memory_bytes as u64,
        fetch_min_bytes: None,
        fetch_max_bytes: None,
        partitions: flow.partitions as u32,
        poll_interval_ms: 60_000,
        topic_ids: true,
        options: config.kafka.options.clone(),
    })
    .expect("a consumer");
    let partitions = loop {
        match source.next_event(WAIT) {
            Some(Event::Assigned(partitions)) => break partitions,
            Some(other) => panic!("{other:?} before partitions were assigned"),
            None => {}
        }
    };
    let at: Vec<_> = partitions
        .into_iter()
        .map(|partition| source.first_offset(&partition).map(|offset| (partition, offset)).expect("an offset"))
        .collect();
    let lanes = source.open(&at).expect("lanes");

    let (seen, first, end) = (AtomicU64::new(0), OnceLock::new(), OnceLock::new());
    std::thread::scope(|scope| {
        for mut lane in lanes {
            let (seen, first, end) = (&seen, &first, &end);
            scope.spawn(move || {
                while seen.load(Ordering::Relaxed) < rows {
                    let mut count = 0;
                    let taken = lane.take(flow.batch_rows_max, flow.batch_bytes_max, WAIT, &mut |_| {
                        count += 1;
                        Ok(Seen::Taken)
                    });
                    taken.expect("records");
                    if count > 0 {
                        first.get_or_init(|| (Instant::now(), count));
                        if seen.fetch_add(count, Ordering::Relaxed) + count >= rows {
                            end.get_or_init(Instant::now);
                        }
                    }
                }
            });
        }
        while end.get().is_none() {
            source.next_event(WAIT);
        }
    });
    let (Some((first, before)), Some(end)) = (first.get(), end.get()) else { unreachable!("all threads have ended") };
    let seconds = (*end - *first).as_secs_f64();
    let pid = std::process::id();
    let told = Told {
        rows: seen.into_inner(),
        rows_per_s: (rows - before) as f64 / seconds,
        cpu_s: process::cpu_s(pid).expect("its own CPU time"),
        peak_mb: process::memory_peak_mb(pid).expect("its own memory"),
    };
    println!("{}", serde_json::to_string(&told).expect("numbers"));
    // Leaving the group in order is not measured, and nobody else is in it.
    std::process::exit(0);
}
