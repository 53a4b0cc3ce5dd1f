//! The events flow with groups put together by hand: what a test with a broker comes to by chance alone.

mod support;

use std::sync::Arc;
use std::time::Duration;

use sluicegate::config::Sources;
use sluicegate::engine::{Batch, Claim, Claims, Outcome, Sink, Wanted};
use sluicegate::flow::{Apply, Events, Fate, Flow, Replay};
use sluicegate::record::{Headers, Partition, Record};
use sluicegate::track::Track;
use support::connect;

const HANDLERS: &str = r#"[
    {"kind": "table", "table": "events", "columns": [{"name": "number", "path": "/number", "type": "bigint"}]},
    {"kind": "sql", "sql": "SELECT look($1)", "params": [{"path": "/number", "type": "bigint"}]}]"#;

fn events(url: &str) -> Apply<Events> {
    let name = |leaf: &str| format!("SLUICEGATE_FLOWS_EVENTS_{leaf}");
    let environment = vec![
        ("DB_URL".to_owned(), url.to_owned()),
        (name("HANDLERS"), HANDLERS.to_owned()),
        (name("ORDERING"), "key".to_owned()),
        (name("DEDUPE_IDS_MAX"), "1000".to_owned()),
    ];
    let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
    let config = Sources { file: None, flows: vec!["events".to_owned()], environment, folder }.load();
    let config = config.unwrap_or_else(|findings| panic!("{findings}"));
    let database = support::database(url, SOON, SOON);
    let flow = Events::from_config(&config.flows["events"]).expect("a flow");
    Apply::new(flow, database, "test".into(), true, Track::new("events"))
}

fn claim(sink: &Apply<Events>, topic: &str) -> Arc<Claim> {
    let partition = Partition::new(topic, 0);
    let wanted = Wanted { partition, incarnation: "one".into(), first_offset: Some(0) };
    match sink.claim(&[wanted]).expect("a claim") {
        Claims::Made(mut claims) => claims.remove(0).expect("granted"),
        Claims::Unseen(_) => panic!("it came with a first offset"),
    }
}

const SOON: Duration = Duration::from_secs(10);

type Named = (String, Option<Vec<u8>>);

fn headers(id: &str, more: &[(&str, &str)]) -> Vec<Named> {
    let all = std::iter::once(("message_id", id)).chain(more.iter().copied());
    all.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec()))).collect()
}

/// Of one that comes out of a retry topic, and was read from the main one at this offset.
fn again(id: &str, offset: &str) -> Vec<Named> {
    headers(
        id,
        &[
            ("sluicegate-original-topic", "events"),
            ("sluicegate-original-partition", "0"),
            ("sluicegate-original-offset", offset),
            ("sluicegate-original-timestamp", "1767225600000"),
            ("sluicegate-attempt", "1"),
            ("sluicegate-due", "0"),
        ],
    )
}

/// Records of the key `k`, from offset `first` on: number and headers.
fn batch<F: Flow>(sink: &Apply<F>, claim: &Arc<Claim>, first: i64, records: &[(u64, Vec<Named>)]) -> Batch<F::Rows> {
    let mut batch = Batch::new(claim.clone(), first);
    for (index, (number, headers)) in records.iter().enumerate() {
        let payload = format!(r#"{{"number":{number}}}"#);
        let headers: &dyn Headers = headers;
        let record = Record {
            partition: &claim.partition,
            offset: first + index as i64,
            timestamp_ms: Some(1_767_225_600_000),
            key: Some(b"k"),
            payload: Some(payload.as_bytes()),
            headers,
        };
        batch.add(&record, |record, rows| sink.decode(record, rows)).expect("added");
    }
    batch
}

/// Tables, and a statement that fails for one record until a gate is opened.
fn with_gate(url: &str, number: u64, raise: &str) -> Apply<Events> {
    let sql = format!(
        "CREATE TABLE events (place bigint GENERATED ALWAYS AS IDENTITY, number bigint);
         CREATE TABLE gate (is_open boolean);
         CREATE FUNCTION look(number bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF number = {number} AND NOT EXISTS (SELECT FROM gate) THEN {raise}; END IF;
         END $$"
    );
    connect(url).batch_execute(&sql).expect("tables");
    let sink = events(url);
    sink.create_tables().expect("tables");
    sink
}

fn open_gate(url: &str) {
    connect(url).batch_execute("INSERT INTO gate VALUES (true)").expect("opened");
}

/// In the order in which they were written.
fn numbers(url: &str) -> Vec<i64> {
    let rows = connect(url).query("SELECT number FROM events ORDER BY place", &[]).expect("rows");
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_letter_is_replayed_once_although_its_id_is_remembered() {
    let url = support::new_database("replay");
    let sink = with_gate(&url, 1, "RAISE 'never'");
    let main = claim(&sink, "events");
    let records: Vec<_> = (0..3).map(|number| (number, headers(&number.to_string(), &[]))).collect();
    sink.apply(&mut None, &[batch(&sink, &main, 0, &records)]).expect("applied");
    assert_eq!(numbers(&url), [0, 2]);
    let open = || -> Vec<i64> {
        let rows = connect(&url).query("SELECT id FROM sluicegate_letters WHERE state = 'open'", &[]).expect("letters");
        rows.iter().map(|row| row.get(0)).collect()
    };
    let ids = open();
    assert_eq!(ids.len(), 1);
    let fates = sink.replay(&ids, false).expect("answered");
    assert!(matches!(&fates[&ids[0]], Fate::Refused(cause) if cause.code == "pg.P0001"), "{fates:?}");
    assert_eq!(open(), ids, "it stays open, and is no second letter");
    let dead: i64 = connect(&url).query_one("SELECT count(*) FROM sluicegate_outbox", &[]).expect("a count").get(0);
    assert_eq!(dead, 1, "and it is not published again");
    open_gate(&url);
    assert_eq!(sink.replay(&ids, false).expect("answered")[&ids[0]], Fate::Replayed);
    assert_eq!(numbers(&url), [0, 2, 1]);
    assert!(sink.replay(&ids, false).expect("answered").is_empty(), "only once");
    // Whoever sends the message again is told nothing new.
    sink.apply(&mut None, &[batch(&sink, &main, 3, &[(1, headers("1", &[]))])]).expect("applied");
    assert_eq!((numbers(&url), open()), (vec![0, 2, 1], vec![]));
}

#[test]
fn a_head_that_was_published_twice_and_fails_again_still_holds_back_those_behind_it() {
    let url = support::new_database("order");
    let sink = with_gate(&url, 1, "RAISE 'busy' USING ERRCODE = '40001'");
    let (main, retry) = (claim(&sink, "events"), claim(&sink, "events-retry-1"));
    let mut session = None;
    let mut apply = |group: Vec<Batch<_>>| {
        let outcomes = sink.apply(&mut session, &group).expect("applied");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written), "{outcomes:?}");
    };
    apply(vec![batch(&sink, &main, 0, &[(1, headers("1", &[])), (2, headers("2", &[]))])]);
    // The relay was ended between the two, and published it again.
    apply(vec![
        batch(&sink, &retry, 0, &[(1, again("1", "0")), (1, again("1", "0"))]),
        batch(&sink, &main, 2, &[(3, headers("3", &[]))]),
    ]);
    assert_eq!(numbers(&url), [0; 0], "they wait for the first one");
    open_gate(&url);
    apply(vec![batch(&sink, &retry, 2, &[(1, again("1", "0"))])]);
    assert_eq!(numbers(&url), [1, 2, 3]);
}

#[test]
fn an_id_that_was_forgotten_and_came_again_is_remembered_by_all() {
    let url = support::new_database("forgotten");
    let one = with_gate(&url, u64::MAX >> 1, "RAISE 'never'");
    let other = events(&url);
    let places = [claim(&one, "events"), claim(&one, "others")];
    let mut nexts = [0, 0];
    let mut apply = |sink: &Apply<Events>, place: usize, numbers: std::ops::Range<u64>| {
        let records: Vec<_> = numbers.map(|number| (number, headers(&number.to_string(), &[]))).collect();
        let group = [batch(sink, &places[place], nexts[place], &records)];
        assert_eq!(sink.apply(&mut None, &group).expect("applied"), [Outcome::Written]);
        nexts[place] += records.len() as i64;
    };
    apply(&one, 0, 0..600);
    apply(&one, 0, 600..1_200);
    // Too many: the first row of ids goes, and the one who takes it away still has them in memory.
    apply(&other, 1, 5_000..5_001);
    apply(&one, 0, 0..1);
    apply(&other, 1, 0..1);
    let times = numbers(&url).into_iter().filter(|number| *number == 0).count();
    assert_eq!(times, 2, "once, and once more after it was forgotten");
}

#[test]
fn what_is_parked_behind_a_head_is_in_memory_by_its_bytes() {
    let url = support::new_database("bytes");
    let sink = with_gate(&url, 0, "RAISE 'busy' USING ERRCODE = '40001'");
    let (main, retry) = (claim(&sink, "events"), claim(&sink, "events-retry-1"));
    let filler = "x".repeat(500_000);
    // The first one that is too many repeats another's id.
    let id = |number: u64| if number == 18 { "3".to_owned() } else { number.to_string() };
    let records: Vec<_> = (0..41).map(|number| (number, headers(&id(number), &[("filler", &filler)]))).collect();
    let apply = |group: Vec<Batch<_>>| {
        let outcomes = sink.apply(&mut None, &group).expect("applied");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written), "{outcomes:?}");
    };
    for (number, some) in records.chunks(10).enumerate() {
        apply(vec![batch(&sink, &main, number as i64 * 10, some)]);
    }
    assert!(numbers(&url).is_empty());
    open_gate(&url);
    // 8 MiB of them each time, and the next one is the head.
    let heads = [(0, Some(18), 22), (18, Some(36), 4), (36, None, 0)];
    for (turn, (head, next, parked)) in heads.into_iter().enumerate() {
        apply(vec![batch(&sink, &retry, turn as i64, &[(head, again(&id(head), &head.to_string()))])]);
        let written: Vec<i64> = (0..next.unwrap_or(41)).filter(|number| *number != 18).collect();
        assert_eq!(numbers(&url), written);
        let left = connect(&url).query_one("SELECT count(*) FROM sluicegate_parked", &[]).expect("a count");
        assert_eq!(left.get::<_, i64>(0), parked);
        let held = connect(&url).query("SELECT head FROM sluicegate_held", &[]).expect("heads");
        let held: Vec<String> = held.iter().map(|row| row.get(0)).collect();
        assert_eq!(held, next.map(|next| format!("events/0/{next}")).into_iter().collect::<Vec<_>>());
    }
}
