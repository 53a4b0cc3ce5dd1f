//! Names that no sane source has, in events made by hand: each becomes a name, or a letter, and never a statement.

use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::kafka::Publisher;
use sluicegate::outlet::{Message, Outlet as _};

use crate::replica::quoted;
use crate::support::{Instance, brokers, connect, create_topic, new_database, unique, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A row with a key `id` and one more column for each name.
fn event(schema: &str, table: &str, names: &[&str], id: i64) -> (String, String) {
    let field = |name: &str| json!({"type": "string", "optional": true, "field": name});
    let fields: Vec<Value> = std::iter::once(json!({"type": "int64", "optional": false, "field": "id"}))
        .chain(names.iter().map(|name| field(name)))
        .collect();
    let row = |place: &str| json!({"type": "struct", "optional": true, "fields": fields, "name": "hostile.Value", "field": place});
    let source = json!({"type": "struct", "optional": false, "field": "source", "name": "io.debezium.connector.postgresql.Source",
        "fields": [
            {"type": "string", "optional": false, "field": "connector"}, {"type": "string", "optional": false, "field": "name"},
            {"type": "int64", "optional": false, "field": "ts_ms"}, {"type": "string", "optional": true, "field": "snapshot"},
            {"type": "string", "optional": false, "field": "db"}, {"type": "string", "optional": true, "field": "sequence"},
            {"type": "string", "optional": false, "field": "schema"}, {"type": "string", "optional": false, "field": "table"},
            {"type": "int64", "optional": true, "field": "txId"}, {"type": "int64", "optional": true, "field": "lsn"}]});
    let mut after = serde_json::Map::from_iter([("id".to_owned(), json!(id))]);
    // A row has to fit into a page.
    let value = |name: &str| if names.len() > 100 { "v".to_owned() } else { format!("value of {}", name.len()) };
    after.extend(names.iter().map(|name| (name.to_string(), json!(value(name)))));
    let lsn = 1000 + id;
    let envelope = json!({"type": "struct", "optional": false, "name": "hostile.Envelope", "version": 2, "fields": [
        row("before"), row("after"), source,
        {"type": "string", "optional": false, "field": "op"}, {"type": "int64", "optional": true, "field": "ts_ms"}]});
    let value = json!({"before": null, "after": after, "op": "c", "ts_ms": 1_700_000_000_000i64,
            "source": {"connector": "postgresql", "name": "hostile", "ts_ms": 1_700_000_000_000i64, "snapshot": "false",
                "db": "db", "sequence": format!("[\"{}\",\"{lsn}\"]", lsn - 1), "schema": schema, "table": table,
                "txId": id, "lsn": lsn}});
    let key = json!({"type": "struct", "optional": false, "name": "hostile.Key",
        "fields": [{"type": "int64", "optional": false, "field": "id"}]});
    // In the order of Connect's own converter.
    (format!(r#"{{"schema":{key},"payload":{{"id":{id}}}}}"#), format!(r#"{{"schema":{envelope},"payload":{value}}}"#))
}

struct Hostile {
    url: String,
    publisher: Publisher,
    instance: Instance,
}

impl Hostile {
    fn new(topics: &[&str]) -> Hostile {
        let url = new_database("hostile");
        let settings = std::collections::HashMap::from([
            ("KAFKA_BROKERS", brokers()),
            ("DB_URL", url.clone()),
            ("LOG_LEVEL", "debug".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_TOPICS", topics.join(",")),
            ("SLUICEGATE_FLOWS_CDC_GROUP_ID", unique("group")),
        ]);
        topics.iter().for_each(|topic| create_topic(&brokers(), topic, 1, &[]));
        let publisher = Publisher::new(&brokers(), &Default::default(), SOON).expect("a publisher");
        connect(&url)
            .batch_execute("CREATE TABLE victim (id integer); INSERT INTO victim VALUES (1)")
            .expect("a victim");
        let instance = Instance::start_with(&settings, &["run", "--flow", "cdc"]);
        Hostile { url, publisher, instance }
    }

    fn send(&self, topic: &str, (key, value): &(String, String)) {
        let (tell, told) = crossbeam_channel::bounded(1);
        let message =
            Message { topic, key: Some(key.as_bytes()), payload: Some(value.as_bytes()), source: None, headers: &[] };
        let done = Box::new(move |sent: Result<(), _>| {
            let _ = tell.send(sent.is_ok());
        });
        self.publisher.publish(&message, done).expect("taken");
        assert!(told.recv_timeout(SOON).expect("an answer"), "not acknowledged");
    }

    fn count(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).map_or(-1, |row| row.get(0))
    }

    fn wait_read(&self, count: i64) {
        wait_for(&format!("{count} records; letters: {:?}", self.letters()), SOON, || {
            let sum = "SELECT coalesce(sum(next_offset), 0)::bigint FROM sluicegate_ledger";
            (self.count(sum) == count).then_some(())
        });
    }

    fn letters(&self) -> Vec<(i64, String)> {
        let sql = "SELECT record_offset, reason_code FROM sluicegate_letters ORDER BY 1";
        connect(&self.url)
            .query(sql, &[])
            .map_or(Vec::new(), |rows| rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn is_there(&self, table: &str, column: &str) -> bool {
        let sql = "SELECT count(*) FROM information_schema.columns
                   WHERE table_schema = 'public' AND table_name = $1 AND column_name = $2";
        connect(&self.url).query_one(sql, &[&table, &column]).expect("columns").get::<_, i64>(0) == 1
    }
}

#[test]
fn hostile_names_are_quoted_or_refused_and_never_run() {
    let long_63 = "ü".repeat(31) + "x";
    let long_64 = "ü".repeat(32);
    let good = [
        "\"; DROP TABLE victim; --",
        "'; DROP TABLE victim; --",
        "a\"b\"\"c",
        "$$; DROP TABLE victim; $$",
        "{table}",
        "%s %1$I",
        "back\\slash",
        "select",
        "user",
        "Mixed Case",
        "mixed case",
        "tab\tand\nline",
        "日本 ünï 😀",
        "a.b",
        " ",
        "\u{202e}right to left",
        &long_63,
    ];
    let refused_tables = ["", "zero\0byte", &long_64];
    // The last of these are PostgreSQL's own.
    let refused_columns = ["", "zero\0byte", &long_64, "ctid", "xmin"];
    let topic = unique("hostile");
    let hostile = Hostile::new(&[&topic]);
    let (mut sent, mut bad) = (0, Vec::new());
    let mut send = |event: (String, String), is_bad: bool| {
        hostile.send(&topic, &event);
        if is_bad {
            bad.push(sent);
        }
        sent += 1;
    };
    for (table, id) in good.iter().zip(1..) {
        send(event("public", table, &good, id), false);
    }
    for table in refused_tables {
        send(event("public", table, &["a"], 100), true);
    }
    for column in refused_columns {
        send(event("public", "plain", &["a", column], 200), true);
    }
    let many: Vec<String> = (0..2000).map(|number| format!("column {number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    send(event("public", "wide", &many, 300), true);
    send(event("public", "nearly", &many[..1500], 301), false);
    // Behind all of these, and in a table that was refused because of a column, the rest is written.
    send(event("public", "plain", &["a"], 400), false);
    hostile.wait_read(sent);

    let letters = hostile.letters();
    assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), bad, "{letters:?}");
    for table in good {
        for column in good {
            assert!(hostile.is_there(table, column), "{table:?} has no {column:?}");
        }
        let sql = format!("SELECT count(*) FROM {0} WHERE {0} = 'value of {1}'", quoted(table), table.len());
        assert_eq!(hostile.count(&sql), 1, "{table:?}");
    }
    assert_eq!(hostile.count("SELECT count(*) FROM victim"), 1);
    assert_eq!(hostile.count("SELECT count(*) FROM plain WHERE id = 400"), 1);
    assert_eq!(hostile.count("SELECT count(*) FROM nearly WHERE \"column 1499\" = 'v'"), 1);
    let sql = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public' AND table_name NOT LIKE 'sluicegate%'";
    assert_eq!(hostile.count(sql), good.len() as i64 + 3, "and nothing else was made");
    let log = hostile.instance.log_text();
    assert!(!log.contains("value of "), "no payload is in the log");
}

/// Two sources whose tables have one name.
#[test]
fn two_tables_that_would_become_one_are_not_mixed() {
    let topics = [unique("first"), unique("second")];
    let hostile = Hostile::new(&[&topics[0], &topics[1]]);
    let of = |server: &str, id: i64| {
        let (key, value) = event("public", "same", &["a"], id);
        (key, value.replace("\"name\":\"hostile\"", &format!("\"name\":\"{server}\"")))
    };
    hostile.send(&topics[0], &of("one", 1));
    hostile.wait_read(1);
    hostile.send(&topics[1], &of("two", 1));
    hostile.send(&topics[1], &of("two", 2));
    hostile.send(&topics[0], &of("one", 3));
    hostile.wait_read(4);
    let ids: Vec<i64> = connect(&hostile.url)
        .query("SELECT id FROM same ORDER BY 1", &[])
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids, [1, 3]);
    let letters = hostile.letters();
    assert_eq!(letters.len(), 2, "{letters:?}");
}
