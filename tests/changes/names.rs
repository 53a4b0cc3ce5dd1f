//! What sources call their tables and columns, and that none takes the place of another.

use serde_json::{Value, json};

use crate::events::{LOG_STEP, Table, plain};
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

#[test]
fn a_dot_in_a_name_is_not_the_one_between_schema_and_table() {
    let (dotted, other) = (of("a.b", "c"), of("a", "b.c"));
    let mut target = Target::new(&[]);
    target.apply("one", 0, &[create(&dotted, 1, "of a.b")]);
    target.apply("two", 0, &[create(&other, 1, "of a")]);
    target.apply("one", 0, &[dotted.event("d", row(1, "of a.b"), Value::Null, 5)]);
    assert_eq!(target.rows(r#"SELECT id, v FROM "a"."b.c""#), ["1|of a"]);
    assert_eq!(target.rows(r#"SELECT id, v FROM "a.b"."c""#), [""; 0]);
    let follows = "SELECT target_schema, target_name, source FROM sluicegate_cdc_tables ORDER BY source";
    assert_eq!(target.rows(follows), [r#"a.b|c|cdc/"a.b".c"#, "a|b.c|cdc/a.b.c"]);
    assert_eq!(target.letters, []);

    // Where both have to be one table, the second one is refused.
    let mut target = Target::new(&[("table_name", "all.same")]);
    target.apply("one", 0, &[create(&dotted, 1, "of a.b")]);
    target.apply("two", 0, &[create(&other, 1, "of a")]);
    assert_eq!(
        (target.rows("SELECT v FROM \"all\".same"), target.codes()),
        (vec!["of a.b".to_owned()], vec!["cdc.collision"])
    );
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

#[test]
fn no_column_of_a_source_is_lost_to_one_that_is_put_beside_its_rows() {
    let table = |own: &str| Table::new("users", &["id"], &[("id", plain("int32")), (own, plain("string"))]);
    for (own, settings) in [
        ("__lsn", &[][..]),
        ("deleted", &[("soft_delete", "deleted")]),
        ("op", &[("extra_columns", "lsn=__lsn,op=op")]),
    ] {
        let (mut target, table) = (Target::new(settings), table(own));
        let event = table.event("c", Value::Null, json!({"id": 1, own: "own"}), 1);
        target.apply(&table.topic(), 0, &[event]);
        assert_eq!(target.codes(), ["cdc.column"], "{own}");
        let text = &target.letters[0].2;
        assert!(text.contains("public.users") && text.contains(&format!("\"{own}\"")), "{text}");
    }
    // By the cures that it names.
    for (settings, expected) in [
        (("columns_exclude", "public\\.users\\.__lsn"), "1|null"),
        (("columns_rename", "public.users.__lsn=own"), "1|own"),
        (("extra_columns", "lsn=place"), "1|own"),
    ] {
        let (mut target, table) = (Target::new(&[settings]), table("__lsn"));
        target.apply(&table.topic(), 0, &[table.event("c", Value::Null, json!({"id": 1, "__lsn": "own"}), 1)]);
        let sql =
            "SELECT id, coalesce(to_jsonb(u) ->> 'own', nullif(to_jsonb(u) ->> '__lsn', '0/8')) FROM public.users u";
        assert_eq!((target.rows(sql), target.codes()), (vec![expected.to_owned()], vec![]), "{settings:?}");
    }
}

#[test]
fn a_flattened_row_may_bring_its_place_by_both_names_and_by_that_of_its_column() {
    let mut target = Target::new(&[("extra_columns", "lsn=__lsn,op=__op")]);
    let flat = |v: &str, places: &[(&str, i64)]| -> Event {
        let mut row = json!({"id": 1, "v": v, "__op": "u"});
        places.iter().for_each(|(name, place)| row[*name] = json!(place * LOG_STEP));
        (Some("{\"id\":1}".to_owned()), Some(row.to_string()), Vec::new())
    };
    target.apply("cdc.public.flat", 0, &[flat("new", &[("__lsn", 5), ("__source_lsn", 20)])]);
    target.apply("cdc.public.flat", 0, &[flat("old", &[("__lsn", 30), ("__source_lsn", 10)])]);
    assert_eq!(target.rows("SELECT v, __op, __lsn FROM public.flat"), ["new|c|0/A0"]);
    target.apply("cdc.public.flat", 0, &[flat("last", &[("__lsn", 30)])]);
    assert_eq!((target.rows("SELECT v FROM public.flat"), target.codes()), (vec!["last".to_owned()], vec![]));
}

/// As the connector reads a name in the log.
fn byte_by_byte(name: &str) -> String {
    name.bytes().map(|byte| char::from_u32(u32::from(byte as i8 as u16)).unwrap()).collect()
}

#[test]
fn a_name_that_the_connector_has_read_byte_by_byte_is_that_of_the_snapshot() {
    let table = |sent: &dyn Fn(&str) -> String| {
        let fields = [(sent("schlüssel"), plain("int32")), (sent("größe"), plain("string"))];
        let fields: Vec<(&str, Value)> = fields.iter().map(|(name, kind)| (name.as_str(), kind.clone())).collect();
        Table { schema: sent("zürich"), ..Table::new(&sent("straßen 日本"), &[&sent("schlüssel")], &fields) }
    };
    let row = |sent: &dyn Fn(&str) -> String, id: i32, size: &str| json!({sent("schlüssel"): id, sent("größe"): size});
    let as_it_is: &dyn Fn(&str) -> String = &|name| name.to_owned();
    let (snapshot, log) = (table(as_it_is), table(&byte_by_byte));
    for has_schema in [true, false] {
        let event = |table: &Table, op: &str, before, after, lsn| match has_schema {
            true => table.event(op, before, after, lsn),
            false => table.bare(op, before, after, lsn),
        };
        let mut target = Target::new(&[]);
        let read = |id| event(&snapshot, "r", Value::Null, row(as_it_is, id, "read"), 1);
        target.apply("cdc.z_rich.stra_en___", 0, &[read(1), read(2), read(3)]);
        let changes = [
            event(&log, "u", Value::Null, row(&byte_by_byte, 1, "changed"), 2),
            event(&log, "d", row(&byte_by_byte, 2, "read"), Value::Null, 3),
            event(&log, "c", Value::Null, row(&byte_by_byte, 4, "new"), 4),
        ];
        target.apply("cdc.z__rich.stra__en_______", 0, &changes);
        let rows = target.rows(r#"SELECT "schlüssel", "größe" FROM "zürich"."straßen 日本" ORDER BY 1"#);
        assert_eq!((rows, target.codes()), (vec!["1|changed".into(), "3|read".into(), "4|new".into()], vec![]));
        let columns = "SELECT count(*) FROM pg_attribute
            WHERE attrelid = to_regclass('\"zürich\".\"straßen 日本\"') AND attnum > 0";
        assert_eq!(target.rows(columns), ["3"]);
    }
}
