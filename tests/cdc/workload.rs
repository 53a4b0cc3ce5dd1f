//! A random workload over twenty tables that point at one another, while the program is killed again and again; then all
//! topics once more from their start. `SLUICEGATE_CDC_CHANGES=200000` is the whole of it, `SLUICEGATE_CDC_SEED` repeats one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Client;

use crate::replica::Replica;
use crate::support::connect::Connect;
use crate::support::random::Random;
use crate::support::{connect, setting};

const TABLES: u64 = 20;
/// Row numbers are taken from so many: keys that were deleted come again.
const KEYS: u64 = 2_000;
const KILL_EVERY: Duration = Duration::from_secs(2);

/// Every third table has a topic of three partitions: a key and the one that it becomes may be in two of them, and a table
/// that is emptied says so in any.
fn is_wide(table: u64) -> bool {
    table % 3 == 2
}

fn name(table: u64) -> String {
    format!("{}_{table}", if is_wide(table) { "wide" } else { "narrow" })
}

fn create(table: u64) -> String {
    let parent = match table {
        0 => "bigint".to_owned(),
        // Of two children one goes with its parent, the other stays without it.
        _ => format!(
            "bigint REFERENCES {} (id) ON UPDATE CASCADE ON DELETE {}",
            name((table - 1) / 2),
            if table.is_multiple_of(2) { "CASCADE" } else { "SET NULL" }
        ),
    };
    format!(
        "CREATE TABLE {0} (id bigint PRIMARY KEY, parent {parent}, count integer NOT NULL DEFAULT 0, cost numeric(12,2),
             title varchar(100), seen timestamptz, doc jsonb, body text, share double precision);
         ALTER TABLE {0} ALTER body SET STORAGE EXTERNAL; CREATE INDEX ON {0} (parent);",
        name(table)
    )
}

/// The next row that is there, from a random one on.
fn some(table: u64, random: &mut Random) -> String {
    format!("(SELECT id FROM {} WHERE id >= {} ORDER BY id LIMIT 1)", name(table), random.below(KEYS))
}

fn statement(random: &mut Random) -> String {
    let table = random.below(TABLES);
    let (to, of) = (name(table), some(table, random));
    let (a, b) = (random.below(1_000_000), random.below(KEYS));
    match random.below(1000) {
        0..350 => {
            let parent = if table == 0 { "NULL".to_owned() } else { some((table - 1) / 2, random) };
            let body = match random.below(4) {
                0 => format!("repeat('large {a} ', 300)"),
                1 => "NULL".to_owned(),
                _ => format!("'small {a}'"),
            };
            format!(
                "INSERT INTO {to} VALUES ({b}, {parent}, {a}, {a} / 100.0, 'title ''{a}'' ä', to_timestamp({a} / 1000.0),
                     '{{\"a\": [{a}, null]}}', {body}, {a} / 7.0)
                 ON CONFLICT (id) DO UPDATE SET count = {to}.count + 1, title = EXCLUDED.title"
            )
        }
        350..600 => format!("UPDATE {to} SET count = count + 1, cost = NULL, share = {a} / 3.0 WHERE id = {of}"),
        600..680 => format!("UPDATE {to} SET body = repeat('other {a} ', 300) WHERE id = {of}"),
        680..740 => format!("UPDATE {to} SET count = count + 1 WHERE id BETWEEN {b} AND {b} + 5"),
        740..830 => {
            format!("UPDATE {to} SET id = {b} WHERE id = {of} AND NOT EXISTS (SELECT 1 FROM {to} WHERE id = {b})")
        }
        830..990 => format!("DELETE FROM {to} WHERE id = {of}"),
        // With its children; the roots of the tree would take everything along.
        990..993 if table > 4 => {
            let rows = if random.chance(50) { 0 } else { 20 };
            format!(
                "TRUNCATE {to} CASCADE;
                 INSERT INTO {to} (id, count, body) SELECT n, {a}, repeat('behind {a} ', 300) FROM generate_series({b}, {b} + {rows} - 1) n"
            )
        }
        _ => format!("DELETE FROM {to} WHERE id BETWEEN {b} AND {b} + 20"),
    }
}

/// Transactions of a few statements each, of several tables.
fn change(source: &mut Client, random: &mut Random, count: u64) {
    let mut left = count;
    while left > 0 {
        let statements = (1 + random.below(20)).min(left);
        left -= statements;
        let end = if random.chance(5) { "ROLLBACK" } else { "COMMIT" };
        let body: Vec<String> = (0..statements).map(|_| statement(random)).collect();
        source.batch_execute(&format!("BEGIN; {}; {end}", body.join("; "))).expect("changes");
    }
}

#[test]
fn source_and_target_are_equal_after_a_random_workload_with_kills_and_after_all_of_it_again() {
    let changes: u64 = setting("SLUICEGATE_CDC_CHANGES", 5_000);
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed: u64 = setting("SLUICEGATE_CDC_SEED", now_ns % 1_000_000);
    println!("SLUICEGATE_CDC_CHANGES={changes} SLUICEGATE_CDC_SEED={seed}");
    let mut random = Random(seed);
    let worker = Connect::start("workload");
    let mut source = connect(&worker.url);
    for table in 0..TABLES {
        source.batch_execute(&create(table)).expect("a table");
    }
    change(&mut source, &mut random, changes / 10); // for the snapshot
    let mut replica = Replica::new(&worker, "workload");
    let options = [
        ("publication.autocreate.mode", "all_tables"),
        ("skipped.operations", "none"),
        ("topic.creation.groups", "wide"),
        ("topic.creation.wide.include", ".*\\.wide_.*"),
        ("topic.creation.wide.partitions", "3"),
        ("topic.creation.wide.replication.factor", "1"),
    ];
    worker.put(&replica.prefix, &worker.configuration(&replica.prefix, "public\\..*", &options));
    let is_over = AtomicBool::new(false);
    let kills = std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let mut random = Random(seed);
            let (mut instances, mut kills) = ([replica.start(), replica.start()], 0);
            while !is_over.load(Ordering::SeqCst) {
                std::thread::sleep(KILL_EVERY);
                let index = random.below(2) as usize;
                instances[index].signal("KILL");
                instances[index] = replica.start();
                kills += 1;
            }
            kills
        });
        worker.wait_streaming(&replica.prefix);
        change(&mut source, &mut random, changes - changes / 10);
        is_over.store(true, Ordering::SeqCst);
        killing.join().expect("the killer")
    });
    let tables: Vec<String> = (0..TABLES).map(name).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let instances = [replica.start(), replica.start()];
    replica.settle();
    let sent = replica.sent();
    assert_eq!(replica.letters(), Vec::<String>::new(), "seed {seed}");
    println!("{sent} records sent, {kills} kills");
    // Fewer may be over before the first one.
    assert!(kills > 0 || changes < 50_000, "nobody was killed");
    replica.assert_equal(&tables);
    let count = |client: &mut Client| -> i64 {
        let sums: Vec<String> = tables.iter().map(|table| format!("(SELECT count(*) FROM {table})")).collect();
        client.query_one(&format!("SELECT {}", sums.join(" + ")), &[]).expect("a count").get(0)
    };
    assert!(count(&mut source) > 100, "something is left to be compared");

    // Everything again, on top.
    drop(instances);
    connect(&replica.url).batch_execute("DELETE FROM sluicegate_ledger").expect("forgotten");
    let instances = [replica.start(), replica.start()];
    replica.settle();
    assert_eq!(replica.letters(), Vec::<String>::new(), "seed {seed}");
    replica.assert_equal(&tables);
    // And it still follows.
    change(&mut source, &mut random, 500);
    replica.settle();
    replica.assert_equal(&tables);
    drop(instances);
}
