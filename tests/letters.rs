//! Letters end to end: the real binary, a real Kafka, a real PostgreSQL. What is replayed is in the table once, whoever
//! replays it, however often, and whoever is killed meanwhile; what is refused again, and what is dropped, is still there.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

#[path = "http/client.rs"]
#[allow(dead_code)]
mod client;
mod support;

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::time::Duration;

use client::Connection;
use serde_json::{Value, json};
use sluicegate::kafka::Producer;
use sluicegate::kafka::admin::create_topic;
use support::hostile::{Headers, produce, record};
use support::world::World;
use support::{Instance, connect, unique, update, wait_for};
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);
const NONE: [i64; 0] = [];

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// `sluicegate letters …`, to its end.
fn letters(settings: &HashMap<&str, String>, arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("letters").args(arguments).env_clear().envs(settings).current_dir(std::env::temp_dir());
    let output = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Ended {
    /// What it printed, where it was done.
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    fn json_lines(self) -> Vec<Value> {
        self.done().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// How many letters there are in each state.
fn states(url: &str) -> BTreeMap<String, i64> {
    let sql = "SELECT state, count(*) FROM sluicegate_letters GROUP BY 1";
    connect(url).query(sql, &[]).expect("letters").iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn of(states: &[(&str, i64)]) -> BTreeMap<String, i64> {
    states.iter().map(|(state, count)| (state.to_string(), *count)).collect()
}

fn number(url: &str, sql: &str) -> i64 {
    connect(url).query_one(sql, &[]).expect(sql).get(0)
}

/// Rows with this status, by offset, each with how often it is there.
fn rows(url: &str, status: &str) -> BTreeMap<i32, i64> {
    let sql = "SELECT sub_scenario_id, count(*) FROM processed_seed_status WHERE status = $1 GROUP BY 1";
    connect(url).query(sql, &[&status]).expect("rows").iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Good records, `count` that a constraint refuses, and one that is no Avro; all are where they belong. No instance runs.
fn world_with_letters(stem: &str, count: usize) -> World {
    let mut world = World::new(stem);
    let mut instance = world.start();
    instance.wait_ready();
    let sql = "ALTER TABLE processed_seed_status ADD CONSTRAINT no_thirteen CHECK (status <> 'THIRTEEN')";
    connect(&world.url).batch_execute(sql).expect("a constraint");
    world.produce(60);
    for _ in 0..count {
        let offset = world.produced[0];
        world.produce_poison(0, &update(0, offset, "THIRTEEN"), "pg.23514");
    }
    world.produce_poison(1, b"\x02", "avro.truncated");
    world.flush();
    world.wait_written(MINUTE);
    wait_for("the letters", MINUTE, || {
        (number(&world.url, "SELECT count(*) FROM sluicegate_letters") == count as i64 + 1).then_some(())
    });
    world.check();
    instance.signal("TERM");
    instance.wait(MINUTE);
    world
}

fn put_right(world: &World) {
    let sql = "ALTER TABLE processed_seed_status DROP CONSTRAINT no_thirteen";
    connect(&world.url).batch_execute(sql).expect("put right");
}

#[test]
fn a_process_that_wrote_none_of_them_counts_the_letters_that_are_open() {
    let world = world_with_letters("open", 2);
    let instance = world.start();
    let open = || -> Option<Vec<String>> {
        let (_, metrics) = instance.get("/metrics")?;
        let open =
            metrics.lines().filter_map(|line| line.strip_prefix("sluicegate_letters_open{flow=\"status\",code="));
        Some(open.map(str::to_owned).collect())
    };
    let shows = |expected: &[&str]| wait_for("what is open", MINUTE, || (open()? == expected).then_some(()));
    shows(&["\"avro.truncated\"} 1", "\"pg.23514\"} 2"]);
    assert_eq!(instance.metric("sluicegate_letters_written_total"), Some(0.0));
    letters(&world.settings, &["drop", "--reason", "avro.truncated"]).done();
    shows(&["\"pg.23514\"} 2"]);
}

#[test]
fn letters_are_found_by_what_is_known_of_them_and_shown_without_harm() {
    let mut world = world_with_letters("found", 3);
    let headers: Headers = vec![(b"na\x1b[2Jme".to_vec(), Some(b"val\x1b]0;ue".to_vec())), (b"none".to_vec(), None)];
    produce(&world.brokers, &world.topic, 2, &record(Some(b"other \x1b[31mkey"), Some(b"pay\x1b[2Jload"), &headers));
    produce(&world.brokers, &world.topic, 2, &record(Some(b"plain"), Some("text\nß".as_bytes()), &headers));
    let instance = world.start();
    wait_for("the letters", MINUTE, || {
        (number(&world.url, "SELECT count(*) FROM sluicegate_letters") == 6).then_some(())
    });
    drop(instance);
    world.settings.remove("LOG_LEVEL");
    let all = letters(&world.settings, &["list", "--json"]).json_lines();
    assert_eq!(all.len(), 6);
    let ids = |arguments: &[&str]| -> Vec<i64> {
        let arguments = [&["list", "--json"], arguments].concat();
        let lines = letters(&world.settings, &arguments).json_lines();
        lines.iter().map(|line| line["id"].as_i64().expect("an id")).collect()
    };
    let every: Vec<i64> = all.iter().map(|line| line["id"].as_i64().expect("an id")).collect();
    let thirteens = ids(&["--reason", "pg.23514"]);
    assert_eq!(thirteens.len(), 3);
    assert_eq!(ids(&["--key", "key"]).len(), 4);
    assert_eq!(ids(&["--key", "plain"]), [every[5]]);
    assert_eq!(ids(&["--topic", &world.topic]), every);
    assert_eq!(ids(&["--topic", "other"]), NONE);
    assert_eq!(ids(&["--flow", "status"]), every);
    assert_eq!(ids(&["--flow", "orders"]), NONE);
    assert_eq!(ids(&["--since", "1h"]), every);
    assert_eq!(ids(&["--until", "1h"]), NONE);
    assert_eq!(ids(&["--state", "dropped"]), NONE);
    assert_eq!(ids(&["--limit", "2"]), every[..2]);
    assert_eq!(ids(&["--limit", "2", "--after", &every[1].to_string()]), every[2..4]);
    assert_eq!(ids(&["--id", &every[0].to_string(), "--id", &every[4].to_string()]), [every[0], every[4]]);
    let sql = format!("UPDATE sluicegate_letters SET set_aside_at = '2020-02-02T02:02:02Z' WHERE id = {}", every[3]);
    connect(&world.url).batch_execute(&sql).expect("an old one");
    assert_eq!(ids(&["--until", "2020-02-02T02:02:03Z"]), [every[3]]);
    assert_eq!(ids(&["--since", "2020-02-02T02:02:02Z", "--until", "7d"]), [every[3]]);

    let table = letters(&world.settings, &["list"]).done();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 7, "{table}");
    let at = lines[0].find("WHERE").expect("a head");
    for line in &lines[1..] {
        assert!(line[at..].starts_with(&world.topic) && !line[..at].trim_end().is_empty(), "not aligned: {table}");
    }
    let shown = letters(&world.settings, &["show", &every[4].to_string()]).done();
    assert!(!shown.contains('\x1b'), "{shown}");
    for line in [
        "key           hex 6f74686572201b5b33316d6b6579",
        "payload       hex 7061791b5b324a6c6f6164",
        "state         open",
    ] {
        assert!(shown.lines().any(|known| known == line), "{line} in {shown}");
    }
    let shown = letters(&world.settings, &["show", &every[5].to_string()]).done();
    assert!(shown.contains("\npayload       text\\nß\n"), "{shown}");
    let whole = &letters(&world.settings, &["show", "--json", &every[5].to_string()]).json_lines()[0];
    assert_eq!((&whole["payload"]["text"], &whole["headers"][1]["value"]), (&json!("text\nß"), &Value::Null));

    for (arguments, code, text) in [
        (&["replay"] as &[&str], 2, "say all"),
        (&["drop", "--limit", "1"], 2, "say all"),
        (&["list", "--since", "yesterday"], 2, "--since \"yesterday\": must be a moment such as"),
        (&["list", "--state", "shut"], 2, "--state \"shut\": must be open, replayed, dropped or all"),
        (&["list", "--flow", "statsu"], 2, "did you mean status?"),
        (&["show", "999999"], 1, "there is no letter 999999"),
    ] {
        let ended = letters(&world.settings, arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(text), "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn what_is_still_wrong_stays_open_and_what_was_put_right_is_one_row() {
    let world = world_with_letters("right", 3);
    let ended = letters(&world.settings, &["replay", "--all"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.out.contains("0 letters replayed, 4 refused"), "{}", ended.out);
    assert_eq!((states(&world.url), rows(&world.url, "THIRTEEN").len()), (of(&[("open", 4)]), 0));

    put_right(&world);
    // Changes nothing, and says what is to come.
    let before = number(&world.url, "SELECT sum(xmin::text::bigint)::bigint FROM sluicegate_letters");
    let out = letters(&world.settings, &["replay", "--all", "--dry-run"]).done();
    assert!(out.contains("3 would be replayed, 1 refused"), "{out}");
    assert_eq!(number(&world.url, "SELECT sum(xmin::text::bigint)::bigint FROM sluicegate_letters"), before);
    assert_eq!((states(&world.url), rows(&world.url, "THIRTEEN").len()), (of(&[("open", 4)]), 0));

    assert_eq!(letters(&world.settings, &["replay", "--all"]).code, Some(1), "one is no Avro for ever");
    let offsets: BTreeMap<i32, i64> = (10..13).map(|offset| (offset, 1)).collect();
    assert_eq!(rows(&world.url, "THIRTEEN"), offsets, "the offsets behind ten good records, each once");
    assert_eq!(states(&world.url), of(&[("open", 1), ("replayed", 3)]));
    let out = letters(&world.settings, &["replay", "--reason", "pg.23514"]).done();
    assert!(out.contains("0 letters replayed, 0 refused"), "{out}");
    assert_eq!(rows(&world.url, "THIRTEEN"), offsets);

    for line in letters(&world.settings, &["list", "--state", "all", "--json"]).json_lines() {
        let id = line["id"].to_string();
        let whole = &letters(&world.settings, &["show", "--json", &id]).json_lines()[0];
        let history: Vec<(&str, &str)> = whole["history"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| (entry["what"].as_str().expect("a word"), entry["code"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(line["tries"], 2);
        match line["reason_code"].as_str() {
            Some("pg.23514") => assert_eq!(history, [("refused", "pg.23514"), ("replayed", "")]),
            _ => assert_eq!(history, [("refused", "avro.truncated"); 2]),
        }
        assert_eq!(whole["settled_at"].is_string(), line["state"] == "replayed");
    }
    // The ledger is where it was: a new instance goes on behind all of it.
    let sql = "SELECT next_offset FROM sluicegate_ledger WHERE partition = 0";
    assert_eq!(number(&world.url, sql), world.produced[0]);
}

#[test]
fn what_only_the_commit_would_refuse_is_found_and_its_neighbour_is_replayed() {
    let world = world_with_letters("deferred", 2);
    put_right(&world);
    let sql =
        "ALTER TABLE processed_seed_status ADD CONSTRAINT once UNIQUE (response_message) DEFERRABLE INITIALLY DEFERRED;
               INSERT INTO processed_seed_status (event_timestamp, response_message, status)
               VALUES (now(), 'record 10 of partition 0', 'THERE')";
    connect(&world.url).batch_execute(sql).expect("a row that is there already");
    let ended = letters(&world.settings, &["replay", "--reason", "pg.23514"]);
    assert!(ended.out.contains("1 letters replayed, 1 refused"), "{}{}", ended.out, ended.err);
    assert_eq!((ended.code, rows(&world.url, "THIRTEEN")), (Some(1), BTreeMap::from([(11, 1)])));
    assert_eq!(states(&world.url), of(&[("open", 2), ("replayed", 1)]));
}

#[test]
fn a_dropped_letter_is_left_alone_and_is_still_there() {
    let world = world_with_letters("dropped", 3);
    let id = number(&world.url, "SELECT min(id) FROM sluicegate_letters WHERE reason_code = 'pg.23514'").to_string();
    let out = letters(&world.settings, &["drop", "--id", &id, "--dry-run"]).done();
    assert!(out.contains("1 would be dropped"), "{out}");
    assert_eq!(states(&world.url), of(&[("open", 4)]));
    let out = letters(&world.settings, &["drop", "--id", &id]).done();
    assert!(out.contains("1 letters dropped"), "{out}");
    assert_eq!(states(&world.url), of(&[("open", 3), ("dropped", 1)]));
    put_right(&world);
    letters(&world.settings, &["replay", "--all"]);
    assert_eq!(states(&world.url), of(&[("open", 1), ("dropped", 1), ("replayed", 2)]));
    assert_eq!(rows(&world.url, "THIRTEEN").len(), 2);
    let whole = &letters(&world.settings, &["show", "--json", &id]).json_lines()[0];
    assert_eq!(
        (&whole["state"], &whole["history"][0]["what"], &whole["tries"]),
        (&json!("dropped"), &json!("dropped"), &json!(0))
    );
    assert!(whole["payload"]["bytes"].as_i64() > Some(0), "with all that it had");
}

#[test]
fn two_who_replay_the_same_letters_at_once_and_one_killed_in_the_middle_write_each_row_once() {
    const COUNT: usize = 100;
    for round in 0..3u64 {
        let world = world_with_letters("twice", COUNT);
        put_right(&world);
        // Slow enough that both are in the middle of it for a good while.
        let sql = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END';
                   CREATE TRIGGER slow BEFORE INSERT ON processed_seed_status FOR EACH ROW EXECUTE FUNCTION slow()";
        connect(&world.url).batch_execute(sql).expect("a trigger");
        let replay = ["letters", "replay", "--reason", "pg.23514", "--rate", "100"];
        let killed = Instance::start_with(&world.settings, &replay);
        let mut other = Instance::start_with(&world.settings, &replay);
        wait_for("some to be replayed", MINUTE, || {
            (states(&world.url).get("replayed").copied().unwrap_or(0) >= 20).then_some(())
        });
        std::thread::sleep(Duration::from_millis(37 * round));
        killed.signal("KILL");
        assert_eq!(other.wait(MINUTE), Some(0), "{}", other.log_text());
        // What the killed one held was open again only once the server had noticed.
        wait_for("the last session of the killed one to end", MINUTE, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluicegate letters'
                       AND datname = current_database()";
            (number(&world.url, sql) == 0).then_some(())
        });
        letters(&world.settings, &["replay", "--reason", "pg.23514"]).done();
        assert_eq!(states(&world.url), of(&[("open", 1), ("replayed", COUNT as i64)]));
        let once: BTreeMap<i32, i64> = (10..10 + COUNT as i32).map(|offset| (offset, 1)).collect();
        assert_eq!(rows(&world.url, "THIRTEEN"), once);
    }
}

/// Killed just before its COMMIT and just behind it.
#[cfg(feature = "failpoints")]
#[test]
fn a_replay_killed_at_its_commit_is_done_whole_or_not_at_all() {
    for (point, rows_then) in [("before_commit", 0), ("committed", 3)] {
        let mut world = world_with_letters("commit", 3);
        put_right(&world);
        world.settings.insert("FAILPOINT", format!("{point}=kill@1"));
        let ended = letters(&world.settings, &["replay", "--reason", "pg.23514"]);
        assert_eq!(ended.code, None, "{point}: {}", ended.err);
        world.settings.remove("FAILPOINT");
        assert_eq!(rows(&world.url, "THIRTEEN").len(), rows_then, "{point}");
        letters(&world.settings, &["replay", "--reason", "pg.23514"]).done();
        assert_eq!(rows(&world.url, "THIRTEEN"), (10..13).map(|offset| (offset, 1)).collect(), "{point}");
    }
}

#[test]
fn a_table_of_an_older_version_gets_its_columns_and_keeps_its_letters() {
    let world = world_with_letters("older", 1);
    let sql = "ALTER TABLE sluicegate_letters DROP COLUMN state, DROP COLUMN settled_at, DROP COLUMN tries, DROP COLUMN history";
    connect(&world.url).batch_execute(sql).expect("as it was");
    let ended = letters(&world.settings, &["list"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("sluicegate init"), "{}", ended.err);
    let _instance = world.start();
    wait_for("the columns", MINUTE, || (letters(&world.settings, &["list"]).code == Some(0)).then_some(()));
    assert_eq!(states(&world.url), of(&[("open", 2)]));
}

#[test]
fn http_has_the_same_calls() {
    let world = world_with_letters("http", 3);
    let instance = world.start();
    instance.wait_ready();
    let mut connection = Connection::open(([127, 0, 0, 1], instance.port).into());
    let first = connection.ask("GET", "/letters?flow=status&reason=pg.23514&limit=2").json();
    assert_eq!(first["letters"].as_array().expect("a list").len(), 2);
    let next = connection.ask("GET", &format!("/letters?reason=pg.23514&limit=2&after={}", first["next"])).json();
    assert_eq!((next["letters"].as_array().expect("a list").len(), &next["next"]), (1, &Value::Null));
    let id = &first["letters"][0]["id"];
    let whole = connection.ask("GET", &format!("/letters/{id}")).json();
    assert_eq!(
        (&whole["key"]["text"], &whole["state"], &whole["history"]),
        (&json!("key"), &json!("open"), &json!([]))
    );
    for (target, status, code) in [
        ("/letters/999999", 404, "letter_unknown"),
        ("/letters/x", 400, "letter_id_invalid"),
        ("/letters?color=red", 400, "parameter_invalid"),
        ("/letters?since=yesterday", 400, "parameter_invalid"),
        ("/letters?flow=statsu", 400, "parameter_invalid"),
    ] {
        let response = connection.ask("GET", target);
        assert_eq!((response.status, &*response.error()), (status, code), "{target}");
    }
    for (body, code) in [
        (json!({}), "parameter_invalid"),
        (json!({"colour": "red"}), "request_invalid"),
        (json!([]), "request_invalid"),
        (json!({"all": true, "state": "dropped"}), "parameter_invalid"),
        (json!({"all": true, "limit": 0}), "parameter_invalid"),
    ] {
        let response = connection.send("POST", "/letters/replay", None, &body.to_string());
        assert_eq!((response.status, &*response.error()), (400, code), "{body}");
    }
    let dealt = connection.send("POST", "/letters/replay", None, &json!({"all": true, "limit": 3}).to_string()).json();
    assert_eq!((&dealt["replayed"], &dealt["left"]), (&json!(0), &json!(1)));
    assert_eq!(dealt["refused"].as_array().expect("a list").len(), 3);
    let dealt = connection.send("POST", "/letters/replay", None, &json!({"id": [id]}).to_string()).json();
    let refused = &dealt["refused"];
    assert_eq!(
        (refused.as_array().expect("a list").len(), &refused[0]["id"], &refused[0]["code"]),
        (1, id, &json!("pg.23514"))
    );
    put_right(&world);
    let dealt = connection
        .send("POST", "/letters/replay", None, &json!({"reason": "pg.23514", "dry_run": true}).to_string())
        .json();
    assert_eq!(
        (&dealt["replayed"], &dealt["dry_run"], states(&world.url)),
        (&json!(3), &json!(true), of(&[("open", 4)]))
    );
    let dealt =
        connection.send("POST", "/letters/replay", None, &json!({"reason": "pg.23514", "limit": 2}).to_string()).json();
    assert_eq!((&dealt["replayed"], &dealt["left"], &dealt["next"].is_i64()), (&json!(2), &json!(1), &true));
    let dealt = connection
        .send(
            "POST",
            "/letters/replay",
            None,
            &json!({"flow": ["status"], "reason": "pg.23514", "after": dealt["next"]}).to_string(),
        )
        .json();
    assert_eq!(dealt["replayed"], 1);
    let dealt = connection.send("POST", "/letters/drop", None, &json!({"all": true}).to_string()).json();
    assert_eq!((&dealt["dropped"], &dealt["left"]), (&json!(1), &json!(0)));
    assert_eq!(states(&world.url), of(&[("dropped", 1), ("replayed", 3)]));
    assert_eq!(rows(&world.url, "THIRTEEN"), (10..13).map(|offset| (offset, 1)).collect());
    // A page of another site gets nothing done.
    connection.write(
        "POST /letters/drop HTTP/1.1\r\nHost: test\r\nOrigin: http://evil\r\nContent-Length: 12\r\n\r\n{\"all\":true}",
    );
    assert_eq!(connection.read(false).status, 403);
}

#[test]
fn a_refused_order_is_decided_when_it_is_replayed_and_others_are_told_once() {
    let (topic, url) = (unique("replayed"), support::new_database("replayed"));
    let mut settings = HashMap::from([
        ("KAFKA_BROKERS", support::brokers()),
        ("DB_URL", url.clone()),
        ("SLUICEGATE_FLOWS_ORDERS_TOPIC", topic.clone()),
        ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", unique("group")),
        ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", "1".to_owned()),
    ]);
    for (name, suffix) in [("VALIDATED", "-validated"), ("INVENTORY", "-inventory"), ("WAREHOUSE", "-warehouse")] {
        settings.insert(String::leak(format!("SLUICEGATE_FLOWS_ORDERS_{name}_TOPIC")), format!("{topic}{suffix}"));
    }
    for suffix in ["", "-validated", "-inventory", "-warehouse"] {
        create_topic(&support::brokers(), &Default::default(), &format!("{topic}{suffix}"), 1, 1).expect("a topic");
    }
    let instance = Instance::start_with(&settings, &["run", "--flow", "orders"]);
    instance.wait_ready();
    let sql = "ALTER TABLE orders ADD CONSTRAINT modest CHECK (quantity < 100)";
    connect(&url).batch_execute(sql).expect("a constraint");
    let send = |ids: &[(Uuid, &str, u32)]| {
        let producer = Producer::new(&support::brokers(), &Default::default(), &topic).expect("a producer");
        for (id, product, quantity) in ids {
            let payload = format!(
                r#"{{"order_id":"{id}","customer_id":"C","product_id":"{product}","quantity":{quantity},"amount":1}}"#
            );
            producer.send(None, Some(b"C"), payload.as_bytes()).expect("sent");
        }
        assert_eq!(producer.finish().0.failed, 0);
    };
    let [modest, large, larger] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    send(&[(modest, "PROD007", 1), (large, "PROD007", 3_000), (larger, "PROD007", 2_500)]);
    wait_for("the letters", MINUTE, || (number(&url, "SELECT count(*) FROM sluicegate_letters") == 2).then_some(()));
    wait_for("the order", MINUTE, || (number(&url, "SELECT count(*) FROM orders") == 1).then_some(()));
    let out = letters(&settings, &["replay", "--all", "--dry-run"]).done();
    assert!(out.contains("0 would be replayed") && out.contains("2 left alone: flow orders is not enabled"), "{out}");

    connect(&url).batch_execute("ALTER TABLE orders DROP CONSTRAINT modest").expect("put right");
    // One of them comes by Kafka after all: then it is written already, and its letter changes nothing.
    send(&[(large, "PROD007", 3_000)]);
    wait_for("the order that came again", MINUTE, || (number(&url, "SELECT count(*) FROM orders") == 2).then_some(()));
    letters(&settings, &["replay", "--flow", "orders"]).done();
    assert_eq!(states(&url), of(&[("replayed", 2)]));
    let sql = "SELECT order_id, status, reason FROM orders ORDER BY order_id";
    let rows = connect(&url).query(sql, &[]).expect("orders");
    let found: Vec<(Uuid, String, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let reserved = |id| (id, "reserved".to_owned(), None);
    // Decided by the stock of now: of 5,000 there were 3,001 gone.
    let expected =
        [reserved(modest), reserved(large), (larger, "rejected".to_owned(), Some("insufficient_stock".to_owned()))];
    assert_eq!(found, expected);
    let sql = "SELECT reserved_quantity FROM inventory WHERE product_id = 'PROD007'";
    assert_eq!(number(&url, sql), 3_001);
    wait_for("an empty outbox", MINUTE, || (number(&url, "SELECT count(*) FROM sluicegate_outbox") == 0).then_some(()));
    let mut told = told(&format!("{topic}-validated"), 3);
    told.sort();
    let source = |offset: i64| format!("{topic}/0/{offset}");
    assert_eq!(told, [source(0), source(2), source(3)], "each once, under the name of its own record");
    drop(instance);
}

/// The sources of a topic's messages, once there are so many.
fn told(topic: &str, count: usize) -> Vec<String> {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::{Headers as _, Message as _};
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", support::brokers()).set("group.id", unique("reader"));
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut at = rdkafka::TopicPartitionList::new();
    at.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).expect("a partition");
    consumer.assign(&at).expect("assigned");
    let mut seen = Vec::new();
    wait_for("what others are told", MINUTE, || {
        while let Some(message) = consumer.poll(Duration::from_millis(200)) {
            let message = message.expect("a message");
            let source =
                message.headers().and_then(|headers| headers.iter().find(|header| header.key == "sluicegate-source"));
            seen.push(
                String::from_utf8(source.and_then(|header| header.value).expect("a source").to_vec()).expect("text"),
            );
        }
        (seen.len() >= count).then_some(())
    });
    seen
}
