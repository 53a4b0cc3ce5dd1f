//! The tickets flow with groups put together by hand: what stops a key, who goes on, and how it is freed again.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::config::Sources;
use sluicegate::engine::{Batch, Claim, Claims, Outcome, Sink, Wanted};
use sluicegate::flow::{Apply, Fate, Replay, TicketRows, Tickets};
use sluicegate::pg::held::{self, Behind, ToPark};
use sluicegate::record::{NoHeaders, Partition, Record};
use sluicegate::track::Track;
use support::connect;
use support::random::Random;

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
                "strange" => ticket("another", *sequence, "x"),
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

    fn number(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).expect(sql).get(0)
    }

    /// Rows that do not follow on the one before of their order.
    fn out_of_order(&self) -> Vec<String> {
        self.texts(
            "SELECT order_id || sequence FROM (SELECT order_id, sequence,
            lag(sequence, 1, 0::bigint) OVER (PARTITION BY order_id ORDER BY place) AS former FROM tickets) AS pairs
            WHERE sequence <> former + 1",
        )
    }

    /// Whatever the table was refusing, it takes now.
    fn put_right(&self) {
        let sql = "ALTER TABLE tickets DROP CONSTRAINT tickets_status_check";
        connect(&self.url).batch_execute(sql).expect("put right");
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
        self.number("SELECT count(*) FROM sluicegate_parked")
    }

    /// Whether nothing is held back, and no letter waits for anybody.
    fn is_clear(&self) -> bool {
        self.held().is_empty() && self.parked() == 0 && self.open().is_empty()
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

    desk.put_right();
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
fn a_gap_may_be_filled_in_any_order() {
    let mut desk = Desk::new("any_order", &[]);
    // In one transaction, and in one each.
    desk.take(&[("a", 1, "x"), ("a", 4, "x"), ("a", 3, "x"), ("a", 5, "x"), ("a", 2, "x")]);
    for sequence in [1, 7, 6, 4, 5, 8, 3, 2] {
        desk.take(&[("b", sequence, "x")]);
    }
    assert_eq!(desk.written(), ["a1", "a2", "a3", "b1", "b2", "b3", "b4", "b5", "b6"]);
    assert_eq!(desk.held(), ["a t/0/1 tickets.gap", "b t/0/6 tickets.gap"]);
    desk.open().iter().for_each(|(id, _)| assert_eq!(desk.replay(*id), Fate::Replayed));
    assert_eq!(desk.written()[9..], ["a4", "a5", "b7", "b8"]);
    assert!(desk.is_clear());
    // And where the gap only comes to be seen when its key goes on.
    desk.take(&[("c", 1, "refused"), ("c", 5, "x"), ("c", 4, "x"), ("c", 3, "x"), ("c", 2, "x"), ("c", 3, "x")]);
    desk.put_right();
    assert_eq!(desk.replay(desk.open()[0].0), Fate::Replayed);
    assert_eq!(desk.written()[13..], ["c1", "c2", "c3", "c4"]);
    assert_eq!(desk.replay(desk.open()[0].0), Fate::Replayed);
    assert_eq!(desk.written()[17..], ["c5"]);
    assert!(desk.is_clear());
}

#[test]
fn what_fills_a_gap_and_is_refused_says_so_in_a_letter_of_its_own() {
    let mut desk = Desk::new("refused_filler", &[]);
    desk.take(&[("a", 1, "x"), ("a", 4, "x"), ("a", 2, "refused"), ("a", 3, "x")]);
    let open = desk.open();
    let codes: Vec<&str> = open.iter().map(|(_, code)| code.as_str()).collect();
    assert_eq!((codes, desk.parked()), (vec!["tickets.gap", "pg.23514"], 1));
    assert_eq!(desk.held(), ["a t/0/1 tickets.gap"]);
    assert!(matches!(desk.replay(open[0].0), Fate::Refused(cause) if cause.code == "tickets.gap"));
    assert!(matches!(desk.replay(open[1].0), Fate::Refused(cause) if cause.code == "pg.23514"));
    desk.put_right();
    assert_eq!(desk.replay(open[1].0), Fate::Replayed);
    assert_eq!(desk.written(), ["a1", "a2", "a3"]);
    assert_eq!(desk.replay(open[0].0), Fate::Replayed);
    assert_eq!((desk.written(), desk.is_clear()), (["a1", "a2", "a3", "a4"].map(str::to_owned).to_vec(), true));
}

#[test]
fn what_would_have_filled_a_gap_and_is_dropped_is_waited_for_no_more() {
    let mut desk = Desk::new("dropped_filler", &[]);
    desk.take(&[("a", 1, "x"), ("a", 5, "x"), ("a", 2, "refused"), ("a", 3, "x")]);
    let open = desk.open();
    desk.drop_letter(open[1].0);
    assert_eq!((desk.written(), desk.parked()), (vec!["a1".to_owned(), "a3".to_owned()], 0));
    assert_eq!(desk.held(), ["a t/0/1 tickets.gap"], "4 is still missing");
    desk.take(&[("a", 4, "x"), ("a", 6, "x")]);
    assert_eq!(desk.replay(open[0].0), Fate::Replayed);
    assert_eq!(desk.written()[2..], ["a4", "a5", "a6"]);
    assert!(desk.is_clear());
}

#[test]
fn a_gap_that_is_dropped_and_filled_all_the_same_costs_no_other_ticket() {
    let mut desk = Desk::new("dropped_gap", &[]);
    desk.take(&[("a", 1, "x"), ("a", 4, "x"), ("b", 1, "x"), ("b", 4, "x"), ("b", 5, "x")]);
    let ids: Vec<i64> = desk.open().iter().map(|(id, _)| *id).collect();
    ids.iter().for_each(|id| desk.drop_letter(*id));
    assert_eq!(desk.written(), ["a1", "b1", "b5"], "of b nothing more came that could have been waited for");
    desk.take(&[("a", 2, "x"), ("a", 3, "x"), ("a", 5, "x"), ("a", 7, "x")]);
    assert_eq!(desk.written()[3..], ["a2", "a3", "a5"]);
    assert_eq!(desk.held(), ["a t/0/8 tickets.gap"], "6 was not dropped");
    // Where keys are not stopped as well, and for more than one.
    let mut desk = Desk::new("dropped_aside", &[("ON_DISORDER", "set_aside"), ("ON_FAILURE", "set_aside")]);
    desk.take(&[("a", 1, "x"), ("a", 2, "bad"), ("a", 3, "bad"), ("a", 4, "x")]);
    let ids: Vec<i64> = desk.open().iter().map(|(id, _)| *id).collect();
    assert_eq!(desk.sink.drop_letters(&ids[..2], false).expect("answered"), 2);
    assert_eq!(desk.replay(ids[2]), Fate::Replayed);
    desk.take(&[("a", 5, "x"), ("a", 7, "x")]);
    assert_eq!((desk.written().len(), desk.open().len()), (3, 1));
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
fn what_is_of_no_order_or_of_another_one_is_dropped_and_leaves_nothing() {
    let mut desk = Desk::new("junk", &[]);
    let mut random = Random(12);
    // No index takes it.
    let long: String = (0..20_000).map(|_| char::from(b'!' + random.below(90) as u8)).collect();
    desk.take(&[(&long, 1, "x"), (" ", 1, "bad"), ("a", 1, "x"), ("b", 9, "strange"), ("b", 2, "x"), ("a", 2, "x")]);
    assert_eq!(desk.written(), ["a1", "a2"]);
    assert_eq!(desk.held(), ["b t/0/3 tickets.key"], "a key that no order can have is held back by nobody");
    let open = desk.open();
    assert!(open.len() == 3 && open.iter().all(|(_, code)| code == "tickets.key"), "{open:?}");
    let ids: Vec<i64> = open.iter().map(|(id, _)| *id).collect();
    assert_eq!(desk.sink.drop_letters(&ids, false).expect("answered"), 3);
    assert_eq!(desk.texts("SELECT order_id FROM ticket_orders"), ["a"]);
    assert_eq!(desk.held(), ["b t/0/4 tickets.gap"], "of b nothing was dropped");
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
    desk.put_right();
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
    assert_eq!(desk.out_of_order(), [""; 0]);
    assert_eq!((desk.written().len(), desk.parked(), desk.held().len()), (8_002, 0, 0));
}

#[test]
fn what_is_more_than_one_transaction_takes_goes_on_in_others_and_nothing_gets_before_it() {
    const PARKED: i64 = 12_000;
    let mut desk = Desk::new("more", &[]);
    desk.take(&[("a", 1, "refused"), ("b", 1, "x")]);
    for first in (2..PARKED + 2).step_by(2_000) {
        let tickets: Vec<_> = (first..first + 2_000).map(|sequence| ("a", sequence, "x")).collect();
        desk.take(&tickets);
    }
    let sql = "ALTER TABLE tickets DROP CONSTRAINT tickets_sequence_check";
    connect(&desk.url).batch_execute(sql).expect("put right");
    desk.put_right();
    assert!(!desk.sink.go_on().expect("answered"), "nothing has its turn yet");
    let fates = desk.sink.replay(&[desk.open()[0].0], true).expect("tried");
    assert_eq!((fates.len(), desk.parked(), desk.held().len()), (1, PARKED, 1), "a trial changes nothing");
    assert_eq!(desk.replay(desk.open()[0].0), Fate::Replayed);
    assert_eq!((desk.parked(), desk.held()), (2_000, vec!["a  following".to_owned()]));
    // What comes meanwhile is behind it, and others are in nobody's way.
    desk.take(&[("a", PARKED + 2, "x"), ("b", 2, "x")]);
    assert_eq!((desk.parked(), desk.written().len() as i64), (2_001, PARKED - 2_000 + 3));
    // Who has a key at hand keeps it.
    let mut other = connect(&desk.url);
    let mut theirs = other.transaction().expect("a transaction");
    theirs.batch_execute("SELECT FROM sluicegate_held FOR UPDATE").expect("locked");
    assert!(!desk.sink.go_on().expect("answered"));
    drop(theirs);
    while desk.sink.go_on().expect("answered") {}
    assert_eq!((desk.written().len() as i64, desk.out_of_order().len()), (PARKED + 4, 0));
    assert!(desk.is_clear());
    assert_eq!(desk.track.outcomes()["processed"] as i64, PARKED + 4, "each was counted once");
}

#[test]
fn what_a_filled_gap_lets_go_on_is_no_more_than_one_transaction_takes_either() {
    const PARKED: i64 = 12_000;
    let mut desk = Desk::new("wide", &[]);
    connect(&desk.url).batch_execute("ALTER TABLE tickets DROP CONSTRAINT tickets_sequence_check").expect("no 13th");
    desk.take(&[("a", 1, "x"), ("a", 3, "x")]);
    for first in (4..PARKED + 4).step_by(2_000) {
        let tickets: Vec<_> = (first..first + 2_000).map(|sequence| ("a", sequence, "x")).collect();
        desk.take(&tickets);
    }
    assert_eq!((desk.held(), desk.parked()), (vec!["a t/0/1 tickets.gap".to_owned()], PARKED));
    // Whoever produces them sends them again.
    desk.take(&[("a", 2, "x"), ("a", 3, "x")]);
    assert_eq!((desk.held(), desk.parked()), (vec!["a t/0/1 following".to_owned()], 2_000));
    // What comes meanwhile is behind it, and is no reason to give the letter back.
    desk.take(&[("a", PARKED + 4, "x"), ("b", 1, "x")]);
    assert_eq!((desk.parked(), desk.written().len() as i64), (2_001, PARKED - 2_000 + 4));
    assert_eq!(desk.held(), ["a t/0/1 following"]);
    while desk.sink.go_on().expect("answered") {}
    assert_eq!((desk.held(), desk.parked()), (vec!["a t/0/1 tickets.gap".to_owned()], 0));
    assert_eq!((desk.written().len() as i64, desk.out_of_order().len()), (PARKED + 5, 0));
    assert_eq!(desk.replay(desk.open()[0].0), Fate::Replayed);
    assert!(desk.is_clear());
}

#[test]
fn where_an_order_cannot_stand_its_newest_ticket_is_refused_and_no_other_key_minds() {
    let mut desk = Desk::new("stuck", &[]);
    let sql = "ALTER TABLE ticket_orders ADD CONSTRAINT stuck CHECK (status <> 'stuck')";
    connect(&desk.url).batch_execute(sql).expect("a rule of one's own");
    desk.take(&[("a", 1, "x"), ("a", 2, "stuck"), ("a", 3, "x"), ("b", 1, "stuck"), ("b", 2, "x"), ("c", 1, "x")]);
    // Only where an order ends up is in its row.
    assert_eq!(desk.written(), ["a1", "a2", "a3", "b1", "b2", "c1"]);
    desk.take(&[("a", 4, "x"), ("a", 5, "stuck"), ("b", 3, "x"), ("d", 1, "stuck"), ("d", 2, "bad"), ("c", 2, "x")]);
    assert_eq!(desk.held(), ["a t/0/7 pg.23514", "d t/0/9 pg.23514"]);
    assert_eq!((desk.open().len(), desk.parked()), (2, 1));
    // Behind a head that is dealt with as well: the key stops there, and others that go on with it do not.
    desk.take(&[("b", 4, "bad"), ("b", 5, "x"), ("b", 6, "stuck"), ("c", 3, "bad"), ("c", 4, "x")]);
    let heads: Vec<i64> = desk.open()[2..].iter().map(|(id, _)| *id).collect();
    assert_eq!(desk.sink.drop_letters(&heads, false).expect("answered"), 2);
    assert_eq!(desk.held(), ["a t/0/7 pg.23514", "b t/0/14 pg.23514", "d t/0/9 pg.23514"]);
    assert_eq!(desk.written()[6..], ["a4", "b3", "c2", "b5", "c4"]);
    connect(&desk.url).batch_execute("ALTER TABLE ticket_orders DROP CONSTRAINT stuck").expect("put right");
    desk.open().iter().for_each(|(id, _)| assert_eq!(desk.replay(*id), Fate::Replayed));
    assert_eq!(desk.written()[11..], ["a5", "d1", "b6"]);
    assert_eq!((desk.held(), desk.open().len()), (vec!["d t/0/10 tickets.invalid".to_owned()], 1));
}

#[test]
fn an_order_whose_row_takes_nothing_is_through_with_in_a_few_rounds() {
    let mut desk = Desk::new("never", &[]);
    let sql = "ALTER TABLE tickets DROP CONSTRAINT tickets_sequence_check;
        CREATE SEQUENCE rounds;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM nextval(''rounds''); RAISE check_violation; END';
        CREATE TRIGGER refuse BEFORE INSERT ON ticket_orders FOR EACH ROW WHEN (NEW.order_id = 'a') EXECUTE FUNCTION refuse()";
    connect(&desk.url).batch_execute(sql).expect("a rule of one's own");
    let mut tickets: Vec<_> = (1..=1_000).map(|sequence| ("a", sequence, "x")).collect();
    tickets.push(("b", 1, "x"));
    desk.take(&tickets);
    assert_eq!((desk.written(), desk.held()), (vec!["b1".to_owned()], vec!["a t/0/0 pg.23514".to_owned()]));
    assert_eq!((desk.open().len(), desk.parked()), (1, 999));
    assert!(desk.number("SELECT last_value FROM rounds") < 50, "its tickets were tried one by one");
    connect(&desk.url).batch_execute("DROP TRIGGER refuse ON ticket_orders").expect("put right");
    assert_eq!(desk.replay(desk.open()[0].0), Fate::Replayed);
    assert_eq!((desk.written().len(), desk.out_of_order().len()), (1_001, 0));
    assert!(desk.is_clear());
}

#[test]
fn a_key_that_cannot_go_on_keeps_no_other_from_it() {
    let mut desk = Desk::new("onward", &[]);
    let keys = ["a", "b", "c"];
    keys.iter().for_each(|key| desk.take(&[(key, 1, "x"), (key, 2, "bad"), (key, 2, "x"), (key, 3, "x")]));
    // As if there had been more than one transaction's.
    let sql = "UPDATE sluicegate_held SET head = '', reason_code = 'following';
        UPDATE sluicegate_parked SET record = '\\x00' || record WHERE key = 'a'";
    connect(&desk.url).batch_execute(sql).expect("changed");
    assert!(desk.sink.go_on().expect("two of them go on"));
    assert_eq!((desk.held(), desk.parked()), (vec!["a  following".to_owned()], 2));
    // Which key is first is left to chance.
    let mut gone_on = desk.written().split_off(3);
    gone_on.sort_by_key(|ticket| ticket.chars().next());
    assert_eq!(gone_on, ["b2", "b3", "c2", "c3"]);
    let told = desk.sink.go_on().expect_err("it is told why the last one does not");
    assert_eq!(&*told.cause().code, "tickets.parked");
    connect(&desk.url)
        .batch_execute("UPDATE sluicegate_parked SET record = substring(record FROM 2)")
        .expect("put right");
    while desk.sink.go_on().expect("answered") {}
    assert_eq!(desk.written()[7..], ["a2", "a3"]);
    assert_eq!((desk.held().len(), desk.parked(), desk.out_of_order().len()), (0, 0, 0));
}

#[test]
fn parked_records_are_in_memory_by_their_bytes() {
    let desk = Desk::new("bytes", &[]);
    let database = support::database(&desk.url, SOON, SOON);
    let mut session = database.session().expect("a session");
    let mut work = session.begin().expect("a transaction");
    let mut parked = ToPark::default();
    for number in 0..20 {
        parked.add(b"a", vec![1; 1 << 20], Some(number));
        parked.add(b"b", vec![1; if number == 0 { 20 << 20 } else { 1 }], Some(number));
    }
    held::park(&mut work, "tickets", &parked).expect("parked");
    let keys = || [b"a".to_vec(), b"b".to_vec()];
    let mut places: BTreeMap<Vec<u8>, i64> = keys().map(|key| (key, i64::MIN)).into();
    let mut behind: BTreeMap<Vec<u8>, Behind> = keys().map(|key| (key, Behind { number: -1, floor: -1 })).into();
    for expected in [8, 8, 5, 19, 0] {
        let walked = held::walk(&mut work, "tickets", &places).expect("a page");
        let next = held::next(&mut work, "tickets", &behind).expect("a page");
        assert_eq!((walked.len(), next.len()), (expected, expected), "8 MiB, and what goes beyond them is the last");
        for (walked, next) in walked.iter().zip(next) {
            let (key, place): (Vec<u8>, i64) = (walked.get(0), walked.get(1));
            assert_eq!((next.get(0), next.get(1)), (key.clone(), place));
            places.insert(key.clone(), place);
            // They lie by turns, from the first place on.
            let number = (place - 1) / 2;
            behind.insert(key, Behind { number, floor: number });
        }
    }
}

#[test]
fn a_letter_that_is_refused_among_others_makes_nothing_count_twice() {
    let mut desk = Desk::new("counts", &[]);
    desk.take(&[("a", 1, "refused"), ("a", 2, "x"), ("a", 3, "bad"), ("b", 1, "bad"), ("b", 2, "x")]);
    desk.put_right();
    let before = (desk.track.outcomes(), desk.track.letters());
    let ids: Vec<i64> = desk.open().iter().map(|(id, _)| *id).collect();
    let fates = desk.sink.replay(&ids, false).expect("answered");
    assert_eq!(fates.values().filter(|fate| **fate == Fate::Replayed).count(), 1, "{fates:?}");
    assert_eq!(desk.written(), ["a1", "a2"]);
    let more =
        |word: &str| desk.track.outcomes().get(word).copied().unwrap_or(0) - before.0.get(word).copied().unwrap_or(0);
    assert_eq!((more("processed"), more("rejected_invalid"), more("parked")), (2, 1, 0));
    let letters = desk.track.letters();
    assert_eq!(letters["tickets.invalid"] - before.1["tickets.invalid"], 1);
    assert_eq!(letters["pg.23514"], before.1["pg.23514"]);
}

#[test]
fn a_row_that_somebody_wrote_by_hand_is_compared_as_it_is() {
    let mut desk = Desk::new("by_hand", &[]);
    desk.take(&[("a", 1, "x"), ("b", 1, "x")]);
    let sql = "ALTER TABLE tickets ALTER price TYPE numeric(14, 4); UPDATE tickets SET customer_id = NULL WHERE order_id = 'b'";
    connect(&desk.url).batch_execute(sql).expect("changed");
    desk.take(&[("a", 1, "x"), ("b", 1, "x"), ("a", 2, "x")]);
    let codes: Vec<String> = desk.open().into_iter().map(|(_, code)| code).collect();
    assert_eq!((codes, desk.track.outcomes()["duplicate"]), (vec!["tickets.repeat".to_owned()], 1));
    let sql = "UPDATE tickets SET price = 12.5001, customer_id = 'c'";
    connect(&desk.url).batch_execute(sql).expect("changed");
    desk.take(&[("a", 2, "x")]);
    assert_eq!(desk.open().len(), 2, "another price is another price");
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
    desk.take(&[("a", 2, "x"), ("a", 3, "x"), ("b", 1, "bad"), ("b", 2, "x"), ("b", 3, "bad"), ("c", 1, "x")]);
    let sql = "UPDATE sluicegate_held SET since = now() - interval '90 seconds' WHERE key = 'b'";
    connect(&desk.url).batch_execute(sql).expect("aged");
    desk.sink.count_held().expect("counted");
    let seen = (desk.track.held_keys.get(), desk.track.parked_records.get());
    assert_eq!(seen, (2, 3));
    assert!(desk.track.held_oldest_s.get() >= 90);
    // The next head of a key has not waited for what the one before it has.
    desk.drop_letter(desk.open()[1].0);
    desk.sink.count_held().expect("counted");
    assert_eq!((desk.held().len(), desk.track.held_oldest_s.get() < 90), (2, true));
}

#[test]
fn that_it_cannot_be_counted_what_is_held_is_nothing_to_whom_the_ledger_asks() {
    let mut desk = Desk::new("uncounted", &[]);
    desk.take(&[("a", 1, "bad"), ("a", 2, "x")]);
    connect(&desk.url).batch_execute("ALTER TABLE sluicegate_parked RENAME TO elsewhere").expect("renamed");
    assert!(desk.sink.count_held().is_err());
    assert_eq!(desk.sink.holds(&[(desk.claim.clone(), desk.next)]).expect("answered"), [true]);
}

#[test]
fn who_waits_while_a_key_goes_from_one_head_to_the_next_waits_for_that_one_too() {
    let mut desk = Desk::new("from_head_to_head", &[("ON_DISORDER", "accept")]);
    desk.take(&[("a", 1, "x"), ("a", 2, "refused"), ("a", 3, "x"), ("a", 4, "refused"), ("a", 5, "x")]);
    let (id, batch) = (desk.open()[0].0, desk.batch(&[("a", 6, "x")]));
    let mut other = connect(&desk.url);
    let mut gate = other.transaction().expect("a transaction");
    gate.batch_execute("SELECT FROM ticket_orders FOR UPDATE").expect("locked");
    let waiting = |count: i64| {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        support::wait_for("others to wait", SOON, || (desk.number(waits) == count).then_some(()));
    };
    std::thread::scope(|scope| {
        let drops = scope.spawn(|| desk.drop_letter(id));
        waiting(1);
        let writes = scope.spawn(|| desk.sink.apply(&mut None, &[batch]));
        waiting(2);
        gate.commit().expect("committed");
        drops.join().expect("dropped");
        assert_eq!(writes.join().expect("it lives").expect("applied"), [Outcome::Written]);
    });
    assert_eq!(desk.written(), ["a1", "a3"]);
    assert_eq!((desk.held(), desk.parked()), (vec!["a t/0/3 pg.23514".to_owned()], 2));
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
