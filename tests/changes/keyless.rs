//! Rows that nothing tells apart.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::{Event, Target};

fn lines() -> Table {
    Table::new("lines", &[], &[("v", plain("string"))])
}

fn line(v: &str) -> Value {
    json!({"v": v})
}

/// That a replay adds again is known of them; but not what a truncate had taken away.
#[test]
fn what_stood_before_a_truncate_does_not_come_back_with_a_replay() {
    let table = lines();
    let events = [
        table.event("c", Value::Null, line("a"), 100),
        table.event("c", Value::Null, line("b"), 110),
        table.event("u", line("a"), line("aa"), 200),
        table.event("d", line("b"), Value::Null, 250),
        table.event("t", Value::Null, Value::Null, 300),
        table.event("c", Value::Null, line("c"), 400),
    ];
    for keyless in ["mirror", "append"] {
        for size in [1, 2, 6] {
            let mut target = Target::new(&[("keyless", keyless)]);
            let mut apply = |partition: i32| {
                events.chunks(size).for_each(|part: &[Event]| target.apply(&table.topic(), partition, part));
                (target.rows("SELECT v FROM public.lines"), target.codes().len())
            };
            assert_eq!(apply(0), (vec!["c".to_owned()], 0), "{keyless} by {size}");
            assert_eq!(apply(1), (vec!["c".to_owned(), "c".to_owned()], 0), "{keyless} by {size}, once more");
        }
    }
}

/// As CDC.md says it: they do not tell what they were.
#[test]
fn flattened_rows_without_a_key_are_a_row_more_each() {
    let mut target = Target::new(&[]);
    let flat = |op: &str, v: &str| -> Event {
        let row = json!({"v": v, "__op": op, "__deleted": (op == "d").to_string()});
        (None, Some(row.to_string()), Vec::new())
    };
    let events = [flat("c", "a"), flat("u", "b"), flat("d", "b"), (None, None, Vec::new())];
    target.apply("cdc.public.flat", 0, &events);
    assert_eq!(
        (target.rows("SELECT v FROM flat ORDER BY v"), target.codes()),
        (vec!["a".into(), "b".into()], vec!["cdc.image"])
    );
    // What the transform does not add cannot differ.
    let bare = |v: &str, deleted: bool| -> Event {
        (None, Some(json!({"v": v, "__deleted": deleted.to_string()}).to_string()), Vec::new())
    };
    target.apply("cdc.public.bare", 0, &[bare("a", false), bare("b", false), bare("a", true)]);
    assert_eq!((target.rows("SELECT v FROM bare"), target.codes().len()), (vec!["b".into()], 1));
}
