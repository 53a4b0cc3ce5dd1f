//! The records that the topic is filled with, and the same as encoded rows for raw COPY.

use sluicegate::decode::avro::write::{long, text};
use sluicegate::engine::Rows;
use sluicegate::flow::{self, Flow, Sample, Status};
use sluicegate::pg::copy::CopyRows;
use sluicegate::record::{NoHeaders, Partition, Record};

/// What the flow's own made-up records have on average. `Stage::filled_topic` counts.
pub const SMALL_BYTES: usize = 40;

/// Payloads of about `bytes` each. Small ones are the flow's own; larger ones have a longer message.
pub struct Payloads {
    sample: Box<dyn Sample>,
    message_bytes: Option<usize>,
}

impl Payloads {
    pub fn new(bytes: usize) -> Self {
        let message_bytes = (bytes > SMALL_BYTES).then(|| bytes - 30);
        Payloads { sample: flow::sample("status", None).expect("samples of status"), message_bytes }
    }

    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        let Some(message_bytes) = self.message_bytes else { return self.sample.payload(number, out) };
        let n = number as i64;
        long(out, 1_767_225_600_000 + n);
        long(out, 1);
        long(out, message_bytes as i64);
        // Letters in no order: neither Kafka's compression nor PostgreSQL's makes much of them.
        let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..message_bytes {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            out.push(b'a' + (random >> 60) as u8);
        }
        text(out, "RUNNING");
        for id in [n % 1_000_000, n % 10_000, n % 1_000, n % 100] {
            long(out, id);
        }
    }
}

/// Decodes payloads as the program does.
pub struct Decoder {
    status: Status,
    partition: Partition,
}

impl Decoder {
    pub fn new() -> Self {
        let status = Status::new(crate::stage::TABLE, &[]).expect("the flow's own schema");
        Decoder { status, partition: Partition::new("bench", 0) }
    }

    pub fn decode(&self, payload: &[u8], rows: &mut CopyRows) {
        let record = Record {
            partition: &self.partition,
            offset: 0,
            timestamp_ms: None,
            key: None,
            payload: Some(payload),
            headers: &NoHeaders,
        };
        self.status.decode(&record, rows).expect("a sample decodes");
    }
}

/// The rows that the flow makes of the first records, in buffers of one COPY each.
pub fn encoded(rows: u64, record_bytes: usize, batch_rows: usize) -> Vec<CopyRows> {
    let (payloads, decoder) = (Payloads::new(record_bytes), Decoder::new());
    let mut buffers = vec![CopyRows::default()];
    let mut payload = Vec::new();
    for number in 0..rows {
        payload.clear();
        payloads.append(number, &mut payload);
        if buffers.last().is_some_and(|rows| rows.len() == batch_rows) {
            buffers.push(CopyRows::default());
        }
        decoder.decode(&payload, buffers.last_mut().expect("a buffer"));
    }
    buffers
}
