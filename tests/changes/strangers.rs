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

/// PostgreSQL rounds without a word what has more digits behind the point than its column.
#[test]
fn a_decimal_that_is_too_fine_for_its_column_is_never_rounded() {
    let decimal = |scale: i64| {
        json!({"type": "bytes", "optional": true, "name": "org.apache.kafka.connect.data.Decimal",
            "parameters": {"scale": scale.to_string()}})
    };
    let prices = |price: Value| Table::new("prices", &["id"], &[("id", plain("int32")), ("price", price)]);
    let made = "CREATE TABLE public.prices (id int PRIMARY KEY, price numeric(6,2), __lsn pg_lsn)";
    let of_type = "SELECT id, price, (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'prices'::regclass AND attname = 'price') FROM prices ORDER BY id";
    // 12345 of a scale of four, and what a scale of two has beyond six digits.
    let (fine, coarse, large) = (json!("MDk="), json!("MDk="), json!("F0h26Ac="));
    let put = |table: &Table, id: i32, price: &Value| {
        table.event("c", Value::Null, json!({"id": id, "price": price}), i64::from(id))
    };
    let (of_four, of_two) = (prices(decimal(4)), prices(decimal(2)));
    let mut target = Target::new(&[]);
    target.client.batch_execute(made).unwrap();
    target.apply(&of_two.topic(), 0, &[put(&of_two, 1, &coarse), put(&of_two, 2, &large)]);
    assert_eq!((target.rows(of_type), target.codes()), (vec!["1|123.45|numeric(6,2)".into()], vec!["pg.22003"]));
    target.apply(&of_four.topic(), 0, &[put(&of_four, 3, &fine)]);
    assert_eq!(target.rows(of_type), ["1|123.45|numeric", "3|1.2345|numeric"]);
    let mut target = Target::new(&[("evolve", "false")]);
    target.client.batch_execute(made).unwrap();
    target.apply(&of_four.topic(), 0, &[put(&of_four, 1, &fine)]);
    assert_eq!((target.rows(of_type), target.codes()), (vec![], vec!["cdc.table"]));
    // Of a text only its digits tell, one by one; zeros behind them say nothing.
    let texts = prices(plain("string"));
    let mut target = Target::new(&[("decimal_mode", "string")]);
    target.client.batch_execute(made).unwrap();
    let text = |id: i32, price: &str| put(&texts, id, &json!(price));
    let events =
        [text(1, "1.2345"), text(2, "1.2300"), text(3, "-7"), text(4, "NaN"), text(5, "1.5e1"), text(6, "1.5e-3")];
    target.apply(&texts.topic(), 0, &events);
    assert_eq!(target.rows("SELECT id, price FROM prices ORDER BY id"), ["2|1.23", "3|-7.00", "4|NaN", "5|15.00"]);
    assert_eq!(target.codes(), ["cdc.value", "cdc.value"]);
    assert!(target.letters[0].2.contains("\"price\""), "{:?}", target.letters);
}

#[test]
fn many_such_tables_are_found_at_once() {
    let mut target = Target::new(&[]);
    let names = ["one", "two", "three", "four"];
    let event = |name: &&str| {
        let sql = format!("CREATE TABLE public.{name} (id bigint PRIMARY KEY, at timestamptz)");
        let table = Table { name: (*name).to_owned(), ..kinds(&[]) };
        (sql, table.event("c", Value::Null, row(1, json!({})), 1))
    };
    let (tables, events): (Vec<String>, Vec<Event>) = names.iter().map(event).unzip();
    target.client.batch_execute(&tables.join(";")).unwrap();
    target.apply("cdc.all", 0, &events);
    // Once to find out, once to write.
    assert_eq!((target.attempts, target.codes()), (2, vec![]));
    for name in names {
        assert_eq!(target.rows(&format!("SELECT id, at FROM public.{name}")), ["1|1970-01-01 00:00:00+00"], "{name}");
    }
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

#[test]
fn letters_of_such_tables_are_replayed_by_one_command() {
    let mut target = Target::new(&[("binary_mode", "hex")]);
    let table = |name: &str| Table { name: name.to_owned(), ..kinds(&[("raw", plain("string"))]) };
    let names = ["first", "second"];
    for name in names {
        let sql = format!(
            "CREATE TABLE public.{name} (id bigint PRIMARY KEY, at timestamptz, raw bytea, CONSTRAINT small CHECK (id < 100))"
        );
        target.client.batch_execute(&sql).unwrap();
        let event = table(name).event("c", Value::Null, row(100, json!({"raw": "00ff"})), 1);
        target.apply(&table(name).topic(), 0, &[event]);
    }
    assert_eq!(target.codes(), ["pg.23514", "pg.23514"]);
    names.iter().for_each(|name| {
        target.client.batch_execute(&format!("ALTER TABLE public.{name} DROP CONSTRAINT small")).unwrap()
    });
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["letters", "replay", "--flow", "cdc"])
        .env_clear()
        .env("DB_URL", &target.url)
        .env("SLUICEGATE_FLOWS_CDC_BINARY_MODE", "hex")
        .current_dir(std::env::temp_dir())
        .output()
        .expect("the program runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("2 letters replayed, 0 refused"), "{text}");
    for name in names {
        assert_eq!(target.rows(&format!("SELECT id, raw FROM public.{name}")), ["100|\\x00ff"]);
    }
    assert_eq!(target.rows("SELECT DISTINCT state FROM sluicegate_letters"), ["replayed"]);
}
