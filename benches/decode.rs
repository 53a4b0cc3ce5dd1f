//! Decode alone, in memory: nanoseconds a record from Avro to binary COPY. `cargo bench --bench decode`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::engine::Rows;
use sluicegate::flow::{Flow, Status, sample};
use sluicegate::pg::copy::CopyRows;
use sluicegate::record::{NoHeaders, Partition, Record};

const RECORDS: u64 = 2_500;

fn decode(criterion: &mut Criterion) {
    let status = Status::new("processed_seed_status", &[]).expect("the flow");
    let updates = sample("status").expect("samples");
    let payloads: Vec<Vec<u8>> = (0..RECORDS)
        .map(|number| {
            let mut out = Vec::new();
            updates.payload(number, &mut out);
            out
        })
        .collect();
    let partition = Partition::new("t", 0);
    let mut rows = CopyRows::default();
    let mut group = criterion.benchmark_group("status");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("decode a batch of 2,500", |bench| {
        bench.iter(|| {
            rows.clear();
            for (offset, payload) in payloads.iter().enumerate() {
                let record = Record {
                    partition: &partition,
                    offset: offset as i64,
                    timestamp_ms: None,
                    key: None,
                    payload: Some(payload),
                    headers: &NoHeaders,
                };
                status.decode(&record, &mut rows).expect("a row");
            }
            black_box(rows.as_bytes().len())
        });
    });
}

criterion_group!(benches, decode);
criterion_main!(benches);
