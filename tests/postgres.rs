//! `flow::Apply` and the ledger against a real PostgreSQL: what may be written by whom, and what is set aside.

mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::engine::{Batch, Claim, Claims, Letter, Outcome, Sink, Wanted};
use sluicegate::fault::{Cause, Fault};
use sluicegate::flow::{Apply, Flow};
use sluicegate::pg::copy::CopyRows;
use sluicegate::pg::{SessionOptions, Work};
use sluicegate::record::{NoHeaders, Partition, Record};
use sluicegate::track::Track;

/// A flow with everything that PostgreSQL may say no to: a key, a check, and a check at commit.
struct Numbers;

impl Flow for Numbers {
    type Rows = CopyRows;

    fn name(&self) -> &'static str {
        "numbers"
    }

    fn tables(&self) -> String {
        "CREATE TABLE IF NOT EXISTS parents (id bigint PRIMARY KEY);
         INSERT INTO parents SELECT generate_series(0, 999) ON CONFLICT DO NOTHING;
         CREATE TABLE IF NOT EXISTS numbers (
            number bigint PRIMARY KEY CHECK (number <> 13),
            parent bigint REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
            .into()
    }

    /// The payload is the number in text; 1,000 and above have no parent.
    fn decode(&self, record: &Record<'_>, rows: &mut CopyRows) -> Result<(), Fault> {
        let number: i64 = std::str::from_utf8(record.payload.unwrap_or_default())
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Fault::reject("test.not_a_number", "not a number"))?;
        rows.row(2, |out| {
            for value in [number, number] {
                out.extend_from_slice(&8i32.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            Ok(())
        })
    }

    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<CopyRows>]) -> Result<(), Fault> {
        work.copy(
            "COPY numbers (number, parent) FROM STDIN (FORMAT binary)",
            batches.iter().map(|batch| batch.rows.as_bytes()),
        )
        .map(drop)
    }
}

const SOON: Duration = Duration::from_secs(10);

struct Fixture {
    url: String,
    sink: Apply<Numbers>,
}

fn sink_on(url: &str, lock_timeout: Duration) -> Apply<Numbers> {
    sink_with(url, &support::session_options(lock_timeout, Duration::from_secs(60)))
}

fn sink_with(url: &str, options: &SessionOptions) -> Apply<Numbers> {
    Apply::new(Numbers, support::database_with(url, options), "test".into(), true, Track::new("numbers"))
}

/// A client that could be one of the program's, but for what it does.
fn ours(url: &str) -> postgres::Client {
    support::connect(&format!("{url}&application_name=sluicegate-test"))
}

fn fixture() -> Fixture {
    let url = support::new_database("postgres");
    let sink = sink_on(&url, SOON);
    sink.create_tables().expect("tables are created");
    sink.create_tables().expect("and nothing is done the second time");
    Fixture { url, sink }
}

fn partition(id: i32) -> Partition {
    Partition::new("t", id)
}

fn wanted(id: i32, incarnation: &str) -> Wanted {
    Wanted { partition: partition(id), incarnation: incarnation.into(), first_offset: Some(0) }
}

fn claims(sink: &Apply<Numbers>, wanted: &[Wanted]) -> Result<Vec<Result<Arc<Claim>, Cause>>, Fault> {
    sink.claim(wanted).map(|claims| match claims {
        Claims::Made(claims) => claims,
        Claims::Unseen(unseen) => panic!("{unseen:?} came with a first offset"),
    })
}

fn claim(sink: &Apply<Numbers>, id: i32) -> Arc<Claim> {
    let claims = claims(sink, &[wanted(id, "one")]).expect("a claim");
    claims.into_iter().next().expect("one answer").expect("granted")
}

/// A batch of the numbers as records from offset `first` on.
fn batch(claim: &Arc<Claim>, first: i64, numbers: &[&str]) -> Batch<CopyRows> {
    let mut batch = Batch::new(claim.clone(), first);
    for (index, number) in numbers.iter().enumerate() {
        let record = Record {
            partition: &claim.partition,
            offset: first + index as i64,
            timestamp_ms: Some(1_700_000_000_123),
            key: Some(b"key\0with nul"),
            payload: Some(number.as_bytes()),
            headers: &NoHeaders,
        };
        batch.add(&record, |record, rows| Numbers.decode(record, rows)).expect("added");
    }
    batch
}

impl Fixture {
    fn apply(&self, group: &[Batch<CopyRows>]) -> Vec<Outcome> {
        self.sink.apply(&mut None, group).expect("applied")
    }

    fn numbers(&self) -> Vec<i64> {
        let rows = support::connect(&self.url).query("SELECT number FROM numbers ORDER BY 1", &[]);
        rows.expect("numbers").iter().map(|row| row.get(0)).collect()
    }

    fn ledger(&self, id: i32) -> (i64, i64) {
        let sql = "SELECT next_offset, owner_epoch FROM sluicegate_ledger WHERE partition = $1";
        let row = support::connect(&self.url).query_one(sql, &[&id]).expect("a ledger row");
        (row.get(0), row.get(1))
    }
}

#[test]
fn a_group_of_partitions_is_written_with_its_ledger_rows() {
    let fixture = fixture();
    let (one, two) = (claim(&fixture.sink, 1), claim(&fixture.sink, 2));
    let outcomes = fixture.apply(&[batch(&two, 0, &["1", "2"]), batch(&one, 0, &["3"])]);
    assert_eq!(outcomes, [Outcome::Written, Outcome::Written]);
    assert_eq!(fixture.numbers(), [1, 2, 3]);
    assert_eq!((fixture.ledger(1), fixture.ledger(2)), ((1, 1), (2, 1)));
}

#[test]
fn a_batch_whose_commit_went_through_unheard_is_written_once() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    let same = || batch(&owner, 0, &["1", "2"]);
    assert_eq!(fixture.apply(&[same()]), [Outcome::Written]);
    assert_eq!(fixture.apply(&[same()]), [Outcome::Written], "settled by the ledger");
    assert_eq!(fixture.numbers(), [1, 2]);
}

#[test]
fn a_former_owner_writes_nothing_and_its_neighbours_are_written() {
    let fixture = fixture();
    let (former, neighbour) = (claim(&fixture.sink, 1), claim(&fixture.sink, 2));
    let owner = claim(&fixture.sink, 1);
    assert!(owner.epoch > former.epoch);
    let group = [batch(&former, 0, &["1"]), batch(&neighbour, 0, &["2"]), batch(&owner, 0, &["3"])];
    assert_eq!(fixture.apply(&group), [Outcome::Fenced, Outcome::Written, Outcome::Written]);
    assert_eq!(fixture.numbers(), [2, 3]);
}

#[test]
fn a_batch_from_the_wrong_offset_is_fenced() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    assert_eq!(fixture.apply(&[batch(&owner, 5, &["1"])]), [Outcome::Fenced]);
    assert_eq!((fixture.numbers(), fixture.ledger(1).0), (vec![], 0));
}

#[test]
fn a_partition_starts_where_the_ledger_says_and_only_a_new_one_asks_elsewhere() {
    let fixture = fixture();
    let start = |first: i64| {
        let claims = claims(&fixture.sink, &[Wanted { first_offset: Some(first), ..wanted(7, "one") }]);
        claims.expect("a claim")[0].as_ref().expect("granted").next_offset
    };
    let unasked = Wanted { first_offset: None, ..wanted(7, "one") };
    let unseen = fixture.sink.claim(&[wanted(6, "one"), unasked.clone()]).expect("an answer");
    assert!(matches!(unseen, Claims::Unseen(indexes) if indexes == [1]));
    assert_eq!((start(40), start(99)), (40, 40));
    assert!(matches!(fixture.sink.claim(&[unasked]), Ok(Claims::Made(_))));
}

#[test]
fn a_topic_made_again_is_not_claimed_and_its_neighbour_is() {
    let fixture = fixture();
    claim(&fixture.sink, 1);
    let made = claims(&fixture.sink, &[wanted(1, "two"), wanted(2, "two")]).expect("answers");
    assert_eq!(made[0].as_ref().expect_err("refused").code, "ledger.topic_recreated");
    assert!(made[1].is_ok());
    assert_eq!(fixture.ledger(1).1, 1, "the epoch of the halted partition did not move");
    let unknown = claims(&fixture.sink, &[wanted(1, "")]).expect("answers");
    assert!(unknown[0].is_ok(), "a broker that cannot tell is believed");
}

#[test]
fn the_rows_that_postgresql_refuses_are_named_and_no_others() {
    let fixture = fixture();
    let (one, two) = (claim(&fixture.sink, 1), claim(&fixture.sink, 2));
    // 13 breaks a check, the second 3 a key, 5000 a foreign key that only speaks at commit: it is asked where nothing else is wrong.
    let bad = batch(&one, 0, &["1", "13", "3", "4", "3", "5000", "6"]);
    let outcomes = fixture.apply(&[bad, batch(&two, 0, &["20", "21"])]);
    let seen = |outcome: &Outcome| match outcome {
        Outcome::Refused(refused) => refused.iter().map(|(offset, cause)| (*offset, cause.code.to_string())).collect(),
        outcome => panic!("{outcome:?}"),
    };
    let refused: Vec<(i64, String)> = seen(&outcomes[0]);
    assert_eq!(refused, [(1, "pg.23514".to_owned()), (4, "pg.23505".to_owned())]);
    assert_eq!(outcomes[1], Outcome::Written);
    assert_eq!(fixture.numbers(), [20, 21], "nothing of a batch that was refused");
    let rest = fixture.apply(&[batch(&one, 0, &["1", "3", "4", "5000", "6"])]);
    assert_eq!(seen(&rest[0]), [(3, "pg.23503".to_owned())]);
    assert_eq!(fixture.numbers(), [20, 21], "nothing of a batch that was refused");
    assert!(!format!("{outcomes:?} {rest:?}").contains("5000"), "no value in a reason");
}

#[test]
fn letters_are_written_whole_with_their_batch() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    let mut mixed = batch(&owner, 0, &["1", "x", "2"]);
    let headers = vec![("trace".to_string(), Some(b"\x00\xff".to_vec())), ("none".to_string(), None)];
    mixed.letters[0] = Letter { headers, ..mixed.letters[0].clone() };
    assert_eq!(fixture.apply(&[mixed]), [Outcome::Written]);
    assert_eq!(fixture.numbers(), [1, 2]);
    let sql = "SELECT topic, partition, record_offset, key, payload, header_names, header_values, reason_code,
               (extract(epoch FROM record_timestamp) * 1000)::bigint, flow FROM sluicegate_letters";
    let row = support::connect(&fixture.url).query_one(sql, &[]).expect("one letter");
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), ("t", 1, 1));
    assert_eq!((row.get::<_, &[u8]>(3), row.get::<_, &[u8]>(4)), (&b"key\0with nul"[..], &b"x"[..]));
    assert_eq!(row.get::<_, Vec<&str>>(5), ["trace", "none"]);
    assert_eq!(row.get::<_, Vec<Option<&[u8]>>>(6), [Some(&b"\x00\xff"[..]), None]);
    assert_eq!((row.get::<_, &str>(7), row.get::<_, i64>(8)), ("test.not_a_number", 1_700_000_000_123));
    assert_eq!(row.get::<_, &str>(9), "numbers");
    assert_eq!(fixture.ledger(1).0, 3, "the ledger is past the letter");
}

#[test]
fn a_former_owner_frozen_in_its_transaction_is_ended() {
    const LOCK: &str = "BEGIN; SELECT * FROM sluicegate_ledger FOR NO KEY UPDATE";
    let fixture = fixture();
    // What ends a wait is the lock, also where a statement may take less time than that.
    let soon = Duration::from_millis(300);
    let options = SessionOptions { statement_timeout: soon / 2, ..support::session_options(soon, 6 * SOON) };
    let sink = sink_with(&fixture.url, &options);
    let frozen_at = |sql: &str, partition: i32| {
        let mut frozen = ours(&fixture.url);
        frozen.batch_execute(sql).expect("locked");
        let first = claims(&sink, &[wanted(partition, "one")]);
        assert!(matches!(first, Err(Fault::Retry(_))), "{first:?}");
        let later = support::wait_for("a claim", 6 * SOON, || claims(&sink, &[wanted(partition, "one")]).ok());
        assert!(frozen.batch_execute("COMMIT").is_err(), "its commit fails");
        later.into_iter().next().expect("one answer").expect("granted")
    };
    let owner = claim(&fixture.sink, 1);
    assert!(frozen_at(LOCK, 1).epoch > owner.epoch);
    // A row that is locked under two numbers, and one that nobody else knows yet.
    frozen_at(&format!("{LOCK}; SAVEPOINT a; UPDATE sluicegate_ledger SET owner = 'x'"), 1);
    frozen_at("BEGIN; INSERT INTO sluicegate_ledger VALUES ('numbers', 't', 7, '', 0, 0, '')", 7);
}

/// The server counts that as work, and no timeout of its own ends it.
#[test]
fn whoever_is_frozen_in_the_middle_of_a_copy_is_ended_by_others() {
    let fixture = fixture();
    let options = SessionOptions {
        statement_timeout: Duration::from_secs(2),
        ..support::session_options(Duration::from_secs(1), Duration::from_secs(1))
    };
    let sink = sink_with(&fixture.url, &options);
    let (mut frozen, mut slow, mut stranger) = (ours(&fixture.url), ours(&fixture.url), support::connect(&fixture.url));
    let slow = std::thread::spawn(move || slow.batch_execute("SELECT pg_sleep(6)"));
    let sleeps = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    support::wait_for("it to be at work", SOON, || {
        (support::connect(&fixture.url).query(sleeps, &[]).expect("a look").len() == 1).then_some(())
    });
    // It stands for what nobody claims: a trial, a replay.
    let mut copy = frozen.copy_in("COPY numbers (number) FROM STDIN").expect("a copy");
    let mut others = stranger.copy_in("COPY parents FROM STDIN").expect("a copy");
    copy.write_all(b"1\n").and_then(|()| copy.flush()).expect("a row");
    others.write_all(b"1000\n").and_then(|()| others.flush()).expect("a row");
    let copies = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientRead' AND state = 'active'
                   AND datname = current_database()";
        support::connect(&fixture.url).query_one(sql, &[]).expect("a count").get::<_, i64>(0)
    };
    support::wait_for("both to wait", SOON, || (copies() == 2).then_some(()));
    support::wait_for("one of them to be ended", SOON, || {
        // It may itself take longer than a statement is given here.
        let _ = sink.holds(&[]);
        (copies() == 1).then_some(())
    });
    copy.finish().expect_err("it is gone");
    others.finish().expect("the stranger's session lives");
    slow.join().expect("no panic").expect("who works is left alone");
}

/// So that whoever claims them finds and ends one that is frozen at it.
#[test]
fn the_search_for_what_is_refused_holds_the_ledger_rows_of_what_it_tries() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    let mut gate = support::connect(&fixture.url);
    gate.batch_execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock(5); RETURN NEW; END';
         CREATE TRIGGER gate BEFORE INSERT ON numbers FOR EACH ROW WHEN (NEW.number = 5) EXECUTE FUNCTION gate();
         SELECT pg_advisory_lock(5)",
    )
    .expect("a gate");
    std::thread::scope(|scope| {
        // At once it does not get beyond the first; the second one is tried alone.
        let applied = scope.spawn(|| fixture.apply(&[batch(&owner, 0, &["13", "5"])]));
        let mut looker = support::connect(&fixture.url);
        let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()";
        support::wait_for("the trial", SOON, || (looker.query(waits, &[]).expect("a look").len() == 1).then_some(()));
        let taken = looker.query("SELECT FROM sluicegate_ledger WHERE partition = 1 FOR NO KEY UPDATE NOWAIT", &[]);
        assert_eq!(taken.expect_err("held").code().map(|code| code.code()), Some("55P03"));
        gate.batch_execute("SELECT pg_advisory_unlock(5)").expect("opened");
        assert!(matches!(&applied.join().expect("no panic")[..], [Outcome::Refused(rows)] if rows.len() == 1));
    });
}

/// They may be of a time when the server could only be read.
#[test]
fn sessions_that_failed_are_not_used_again() {
    let url = support::new_database("readonly");
    let database = support::database(&url, SOON, SOON);
    let sink = Apply::new(Numbers, database.clone(), "test".into(), true, Track::new("numbers"));
    let set = |what: &str| {
        let name = url.rsplit('/').next().and_then(|rest| rest.split('?').next()).expect("a name");
        let mut client = support::connect(&url);
        client.batch_execute("SET default_transaction_read_only = off").expect("set");
        client.batch_execute(&format!("ALTER DATABASE {name} {what}")).expect("set");
    };
    set("SET default_transaction_read_only = on");
    sink.create_tables().expect_err("nothing can be created");
    set("RESET default_transaction_read_only");
    sink.create_tables().expect("created");
    set("SET default_transaction_read_only = on");
    // Sessions of before can still write; one of now is what is wanted.
    database.session().expect("a session").discard();
    claims(&sink, &[wanted(1, "one")]).expect_err("nothing can be claimed");
    set("RESET default_transaction_read_only");
    claim(&sink, 1);
}

#[test]
fn a_trial_that_fails_leaves_nothing_behind_in_its_transaction() {
    let url = support::new_database("trial");
    let mut session = support::database(&url, SOON, SOON).session().expect("a session");
    let mut work = session.begin().expect("a transaction");
    work.run("CREATE TEMP TABLE numbers (number integer)").expect("a table");
    for _ in 0..3 {
        let mut trial = work.begin().expect("a savepoint");
        trial.run("INSERT INTO numbers VALUES (1)").expect("a row");
        let mut inner = trial.begin().expect("a savepoint in it");
        inner.run("INSERT INTO numbers VALUES (2)").expect("a row");
        inner.commit().expect("kept");
        trial.run("SELECT 1 / 0").expect_err("this fails");
        drop(trial);
    }
    let number = |work: &mut Work<'_>, sql: &str| work.query(sql, &[]).expect("a number")[0].get::<_, i64>(0);
    assert_eq!(number(&mut work, "SELECT count(*) FROM numbers"), 0);
    // Each open savepoint that has written is one more.
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'transactionid'";
    assert_eq!(number(&mut work, locks), 1);
    work.commit().expect("done");
}

#[test]
fn a_lock_held_by_a_stranger_is_waited_for_and_the_stranger_is_left_alone() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    let mut stranger = support::connect(&fixture.url);
    stranger.batch_execute("BEGIN; SELECT * FROM sluicegate_ledger FOR UPDATE").expect("locked");
    let sink = sink_on(&fixture.url, Duration::from_millis(300));
    assert!(matches!(claims(&sink, &[wanted(1, "one")]), Err(Fault::Retry(_))));
    assert!(matches!(sink.apply(&mut None, &[batch(&owner, 0, &["1"])]), Err(Fault::Retry(_))));
    stranger.batch_execute("COMMIT").expect("the stranger's session lives");
    assert_eq!(fixture.apply(&[batch(&owner, 0, &["1"])]), [Outcome::Written]);
}

#[test]
fn a_server_that_is_not_there_is_a_fault_to_retry_that_says_why() {
    let port = support::free_port();
    let sink = sink_on(&format!("postgres://postgres@127.0.0.1:{port}/x"), Duration::from_secs(1));
    let fault = sink.create_tables().expect_err("nobody there");
    let Fault::Retry(Cause { code, text }) = fault else { panic!("{fault:?}") };
    assert_eq!(code, "pg.connection");
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_missing_table_is_never_the_records_fault() {
    let fixture = fixture();
    let owner = claim(&fixture.sink, 1);
    support::connect(&fixture.url).batch_execute("ALTER TABLE numbers RENAME TO away").expect("renamed");
    let fault = fixture.sink.apply(&mut None, &[batch(&owner, 0, &["1"])]).expect_err("no table");
    assert!(matches!(&fault, Fault::Retry(cause) if cause.code == "pg.42P01"), "{fault:?}");
}
