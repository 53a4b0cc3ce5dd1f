//! The contenders, and one run of each on the same rows.
//!
//! - `raw copy`: the same rows, encoded beforehand, binary COPY over as many connections as there are writers. It has no
//!   Kafka, decodes nothing and keeps no offsets: what the machine's PostgreSQL takes at the most.
//! - `sluicegate`: the real binary, as it comes.
//! - `no ledger`: the same with `exactly_once: false`, to see what the guarantee costs.
//! - `franz-go`, `sarama`: the Go peers, at least once.
//! - `consumer alone`: the program's consumer, which counts records. `decode alone`: one thread, in memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluicegate::engine::Rows;
use sluicegate::pg::copy::{CopyRows, HEADER, TRAILER};

use crate::meter::Meter;
use crate::peers::{self, Peers};
use crate::program::Program;
use crate::records::{Decoder, Payloads};
use crate::results::{Load, Run};
use crate::stage::{Stage, TABLE};

/// The rows of a COPY where the load does not say: the most that the program's own default joins into a transaction.
pub const BATCH_ROWS: usize = 10_000;

/// Of decode alone: few enough to stay in the cache of the CPU as in the program, where they have just been fetched.
const DECODE_RECORDS: u64 = 2_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    RawCopy,
    Sluicegate,
    NoLedger,
    Franz,
    Sarama,
    Consumer,
    Decode,
}

impl Contender {
    pub const ALL: [Contender; 7] = {
        use Contender::*;
        [RawCopy, Sluicegate, NoLedger, Franz, Sarama, Consumer, Decode]
    };

    pub fn name(self) -> &'static str {
        match self {
            Contender::RawCopy => "raw copy",
            Contender::Sluicegate => "sluicegate",
            Contender::NoLedger => "no ledger",
            Contender::Franz => "franz-go",
            Contender::Sarama => "sarama",
            Contender::Consumer => "consumer alone",
            Contender::Decode => "decode alone",
        }
    }

    /// Whether it puts rows into the table.
    pub fn writes(self) -> bool {
        !matches!(self, Contender::Consumer | Contender::Decode)
    }
}

/// Who comes after whom in a round: another one begins each time, and it goes forwards and backwards, so that none always
/// follows the same other one.
pub fn in_turn<T: Copy>(contenders: &[T], round: u64) -> Vec<T> {
    let mut order = contenders.to_vec();
    order.rotate_left(round as usize % contenders.len());
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// Where a round takes place.
pub struct Ring<'a> {
    pub stage: &'a Stage,
    pub load: &'a Load,
    /// Filled with the load.
    pub topic: &'a str,
    /// The load, as `raw copy` writes it.
    pub encoded: &'a [CopyRows],
    pub peers: Option<&'a Peers>,
}

/// What a contender took by itself; what it took of Kafka and PostgreSQL is seen from outside.
struct Took {
    rows_per_s: f64,
    /// None where the contender runs in the bench's own process.
    child_cpu_s: Option<f64>,
    threads_cpu_s: BTreeMap<String, f64>,
    memory_peak_mb: Option<f64>,
    rows_per_transaction: Option<f64>,
}

impl Took {
    fn in_bench(rows: u64, took: Duration) -> Took {
        let rows_per_s = rows as f64 / took.as_secs_f64();
        // Its memory would say nothing: the bench holds all rows of all rounds.
        Took {
            rows_per_s,
            child_cpu_s: None,
            threads_cpu_s: BTreeMap::new(),
            memory_peak_mb: None,
            rows_per_transaction: None,
        }
    }
}

impl Ring<'_> {
    pub fn run(&self, contender: Contender, round: u64) -> Run {
        let Ring { stage, load, .. } = self;
        stage.clean();
        let meter = Meter::start(stage);
        let (took, program) = match contender {
            Contender::RawCopy => (self.raw_copy(), None),
            Contender::Sluicegate => self.sluicegate(true),
            Contender::NoLedger => self.sluicegate(false),
            Contender::Franz => (self.peer("franz"), None),
            Contender::Sarama => (self.peer("sarama"), None),
            Contender::Consumer => (self.consumer(), None),
            Contender::Decode => (decode(load), None),
        };
        let metered = meter.finish(took.child_cpu_s.unwrap_or(0.0));
        if let Some(program) = program {
            program.stop();
        }
        if contender.writes() {
            assert_eq!(stage.count(), load.rows, "{} wrote every row once", contender.name());
        }
        let uses_kafka = !matches!(contender, Contender::RawCopy | Contender::Decode);
        Run {
            contender: contender.name().to_owned(),
            round,
            rows: load.rows,
            rows_per_s: took.rows_per_s,
            cpu_s: took.child_cpu_s.unwrap_or(metered.bench_cpu_s),
            threads_cpu_s: took.threads_cpu_s,
            memory_peak_mb: took.memory_peak_mb,
            kafka_cpu_s: metered.kafka_cpu_s.filter(|_| uses_kafka),
            postgres_cpu_s: metered.postgres_cpu_s.filter(|_| contender.writes()),
            rows_per_transaction: took.rows_per_transaction,
            told_per_s: None,
            others_percent: metered.others_percent,
        }
    }

    fn raw_copy(&self) -> Took {
        let sql = format!(
            "COPY {TABLE} (event_timestamp, response_message, status, seed_id, sub_scenario_id, scenario_id, script_id)
             FROM STDIN (FORMAT binary)"
        );
        let buffers: Vec<&[u8]> = self.encoded.iter().map(CopyRows::as_bytes).collect();
        let took = copy_all(self.stage, self.load.writers, &sql, &buffers);
        let rows: usize = self.encoded.iter().map(Rows::len).sum();
        let rows_per_transaction = Some(rows as f64 / self.encoded.len() as f64);
        Took { rows_per_transaction, ..Took::in_bench(rows as u64, took) }
    }

    fn sluicegate(&self, exactly_once: bool) -> (Took, Option<Program>) {
        let mut settings = self.stage.settings(self.load, self.topic);
        settings.insert("SLUICEGATE_FLOWS_STATUS_EXACTLY_ONCE", exactly_once.to_string());
        let program = Program::start(&settings);
        let rows_per_s = program.await_rows(self.load.rows);
        let (child_cpu_s, threads_cpu_s) = (Some(program.cpu_s()), program.threads_cpu_s());
        let memory_peak_mb = Some(program.memory_peak_mb());
        let rows_per_transaction = program.rows_per_transaction(self.load.rows);
        (Took { rows_per_s, child_cpu_s, threads_cpu_s, memory_peak_mb, rows_per_transaction }, Some(program))
    }

    fn peer(&self, name: &str) -> Took {
        self.peers.expect("the peers were built").run(name, self.stage, self.load, self.topic).into()
    }

    fn consumer(&self) -> Took {
        peers::consume(&self.stage.settings(self.load, self.topic), self.load.rows).into()
    }
}

impl From<peers::Told> for Took {
    fn from(told: peers::Told) -> Took {
        let peers::Told { rows: _, rows_per_s, cpu_s, peak_mb } = told;
        Took {
            rows_per_s,
            child_cpu_s: Some(cpu_s),
            threads_cpu_s: BTreeMap::new(),
            memory_peak_mb: Some(peak_mb),
            rows_per_transaction: None,
        }
    }
}

/// Each buffer in a COPY of its own, over so many connections; how long that took.
pub fn copy_all(stage: &Stage, connections: usize, sql: &str, buffers: &[&[u8]]) -> Duration {
    let next = AtomicUsize::new(0);
    let clients: Vec<postgres::Client> = (0..connections).map(|_| stage.connect()).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for mut client in clients {
            let next = &next;
            scope.spawn(move || {
                while let Some(rows) = buffers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut copy = client.copy_in(sql).expect("COPY starts");
                    for part in [HEADER, rows, TRAILER] {
                        copy.write_all(part).expect("COPY takes rows");
                    }
                    copy.finish().expect("COPY ends");
                }
            });
        }
    });
    start.elapsed()
}

/// From payload to encoded row, without fetching and without writing.
fn decode(load: &Load) -> Took {
    let (payloads, decoder) = (Payloads::new(load.record_bytes), Decoder::new());
    let records: Vec<Vec<u8>> = (0..DECODE_RECORDS)
        .map(|number| {
            let mut payload = Vec::new();
            payloads.append(number, &mut payload);
            payload
        })
        .collect();
    let mut rows = CopyRows::default();
    let mut decoded = 0;
    let start = Instant::now();
    while decoded < load.rows {
        rows.clear();
        records.iter().for_each(|payload| decoder.decode(payload, &mut rows));
        decoded += std::hint::black_box(&rows).len() as u64;
    }
    Took::in_bench(decoded, start.elapsed())
}
