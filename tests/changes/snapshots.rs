//! Rows that a snapshot has read, and changes around it.

use serde_json::{Value, json};

use crate::events::{LOG_STEP, Table, plain, with};
use crate::target::{Event, Target};

const ROWS: &str = "SELECT id, v, large FROM public.rows ORDER BY id";
const UNKNOWN: &str = "__debezium_unavailable_value";

fn rows() -> Table {
    Table::new("rows", &["id"], &[("id", plain("int32")), ("v", plain("string")), ("large", plain("string"))])
}

/// `lsn`: as the connector has it.
fn event(op: &str, id: i32, v: &str, large: &str, lsn: i64) -> Event {
    let row = json!({"id": id, "v": v, "large": large});
    let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
    rows().event(op, before, after, lsn / LOG_STEP)
}

fn flat(op: &str, id: i32, v: &str, large: &str, lsn: i64) -> Event {
    let row = json!({"id": id, "v": v, "large": large, "__op": op, "__source_lsn": lsn, "__deleted": (op == "d").to_string()});
    (Some(json!({"id": id}).to_string()), Some(row.to_string()), Vec::new())
}

/// What a connector has sent: three transactions, each begun while the one before was open, and its slot was made when the
/// second one had ended. The snapshot does not see the third, whose changes are streamed then, with places before it.
#[test]
fn what_was_open_while_the_snapshot_read_is_not_older_than_it() {
    let (read, updated, deleted) = (26_373_416, 26_372_984, 26_373_064);
    for make in [event, flat] {
        let moved = [
            with(make("d", 6, "", "", updated), "__debezium.newkey", r#"{"id":7}"#),
            with(make("c", 7, "moved", UNKNOWN, updated), "__debezium.oldkey", r#"{"id":6}"#),
        ];
        let events: Vec<Event> = [3, 4, 5, 6]
            .map(|id| make("r", id, "old", "large", read))
            .into_iter()
            .chain([
                make("u", 3, "first", UNKNOWN, updated),
                make("d", 4, "old", "large", deleted),
                make("u", 3, "second", UNKNOWN, deleted),
            ])
            .chain(moved)
            .collect();
        let expected = ["3|second|large", "5|old|large", "7|moved|large"];
        for size in [1, 3, events.len()] {
            for settings in [&[][..], &[("soft_delete", "is_gone")]] {
                let mut target = Target::new(settings);
                // And all of it read again.
                for _ in 0..2 {
                    events.chunks(size).for_each(|events| target.apply(&rows().topic(), 0, events));
                    let only = if settings.is_empty() { "" } else { "WHERE is_gone IS NOT TRUE" };
                    let found = target.rows(&ROWS.replace("ORDER", &format!("{only} ORDER")));
                    assert_eq!((found, target.codes()), (expected.map(str::to_owned).to_vec(), vec![]), "by {size}");
                }
            }
        }
    }
}

#[test]
fn the_last_snapshot_wins_over_what_came_before_it_and_over_letters() {
    let mut target = Target::new(&[]);
    let topic = rows().topic();
    target.apply(&topic, 0, &[event("c", 1, "first", "large", 80), event("u", 1, "second", "large", 160)]);
    target.client.batch_execute("ALTER TABLE public.rows ADD CHECK (v <> 'bad')").unwrap();
    target.apply(&topic, 0, &[event("u", 1, "bad", "large", 240)]);
    assert_eq!(target.codes(), ["pg.23514"]);
    target.client.batch_execute("ALTER TABLE public.rows DROP CONSTRAINT rows_v_check").unwrap();
    target.apply(&topic, 0, &[event("r", 1, "read", "large", 480)]);
    // An older snapshot, one of the same place, and the letter.
    target.apply(&topic, 0, &[event("r", 1, "read before", "large", 400)]);
    assert_eq!(target.rows(ROWS), ["1|read|large"]);
    target.replay();
    assert_eq!(target.rows("SELECT state FROM sluicegate_letters"), ["replayed"]);
    assert_eq!(target.rows(ROWS), ["1|read|large"]);
    target.apply(&topic, 0, &[event("u", 1, "changed", "large", 560), event("r", 1, "read", "large", 480)]);
    assert_eq!(target.rows(ROWS), ["1|changed|large"]);
}

#[test]
fn a_row_that_was_read_and_what_was_open_then_are_one_row_if_their_letters_are_replayed_together() {
    let mut target = Target::new(&[]);
    let topic = rows().topic();
    target.apply(&topic, 0, &[event("r", 1, "read", "large", 480)]);
    target.client.batch_execute("ALTER TABLE public.rows ADD CHECK (id <> 2)").unwrap();
    target.apply(&topic, 0, &[event("r", 2, "read", "large", 480), event("u", 2, "open then", "large", 400)]);
    assert_eq!(target.codes(), ["pg.23514", "pg.23514"]);
    target.client.batch_execute("ALTER TABLE public.rows DROP CONSTRAINT rows_id_check").unwrap();
    target.replay();
    assert_eq!(target.rows(ROWS), ["1|read|large", "2|open then|large"]);
}
