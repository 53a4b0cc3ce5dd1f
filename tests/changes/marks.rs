//! Deleted rows that stay: marked, with what is kept beside them.

use serde_json::{Value, json};

use crate::events::{Table, plain, with};
use crate::target::{Event, Target};

const SETTINGS: [(&str, &str); 2] =
    [("soft_delete", "is_gone"), ("extra_columns", "op=__op,source_time=__at,lsn=__lsn,offset=__offset")];
const PEOPLE: &str =
    "SELECT id, name, __op, to_char(__at AT TIME ZONE 'UTC', 'MS'), __lsn, __offset, is_gone FROM people ORDER BY id";

fn people() -> Table {
    Table::new("people", &["id"], &[("id", plain("int32")), ("name", plain("string"))])
}

fn person(id: i32) -> Value {
    json!({"id": id, "name": "n"})
}

/// A change of 8 in the log, in hexadecimal, is one of 1 here.
#[test]
fn what_is_kept_beside_a_row_is_of_its_deletion() {
    let (mut target, table) = (Target::new(&SETTINGS), people());
    let put = |id: i32| table.event("c", Value::Null, person(id), i64::from(id));
    let gone = with(table.event("d", person(3), Value::Null, 32), "__debezium.newkey", "{\"id\":4}");
    let come = with(table.event("c", Value::Null, person(4), 32), "__debezium.oldkey", "{\"id\":3}");
    target.apply(&table.topic(), 0, &[put(1), put(2), put(3)]);
    target.apply(&table.topic(), 0, &[table.event("d", person(2), Value::Null, 16), gone, come]);
    let marked = ["1|n|c|001|0/8|0|f", "2|n|d|016|0/80|3|t", "3|n|d|032|0/100|4|t", "4|n|c|032|0/100|5|f"];
    assert_eq!(target.rows(PEOPLE), marked);
    // An older one changes nothing of it. A table that is emptied marks what is left, and nothing twice.
    target.apply(&table.topic(), 1, &[table.event("d", person(2), Value::Null, 15)]);
    assert_eq!(target.rows(PEOPLE), marked);
    target.apply(&table.topic(), 0, &[table.event("t", Value::Null, Value::Null, 48)]);
    assert_eq!(
        target.rows(PEOPLE),
        ["1|n|t|048|0/180|6|t", "2|n|d|016|0/80|3|t", "3|n|d|032|0/100|4|t", "4|n|t|048|0/180|6|t"]
    );
    assert!(target.codes().is_empty());
}

#[test]
fn a_row_that_nothing_but_its_values_tell_is_marked_like_any_other() {
    let (mut target, table) = (Target::new(&SETTINGS), Table { key: Vec::new(), ..people() });
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, person(1), 1)]);
    target.apply(&table.topic(), 0, &[table.event("d", person(1), Value::Null, 16)]);
    assert_eq!(target.rows(PEOPLE), ["1|n|d|016|0/80|1|t"]);
}

/// With `delete.tombstone.handling.mode=rewrite-with-tombstone` both come.
#[test]
fn a_tombstone_behind_a_deletion_takes_nothing_from_it() {
    let key = Some("{\"id\":1}".to_owned());
    let flat = |deleted: bool, lsn: i64| -> Event {
        let row = json!({"id": 1, "name": "n", "__deleted": deleted.to_string(), "__source_lsn": lsn * 8,
            "__source_ts_ms": 1_795_000_000_000i64 + lsn});
        (key.clone(), Some(row.to_string()), Vec::new())
    };
    let tombstone = (key.clone(), None, Vec::new());
    let events = [flat(false, 1), flat(true, 16), tombstone];
    for size in [1, 3] {
        let mut target = Target::new(&SETTINGS);
        events.chunks(size).for_each(|part| target.apply("cdc.public.people", 0, part));
        assert_eq!(target.rows(PEOPLE), ["1|n|d|016|0/80|1|t"], "by {size}");
        let mut target = Target::new(&[]);
        events.chunks(size).for_each(|part| target.apply("cdc.public.people", 0, part));
        // Nor may what was before it come back.
        target.apply("cdc.public.people", 1, &events[..1]);
        assert_eq!(target.rows("SELECT id FROM people"), [""; 0], "by {size}");
    }
}
