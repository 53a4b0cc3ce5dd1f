//! Keys of records that are none of fields: of another converter, or taken out by a transform.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::{Event, Target};

fn people() -> Table {
    Table::new("people", &["id"], &[("id", plain("int32")), ("name", plain("string"))])
}

fn with_key(event: Event, key: &str) -> Event {
    (Some(key.to_owned()), event.1, event.2)
}

const ODD: [&str; 6] = [
    "Struct{id=1}",
    "{id=1}",
    "1",
    "\"1\"",
    "[1]",
    "{\"schema\":{\"type\":\"int32\",\"optional\":false},\"payload\":1}",
];

#[test]
fn a_key_that_is_no_object_is_a_letter_unless_somebody_says_what_the_key_is() {
    let table = people();
    let put = |lsn: i64| table.event("c", Value::Null, json!({"id": 1, "name": format!("n{lsn}")}), lsn);
    let gone = || table.event("d", json!({"id": 1, "name": "n"}), Value::Null, 3);
    let events: Vec<Event> = ODD.iter().map(|key| with_key(put(1), key)).collect();
    let mut target = Target::new(&[]);
    target.apply(&table.topic(), 0, &events);
    assert_eq!(target.codes(), ["cdc.key"; ODD.len()]);
    let text = &target.letters[0].2;
    assert!(
        ["public.people", "no JSON", "key.converter", "key_columns"].iter().all(|word| text.contains(word)),
        "{text}"
    );
    // What has no key at all is a row of a table without one.
    assert_eq!(target.rows("SELECT to_regclass('people')"), ["null"]);
    for none in ["null", "{\"schema\":null,\"payload\":null}", ""] {
        target.apply(&table.topic(), 0, &[with_key(put(1), none)]);
    }
    assert_eq!((target.rows("SELECT id FROM people"), target.letters.len()), (vec!["1".to_owned(); 3], ODD.len()));

    for key in ODD {
        let mut target = Target::new(&[("key_columns", "public.people=id")]);
        target.apply(&table.topic(), 0, &[with_key(put(1), key), with_key(put(2), key)]);
        assert_eq!(
            (target.rows("SELECT id, name FROM people"), target.codes()),
            (vec!["1|n2".to_owned()], vec![]),
            "{key}"
        );
        target.apply(&table.topic(), 0, &[with_key(gone(), key), (Some(key.to_owned()), None, Vec::new())]);
        assert_eq!((target.rows("SELECT id FROM people"), target.codes()), (vec![], vec![]), "{key}");
        let mut target = Target::new(&[("key_columns", "public.people=none")]);
        target.apply(&table.topic(), 0, &[with_key(put(1), key), with_key(put(2), key)]);
        assert_eq!((target.rows("SELECT id FROM people").len(), target.codes()), (2, vec![]), "{key}");
        let mut target = Target::new(&[("tables_exclude", "public\\.people")]);
        target.apply(&table.topic(), 0, &[with_key(put(1), key), (Some(key.to_owned()), None, Vec::new())]);
        assert!(target.codes().is_empty(), "{key}");
    }
}

/// Of a row that came without its envelope the tombstone may be all that tells of its deletion.
#[test]
fn a_tombstone_whose_key_tells_no_row_is_not_passed_over() {
    let tombstone: Event = (Some("1".to_owned()), None, Vec::new());
    let mut target = Target::new(&[]);
    target.apply("cdc.public.people", 0, std::slice::from_ref(&tombstone));
    assert_eq!(target.codes(), ["cdc.key"]);
    // Behind an envelope it says nothing, and the deletion was the letter.
    let table = people();
    target.apply(&table.topic(), 0, &[with_key(table.event("d", json!({"id": 1}), Value::Null, 1), "1"), tombstone]);
    assert_eq!(target.codes(), ["cdc.key", "cdc.key"]);
}
