//! The whole engine in memory, as somebody who uses the library would test with it: what goes in comes out once, in
//! order, as a row or as a letter.

use sluicegate::fault::{Cause, Fault};
use sluicegate::flow::{Flow, Status, sample};
use sluicegate::memory::{self, New, Table, Topic};
use sluicegate::pg::copy::CopyRows;
use sluicegate::record::Record;

fn number(record: &Record<'_>) -> Result<u64, Fault> {
    let text = std::str::from_utf8(record.payload.unwrap_or_default()).unwrap_or_default();
    text.parse().map_err(|_| Fault::reject("numbers.invalid", "must be a number"))
}

fn offsets(table: &Table<u64>, partition: i32) -> Vec<i64> {
    table.letters(partition).iter().map(|letter| letter.offset).collect()
}

#[test]
fn what_goes_in_comes_out_once_and_in_order_although_the_table_is_away_and_refuses_rows() {
    const COUNT: u64 = 10_000;
    let topic = Topic::new("numbers", 4);
    for number in 0..COUNT {
        let text = if number % 1000 == 7 { "seven".to_owned() } else { number.to_string() };
        topic.append((number % 4) as i32, None, text.as_bytes());
    }
    let refuse = |row: &u64| row.is_multiple_of(2500).then(|| Cause::new("numbers.round", "refused"));
    let table = Table::with_constraint(number, refuse);
    table.fail(20);
    let (track, halted) = memory::run(&topic, &table);
    assert_eq!(halted, None);
    assert!(track.retried.get() >= 20, "it was away");
    for partition in 0..4 {
        let of = |number: &u64| number % 4 == partition as u64;
        let is_letter = |number: &u64| number % 1000 == 7 || number.is_multiple_of(2500);
        let rows: Vec<u64> = (0..COUNT).filter(of).filter(|number| !is_letter(number)).collect();
        assert_eq!(table.rows(partition), rows);
        let letters: Vec<i64> = (0..COUNT).filter(of).filter(is_letter).map(|number| number as i64 / 4).collect();
        assert_eq!(offsets(&table, partition), letters);
        assert_eq!(table.next_offset(partition), topic.end(partition));
    }
}

#[test]
fn a_second_run_goes_on_where_the_first_one_ended() {
    let (topic, table) = (Topic::new("numbers", 1), Table::new(number));
    topic.append(0, None, b"1");
    memory::run(&topic, &table);
    topic.append(0, None, b"2");
    memory::run(&topic, &table);
    assert_eq!(table.rows(0), [1, 2]);
}

#[test]
fn a_record_that_nobody_may_pass_halts_its_partition_and_no_other() {
    let topic = Topic::new("numbers", 2);
    for payload in ["1", "stop", "3"] {
        topic.append(0, None, payload.as_bytes());
    }
    for number in 0..500u64 {
        topic.append(1, None, number.to_string().as_bytes());
    }
    let table = Table::new(|record: &Record<'_>| match record.payload {
        Some(b"stop") => Err(Fault::stop("numbers.stop", "a person has to look")),
        _ => number(record),
    });
    let (_, halted) = memory::run(&topic, &table);
    assert_eq!(halted.map(|cause| cause.code.into_owned()).as_deref(), Some("numbers.stop"));
    assert_eq!((table.rows(0), table.next_offset(0)), (vec![1], 1), "what came before it is written");
    assert_eq!(table.rows(1), (0..500).collect::<Vec<u64>>());
}

#[test]
fn a_record_is_seen_with_all_that_it_has_and_its_letter_keeps_it() {
    let topic = Topic::new("numbers", 1);
    let headers = vec![("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None)];
    let (timestamp_ms, key) = (Some(77), Some(b"k".to_vec()));
    let record = New { timestamp_ms, key, payload: None, headers };
    topic.append_whole(0, record.clone());
    let table = Table::<u64>::new(|record| {
        let mut names = String::new();
        record.headers.each(&mut |name, _| names.push_str(name));
        assert_eq!((record.offset, &*names, record.payload), (0, "ab", None));
        Err(Fault::reject("numbers.none", "no payload"))
    });
    memory::run(&topic, &table);
    let letter = table.letters(0).remove(0);
    let kept =
        New { timestamp_ms: letter.timestamp_ms, key: letter.key, payload: letter.payload, headers: letter.headers };
    assert_eq!(kept, record);
}

#[test]
fn a_flow_of_ours_decodes_in_memory_what_it_decodes_elsewhere() {
    const COUNT: u64 = 3000;
    let topic = Topic::new("updates", 3);
    let updates = sample("status", None).expect("samples");
    for number in 0..COUNT {
        let mut payload = Vec::new();
        updates.payload(number, &mut payload);
        topic.append((number % 3) as i32, None, &payload[..payload.len() - usize::from(number % 100 == 99)]);
    }
    let status = Status::new("processed_seed_status", &[]).expect("the flow");
    let table = Table::new(move |record| {
        let mut rows = CopyRows::default();
        status.decode(record, &mut rows).map(|()| rows.as_bytes().to_vec())
    });
    memory::run(&topic, &table);
    let rows: usize = (0..3).map(|partition| table.rows(partition).len()).sum();
    let letters: Vec<String> =
        (0..3).flat_map(|partition| table.letters(partition)).map(|letter| letter.reason.code.into_owned()).collect();
    assert_eq!((rows, letters.len()), (2970, 30));
    assert!(letters.iter().all(|code| code == "avro.truncated"), "{letters:?}");
}
