//! The events flow while what it stands on goes away: each message is processed once, or is a dead letter once.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::time::Duration;

use support::stream::{SOON, Stream, payload};
use support::{service_directory, services, setting, wait_for};

const FAILING: &str = r#"[{"kind": "fail", "transient_percent": 10, "permanent_percent": 1}, {"kind": "table"}]"#;

fn send(stream: &mut Stream, numbers: std::ops::Range<u64>) {
    for number in numbers {
        stream.send(Some(&format!("message-{number}")), &format!("key-{}", number % 50), &payload(number));
    }
}

/// `SLUICEGATE_OUTAGE_S=30` is the whole of it.
#[test]
fn kafka_goes_away_and_postgresql_and_both_and_each_message_is_done_with_once() {
    let outage = Duration::from_secs(setting("SLUICEGATE_OUTAGE_S", 4));
    let (kafka, postgres) = (service_directory("eventskafka"), service_directory("eventspg"));
    let (kafka_port, postgres_port) = (services(&["free-port"]), services(&["free-port"]));
    let start_kafka = || services(&["kafka", "start", &kafka, &kafka_port]);
    let start_postgres = || services(&["postgres", "start", &postgres, &postgres_port]);
    start_kafka();
    start_postgres();
    let url = format!("postgres://postgres@127.0.0.1:{postgres_port}/processed_data_db?sslmode=disable");
    let mut stream = Stream::on("outage", FAILING, format!("127.0.0.1:{kafka_port}"), url);
    let instance = stream.start();
    let rows = |stream: &Stream| stream.number("SELECT count(*) FROM events");
    for (round, (has_kafka, has_postgres)) in [(false, true), (true, false), (false, false)].into_iter().enumerate() {
        let (first, before) = (round as u64 * 3_000, rows(&stream));
        send(&mut stream, first..first + 3_000);
        stream.flush();
        // In the middle of it, and with records that wait to be tried again.
        wait_for("some rows", SOON, || (rows(&stream) > before).then_some(()));
        if !has_kafka {
            services(&["kafka", "stop", &kafka]);
        }
        if !has_postgres {
            services(&["postgres", "stop", &postgres]);
        }
        wait_for("health to tell", SOON, || {
            let (status, body) = instance.get("/health/ready")?;
            let names = |what, is_there: bool| is_there || body.contains(what);
            (status == 503 && names("kafka", has_kafka) && names("postgres", has_postgres)).then_some(())
        });
        std::thread::sleep(outage);
        assert_eq!(instance.get("/health/live").map(|(status, _)| status), Some(200), "it lives");
        if !has_postgres {
            start_postgres();
        }
        if !has_kafka {
            start_kafka();
        }
        instance.wait_ready();
    }
    let dead = stream.check();
    assert!(!dead.is_empty(), "one in a hundred fails for good");
    drop(instance);
    services(&["clean", &kafka]);
    services(&["clean", &postgres]);
}

#[test]
fn an_order_to_stop_in_the_middle_of_retries_and_slow_handlers_loses_and_doubles_nothing() {
    let handlers = r#"[{"kind": "fail", "transient_percent": 20}, {"kind": "table"},
                      {"kind": "sql", "sql": "SELECT pg_sleep(0.002)::text", "params": []}]"#;
    let mut stream = Stream::new("stopped", handlers);
    let rows = |stream: &Stream| stream.number("SELECT count(*) FROM events");
    let mut in_the_middle = 0;
    for round in 0..3 {
        let before = rows(&stream);
        send(&mut stream, round * 1_000..(round + 1) * 1_000);
        stream.flush();
        let mut instance = stream.start();
        wait_for("some rows", SOON, || (rows(&stream) > before).then_some(()));
        // It is slow: what it holds would take it longer than this.
        assert!(instance.get("/health/live").is_some(), "it answers while its handlers are slow");
        instance.signal("TERM");
        assert_eq!(instance.wait(SOON), Some(0), "{}", instance.log_tail(20));
        in_the_middle += u32::from(rows(&stream) < (round as i64 + 1) * 900);
    }
    assert!(in_the_middle > 0, "it was never stopped in the middle");
    let _instance = stream.start();
    stream.check();
}
