//! A source of a few keys under a seed, as a map, and what becomes of its changes: in batches of any size, over partitions,
//! with parts of the stream sent again, the target is the map.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::events::{Table, plain, tombstone};
use crate::support::random::Random;
use crate::support::setting;
use crate::target::{Event, Target};

const UNKNOWN: &str = "__debezium_unavailable_value";

fn row(id: u64, number: u64, large: &str) -> Value {
    json!({"id": id, "part": id % 3, "n": number, "large": large})
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let fields = [("id", plain("int64")), ("part", plain("int32")), ("n", plain("int64")), ("large", plain("string"))];
    let key: &[&str] = if random.chance(50) { &["id"] } else { &["part", "id"] };
    let table = Table::new("things", key, &fields);
    let mut target = Target::new(&[]);
    let mut source: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    // Keys stay in their partition; each has its own stream, and what was sent of it.
    let mut sent: Vec<Vec<Event>> = vec![Vec::new(); 3];
    let mut lsn = 0;
    for _ in 0..40 {
        let mut fresh: Vec<Vec<Event>> = vec![Vec::new(); 3];
        for _ in 0..random.below(30) {
            lsn += 1 + random.below(3) as i64;
            let id = random.below(12);
            let partition = (id % 3) as usize;
            let number = random.next() % 1_000_000;
            let known = source.get(&id).cloned();
            match (known, random.below(10)) {
                (None, _) => {
                    let large = format!("large {number}");
                    fresh[partition].push(table.event("c", Value::Null, row(id, number, &large), lsn));
                    source.insert(id, (number, large));
                }
                (Some((_, large)), 0..=1) => {
                    let gone = table.event("d", row(id, 0, &large), Value::Null, lsn);
                    fresh[partition].extend([gone.clone(), tombstone(&gone)]);
                    source.remove(&id);
                }
                (Some((_, large)), 2..=5) => {
                    fresh[partition].push(table.event("u", Value::Null, row(id, number, UNKNOWN), lsn));
                    source.insert(id, (number, large));
                }
                (Some(_), _) => {
                    let large = format!("larger {number}");
                    fresh[partition].push(table.event("u", Value::Null, row(id, number, &large), lsn));
                    source.insert(id, (number, large));
                }
            }
        }
        for (partition, fresh) in fresh.into_iter().enumerate() {
            // Some of what went before comes once more, as after a crash of the connector.
            let again = random.below(sent[partition].len() as u64 + 1) as usize;
            let mut events = if random.chance(30) { sent[partition][again..].to_vec() } else { Vec::new() };
            sent[partition].extend(fresh.iter().cloned());
            events.extend(fresh);
            while !events.is_empty() {
                let count = 1 + random.below(events.len() as u64) as usize;
                let batch: Vec<Event> = events.drain(..count).collect();
                target.apply(&table.topic(), partition as i32, &batch);
            }
        }
        let rows = target.rows("SELECT id, n, large FROM public.things ORDER BY id");
        let expected: Vec<String> =
            source.iter().map(|(id, (number, large))| format!("{id}|{number}|{large}")).collect();
        assert_eq!(rows, expected, "seed {seed}");
    }
    assert_eq!(target.letters, [], "seed {seed}");
}

#[test]
fn the_target_is_the_source_whatever_is_sent_again() {
    let seeds: u64 = setting("SLUICEGATE_CHANGES_SEEDS", 6);
    let first: u64 = setting("SLUICEGATE_CHANGES_SEED", 1);
    (first..first + seeds).for_each(run);
}
