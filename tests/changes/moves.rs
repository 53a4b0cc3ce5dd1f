//! Rows that change their keys, and tables that are emptied, where a topic has several partitions: whichever is ahead, the
//! target ends as the source.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::events::{LOG_STEP, Table, plain, tombstone, with};
use crate::support::random::Random;
use crate::support::setting;
use crate::target::{Event, Target};

const UNKNOWN: &str = "__debezium_unavailable_value";
const THINGS: &str = "SELECT id, n, large FROM public.things ORDER BY id";

fn things() -> Table {
    Table::new("things", &["id"], &[("id", plain("int64")), ("n", plain("int64")), ("large", plain("string"))])
}

fn row(id: u64, number: u64, large: &str) -> Value {
    json!({"id": id, "n": number, "large": large})
}

fn put(op: &str, id: u64, number: u64, large: &str, lsn: i64) -> Event {
    things().event(op, Value::Null, row(id, number, large), lsn)
}

fn gone(id: u64, lsn: i64) -> Event {
    things().event("d", row(id, 0, ""), Value::Null, lsn)
}

/// The two messages of a change of a key.
fn moved(from: u64, to: u64, number: u64, large: &str, lsn: i64) -> [Event; 2] {
    [
        with(gone(from, lsn), "__debezium.newkey", &json!({"id": to}).to_string()),
        with(put("c", to, number, large, lsn), "__debezium.oldkey", &json!({"id": from}).to_string()),
    ]
}

fn emptied(lsn: i64) -> Event {
    things().event("t", Value::Null, Value::Null, lsn)
}

/// Events of partitions 0 and 1, one batch each, in this order.
fn ends(events: &[(i32, &Event)]) -> (Vec<String>, Vec<String>) {
    let mut target = Target::new(&[]);
    target.apply(&things().topic(), 9, &[put("c", 99, 0, "another", 1)]);
    for (partition, event) in events {
        target.apply(&things().topic(), *partition, std::slice::from_ref(*event));
    }
    target.client.batch_execute("DELETE FROM public.things WHERE id = 99").unwrap();
    let codes = target.codes().iter().map(|code| (*code).to_owned()).collect();
    (target.rows(THINGS), codes)
}

fn are(rows: &[&str]) -> (Vec<String>, Vec<String>) {
    (rows.iter().map(|row| (*row).to_owned()).collect(), Vec::new())
}

#[test]
fn a_row_that_leaves_meets_a_former_one_of_its_new_key() {
    let former = [put("c", 2, 1, "former", 10), gone(2, 20)];
    let [leaves, comes] = moved(1, 2, 7, UNKNOWN, 30);
    let first = put("c", 1, 1, "large", 5);
    // It is there still, or has not come yet.
    let late = [(1, &first), (0, &former[0]), (1, &leaves), (0, &former[1]), (0, &comes)];
    assert_eq!(ends(&late), are(&["2|7|large"]));
    let later = [(1, &first), (1, &leaves), (0, &former[0]), (0, &former[1]), (0, &comes)];
    assert_eq!(ends(&later), are(&["2|7|large"]));
}

#[test]
fn a_row_that_comes_first_has_the_last_value_of_the_one_that_left() {
    let first = put("c", 1, 1, "large", 5);
    let larger = put("u", 1, 2, "larger", 6);
    let [leaves, comes] = moved(1, 2, 7, UNKNOWN, 30);
    let events = [(1, &first), (0, &comes), (1, &larger), (1, &leaves)];
    assert_eq!(ends(&events), are(&["2|7|larger"]));
    // Before the row was ever seen; and what is set meanwhile stays.
    assert_eq!(ends(&[(0, &comes), (1, &first), (1, &larger), (1, &leaves)]), are(&["2|7|larger"]));
    let (number, set) = (put("u", 2, 8, UNKNOWN, 40), put("u", 2, 8, "set", 40));
    assert_eq!(ends(&[(0, &comes), (0, &number), (1, &first), (1, &leaves)]), are(&["2|8|large"]));
    assert_eq!(ends(&[(0, &comes), (0, &set), (1, &first), (1, &leaves)]), are(&["2|8|set"]));
    // It is another row by then.
    let again = [gone(2, 50), put("c", 2, 9, "again", 60)];
    let events = [(0, &comes), (0, &again[0]), (0, &again[1]), (1, &first), (1, &leaves)];
    assert_eq!(ends(&events), are(&["2|9|again"]));
}

#[test]
fn a_row_that_leaves_again_takes_along_what_it_still_lacks() {
    let first = put("c", 1, 1, "large", 5);
    let [leaves, comes] = moved(1, 2, 7, UNKNOWN, 30);
    let [leaves_again, comes_again] = moved(2, 3, 8, UNKNOWN, 40);
    let orders = [
        [(0, &comes), (0, &leaves_again), (2, &comes_again), (1, &first), (1, &leaves)],
        [(0, &comes), (0, &leaves_again), (1, &first), (1, &leaves), (2, &comes_again)],
        [(2, &comes_again), (0, &comes), (0, &leaves_again), (1, &first), (1, &leaves)],
        [(2, &comes_again), (0, &comes), (1, &first), (1, &leaves), (0, &leaves_again)],
        [(1, &first), (2, &comes_again), (1, &leaves), (0, &comes), (0, &leaves_again)],
    ];
    for order in orders {
        assert_eq!(ends(&order), are(&["3|8|large"]));
    }
    // In one transaction, in which what it lacks is set as well.
    let mut target = Target::new(&[]);
    let (topic, set) = (things().topic(), put("u", 3, 9, "set", 50));
    target.apply(&topic, 0, &[put("c", 99, 0, "another", 1), comes]);
    target.apply(&topic, 0, &[leaves_again, comes_again, set]);
    target.apply(&topic, 1, &[first, leaves]);
    assert_eq!((target.rows(THINGS), target.codes()), (vec!["3|9|set".to_owned(), "99|0|another".to_owned()], vec![]));
}

#[test]
fn a_row_that_came_from_another_key_keeps_its_values_when_it_comes_once_more() {
    let first = put("c", 1, 1, "large", 5);
    let [leaves, comes] = moved(1, 2, 7, UNKNOWN, 30);
    // What has left is forgotten by then, and the topic has its beginning no more.
    let mut target = Target::new(&[]);
    let topic = things().topic();
    for (partition, event) in [(1, &first), (1, &leaves), (0, &comes)] {
        target.apply(&topic, partition, std::slice::from_ref(event));
    }
    target.client.batch_execute("TRUNCATE sluicegate_cdc_gone").unwrap();
    for (partition, event) in [(0, &comes), (1, &leaves)] {
        target.apply(&topic, partition, std::slice::from_ref(event));
        assert_eq!((target.rows(THINGS), target.codes()), (vec!["2|7|large".to_owned()], vec![]));
    }
    // What it lacks still it gets all the same; what was set since stays.
    assert_eq!(ends(&[(0, &comes), (0, &comes), (1, &first), (1, &leaves)]), are(&["2|7|large"]));
    let set = put("u", 2, 8, "set", 40);
    assert_eq!(ends(&[(0, &comes), (0, &set), (0, &comes), (1, &first), (1, &leaves)]), are(&["2|8|set"]));
}

#[test]
fn of_halves_whose_other_half_never_came_it_is_told_how_many_are_forgotten() {
    let forget = include_str!("../../sql/cdc/forget.sql").replace("$1", "3600");
    let mut target = Target::new(&[]);
    let topic = things().topic();
    // Two rows that come from nowhere, one of them changed since; one that comes and leaves, and one that leaves.
    let comes = |from: u64, to: u64, lsn: i64| moved(from, to, 7, UNKNOWN, lsn)[1].clone();
    let leaves = |from: u64, to: u64, lsn: i64| moved(from, to, 7, UNKNOWN, lsn)[0].clone();
    let events = [comes(1, 2, 10), comes(3, 4, 20), put("u", 4, 8, "set", 30), comes(5, 6, 40), leaves(6, 7, 50)];
    target.apply(&topic, 0, &events);
    target.apply(&topic, 1, &[put("c", 8, 1, "large", 5), leaves(8, 9, 60)]);
    let kept = "SELECT (SELECT count(*) FROM sluicegate_cdc_lacks), (SELECT count(*) FROM sluicegate_cdc_left),
        (SELECT count(*) FROM sluicegate_cdc_gone)";
    assert_eq!(target.rows(&forget), ["0|0|f"]);
    assert_eq!(target.rows(kept), ["3|2|2"]);
    let older = "UPDATE sluicegate_cdc_lacks SET came_at = came_at - interval '2 hours';
        UPDATE sluicegate_cdc_left SET left_at = left_at - interval '2 hours';
        UPDATE sluicegate_cdc_gone SET gone_at = gone_at - interval '2 hours'";
    target.client.batch_execute(older).unwrap();
    assert_eq!(target.rows(&forget), ["1|2|f"]);
    assert_eq!(target.rows(kept), ["0|0|0"]);
}

#[test]
fn what_is_more_than_is_forgotten_at_once_is_forgotten_by_the_next_transactions() {
    let mut target = Target::new(&[]);
    let topic = things().topic();
    let old = "INSERT INTO sluicegate_cdc_gone SELECT 0, md5(n::text)::uuid, '0/1', now() - interval '30 days'
        FROM generate_series(1, 50000) n";
    target.client.batch_execute(old).unwrap();
    let left = |target: &mut Target| target.rows("SELECT count(*) FROM sluicegate_cdc_gone").remove(0);
    // Now and then there is a look.
    let change = |target: &mut Target| target.apply(&topic, 0, &[put("c", 1, 1, "large", 5)]);
    crate::support::wait_for("the first of it to be forgotten", std::time::Duration::from_secs(60), || {
        change(&mut target);
        (left(&mut target) != "50000").then_some(())
    });
    assert_eq!(left(&mut target), "30000");
    // The rest is no later look's affair.
    change(&mut target);
    assert_eq!(left(&mut target), "10000");
    change(&mut target);
    assert_eq!(left(&mut target), "0");
}

#[test]
fn a_table_that_is_emptied_before_its_first_row_is_known_stays_empty() {
    let mut target = Target::new(&[]);
    let topic = things().topic();
    target.apply(&topic, 1, &[emptied(20)]);
    target.apply(&topic, 0, &[put("c", 1, 1, "large", 5)]);
    target.apply(&topic, 0, &[put("c", 2, 1, "after", 25)]);
    assert_eq!((target.rows(THINGS), target.codes()), (vec!["2|1|after".to_owned()], vec![]));
}

/// A source under a seed, and what its partitions hold.
struct Source {
    rows: BTreeMap<u64, (u64, String)>,
    sent: Vec<Vec<Event>>,
    lsn: i64,
}

const PARTITIONS: usize = 3;
const KEYS: u64 = 10;

impl Source {
    fn send(&mut self, id: u64, event: Event) {
        self.sent[id as usize % PARTITIONS].push(event);
    }

    fn change(&mut self, random: &mut Random) {
        self.lsn += 1 + random.below(3) as i64;
        let (id, number) = (random.below(KEYS), random.next() % 1_000_000);
        let is_known = random.chance(60);
        match (self.rows.get(&id).cloned(), random.below(100)) {
            (_, 0..=1) => {
                let partition = random.below(PARTITIONS as u64);
                self.send(partition, emptied(self.lsn));
                self.rows.clear();
            }
            (None, _) => {
                let large = format!("large {number}");
                self.send(id, put("c", id, number, &large, self.lsn));
                self.rows.insert(id, (number, large));
            }
            (Some(_), 2..=15) => {
                let event = gone(id, self.lsn);
                self.send(id, event.clone());
                self.send(id, tombstone(&event));
                self.rows.remove(&id);
            }
            (Some((_, large)), of) => {
                let large = if is_known { large } else { format!("larger {number}") };
                let told = if is_known { UNKNOWN } else { &large };
                let to = random.below(KEYS);
                if of < 60 && !self.rows.contains_key(&to) {
                    let [leaves, comes] = moved(id, to, number, told, self.lsn);
                    self.send(id, leaves.clone());
                    self.send(id, tombstone(&leaves));
                    self.send(to, comes);
                    self.rows.remove(&id);
                    self.rows.insert(to, (number, large));
                } else {
                    self.send(id, put("u", id, number, told, self.lsn));
                    self.rows.insert(id, (number, large));
                }
            }
        }
    }
}

/// Some of what partitions still hold, of one or of several of them in one transaction. False: there is nothing more.
fn apply(target: &mut Target, source: &Source, next: &mut [usize], random: &mut Random) -> bool {
    let mut group: Vec<(i32, Vec<Event>)> = Vec::new();
    for (partition, sent) in source.sent.iter().enumerate() {
        let left = sent.len() - next[partition];
        if left > 0 && random.chance(50) {
            let count = 1 + random.below(left.min(12) as u64) as usize;
            group.push((partition as i32, sent[next[partition]..next[partition] + count].to_vec()));
            next[partition] += count;
        }
    }
    if random.chance(50) {
        group.reverse();
    }
    let topic = things().topic();
    let group: Vec<(&str, i32, &[Event])> =
        group.iter().map(|(partition, events)| (topic.as_str(), *partition, events.as_slice())).collect();
    if !group.is_empty() {
        target.apply_all(&group);
    }
    source.sent.iter().zip(next.iter()).any(|(sent, next)| *next < sent.len())
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut target = Target::new(&[]);
    let mut source = Source { rows: BTreeMap::new(), sent: vec![Vec::new(); PARTITIONS], lsn: 0 };
    let mut next = vec![0; PARTITIONS];
    for round in 0..4 {
        for _ in 0..25 {
            (0..random.below(12)).for_each(|_| source.change(&mut random));
            apply(&mut target, &source, &mut next, &mut random);
            // Some of it once more, as after a crash of the connector.
            if random.chance(10) {
                let partition = random.below(PARTITIONS as u64) as usize;
                next[partition] = random.below(next[partition] as u64 + 1) as usize;
            }
        }
        if round == 3 {
            next = vec![0; PARTITIONS];
        }
        while apply(&mut target, &source, &mut next, &mut random) {}
        let expected: Vec<String> =
            source.rows.iter().map(|(id, (number, large))| format!("{id}|{number}|{large}")).collect();
        assert_eq!(target.letters, [], "seed {seed}, round {round}");
        assert_eq!(target.rows(THINGS), expected, "seed {seed}, round {round}");
        let kept = "SELECT count(*) FROM sluicegate_cdc_lacks";
        assert_eq!(target.rows(kept), ["0"], "seed {seed}, round {round}: values that nobody brings");
    }
}

#[test]
fn the_target_is_the_source_whichever_partition_is_ahead() {
    let seeds: u64 = setting("SLUICEGATE_CHANGES_SEEDS", 8);
    let first: u64 = setting("SLUICEGATE_CHANGES_SEED", 1);
    (first..first + seeds).for_each(run);
}

/// As ExtractNewRecordState leaves a row, with its place in the log.
fn flat(id: u64, number: u64, large: &str, lsn: i64) -> Event {
    let row = json!({"id": id, "n": number, "large": large, "__source_lsn": lsn * LOG_STEP});
    (Some(json!({"id": id}).to_string()), Some(row.to_string()), Vec::new())
}

#[test]
fn flattened_rows_keep_what_their_change_of_key_leaves_out() {
    let comes = with(flat(2, 2, UNKNOWN, 10), "__debezium.oldkey", r#"{"id":1}"#);
    // A deletion that is a tombstone has no place in the log.
    let mut target = Target::new(&[]);
    let leaves: Event = (Some(r#"{"id":1}"#.to_owned()), None, Vec::new());
    let leaves = with(leaves, "__debezium.newkey", r#"{"id":2}"#);
    target.apply(&things().topic(), 0, &[flat(1, 1, "large", 5), flat(2, 9, "former", 4)]);
    target.apply(&things().topic(), 0, &[leaves, comes.clone()]);
    assert_eq!(target.rows(THINGS), ["2|2|large"]);
    assert!(target.codes().is_empty());
    // One that is a row comes behind a change of what it lacks.
    let mut target = Target::new(&[]);
    let gone =
        json!({"id": 1, "n": null, "large": null, "__source_lsn": 10 * LOG_STEP, "__deleted": "true"}).to_string();
    let leaves = with((Some(r#"{"id":1}"#.to_owned()), Some(gone), Vec::new()), "__debezium.newkey", r#"{"id":2}"#);
    target.apply(&things().topic(), 0, &[flat(1, 1, "large", 5)]);
    target.apply(&things().topic(), 1, &[comes, flat(2, 3, UNKNOWN, 20)]);
    target.apply(&things().topic(), 0, &[leaves]);
    assert_eq!(target.rows(THINGS), ["2|3|large"]);
    assert!(target.codes().is_empty());
}
