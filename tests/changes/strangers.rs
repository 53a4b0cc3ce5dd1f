//! Tables that somebody else has made, or changes meanwhile: values are written as their columns want them.

use std::process::Command;

use serde_json::{Value, json};

use crate::events::{Table, plain, semantic, with};
use crate::target::{Event, Target};

fn kinds(more: &[(&str, Value)]) -> Table {
    let mut fields = vec![("id", plain("int32")), ("at", semantic("int64", "io.debezium.time.MicroTimestamp"))];
    fields.extend(more.iter().cloned());
    Table::new("kinds", &["id"], &fields)
}

fn row(id: i32, more: Value) -> Value {
    let mut row = json!({"id": id, "at": 0});
    row.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    row
}

const KINDS: &str = "CREATE TABLE public.kinds (id bigint PRIMARY KEY CHECK (id < 100), at timestamptz)";

#[test]
fn columns_that_come_or_change_later_are_written_as_they_want_it() {
    let mut target = Target::new(&[("binary_mode", "hex")]);
    target.client.batch_execute(KINDS).unwrap();
    let table = kinds(&[]);
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, row(1, json!({})), 1)]);
    // Somebody makes the column before the source has it.
    target.client.batch_execute("ALTER TABLE public.kinds ADD raw bytea").unwrap();
    let table = kinds(&[("raw", plain("string"))]);
    target.apply(&table.topic(), 0, &[table.event("c", Value::Null, row(2, json!({"raw": "00ff"})), 2)]);
    assert_eq!(target.rows("SELECT raw FROM public.kinds WHERE id = 2"), ["\\x00ff"]);
    // Or another one of it: noticed in time, and at once where anything is refused.
    target.client.batch_execute("ALTER TABLE public.kinds ALTER raw TYPE text USING encode(raw, 'hex')").unwrap();
    let late = |id: i32| table.event("c", Value::Null, row(id, json!({"raw": "00ff"})), 3);
    target.apply(&table.topic(), 0, &[late(3), late(100)]);
    assert_eq!(target.codes(), ["pg.23514"]);
    assert_eq!(target.rows("SELECT DISTINCT raw FROM public.kinds WHERE id > 1"), ["00ff"]);
    // A type that the server has not, in a table that is other than its source already.
    let pairs = json!({"type": "string", "optional": true, "name": "io.debezium.data.Json",
        "parameters": {"__debezium.source.column.type": "HSTORE"}});
    let table = kinds(&[("raw", plain("string")), ("pairs", pairs)]);
    let event = table.event("c", Value::Null, row(4, json!({"raw": "", "pairs": "{\"a\": \"1\"}"})), 4);
    target.apply(&table.topic(), 0, &[event]);
    assert_eq!(target.codes(), ["pg.23514"]);
    assert_eq!(target.rows("SELECT pairs, pg_typeof(pairs) FROM public.kinds WHERE id = 4"), ["{\"a\": \"1\"}|jsonb"]);
}

#[test]
fn a_table_with_the_ddl_of_its_source_counts_and_generates_nothing_of_its_own() {
    let mut target = Target::new(&[]);
    target
        .client
        .batch_execute(
            "CREATE TABLE public.sales (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, price int,
                 doubled bigint GENERATED ALWAYS AS (price * 2) STORED, __lsn pg_lsn);
             CREATE TABLE public.numbered (id bigint PRIMARY KEY, price int GENERATED ALWAYS AS IDENTITY, doubled bigint);
             CREATE TABLE public.derived (price int, doubled bigint, id bigint GENERATED ALWAYS AS (price + 1) STORED UNIQUE)",
        )
        .unwrap();
    // What the source sends of a generated column is of no account, whatever its type is.
    let table = |name: &str| {
        Table::new(name, &["id"], &[("id", plain("int64")), ("price", plain("int32")), ("doubled", plain("string"))])
    };
    let row = |id: i32, price: i32| json!({"id": id, "price": price, "doubled": "x"});
    let sales = table("sales");
    target.apply(
        &sales.topic(),
        0,
        &[sales.event("c", Value::Null, row(7, 1), 1), sales.event("c", Value::Null, row(9, 2), 2)],
    );
    target.apply(
        &sales.topic(),
        0,
        &[sales.event("u", Value::Null, row(7, 5), 3), sales.event("d", row(9, 2), Value::Null, 4)],
    );
    assert_eq!(
        (target.rows("SELECT id, price, doubled FROM public.sales"), target.codes()),
        (vec!["7|5|10".to_owned()], vec![])
    );
    // Another key makes another row of it.
    let gone = with(sales.event("d", row(7, 5), Value::Null, 5), "__debezium.newkey", "{\"id\":8}");
    let come = with(sales.event("c", Value::Null, row(8, 5), 5), "__debezium.oldkey", "{\"id\":7}");
    target.apply(&sales.topic(), 0, &[gone, come]);
    assert_eq!(
        (target.rows("SELECT id, price, doubled FROM public.sales"), target.codes()),
        (vec!["8|5|10".to_owned()], vec![])
    );
    // Such a column beside the key would keep its first value for ever; such a key nobody can give.
    for name in ["numbered", "derived"] {
        let table = Table::new(
            name,
            &["id"],
            &[("id", plain("int64")), ("price", plain("int32")), ("doubled", plain("int64"))],
        );
        let row = json!({"id": 7, "price": 6, "doubled": 12});
        target.apply(&table.topic(), 0, &[table.event("c", Value::Null, row, 1)]);
        assert_eq!(target.rows(&format!("SELECT count(*) FROM public.{name}")), ["0"]);
    }
    assert_eq!(target.codes(), ["cdc.column", "cdc.key"]);
}
