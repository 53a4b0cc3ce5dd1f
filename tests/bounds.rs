//! How much memory the program takes when records are as large as they can be: while PostgreSQL is away, and when
//! record sets unfold to a thousand times their size.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::time::{Duration, Instant};

use support::hostile::{Codec, bomb, produce};
use support::world::World;
use support::{connect, service_directory, services, update_saying, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const MB: f64 = 1_048_576.0;
/// The program itself with its threads, and what the allocator keeps between its blocks.
const BASE_MB: f64 = 64.0;

#[test]
fn without_postgresql_memory_stays_under_what_the_settings_add_up_to() {
    const WIDE: i32 = 64;
    const RECORD: usize = 1_000_000;
    const RECORDS: i64 = 10;
    // In full batches before, and then in batches of two: the second goes beyond the limit.
    const WARM: i64 = 200 * WIDE as i64;
    const HELD: i64 = 2 * 2 * WIDE as i64;
    let directory = service_directory("ceiling");
    let port = services(&["free-port"]);
    services(&["postgres", "start", &directory, &port]);
    let url = format!("postgres://postgres@127.0.0.1:{port}/processed_data_db?sslmode=disable");
    let mut world = World::with("ceiling", support::brokers(), url, WIDE, &[("max.message.bytes", "4000000")]);
    world.producer_options.insert("message.max.bytes".into(), "4000000".into());
    world.producer_options.insert("compression.type".into(), "none".into());
    // Room in the channel for a batch of every partition, and batches that are closed only when they are full.
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_GROUP_ROWS_MAX", "20000".into());
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_LINGER_MS", "30000".into());
    // The other settings are as they are when nobody sets them.
    let (fetched, batch, writers) = (33_554_432.0 / MB, 1.0, 4.0);
    let record = RECORD as f64 / MB;
    // Ahead in the client: its share of each partition, which one record set may go beyond. Of each partition a batch
    // that is filled and one that is with a writer, each beyond its limit by one record. Of each writer what is on its way.
    let ceiling =
        BASE_MB + fetched + f64::from(WIDE) * record + f64::from(WIDE) * 2.0 * (batch + record) + writers * 3.0 * batch;
    let instance = world.start();
    instance.wait_ready();
    world.produce(WARM);
    world.flush();
    world.wait_written(MINUTE);
    let before = instance.memory_peak_mb();

    services(&["postgres", "stop", &directory]);
    let message = "a record as long as a book. ".repeat(RECORD / 28);
    for _ in 0..RECORDS {
        for partition in 0..WIDE {
            let offset = world.produced[partition as usize];
            world.send(partition, &update_saying(partition, offset, "SUCCESS", &message));
        }
    }
    world.flush();
    let consumed =
        || instance.json("/tracking-status").and_then(|status| status["flows"]["status"]["consumed"].as_i64());
    let (mut seen, mut since) = (0, Instant::now());
    wait_for("it to take no more", 2 * MINUTE, || {
        let now = consumed()?;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        (seen >= WARM + HELD && since.elapsed() > Duration::from_secs(3)).then_some(())
    });
    let away = instance.memory_peak_mb();
    println!("{before:.0} MB before, {away:.0} MB while away, of {ceiling:.0} MB; {} records in batches", seen - WARM);
    assert!(away <= ceiling, "{away:.0} MB of {ceiling:.0} MB");

    services(&["postgres", "start", &directory, &port]);
    world.wait_written(3 * MINUTE);
    world.check();
    let after = instance.memory_peak_mb();
    println!("{after:.0} MB at most until all was written");
    assert!(after <= ceiling, "{after:.0} MB of {ceiling:.0} MB");
    drop(instance);
    services(&["clean", &directory]);
}

#[test]
fn record_sets_that_unfold_to_a_thousand_times_their_size_become_letters_or_halt_their_partition() {
    const PART: usize = 1 << 20;
    let topic_settings = [("max.message.bytes", "8000000")];
    let mut world = World::with("bombs", support::brokers(), support::new_database("bombs"), 6, &topic_settings);
    world.produce(600);
    world.flush();
    // What each unfolds to, in parts of a megabyte. A whole record of more than the limit is the last.
    let passing = [(0, Codec::Gzip, 256), (1, Codec::Lz4, 128), (2, Codec::Snappy, 32), (3, Codec::Zstd, 24)];
    for (partition, codec, parts) in passing {
        let set = bomb(codec, parts, PART);
        assert!(set.len() * 20 < parts * PART, "{codec:?}: {} bytes", set.len());
        assert_eq!(produce(&world.brokers, &world.topic, partition, &set), 100);
        for offset in 0..parts as i64 {
            world.poison.push((partition, 100 + offset, "avro.trailing_bytes"));
        }
        world.produced[partition as usize] += parts as i64;
    }
    let halting = [
        (4, bomb(Codec::Zstd, 400, PART), "kafka.badcompression"),
        (5, bomb(Codec::Lz4, 1, 600 << 20), "record.too_large"),
    ];
    for (partition, set, _) in &halting {
        produce(&world.brokers, &world.topic, *partition, set);
    }
    // Behind each of them, more records; those behind the last two wait for a person.
    for partition in 0..6 {
        for _ in 0..100 {
            let offset = world.produced[partition as usize];
            world.send(partition, &update_saying(partition, offset, "SUCCESS", "behind"));
        }
    }
    world.flush();
    let mut instance = world.start();
    let body = wait_for("the reasons", 2 * MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && halting.iter().all(|(_, _, code)| body.contains(code))).then_some(body)
    });
    for (partition, _, _) in &halting {
        assert!(body.contains(&format!("{}/{partition}", world.topic)), "{body}");
    }
    wait_for("all the others", 2 * MINUTE, || (world.rows() >= 1000).then_some(()));
    assert!(instance.child.try_wait().expect("a child").is_none(), "it is the same process");
    let peak = instance.memory_peak_mb();
    println!("{peak:.0} MB at most, {:.0} MB in the end", instance.memory_now_mb());
    // What has unfolded, all at once, and a third on top while it was grown.
    assert!(peak <= BASE_MB + (256.0 + 128.0 + 32.0 + 24.0 + 100.0 + 600.0) * 1.34, "{peak:.0} MB");

    // The halted ones have everything that came before, and stand where the trouble is.
    let sql = "SELECT next_offset FROM sluicegate_ledger WHERE partition IN (4, 5) ORDER BY partition";
    let stand: Vec<i64> = connect(&world.url).query(sql, &[]).expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(stand, [100, 100]);
    // A person decides to go on behind them.
    drop(instance);
    let sql = "UPDATE sluicegate_ledger SET next_offset = CASE partition WHEN 4 THEN 500 ELSE 101 END
               WHERE partition IN (4, 5)";
    connect(&world.url).batch_execute(sql).expect("changed");
    let _again = world.start();
    wait_for("the rest", MINUTE, || (world.rows() >= 1200).then_some(()));
    let sql =
        "SELECT partition, count(*), sum(octet_length(payload))::bigint FROM sluicegate_letters GROUP BY 1 ORDER BY 1";
    let letters: Vec<(i32, i64, i64)> = connect(&world.url)
        .query(sql, &[])
        .expect("rows")
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let due: Vec<(i32, i64, i64)> =
        passing.iter().map(|(partition, _, parts)| (*partition, *parts as i64, (parts * PART) as i64)).collect();
    assert_eq!(letters, due);
}
