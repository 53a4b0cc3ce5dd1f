//! The tickets flow with groups put together by hand: what stops a key, who goes on, and how it is freed again.

mod support;

use std::sync::Arc;
use std::time::Duration;

use sluicegate::config::Sources;
use sluicegate::engine::{Batch, Claim, Claims, Outcome, Sink, Wanted};
use sluicegate::flow::{Apply, Fate, Replay, TicketRows, Tickets};
use sluicegate::record::{NoHeaders, Partition, Record};
use sluicegate::track::Track;
use support::connect;

const SOON: Duration = Duration::from_secs(10);

/// A sink, the one partition that it has claimed, and the offset that comes next.
struct Desk {
    url: String,
    sink: Apply<Tickets>,
    track: Arc<Track>,
    claim: Arc<Claim>,
    next: i64,
}

impl Desk {
    fn new(stem: &str, settings: &[(&str, &str)]) -> Desk {
        let url = support::new_database(stem);
        let tables = "CREATE TABLE tickets (place bigint GENERATED ALWAYS AS IDENTITY, order_id text COLLATE \"C\" NOT NULL,
                sequence bigint NOT NULL CHECK (sequence <> 13), ticket_id uuid, status text CHECK (status <> 'refused'),
                customer_id text, price numeric(14,2), changed_at timestamptz, PRIMARY KEY (order_id, sequence));
             CREATE TABLE open_gate (is_open boolean)";
        connect(&url).batch_execute(tables).expect("tables");
        let name = |leaf: &str| format!("SLUICEGATE_FLOWS_TICKETS_{leaf}");
        let mut environment = vec![("DB_URL".to_owned(), url.clone())];
        environment.extend(settings.iter().map(|(leaf, value)| (name(leaf), value.to_string())));
        let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
        let config = Sources { file: None, flows: vec!["tickets".to_owned()], environment, folder }.load();
        let config = config.unwrap_or_else(|findings| panic!("{findings}"));
        let track = Track::new("tickets");
        let flow = Tickets::from_config(&config.flows["tickets"]).expect("a flow");
        let sink = Apply::new(flow, support::database(&url, SOON, SOON), "test".into(), true, track.clone());
        sink.create_tables().expect("tables");
        let wanted = Wanted { partition: Partition::new("t", 0), incarnation: "one".into(), first_offset: Some(0) };
        let claim = match sink.claim(&[wanted]).expect("a claim") {
            Claims::Made(mut claims) => claims.remove(0).expect("granted"),
            Claims::Unseen(_) => panic!("it came with a first offset"),
        };
        Desk { url, sink, track, claim, next: 0 }
    }

    fn batch(&self, tickets: &[(&str, i64, &str)]) -> Batch<TicketRows> {
        let mut batch = Batch::new(self.claim.clone(), self.next);
        for (index, (order, sequence, status)) in tickets.iter().enumerate() {
            let payload = match *status {
                "bad" => "{".to_owned(),
                status => ticket(order, *sequence, status),
            };
            let record = Record {
                partition: &self.claim.partition,
                offset: self.next + index as i64,
                timestamp_ms: Some(1_767_225_600_000),
                key: Some(order.as_bytes()),
                payload: Some(payload.as_bytes()),
                headers: &NoHeaders,
            };
            batch.add(&record, |record, rows| self.sink.decode(record, rows)).expect("added");
        }
        batch
    }

    fn take(&mut self, tickets: &[(&str, i64, &str)]) {
        let batch = self.batch(tickets);
        assert_eq!(self.sink.apply(&mut None, &[batch]).expect("applied"), [Outcome::Written]);
        self.next += tickets.len() as i64;
    }

    /// What was written, in the order in which it was.
    fn written(&self) -> Vec<String> {
        self.texts("SELECT order_id || sequence FROM tickets ORDER BY place")
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        connect(&self.url).query(sql, &[]).expect(sql).iter().map(|row| row.get(0)).collect()
    }

    /// The open letters: id and reason.
    fn open(&self) -> Vec<(i64, String)> {
        let sql = "SELECT id, reason_code FROM sluicegate_letters WHERE state = 'open' ORDER BY id";
        connect(&self.url).query(sql, &[]).expect(sql).iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    fn held(&self) -> Vec<String> {
        self.texts(
            "SELECT convert_from(key, 'UTF8') || ' ' || head || ' ' || reason_code FROM sluicegate_held ORDER BY 1",
        )
    }

    fn parked(&self) -> i64 {
        let sql = "SELECT count(*) FROM sluicegate_parked";
        connect(&self.url).query_one(sql, &[]).expect(sql).get(0)
    }

    fn replay(&self, id: i64) -> Fate {
        self.sink.replay(&[id], false).expect("answered").remove(&id).expect("it was open")
    }

    fn drop_letter(&self, id: i64) {
        assert_eq!(self.sink.drop_letters(&[id], false).expect("answered"), 1);
    }
}

fn ticket(order: &str, sequence: i64, status: &str) -> String {
    format!(
        r#"{{"ticket_id":"018f3f2e-7a2b-7c3d-8e4f-{sequence:012}","order_id":"{order}","sequence":{sequence},"status":"{status}","customer_id":"c","price":12.5,"changed_at_ms":1767225600000}}"#
    )
}

#[test]
fn what_postgresql_refuses_stops_its_key_until_the_letter_is_replayed_and_all_follow_in_order() {
    let mut desk = Desk::new("refused", &[]);
    desk.take(&[("a", 1, "x"), ("a", 2, "refused"), ("b", 1, "x"), ("a", 3, "x"), ("b", 2, "x")]);
    desk.take(&[("a", 4, "x"), ("b", 3, "x"), ("a", 4, "x")]);
    assert_eq!(desk.written(), ["a1", "b1", "b2", "b3"]);
    assert_eq!((desk.held(), desk.parked()), (vec!["a t/0/1 pg.23514".to_owned()], 3));
    let open = desk.open();
    assert_eq!(open.len(), 1, "one letter, and not one for each that waits: {open:?}");
    assert!(matches!(desk.replay(open[0].0), Fate::Refused(cause) if cause.code == "pg.23514"));
    assert_eq!((desk.open().len(), desk.parked()), (1, 3), "nothing has changed");

    connect(&desk.url).batch_execute("ALTER TABLE tickets DROP CONSTRAINT tickets_status_check").expect("put right");
    let fates = desk.sink.replay(&[open[0].0], true).expect("tried");
    assert_eq!((&fates[&open[0].0], desk.parked()), (&Fate::Replayed, 3), "a trial changes nothing");
    assert_eq!(desk.replay(open[0].0), Fate::Replayed);
    assert_eq!(desk.written(), ["a1", "b1", "b2", "b3", "a2", "a3", "a4"]);
    assert_eq!((desk.held().len(), desk.parked(), desk.open().len()), (0, 0, 0));
    assert_eq!(desk.track.outcomes()["duplicate"], 1, "of the parked ones one had come twice");
    assert!(desk.sink.replay(&[open[0].0], false).expect("answered").is_empty(), "only once");
    desk.take(&[("a", 5, "x")]);
    assert_eq!(desk.texts("SELECT order_id || sequence FROM ticket_orders ORDER BY 1"), ["a5", "b3"]);
}

#[test]
fn a_gap_stops_its_key_what_fills_it_goes_on_and_then_the_letter_does() {
    let mut desk = Desk::new("gap", &[]);
    desk.take(&[("a", 1, "x"), ("a", 4, "x"), ("a", 5, "x"), ("b", 1, "x")]);
    assert_eq!((desk.written(), desk.parked()), (vec!["a1".to_owned(), "b1".into()], 1));
    let (id, code) = desk.open().remove(0);
    assert_eq!(code, "tickets.gap");
    assert!(matches!(desk.replay(id), Fate::Refused(_)), "it is too early");
    desk.take(&[("a", 3, "x"), ("a", 2, "x"), ("a", 3, "x")]);
    assert_eq!(desk.written(), ["a1", "b1", "a2", "a3"], "3 came before 2 and is parked; then it was the next one");
    assert_eq!(desk.replay(id), Fate::Replayed);
    assert_eq!(desk.written()[4..], ["a4", "a5"]);
    assert_eq!((desk.held().len(), desk.parked(), desk.open().len()), (0, 0, 0));
}

#[test]
fn a_dropped_letter_lets_its_key_go_on_behind_it_and_the_next_trouble_stops_it_again() {
    let mut desk = Desk::new("dropped", &[]);
    desk.take(&[("a", 1, "x"), ("a", 2, "bad"), ("a", 3, "x"), ("a", 4, "x"), ("a", 6, "x"), ("a", 7, "x")]);
    assert_eq!((desk.written().len(), desk.parked()), (1, 4));
    let (id, code) = desk.open().remove(0);
    assert_eq!(code, "tickets.invalid");
    desk.sink.drop_letters(&[id], true).expect("tried");
    assert_eq!(desk.parked(), 4, "a trial changes nothing");
    desk.drop_letter(id);
    assert_eq!(desk.written(), ["a1", "a3", "a4"], "one is left out, and no other");
    let open = desk.open();
    assert_eq!((open.len(), open[0].1.as_str(), desk.parked()), (1, "tickets.gap", 1));
    assert_eq!(desk.held(), ["a t/0/4 tickets.gap"], "it is called by where it was read");
    desk.drop_letter(open[0].0);
    assert_eq!(desk.written(), ["a1", "a3", "a4", "a7"]);
    assert_eq!((desk.held().len(), desk.parked()), (0, 0));
    // With the very first one of an order as well, whether or not another one has come since.
    desk.take(&[("c", 1, "bad")]);
    desk.drop_letter(desk.open()[0].0);
    desk.take(&[("c", 2, "x")]);
    assert_eq!(desk.written().last().map(String::as_str), Some("c2"));
}

#[test]
fn a_repeat_that_is_dropped_leaves_no_gap() {
    let mut desk = Desk::new("repeat", &[]);
    desk.take(&[("a", 1, "x"), ("a", 2, "x"), ("a", 2, "y"), ("a", 4, "x")]);
    let (id, code) = desk.open().remove(0);
    assert_eq!((code.as_str(), desk.parked()), ("tickets.repeat", 1));
    desk.drop_letter(id);
    assert_eq!(desk.held(), ["a t/0/3 tickets.gap"], "what is missing is still missing");
}

#[test]
fn many_parked_ones_follow_in_their_order_and_others_are_not_in_their_way() {
    let mut desk = Desk::new("many", &[]);
    desk.take(&[("a", 1, "refused"), ("b", 1, "refused")]);
    for first in (2..4_002).step_by(1_000) {
        let tickets: Vec<_> =
            (first..first + 1_000).flat_map(|sequence| [("a", sequence, "x"), ("b", sequence, "x")]).collect();
        desk.take(&tickets);
    }
    // Of one key one in the middle fails as well.
    assert_eq!((desk.written().len(), desk.parked()), (0, 8_000));
    connect(&desk.url).batch_execute("ALTER TABLE tickets DROP CONSTRAINT tickets_status_check").expect("put right");
    let ids: Vec<i64> = desk.open().iter().map(|(id, _)| *id).collect();
    let fates = desk.sink.replay(&ids, false).expect("answered");
    assert!(fates.values().all(|fate| *fate == Fate::Replayed), "{fates:?}");
    // 13 is what the table takes of nobody.
    assert_eq!(
        desk.texts("SELECT order_id || max(sequence) FROM tickets GROUP BY order_id ORDER BY 1"),
        ["a12", "b12"]
    );
    assert_eq!((desk.held().len(), desk.open().len(), desk.parked()), (2, 2, 2 * (4_001 - 13)));
    connect(&desk.url).batch_execute("ALTER TABLE tickets DROP CONSTRAINT tickets_sequence_check").expect("put right");
    desk.open().iter().for_each(|(id, _)| assert_eq!(desk.replay(*id), Fate::Replayed));
    let out_of_order = "SELECT order_id || sequence FROM (SELECT order_id, sequence,
        lag(sequence, 1, 0::bigint) OVER (PARTITION BY order_id ORDER BY place) AS former FROM tickets) AS pairs
        WHERE sequence <> former + 1";
    assert_eq!(desk.texts(out_of_order), [""; 0]);
    assert_eq!((desk.written().len(), desk.parked(), desk.held().len()), (8_002, 0, 0));
}

#[test]
fn what_is_set_aside_stops_nobody_and_nothing_is_written_out_of_order() {
    let mut desk = Desk::new("set_aside", &[("ON_DISORDER", "set_aside"), ("ON_FAILURE", "set_aside")]);
    desk.take(&[
        ("a", 1, "x"),
        ("a", 3, "x"),
        ("a", 4, "x"),
        ("a", 2, "x"),
        ("a", 1, "x"),
        ("a", 1, "y"),
        ("a", 3, "bad"),
    ]);
    assert_eq!(desk.written(), ["a1", "a2"]);
    let codes: Vec<String> = desk.open().into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, ["tickets.gap", "tickets.gap", "tickets.repeat", "tickets.invalid"]);
    assert_eq!((desk.held().len(), desk.parked()), (0, 0));
    let ids: Vec<i64> = desk.open().iter().map(|(id, _)| *id).collect();
    let fates = desk.sink.replay(&ids, false).expect("answered");
    assert_eq!(fates.values().filter(|fate| **fate == Fate::Replayed).count(), 2, "{fates:?}");
    assert_eq!(desk.written(), ["a1", "a2", "a3", "a4"], "together, and in their order");
}

#[test]
fn accepted_disorder_is_written_and_counted() {
    let mut desk = Desk::new("accept", &[("ON_DISORDER", "accept")]);
    desk.take(&[("a", 1, "x"), ("a", 3, "x"), ("a", 2, "x"), ("a", 4, "x")]);
    desk.take(&[("a", 2, "x"), ("a", 2, "y")]);
    assert_eq!(desk.written(), ["a1", "a3", "a2", "a4"]);
    let counted: Vec<(&str, u64)> = desk.track.outcomes().into_iter().collect();
    assert_eq!(
        counted,
        [("duplicate", 1), ("processed", 2), ("processed_gap", 1), ("processed_step_back", 1), ("rejected_repeat", 1)]
    );
    assert_eq!(desk.texts("SELECT order_id || sequence FROM ticket_orders"), ["a4"]);
}

#[test]
fn what_is_held_back_is_there_to_be_seen() {
    let mut desk = Desk::new("seen", &[]);
    desk.take(&[("a", 2, "x"), ("a", 3, "x"), ("b", 1, "bad"), ("b", 2, "x"), ("b", 3, "x"), ("c", 1, "x")]);
    let sql = "UPDATE sluicegate_held SET since = now() - interval '90 seconds' WHERE key = 'b'";
    connect(&desk.url).batch_execute(sql).expect("aged");
    assert_eq!(desk.sink.holds(&[(desk.claim.clone(), desk.next)]).expect("answered"), [true]);
    let seen = (desk.track.held_keys.get(), desk.track.parked_records.get());
    assert_eq!(seen, (2, 3));
    assert!(desk.track.held_oldest_s.get() >= 90);
}

#[test]
fn an_order_that_somebody_else_has_moved_meanwhile_is_not_written_by_what_was_known_of_it() {
    let mut desk = Desk::new("race", &[]);
    desk.take(&[("a", 1, "x")]);
    let mut other = connect(&desk.url);
    let mut theirs = other.transaction().expect("a transaction");
    theirs.batch_execute("INSERT INTO ticket_orders (order_id, sequence, status) VALUES ('b', 1, 'x')").expect("a row");
    let batch = desk.batch(&[("b", 1, "x")]);
    let outcome = std::thread::scope(|scope| {
        let ours = scope.spawn(|| desk.sink.apply(&mut None, &[batch]));
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        support::wait_for("the other one to wait", SOON, || {
            let waiting: i64 = connect(&desk.url).query_one(waits, &[]).expect("a count").get(0);
            (waiting > 0).then_some(())
        });
        theirs.commit().expect("committed");
        ours.join().expect("it lives")
    });
    let fault = outcome.expect_err("it has to be tried again");
    assert_eq!(fault.cause().code, "tickets.compare_and_set");
    assert_eq!(desk.written(), ["a1"]);
}
