//! Large values, which a change that does not touch them leaves out.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::Target;

/// A row that changes often, and its large value now and then: each change that leaves it out must not cost a statement.
#[test]
fn changes_with_and_without_a_large_value_are_written_together() {
    const COUNTED: &str = "CREATE TABLE public.users (id int PRIMARY KEY, name text, bio text, __lsn pg_lsn);
        CREATE TABLE statements (rows bigint);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO statements VALUES ((SELECT count(*) FROM changed)); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER UPDATE ON public.users REFERENCING NEW TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION note();
        INSERT INTO public.users SELECT id, 'n', 'b', '0/1' FROM generate_series(1, 4) id";
    let fields = [("id", plain("int32")), ("name", plain("string")), ("bio", plain("string"))];
    let (mut target, table) = (Target::new(&[]), Table::new("users", &["id"], &fields));
    let unknown = "__debezium_unavailable_value";
    target.client.batch_execute(COUNTED).unwrap();
    let mut events = Vec::new();
    for round in 0..10 {
        for id in 1..=4 {
            let row = |name: &str, bio: &str| json!({"id": id, "name": format!("{name}{round}"), "bio": bio});
            let (lsn, bio) = (10 * round + 2, format!("large {round}"));
            events.push(table.event("u", Value::Null, row("a", &bio), lsn));
            events.push(table.event("u", Value::Null, row("b", unknown), lsn + 1));
            events.push(table.event("u", Value::Null, row("c", unknown), lsn + 2));
        }
    }
    // One is further on than the first of its last two, and keeps what it has.
    let ahead = table.event("u", Value::Null, json!({"id": 4, "name": "ahead", "bio": "newer"}), 93);
    target.apply(&table.topic(), 1, &[ahead]);
    target.client.batch_execute("TRUNCATE statements").unwrap();
    target.apply(&table.topic(), 0, &events);
    assert_eq!(
        target.rows("SELECT id, name, bio FROM public.users ORDER BY id"),
        ["1|c9|large 9", "2|c9|large 9", "3|c9|large 9", "4|c9|newer"]
    );
    assert_eq!(target.rows("SELECT rows FROM statements WHERE rows > 0"), ["3", "4"]);
    assert!(target.codes().is_empty());
}
