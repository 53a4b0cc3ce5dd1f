//! No payload, key, header or password in anything that the program says, at LOG_LEVEL=trace and in both formats: each of
//! them has a canary in it, goes through every path that has something to tell, and the canary is nowhere but in
//! `letters show`, which is there to show it.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use sluicegate::kafka::Producer;
use support::hostile::{Headers, produce, record};
use support::world::World;
use support::{Instance, connect, unique, update, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const CANARY: &str = "c4n4ry";

/// Looks for it as text, and as what bytes are often shown as. The names of what was sent do not count.
fn assert_silent(what: &str, said: &str) {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let numbers = CANARY.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    for form in [CANARY, &CANARY.to_uppercase(), &hex, &hex.to_uppercase(), &numbers] {
        let line = said.lines().find(|line| line.contains(form));
        assert!(line.is_none(), "{what}: {}", line.unwrap_or_default());
    }
}

fn run(settings: &HashMap<&str, String>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env_clear().envs(settings).current_dir(std::env::temp_dir());
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

fn post(port: u16, target: &str, body: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(MINUTE)).expect("a limit");
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}\r\nIdempotency-Key: {CANARY}\r\n\
         Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).expect("sent");
    stream.read_to_end(&mut Vec::new()).expect("an answer");
}

fn number(url: &str, sql: &str) -> i64 {
    connect(url).query_one(sql, &[]).map_or(0, |row| row.get(0))
}

#[test]
fn what_comes_in_is_not_said() {
    for format in ["text", "json"] {
        let mut world = World::new("canary");
        let orders = unique("orders");
        for (name, value) in [
            ("LOG_LEVEL", "trace"),
            ("LOG_FORMAT", format),
            ("SLUICEGATE_FLOWS_ORDERS_ENABLED", "true"),
            ("SLUICEGATE_FLOWS_ORDERS_TOPIC", &orders),
            ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", &unique("group")),
            ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", "1"),
        ] {
            world.settings.insert(name, value.to_owned());
        }
        let (code, said) = run(&world.settings, &["init"]);
        assert_eq!(code, Some(0), "{said}");
        assert_silent("init", &said);
        let url = world.url.clone();
        let sql = format!(
            "ALTER TABLE processed_seed_status ADD CONSTRAINT c CHECK (status <> '{CANARY} refused');
             CREATE UNIQUE INDEX once ON processed_seed_status (response_message) WHERE status = '{CANARY} once';
             ALTER TABLE orders ADD CONSTRAINT d CHECK (quantity < 100)"
        );
        connect(&url).batch_execute(&sql).expect("constraints");

        let instance = world.start();
        instance.wait_ready();
        // What no flow can read, what PostgreSQL refuses, what it refuses for its neighbour; each with a key and headers.
        let headers: Headers = vec![(format!("name-{CANARY}").into_bytes(), Some(CANARY.as_bytes().to_vec()))];
        let once = update(1, 1, &format!("{CANARY} once"));
        let bad: [Vec<u8>; 6] = [
            CANARY.as_bytes().to_vec(),
            update(1, 1, &format!("{CANARY}\0nul")),
            update(1, 1, &CANARY.repeat(50)),
            update(1, 1, &format!("{CANARY} refused")),
            once.clone(),
            once,
        ];
        for payload in &bad {
            produce(&world.brokers, &world.topic, 1, &record(Some(CANARY.as_bytes()), Some(payload), &headers));
        }
        let producer = Producer::new(&world.brokers, &Default::default(), &orders).expect("a producer");
        let id = "00000000-0000-7000-8000-000000000001";
        for payload in [
            format!("{CANARY} is no JSON"),
            format!(
                r#"{{"order_id":"{CANARY}","customer_id":"{CANARY}","product_id":7,"quantity":"{CANARY}","amount":"{CANARY}"}}"#
            ),
            format!(
                r#"{{"order_id":"{id}","customer_id":"{CANARY}","product_id":"{CANARY}","quantity":1000,"amount":1}}"#
            ),
        ] {
            producer.send(Some(0), Some(CANARY.as_bytes()), payload.as_bytes()).expect("sent");
        }
        assert_eq!(producer.finish().0.failed, 0);
        wait_for("the letters", MINUTE, || {
            (number(&url, "SELECT count(*) FROM sluicegate_letters") == 8).then_some(())
        });

        // A table that is away for a while: tried again and again.
        connect(&url).batch_execute("ALTER TABLE processed_seed_status RENAME TO away").expect("away");
        let offset = 0;
        world.send(0, &update(0, offset, CANARY));
        world.flush();
        wait_for("attempts", MINUTE, || instance.log_text().contains("not written").then_some(()));
        connect(&url).batch_execute("ALTER TABLE away RENAME TO processed_seed_status").expect("back");
        wait_for("the row", MINUTE, || (number(&url, "SELECT count(*) FROM processed_seed_status") == 2).then_some(()));

        for body in [
            format!("{CANARY} is no JSON"),
            format!(r#"{{"customer_id":"{CANARY}","product_id":"{CANARY}","quantity":"{CANARY}","amount":1}}"#),
            format!(r#"{{"customer_id":"{CANARY}","product_id":"{CANARY}","quantity":1,"amount":1}}"#),
        ] {
            post(instance.port, "/order", &body);
            post(instance.port, "/orders/batch", &format!("[{body}]"));
            post(instance.port, "/letters/replay", &body);
        }
        post(instance.port, "/letters/replay", &format!(r#"{{"key":"{CANARY}","dry_run":true}}"#));
        post(instance.port, "/letters/replay", &format!(r#"{{"key":"{CANARY}"}}"#));
        post(instance.port, "/letters/replay", &format!(r#"{{"key":"{CANARY}","since":"{CANARY}"}}"#));
        let letter = number(&url, "SELECT min(id) FROM sluicegate_letters");
        post(instance.port, "/letters/drop", &format!(r#"{{"key":"{CANARY}","id":[{letter}]}}"#));
        let said = instance.log_text();
        for marker in ["set aside: ", "not written: ", "refused again: ", "http: letters: replay"] {
            assert!(said.contains(marker), "{format}: the path to \"{marker}\" was not gone");
        }
        assert_silent("run", &said);

        for arguments in [
            &["list"] as &[&str],
            &["list", "--state", "all", "--json"],
            &["replay", "--key", CANARY],
            &["replay", "--all", "--dry-run"],
            &["replay", "--since", "1h"],
            &["drop", "--all"],
        ] {
            let (code, said) = run(&world.settings, &[&["letters"], arguments].concat());
            assert!(code == Some(0) || code == Some(1), "{arguments:?}: {said}");
            assert_silent(&format!("{arguments:?}"), &said);
        }
        let (_, said) = run(&world.settings, &["letters", "show", &letter.to_string()]);
        assert!(said.contains(CANARY), "this is for looking at it: {said}");
    }
}

#[test]
fn a_password_that_is_wrong_is_not_said() {
    let url = support::new_database("locked");
    let mut client = connect(&url);
    let file: String = client.query_one("SHOW hba_file", &[]).expect("a file").get(0);
    let sql = format!(
        "CREATE ROLE locked LOGIN PASSWORD 'another'; COPY (SELECT) TO PROGRAM 'sed -i \"1i host all locked all scram-sha-256\" {file}';
         SELECT pg_reload_conf()"
    );
    client.batch_execute(&sql).expect("a role that has to say its password");
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let server = rest.split_once('@').map_or(rest, |(_, server)| server);
    let wrong_url = format!("{scheme}://locked:{CANARY}@{server}");
    for format in ["text", "json"] {
        let mut settings = HashMap::from([
            ("KAFKA_BROKERS", support::brokers()),
            ("KAFKA_TOPIC", unique("locked")),
            ("KAFKA_GROUP_ID", unique("group")),
            ("LOG_LEVEL", "trace".to_owned()),
            ("LOG_FORMAT", format.to_owned()),
            ("DB_URL", wrong_url.clone()),
        ]);
        let mut instance = Instance::start(&settings);
        let refused = || instance.log_text().contains("password authentication failed").then_some(());
        wait_for("PostgreSQL to refuse", MINUTE, refused);
        instance.signal("TERM");
        instance.wait(MINUTE);
        assert_silent("run", &instance.log_text());
        for arguments in
            [&["init"] as &[&str], &["check", "--connect"], &["letters", "list"], &["letters", "replay", "--all"]]
        {
            let (code, said) = run(&settings, arguments);
            assert_eq!(code, Some(1), "{arguments:?}: {said}");
            assert_silent(&format!("{arguments:?}"), &said);
        }

        settings.insert("DB_URL", url.clone());
        let sasl =
            format!("security.protocol=sasl_plaintext,sasl.mechanism=PLAIN,sasl.username=u,sasl.password={CANARY}");
        settings.insert("SLUICEGATE_KAFKA_OPTIONS", sasl);
        let mut instance = Instance::start(&settings);
        wait_for("Kafka to be troubled", MINUTE, || {
            let (status, body) = instance.get("/health/ready")?;
            (status == 503 && body.contains("kafka.")).then_some(())
        });
        instance.signal("TERM");
        instance.wait(MINUTE);
        assert_silent("run with a password for Kafka", &instance.log_text());
    }
}
