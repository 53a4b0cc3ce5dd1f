//! Status updates of seed runs: Avro in, one row of `processed_seed_status` out, by binary COPY.

use std::path::PathBuf;

use crate::config;
use crate::decode::avro::write::{long, text};
use crate::decode::avro::{AvroPlans, Column, Kind};
use crate::engine::{Batch, Rows};
use crate::fault::{Cause, Fault};
use crate::flow::{Flow, Sample};
use crate::pg::copy::CopyRows;
use crate::pg::{Work, quoted};
use crate::record::Record;

pub const NAME: &str = "status";

/// The reader's schema. Writers may use an older or a newer one.
pub const SCHEMA: &str = include_str!("../../schema/seed_status.avsc");

const TABLES: &str = include_str!("../../sql/status/create.sql");
const COPY: &str = include_str!("../../sql/status/copy.sql");

/// The table's columns in the order of `COPY`, with what PostgreSQL would refuse.
static COLUMNS: [Column; 7] = [
    Column { field: "event_timestamp", kind: Kind::Timestamp, not_null: true },
    Column { field: "response_message", kind: Kind::Text, not_null: false },
    Column { field: "status", kind: Kind::Varchar { chars_max: 255 }, not_null: true },
    Column { field: "seed_id", kind: Kind::Int4, not_null: false },
    Column { field: "sub_scenario_id", kind: Kind::Int4, not_null: false },
    Column { field: "scenario_id", kind: Kind::Int4, not_null: false },
    Column { field: "script_id", kind: Kind::Int4, not_null: false },
];

pub struct Status {
    plans: AvroPlans,
    table: String,
    sequence: String,
    copy: String,
}

impl Status {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let read = |file: &PathBuf| {
            let problem = |error| Cause::new("config.schema_file", format!("{}: {error}", file.display()));
            std::fs::read_to_string(file).map_err(problem)
        };
        let writers = config.schema_files.iter().map(read).collect::<Result<Vec<String>, Cause>>()?;
        Status::new(&config.table, &writers.iter().map(String::as_str).collect::<Vec<&str>>())
    }

    /// `writers` are the schemas that producers may use besides the reader's own.
    pub fn new(table: &str, writers: &[&str]) -> Result<Self, Cause> {
        let plans = AvroPlans::new(SCHEMA, SCHEMA, writers, &COLUMNS)?;
        let (table, sequence) = (quoted(table), quoted(&format!("{table}_seq")));
        let copy = COPY.replace("{table}", &table);
        Ok(Status { plans, table, sequence, copy })
    }
}

impl Flow for Status {
    type Rows = CopyRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        TABLES.replace("{table}", &self.table).replace("{sequence}", &self.sequence)
    }

    #[inline]
    fn decode(&self, record: &Record<'_>, rows: &mut CopyRows) -> Result<(), Fault> {
        match record.payload {
            Some(payload) => self.plans.transcode(payload, rows),
            None => Err(Fault::reject("status.no_payload", "the record has no payload, and a status has no deletion")),
        }
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<CopyRows>]) -> Result<(), Fault> {
        if batches.iter().any(|batch| !batch.rows.is_empty()) {
            work.copy(&self.copy, batches.iter().map(|batch| batch.rows.as_bytes()))?;
        }
        Ok(())
    }
}

/// Made-up updates: every third one without a message, times one millisecond apart.
pub struct Updates;

const STATUSES: [&str; 5] = ["QUEUED", "RUNNING", "SUCCESS", "FAILED", "SKIPPED"];
const FIRST_UPDATE_MS: i64 = 1_767_225_600_000; // 2026-01-01

impl Sample for Updates {
    fn payload(&self, number: u64, out: &mut Vec<u8>) {
        let n = number as i64;
        long(out, FIRST_UPDATE_MS + n);
        match number % 3 {
            0 => long(out, 0),
            _ => {
                long(out, 1);
                text(out, &format!("update {number} received"));
            }
        }
        text(out, STATUSES[number as usize % STATUSES.len()]);
        for id in [n % 1_000_000, n % 10_000, n % 1_000, n % 100] {
            long(out, id);
        }
    }
}
