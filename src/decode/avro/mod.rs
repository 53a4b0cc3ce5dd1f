//! Avro datums to rows of binary COPY. What a writer's schema means for the columns is planned once, when the
//! schema is first known; a record then costs one pass over its bytes and no allocation. Whatever PostgreSQL
//! would refuse is refused here, with a reason that repeats no value.

mod column;
mod plan;
mod wire;
pub mod write;

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

pub use column::{Column, Kind};
use plan::Plan;

use crate::fault::{Cause, Fault};
use crate::pg::copy::CopyRows;

/// The first two bytes of Avro's single-object encoding; the writer schema's fingerprint follows.
const SINGLE_OBJECT_MARK: [u8; 2] = [0xc3, 0x01];
const SINGLE_OBJECT_HEADER_BYTES: usize = 10;

/// On the way from a byte to a row. A boxed fault leaves room for the value in two registers.
type Decoded<T> = Result<T, Box<Fault>>;

/// What every known writer schema means for one set of columns.
pub struct AvroPlans {
    /// For a datum that comes without a word about its schema.
    raw: Plan,
    by_fingerprint: HashMap<[u8; 8], Plan>,
}

/// How a payload says which schema wrote it. A further format is one more case here and in `recognise`.
enum Framing<'a> {
    Raw,
    SingleObject { plan: &'a Plan, datum: &'a [u8] },
    UnknownFingerprint([u8; 8]),
}

impl AvroPlans {
    /// `raw` is the writer's schema of datums without a header; `others` are further ones that a header may name.
    pub fn new(reader: &str, raw: &str, others: &[&str], columns: &'static [Column]) -> Result<Self, Cause> {
        let reader = parse(reader)?;
        let mut by_fingerprint = HashMap::new();
        // Fingerprints leave out logical types: a writer that names another unit of time can have the reader's. What
        // was configured comes last and wins.
        for writer in [Ok(reader.clone()), parse(raw)].into_iter().chain(others.iter().map(|text| parse(text))) {
            let writer = writer?;
            by_fingerprint.insert(fingerprint(&writer), Plan::compile(&reader, &writer, columns)?);
        }
        Ok(AvroPlans { raw: Plan::compile(&reader, &parse(raw)?, columns)?, by_fingerprint })
    }

    /// Appends the row that the payload says, or nothing and the reason.
    #[inline]
    pub fn transcode(&self, payload: &[u8], rows: &mut CopyRows) -> Result<(), Fault> {
        match self.recognise(payload) {
            Framing::Raw => self.raw.transcode(payload, rows),
            Framing::SingleObject { plan, datum } => plan.transcode(datum, rows),
            // A raw datum may begin with the mark by chance. If it is one, it decodes to its last byte.
            Framing::UnknownFingerprint(fingerprint) => self.raw.transcode(payload, rows).map_err(|_| {
                let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
                let text = format!("no schema with fingerprint {hex} is known; add its file to schema_files");
                Fault::reject("avro.unknown_fingerprint", text)
            }),
        }
    }

    #[inline]
    fn recognise<'a>(&'a self, payload: &'a [u8]) -> Framing<'a> {
        if payload.len() < SINGLE_OBJECT_HEADER_BYTES || payload[..2] != SINGLE_OBJECT_MARK {
            return Framing::Raw;
        }
        let (header, datum) = payload.split_at(SINGLE_OBJECT_HEADER_BYTES);
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&header[2..]);
        match self.by_fingerprint.get(&fingerprint) {
            Some(plan) => Framing::SingleObject { plan, datum },
            None => Framing::UnknownFingerprint(fingerprint),
        }
    }
}

fn parse(schema: &str) -> Result<Schema, Cause> {
    Schema::parse_str(schema).map_err(|error| Cause::new("avro.schema", format!("not an Avro schema: {error}")))
}

fn fingerprint(schema: &Schema) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&schema.fingerprint::<Rabin>().bytes);
    bytes
}
