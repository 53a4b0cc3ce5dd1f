//! Source and target, row by row: every type in several modes of the connector, and everything that happens to rows and
//! tables while the connector streams.

use postgres::Client;

use crate::golden::{CHANGES_SETUP, LARGE};
use crate::kinds::{self, Table};
use crate::modes::{self, HSTORE, Mode};
use crate::replica::{Exception, NOT_CARRIED, Replica};
use crate::support::connect::Connect;
use crate::support::{connect, loudly};

/// The last row of these has a timestamp that does not fit into microseconds since 1970.
pub fn rows(table: &Table) -> usize {
    if table.name == "extremes" { table.rows() - 1 } else { table.rows() }
}

/// The snapshot moves times before 1582 and rounds money: these rows come by the log alone.
pub fn is_in_snapshot(table: &Table) -> bool {
    !["times", "extremes", "numbers"].contains(&table.name)
}

/// Before there is a connector.
pub fn fill(source: &mut Client, tables: &[&Table]) {
    source.batch_execute(kinds::SETUP).expect("types");
    for table in tables {
        source.batch_execute(&table.create()).expect(table.name);
        for row in (0..rows(table)).filter(|_| is_in_snapshot(table)) {
            source.batch_execute(&table.insert(row + 1, row)).expect(table.name);
        }
        source.batch_execute(&table.insert_nulls(99)).expect(table.name);
    }
}

/// While it streams.
pub fn change(source: &mut Client, tables: &[&Table]) {
    for table in tables {
        for row in 0..rows(table) {
            source.batch_execute(&table.insert(101 + row, row)).expect(table.name);
        }
        for sql in [
            table.insert_nulls(199),
            table.update(99, 0),
            table.update(101, rows(table) - 1),
            format!("UPDATE {} SET id = 901 WHERE id = 101", table.name),
            format!("DELETE FROM {} WHERE id = 199", table.name),
        ] {
            source.batch_execute(&sql).expect(&sql);
        }
    }
}

#[test]
fn every_type_is_in_the_target_as_it_is_in_the_source() {
    let worker = Connect::start("types");
    let mut source = connect(&worker.url);
    let tables: Vec<&Table> = kinds::ALL.iter().collect();
    fill(&mut source, &tables);
    let modes: Vec<&Mode> = modes::ALL.iter().filter(|mode| mode.is_usual()).collect();
    let mut replicas: Vec<Replica> = modes.iter().map(|mode| mode.prepare(Replica::new(&worker, "types"))).collect();
    let instances: Vec<_> = replicas.iter().map(Replica::start).collect();
    for (mode, replica) in modes.iter().zip(&replicas) {
        worker.put(&replica.prefix, &worker.configuration(&replica.prefix, "public\\..*", &mode.options()));
    }
    replicas.iter().for_each(|replica| worker.wait_streaming(&replica.prefix));
    change(&mut source, &tables);
    let mut found = Vec::new();
    for (mode, replica) in modes.iter().zip(&mut replicas) {
        replica.settle();
        for table in &tables {
            let differences = replica.differences(table.name, &mode.read(&[table]), &mode.lost(&[table]));
            found.extend(differences.into_iter().map(|line| format!("{}: {line}", mode.name)));
        }
        found.extend(replica.letters().into_iter().map(|letter| format!("{}: letter: {letter}", mode.name)));
    }
    if !found.is_empty() {
        loudly(&found.join("\n"));
    }
    assert!(found.is_empty(), "{} differences", found.len());
    drop(instances);

    // Of one value in one column another one, and it is seen.
    let (mode, replica, texts) = (modes[0], &replicas[0], &kinds::TEXTS);
    connect(&replica.url).batch_execute("UPDATE texts SET plain = plain || 'x' WHERE id = 1").expect("spoilt");
    assert_eq!(replica.differences("texts", &mode.read(&[texts]), &mode.lost(&[texts])).len(), 2);
}

/// Of these the connector sends null when they are out of line and did not change.
const TOAST_LOST: &[Exception] = &[("toast", "shares", NOT_CARRIED), ("toast", "nums", NOT_CARRIED)];
const TOAST_READ: &[Exception] = &[("toast", "pairs", HSTORE)];

#[test]
fn what_happens_to_rows_and_tables_while_the_connector_streams_happens_in_the_target() {
    let worker = Connect::start("rows");
    let mut source = connect(&worker.url);
    source.batch_execute(CHANGES_SETUP).expect("tables");
    source
        .batch_execute(
            "INSERT INTO plain SELECT n, 'name ' || n, n FROM generate_series(1000, 1999) AS n;
             INSERT INTO toast (id, body) SELECT n, repeat('0123456789', 300) FROM generate_series(1000, 1009) AS n;
             INSERT INTO \"Mixed Case\" VALUES (1000, 'read', 'dot'), (1001, 'read', NULL);
             CREATE TABLE \"Straße\" (\"schlüssel\" integer PRIMARY KEY, \"größe\" text);
             INSERT INTO \"Straße\" VALUES (1, 'read'), (2, 'read'), (3, 'read')",
        )
        .expect("rows before");
    // By the log the connector finds no key of a table whose name, or whose key's, is not ASCII.
    let mut replica = Replica::new(&worker, "rows")
        .with("SLUICEGATE_FLOWS_CDC_KEYLESS", "mirror")
        .with("SLUICEGATE_FLOWS_CDC_KEY_COLUMNS", "public.Straße=schlüssel");
    let options = [
        ("publication.autocreate.mode", "all_tables"),
        ("skipped.operations", "none"),
        ("heartbeat.interval.ms", "500"),
    ];
    let instance = replica.start();
    worker.read(&replica.prefix, "public\\..*", &options);
    let tables = [
        "plain",
        "full_image",
        "keyless",
        "keyless_full",
        "by_index",
        "two_keys",
        "toast",
        "altered",
        "Mixed Case",
        "Straße",
    ];
    let mut step = |sql: &str, tables: &[&str]| {
        source.batch_execute(sql).expect(sql);
        replica.settle();
        let found: Vec<String> =
            tables.iter().flat_map(|table| replica.differences(table, TOAST_READ, TOAST_LOST)).collect();
        assert!(found.is_empty(), "after {sql}\n{}\nletters: {:#?}", found.join("\n"), replica.letters());
    };
    step("SELECT 1", &["plain", "toast", "Mixed Case", "Straße"]); // the snapshot
    step(
        &format!(
            "INSERT INTO plain VALUES (1, 'one', 1), (2, 'two', NULL), (3, NULL, 3);
             INSERT INTO full_image VALUES (1, 'one', 1), (2, 'two', NULL), (3, NULL, 3);
             INSERT INTO keyless VALUES (1, 'one'), (1, 'one'), (2, NULL);
             INSERT INTO keyless_full VALUES (1, 'one'), (1, 'one'), (2, NULL), (NULL, NULL);
             INSERT INTO by_index VALUES (1, 'a', 'one'), (2, 'b', 'two');
             INSERT INTO two_keys VALUES (1, 'a', 'one'), (2, 'a', 'two'), (1, 'b', 'three');
             INSERT INTO toast VALUES (1, 1, {LARGE}), (2, 2, {LARGE});
             INSERT INTO altered VALUES (1, 1, 'one', 'x'), (2, 2, 'two', 'y');
             INSERT INTO \"Mixed Case\" VALUES (1, 'one', 'dot'); INSERT INTO \"Straße\" VALUES (4, 'new'), (5, NULL)"
        ),
        &tables,
    );
    step(
        "UPDATE plain SET many = 10 WHERE id < 1500; UPDATE full_image SET many = NULL, name = 'uno' WHERE id = 1;
         UPDATE keyless_full SET name = 'nobody' WHERE id IS NULL;
         UPDATE toast SET number = number + 10; UPDATE toast SET body = 'small', ints = '{1}' WHERE id = 2; UPDATE by_index SET name = 'changed' WHERE id = 1;
         UPDATE altered SET gone = NULL WHERE id = 1;
         UPDATE \"Mixed Case\" SET \"Sélect\" = 'changed' WHERE id <= 1000; DELETE FROM \"Mixed Case\" WHERE id = 1001;
         UPDATE \"Straße\" SET \"größe\" = 'changed' WHERE \"schlüssel\" IN (1, 4); DELETE FROM \"Straße\" WHERE \"schlüssel\" IN (2, 5);
         UPDATE \"Straße\" SET \"schlüssel\" = 30 WHERE \"schlüssel\" = 3",
        &tables,
    );
    // Keys that change: to a new one, to one that was just given up, all of them at once, there and back.
    step(
        "UPDATE plain SET id = 4, name = 'four' WHERE id = 2; UPDATE plain SET id = 2 WHERE id = 1;
         UPDATE plain SET id = id + 10000 WHERE id >= 1900; UPDATE plain SET id = 5 WHERE id = 3; UPDATE plain SET id = 3 WHERE id = 5;
         UPDATE full_image SET id = 20 WHERE id = 2; UPDATE by_index SET code = 'c' WHERE id = 1;
         UPDATE two_keys SET part = 'z' WHERE id = 1 AND part = 'a'",
        &["plain", "full_image", "by_index", "two_keys"],
    );
    step(
        "DELETE FROM plain WHERE id % 7 = 0; DELETE FROM full_image WHERE id = 3; DELETE FROM by_index WHERE id = 2;
         DELETE FROM keyless_full WHERE ctid = (SELECT min(ctid) FROM keyless_full WHERE id = 1);
         DELETE FROM two_keys WHERE part = 'z'; INSERT INTO plain VALUES (7, 'again', 7)",
        &["plain", "full_image", "by_index", "two_keys", "keyless_full"],
    );
    // Many changes of one row in one transaction, and across several.
    step(
        "BEGIN; INSERT INTO plain VALUES (30, 'a', 1); UPDATE plain SET name = 'b' WHERE id = 30; DELETE FROM plain WHERE id = 30;
         INSERT INTO plain VALUES (30, 'c', 2); UPDATE plain SET id = 31 WHERE id = 30; COMMIT;
         UPDATE plain SET many = 3 WHERE id = 31; DELETE FROM plain WHERE id = 31; INSERT INTO plain VALUES (31, 'last', NULL)",
        &["plain"],
    );
    step(
        "TRUNCATE full_image; INSERT INTO full_image VALUES (1, 'after', 1); TRUNCATE keyless_full",
        &["full_image", "keyless_full"],
    );
    step(
        "ALTER TABLE altered ADD added timestamptz DEFAULT '2024-01-01 00:00:00+00', ADD many numeric(10,2);
         INSERT INTO altered VALUES (3, 3, 'three', 'z', '2024-02-29 12:00:00+00', 1.25)",
        &[], // rows that were there have the default at the source alone: nothing is sent of them
    );
    step("UPDATE altered SET small = small", &["altered"]);
    step(
        "ALTER TABLE altered ALTER small TYPE bigint, ALTER word TYPE varchar(50), ALTER many TYPE numeric(20,2);
         INSERT INTO altered VALUES (4, 5000000000, 'longer than five', 'z', NULL, 123456789012345.25)",
        &["altered"],
    );
    step("ALTER TABLE altered DROP gone; INSERT INTO altered VALUES (5, 5, 'five', NULL, NULL)", &["altered"]);
    step("ALTER TABLE altered RENAME added TO renamed; UPDATE altered SET small = small + 1", &["altered"]);
    step(
        "CREATE TABLE later (id uuid PRIMARY KEY, \"from\" text, made timestamp DEFAULT '2024-01-01');
         INSERT INTO later SELECT gen_random_uuid(), n::text FROM generate_series(1, 100) AS n",
        &["later"],
    );
    step("INSERT INTO parted VALUES (1, 'one'); UPDATE parted SET name = 'uno'", &["parted_low"]);
    // A large value that did not change, under a key that did.
    step("UPDATE toast SET id = id + 100, number = 0 WHERE id < 100", &["toast"]);
    assert_eq!(replica.letters(), Vec::<String>::new());
    drop(instance);
}
