//! The events flow against a real Kafka and a real PostgreSQL: whatever happens, each message is processed once or is a
//! dead letter once. The checks read tables and topics, and nothing that the program says of itself.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use sluicegate::kafka::admin::create_topic;
use support::random::Random;
use support::stream::{PARTITIONS, SOON, Stream, payload};
use support::{Instance, connect, unique, wait_for};

const FAILING: &str = r#"[{"kind": "fail", "transient_percent": 5, "permanent_percent": 1}, {"kind": "table"}]"#;

/// Two instances, of which one is killed again and again, while messages come in and are written.
fn kill_while(stream: &mut Stream, count: u64, send: &mut dyn FnMut(&mut Stream, u64)) {
    const ROUNDS: u64 = 10;
    let mut random = Random(count);
    let mut instances = [stream.start(), stream.start()];
    instances[1].wait_ready();
    let mut client = connect(&stream.url);
    let mut rows = || -> i64 { client.query_one("SELECT count(*) FROM events", &[]).expect("a count").get(0) };
    for round in 0..ROUNDS {
        let before = rows();
        (round * count / ROUNDS..(round + 1) * count / ROUNDS).for_each(|number| send(stream, number));
        stream.flush();
        let mut looks = 0;
        while rows() == before {
            assert!(looks < 20_000, "nothing is written any more");
            looks += 1;
            std::thread::sleep(Duration::from_millis(3));
        }
        std::thread::sleep(Duration::from_millis(if count >= 100_000 { 2_000 } else { random.below(60) }));
        // Both have partitions, or soon will: either may be in the middle of a transaction.
        let index = random.below(2) as usize;
        instances[index].signal("KILL");
        instances[index] = stream.start();
    }
    stream.settle();
}

/// `SLUICEGATE_EVENTS=200000` is the whole of it, with a kill every two seconds.
#[test]
fn kill_9_again_and_again_with_two_instances_and_each_message_is_processed_or_dead_once() {
    let count: u64 = support::setting("SLUICEGATE_EVENTS", 20_000);
    let mut stream = Stream::new("events", FAILING);
    let mut random = Random(count);
    kill_while(&mut stream, count, &mut |stream, number| {
        let (id, key) = (format!("message-{number}"), format!("key-{}", random.below(500)));
        let payload = if random.chance(1) { "{\"cut\": ".to_owned() } else { payload(number) };
        stream.send(Some(&id), &key, &payload);
        if random.chance(2) {
            // Under another key it may be in another partition.
            stream.send(Some(&id), &format!("key-{}", random.below(500)), &payload);
        }
    });
    let dead = stream.check();
    let share = dead.len() as u64 * 1000 / count;
    assert!((12..30).contains(&share), "{share} of 1000 are dead, and about 2% should be");
    for (id, read) in &dead {
        let number: u64 = id.strip_prefix("message-").and_then(|number| number.parse().ok()).expect("a number");
        let (error, attempt) =
            (read.header("sluicegate-last-error").expect("an error"), read.header("sluicegate-attempt"));
        let is_cut = read.text() != payload(number);
        assert_eq!(error.contains("events.not_json"), is_cut, "{id}: {error}");
        assert!(attempt == Some("0") || error.contains("events.fail"), "{id}: {error} after attempt {attempt:?}");
        assert_eq!(read.header("sluicegate-original-topic"), Some(stream.topic.as_str()));
        assert!(read.key.as_ref().is_some_and(|key| key.starts_with(b"key-")));
        assert_eq!(read.header("source"), Some("test"), "its own headers are unchanged");
    }
    let retried = stream.all(&format!("{}-retry-1", stream.topic));
    let sources: BTreeSet<&str> = retried.iter().filter_map(|read| read.header("sluicegate-source")).collect();
    assert!((30..80).contains(&(sources.len() as u64 * 1000 / count)), "{} were tried again", sources.len());
    assert!(retried.iter().all(|read| read.header("sluicegate-due").is_some() && read.header("message_id").is_some()));
}

/// Without ids nothing but the ledger, and the name of what is tried again, stands between a message and its double.
#[test]
fn kill_9_again_and_again_and_messages_without_an_id_are_processed_or_dead_once_as_well() {
    let mut stream = Stream::new("nameless", FAILING);
    kill_while(&mut stream, 10_000, &mut |stream, number| {
        stream.send(None, &format!("key-{}", number % 500), &payload(number));
        stream.ids.insert(format!("message-{number}"));
    });
    let dead = stream.check();
    assert!((50..200).contains(&dead.len()), "{} of 10,000 are dead, and about 1% should be", dead.len());
}

#[test]
fn handlers_do_what_is_configured_and_all_of_it_or_nothing() {
    let handlers = r#"[
        {"kind": "drop", "path": "/type", "equals": "ping"},
        {"kind": "table", "table": "numbers", "columns": [
            {"name": "number", "path": "/number", "type": "integer", "required": true},
            {"name": "money", "path": "/money", "type": "numeric"},
            {"name": "at", "path": "/at", "type": "timestamptz"},
            {"name": "id", "path": "/id", "type": "uuid"},
            {"name": "ok", "path": "/ok", "type": "boolean"},
            {"name": "share", "path": "/share", "type": "double"},
            {"name": "big", "path": "/big", "type": "bigint"},
            {"name": "header", "path": "@headers/source", "type": "text"},
            {"name": "rest", "path": "/rest", "type": "jsonb"}]},
        {"kind": "sql", "sql": "SELECT note($1, $2)", "params": [
            {"path": "/number", "type": "integer"}, {"path": "@attempt", "type": "integer"}]},
        {"kind": "forward", "topic": "FORWARD", "key": "/id"}]"#;
    let forward = unique("forward");
    let mut stream = Stream::new("handlers", &handlers.replace("FORWARD", &forward));
    create_topic(&support::brokers(), &Default::default(), &forward, PARTITIONS, 1).expect("a topic");
    connect(&stream.url)
        .batch_execute(
            "CREATE TABLE parents (id integer PRIMARY KEY);
             INSERT INTO parents SELECT n FROM generate_series(0, 999) n WHERE n <> 23;
             CREATE TABLE numbers (number integer NOT NULL CHECK (number <> 13) REFERENCES parents DEFERRABLE INITIALLY
                DEFERRED, money numeric, at timestamptz, id uuid, ok boolean, share double precision, big bigint,
                header text, rest jsonb);
             CREATE TABLE notes (number integer PRIMARY KEY, attempt integer NOT NULL);
             CREATE FUNCTION note(number integer, attempt integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                IF number % 10 = 7 AND attempt < 2 THEN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END IF;
                IF number % 100 = 50 THEN RAISE EXCEPTION 'never %', number; END IF;
                IF number = 99 THEN RAISE EXCEPTION 'always busy' USING ERRCODE = '55P03'; END IF;
                INSERT INTO notes VALUES (number, attempt);
             END $$;",
        )
        .expect("tables");
    let id = |number: u64| format!("00000000-0000-0000-0000-{number:012}");
    for number in 0..1000u64 {
        let (kind, id) = (if number % 5 == 1 { "ping" } else { "number" }, id(number));
        let payload = format!(
            r#"{{"type": "{kind}", "number": {number}, "money": -{number}.50, "at": "2025-01-01T10:00:00.{number:06}Z", "id": "{id}",
                "ok": true, "share": {number}e-1, "big": {}, "rest": {{"a": [null, "\u00e4"]}}, "other": 1}}"#,
            number * 1_000_000_000
        );
        stream.send(None, &format!("key-{}", number % 9), &payload);
    }
    let bad =
        [r#"{"type": "x"}"#, r#"{"number": "7"}"#, r#"{"number": 1.5}"#, r#"{"number": 2, "at": "yesterday"}"#, "x"];
    bad.iter().for_each(|payload| stream.send(None, "bad", payload));
    let nul = r#"{"number": 998, "rest": "\u0000"}"#;
    stream.send(None, "bad", nul);
    stream.flush();
    let _instances = [stream.start(), stream.start()];
    stream.settle();

    let dead: BTreeSet<u64> = [13, 23, 99].into_iter().chain((0..10).map(|n| n * 100 + 50)).collect();
    let alive: Vec<u64> = (0..1000).filter(|number| number % 5 != 1 && !dead.contains(number)).collect();
    let numbers =
        |sql: &str| -> Vec<u64> { stream.texts(sql).iter().map(|text| text.parse().expect("a number")).collect() };
    assert_eq!(numbers("SELECT number::text FROM numbers ORDER BY numbers.number"), alive);
    assert_eq!(numbers("SELECT number::text FROM notes ORDER BY notes.number"), alive);
    let right = "number % 10 = 7 AND attempt = 2 OR number % 10 <> 7 AND attempt = 0";
    assert_eq!(
        stream.number(&format!("SELECT count(*) FROM notes WHERE NOT ({right})")),
        0,
        "tried again as often as needed"
    );
    let right =
        "money = -number - 0.50 AND scale(money) = 2 AND ok AND big = number * 1000000000::bigint AND header = 'test'
                 AND at = '2025-01-01T10:00:00Z'::timestamptz + number * interval '1 microsecond'
                 AND id = ('00000000-0000-0000-0000-' || lpad(number::text, 12, '0'))::uuid
                 AND abs(share - number / 10.0) < 1e-9 AND rest = '{\"a\": [null, \"ä\"]}'";
    assert_eq!(stream.number(&format!("SELECT count(*) FROM numbers WHERE ({right}) IS NOT TRUE")), 0);

    let told = stream.all(&forward);
    let keys: BTreeSet<String> =
        told.iter().map(|read| String::from_utf8(read.key.clone().expect("a key")).expect("text")).collect();
    assert_eq!((keys.len(), told.len()), (alive.len(), alive.len()));
    assert!(keys.into_iter().eq(alive.iter().map(|number| id(*number))));

    let mut buried: Vec<String> = stream.all(&stream.dead()).iter().map(|read| read.text().to_owned()).collect();
    buried.retain(|text| !bad.contains(&text.as_str()) && text != nul);
    let buried: BTreeSet<u64> = buried
        .iter()
        .map(|text| {
            serde_json::from_str::<serde_json::Value>(text).expect("JSON")["number"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!(buried, dead);
    assert_eq!(stream.number("SELECT count(*) FROM sluicegate_letters"), (dead.len() + bad.len() + 1) as i64);
    let reasons = stream.texts("SELECT DISTINCT reason_code FROM sluicegate_letters ORDER BY 1");
    let known = ["events.not_json", "events.value", "pg.22P05", "pg.23503", "pg.23514", "pg.55P03", "pg.P0001"];
    assert_eq!(reasons, known);
}

#[test]
fn a_server_that_went_back_in_time_has_forgotten_and_so_has_the_memory() {
    let mut stream = Stream::new("back", "[]");
    let _instance = stream.start();
    let send = |stream: &mut Stream, range: std::ops::Range<u64>| {
        range.for_each(|number| stream.send(Some(&number.to_string()), "key", &payload(number)));
        stream.flush();
        stream.check();
    };
    send(&mut stream, 0..500);
    let mut client = connect(&stream.url);
    client.batch_execute("CREATE TABLE kept_ledger AS TABLE sluicegate_ledger;").expect("kept");
    let newest: i64 = stream.number("SELECT max(seq) FROM sluicegate_seen");
    send(&mut stream, 500..1000);
    // As a standby that was behind: rows, ids and the ledger of the second part are gone, and numbers are given again.
    client
        .batch_execute(&format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtext('sluicegate seen'), hashtext('events'));
             DELETE FROM events WHERE message_id::int >= 500;
             DELETE FROM sluicegate_seen WHERE seq > {newest};
             UPDATE sluicegate_ledger l SET next_offset = k.next_offset FROM kept_ledger k
             WHERE l.topic = k.topic AND l.partition = k.partition;
             ALTER TABLE sluicegate_seen ALTER COLUMN seq RESTART WITH {};
             COMMIT",
            newest + 1
        ))
        .expect("back");
    wait_for("the second part again", SOON, || (stream.number("SELECT count(*) FROM events") == 1000).then_some(()));
    stream.check();
}

#[test]
fn what_is_remembered_is_bounded_by_number_and_by_time() {
    let mut stream = Stream::new("window", "[]")
        .with("SLUICEGATE_FLOWS_EVENTS_DEDUPE_IDS_MAX", "1000")
        .with("SLUICEGATE_FLOWS_EVENTS_DEDUPE_WINDOW_MS", "20000");
    let _instance = stream.start();
    let ids = "SELECT coalesce(sum(count), 0) FROM sluicegate_seen";
    for round in 0..10u64 {
        for number in 0..1000 {
            let number = round * 1000 + number;
            stream.send(Some(&number.to_string()), &number.to_string(), &payload(number));
        }
        stream.flush();
        stream.settle();
    }
    stream.check();
    // What a transaction adds beyond the limit, the next one takes away.
    assert!(stream.number(ids) <= 1000 + 2 * 300, "{} ids", stream.number(ids));
    let mut number = 10_000;
    wait_for("the last of the old ones to be forgotten", SOON, || {
        // Each of these is one more that is remembered.
        std::thread::sleep(Duration::from_millis(500));
        number += 1;
        stream.send(Some(&number.to_string()), "key", &payload(number));
        stream.flush();
        (stream.number(ids) < 200).then_some(())
    });
}

#[test]
fn a_record_too_large_to_be_sent_again_is_a_letter_and_keeps_nothing_waiting() {
    let mut stream = Stream::new("large", r#"[{"kind": "fail", "transient_percent": 100}]"#);
    // It fits into a message, and with a history it does not.
    stream.send(None, "key", &format!(r#"{{"number": 1, "text": "{}"}}"#, "x".repeat(999_600)));
    stream.send(None, "key", &payload(2));
    stream.flush();
    let _instance = stream.start();
    stream.settle();
    let attempts: Vec<String> = stream
        .all(&stream.dead())
        .iter()
        .filter_map(|read| read.header("sluicegate-attempt").map(str::to_owned))
        .collect();
    assert_eq!(attempts, ["3"], "the other one was tried as often as there are topics");
    assert_eq!(
        stream.texts(
            "SELECT payload ->> 'number' FROM (SELECT convert_from(payload, 'UTF8')::jsonb AS payload
                             FROM sluicegate_letters) AS letters ORDER BY 1"
        ),
        ["1", "2"]
    );
}

fn post(instance: &Instance, path: &str, key: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", instance.port)).expect("the program listens");
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
}

#[test]
fn events_that_are_made_up_and_those_that_come_over_http_are_processed_once() {
    let stream = Stream::new("door", "[]");
    for (acks, manner) in
        [(("all", "true"), &[][..]), (("1", "false"), &["--sync"]), (("0", "false"), &["--rate", "2000"])]
    {
        let mut settings = stream.settings.clone();
        settings.extend([("KAFKA_PRODUCER_ACKS", acks.0.into()), ("KAFKA_PRODUCER_IDEMPOTENT", acks.1.into())]);
        let arguments = [&["produce", "events", "--count", "100"], manner].concat();
        let mut produce = Instance::start_with(&settings, &arguments);
        assert_eq!(produce.wait(SOON), Some(0), "{}", produce.log_text());
    }
    let instance = stream.start();
    instance.wait_ready();
    for _ in 0..2 {
        let (status, line) = post(&instance, "/events?key=user-1&source=shop", "cart-1", r#"{"type": "one"}"#);
        assert_eq!(
            (status, line["message_id"].as_str(), line["status"].as_str()),
            (202, Some("cart-1"), Some("accepted"))
        );
        let (status, lines) = post(&instance, "/events", "cart-2", r#"[{"type": "many"}, {"type": "many"}]"#);
        assert_eq!((status, lines[1]["message_id"].as_str()), (202, Some("cart-2/1")));
    }
    assert_eq!(post(&instance, "/events", "cart-3", "[7]").0, 400);
    stream.settle();
    assert_eq!(stream.number("SELECT count(DISTINCT message_id) FROM events WHERE source = 'sluicegate produce'"), 300);
    let sql = "SELECT concat_ws(' ', message_id, event_type, source, key) FROM events
               WHERE source <> 'sluicegate produce' ORDER BY 1";
    assert_eq!(stream.texts(sql), ["cart-1 one shop user-1", "cart-2/0 many http", "cart-2/1 many http"]);
}

/// Tables of one's own, with a place for each row in the order in which they were written.
fn with_places(stream: &Stream, function: &str) {
    let sql = format!(
        "CREATE TABLE events (place bigint GENERATED ALWAYS AS IDENTITY, message_id text, key text, number bigint,
            payload jsonb);
         CREATE TABLE gate (is_open boolean);
         CREATE FUNCTION look(number bigint, key text, attempt integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            {function}
         END $$;"
    );
    connect(&stream.url).batch_execute(&sql).expect("tables");
}

const PLACED: &str = r#"{"kind": "table", "table": "events", "columns": [
        {"name": "message_id", "path": "@message_id", "type": "text"}, {"name": "key", "path": "@key", "type": "text"},
        {"name": "number", "path": "/number", "type": "bigint"}, {"name": "payload", "path": "", "type": "jsonb"}]},
    {"kind": "sql", "sql": "SELECT look($1, $2, $3)", "params": [{"path": "/number", "type": "bigint"},
        {"path": "@key", "type": "text"}, {"path": "@attempt", "type": "integer"}]}"#;

/// In the order in which they were written the numbers of each key grow.
fn check_order(stream: &Stream) {
    let sql = "SELECT format('%s before %s of %s', number, next, key)
               FROM (SELECT key, number, lead(number) OVER (PARTITION BY key ORDER BY place) AS next FROM events) AS pairs
               WHERE next <= number";
    assert_eq!(stream.texts(sql), [""; 0]);
    assert_eq!(stream.number("SELECT count(*) FROM sluicegate_held"), 0);
    assert_eq!(stream.number("SELECT count(*) FROM sluicegate_parked"), 0);
}

#[test]
fn the_order_of_each_key_is_kept_under_kill_9_whatever_fails_between() {
    let handlers = format!(r#"[{{"kind": "fail", "transient_percent": 3, "permanent_percent": 1}}, {PLACED}]"#);
    let mut stream = Stream::new("ordered", &handlers).with("SLUICEGATE_FLOWS_EVENTS_ORDERING", "key");
    with_places(
        &stream,
        "IF number % 40 = 3 AND attempt = 0 THEN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END IF;
         IF number % 150 = 8 THEN RAISE EXCEPTION 'never'; END IF;",
    );
    let mut random = Random(7);
    kill_while(&mut stream, 10_000, &mut |stream, number| {
        // Some keys are in every batch, so that much is parked, and some hardly ever.
        let key = if random.chance(30) { random.below(3) } else { 3 + random.below(200) };
        stream.send(Some(&format!("message-{number}")), &format!("key-{key}"), &payload(number));
    });
    stream.check();
    check_order(&stream);
    let tried_again = stream.number("SELECT count(*) FROM events WHERE number % 40 = 3");
    assert!(tried_again > 200, "{tried_again}");
}

#[test]
fn a_hot_key_that_fails_stops_no_other_and_its_records_follow_in_their_order() {
    let mut stream = Stream::new("hot", &format!("[{PLACED}]"))
        .with("SLUICEGATE_FLOWS_EVENTS_ORDERING", "key")
        .with("SLUICEGATE_FLOWS_EVENTS_RETRY_DELAY_MS", "10000")
        // The last attempt is far away, however long the others take.
        .with("SLUICEGATE_FLOWS_EVENTS_RETRY_DELAY_FACTOR", "6");
    with_places(
        &stream,
        "IF key = 'hot' AND number = 0 AND NOT EXISTS (SELECT FROM gate) THEN
            RAISE EXCEPTION 'busy' USING ERRCODE = '40001';
         END IF;",
    );
    for number in 0..2_500 {
        stream.send(Some(&format!("hot-{number}")), "hot", &payload(number));
        stream.send(Some(&format!("other-{number}")), &format!("key-{}", number % 20), &payload(number));
    }
    stream.flush();
    let _instances = [stream.start(), stream.start()];
    let others = "SELECT count(*) FROM events WHERE key <> 'hot'";
    wait_for("all others", SOON, || (stream.number(others) == 2_500).then_some(()));
    assert_eq!(stream.number("SELECT count(*) FROM events WHERE key = 'hot'"), 0, "it waits for its head");
    connect(&stream.url).batch_execute("INSERT INTO gate VALUES (true)").expect("opened");
    let dead = stream.check();
    assert!(dead.is_empty());
    check_order(&stream);
}
