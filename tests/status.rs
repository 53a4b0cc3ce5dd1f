//! The status flow end to end: the real binary, a real Kafka, a real PostgreSQL. Each record says in its ids
//! where it came from, so that the table is compared with what was produced, row by row, by partition and
//! offset. Nothing here believes the program's own counters.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use support::world::World;
use support::{Instance, connect, update, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn records_become_rows_with_every_column_right() {
    let mut world = World::new("columns");
    world.produce(6000);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    world.check();
    let sql = "SELECT event_timestamp::text, response_message, status, scenario_id, script_id
               FROM processed_seed_status WHERE seed_id = 3 AND sub_scenario_id = 41";
    let row = connect(&world.url).query_one(sql, &[]).expect("one row");
    assert_eq!(row.get::<_, &str>(0), "2026-01-01 00:00:00.041");
    assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), ("record 41 of partition 3", "SUCCESS"));
    assert_eq!((row.get::<_, i32>(3), row.get::<_, i32>(4)), (7, 8));
    // The table and the sequence are as the former system had them.
    let sql = "SELECT increment_by, cache_size FROM pg_sequences WHERE sequencename = 'processed_seed_status_seq'";
    let sequence = connect(&world.url).query_one(sql, &[]).expect("a sequence");
    assert_eq!((sequence.get::<_, i64>(0), sequence.get::<_, i64>(1)), (500, 500));
    drop(instance);
}

#[test]
fn poison_is_set_aside_with_its_reason_and_the_rest_of_its_batch_is_written() {
    let mut world = World::new("poison");
    world.produce(600);
    world.produce_poison(0, b"", "avro.truncated");
    world.produce_poison(0, b"\x02", "avro.truncated");
    world.produce_poison(1, &update(1, 0, "with\0nul"), "text.nul");
    world.produce_poison(2, &update(2, 0, &"x".repeat(256)), "text.too_long");
    let mut long_tail = update(3, 0, "SUCCESS");
    long_tail.push(0);
    world.produce_poison(3, &long_tail, "avro.trailing_bytes");
    let mut far_away = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    far_away.extend_from_slice(&update(4, 0, "SUCCESS")[6..]);
    world.produce_poison(4, &far_away, "timestamp.range");
    world.produce(600);
    // 255 characters of two bytes each are within the column's limit.
    let offset = world.produced[5];
    world.send(5, &update(5, offset, &"é".repeat(255)));
    world.flush();
    let _instance = world.start();
    world.wait_written(MINUTE);
    world.check();
    let sql = "SELECT topic, key, payload, reason FROM sluicegate_letters WHERE reason_code = 'text.too_long'";
    let letter = connect(&world.url).query_one(sql, &[]).expect("one letter");
    assert_eq!((letter.get::<_, &str>(0), letter.get::<_, &[u8]>(1)), (&*world.topic, &b"key"[..]));
    assert_eq!(letter.get::<_, &[u8]>(2), update(2, 0, &"x".repeat(256)));
    assert!(letter.get::<_, &str>(3).contains("256 characters of 255"), "{}", letter.get::<_, &str>(3));
}

#[test]
fn rows_that_only_postgresql_can_refuse_are_found_and_set_aside() {
    let mut world = World::new("refused");
    world.produce(60);
    let instance = world.start();
    world.flush();
    world.wait_written(MINUTE);
    let sql = "ALTER TABLE processed_seed_status ADD CONSTRAINT no_thirteen CHECK (status <> 'THIRTEEN')";
    connect(&world.url).batch_execute(sql).expect("a constraint");
    for partition in [0, 0, 3] {
        world.produce(90);
        let offset = world.produced[partition as usize];
        world.produce_poison(partition, &update(partition, offset, "THIRTEEN"), "pg.23514");
    }
    world.produce(90);
    world.flush();
    world.wait_written(MINUTE);
    world.check();
    assert!(!instance.log_text().contains("THIRTEEN"), "no payload in a log line");
}

#[test]
fn kill_9_twenty_times_under_load_loses_nothing_and_doubles_nothing() {
    const RECORDS: i64 = 12_000;
    let mut world = World::new("kill");
    // Whoever comes next waits for the session of the former one.
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_SESSION_TIMEOUT_MS", "2000".to_owned());
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_REVOKE_GRACE_MS", "1000".to_owned());
    // Many transactions, so that there is a middle to be killed in.
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", "50".to_owned());
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_GROUP_ROWS_MAX", "100".to_owned());
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_WRITERS", "2".to_owned());
    let mut random = support::random::Random(7);
    let mut instance = world.start();
    let (mut due, mut in_the_middle) = (0, 0);
    for _ in 0..20 {
        instance.wait_assigned();
        let before = world.rows();
        // Not waited for: it writes while they come.
        world.produce(RECORDS);
        due += RECORDS;
        let enough = before + random.below(RECORDS as u64 / 2) as i64;
        let began = Instant::now();
        while world.rows() <= enough {
            assert!(began.elapsed() < MINUTE, "{} rows of {due}", world.rows());
        }
        instance.signal("KILL");
        in_the_middle += i32::from(world.rows() < due);
        world.flush();
        drop(instance);
        instance = world.start();
    }
    world.wait_written(3 * MINUTE);
    world.check();
    println!("{in_the_middle} of 20 in the middle");
    assert!(in_the_middle > 0, "each was killed when it had nothing to do");
    drop(instance);
}

#[test]
fn an_instance_frozen_past_its_session_and_woken_again_doubles_nothing() {
    let mut world = World::new("frozen");
    let frozen = world.start();
    frozen.wait_ready();
    world.produce(30_000);
    let other = world.start();
    // Somewhere in the middle of the load.
    wait_for("some rows", MINUTE, || (world.rows() > 1000).then_some(()));
    frozen.signal("STOP");
    world.produce(30_000);
    world.flush();
    // The other one takes everything over, after the session of six seconds.
    world.wait_written(2 * MINUTE);
    frozen.signal("CONT");
    world.produce(6000);
    world.flush();
    world.wait_written(MINUTE);
    std::thread::sleep(Duration::from_secs(2));
    world.check();
    drop(other);
}

#[test]
fn two_instances_share_the_partitions() {
    let mut world = World::new("share");
    let (one, two) = (world.start(), world.start());
    let assigned = |instance: &Instance| {
        let status = instance.json("/tracking-status")?;
        status["flows"]["status"]["partitions"].as_array().map(Vec::len)
    };
    wait_for("both to have half", MINUTE, || (assigned(&one)? == 3 && assigned(&two)? == 3).then_some(()));
    world.produce(6000);
    world.flush();
    world.wait_written(MINUTE);
    // One leaves in good order; the other goes on with all of them.
    one.signal("TERM");
    wait_for("the rest to be taken over", MINUTE, || (assigned(&two)? == 6).then_some(()));
    world.produce(6000);
    world.flush();
    world.wait_written(MINUTE);
    world.check();
}

#[test]
fn a_signal_drains_and_ends_with_0_and_a_restart_goes_on() {
    let mut world = World::new("drain");
    world.produce(30_000);
    world.flush();
    let mut instance = world.start();
    wait_for("some rows", MINUTE, || (world.rows() > 500).then_some(()));
    instance.signal("TERM");
    assert_eq!(instance.wait(Duration::from_secs(20)), Some(0));
    let _again = world.start();
    world.wait_written(MINUTE);
    world.check();
}

#[test]
fn a_second_signal_ends_at_once() {
    let world = World::new("second");
    let mut settings = world.settings.clone();
    // Nobody answers: draining would take its whole time.
    settings.insert("DB_URL", format!("postgres://postgres@127.0.0.1:{}/x", support::free_port()));
    settings.insert("SLUICEGATE_SHUTDOWN_TIMEOUT_MS", "60000".into());
    let mut instance = Instance::start(&settings);
    wait_for("HTTP", MINUTE, || instance.get("/health/live"));
    instance.signal("INT");
    // Either the first has ended it already, or another does: two at once are one.
    let end = wait_for("the end", MINUTE / 2, || {
        instance.try_signal("INT");
        instance.child.try_wait().expect("a child")
    });
    assert!(matches!(end.code(), Some(0 | 130)));
}

#[test]
fn it_waits_for_postgresql_says_so_and_goes_on_by_itself() {
    let directory = support::service_directory("late");
    let port = support::services(&["free-port"]);
    support::services(&["postgres", "start", &directory, &port]);
    let url = format!("postgres://postgres@127.0.0.1:{port}/processed_data_db?sslmode=disable");
    let mut world = World::on("late", support::brokers(), url);
    support::services(&["postgres", "kill", &directory]);
    world.produce(6000);
    world.flush();
    let instance = world.start();
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("pg.connection")).then_some(body)
    });
    assert!(body.contains("postgres"), "{body}");
    assert_eq!(instance.get("/health/live").map(|(status, _)| status), Some(200));
    for verb in ["kill", "stop"] {
        support::services(&["postgres", "start", &directory, &port]);
        world.wait_written(MINUTE);
        instance.wait_ready();
        support::services(&["postgres", verb, &directory]);
        world.produce(6000);
        world.flush();
    }
    support::services(&["postgres", "start", &directory, &port]);
    world.wait_written(MINUTE);
    world.check();
    drop(instance);
    support::services(&["clean", &directory]);
}

#[test]
fn kafka_goes_away_and_comes_back_without_a_restart() {
    let directory = support::service_directory("broker");
    let port = support::services(&["free-port"]);
    support::services(&["kafka", "start", &directory, &port]);
    let mut world = World::on("broker", format!("127.0.0.1:{port}"), support::new_database("broker"));
    let instance = world.start();
    for verb in ["stop", "kill"] {
        world.produce(6000);
        world.flush();
        world.wait_written(2 * MINUTE);
        instance.wait_ready();
        support::services(&["kafka", verb, &directory]);
        wait_for("health to tell", MINUTE, || {
            let (status, body) = instance.get("/health/ready")?;
            (status == 503 && body.contains("kafka")).then_some(())
        });
        support::services(&["kafka", "start", &directory, &port]);
    }
    world.produce(6000);
    world.flush();
    world.wait_written(2 * MINUTE);
    world.check();
    drop(instance);
    support::services(&["clean", &directory]);
}

#[test]
fn a_topic_made_again_halts_its_partitions_and_names_the_cure() {
    let mut world = World::new("again");
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    drop(instance);
    // As if the topic had been another one when the ledger was written.
    connect(&world.url).batch_execute("UPDATE sluicegate_ledger SET incarnation = 'another'").expect("changed");
    world.produce(600);
    world.flush();
    let instance = world.start();
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("ledger.topic_recreated")).then_some(body)
    });
    assert!(body.contains("DELETE FROM sluicegate_ledger"), "{body}");
    assert_eq!(world.rows(), 600);
}

#[test]
fn an_offset_that_the_broker_no_longer_has_halts_its_partition_and_the_others_go_on() {
    let mut world = World::new("retention");
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    drop(instance);
    let sql = "UPDATE sluicegate_ledger SET next_offset = 5000 WHERE partition = 2";
    connect(&world.url).batch_execute(sql).expect("changed");
    world.produce(600);
    world.flush();
    let instance = world.start();
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("kafka.offset_out_of_range")).then_some(body)
    });
    assert!(body.contains("/2"), "{body}");
    wait_for("the others", MINUTE, || (world.rows() >= 1100).then_some(()));
    assert_eq!(world.rows(), 1100);
}

#[test]
fn test_data_is_produced_and_tracked_and_counting_starts_again() {
    let world = World::new("http");
    let instance = world.start();
    instance.wait_ready();
    let (status, body) = instance.post("/send-test-data-concurrently?count=20000").expect("an answer");
    let sent: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &sent["produced"], &sent["failed"]), (200, &20_000.into(), &0.into()), "{body}");
    let flow = wait_for("everything to be written", MINUTE, || {
        let status = instance.json("/tracking-status")?;
        let flow = status["flows"]["status"].clone();
        (flow["complete"] == true && flow["lag"] == 0).then_some(flow)
    });
    assert_eq!((&flow["produced"], &flow["written"], &flow["set_aside"]), (&20_000.into(), &20_000.into(), &0.into()));
    assert_eq!(world.rows(), 20_000);
    let metrics = instance.get("/metrics").expect("metrics").1;
    assert!(metrics.contains("database_records_written_total{flow=\"status\"} 20000"), "{metrics}");
    assert_eq!(instance.post("/reset-tracking").expect("an answer").0, 200);
    let status = instance.json("/tracking-status").expect("JSON");
    assert_eq!(status["flows"]["status"]["written"], 0);
}

#[test]
fn produce_sends_what_it_says_and_init_can_be_repeated() {
    let world = World::new("produce");
    for _ in 0..2 {
        assert_eq!(Instance::start_with(&world.settings, &["init"]).wait(MINUTE), Some(0));
    }
    let mut produce = Instance::start_with(&world.settings, &["produce", "status", "--count", "5000"]);
    assert_eq!(produce.wait(MINUTE), Some(0));
    assert!(produce.log_text().contains("5000 records into"), "{}", produce.log_text());
    let _instance = world.start();
    wait_for("the rows", MINUTE, || (world.rows() == 5000).then_some(()));
}

#[test]
fn a_demo_needs_no_kafka_and_says_that_it_is_one() {
    let url = support::new_database("demo");
    let settings = HashMap::from([("DB_URL", url.clone())]);
    let instance = Instance::start_with(&settings, &["run", "--demo-broker"]);
    wait_for("HTTP", MINUTE, || instance.get("/health/live"));
    let sent = wait_for("the mock", MINUTE, || instance.post("/send-test-data-concurrently?count=5000"));
    assert_eq!(sent.0, 200, "{}", sent.1);
    let rows =
        || connect(&url).query_one("SELECT count(*) FROM processed_seed_status", &[]).map_or(0, |row| row.get(0));
    wait_for("the rows", MINUTE, || (rows() == 5000i64).then_some(()));
    assert!(instance.log_text().contains("demo: Kafka is a mock"), "{}", instance.log_text());
}
