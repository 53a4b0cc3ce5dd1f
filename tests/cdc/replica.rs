//! A source, its connector, the program and a target, and whether the target has what the source has. What the program
//! wrote is read by the source's own types: a text that means the same is the same.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use postgres::Client;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::connect::Connect;
use crate::support::{Instance, brokers, connect, new_database, unique, wait_for};

pub const SOON: Duration = Duration::from_secs(120);

/// What one connector sends, and the target that follows it.
pub struct Replica {
    pub prefix: String,
    pub url: String,
    pub settings: HashMap<&'static str, String>,
    source: String,
    consumer: BaseConsumer,
    marked: i64,
}

/// A column that is compared by another expression than its text; `{}` stands for it.
pub type Exception = (&'static str, &'static str, &'static str);

/// Nothing of it is compared.
pub const NOT_CARRIED: &str = "NULL";

impl Replica {
    pub fn new(worker: &Connect, stem: &str) -> Replica {
        let (prefix, url) = (unique("cdc"), new_database(stem));
        let settings = HashMap::from([
            ("KAFKA_BROKERS", brokers()),
            ("DB_URL", url.clone()),
            ("LOG_LEVEL", "debug".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_TOPICS", format!("{prefix}.public.*")),
            ("SLUICEGATE_FLOWS_CDC_GROUP_ID", unique("group")),
            // So that new topics are soon found.
            ("SLUICEGATE_KAFKA_OPTIONS", "topic.metadata.refresh.interval.ms=1000".to_owned()),
            // Short, so that what a killed instance had is soon taken over.
            ("SLUICEGATE_FLOWS_CDC_SESSION_TIMEOUT_MS", "2000".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_REVOKE_GRACE_MS", "1000".to_owned()),
            // Small, so that a test of seconds has many transactions.
            ("SLUICEGATE_FLOWS_CDC_BATCH_ROWS_MAX", "200".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_GROUP_ROWS_MAX", "600".to_owned()),
        ]);
        let consumer = ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("a client");
        connect(&worker.url)
            .batch_execute("CREATE TABLE IF NOT EXISTS zz_marker (id integer PRIMARY KEY, number bigint)")
            .expect("a marker");
        Replica { prefix, url, settings, source: worker.url.clone(), consumer, marked: 0 }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Replica {
        self.settings.insert(name, value.to_owned());
        self
    }

    pub fn start(&self) -> Instance {
        Instance::start_with(&self.settings, &["run", "--flow", "cdc"])
    }

    fn ends(&self) -> Vec<(String, i32, i64)> {
        let metadata = self.consumer.fetch_metadata(None, SOON).expect("topics");
        let mut ends = Vec::new();
        let is_ours = |name: &str| name.starts_with(&format!("{}.public.", self.prefix));
        for topic in metadata.topics().iter().filter(|topic| is_ours(topic.name())) {
            for partition in topic.partitions() {
                let (_, end) = self.consumer.fetch_watermarks(topic.name(), partition.id(), SOON).expect("an end");
                ends.push((topic.name().to_owned(), partition.id(), end));
            }
        }
        ends
    }

    /// How many records the connector has sent.
    pub fn sent(&self) -> i64 {
        self.ends().iter().map(|(_, _, end)| end).sum()
    }

    /// Until the connector has sent everything that the source has committed.
    pub fn wait_sent(&mut self) {
        self.marked += 1;
        let sql = format!(
            "INSERT INTO zz_marker VALUES (1, {0}) ON CONFLICT (id) DO UPDATE SET number = zz_marker.number + 1",
            self.marked
        );
        let marker = format!("{}.public.zz_marker", self.prefix);
        let end = || self.consumer.fetch_watermarks(&marker, 0, SOON).map_or(0, |(_, end)| end);
        let before = end();
        connect(&self.source).batch_execute(&sql).expect("marked");
        wait_for(&format!("the connector of {} to send what was changed", self.prefix), SOON * 2, || {
            (end() > before).then_some(())
        });
        // What was handed to its producer before the marker, for other partitions.
        let mut ends = self.ends();
        wait_for("the last of it", SOON, || {
            std::thread::sleep(Duration::from_millis(300));
            let before = std::mem::replace(&mut ends, self.ends());
            (before == ends).then_some(())
        });
    }

    /// Until everything that was changed at the source is behind the ledger.
    pub fn settle(&mut self) {
        self.wait_sent();
        let mut target = connect(&self.url);
        let mut missing: Vec<(String, i32, i64)> = Vec::new();
        let (mut moved, mut seen) = (std::time::Instant::now(), HashMap::new());
        while moved.elapsed() < SOON * 2 {
            let sql = "SELECT topic, partition, next_offset FROM sluicegate_ledger";
            let ledger: HashMap<(String, i32), i64> = target
                .query(sql, &[])
                .map(|rows| rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
                .unwrap_or_default();
            missing = self.ends();
            missing.retain(|(topic, partition, end)| {
                *end > ledger.get(&(topic.clone(), *partition)).copied().unwrap_or_default()
            });
            if missing.is_empty() {
                return;
            }
            if seen != ledger {
                (moved, seen) = (std::time::Instant::now(), ledger);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("not applied, and nothing has moved for {:?}: {missing:?}", SOON * 2);
    }

    /// Those that are open, the first of them.
    pub fn letters(&self) -> Vec<String> {
        let sql = "SELECT topic || ' ' || reason_code || ': ' || reason FROM sluicegate_letters WHERE state = 'open'
                   ORDER BY id LIMIT 20";
        connect(&self.url).query(sql, &[]).map_or(Vec::new(), |rows| rows.iter().map(|row| row.get(0)).collect())
    }

    pub fn letters_open(&self) -> i64 {
        let sql = "SELECT count(*) FROM sluicegate_letters WHERE state = 'open'";
        connect(&self.url).query_one(sql, &[]).map_or(0, |row| row.get(0))
    }

    /// Rows of the source that the target has not, and rows of the target that the source has not, as text; none where
    /// they are equal. `read`: how the target's text is read as a value of the source's type, where it is not by a cast.
    pub fn differences(&self, table: &str, read: &[Exception], compare: &[Exception]) -> Vec<String> {
        let (mut source, mut target) = (connect(&self.source), connect(&self.url));
        for client in [&mut source, &mut target] {
            client
                .batch_execute("SET timezone = 'UTC'; SET extra_float_digits = 1; SET client_min_messages = error")
                .expect("set");
        }
        let columns = columns(&mut source, table);
        let there: BTreeSet<String> = columns_of(&mut target, table).into_iter().map(|(name, _)| name).collect();
        if there.is_empty() {
            return vec![format!("{table}: the target has no such table")];
        }
        let exception = |list: &[Exception], column: &str| {
            list.iter().find(|(of, name, _)| (*of == table || *of == "*") && *name == column).map(|found| found.2)
        };
        let carried: Vec<&(String, String)> =
            columns.iter().filter(|(name, _)| exception(compare, name) != Some(NOT_CARRIED)).collect();
        let missing: Vec<&String> =
            carried.iter().map(|(name, _)| name).filter(|name| !there.contains(*name)).collect();
        if !missing.is_empty() {
            return vec![format!("{table}: the target has no columns {missing:?}")];
        }
        let texts: Vec<String> = carried.iter().map(|(name, _)| format!("{}::text", quoted(name))).collect();
        let rows = target.query(&format!("SELECT {} FROM {}", texts.join(", "), quoted(table)), &[]).expect("rows");
        let lists: Vec<Vec<Option<String>>> =
            (0..carried.len()).map(|place| rows.iter().map(|row| row.get(place)).collect()).collect();
        let names: Vec<String> = (0..carried.len()).map(|place| format!("c{place}")).collect();
        let mut values = Vec::new();
        let (mut of_source, mut of_got) = (Vec::new(), Vec::new());
        for (place, (name, kind)) in carried.iter().enumerate() {
            let by = exception(read, name).unwrap_or("{}");
            values.push(format!("({})::{kind}", by.replace("{}", &names[place])));
            let by = exception(compare, name).unwrap_or("{}::text");
            // To be shown, if need be: large ones by their digest.
            let shown = |name: &str| {
                let value = by.replace("{}", name);
                format!("CASE WHEN length({value}) > 200 THEN 'md5 ' || md5({value}) ELSE {value} END")
            };
            of_source.push(shown(&quoted(name)));
            of_got.push(shown(&names[place]));
        }
        let arrays: Vec<String> = (1..=carried.len()).map(|number| format!("${number}::text[]")).collect();
        let read_back: Vec<String> =
            values.iter().zip(&names).map(|(value, name)| format!("{value} AS {name}")).collect();
        let got =
            format!("SELECT {} FROM unnest({}) AS got({})", read_back.join(", "), arrays.join(", "), names.join(", "));
        let parameters: Vec<&(dyn postgres::types::ToSql + Sync)> =
            lists.iter().map(|list| list as &(dyn postgres::types::ToSql + Sync)).collect();
        let sql = format!(
            "WITH got AS MATERIALIZED ({got}), have AS (SELECT ROW({})::text AS line FROM {}),
                  seen AS (SELECT ROW({})::text AS line FROM got)
             (SELECT 'only in the source: ' || line FROM (TABLE have EXCEPT ALL TABLE seen) AS a ORDER BY line LIMIT 4)
             UNION ALL
             (SELECT 'only in the target: ' || line FROM (TABLE seen EXCEPT ALL TABLE have) AS b ORDER BY line LIMIT 4)",
            of_source.join(", "),
            quoted(table),
            of_got.join(", ")
        );
        match source.query(&sql, &parameters) {
            Ok(rows) => {
                let shorten = |line: String| line.chars().take(1500).collect::<String>();
                rows.iter().map(|row| format!("{table}: {}", shorten(row.get(0)))).collect()
            }
            Err(error) => {
                vec![format!("{table}: {}", error.as_db_error().map_or(error.to_string(), |it| it.to_string()))]
            }
        }
    }

    pub fn assert_equal(&self, tables: &[&str]) {
        let found: Vec<String> = tables.iter().flat_map(|table| self.differences(table, &[], &[])).collect();
        assert!(found.is_empty(), "{}\nletters: {:#?}", found.join("\n"), self.letters());
    }
}

pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn columns_of(client: &mut Client, table: &str) -> Vec<(String, String)> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    client.query(sql, &[&table]).expect("columns").iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn columns(source: &mut Client, table: &str) -> Vec<(String, String)> {
    let columns = columns_of(source, table);
    assert!(!columns.is_empty(), "the source has no table {table}");
    columns
}
