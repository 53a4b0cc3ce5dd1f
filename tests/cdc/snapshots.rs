//! A snapshot beside transactions that are open while its slot is made.

use std::time::Duration;

use postgres::Client;

use crate::replica::Replica;
use crate::support::connect::Connect;
use crate::support::{connect, wait_for};

const SOON: Duration = Duration::from_secs(120);

/// A transaction that has begun, and its number.
fn open(worker: &Connect, sql: &str) -> (Client, String) {
    let mut client = connect(&worker.url);
    client.batch_execute(&format!("BEGIN; {sql}")).expect(sql);
    let number = client.query_one("SELECT pg_current_xact_id()::xid::text", &[]).expect("its number").get(0);
    (client, number)
}

/// Until the slot that is made waits for the transaction's end.
fn wait_awaited(client: &mut Client, number: &str) {
    let sql = "SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid::text = $1";
    wait_for(&format!("somebody to wait for {number}"), SOON, || {
        client.query_opt(sql, &[&number]).expect("locks").map(|_| ())
    });
}

#[test]
fn what_is_open_while_a_snapshot_reads_is_in_the_target_once_it_is_committed() {
    let worker = Connect::start("open");
    let mut source = connect(&worker.url);
    source
        .batch_execute(
            "CREATE TABLE held (id integer PRIMARY KEY, word text);
             INSERT INTO held SELECT n, 'old' FROM generate_series(1, 6) AS n",
        )
        .expect("a table");
    let mut replica = Replica::new(&worker, "open");
    let instance = replica.start();
    let (mut first, number) = open(&worker, "UPDATE held SET word = 'first' WHERE id = 1");
    worker.put(&replica.prefix, &worker.configuration(&replica.prefix, "public\\..*", &[]));
    wait_awaited(&mut source, &number);
    let (mut second, number) = open(&worker, "UPDATE held SET word = 'second' WHERE id = 2");
    first.batch_execute("COMMIT").expect("the first one's end");
    wait_awaited(&mut source, &number);
    // From here on the slot has all of a transaction, and waits for none that begins.
    let changes = "UPDATE held SET word = 'third' WHERE id = 3; DELETE FROM held WHERE id = 4; UPDATE held SET id = 7 WHERE id = 5";
    let (mut third, _) = open(&worker, changes);
    second.batch_execute("COMMIT").expect("the second one's end");
    worker.wait_streaming(&replica.prefix);
    replica.settle();
    third.batch_execute("COMMIT").expect("the third one's end");
    replica.settle();
    replica.assert_equal(&["held"]);
    assert_eq!(replica.letters(), [""; 0]);
    drop(instance);
}
