//! Records as nobody expects them, from a real broker: topics with holes in them, keys and headers of any bytes, and
//! values that only one index in the database cannot take.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use sluicegate::kafka::admin;
use support::hostile::{Headers, produce, record};
use support::world::World;
use support::{connect, update, update_saying, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// The offsets that a partition still has, and its end, as a consumer without any of our code sees them.
fn offsets(world: &World, partition: i32) -> (BTreeSet<i64>, i64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &world.brokers).set("group.id", support::unique("look"));
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(&world.topic, partition, Offset::Beginning).expect("a partition");
    consumer.assign(&at).expect("assigned");
    let mut found = BTreeSet::new();
    wait_for("the end of the partition", MINUTE, || {
        while let Some(answer) = consumer.poll(Duration::from_secs(1)) {
            match answer {
                Ok(message) => drop(found.insert(message.offset())),
                Err(KafkaError::PartitionEOF(_)) => return Some(()),
                // It finds its way again by itself.
                Err(_) => {}
            }
        }
        None
    });
    let (_, end) = consumer.fetch_watermarks(&world.topic, partition, MINUTE).expect("an end");
    (found, end)
}

#[test]
fn what_compaction_left_is_written_once_and_no_lag_remains() {
    const KEYS: i64 = 40;
    let topic_settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("min.compaction.lag.ms", "0"),
    ];
    let mut world =
        World::with("compacted", support::brokers(), support::new_database("compacted"), 2, &topic_settings);
    // The cleaner looks every 15 seconds otherwise.
    let hurry = AlterConfig::new(ResourceSpecifier::Broker(1)).set("log.cleaner.backoff.ms", "200");
    let answer = admin::wait(support::admin_client(&world.brokers).alter_configs([&hurry], &AdminOptions::new()));
    answer.expect("asked").remove(0).expect("changed");
    let send = |world: &mut World, count: i64| {
        let producer = sluicegate::kafka::Producer::new(&world.brokers, &world.producer_options, &world.topic);
        let producer = producer.expect("a producer");
        for number in 0..count {
            for partition in 0..2 {
                let offset = world.produced[partition as usize];
                let key = format!("key {}", number % KEYS);
                let payload = update(partition, offset, "SUCCESS");
                producer.send(Some(partition), Some(key.as_bytes()), &payload).expect("sent");
                world.produced[partition as usize] += 1;
            }
        }
        let (sent, fault) = producer.finish();
        assert!(sent.failed == 0 && fault.is_none(), "{sent:?} {fault:?}");
    };
    // A part is read as it is; so the ledger stands at an offset that will be gone.
    send(&mut world, 500);
    let mut instance = world.start();
    wait_for("the first part", MINUTE, || (world.rows() == 1000).then_some(()));
    instance.signal("TERM");
    instance.wait(MINUTE);
    for _ in 0..4 {
        send(&mut world, 500);
        std::thread::sleep(Duration::from_millis(300)); // the segment grows old, and the next record begins another
    }
    send(&mut world, 1);
    let mut holes = wait_for("the holes", 2 * MINUTE, || {
        let left = [0, 1].map(|partition| offsets(&world, partition));
        // Of the first parts one record a key is left at most; the last segment is never cleaned.
        left.iter().all(|(found, _)| found.len() < 700 && !found.contains(&500)).then_some(left)
    });
    // One is killed on its way through the holes: the next one goes on from where the ledger says.
    for (name, value) in [("BATCH_ROWS_MAX", "10"), ("GROUP_ROWS_MAX", "10"), ("WRITERS", "1")] {
        let name = format!("SLUICEGATE_FLOWS_STATUS_{name}");
        world.settings.insert(String::leak(name), value.into());
    }
    let killed = world.start();
    wait_for("a part of the rest", MINUTE, || (world.rows() > 1020).then_some(()));
    killed.signal("KILL");
    drop(killed);
    let instance = world.start();
    let ledger = || {
        let sql = "SELECT next_offset FROM sluicegate_ledger ORDER BY partition";
        let rows = connect(&world.url).query(sql, &[]).ok()?;
        Some(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<i64>>())
    };
    wait_for("the ledger to be at the end", MINUTE, || (ledger()? == [2501, 2501]).then_some(()));
    wait_for("no lag", MINUTE, || (instance.json("/tracking-status")?["flows"]["status"]["lag"] == 0).then_some(()));
    for partition in 0..2 {
        let sql = "SELECT sub_scenario_id FROM processed_seed_status WHERE seed_id = $1 ORDER BY 1";
        let rows = connect(&world.url).query(sql, &[&partition]).expect("rows");
        let rows: Vec<i64> =
            rows.iter().map(|row| row.get::<_, i32>(0).into()).filter(|offset| *offset >= 500).collect();
        let (before, end) = &mut holes[partition as usize];
        assert_eq!(*end, 2501);
        // The cleaner may have gone on meanwhile: each that is there at the end is written, and none that was gone.
        let after = offsets(&world, partition).0;
        let written: BTreeSet<i64> = rows.iter().copied().collect();
        assert_eq!(written.len(), rows.len(), "each once");
        assert!(
            written.is_subset(before) && after.iter().filter(|offset| **offset >= 500).all(|o| written.contains(o))
        );
        assert!(written.len() < 700, "{} of 2001 were left", written.len());
    }
}

#[test]
fn keys_and_headers_of_any_bytes_flow_and_become_letters_whole() {
    let topic_settings = [("max.message.bytes", "8000000")];
    let mut world = World::with("bytes", support::brokers(), support::new_database("bytes"), 2, &topic_settings);
    // Every byte there is, wrong UTF-8 and NULs among them.
    let key: Vec<u8> = (0..1u32 << 20).map(|number| (number ^ number >> 8) as u8).collect();
    let mut headers: Headers = (0..10_000u32)
        .map(|number| (format!("header {number}").into_bytes(), Some(number.to_le_bytes().repeat(number as usize % 9))))
        .collect();
    headers.extend([
        (Vec::new(), None),
        (b"same".to_vec(), Some(b"one".to_vec())),
        (b"same".to_vec(), Some(Vec::new())),
        (b"wrong \xff\xfe".to_vec(), Some(vec![0, 0xff, 0xc3, 0x28])),
        (b"with\0nul".to_vec(), Some(b"\0".to_vec())),
    ]);
    for partition in 0..2 {
        for (key, headers) in [(Some(&key[..]), &headers), (Some(&b""[..]), &Headers::new()), (None, &headers)] {
            let offset = world.produced[partition as usize];
            let good = update(partition, offset, "SUCCESS");
            let payload = if partition == 0 { &good[..] } else { &good[..7] };
            let set = record(key, Some(payload), headers);
            assert_eq!(produce(&world.brokers, &world.topic, partition, &set), offset);
            world.produced[partition as usize] += 1;
            if partition == 1 {
                world.poison.push((partition, offset, "avro.truncated"));
            }
        }
    }
    let _instance = world.start();
    world.wait_written(MINUTE);
    let count = || {
        let row = connect(&world.url).query_one("SELECT count(*) FROM sluicegate_letters", &[]);
        row.map_or(0, |row| row.get::<_, i64>(0))
    };
    wait_for("the letters", MINUTE, || (count() == 3).then_some(()));
    world.check();
    let sql = "SELECT key, payload, header_names, header_values FROM sluicegate_letters ORDER BY record_offset";
    let letters = connect(&world.url).query(sql, &[]).expect("letters");
    // A name is text: what is no UTF-8 in it is replaced, and the client ends it at a NUL.
    let mut names: Vec<String> = headers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    *names.last_mut().expect("the last") = "with".into();
    let values: Vec<Option<&[u8]>> = headers.iter().map(|(_, value)| value.as_deref()).collect();
    for (offset, key) in [Some(&key[..]), Some(&b""[..]), None].into_iter().enumerate() {
        let letter = &letters[offset];
        assert!(letter.get::<_, Option<&[u8]>>(0) == key, "the key of {offset}");
        assert_eq!(letter.get::<_, &[u8]>(1), &update(1, offset as i64, "SUCCESS")[..7]);
        let (found_names, found_values): (Vec<&str>, Vec<Option<&[u8]>>) = (letter.get(2), letter.get(3));
        match offset {
            1 => assert!(found_names.is_empty() && found_values.is_empty()),
            _ => assert!(found_names == names && found_values == values, "the headers of {offset}"),
        }
    }
}

#[test]
fn a_value_that_an_index_cannot_take_becomes_a_letter() {
    let mut world = World::new("index");
    world.produce(60);
    let _instance = world.start();
    world.flush();
    world.wait_written(MINUTE);
    let sql = "CREATE INDEX ON processed_seed_status (response_message)";
    connect(&world.url).batch_execute(sql).expect("an index");
    // PostgreSQL packs what it can before it refuses: this it cannot.
    let mut random = 1u64;
    let message: String = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(33 + (random >> 33) as u8 % 90)
    })
    .take(20_000)
    .collect();
    for partition in [0, 4] {
        world.produce(90);
        let offset = world.produced[partition as usize];
        world.produce_poison(partition, &update_saying(partition, offset, "SUCCESS", &message), "pg.54000");
    }
    world.produce(90);
    world.flush();
    world.wait_written(MINUTE);
    world.check();
}
