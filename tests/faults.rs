//! Faults from outside, each under load: what PostgreSQL, the network between, Kafka and the group can do to the
//! real binary. After each of them every record is in the table once, and the ledger stands at the end.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluicegate::engine::{Event, Lane as _, Seen, Source as _};
use sluicegate::kafka::{Consumer, ConsumerConfig, Start, admin};
use sluicegate::record::Record;
use support::proxy::{Mode, Proxy};
use support::world::{PARTITIONS, World};
use support::{Instance, admin_client, connect, service_directory, services, services_with, update, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// So often each link is cut at least, or it was not tried.
const CUTS_MIN: u64 = 5;

/// The host and port of a URL, and the same URL with another port of loopback.
fn through(url: &str, proxy: impl FnOnce(&str) -> u16) -> String {
    let (before, rest) = url.split_once('@').expect("a URL with a user");
    let (address, after) = rest.split_once('/').expect("a URL with a database");
    format!("{before}@127.0.0.1:{}/{after}", proxy(address))
}

#[test]
fn a_link_to_postgresql_that_breaks_hangs_and_crawls_loses_nothing() {
    let mut world = World::new("link");
    let mut proxy = None;
    let url = through(&world.url, |address| proxy.insert(Proxy::to(address)).port);
    let proxy = proxy.expect("a proxy");
    world.settings.insert("DB_URL", url);
    let instance = world.start();
    instance.wait_ready();
    let mut bytes = 1u64;
    for round in 0..16 {
        world.produce(9000);
        // From the first byte of an answer to the middle of a COPY of many batches.
        proxy.set(match round % 4 {
            3 => Mode::Slow { bytes_per_s: 40_000 },
            2 => Mode::Hold,
            _ => Mode::CutAfter(bytes),
        });
        bytes = (bytes * 3).min(200_000);
        std::thread::sleep(Duration::from_millis(700));
        proxy.set(if round % 8 == 7 { Mode::Refuse } else { Mode::Pass });
        std::thread::sleep(Duration::from_millis(300));
        proxy.set(Mode::Pass);
    }
    world.flush();
    world.wait_written(2 * MINUTE);
    world.check();
    assert!(proxy.cuts() >= 8, "{} connections were cut", proxy.cuts());
}

#[test]
fn links_that_are_reset_at_any_byte_lose_nothing() {
    let directory = service_directory("reset");
    let port = services(&["free-port"]);
    // The broker tells its clients the proxy's port, or they would go past it.
    let kafka = Proxy::to(&format!("127.0.0.1:{port}"));
    let told = kafka.port.to_string();
    services_with(&[("SLUICEGATE_KAFKA_ADVERTISED_PORT", &told)], &["kafka", "start", &directory, &port]);
    let mut world = World::on("reset", format!("127.0.0.1:{told}"), support::new_database("reset"));
    let mut postgres = None;
    let url = through(&world.url, |address| postgres.insert(Proxy::to(address)).port);
    let postgres = postgres.expect("a proxy");
    world.settings.insert("DB_URL", url);

    // What the proxy does is what it says.
    let mut client = TcpStream::connect(("127.0.0.1", postgres.port)).expect("connected");
    postgres.set(Mode::ResetAfter(0));
    let ended = client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    postgres.set(Mode::Pass);

    let instance = world.start();
    instance.wait_ready();
    let mut bytes = 1u64;
    for round in 0..18 {
        world.produce(6000);
        // One of the links, the other, both at once.
        let mut cut: Vec<(&Proxy, u64)> = Vec::new();
        for (proxy, spared) in [(&kafka, 0), (&postgres, 1)] {
            let is_spared = round % 3 == spared;
            proxy.set(if is_spared { Mode::Pass } else { Mode::ResetAfter(bytes) });
            cut.extend((!is_spared).then(|| (proxy, proxy.cuts())));
        }
        bytes = (bytes * 3).min(300_000);
        std::thread::sleep(Duration::from_millis(500));
        // A busy machine may take longer to come to so many bytes.
        let until = Instant::now() + Duration::from_secs(5);
        let is_owed = || cut.iter().any(|(proxy, before)| proxy.cuts() == *before && *before < CUTS_MIN);
        while is_owed() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        kafka.set(Mode::Pass);
        postgres.set(Mode::Pass);
        std::thread::sleep(Duration::from_millis(300));
    }
    world.flush();
    world.wait_written(2 * MINUTE);
    world.check();
    assert!(kafka.cuts().min(postgres.cuts()) >= CUTS_MIN, "{} and {} resets", kafka.cuts(), postgres.cuts());
    drop(instance);
    services(&["clean", &directory]);
}

#[test]
fn sessions_that_are_ended_one_by_one_are_replaced() {
    let mut world = World::new("ended");
    let instance = world.start();
    instance.wait_ready();
    let mut admin = connect(&world.url);
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'sluicegate%' ORDER BY random() LIMIT 1";
    let (mut ended, mut turns) = (0, 0);
    while ended < 20 {
        turns += 1;
        assert!(turns < 500, "{ended} sessions could be ended in {turns} turns");
        world.produce(300);
        // Now and then there is none: the last one was just ended.
        ended += admin.query(sql, &[]).expect("ended").len();
        std::thread::sleep(Duration::from_millis(60));
    }
    world.flush();
    world.wait_written(MINUTE);
    world.check();
}

#[test]
fn a_server_without_room_for_sessions_is_waited_for() {
    let mut world = World::new("full");
    let role = support::unique("role");
    let sql = format!("CREATE ROLE \"{role}\" LOGIN CONNECTION LIMIT 0; GRANT ALL ON SCHEMA public TO \"{role}\"");
    let mut admin = connect(&world.url);
    admin.batch_execute(&sql).expect("a role");
    let (_, rest) = world.url.split_once('@').expect("a URL with a user");
    world.settings.insert("DB_URL", format!("postgres://{role}@{rest}"));
    world.produce(3000);
    world.flush();
    let instance = world.start();
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("too many connections")).then_some(body)
    });
    assert!(body.contains("postgres"), "{body}");
    // One session for four writers, and then enough.
    for limit in ["1", "20"] {
        admin.batch_execute(&format!("ALTER ROLE \"{role}\" CONNECTION LIMIT {limit}")).expect("changed");
        std::thread::sleep(Duration::from_secs(1));
    }
    world.wait_written(MINUTE);
    world.check();
}

#[test]
fn locks_of_others_are_waited_for() {
    let mut world = World::new("locked");
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    let mut stranger = connect(&world.url);
    for sql in [
        "LOCK TABLE processed_seed_status IN ACCESS EXCLUSIVE MODE",
        "SELECT next_offset FROM sluicegate_ledger WHERE partition = 3 FOR UPDATE",
    ] {
        let mut work = stranger.transaction().expect("a transaction");
        work.batch_execute(sql).expect("locked");
        world.produce(3000);
        world.flush();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(instance.get("/health/live").map(|(status, _)| status), Some(200));
        work.rollback().expect("let go");
        world.wait_written(MINUTE);
    }
    world.check();
}

#[test]
fn a_server_that_turns_read_only_is_waited_for() {
    let mut world = World::new("readonly");
    let name = world.url.rsplit_once('/').and_then(|(_, rest)| rest.split('?').next()).expect("a database").to_owned();
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    let mut admin = connect(&world.url);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'sluicegate%'";
    // As after a fail-over to a standby: sessions end, and the new ones can only read.
    let sql = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on");
    admin.batch_execute(&sql).expect("read only");
    admin.query(end, &[]).expect("ended");
    world.produce(3000);
    world.flush();
    wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("pg.25006")).then_some(())
    });
    // It becomes the primary. Nobody ends the sessions that were opened before.
    admin.batch_execute("SET default_transaction_read_only = off").expect("off for this session");
    admin.batch_execute(&format!("ALTER DATABASE \"{name}\" RESET default_transaction_read_only")).expect("reset");
    world.wait_written(MINUTE);
    world.check();
}

#[test]
fn a_server_that_loses_what_it_had_confirmed_takes_the_ledger_back_with_it() {
    let directory = service_directory("async");
    let port = services(&["free-port"]);
    services(&["postgres", "start", &directory, &port]);
    let url = format!("postgres://postgres@127.0.0.1:{port}/processed_data_db?sslmode=disable");
    let mut world = World::on("async", support::brokers(), url);
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_SYNCHRONOUS_COMMIT", "false".into());
    let instance = world.start();
    for _ in 0..3 {
        world.produce(12_000);
        world.flush();
        wait_for("some rows", MINUTE, || (world.rows() > 0).then_some(()));
        services(&["postgres", "kill", &directory]);
        services(&["postgres", "start", &directory, &port]);
    }
    world.wait_written(MINUTE);
    world.check();
    drop(instance);
    services(&["clean", &directory]);
}

#[test]
fn what_transactions_took_back_is_never_written_and_no_lag_remains() {
    let world = World::new("transactions");
    let instance = world.start();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &world.brokers).set("transactional.id", support::unique("transactions"));
    let producer: BaseProducer = config.create().expect("a producer");
    producer.init_transactions(MINUTE).expect("transactions");
    for number in 0..20 {
        producer.begin_transaction().expect("a transaction");
        for partition in 0..PARTITIONS {
            let payload = update(partition, number, if number % 2 == 0 { "SUCCESS" } else { "ABORTED" });
            let record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(&world.topic).partition(partition).payload(&payload);
            producer.send(record).map_err(|(error, _)| error).expect("sent");
        }
        producer.flush(MINUTE).expect("flushed");
        let done =
            if number % 2 == 0 { producer.commit_transaction(MINUTE) } else { producer.abort_transaction(MINUTE) };
        done.expect("done");
    }
    // Markers of transactions, and the records that were taken back, have offsets and are no lag: of each partition
    // 20 records and 20 markers.
    let ledger = || {
        let sql = "SELECT min(next_offset), max(next_offset) FROM sluicegate_ledger";
        let row = connect(&world.url).query_one(sql, &[]).ok()?;
        Some((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
    };
    wait_for("the ledger to be at the end", MINUTE, || (ledger()? == (40, 40)).then_some(()));
    wait_for("no lag", MINUTE, || {
        let status = instance.json("/tracking-status")?;
        (status["flows"]["status"]["lag"] == 0).then_some(())
    });
    let sql = "SELECT count(*), count(DISTINCT (seed_id, sub_scenario_id)), count(*) FILTER (WHERE status <> 'SUCCESS')
               FROM processed_seed_status";
    let row = connect(&world.url).query_one(sql, &[]).expect("a count");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (60, 60, 0));
}

#[test]
fn partitions_that_are_added_are_read_from_their_start() {
    let mut world = World::new("added");
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    let admin_client = admin_client(&world.brokers);
    let more = NewPartitions::new(&world.topic, PARTITIONS as usize + 2);
    let options = AdminOptions::new().request_timeout(Some(MINUTE));
    admin::wait(admin_client.create_partitions([&more], &options)).expect("asked").remove(0).expect("added");
    world.produced.extend([0, 0]);
    for partition in [PARTITIONS, PARTITIONS + 1] {
        for offset in 0..500 {
            world.send(partition, &update(partition, offset, "SUCCESS"));
        }
    }
    world.produce(600);
    world.flush();
    world.wait_written(MINUTE);
    world.check();
    drop(instance);
}

#[test]
fn a_topic_that_is_made_again_under_a_running_program_halts_it() {
    let mut world = World::new("remade");
    world.produce(6000);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    let admin_client = admin_client(&world.brokers);
    let options = AdminOptions::new().operation_timeout(Some(MINUTE));
    admin::wait(admin_client.delete_topics(&[&world.topic], &options)).expect("asked").remove(0).expect("deleted");
    wait_for("the topic to be made again", MINUTE, || {
        admin::create_topic(&world.brokers, &Default::default(), &world.topic, PARTITIONS, 1)
            .is_ok_and(|made| made == admin::Made::Created)
            .then_some(())
    });
    // More than there were: offsets that the ledger takes for applied, and offsets that it has not seen.
    world.produced = vec![0; PARTITIONS as usize];
    world.produce(12_000);
    world.flush();
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("ledger.topic_recreated")).then_some(body)
    });
    assert!(body.contains("DELETE FROM sluicegate_ledger"), "{body}");
    // The client may have gone on in the new topic until somebody looked, and a writer may be at it; then nothing moves.
    std::thread::sleep(Duration::from_secs(1));
    let rows = world.rows();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.rows(), rows);
}

/// What intake does when the client has lost all of its brokers; that it then does it, the simulator shows.
#[test]
fn another_client_takes_the_place_of_one_that_has_nothing() {
    let mut world = World::new("renewed");
    world.produce(600);
    world.flush();
    let mut source = Consumer::new(&ConsumerConfig {
        brokers: world.brokers.clone(),
        group_id: support::unique("group"),
        topics: vec![world.topic.clone()],
        start: Start::Earliest,
        session_timeout_ms: 6000,
        fetch_memory_bytes: 1 << 20,
        fetch_min_bytes: None,
        fetch_max_bytes: None,
        partitions: PARTITIONS as u32,
        poll_interval_ms: 60_000,
        topic_ids: true,
        options: BTreeMap::new(),
    })
    .expect("a consumer");
    for _ in 0..2 {
        let partitions = wait_for("a share", MINUTE, || match source.next_event(Duration::from_millis(100)) {
            Some(Event::Assigned(partitions)) => Some(partitions),
            _ => None,
        });
        assert_eq!(partitions.len(), PARTITIONS as usize);
        let at: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        for mut lane in source.open(&at).expect("lanes") {
            let (mut seen, mut left) = (Vec::new(), BTreeSet::new());
            wait_for("its records", MINUTE, || {
                // Some are left for later, once: they come again, and nothing before them or twice.
                let mut see = |record: &Record<'_>| {
                    if record.offset % 7 == 3 && left.insert(record.offset) {
                        return Ok(Seen::Later);
                    }
                    seen.push(record.offset);
                    Ok(Seen::Taken)
                };
                lane.take(1000, 1 << 20, Duration::from_millis(100), &mut see).expect("records");
                (seen.len() == 100).then_some(())
            });
            assert!(seen.into_iter().eq(0..100));
        }
        source.release(&partitions);
        source.renew().expect("another client");
    }
    source.close(MINUTE);
}

#[test]
fn instances_that_come_and_go_all_the_time_lose_nothing() {
    let mut world = World::new("storm");
    let seconds = std::env::var("SLUICEGATE_STORM_S").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let (start, mut instances, mut turn) = (Instant::now(), Vec::<Instance>::new(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        turn += 1;
        world.produce(600);
        instances.push(world.start());
        std::thread::sleep(Duration::from_millis(700));
        if instances.len() > 2 {
            let mut leaving = instances.remove(turn % 2);
            leaving.signal(if turn % 3 == 0 { "KILL" } else { "TERM" });
            if turn % 3 != 0 {
                assert_eq!(leaving.wait(MINUTE), Some(0));
            }
        }
    }
    world.flush();
    world.wait_written(2 * MINUTE);
    world.check();
}

#[test]
fn with_neither_kafka_nor_postgresql_it_ends_within_five_seconds() {
    let directory = service_directory("neither");
    let port = services(&["free-port"]);
    services(&["kafka", "start", &directory, &port]);
    let mut world = World::on("neither", format!("127.0.0.1:{port}"), support::new_database("neither"));
    let mut proxy = None;
    let url = through(&world.url, |address| proxy.insert(Proxy::to(address)).port);
    let proxy = proxy.expect("a proxy");
    world.settings.insert("DB_URL", url);
    let mut instance = world.start();
    instance.wait_ready();
    world.produce(12_000);
    world.flush();
    // In the middle of the work: batches are with writers, and partitions are ahead of them.
    wait_for("some rows", MINUTE, || (world.rows() > 0).then_some(()));
    proxy.set(Mode::Hold);
    services(&["kafka", "kill", &directory]);
    instance.signal("TERM");
    // It gives itself these five and half a second more; the rest is the machine's.
    instance.wait(Duration::from_secs(10));
    proxy.set(Mode::Pass);
    services(&["kafka", "start", &directory, &port]);
    let again = world.start();
    world.wait_written(2 * MINUTE);
    world.check();
    drop(again);
    services(&["clean", &directory]);
}
