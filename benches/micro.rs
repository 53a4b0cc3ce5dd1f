//! The program's small steps by themselves: `cargo bench --bench micro`. The ledger needs a PostgreSQL at `DB_URL`;
//! `scripts/services with bench cargo bench --bench micro` brings one.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openssl::ssl::{SslConnector, SslMethod};
use rayon::prelude::*;
use sluicegate::engine::{Batch, Claim, Claims, Rows, Wanted};
use sluicegate::flow::{Flow, Sample, Status, sample};
use sluicegate::pg::copy::CopyRows;
use sluicegate::pg::ledger::{self, Move};
use sluicegate::pg::{Database, SessionOptions};
use sluicegate::record::{NoHeaders, Partition, Record};

/// The rows of a batch, by default.
const RECORDS: u64 = 2_500;
/// As many batches as the default group holds, and as many partitions as the default topic has.
const BATCHES: [usize; 3] = [1, 4, 20];
/// Records that are decoded together, up to a batch that no default comes near.
const DECODED: [u64; 4] = [250, 2_500, 25_000, 250_000];
const FLOW: &str = "bench-micro";

fn payloads(updates: &dyn Sample, records: u64) -> Vec<Vec<u8>> {
    let payload = |number| {
        let mut out = Vec::new();
        updates.payload(number, &mut out);
        out
    };
    (0..records).map(payload).collect()
}

fn decode_all(status: &Status, partition: &Partition, payloads: &[Vec<u8>], rows: &mut CopyRows) {
    for (offset, payload) in payloads.iter().enumerate() {
        let record = Record {
            partition,
            offset: offset as i64,
            timestamp_ms: None,
            key: None,
            payload: Some(payload),
            headers: &NoHeaders,
        };
        status.decode(&record, rows).expect("a row");
    }
}

/// From Avro to binary COPY, in the partition's own thread, and forked over all cores for the case that partitions are
/// fewer than cores.
fn decode(criterion: &mut Criterion) {
    let status = Status::new("processed_seed_status", &[]).expect("the flow");
    let updates = sample("status", None).expect("samples");
    let partition = Partition::new("t", 0);
    let mut group = criterion.benchmark_group("decode");
    for records in DECODED {
        let payloads = payloads(&*updates, records);
        group.throughput(Throughput::Elements(records));
        let mut rows = CopyRows::default();
        group.bench_function(format!("{records} records, one thread"), |bench| {
            bench.iter(|| {
                rows.clear();
                decode_all(&status, &partition, &payloads, &mut rows);
                black_box(rows.as_bytes().len())
            });
        });
        let threads = rayon::current_num_threads();
        let part_len = payloads.len().div_ceil(threads);
        let mut parts = vec![CopyRows::default(); threads];
        group.bench_function(format!("{records} records, forked over {threads}"), |bench| {
            bench.iter(|| {
                parts.par_iter_mut().zip(payloads.par_chunks(part_len)).for_each(|(rows, payloads)| {
                    rows.clear();
                    decode_all(&status, &partition, payloads, rows);
                });
                black_box(parts.iter().map(|rows| rows.as_bytes().len()).sum::<usize>())
            });
        });
    }
}

fn encode(criterion: &mut Criterion) {
    let updates = sample("status", None).expect("samples");
    let mut out = Vec::new();
    let mut group = criterion.benchmark_group("sample");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("encode 2,500 records", |bench| {
        bench.iter(|| {
            out.clear();
            (0..RECORDS).for_each(|number| updates.payload(number, &mut out));
            black_box(out.len())
        });
    });
}

/// What a partition thread does with its records: decode each into the batch, and empty the batch for the next ones.
fn batch(criterion: &mut Criterion) {
    let status = Status::new("processed_seed_status", &[]).expect("the flow");
    let payloads = payloads(&*sample("status", None).expect("samples"), RECORDS);
    let partition = Partition::new("t", 0);
    let mut batch: Batch<CopyRows> = Batch::new(Claim::new(partition.clone(), 1, 0), 0);
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("add 2,500 decoded rows and reset", |bench| {
        bench.iter(|| {
            batch.reset(0);
            for (offset, payload) in payloads.iter().enumerate() {
                let record = Record {
                    partition: &partition,
                    offset: offset as i64,
                    timestamp_ms: None,
                    key: None,
                    payload: Some(payload),
                    headers: &NoHeaders,
                };
                batch.add(&record, |record, rows| status.decode(record, rows)).expect("a row");
            }
            black_box(batch.bytes())
        });
    });
}

/// What the guarantee adds to a transaction: rows locked and compared, rows moved. The commit is not waited for, or
/// the disk would be all there is to see.
fn ledger(criterion: &mut Criterion) {
    let Some(url) = std::env::var("DB_URL").ok().filter(|url| !url.is_empty()) else {
        println!("ledger: skipped, DB_URL is not set; `scripts/services with bench cargo bench --bench micro` sets it");
        return;
    };
    let database = database(&url);
    let mut session = database.session().expect("PostgreSQL answers");
    let mut work = session.begin().expect("a transaction");
    work.run(ledger::CREATE).expect("the ledger");
    work.commit().expect("committed");

    let mut group = criterion.benchmark_group("ledger");
    for batches in BATCHES {
        let partitions: Vec<Partition> = (0..batches).map(|id| Partition::new("t", id as i32)).collect();
        let wanted: Vec<Wanted> = partitions
            .iter()
            .map(|partition| Wanted { partition: partition.clone(), incarnation: String::new(), first_offset: Some(0) })
            .collect();
        let Claims::Made(claims) = ledger::claim(&database, FLOW, "bench", &wanted).expect("claims") else {
            panic!("each comes with its first offset");
        };
        let mut moves: Vec<Move<'_>> = claims
            .iter()
            .zip(&partitions)
            .map(|(claim, partition)| {
                let claim = claim.as_ref().expect("a claim");
                Move { partition, epoch: claim.epoch, first: claim.next_offset, next: claim.next_offset + 1 }
            })
            .collect();
        group.bench_function(format!("check and advance {batches} partitions"), |bench| {
            bench.iter(|| {
                let mut work = session.begin().expect("a transaction");
                black_box(ledger::check(&mut work, FLOW, &moves).expect("standings"));
                ledger::advance(&mut work, FLOW, moves.iter()).expect("moved");
                work.commit().expect("committed");
                for batch in &mut moves {
                    (batch.first, batch.next) = (batch.next, batch.next + 1);
                }
            });
        });
        let mut work = session.begin().expect("a transaction");
        work.execute("DELETE FROM sluicegate_ledger WHERE flow = $1", &[&FLOW]).expect("deleted");
        work.commit().expect("committed");
    }
}

fn database(url: &str) -> Database {
    let tls = SslConnector::builder(SslMethod::tls()).expect("TLS").build();
    let options = SessionOptions {
        synchronous_commit: false,
        lock_timeout: Duration::from_secs(10),
        statement_timeout: Duration::ZERO,
        claim_lock_timeout: Duration::from_secs(3),
        idle_in_transaction_timeout: Duration::from_secs(60),
    };
    let config = url.parse().expect("a URL of PostgreSQL");
    Database::new(config, postgres_openssl::MakeTlsConnector::new(tls), &options, 2)
}

criterion_group!(benches, decode, encode, batch, ledger);
criterion_main!(benches);
