//! The cdc flow: changes of a made-up table, as a connector would send them, with an oracle of what the table came to. Parts
//! of what was sent come again, out of the middle too, so that nothing but a row's place in the log keeps it from going
//! back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::load::{Load, PARTITIONS, Sent, count};
use crate::support::random::Random;

/// Rows of the source, each in the partition that its id has.
const IDS: u64 = 32;
/// From here on there is one for each partition, which is changed last: by it the end is known.
const ENDS: i64 = 1_000;
/// How much comes again at once.
const AGAIN_MAX: u64 = 40;

/// What the connector sends for a large value that an update did not touch.
const UNKNOWN: &str = "__debezium_unavailable_value";

#[derive(Clone)]
struct Change {
    op: &'static str,
    id: i64,
    number: i64,
    large: String,
    lsn: i64,
}

fn envelope_schema() -> Value {
    let row = |field: &str| {
        let field_of = |name: &str, kind: &str| json!({"type": kind, "optional": true, "field": name});
        let fields = [field_of("id", "int64"), field_of("number", "int64"), field_of("large", "string")];
        json!({"type": "struct", "fields": fields, "optional": true, "name": "shop.public.things.Value", "field": field})
    };
    json!({"type": "struct", "name": "shop.public.things.Envelope", "optional": false,
        "fields": [row("before"), row("after"), {"type": "struct", "field": "source", "fields": []},
            {"type": "string", "field": "op"}]})
}

impl Change {
    fn key(&self) -> String {
        let field = json!({"type": "int64", "optional": false, "field": "id"});
        let schema = json!({"type": "struct", "fields": [field], "optional": false, "name": "shop.public.things.Key"});
        json!({"schema": schema, "payload": {"id": self.id}}).to_string()
    }

    fn envelope(&self) -> String {
        let row = json!({"id": self.id, "number": self.number, "large": self.large});
        // As a table without REPLICA IDENTITY FULL has it.
        let former = json!({"id": self.id, "number": null, "large": null});
        let (before, after) = if self.op == "d" { (former, Value::Null) } else { (Value::Null, row) };
        let moment_ms = 1_795_000_000_000 + self.lsn;
        let source = json!({"connector": "postgresql", "name": "shop", "db": "shop", "schema": "public",
            "table": "things", "lsn": self.lsn * 8, "ts_ms": moment_ms, "snapshot": "false"});
        let payload = json!({"before": before, "after": after, "op": self.op, "ts_ms": moment_ms, "source": source});
        json!({"schema": envelope_schema(), "payload": payload}).to_string()
    }

    /// A deletion has its tombstone behind it.
    fn sent(&self, partition: usize) -> Vec<Sent> {
        let record =
            |payload| Sent { partition: partition as i32, key: Some(self.key()), payload, headers: Vec::new() };
        let change = record(Some(self.envelope().into_bytes()));
        if self.op == "d" { vec![change, record(None)] } else { vec![change] }
    }
}

pub struct Cdc {
    topic: String,
    lsn: i64,
    /// What the source has.
    rows: BTreeMap<i64, (i64, String)>,
    /// What was sent for good, by partition, and how much of it is known to be in the target.
    sent: [Vec<Change>; PARTITIONS as usize],
    settled: [usize; PARTITIONS as usize],
    /// The number that the last rows have to come to.
    end: i64,
}

impl Cdc {
    pub fn load(topic: &str) -> Box<dyn Load> {
        Box::new(Cdc {
            topic: topic.to_owned(),
            lsn: 0,
            rows: BTreeMap::new(),
            sent: Default::default(),
            settled: Default::default(),
            end: 0,
        })
    }

    /// The next change of a random row. What is aborted says of a row what it never was.
    fn change(&mut self, random: &mut Random, is_aborted: bool) -> Change {
        self.lsn += 1 + random.below(3) as i64;
        let (id, lsn) = (random.below(IDS) as i64, self.lsn);
        let number = if is_aborted { -1 } else { lsn };
        let word = format!("large {number}");
        let (op, large) = match (self.rows.get(&id), random.below(10)) {
            (None, _) => ("c", word),
            (Some(_), 0..=1) => ("d", String::new()),
            (Some(_), 2..=5) => ("u", UNKNOWN.to_owned()),
            (Some(_), _) => ("u", word),
        };
        Change { op, id, number, large, lsn }
    }

    fn apply(&mut self, change: &Change) {
        let known = self.rows.remove(&change.id);
        if change.op != "d" {
            let large = if change.large == UNKNOWN { known.expect("it is there").1 } else { change.large.clone() };
            self.rows.insert(change.id, (change.number, large));
        }
    }

    /// What went before, once more: as after a crash of the connector in its own partition, or in any one where it has
    /// long been applied.
    fn again(&self, random: &mut Random) -> Vec<Sent> {
        let from = random.below(PARTITIONS as u64) as usize;
        let is_elsewhere = random.chance(50);
        let known = if is_elsewhere { &self.sent[from][..self.settled[from]] } else { &self.sent[from][..] };
        if known.is_empty() {
            return Vec::new();
        }
        let to = if is_elsewhere { random.below(PARTITIONS as u64) as usize } else { from };
        let first = random.below(known.len() as u64) as usize;
        let end = (first + 1 + random.below(AGAIN_MAX) as usize).min(known.len());
        known[first..end].iter().flat_map(|change| change.sent(to)).collect()
    }
}

impl Load for Cdc {
    fn flow(&self) -> &'static str {
        "cdc"
    }

    /// Rows are put by statements: there is no COPY to be in the middle of.
    fn points(&self) -> Vec<&'static str> {
        use sluicegate::failpoint::Point;
        let passed = |(point, _): &&(Point, &'static str)| *point != Point::InCopy;
        Point::ALL.iter().filter(passed).map(|(_, name)| *name).collect()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("TOPICS", self.topic.clone())]
    }

    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent> {
        let change = self.change(random, is_aborted);
        let partition = change.id as usize % self.sent.len();
        let mut records = change.sent(partition);
        if !is_aborted {
            self.apply(&change);
            self.sent[partition].push(change);
            if random.chance(2) {
                records.extend(self.again(random));
            }
        }
        records
    }

    /// Something old once more, which nothing that follows would make good.
    fn last(&mut self, random: &mut Random) -> Vec<Sent> {
        let again = self.again(random);
        self.end += 1;
        let end = |partition: usize| {
            self.lsn += 1;
            let (id, number) = (ENDS + partition as i64, self.end);
            let change = Change { op: "u", id, number, large: String::new(), lsn: self.lsn };
            self.rows.insert(id, (number, String::new()));
            change.sent(partition)
        };
        again.into_iter().chain((0..self.sent.len()).flat_map(end)).collect()
    }

    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error> {
        let sql = format!("SELECT count(*) FROM public.things WHERE id >= {ENDS} AND number = {}", self.end);
        Ok((count(client, &sql)?, self.sent.len()))
    }

    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        let rows = client.query("SELECT id, number, large FROM public.things", &[])?;
        let found: BTreeMap<i64, (i64, String)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let ids = found.keys().chain(self.rows.keys());
        let wrong = ids.copied().find(|id| found.get(id) != self.rows.get(id));
        if let Some(id) = wrong {
            let (here, there) = (found.get(&id), self.rows.get(&id));
            return Ok(Some(format!("row {id} is {here:?}, and at the source {there:?}")));
        }
        if found.len() != rows.len() {
            return Ok(Some(format!("{} rows of {} ids", rows.len(), found.len())));
        }
        self.settled = std::array::from_fn(|partition| self.sent[partition].len());
        Ok(None)
    }
}
