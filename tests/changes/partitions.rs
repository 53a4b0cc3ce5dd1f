//! A topic that is given more partitions.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::Target;

/// What two writers have left that did not see each other: the page has a statement that finds it.
#[test]
fn rows_that_stay_though_they_are_known_to_be_gone_are_found_by_what_the_page_says() {
    let (_, page) = include_str!("../../docs/CDC.md").split_once("## Repartitioning").unwrap();
    let sql = page.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (mut target, table) = (Target::new(&[]), Table::new("users", &["id"], &[("id", plain("int32"))]));
    let put = |id: i32, lsn: i64| table.event("c", Value::Null, json!({"id": id}), lsn);
    let gone = |id: i32| table.event("d", json!({"id": id}), Value::Null, 200);
    target.apply(&table.topic(), 0, &[put(1, 100), put(2, 100), put(3, 100), gone(1), gone(2)]);
    target.apply(&table.topic(), 0, &[put(2, 300)]);
    target.client.batch_execute("INSERT INTO public.users SELECT 1, '0/320'").unwrap();
    target.client.batch_execute(sql).unwrap();
    assert_eq!(target.rows("SELECT id FROM public.users ORDER BY id"), ["2", "3"]);
}
