//! Change events of Debezium: tables that follow their sources. A record is a change of one row; a group of them becomes,
//! for each table, one statement that puts rows and one that deletes them, with the last change of each key.
//!
//! The ledger lets no record in twice. What is another record and the same change, as a connector sends it again after a
//! crash, is kept off by its place in the source's log, which stands beside each row and, for a while, in place of each
//! deleted one: no row goes back, and none comes back.

mod apply;
mod array;
mod cut;
mod fill;
mod gone;
mod keyless;
mod lane;
mod message;
mod moves;
mod naming;
mod order;
mod pending;
mod plan;
mod preview;
mod put;
mod rows;
mod shape;
mod statement;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use self::apply::Changes;
use self::fill::{ROW_BYTES_MAX, Room, check_text};
use self::lane::{Known, Read, ValueSchema};
use self::message::{HEARTBEATS, NEW_KEY, OLD_KEY, fields_of, header, key_of, origin_of};
use self::naming::{Naming, source_name};
use self::plan::Plans;
pub use self::rows::CdcRows;
use self::rows::{Act, Told, place_of};
use self::shape::{Additions, Extra, Shape};
use crate::config;
use crate::decode::debezium::{
    Binary, Change, Decimals, Field, Fields, Kind, Message, Modes, NameRules, Op, Origin, Precision, read,
};
use crate::engine::{Batch, Rows};
use crate::fault::{Cause, Fault};
use crate::flow::Flow;
use crate::pg::{FOREIGN_KEY_VIOLATION, Work};
use crate::record::Record;

pub const NAME: &str = "cdc";

const TABLES: &str = include_str!("../../../sql/cdc/create.sql");

pub struct Cdc {
    topics: Vec<String>,
    known: Known,
    plans: Plans,
    modes: Modes,
    /// Milliseconds, as a time.
    moment: Kind,
    does_truncate: bool,
    /// Whether rows that nothing tells apart are changed by all of their values, or each change is a row of its own.
    does_mirror: bool,
    has_key_rules: bool,
    /// Whether a record that cannot be applied becomes a letter, or halts its partition.
    goes_on: bool,
    is_replica: bool,
    /// How long a row waits for the one that it refers to.
    parent_wait: Duration,
    /// How long what is gone is known to be, and when that was last looked at.
    gone_keep: Duration,
    forgot_at: Mutex<Instant>,
}

const SETTINGS: &str = include_str!("../../../sql/cdc/settings.sql");
/// What to do where a row came before the one that it refers to, and that one has not come in time.
const NO_PARENT: &str = ": replay it when the row that it refers to is there, or leave such keys to the source with \
    foreign_keys: replica";
const FORGET: &str = include_str!("../../../sql/cdc/forget.sql");
const FORGET_EVERY: Duration = Duration::from_secs(5);

impl Cdc {
    pub fn from_config(config: &config::Flow) -> Result<Self, Cause> {
        let naming = Naming::from_config(config)?;
        let extra = |(name, column): (&String, &String)| {
            let extra = Extra::ALL.iter().find(|(known, _)| known == name).map(|(_, extra)| *extra);
            extra
                .map(|extra| (column.clone(), extra))
                .ok_or_else(|| Cause::new("config.extra_columns", format!("\"{name}\" is not kept beside rows")))
        };
        let extras = config.extra_columns.iter().map(extra).collect::<Result<Vec<_>, Cause>>()?;
        let additions = Additions { extras, deleted: config.soft_delete.clone() };
        let rules = config.name_rules.then_some(NameRules { scale: config.decimal_scale });
        let mut modes = Modes::new(&config.unavailable_value);
        modes.binary = match config.binary_mode.as_str() {
            "base64" => Binary::Base64,
            "base64-url-safe" => Binary::Base64Url,
            "hex" => Binary::Hex,
            _ => Binary::Bytes,
        };
        modes.precision = match config.time_precision.as_str() {
            "adaptive_time_microseconds" => Precision::AdaptiveMicros,
            "connect" => Precision::Connect,
            "microseconds" => Precision::Micros,
            "nanoseconds" => Precision::Nanos,
            _ => Precision::Adaptive,
        };
        modes.decimals = if config.decimal_mode == "precise" { Decimals::Precise } else { Decimals::Digits };
        Ok(Cdc {
            topics: config.topics.clone(),
            known: Known::new(naming, additions, rules),
            plans: Plans::new(config.evolve),
            modes,
            moment: Field::read(&json!({"field": "moment", "type": "int64", "name": "io.debezium.time.Timestamp"}))?
                .kind,
            does_truncate: config.truncate,
            does_mirror: config.keyless == config::Keyless::Mirror,
            has_key_rules: !config.key_columns.is_empty(),
            goes_on: config.continue_on_error,
            is_replica: config.foreign_keys == config::ForeignKeys::Replica,
            parent_wait: config.parent_wait,
            gone_keep: config.gone_keep,
            forgot_at: Mutex::new(Instant::now()),
        })
    }

    fn add(&self, record: &Record<'_>, rows: &mut CdcRows) -> Result<(), Cause> {
        let Some(payload) = record.payload else { return self.add_tombstone(record, rows) };
        let Read { payload, schema } = rows.lane.read(&self.known, payload)?;
        let schema = schema.as_deref();
        if payload == "null" {
            return self.add_tombstone(record, rows);
        }
        if schema.is_some_and(|schema| schema.aside.is_some()) || record.partition.topic.starts_with(HEARTBEATS) {
            rows.asides += 1;
            return Ok(());
        }
        let mut change = match read(payload, schema.map(|schema| schema.is_enveloped))? {
            Message::Change(change) => change,
            Message::Aside(_) => {
                rows.asides += 1;
                return Ok(());
            }
        };
        change.lsn = change.lsn.map(|lsn| place_of(lsn, change.op == Op::Read));
        if rows.lane.is_enveloped != Some(change.origin.is_some()) {
            rows.lane.is_enveloped = Some(change.origin.is_some());
            self.known.note(&record.partition.topic, change.origin.is_some());
        }
        let key = record.key.map_or(Ok(Fields::new()), |key| key_of(rows.lane.key(key)));
        self.add_change(record, schema, &change, key, rows)
    }

    /// Now and then, what was deleted so long ago that nothing older comes any more.
    fn forget(&self, work: &mut Work<'_>) -> Result<(), Fault> {
        let Ok(mut forgot_at) = self.forgot_at.try_lock() else { return Ok(()) };
        if forgot_at.elapsed() < FORGET_EVERY {
            return Ok(());
        }
        let before = std::mem::replace(&mut *forgot_at, Instant::now());
        let found = work.query(FORGET, &[&(self.gone_keep.as_secs() as i64)])?;
        let [lacking, left]: [i64; 2] = [0, 1].map(|column| found[0].get(column));
        // More than is forgotten at once: the next transaction goes on, so that it is forgotten as fast as it comes.
        if found[0].get(2) {
            *forgot_at = before;
        }
        if lacking > 0 {
            log::warn!(flow = NAME, rows = lacking; "rows keep nulls for large values: what left their former keys never came");
        }
        if left > 0 {
            log::warn!(flow = NAME, rows = left; "rows that left for other keys never came there; who comes yet lacks their large values");
        }
        Ok(())
    }

    /// Behind an envelope's deletion it says nothing new; where rows come by themselves it is the deletion.
    fn add_tombstone(&self, record: &Record<'_>, rows: &mut CdcRows) -> Result<(), Cause> {
        let is_enveloped = rows.lane.is_enveloped.or_else(|| self.known.is_enveloped(&record.partition.topic));
        let key = record.key.map_or(Ok(Fields::new()), |key| key_of(rows.lane.key(key)));
        let tells_nothing = match &key {
            Ok(fields) => fields.is_empty(),
            // Rows that are told apart by their own fields are not told apart by this one.
            Err(_) => self.known.tells_key(&origin_of(&record.partition.topic)),
        };
        if is_enveloped == Some(true) || tells_nothing {
            rows.asides += 1;
            return Ok(());
        }
        let change = Change { op: Op::Delete, before: None, after: None, origin: None, lsn: None, at_ms: None };
        self.add_change(record, None, &change, key, rows)
    }

    fn add_change(
        &self,
        record: &Record<'_>,
        schema: Option<&ValueSchema>,
        change: &Change<'_>,
        key: Result<Fields<'_>, &'static str>,
        rows: &mut CdcRows,
    ) -> Result<(), Cause> {
        let by_topic;
        let origin = match &change.origin {
            Some(origin) => origin,
            None => {
                by_topic = origin_of(&record.partition.topic);
                &by_topic
            }
        };
        let (key, odd) = match key {
            Ok(fields) => (fields, None),
            Err(odd) => (Fields::new(), Some(odd)),
        };
        let (key, names): (_, Vec<&str>) = (&key, key.iter().map(|(name, _)| &**name).collect());
        let shape = match rows.lane.shape(schema, origin, &names) {
            Some(shape) => shape,
            None => self.learn(schema, origin, &names, change, key, rows)?,
        };
        let Some(shape) = shape else {
            rows.asides += 1;
            return Ok(());
        };
        // Its rows would be taken for rows that nothing tells apart.
        if let Some(odd) = odd.filter(|_| shape.key.is_empty() && !self.known.tells_key(origin)) {
            let source = source_name(origin);
            let text = format!(
                "the record's key is {odd}, and no JSON object of the fields that tell rows of {source} apart: send it by \
                 JsonConverter (key.converter) and without a transform that takes it out of its fields, or name what tells \
                 its rows apart (key_columns: {source}=column, or none)"
            );
            return Err(Cause::new("cdc.key", text));
        }
        let mark = rows.mark();
        if self.add_row(record, &shape, change, key, rows)? {
            return Ok(());
        }
        // Without a schema the row may have another form than those before it.
        rows.reset(&mark);
        let Some(shape) = self.learn(schema, origin, &names, change, key, rows)? else { return Ok(()) };
        match self.add_row(record, &shape, change, key, rows)? {
            true => Ok(()),
            false => Err(Cause::new("cdc.fields", "the row has a field that its schema has not")),
        }
    }

    fn learn(
        &self,
        schema: Option<&ValueSchema>,
        origin: &Origin<'_>,
        names: &[&str],
        change: &Change<'_>,
        key: &Fields<'_>,
        rows: &mut CdcRows,
    ) -> Result<Option<Arc<Shape>>, Cause> {
        let row = change.after.as_ref().or(change.before.as_ref()).map_or(key, |row| &row.fields);
        let values: Vec<(String, &str)> = match schema {
            Some(_) => Vec::new(),
            None => row.iter().map(|(name, value)| (name.clone().into_owned(), *value)).collect(),
        };
        let key: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let shape = self.known.shape(schema, origin, &key, &values)?;
        rows.lane.keep(schema, origin, names, shape.clone());
        Ok(shape)
    }

    /// False where the shape is not that of the row.
    fn add_row(
        &self,
        record: &Record<'_>,
        shape: &Arc<Shape>,
        change: &Change<'_>,
        key: &Fields<'_>,
        rows: &mut CdcRows,
    ) -> Result<bool, Cause> {
        let (is_keyed, began) = (!shape.key.is_empty(), rows.text_len());
        let (mut act, told) = match change.op {
            Op::Create | Op::Read => (Act::Put, Told::Inserted),
            Op::Update => (Act::Put, Told::Updated),
            Op::Delete => (Act::Delete, Told::Deleted),
            Op::Truncate if !self.does_truncate => {
                rows.asides += 1;
                return Ok(true);
            }
            Op::Truncate => (Act::Truncate, Told::Truncated),
        };
        let missing = |what: &str| Cause::new("cdc.payload", format!("the change has no image of the row {what} it"));
        let (mut before, mut after) = (None, None);
        match act {
            Act::Move => {}
            Act::Truncate => {
                if shape.marks_deleted() {
                    let start = rows.values(shape.columns.len());
                    self.fill_beside(record, shape, change, start, rows);
                    after = Some(start);
                }
            }
            Act::Put => {
                let image = change.after.as_ref().ok_or_else(|| missing("after"))?;
                let Some(start) = self.fill(record, shape, change, image, rows)? else { return Ok(false) };
                after = Some(start);
                if let Some(column) = shape.key.iter().find(|column| !rows.has_text(start + **column as u32)) {
                    let text = format!("column \"{}\" is of the key and has no value", shape.columns[*column].name);
                    return Err(Cause::new("cdc.key", text));
                }
                if change.op == Op::Create && is_keyed {
                    let old = header(record, OLD_KEY);
                    let fields = old.as_deref().map(|old| fields_of(rows.lane.key(old.as_bytes())?)).transpose()?;
                    before = fields.map(|old| self.fill_key(shape, &old, None, Room::Key, rows)).transpose()?.flatten();
                } else if change.op == Op::Update && !is_keyed && self.does_mirror {
                    let image = change.before.as_ref().ok_or_else(|| missing("before"))?;
                    let Some(start) = self.fill(record, shape, change, image, rows)? else { return Ok(false) };
                    before = Some(start);
                } else if change.op == Op::Update && is_keyed && self.has_key_rules && change.before.is_some() {
                    before = self.fill_key(shape, &Vec::new(), change.before.as_ref(), Room::Key, rows)?;
                }
            }
            Act::Delete if is_keyed => {
                before = self.fill_key(shape, key, change.before.as_ref(), Room::Key, rows)?;
                if before.is_none() {
                    return Err(missing("before"));
                }
                // The row goes on under another key, and with it what the other message may leave out.
                if let Some(new) = header(record, NEW_KEY) {
                    let fields = fields_of(rows.lane.key(new.as_bytes())?)?;
                    after = self.fill_key(shape, &fields, None, Room::Row, rows)?;
                    if after.is_some() {
                        act = Act::Move;
                    }
                }
                if shape.marks_deleted() {
                    let start = after.unwrap_or_else(|| rows.values(shape.columns.len()));
                    self.fill_beside(record, shape, change, start, rows);
                    after = Some(start);
                }
            }
            Act::Delete => {
                let image = change.before.as_ref().ok_or_else(|| missing("before"))?;
                let Some(start) = self.fill(record, shape, change, image, rows)? else { return Ok(false) };
                before = Some(start);
            }
        }
        check_text(rows, began + ROW_BYTES_MAX)?;
        rows.push(shape, (act, told), change.lsn, (before, after));
        Ok(true)
    }
}

impl Flow for Cdc {
    type Rows = CdcRows;

    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> String {
        TABLES.to_owned()
    }

    fn inlets(&self) -> Vec<&str> {
        self.topics.iter().map(String::as_str).collect()
    }

    fn decode(&self, record: &Record<'_>, rows: &mut CdcRows) -> Result<(), Fault> {
        let mark = rows.mark();
        self.add(record, rows).map_err(|cause| {
            rows.reset(&mark);
            self.refusal(cause)
        })
    }

    fn refusal(&self, mut cause: Cause) -> Fault {
        if cause.code == FOREIGN_KEY_VIOLATION && !cause.text.ends_with(NO_PARENT) {
            cause.text += NO_PARENT;
        }
        if self.goes_on { Fault::Reject(cause) } else { Fault::Stop(cause) }
    }

    fn may_be_early(&self, cause: &Cause) -> bool {
        cause.code == FOREIGN_KEY_VIOLATION
    }

    fn patience(&self) -> Duration {
        self.parent_wait
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<CdcRows>]) -> Result<(), Fault> {
        // Topics come in any order: within a transaction that must not matter, and without checks it never does.
        let checks = match self.is_replica {
            true => "SET LOCAL session_replication_role = replica",
            false => "SET CONSTRAINTS ALL DEFERRED",
        };
        work.run(&format!("{SETTINGS};\n{checks}"))?;
        work.count("aside", batches.iter().map(|batch| batch.rows.asides).sum());
        if batches.iter().all(|batch| batch.rows.is_empty()) {
            return Ok(());
        }
        let changes = Changes::of(batches);
        changes.write(work, &self.plans, &self.known, self.does_mirror).inspect_err(|_| self.plans.forget())?;
        changes.count(work);
        self.forget(work)
    }
}
