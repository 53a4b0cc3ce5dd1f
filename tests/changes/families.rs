//! Tables of the target that refer to each other by foreign keys as PostgreSQL makes them where nobody says otherwise: looked
//! at when a statement ends, and not when its transaction does.

use serde_json::{Value, json};

use crate::events::{Table, plain};
use crate::target::{Event, Target};

/// By their names either may be the first.
const NAMES: [[&str; 3]; 2] = [["a_old", "b_middle", "c_young"], ["c_old", "b_middle", "a_young"]];

/// Three generations, and rows of them.
struct Family([Table; 3]);

impl Family {
    fn new(names: [&str; 3]) -> Family {
        Family(names.map(|name| Table::new(name, &["id"], &[("id", plain("int32")), ("of", plain("int32"))])))
    }

    fn target(&self, settings: &[(&str, &str)]) -> Target {
        let mut target = Target::new(settings);
        let [old, middle, young] = self.0.each_ref().map(|table| table.name.as_str());
        let tables = format!(
            "CREATE TABLE {old} (id int PRIMARY KEY CHECK (id < 100), \"of\" int, __lsn pg_lsn);
             CREATE TABLE {middle} (id int PRIMARY KEY, \"of\" int REFERENCES {old}, __lsn pg_lsn);
             CREATE TABLE {young} (id int PRIMARY KEY, \"of\" int REFERENCES {middle} ON DELETE RESTRICT, __lsn pg_lsn)"
        );
        target.client.batch_execute(&tables).unwrap();
        target
    }

    fn put(&self, generation: usize, id: i32, lsn: i64) -> Event {
        self.0[generation].event("c", Value::Null, json!({"id": id, "of": id}), lsn)
    }

    fn delete(&self, generation: usize, id: i32, lsn: i64) -> Event {
        self.0[generation].event("d", json!({"id": id, "of": null}), Value::Null, lsn)
    }

    /// One group: for each generation what its partition has, the batches in this order.
    fn apply(&self, target: &mut Target, order: [usize; 3], events: &[Vec<Event>; 3]) {
        let topics = self.0.each_ref().map(Table::topic);
        let group: Vec<(&str, i32, &[Event])> =
            order.iter().map(|at| (topics[*at].as_str(), 0, events[*at].as_slice())).collect();
        target.apply_all(&group);
    }

    fn rows(&self, target: &mut Target) -> Vec<String> {
        let ids = self
            .0
            .each_ref()
            .map(|table| format!("(SELECT string_agg(id::text, ' ' ORDER BY id) FROM {})", table.name));
        target.rows(&format!("SELECT {}", ids.join(", ")))
    }
}

const ORDERS: [[usize; 3]; 3] = [[0, 1, 2], [2, 1, 0], [1, 2, 0]];

#[test]
fn rows_of_one_group_come_and_go_in_whichever_order_their_topics_and_names_are() {
    for (names, order) in NAMES.into_iter().flat_map(|names| ORDERS.map(|order| (names, order))) {
        let family = Family::new(names);
        let mut target = family.target(&[]);
        family.apply(&mut target, order, &[0, 1, 2].map(|at| vec![family.put(at, 1, 10), family.put(at, 2, 20)]));
        assert_eq!(
            (family.rows(&mut target), target.codes()),
            (vec!["1 2|1 2|1 2".into()], vec![]),
            "{names:?} {order:?}"
        );
        // Some go and others come.
        family.apply(&mut target, order, &[0, 1, 2].map(|at| vec![family.delete(at, 1, 30), family.put(at, 3, 40)]));
        assert_eq!(
            (family.rows(&mut target), target.codes()),
            (vec!["2 3|2 3|2 3".into()], vec![]),
            "{names:?} {order:?}"
        );
        assert_eq!(target.attempts, 1);
    }
}

#[test]
fn beside_a_bad_row_only_those_are_letters_that_need_it() {
    for (names, order) in NAMES.into_iter().flat_map(|names| ORDERS.map(|order| (names, order))) {
        let family = Family::new(names);
        let mut target = family.target(&[]);
        // The first generation's check takes no 100.
        family.apply(&mut target, order, &[0, 1, 2].map(|at| [1, 100, 2].map(|id| family.put(at, id, 10)).to_vec()));
        let mut codes = target.codes();
        codes.sort_unstable();
        assert_eq!(codes, ["pg.23503", "pg.23503", "pg.23514"], "{names:?} {order:?}");
        assert_eq!(family.rows(&mut target), ["1 2|1 2|1 2"], "{names:?} {order:?}");
    }
}

#[test]
fn who_comes_before_its_parent_s_group_is_a_letter_that_says_what_to_do() {
    let family = Family::new(NAMES[0]);
    let mut target = family.target(&[]);
    family.apply(&mut target, ORDERS[0], &[vec![], vec![family.put(1, 1, 10), family.put(1, 2, 20)], vec![]]);
    assert_eq!((family.rows(&mut target), target.codes()), (vec!["null|null|null".into()], vec!["pg.23503"; 2]));
    for cure in ["foreign_keys: replica", "replay"] {
        assert!(target.letters[0].2.contains(cure), "{:?}", target.letters);
    }
    family.apply(&mut target, ORDERS[0], &[vec![family.put(0, 1, 5), family.put(0, 2, 6)], vec![], vec![]]);
    target.replay();
    assert_eq!(family.rows(&mut target), ["1 2|1 2|null"]);
    assert_eq!(target.rows("SELECT count(*) FROM sluicegate_letters WHERE state = 'open'"), ["0"]);
}

/// Its topic may only be read later: others of the group go on meanwhile.
#[test]
fn who_comes_before_its_parent_waits_for_it_but_not_for_ever() {
    let family = Family::new(NAMES[0]);
    let mut target = family.target(&[("parent_wait_ms", "60000")]);
    target.meanwhile = "INSERT INTO a_old VALUES (1), (2) ON CONFLICT DO NOTHING";
    let (early, grandchild) = (vec![family.put(1, 1, 10), family.put(1, 2, 20)], vec![family.put(2, 1, 30)]);
    // The bad one is no reason to wait, and no reason not to.
    let bad = family.put(0, 100, 5);
    family.apply(&mut target, ORDERS[1], &[vec![bad, family.put(0, 3, 6)], early, grandchild]);
    assert_eq!((family.rows(&mut target), target.codes()), (vec!["1 2 3|1 2|1".into()], vec!["pg.23514"]));

    let mut target = family.target(&[("parent_wait_ms", "250")]);
    target.meanwhile = "SELECT pg_sleep(0.1)";
    let alone = |target: &mut Target, id: i32| {
        family.apply(target, ORDERS[0], &[vec![], vec![family.put(1, id, 10)], vec![]]);
        (target.attempts, target.codes().len())
    };
    let (attempts, letters) = alone(&mut target, 1);
    assert!(attempts > 3 && letters == 1, "{attempts} attempts, {letters} letters");
    // Nobody waits behind one that has waited in vain.
    assert_eq!([alone(&mut target, 2), alone(&mut target, 3)], [(2, 2), (2, 3)]);
    // Until one passes.
    target.client.batch_execute("INSERT INTO a_old VALUES (4)").unwrap();
    assert_eq!(alone(&mut target, 4), (1, 3));
    target.meanwhile = "INSERT INTO a_old VALUES (5) ON CONFLICT DO NOTHING";
    assert_eq!(alone(&mut target, 5), (2, 3));
    assert_eq!(family.rows(&mut target), ["4 5|4 5|null"]);
}
