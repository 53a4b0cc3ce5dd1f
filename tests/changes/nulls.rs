//! Null where messages have no schema, and nothing tells what it is null of.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::Target;

#[test]
fn null_is_written_also_by_who_has_seen_nothing_else_of_the_column() {
    let (mut target, table) =
        (Target::new(&[]), Table::new("users", &["id"], &[("id", plain("int32")), ("name", plain("string"))]));
    let (topic, user) = (table.topic(), |id: i32, name: Value| json!({"id": id, "name": name, "bio": null}));
    const USERS: &str = "SELECT id, name, bio FROM users ORDER BY id";
    // Written before this instance began.
    let sql = "CREATE TABLE users (id bigint PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'a'), (2, 'b')";
    target.client.batch_execute(sql).unwrap();
    target.apply(&topic, 0, &[table.bare("u", Value::Null, user(1, Value::Null), 10)]);
    // Another instance is told what they are, and this one goes on.
    target.client.batch_execute("ALTER TABLE users ADD bio text; UPDATE users SET name = 'c', bio = 'd'").unwrap();
    assert_eq!(target.rows(USERS), ["1|c|d", "2|c|d"]);
    target.apply(&topic, 0, &[table.bare("u", Value::Null, user(1, Value::Null), 20)]);
    target.apply(&topic, 0, &[table.bare("u", Value::Null, user(2, json!("e")), 30)]);
    assert_eq!(target.rows(USERS), ["1|null|null", "2|e|null"]);
    assert_eq!(target.letters, []);
}
