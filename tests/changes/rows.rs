//! What becomes of rows and tables, case by case.

use serde_json::{Value, json};

use crate::events::{Table, plain, semantic, tombstone, with};
use crate::support;
use crate::target::{Event, Target};

fn users() -> Table {
    Table::new("users", &["id"], &[("id", plain("int32")), ("name", plain("string")), ("bio", plain("string"))])
}

fn user(id: i32, name: &str) -> Value {
    json!({"id": id, "name": name, "bio": null})
}

const USERS: &str = "SELECT id, name, bio FROM public.users ORDER BY id";

#[test]
fn no_row_goes_back_and_none_comes_back_whatever_is_sent_again_and_where() {
    let (mut target, table) = (Target::new(&[]), users());
    let topic = table.topic();
    let deleted = table.event("d", user(2, "b"), Value::Null, 50);
    let stream = [
        table.event("r", Value::Null, user(1, "a"), 10),
        table.event("c", Value::Null, user(2, "b"), 20),
        table.event("u", user(1, "a"), user(1, "aa"), 30),
        table.event("c", Value::Null, user(3, "c"), 40),
        deleted.clone(),
        tombstone(&deleted),
        table.event("u", user(3, "c"), user(3, "cc"), 60),
    ];
    let last = ["1|aa|null", "3|cc|null"];
    target.apply(&topic, 0, &stream);
    assert_eq!(target.rows(USERS), last);
    // One by one, from the start, in other partitions: never anything but that.
    for (partition, events) in [(0, &stream[..]), (1, &stream[..5]), (2, &stream[1..2])] {
        for event in events {
            target.apply(&topic, partition, std::slice::from_ref(event));
            assert_eq!(target.rows(USERS), last);
        }
    }
    // A row that really comes back does so.
    target.apply(&topic, 1, &[table.event("c", Value::Null, user(2, "new"), 70)]);
    assert_eq!(target.rows(USERS), ["1|aa|null", "2|new|null", "3|cc|null"]);
    assert_eq!(target.letters, []);
}

#[test]
fn transactions_are_sent_when_they_are_committed_so_places_of_other_rows_may_go_back() {
    let (mut target, table) = (Target::new(&[]), users());
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(1, "late"), 150)]);
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(2, "began first"), 100)]);
    assert_eq!(target.rows(USERS), ["1|late|null", "2|began first|null"]);
}

#[test]
fn a_large_value_that_is_left_out_stays_also_within_a_batch() {
    let (mut target, table) = (Target::new(&[]), users());
    let unknown = "__debezium_unavailable_value";
    let with = |id: i32, name: &str, bio: &str| json!({"id": id, "name": name, "bio": bio});
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, with(1, "a", "long"), 1)]);
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("u", Value::Null, with(1, "b", unknown), 2),
            table.event("c", Value::Null, with(2, "c", "longer"), 3),
            table.event("u", Value::Null, with(2, "d", unknown), 4),
            table.event("u", Value::Null, with(2, "e", unknown), 5),
            table.event("u", Value::Null, with(1, "f", unknown), 6),
        ],
    );
    assert_eq!(target.rows(USERS), ["1|f|long", "2|e|longer"]);
    // An older one changes nothing, and is no fault.
    target.apply(&table.topic(), 1, &[table.event("u", Value::Null, with(1, "b", unknown), 2)]);
    assert_eq!((target.rows(USERS), target.codes()), (vec!["1|f|long".to_owned(), "2|e|longer".to_owned()], vec![]));
    // An older one that has it, in front of a newer one that leaves it out, does not lend it.
    let late = [
        table.event("c", Value::Null, with(2, "c", "older"), 3),
        table.event("u", Value::Null, with(2, "f", unknown), 6),
    ];
    target.apply(&table.topic(), 0, &[table.event("u", Value::Null, with(2, "e", "longest"), 5)]);
    target.apply(&table.topic(), 0, &late);
    assert_eq!(target.rows(USERS), ["1|f|long", "2|f|longest"]);
    target.apply(&table.topic(), 0, &[table.event("u", Value::Null, with(2, "e", "longer"), 6)]);
    // Of a row that is not there nobody knows it.
    target.apply(
        &table.topic(),
        0,
        &[table.event("u", Value::Null, with(3, "g", unknown), 7), table.event("c", Value::Null, user(4, "h"), 8)],
    );
    assert_eq!(target.codes(), ["cdc.unchanged"]);
    assert_eq!(target.rows(USERS), ["1|f|long", "2|e|longer", "4|h|null"]);
}

#[test]
fn a_row_with_another_key_takes_along_what_the_connector_leaves_out() {
    let (table, unknown) = (users(), "__debezium_unavailable_value");
    let row = |id: i32, bio: &str| json!({"id": id, "name": "n", "bio": bio});
    let gone = with(table.event("d", row(1, "long"), Value::Null, 2), "__debezium.newkey", "{\"id\":9}");
    let come = with(table.event("c", Value::Null, row(9, unknown), 2), "__debezium.oldkey", "{\"id\":1}");
    for batches in [vec![1, 2], vec![1, 1, 1], vec![3]] {
        let mut target = Target::new(&[]);
        let mut events = vec![table.event("c", Value::Null, row(1, "long"), 1), gone.clone(), come.clone()];
        for count in batches {
            let batch: Vec<Event> = events.drain(..count).collect();
            target.apply(&table.topic(), 0, &batch);
        }
        assert_eq!((target.rows(USERS), target.codes()), (vec!["9|n|long".to_owned()], vec![]));
        // Once more, and the other way round, as partitions may have it.
        target.apply(&table.topic(), 1, &[come.clone(), gone.clone()]);
        assert_eq!((target.rows(USERS), target.codes()), (vec!["9|n|long".to_owned()], vec![]));
    }
    let mut target = Target::new(&[]);
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, row(1, "long"), 1)]);
    target.apply(&table.topic(), 1, std::slice::from_ref(&come));
    target.apply(&table.topic(), 0, std::slice::from_ref(&gone));
    assert_eq!((target.rows(USERS), target.codes()), (vec!["9|n|long".to_owned()], vec![]));
}

#[test]
fn a_late_change_of_a_key_brings_nothing_back() {
    let (mut target, table) = (Target::new(&[]), users());
    let gone = with(table.event("d", user(1, "a"), Value::Null, 2), "__debezium.newkey", "{\"id\":9}");
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(1, "a"), 1)]);
    // The new key's partition is ahead: its row has come and gone.
    target.apply(
        &table.topic(),
        1,
        &[table.event("c", Value::Null, user(9, "a"), 2), table.event("d", user(9, "a"), Value::Null, 3)],
    );
    target.apply(&table.topic(), 0, std::slice::from_ref(&gone));
    assert_eq!(target.rows(USERS), [""; 0]);
    // A later row of the former key stays what it is.
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(1, "new"), 5)]);
    target.apply(&table.topic(), 0, &[gone]);
    assert_eq!((target.rows(USERS), target.codes()), (vec!["1|new|null".to_owned()], vec![]));
}

#[test]
fn the_last_one_in_the_log_counts_in_whichever_order_partitions_come() {
    let (mut target, table) = (Target::new(&[]), users());
    let topic = table.topic();
    let (old, new) =
        (table.event("u", user(1, "a"), user(1, "old"), 50), table.event("u", user(1, "a"), user(1, "new"), 100));
    target.apply_all(&[(&topic, 0, &[new]), (&topic, 1, &[old])]);
    assert_eq!(target.rows(USERS), ["1|new|null"]);
    let gone = table.event("d", user(1, "new"), Value::Null, 200);
    let late = table.event("u", user(1, "a"), user(1, "late"), 150);
    target.apply_all(&[(&topic, 0, &[gone]), (&topic, 1, std::slice::from_ref(&late))]);
    target.apply(&topic, 2, &[late]);
    assert_eq!(target.rows(USERS), [""; 0]);
    // An emptied table keeps what came after it.
    let (after, emptied) =
        (table.event("c", Value::Null, user(2, "after"), 400), table.event("t", Value::Null, Value::Null, 300));
    target.apply_all(&[(&topic, 0, &[after]), (&topic, 1, &[emptied])]);
    assert_eq!((target.rows(USERS), target.codes()), (vec!["2|after|null".to_owned()], vec![]));
}

#[test]
fn what_came_to_a_key_that_was_given_up_earlier_stays() {
    let mut target = Target::new(&[("key_columns", "public.users=id")]);
    let (table, topic) = (users(), users().topic());
    target.apply(&topic, 0, &[table.event("c", Value::Null, user(1, "a"), 1)]);
    let moved = table.event("u", user(1, "a"), user(2, "a"), 50);
    let come = table.event("c", Value::Null, user(1, "new"), 100);
    target.apply_all(&[(&topic, 0, &[come]), (&topic, 1, &[moved])]);
    assert_eq!((target.rows(USERS), target.codes()), (vec!["1|new|null".to_owned(), "2|a|null".to_owned()], vec![]));
}

#[test]
fn values_may_change_places_in_another_index() {
    let (mut target, table) = (Target::new(&[]), users());
    target.client.batch_execute("CREATE TABLE public.users (id int PRIMARY KEY, name text UNIQUE, bio text)").unwrap();
    target.apply(
        &table.topic(),
        0,
        &[table.event("c", Value::Null, user(1, "x"), 1), table.event("c", Value::Null, user(3, "z"), 2)],
    );
    // One statement would meet x before it is free.
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("u", user(3, "z"), user(3, "w"), 3),
            table.event("u", user(1, "x"), user(1, "y"), 4),
            table.event("u", user(3, "w"), user(3, "x"), 5),
        ],
    );
    assert_eq!((target.rows(USERS), target.codes()), (vec!["1|y|null".to_owned(), "3|x|null".to_owned()], vec![]));
}

#[test]
fn a_table_that_is_gone_is_made_again() {
    let (mut target, table) = (Target::new(&[]), users());
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(1, "a"), 1)]);
    target.client.batch_execute("DROP TABLE public.users").unwrap();
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(2, "b"), 2)]);
    assert_eq!(target.rows(USERS), ["2|b|null"]);
}

#[test]
fn a_changed_key_is_another_row_and_truncate_empties() {
    let (mut target, table) = (Target::new(&[]), users());
    let away = table.event("d", user(1, "a"), Value::Null, 3);
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("c", Value::Null, user(1, "a"), 1),
            table.event("c", Value::Null, user(2, "b"), 2),
            away.clone(),
            tombstone(&away),
            table.event("c", Value::Null, user(9, "a"), 3),
        ],
    );
    assert_eq!(target.rows(USERS), ["2|b|null", "9|a|null"]);
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("c", Value::Null, user(5, "gone"), 4),
            table.event("t", Value::Null, Value::Null, 5),
            table.event("c", Value::Null, user(6, "after"), 6),
        ],
    );
    assert_eq!(target.rows(USERS), ["6|after|null"]);

    let mut empty = Target::new(&[]);
    empty.apply(
        &table.topic(),
        0,
        &[table.event("t", Value::Null, Value::Null, 1), table.event("c", Value::Null, user(1, "a"), 2)],
    );
    empty.apply(&table.topic(), 0, &[table.event("u", Value::Null, user(1, "b"), 3)]);
    assert_eq!(empty.rows(USERS), ["1|b|null"]);

    // Sent again, neither what was before it comes back nor goes what came after it.
    let again = [
        table.event("c", Value::Null, user(5, "gone"), 4),
        table.event("t", Value::Null, Value::Null, 5),
        table.event("c", Value::Null, user(6, "after"), 6),
    ];
    for event in again {
        target.apply(&table.topic(), 1, &[event]);
        assert_eq!((target.rows(USERS), target.codes()), (vec!["6|after|null".to_owned()], vec![]));
    }
    // Nor where another partition is ahead of it.
    let mut ahead = Target::new(&[]);
    ahead.apply(&table.topic(), 0, &[table.event("c", Value::Null, user(1, "a"), 1)]);
    ahead.apply(&table.topic(), 1, &[table.event("c", Value::Null, user(2, "b"), 9)]);
    ahead.apply(&table.topic(), 0, &[table.event("t", Value::Null, Value::Null, 5)]);
    ahead.apply(&table.topic(), 2, &[table.event("c", Value::Null, user(3, "c"), 2)]);
    assert_eq!(ahead.rows(USERS), ["2|b|null"]);

    let mut keeps = Target::new(&[("truncate", "false")]);
    keeps.apply(
        &table.topic(),
        0,
        &[table.event("c", Value::Null, user(1, "a"), 1), table.event("t", Value::Null, Value::Null, 2)],
    );
    assert_eq!(keeps.rows(USERS), ["1|a|null"]);
}

#[test]
fn tables_grow_with_their_sources_and_are_never_cut() {
    let (mut target, mut table) = (Target::new(&[]), users());
    let topic = table.topic();
    let first = table.event("c", Value::Null, user(1, "a"), 1);
    target.apply(&topic, 0, std::slice::from_ref(&first));
    table.fields[0].1 = plain("int64");
    table.fields.push(("at".to_owned(), semantic("int64", "io.debezium.time.MicroTimestamp")));
    let row = json!({"id": 5_000_000_000i64, "name": "b", "bio": "x", "at": 1_700_000_000_000_001i64});
    // The old form and the new one in one batch.
    target.apply(
        &topic,
        0,
        &[
            users().event("c", Value::Null, user(2, "old"), 2),
            table.event("c", Value::Null, row, 3),
            users().event("u", Value::Null, user(1, "aa"), 4),
        ],
    );
    assert_eq!(
        target.rows("SELECT id, name, bio, at FROM public.users ORDER BY id"),
        ["1|aa|null|null", "2|old|null|null", "5000000000|b|x|2023-11-14 22:13:20.000001"]
    );
    // What would lose something is set aside, and says why; the others go on.
    table.fields[1].1 = plain("boolean");
    target.client.batch_execute("ALTER TABLE public.users ALTER name TYPE date USING NULL").unwrap();
    target.apply(&topic, 0, &[table.event("c", Value::Null, json!({"id": 7, "name": true, "bio": "", "at": 0}), 5)]);
    assert_eq!(target.codes(), ["cdc.column"]);
    assert!(target.letters[0].2.contains("date"), "{:?}", target.letters);
}

#[test]
fn a_table_grows_also_where_a_deletion_comes_first() {
    let (mut target, mut table) = (Target::new(&[]), users());
    let topic = table.topic();
    target.apply(
        &topic,
        0,
        &[table.event("c", Value::Null, user(1, "a"), 1), table.event("c", Value::Null, user(2, "b"), 2)],
    );
    table.fields.push(("size".to_owned(), plain("int32")));
    let row = |id: i32| json!({"id": id, "name": "n", "bio": null, "size": id});
    // In a batch of its own, and in that of the row that needs the column.
    target.apply(&topic, 0, &[table.event("d", row(1), Value::Null, 3)]);
    target.apply(&topic, 0, &[table.event("d", row(2), Value::Null, 4), table.event("c", Value::Null, row(3), 5)]);
    assert_eq!(target.rows("SELECT id, size FROM public.users"), ["3|3"]);
}

#[test]
fn columns_that_are_there_are_written_as_they_want_it() {
    let mut target = Target::new(&[("binary_mode", "hex")]);
    target.client.batch_execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE public.kinds (id bigint PRIMARY KEY, host inet, feeling mood, raw bytea, short varchar(3), at timestamptz)",
    ).unwrap();
    let table = Table::new(
        "kinds",
        &["id"],
        &[
            ("id", plain("int32")),
            ("host", plain("string")),
            ("feeling", plain("string")),
            ("raw", plain("string")),
            ("short", plain("string")),
            ("at", semantic("int64", "io.debezium.time.MicroTimestamp")),
        ],
    );
    let row = |id: i32, feeling: &str, short: &str| json!({"id": id, "host": "10.0.0.1", "feeling": feeling, "raw": "00ff", "short": short, "at": 0});
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("c", Value::Null, row(1, "ok", "abc"), 1),
            table.event("c", Value::Null, row(2, "angry", "abc"), 2),
            table.event("c", Value::Null, row(3, "sad", "abcd"), 3),
            table.event("c", Value::Null, row(4, "sad", "a"), 4),
        ],
    );
    // Nothing is cut to fit, and only what does not fit is set aside.
    assert_eq!(
        target.rows("SELECT id, host, feeling, raw, short FROM public.kinds ORDER BY id"),
        ["1|10.0.0.1|ok|\\x00ff|abc", "4|10.0.0.1|sad|\\x00ff|a"]
    );
    assert_eq!(target.letters.iter().map(|letter| letter.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn two_sources_never_become_one_table_unnoticed() {
    let mut target = Target::new(&[("table_name", "{table}")]);
    let (one, mut other) = (users(), users());
    other.schema = "sales".to_owned();
    target.apply(&one.topic(), 0, &[one.event("c", Value::Null, user(1, "a"), 1)]);
    target.apply(&other.topic(), 0, &[other.event("c", Value::Null, user(1, "other"), 2)]);
    assert_eq!((target.rows(USERS), target.codes()), (vec!["1|a|null".to_owned()], vec!["cdc.collision"]));
}

#[test]
fn names_of_any_kind_are_names_and_nothing_else() {
    let mut target = Target::new(&[]);
    target.client.batch_execute("CREATE TABLE precious (id int)").unwrap();
    let hostile = ["a\"; DROP TABLE precious; --", "Select", "Mixed Case", "ü€", "a.b", "$1", "%s", "'", "\\", "NULL"];
    for (number, name) in hostile.iter().enumerate() {
        let mut table = Table::new(name, &["id"], &[("id", plain("int32")), (name, plain("string"))]);
        table.schema = format!("S \"{number}");
        let row = json!({"id": 1, *name: "'; DROP TABLE precious; --"});
        target.apply("cdc.hostile", number as i32, &[table.event("c", Value::Null, row, 1)]);
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let sql = format!("SELECT {} FROM {}.{}", quoted(name), quoted(&table.schema), quoted(name));
        assert_eq!(target.rows(&sql), ["'; DROP TABLE precious; --"], "{name}");
    }
    assert_eq!(target.rows("SELECT count(*) FROM precious"), ["0"]);
    assert_eq!(target.letters, []);

    let long = "x".repeat(64);
    let many: Vec<String> = (0..2_000).map(|number| format!("c{number}")).collect();
    let many: Vec<(&str, Value)> = many.iter().map(|name| (name.as_str(), plain("int32"))).collect();
    for (table, row) in [
        (Table::new(&long, &["id"], &[("id", plain("int32"))]), json!({"id": 1})),
        (Table::new("nul", &["id"], &[("id", plain("int32")), ("a\0b", plain("int32"))]), json!({"id": 1, "a\0b": 2})),
        (Table::new("long", &["id"], &[("id", plain("int32")), (&long, plain("int32"))]), json!({"id": 1})),
        (Table::new("many", &["c0"], &many), json!({"c0": 1})),
        (Table::new("text", &["id"], &[("id", plain("int32")), ("a", plain("string"))]), json!({"id": 1, "a": "a\0b"})),
    ] {
        target.apply("cdc.refused", 0, &[table.event("c", Value::Null, row, 1)]);
    }
    let own = Table::new("sluicegate_ledger", &["id"], &[("id", plain("int32"))]);
    target.apply("cdc.refused", 0, &[own.event("c", Value::Null, json!({"id": 1}), 1)]);
    assert_eq!(target.codes(), ["cdc.name", "cdc.name", "cdc.name", "cdc.columns", "cdc.nul", "cdc.name"]);
}

#[test]
fn rows_that_nothing_tells_apart_are_mirrored_or_appended() {
    let table =
        Table::new("log", &[], &[("word", plain("string")), ("doc", semantic("string", "io.debezium.data.Json"))]);
    let row = |word: &str| json!({"word": word, "doc": "{\"a\": 1}"});
    let events = [
        table.event("c", Value::Null, row("a"), 1),
        table.event("c", Value::Null, row("a"), 2),
        table.event("c", Value::Null, row("b"), 3),
        table.event("u", row("b"), row("c"), 4),
        table.event("d", row("a"), Value::Null, 5),
    ];
    let mut mirror = Target::new(&[]);
    mirror.apply(&table.topic(), 0, &events);
    assert_eq!(mirror.rows("SELECT word FROM public.log ORDER BY word"), ["a", "c"]);
    let mut append = Target::new(&[("keyless", "append"), ("extra_columns", "op=op")]);
    append.apply(&table.topic(), 0, &events);
    assert_eq!(append.rows("SELECT op, word FROM public.log"), ["c|a", "c|a", "c|b", "u|c", "d|a"]);
}

#[test]
fn what_the_user_says_of_tables_and_columns_is_done() {
    let mut target = Target::new(&[
        ("table_name", "copy.{table}_of_{server}"),
        ("table_case", "snake"),
        ("tables_exclude", "public\\.secret"),
        ("columns_exclude", "public\\.Users\\.bio"),
        ("columns_rename", "public.Users.name=called"),
        ("columns_mask", "public\\.Users\\.mail=hash,public\\.Users\\.phone=text:***"),
        ("mask_salt", "salt"),
        ("soft_delete", "is_gone"),
        ("extra_columns", "op=__op,source_time=__at,offset=__offset,topic=__topic,lsn=__lsn"),
    ]);
    let table = Table::new(
        "Users",
        &["id"],
        &[
            ("id", plain("int32")),
            ("name", plain("string")),
            ("bio", plain("string")),
            ("mail", plain("string")),
            ("phone", plain("string")),
            ("homeTown", plain("string")),
        ],
    );
    let row = |id: i32| json!({"id": id, "name": "n", "bio": "b", "mail": "a@b", "phone": "123", "homeTown": "h"});
    target.apply(
        &table.topic(),
        0,
        &[
            table.event("c", Value::Null, row(1), 1),
            table.event("c", Value::Null, row(2), 2),
            table.event("d", row(1), Value::Null, 300),
        ],
    );
    let hash = target.rows("SELECT encode(sha256('salta@b'), 'hex')").remove(0);
    assert_eq!(
        target.rows("SELECT id, called, mail, phone, home_town, __op, __at, __offset, __topic, __lsn, is_gone FROM copy.users_of_cdc ORDER BY id"),
        [
            format!("1|n|{hash}|***|h|d|2026-11-18 11:06:40.3+00|2|cdc.public.Users|0/960|t"),
            format!("2|n|{hash}|***|h|c|2026-11-18 11:06:40.002+00|1|cdc.public.Users|0/10|f"),
        ]
    );
    assert_eq!(target.rows("SELECT count(*) FROM pg_attribute WHERE attname IN ('bio', 'name') AND attrelid = 'copy.users_of_cdc'::regclass"), ["0"]);
    let secret = Table::new("secret", &["id"], &[("id", plain("int32"))]);
    target.apply(&secret.topic(), 0, &[secret.event("c", Value::Null, json!({"id": 1}), 1)]);
    assert_eq!(target.rows("SELECT to_regclass('copy.secret_of_cdc')"), ["null"]);
    // A deleted row is guarded like any other, and one that comes back is there again.
    target.apply(&table.topic(), 1, &[table.event("u", row(1), row(1), 200)]);
    assert_eq!(target.rows("SELECT is_gone FROM copy.users_of_cdc ORDER BY id"), ["t", "f"]);
    target.apply(&table.topic(), 1, &[table.event("c", Value::Null, row(1), 400)]);
    assert_eq!(target.rows("SELECT is_gone FROM copy.users_of_cdc ORDER BY id"), ["f", "f"]);
}

#[test]
fn payloads_without_a_schema_are_guessed_by_their_values_and_names() {
    let (mut target, table) = (Target::new(&[]), Table::new("items", &["id"], &[]));
    let topic = table.topic();
    target.apply(
        &topic,
        0,
        &[
            table.bare(
                "c",
                Value::Null,
                json!({"id": 1, "price": "AMY=", "created_at": 1_700_000_000_000_001i64, "note": null}),
                1,
            ),
            table.bare(
                "c",
                Value::Null,
                json!({"id": 2, "price": null, "created_at": null, "note": "n", "tags": {"a": [1]}}),
                2,
            ),
            table.bare(
                "u",
                Value::Null,
                json!({"id": 1, "price": "MDk=", "created_at": 0, "note": null, "tags": null}),
                3,
            ),
            table.bare("d", json!({"id": 2}), Value::Null, 4),
        ],
    );
    assert_eq!(
        target.rows("SELECT id, price, created_at, note, tags FROM public.items ORDER BY id"),
        ["1|123.45|1970-01-01 00:00:00|null|null"]
    );
    // A number that turns out to be no whole one.
    let number = Table::new("numbers", &["id"], &[]);
    target.apply(
        &number.topic(),
        0,
        &[
            number.bare("c", Value::Null, json!({"id": 1, "n": 1}), 1),
            number.bare("c", Value::Null, json!({"id": 2, "n": 1.5}), 2),
        ],
    );
    target.apply(&number.topic(), 0, &[number.bare("c", Value::Null, json!({"id": 3, "n": 7}), 3)]);
    assert_eq!(target.rows("SELECT id, n FROM public.numbers ORDER BY id"), ["1|1", "2|1.5", "3|7"]);
    assert_eq!(target.letters, []);
}

#[test]
fn rows_without_their_envelope_are_put_and_deleted() {
    let mut target = Target::new(&[]);
    let key = |id: i32| Some(format!("{{\"id\":{id}}}"));
    let flat = |id: i32, name: &str, deleted: &str| -> Event {
        let row = json!({"id": id, "name": name, "__deleted": deleted, "__source_lsn": id * 80});
        (key(id), Some(row.to_string()), Vec::new())
    };
    target.apply("cdc.public.people", 0, &[flat(1, "a", "false"), flat(2, "b", "false"), flat(3, "c", "false")]);
    target.apply("cdc.public.people", 0, &[flat(2, "b", "true"), (key(3), None, Vec::new())]);
    assert_eq!(target.rows("SELECT id, name FROM public.people ORDER BY id"), ["1|a"]);
    let said = |message: Value| -> Event { (None, Some(message.to_string()), Vec::new()) };
    // Messages about the stream are none of its rows.
    target.apply("__debezium-heartbeat.cdc", 0, &[said(json!({"ts_ms": 1}))]);
    target.apply("cdc.transaction", 0, &[said(json!({"status": "END", "id": "5:1", "event_count": 3}))]);
    assert_eq!(target.rows("SELECT count(*) FROM sluicegate_cdc_tables"), ["1"]);
    assert_eq!(target.letters, []);
}

#[test]
fn what_cannot_be_read_is_set_aside_with_its_rule_and_without_its_values() {
    let (mut target, table) = (Target::new(&[]), users());
    let secret = "s3cret";
    let said = |key: Option<&str>, text: String| -> Event { (key.map(str::to_owned), Some(text), Vec::new()) };
    let broken: Vec<Event> = vec![
        said(None, format!("{{\"{secret}")),
        said(None, json!({"op": "x", "source": {"table": "t"}, "after": {"a": secret}}).to_string()),
        said(Some("{\"id\":1}"), json!({"op": "c", "source": {"table": "t"}, "after": null}).to_string()),
        said(None, format!("{{\"schema\":{{\"type\":\"{secret}\"}},\"payload\":{{}}}}")),
        table.event("c", Value::Null, json!({"id": secret, "name": "n", "bio": null}), 1),
        table.event("c", Value::Null, user(1, "fine"), 2),
    ];
    target.apply(&table.topic(), 0, &broken);
    assert_eq!(target.letters.len(), 5, "{:?}", target.letters);
    assert!(target.letters.iter().all(|letter| !letter.2.contains(secret)), "{:?}", target.letters);
    assert_eq!(target.rows(USERS), ["1|fine|null"]);
}

#[test]
fn foreign_keys_of_the_target_hold_or_are_left_to_the_source() {
    let parents = Table::new("parents", &["id"], &[("id", plain("int32"))]);
    let children = Table::new("children", &["id"], &[("id", plain("int32")), ("parent", plain("int32"))]);
    let tables = "CREATE TABLE parents (id int PRIMARY KEY, __lsn pg_lsn);
        CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents DEFERRABLE, __lsn pg_lsn)";
    let child = |id: i32| children.event("c", Value::Null, json!({"id": id, "parent": id}), 2);
    let parent = |id: i32| parents.event("c", Value::Null, json!({"id": id}), 1);
    for (mode, alone) in [("check", "1"), ("replica", "1,2")] {
        let mut target = Target::new(&[("foreign_keys", mode)]);
        target.client.batch_execute(tables).unwrap();
        // In one transaction the order of topics does not matter.
        let (c, p) = (children.topic(), parents.topic());
        target.apply_all(&[(&c, 0, &[child(1)]), (&p, 0, &[parent(1)])]);
        target.apply(&c, 0, &[child(2)]);
        assert_eq!(target.rows("SELECT string_agg(id::text, ',' ORDER BY id) FROM children"), [alone], "{mode}");
        assert_eq!(target.codes(), if mode == "check" { vec!["pg.23503"] } else { vec![] });
    }
}

/// A plan that is made while little is gone must do for when much is.
#[test]
fn what_is_gone_is_looked_up_by_its_key_however_little_it_once_was() {
    const KEYS: i32 = 200;
    let (mut target, table) = (Target::new(&[]), users());
    let put = |id: i32| table.event("c", Value::Null, user(id, "n"), 1);
    let delete = |id: i32| table.event("d", user(id, "n"), Value::Null, 5);
    let batch = |target: &mut Target, round: i32| {
        let ids = || round * KEYS..(round + 1) * KEYS;
        let events: Vec<Event> = ids().map(delete).collect();
        target.apply(&table.topic(), 0, &events);
        // From a partition that is behind: older than what is gone of others.
        let events: Vec<Event> = ids().map(|id| put(100_000 + id)).collect();
        target.apply(&table.topic(), 1, &events);
    };
    batch(&mut target, 0);
    target.client.batch_execute("TRUNCATE sluicegate_cdc_gone, public.users; ANALYZE").unwrap();
    (1..15).for_each(|round| batch(&mut target, round));
    let read =
        "SELECT pg_stat_force_next_flush(); SELECT coalesce(sum(idx_tup_read), 0) < 20000 FROM pg_stat_user_indexes
        WHERE relname = 'sluicegate_cdc_gone'";
    support::wait_for("the server to have counted", std::time::Duration::from_secs(20), || {
        let counted =
            target.rows("SELECT sum(idx_scan) > 2000 FROM pg_stat_user_indexes WHERE relname = 'sluicegate_cdc_gone'");
        (counted == ["t"]).then_some(())
    });
    assert_eq!(target.rows(read).last().map(String::as_str), Some("t"));
    assert_eq!(target.rows("SELECT count(*) FROM public.users"), [(14 * KEYS).to_string()]);
}

#[test]
fn who_starts_waits_for_nobody_who_writes() {
    let mut target = Target::new(&[]);
    let writes = "BEGIN; DO $$
        DECLARE name text;
        BEGIN
            FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'sluicegate%' LOOP
                EXECUTE format('LOCK TABLE %I IN ROW EXCLUSIVE MODE', name);
            END LOOP;
        END $$";
    target.client.batch_execute(writes).unwrap();
    assert_eq!(
        target.rows("SELECT count(*) > 6 FROM pg_locks WHERE mode = 'RowExclusiveLock' AND pid = pg_backend_pid()"),
        ["t"]
    );
    target.start_again();
}
