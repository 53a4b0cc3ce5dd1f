//! The outbox against a real PostgreSQL, and outlets that do not always take what they are given: what is acknowledged is
//! not sent again, what is not stays, and one at a time publishes.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate::engine::{Batch, Outbox, Published};
use sluicegate::fault::Fault;
use sluicegate::flow::relay::Guarded;
use sluicegate::flow::{Apply, Flow};
use sluicegate::outlet::{self, Message, Outlet, Told};
use sluicegate::pg::Work;
use sluicegate::pg::copy::CopyRows;
use sluicegate::record::{Partition, Record};
use sluicegate::track::Track;
use support::connect;

/// A row of its outbox is so many messages as it has bytes.
struct Teller;

impl Flow for Teller {
    type Rows = CopyRows;

    fn name(&self) -> &'static str {
        "teller"
    }

    fn tables(&self) -> String {
        String::new()
    }

    fn decode(&self, _: &Record<'_>, _: &mut CopyRows) -> Result<(), Fault> {
        Ok(())
    }

    fn write(&self, _: &mut Work<'_>, _: &[&Batch<CopyRows>]) -> Result<(), Fault> {
        Ok(())
    }

    fn messages(&self, body: &[u8], from: &Partition, see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
        for index in 0..body.len() {
            let source = format!("{from}/{index}");
            let (key, payload) = (Some(&b"k"[..]), Some(&body[index..=index]));
            see(Message { topic: "t", key, payload, source: Some(&source), headers: &[] });
        }
        Ok(())
    }
}

fn teller(url: &str) -> Apply<Teller> {
    teller_idle_at_most(url, Duration::from_secs(30))
}

fn teller_idle_at_most(url: &str, idle_in_transaction_timeout: Duration) -> Apply<Teller> {
    let database = support::database(url, Duration::from_secs(10), idle_in_transaction_timeout);
    Apply::new(Teller, database, "test".into(), true, Track::new("teller"))
}

/// Rows of ten messages each.
fn filled(url: &str, rows: i32) -> Apply<Teller> {
    let teller = teller(url);
    teller.create_tables().expect("tables");
    let sql = "INSERT INTO sluicegate_outbox (flow, topic, partition, first_offset, body)
               SELECT 'teller', 'from', number, 0, decode(repeat('61', 10), 'hex') FROM generate_series(1, $1) AS number";
    connect(url).execute(sql, &[&rows]).expect("rows");
    teller
}

fn left(url: &str) -> i64 {
    connect(url).query_one("SELECT count(*) FROM sluicegate_outbox", &[]).expect("a count").get(0)
}

/// Acknowledges at once, up to a number; then it says no.
#[derive(Default)]
struct Broker {
    takes: AtomicU64,
    seen: Mutex<Vec<String>>,
    pause: Duration,
}

impl Broker {
    fn taking(messages: u64) -> Broker {
        Broker { takes: AtomicU64::new(messages), ..Broker::default() }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Outlet for Broker {
    fn publish(&self, message: &Message<'_>, told: Told) -> Result<(), Fault> {
        let is_taken =
            self.takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if !is_taken {
            told(Err(Fault::retry("test.timed_out", "not in time")));
            return Ok(());
        }
        std::thread::park_timeout(self.pause);
        self.seen.lock().expect("no panic").push(message.source.expect("a source").to_owned());
        told(Ok(()));
        Ok(())
    }
}

#[test]
fn a_broker_that_takes_a_part_is_not_given_that_part_again() {
    let url = support::new_database("outbox");
    let teller = filled(&url, 5);
    let mut session = Guarded::default();
    let broker = Broker::taking(25);
    let Published { messages, fault, .. } = teller.publish_some(&mut session, &broker).expect("PostgreSQL answers");
    assert_eq!((messages, fault.map(|fault| fault.cause().code.to_string())), (25, Some("test.timed_out".into())));
    assert_eq!(left(&url), 3, "the two rows that are through are gone");
    let rest = Broker::taking(1_000);
    let Published { messages, fault, .. } = teller.publish_some(&mut session, &rest).expect("PostgreSQL answers");
    assert_eq!((messages, fault, left(&url)), (30, None, 0));
    // The half row comes twice, in order and under the same names.
    assert_eq!(rest.seen()[..5], broker.seen()[20..]);
    assert!(rest.seen().iter().skip(1).zip(rest.seen()).all(|(next, before)| *next > before));
    let Published { messages, fault, .. } = teller.publish_some(&mut session, &rest).expect("PostgreSQL answers");
    assert_eq!((messages, fault), (0, None));
}

#[test]
fn a_slow_broker_holds_no_transaction_open() {
    let url = support::new_database("outbox");
    drop(filled(&url, 2));
    // Half as long as the broker takes.
    let teller = teller_idle_at_most(&url, Duration::from_secs(1));
    let broker = Broker { pause: Duration::from_millis(100), ..Broker::taking(1_000) };
    let published =
        teller.publish_some(&mut Guarded::default(), &broker).expect("PostgreSQL has not ended the session");
    assert_eq!((published.messages, published.fault, left(&url)), (20, None, 0));
}

/// Holds seven, and acknowledges them when it is asked to take one more.
#[derive(Default)]
struct Narrow {
    held: Mutex<Vec<Told>>,
    refused: AtomicU64,
}

impl Outlet for Narrow {
    fn publish(&self, _: &Message<'_>, told: Told) -> Result<(), Fault> {
        let mut held = self.held.lock().expect("no panic");
        if held.len() < 7 {
            held.push(told);
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        held.drain(..).for_each(|told| told(Ok(())));
        Err(Fault::retry(outlet::FULL, "no room"))
    }
}

#[test]
fn an_outlet_without_room_is_waited_for() {
    let url = support::new_database("outbox");
    let teller = filled(&url, 3);
    let narrow = Arc::new(Narrow::default());
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| teller.publish_some(&mut Guarded::default(), &*narrow));
        // What is left of the last ones is answered by nobody else.
        while !publishing.is_finished() {
            std::thread::park_timeout(Duration::from_millis(20));
            narrow.held.lock().expect("no panic").drain(..).for_each(|told| told(Ok(())));
        }
        publishing.join().expect("no panic").expect("PostgreSQL answers")
    });
    assert_eq!((published.messages, published.fault, left(&url)), (30, None, 0));
    assert!(narrow.refused.load(Ordering::Relaxed) > 0, "it was never full");
}

#[test]
fn one_publishes_at_a_time_and_another_one_when_that_one_has_gone() {
    let url = support::new_database("outbox");
    let (one, other) = (filled(&url, 2), teller(&url));
    let (mut ones, mut others) = (Guarded::default(), Guarded::default());
    let nobody = Broker::taking(0);
    assert!(one.publish_some(&mut ones, &nobody).expect("PostgreSQL answers").fault.is_some());
    let broker = Broker::taking(1_000);
    assert_eq!(other.publish_some(&mut others, &broker).expect("PostgreSQL answers").messages, 0, "it is not its turn");
    drop(ones);
    support::wait_for("the turn to pass on", Duration::from_secs(10), || {
        let published = other.publish_some(&mut others, &broker).expect("PostgreSQL answers");
        (published.messages == 20).then_some(())
    });
    assert_eq!(left(&url), 0);
}

/// Takes everything and answers nothing until it is told to.
#[derive(Default)]
struct Silent(Mutex<Vec<Told>>);

impl Outlet for Silent {
    fn publish(&self, _: &Message<'_>, told: Told) -> Result<(), Fault> {
        self.0.lock().expect("no panic").push(told);
        Ok(())
    }
}

#[test]
fn whoever_waits_for_a_slow_broker_keeps_its_turn_and_whoever_is_frozen_does_not() {
    const SILENCE_MAX: Duration = Duration::from_secs(3);
    let url = support::new_database("outbox");
    let (one, other) = (filled(&url, 4).with_silence_max(SILENCE_MAX), teller(&url).with_silence_max(SILENCE_MAX));
    let (mut ones, mut others) = (Guarded::default(), Guarded::default());
    let (slow, broker) = (Silent::default(), Broker::taking(1_000));
    let mut others_turn = || other.publish_some(&mut others, &broker).expect("PostgreSQL answers").messages;
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| one.publish_some(&mut ones, &slow));
        support::wait_for("it to be at it", Duration::from_secs(10), || {
            (slow.0.lock().expect("no panic").len() == 40).then_some(())
        });
        let began = std::time::Instant::now();
        while began.elapsed() < SILENCE_MAX * 2 {
            assert_eq!(others_turn(), 0, "who waits for an answer is not silent");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        // The last one gets a no: its row stays.
        let mut held = slow.0.lock().expect("no panic");
        held.pop().expect("forty")(Err(Fault::retry("test.timed_out", "not in time")));
        held.drain(..).for_each(|told| told(Ok(())));
        drop(held);
        assert_eq!(publishing.join().expect("no panic").expect("PostgreSQL answers").messages, 39);
    });
    assert_eq!(left(&url), 1);
    // From here on it says nothing, and its session lives.
    support::wait_for("the turn to pass on", Duration::from_secs(30), || {
        std::thread::park_timeout(Duration::from_millis(50));
        (others_turn() == 10).then_some(())
    });
    assert_eq!(left(&url), 0);
    drop(filled(&url, 1));
    assert!(one.publish_some(&mut ones, &broker).is_err(), "it wakes up, and has lost its turn");
}

/// Keeps whoever hands over the sixth one.
struct Freezing {
    seen: AtomicU64,
    wake: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Outlet for Freezing {
    fn publish(&self, _: &Message<'_>, told: Told) -> Result<(), Fault> {
        if self.seen.fetch_add(1, Ordering::SeqCst) == 5 {
            self.wake.lock().expect("no panic").recv().expect("woken");
        }
        told(Ok(()));
        Ok(())
    }
}

#[test]
fn whoever_wakes_up_in_the_middle_hands_over_nothing_more() {
    const SILENCE_MAX: Duration = Duration::from_secs(1);
    let url = support::new_database("outbox");
    let (one, other) = (filled(&url, 4).with_silence_max(SILENCE_MAX), teller(&url).with_silence_max(SILENCE_MAX));
    let (wake, woken) = std::sync::mpsc::channel();
    let freezing = Freezing { seen: AtomicU64::new(0), wake: Mutex::new(woken) };
    let broker = Broker::taking(1_000);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| one.publish_some(&mut Guarded::default(), &freezing));
        let mut others = Guarded::default();
        support::wait_for("the turn to pass on", Duration::from_secs(30), || {
            std::thread::park_timeout(Duration::from_millis(50));
            // It comes second.
            let is_frozen = freezing.seen.load(Ordering::SeqCst) == 6;
            let published = is_frozen.then(|| other.publish_some(&mut others, &broker).expect("PostgreSQL answers"))?;
            (published.messages == 40).then_some(())
        });
        wake.send(()).expect("it waits");
        let woken = publishing.join().expect("no panic");
        assert!(!matches!(woken, Ok(Published { fault: None, .. })), "its session has ended");
    });
    assert_eq!((freezing.seen.load(Ordering::SeqCst), left(&url)), (6, 0));
}
