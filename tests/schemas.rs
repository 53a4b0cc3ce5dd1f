//! The operator's own JSON Schema in each flow that takes one: a record that breaks it is a letter which says where, and what
//! keeps it is written.

mod support;

use std::time::Duration;

use sluicegate::config::{self, Sources};
use sluicegate::engine::{Batch, Claims, Outcome, Sink, Wanted};
use sluicegate::fault::Cause;
use sluicegate::flow::{Apply, Events, Flow, Orders, Tickets};
use sluicegate::record::{NoHeaders, Partition, Record};
use sluicegate::track::Track;
use support::connect;

const SOON: Duration = Duration::from_secs(10);

/// Two records of a flow whose second one breaks the flow's schema in `schema/`: the letters by offset, code and text, and how many
/// rows its table has.
fn taken<F: Flow>(
    name: &str,
    make: fn(&config::Flow) -> Result<F, Cause>,
    payloads: [&str; 2],
) -> (Vec<(i64, String, String)>, i64) {
    let url = support::new_database(&format!("schema_{name}"));
    let file = format!("{}/schema/{}.schema.json", env!("CARGO_MANIFEST_DIR"), name.trim_end_matches('s'));
    let environment = vec![
        ("DB_URL".to_owned(), url.clone()),
        (format!("SLUICEGATE_FLOWS_{}_JSON_SCHEMA_FILE", name.to_uppercase()), file),
        ("SLUICEGATE_FLOWS_EVENTS_HANDLERS".to_owned(), r#"[{"kind": "table"}]"#.to_owned()),
    ];
    let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
    let config = Sources { file: None, flows: vec![name.to_owned()], environment, folder }.load();
    let config = config.unwrap_or_else(|findings| panic!("{findings}"));
    let flow = make(&config.flows[name]).expect("a flow");
    let sink = Apply::new(flow, support::database(&url, SOON, SOON), "test".into(), true, Track::new(name));
    sink.create_tables().expect("tables");
    let wanted = Wanted { partition: Partition::new("t", 0), incarnation: "one".into(), first_offset: Some(0) };
    let claim = match sink.claim(&[wanted]).expect("a claim") {
        Claims::Made(mut claims) => claims.remove(0).expect("granted"),
        Claims::Unseen(_) => panic!("it came with a first offset"),
    };
    let mut batch = Batch::new(claim.clone(), 0);
    for (offset, payload) in payloads.into_iter().enumerate() {
        let record = Record {
            partition: &claim.partition,
            offset: offset as i64,
            timestamp_ms: Some(1_767_225_600_000),
            key: Some(if offset == 0 { b"good" } else { b"evil" }),
            payload: Some(payload.as_bytes()),
            headers: &NoHeaders,
        };
        batch.add(&record, |record, rows| sink.decode(record, rows)).expect("added");
    }
    assert_eq!(sink.apply(&mut None, &[batch]).expect("applied"), [Outcome::Written]);
    let mut client = connect(&url);
    let rows = client.query("SELECT record_offset, reason_code, reason FROM sluicegate_letters ORDER BY 1", &[]);
    let letters = rows.expect("letters").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    (letters, client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).expect("a count").get(0))
}

fn broken(text: &str) -> (Vec<(i64, String, String)>, i64) {
    (vec![(1, "json.schema".to_owned(), text.to_owned())], 1)
}

#[test]
fn tickets_keep_their_schema() {
    let ticket = |order: &str, status: &str| {
        format!(
            r#"{{"ticket_id":"018f3f2e-7a2b-7c3d-8e4f-000000000001","order_id":"{order}","sequence":1,"status":"{status}","customer_id":"c","price":12.5,"changed_at_ms":1767225600000}}"#
        )
    };
    // The flow itself would take any word.
    let taken = taken("tickets", Tickets::from_config, [&ticket("good", "paid"), &ticket("evil", "lost")]);
    assert_eq!(taken, broken("/status breaks enum"));
}

#[test]
fn orders_keep_their_schema() {
    let order = |more: &str| {
        format!(
            r#"{{"order_id":"018f3f2e-7a2b-7c3d-8e4f-000000000001","customer_id":"c","product_id":"p","quantity":1,"amount":"12.50"{more}}}"#
        )
    };
    let taken = taken("orders", Orders::from_config, [&order(""), &order("").replace("\"p\"", "7")]);
    assert_eq!(taken, broken("/product_id breaks type \"string\""));
}

#[test]
fn events_keep_their_schema() {
    let taken = taken("events", Events::from_config, [r#"{"type": "a"}"#, r#"{"type": 7}"#]);
    assert_eq!(taken, broken("/type breaks type \"string\""));
}
