//! What cannot be applied, and what that does to its neighbours.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::{Event, Target};

const FAMILY: &str = "CREATE TABLE parents (id int PRIMARY KEY CHECK (id < 100), __lsn pg_lsn);
    CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents DEFERRABLE, __lsn pg_lsn)";

fn parent(id: i32) -> Event {
    Table::new("parents", &["id"], &[("id", plain("int32"))]).event("c", Value::Null, json!({"id": id}), 2)
}

fn child(id: i32, parent: i32) -> Event {
    let table = Table::new("children", &["id"], &[("id", plain("int32")), ("parent", plain("int32"))]);
    table.event("c", Value::Null, json!({"id": id, "parent": parent}), 1)
}

/// The same child of a table that has a column more by now.
fn grown_child(id: i32, parent: i32) -> Event {
    let fields = [("id", plain("int32")), ("parent", plain("int32")), ("name", plain("string"))];
    let row = json!({"id": id, "parent": parent, "name": "n"});
    Table::new("children", &["id"], &fields).event("c", Value::Null, row, 1)
}

#[test]
fn one_bad_row_makes_no_letter_of_a_child_whose_parent_comes_behind_it() {
    let bad = || parent(100);
    let orphan = || child(9, 9);
    let cases: [(&str, Vec<Event>, &[&str]); 5] = [
        ("bad", vec![child(1, 1), child(2, 2), parent(1), bad(), parent(2)], &["pg.23514"]),
        ("orphan", vec![child(1, 1), orphan(), child(2, 2), parent(2), parent(1)], &["pg.23503"]),
        ("both", vec![child(1, 1), orphan(), bad(), child(2, 2), parent(1), parent(2)], &["pg.23514", "pg.23503"]),
        ("grown", vec![child(1, 1), bad(), grown_child(2, 2), parent(1), parent(2)], &["pg.23514"]),
        (
            "its own",
            vec![child(1, 1), child(3, 100), child(2, 2), bad(), parent(2), parent(1)],
            &["pg.23514", "pg.23503"],
        ),
    ];
    for (name, events, codes) in cases {
        let mut target = Target::new(&[]);
        target.client.batch_execute(FAMILY).unwrap();
        target.apply("cdc.family", 0, &events);
        let mut found = target.codes();
        found.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found, codes, "{name}");
        assert_eq!(target.rows("SELECT id FROM children ORDER BY id"), ["1", "2"], "{name}");
        assert_eq!(target.rows("SELECT id FROM parents ORDER BY id"), ["1", "2"], "{name}");
    }
}

#[test]
fn rows_that_need_each_other_stay_together_beside_a_bad_one() {
    let mut target = Target::new(&[]);
    target
        .client
        .batch_execute(
            "CREATE TABLE pairs (id int PRIMARY KEY CHECK (id < 100), other int REFERENCES pairs DEFERRABLE, __lsn pg_lsn)",
        )
        .unwrap();
    let table = Table::new("pairs", &["id"], &[("id", plain("int32")), ("other", plain("int32"))]);
    let row = |id: i32, other: i32| table.event("c", Value::Null, json!({"id": id, "other": other}), 1);
    target.apply(&table.topic(), 0, &[row(1, 2), row(100, 1), row(3, 3), row(2, 1)]);
    assert_eq!(target.rows("SELECT id FROM pairs ORDER BY id"), ["1", "2", "3"]);
    assert_eq!(target.codes(), ["pg.23514"]);
}

#[test]
fn where_no_letter_is_wanted_the_partition_halts_at_what_cannot_be_applied() {
    let table = Table::new("parents", &["id"], &[("id", plain("int32"))]);
    let unread: Event = (None, Some("{".to_owned()), Vec::new());
    for (bad, code) in [(parent(100), "pg.23514"), (unread, "cdc.payload")] {
        let mut target = Target::new(&[("continue_on_error", "false")]);
        target.client.batch_execute(FAMILY).unwrap();
        let events = [parent(1), parent(2), bad, parent(3)];
        target.apply(&table.topic(), 0, &events);
        assert_eq!(target.halted, [(2, code.to_owned())]);
        assert_eq!(
            (target.rows("SELECT id FROM parents ORDER BY id"), target.codes()),
            (vec!["1".to_owned(), "2".to_owned()], vec![])
        );
        assert_eq!(target.rows("SELECT count(*) FROM sluicegate_letters"), ["0"]);
        assert_eq!(target.rows("SELECT next_offset FROM sluicegate_ledger"), ["2"]);
    }
}

#[test]
fn a_row_that_unfolds_beyond_all_measure_is_a_letter() {
    let mut target = Target::new(&[]);
    let bits = json!({"type": "bytes", "optional": true, "name": "io.debezium.data.Bits", "parameters": {"length": "8388608"}});
    let names: Vec<String> = (0..20).map(|number| format!("b{number}")).collect();
    let mut fields = vec![("id", plain("int32"))];
    fields.extend(names.iter().map(|name| (name.as_str(), bits.clone())));
    let table = Table::new("bombs", &["id"], &fields);
    let mut row = json!({"id": 1});
    names.iter().for_each(|name| row[name] = json!("AA=="));
    let small = json!({"id": 2});
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, row, 1), table.event("c", Value::Null, small, 2)]);
    assert_eq!(target.rows("SELECT id FROM bombs"), ["2"]);
    assert_eq!(target.codes(), ["cdc.value"]);
}

/// Each of them passes, but not the last change of each key at once. Nor does one after the other.
#[test]
fn what_passes_only_in_parts_is_written_in_those_parts() {
    let users = Table::new("users", &["id"], &[("id", plain("int32")), ("email", plain("string"))]);
    let user = |id: i32, email: &str, lsn: i64| users.event("u", Value::Null, json!({"id": id, "email": email}), lsn);
    let mut target = Target::new(&[]);
    target
        .client
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, __lsn pg_lsn);
            INSERT INTO users VALUES (1, 'x'), (2, 'y'), (3, 'z')",
        )
        .unwrap();
    // What the first one has in between is free only where the other partition is further on.
    let first = [user(1, "y", 30), user(1, "q", 40)];
    let second = [user(3, "t", 10), user(2, "z", 20), user(3, "y", 50)];
    target.apply_all(&[(&users.topic(), 0, &first), (&users.topic(), 1, &second)]);
    assert_eq!(target.rows("SELECT id, email FROM users ORDER BY id"), ["1|q", "2|z", "3|y"]);
    assert!(target.codes().is_empty());
}

/// One after the other, it would have to grow while a constraint waits for its rows.
#[test]
fn a_table_that_grows_is_written_in_the_parts_that_pass() {
    let fields =
        [("id", plain("int32")), ("pos", plain("string")), ("parent", plain("int32")), ("name", plain("string"))];
    let (narrow, wide) = (Table::new("children", &["id"], &fields[..3]), Table::new("children", &["id"], &fields));
    let row = |table: &Table, id: i32, pos: &str, parent: i32, lsn: i64| {
        let mut row = json!({"id": id, "pos": pos, "parent": parent});
        if table.fields.len() == fields.len() {
            row["name"] = json!("n");
        }
        table.event("u", Value::Null, row, lsn)
    };
    let mut target = Target::new(&[]);
    target
        .client
        .batch_execute(
            "CREATE TABLE parents (id int PRIMARY KEY, __lsn pg_lsn);
            CREATE TABLE children (id int PRIMARY KEY, pos text UNIQUE, parent int REFERENCES parents DEFERRABLE, __lsn pg_lsn);
            INSERT INTO parents VALUES (1), (2);
            INSERT INTO children VALUES (1, 'a', 1), (3, 'z', 1)",
        )
        .unwrap();
    let events = [
        row(&narrow, 3, "t", 2, 10),
        row(&narrow, 1, "b", 1, 20),
        row(&narrow, 3, "a", 2, 30),
        row(&wide, 4, "d", 1, 40),
    ];
    target.apply(&narrow.topic(), 0, &events);
    assert_eq!(
        target.rows("SELECT id, pos, parent, name FROM children ORDER BY id"),
        ["1|b|1|null", "3|a|2|null", "4|d|1|n"]
    );
    assert!(target.codes().is_empty());
}

/// Where no place keeps an older change from a newer row, their order is all that does.
#[test]
fn what_passes_only_in_parts_is_written_in_its_order() {
    let fields = [("id", plain("int32")), ("pos", plain("string")), ("parent", plain("int32"))];
    let (children, parents) =
        (Table::new("children", &["id"], &fields), Table::new("parents", &["id"], &[("id", plain("int32"))]));
    let child = |id: i32, pos: &str, parent: i32| {
        children.event("u", Value::Null, json!({"id": id, "pos": pos, "parent": parent}), 10)
    };
    let mut target = Target::new(&[("extra_columns", "op=__op")]);
    target
        .client
        .batch_execute(
            "CREATE TABLE parents (id int PRIMARY KEY, __op text);
            CREATE TABLE children (id int PRIMARY KEY, pos text UNIQUE, parent int REFERENCES parents DEFERRABLE, __op text);
            INSERT INTO parents VALUES (1);
            INSERT INTO children VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1)",
        )
        .unwrap();
    // The first one waits for a parent behind it, which comes; by then it is not the newest any more.
    let first = [child(3, "c", 5), child(3, "c", 1), child(1, "t", 1), child(2, "a", 1), child(1, "b", 1)];
    let second = [parents.event("c", Value::Null, json!({"id": 5}), 20)];
    target.apply_all(&[(&children.topic(), 0, &first), (&parents.topic(), 0, &second)]);
    assert_eq!(target.rows("SELECT id, pos, parent FROM children ORDER BY id"), ["1|b|1", "2|a|1", "3|c|1"]);
    assert_eq!(target.rows("SELECT id FROM parents ORDER BY id"), ["1", "5"]);
    assert!(target.codes().is_empty());
}
