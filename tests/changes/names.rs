//! What sources call their tables and columns, and that none takes the place of another.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::{Event, Target};

fn of(schema: &str, name: &str) -> Table {
    let table = Table::new(name, &["id"], &[("id", plain("int32")), ("v", plain("string"))]);
    Table { schema: schema.to_owned(), ..table }
}

fn row(id: i32, v: &str) -> Value {
    json!({"id": id, "v": v})
}

fn create(table: &Table, id: i32, v: &str) -> Event {
    table.event("c", Value::Null, row(id, v), i64::from(id))
}

/// The server would refuse to make a table there for lack of a right, which is no record's fault, and be asked for ever; and
/// to a superuser the catalog is a table like any other.
#[test]
fn what_would_go_into_a_schema_of_postgresql_s_own_is_a_letter() {
    let mut target = Target::new(&[]);
    let fields = [("relname", plain("string")), ("relnamespace", plain("int64"))];
    let catalog = Table::new("pg_class", &["relname", "relnamespace"], &fields);
    let catalog = Table { schema: "pg_catalog".to_owned(), ..catalog };
    let public = target.rows("SELECT 'public'::regnamespace::oid").remove(0).parse::<i64>().unwrap();
    let events = [
        catalog.event("d", json!({"relname": "sluicegate_ledger", "relnamespace": public}), Value::Null, 5),
        create(&of("information_schema", "tables"), 1, "x"),
        create(&of("pg_toast", "t"), 1, "x"),
        create(&of("pg_temp_3", "t"), 1, "x"),
        create(&of("public", "pg_class"), 1, "behind"),
    ];
    target.apply("any", 0, &events);
    assert_eq!(target.codes(), ["cdc.name"; 4]);
    assert!(target.letters[0].2.contains("pg_catalog"), "{:?}", target.letters);
    assert_eq!(target.rows("SELECT v FROM public.pg_class"), ["behind"]);
    assert_eq!(target.rows("SELECT to_regclass('sluicegate_ledger') IS NOT NULL"), ["t"]);
}
