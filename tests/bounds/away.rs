//! PostgreSQL is stopped while large records come in by 64 partitions: memory has a ceiling that follows from the
//! settings, and all is written once the server is back. The same for each flow whose rows are of another kind.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::world::World;
use crate::support::{self, Instance, connect, service_directory, services, update_saying, wait_for};
use crate::{BASE_MB, MINUTE};

const MB: f64 = 1_048_576.0;
const WIDE: i32 = 64;
/// In full batches before.
const WARM: i64 = 200 * WIDE as i64;
/// Of large records, in each partition.
const RECORDS: i64 = 10;

/// What is particular to a flow. The settings that are not here are as they are when nobody sets them.
struct Case {
    flow: &'static str,
    settings: Vec<(&'static str, String)>,
    /// The bytes of a large record, and how often a batch holds them: in the row, as it came, or not at all.
    record: usize,
    copies: f64,
    writers: f64,
    /// Of large records, so many are taken by every partition.
    taken: i64,
    payload: fn(partition: i32, number: i64, text: &str) -> Vec<u8>,
    /// Where the rows are, and what says in each of them which record it is.
    table: &'static str,
    place: &'static str,
}

impl Case {
    /// The keys below its flow that all of them have: room in the channel for a batch of every partition, and batches
    /// that are closed only when they are full.
    fn settings(&self, topic: &str) -> Vec<(String, String)> {
        let name = |leaf: &str| format!("SLUICEGATE_FLOWS_{}_{leaf}", self.flow.to_uppercase());
        let all = [("BATCH_ROWS_MAX", "200"), ("GROUP_ROWS_MAX", "20000"), ("LINGER_MS", "30000"), ("TOPIC", topic)];
        let all = all.map(|(leaf, value)| (name(leaf), value.to_owned())).into_iter();
        let partitions = (name("PARTITIONS"), WIDE.to_string());
        all.chain([partitions]).chain(self.settings.iter().map(|(leaf, value)| (name(leaf), value.clone()))).collect()
    }

    fn ceiling_mb(&self) -> f64 {
        let (fetched, batch, record, wide) = (33_554_432.0 / MB, 1.0, self.record as f64 / MB, f64::from(WIDE));
        // Ahead in the client: its share of each partition, which one record set may go beyond. Of each partition a batch
        // that is filled and one that is with a writer, each beyond its limit by one record. Of each writer what is on
        // its way.
        let held = if self.copies > 0.0 { batch + self.copies * record } else { 0.0 };
        BASE_MB + fetched + wide * record + wide * 2.0 * held + self.writers * 3.0 * batch
    }

    fn count(&self, world: &World, what: &str) -> i64 {
        let sql = format!("SELECT count({what}) FROM {}", self.table);
        connect(&world.url).query_one(&sql, &[]).map_or(0, |row| row.get(0))
    }

    fn run(&self) {
        let directory = service_directory(self.flow);
        let port = services(&["free-port"]);
        services(&["postgres", "start", &directory, &port]);
        let url = format!("postgres://postgres@127.0.0.1:{port}/processed_data_db?sslmode=disable");
        let mut world = World::with(self.flow, support::brokers(), url, WIDE, &[("max.message.bytes", "4000000")]);
        world.producer_options.insert("message.max.bytes".into(), "4000000".into());
        world.producer_options.insert("compression.type".into(), "none".into());
        // Hundreds of megabytes for each of several tests at once: a slow disk is not what is asked about.
        world.producer_options.insert("message.timeout.ms".into(), "180000".into());
        let own = self.settings(&world.topic);
        let mut settings = world.settings.clone();
        settings.extend(own.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let instance = Instance::start_with(&settings, &["run", "--flow", self.flow]);
        instance.wait_ready();
        let ceiling = self.ceiling_mb();
        for number in 0..WARM {
            let partition = (number % i64::from(WIDE)) as i32;
            let offset = world.produced[partition as usize];
            world.send(partition, &(self.payload)(partition, offset, "short"));
        }
        world.flush();
        wait_for("all the short ones", MINUTE, || (self.count(&world, "*") == WARM).then_some(()));
        let before = instance.memory_peak_mb();

        services(&["postgres", "stop", &directory]);
        let text = "a record as long as a book. ".repeat(self.record / 28);
        for _ in 0..RECORDS {
            for partition in 0..WIDE {
                let offset = world.produced[partition as usize];
                world.send(partition, &(self.payload)(partition, offset, &text));
            }
        }
        world.flush();
        let consumed =
            || instance.json("/tracking-status").and_then(|status| status["flows"][self.flow]["consumed"].as_i64());
        let (mut seen, mut since) = (0, Instant::now());
        wait_for("it to take no more", 2 * MINUTE, || {
            let now = consumed()?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            (seen >= WARM + self.taken * i64::from(WIDE) && since.elapsed() > Duration::from_secs(3)).then_some(())
        });
        let away = instance.memory_peak_mb();
        println!("{before:.0} MB before, {away:.0} MB while away, of {ceiling:.0} MB; {} taken", seen - WARM);
        assert!(away <= ceiling, "{away:.0} MB of {ceiling:.0} MB");

        services(&["postgres", "start", &directory, &port]);
        let due = WARM + RECORDS * i64::from(WIDE);
        wait_for("all of them", 3 * MINUTE, || (self.count(&world, "*") >= due).then_some(()));
        assert_eq!((self.count(&world, "*"), self.count(&world, &format!("DISTINCT {}", self.place))), (due, due));
        let after = instance.memory_peak_mb();
        println!("{after:.0} MB at most until all was written");
        assert!(after <= ceiling, "{after:.0} MB of {ceiling:.0} MB");
        drop(instance);
        services(&["clean", &directory]);
    }
}

/// A batch holds rows: what the record says, once.
#[test]
fn updates_without_postgresql_stay_under_what_the_settings_add_up_to() {
    Case {
        flow: "status",
        settings: Vec::new(),
        record: 1_000_000,
        copies: 1.0,
        writers: 4.0,
        // In batches of two: the second goes beyond the limit.
        taken: 4,
        payload: |partition, number, text| update_saying(partition, number, "SUCCESS", text),
        table: "processed_seed_status",
        place: "(seed_id, sub_scenario_id)",
    }
    .run();
}

/// A batch holds what is known of an order, and nothing of what else its record says.
#[test]
fn orders_without_postgresql_stay_under_what_the_settings_add_up_to() {
    let topic = |told: &str| support::unique(told);
    Case {
        flow: "orders",
        settings: vec![
            ("VALIDATED_TOPIC", topic("validated")),
            ("INVENTORY_TOPIC", topic("inventory")),
            ("WAREHOUSE_TOPIC", topic("warehouse")),
        ],
        record: 1_000_000,
        copies: 0.0,
        writers: 4.0,
        taken: RECORDS,
        payload: |partition, number, text| {
            let order_id = Uuid::from_u64_pair(partition as u64, number as u64);
            let order = format!(
                r#"{{"order_id":"{order_id}","customer_id":"C","product_id":"PROD001","quantity":1,"amount":9.99,"note":"{text}"}}"#
            );
            order.into_bytes()
        },
        table: "orders",
        place: "order_id",
    }
    .run();
}

/// A batch holds each message whole, as it may have to be published again, and what the handlers made of it.
#[test]
fn events_without_postgresql_stay_under_what_the_settings_add_up_to() {
    let topic = |stem: &str| support::unique(stem);
    Case {
        flow: "events",
        settings: vec![
            ("DLQ_TOPIC", topic("dlq")),
            ("PRODUCER_TOPIC", topic("producer")),
            // Each retry topic would have its own share of each partition.
            ("RETRY_MAX", "0".to_owned()),
        ],
        record: 500_000,
        copies: 2.0,
        writers: 5.0,
        taken: 4,
        payload: |partition, number, text| {
            format!(r#"{{"type":"large","partition":{partition},"number":{number},"text":"{text}"}}"#).into_bytes()
        },
        table: "events",
        place: "(payload ->> 'partition', payload ->> 'number')",
    }
    .run();
}
