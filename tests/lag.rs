//! How far groups are behind, as the program says it, against what was produced and committed by somebody else: a group
//! that is not ours, on a real Kafka.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use support::stream::Stream;
use support::unique;
use support::world::World;

const MINUTE: Duration = Duration::from_secs(60);
/// Records are made so long ago that no machine is slow enough to matter.
const AGO_S: i64 = 1_000_000;

/// A topic of three partitions and a group that somebody else uses: partition 0 has 10 records and 4 committed, 1 has 5 and all
/// of them committed, 2 has 3 and none committed. Record `n` was made `AGO_S` less n thousand seconds ago.
fn stranger() -> (String, String) {
    let (topic, group) = (unique("lag"), unique("stranger"));
    support::create_topic(&support::brokers(), &topic, 3, &[]);
    let now_ms = UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let producer: BaseProducer = client().create().unwrap();
    for (partition, count) in [(0, 10), (1, 5), (2, 3)] {
        for number in 0..count {
            let made_ms = now_ms - (AGO_S - number * 1_000) * 1_000;
            let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(b"x").timestamp(made_ms);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    producer.flush(MINUTE).unwrap();
    commit(&topic, &group, &[(0, 4), (1, 5)]);
    (topic, group)
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", support::brokers());
    config
}

fn commit(topic: &str, group: &str, offsets: &[(i32, i64)]) {
    let consumer: BaseConsumer = client().set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
    }
    consumer.commit(&list, CommitMode::Sync).unwrap();
}

fn lag(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command
        .arg("lag")
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("KAFKA_BROKERS", support::brokers())
        .env("DB_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .current_dir(std::env::temp_dir());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Partition, committed, end, lag and the whole thousands of seconds behind.
type Place = (i64, Option<i64>, i64, Option<i64>, Option<i64>);

fn place(line: &Value) -> Place {
    let number = |name: &str| line[name].as_i64();
    let behind = line["lag_seconds"].as_f64().map(|seconds| seconds as i64 / 1_000);
    (number("partition").unwrap(), number("committed"), number("end").unwrap(), number("lag_records"), behind)
}

#[test]
fn a_group_that_is_not_ours_is_behind_by_the_record_that_comes_next() {
    let (topic, group) = stranger();
    let lines = objects(&lag(&["--group", &group, "--json"]));
    assert!(lines.iter().all(|line| line["topic"] == topic.as_str() && line["group"] == group.as_str()));
    assert!(lines.iter().all(|line| line["state"] == "Empty"), "{lines:?}");
    // A record that does not come within seconds is not waited for: then one looks again.
    let shows = |expected: [Place; 3]| {
        let look = |_| objects(&lag(&["--group", &group, "--json"])).iter().map(place).collect::<Vec<_>>();
        let mut looks = (0..10).map(look);
        assert!(looks.any(|places| places == expected), "{:?} is not {expected:?}", look(0));
    };
    shows([(0, Some(4), 10, Some(6), Some(996)), (1, Some(5), 5, Some(0), Some(0)), (2, None, 3, None, None)]);
    commit(&topic, &group, &[(0, 9), (2, 0)]);
    shows([
        (0, Some(9), 10, Some(1), Some(991)),
        (1, Some(5), 5, Some(0), Some(0)),
        (2, Some(0), 3, Some(3), Some(1000)),
    ]);
    // Nobody was made a member of anything, and nothing was committed, by looking.
    let all = objects(&lag(&["--all-groups", "--json"]));
    assert!(all.iter().any(|line| line["group"] == group.as_str()));
    assert!(!all.iter().any(|line| line["group"] == "sluicegate lag"));
}

#[test]
fn piped_it_is_one_table_without_escapes() {
    let (topic, group) = stranger();
    let output = lag(&["--group", &group]);
    let table = text(&output.stdout);
    assert!(output.status.success() && !table.contains('\x1b'), "{table:?}");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let head = ["GROUP", "STATE", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "BEHIND", "HELD", "PARKED"];
    assert_eq!(rows[0], head);
    assert_eq!(rows[1][..7], [&group, "Empty", "-", "-", "-", "-", "6"]);
    assert_eq!(rows[2][..6], [&group, &*topic, "0", "4", "10", "6"]);
    assert_eq!(rows[4], [&group, &*topic, "2", "-", "3", "-", "-"]);
    assert_eq!(rows.len(), 5);
}

#[test]
fn on_a_terminal_it_stays_up_to_date_and_gives_the_terminal_back() {
    let (topic, group) = stranger();
    let inner =
        format!("stty rows 40 cols 60; exec {} lag --group {group} --watch 1", env!("CARGO_BIN_EXE_sluicegate"));
    let page = std::env::temp_dir().join(unique("screen"));
    let environment = command(&[]);
    let mut child = Command::new("script")
        .envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .args(["-qfec", &inner])
        .arg(&page)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .current_dir(std::env::temp_dir())
        .spawn()
        .expect("script, which every Linux has");
    let seen = || std::fs::read_to_string(&page).unwrap_or_default();
    let shows =
        |lag: &str| seen().lines().any(|line| line.contains(&group) && line.split_whitespace().nth(6) == Some(lag));
    support::wait_for("the first table", MINUTE, || shows("6").then_some(()));
    commit(&topic, &group, &[(0, 10)]);
    support::wait_for("another one", MINUTE, || shows("0").then_some(()));
    assert!(!seen().contains("\x1b[?1049l"), "it is still there");
    // Ctrl-C, as the terminal makes a signal of it.
    child.stdin.take().unwrap().write_all(b"\x03").unwrap();
    let status = support::wait_for("the end", MINUTE, || child.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", seen());
    let page = seen();
    // The table is wider than this terminal, which cuts its lines off for as long as it is shown.
    assert!(page.lines().any(|line| line.chars().count() > 60), "{page:?}");
    let (enter, leave) = (page.find("\x1b[?1049h\x1b[?25l\x1b[?7l"), page.rfind("\x1b[?7h\x1b[?25h\x1b[?1049l"));
    assert!(enter.is_some() && leave > enter, "{page:?}");
}

#[test]
fn what_is_not_there_is_said() {
    let output = lag(&["--group", "no-such-group"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no group \"no-such-group\""), "{}", text(&output.stderr));
    // A group that has committed nothing is no error, and a line like others. A broker that has just started may not know yet.
    let output =
        support::wait_for("an answer", MINUTE, || Some(lag(&["--json"])).filter(|output| output.status.success()));
    let all = objects(&output);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(
        (&all[0]["state"], &all[0]["topic"], &all[0]["partition"]),
        (&"Unknown".into(), &Value::Null, &Value::Null)
    );
}

#[test]
fn who_watches_is_told_of_what_fails_and_goes_on() {
    let (topic, group) = (unique("later"), unique("later"));
    support::create_topic(&support::brokers(), &topic, 1, &[]);
    let page = std::env::temp_dir().join(unique("watched"));
    let file = || std::fs::File::options().create(true).append(true).open(&page).unwrap();
    let mut child = command(&["--group", &group, "--json", "--watch", "1"])
        .stdin(Stdio::null())
        .stdout(file())
        .stderr(file())
        .spawn()
        .unwrap();
    let said = |word: &str| std::fs::read_to_string(&page).unwrap_or_default().contains(word).then_some(());
    support::wait_for("what fails", MINUTE, || said("error: there is no group"));
    commit(&topic, &group, &[(0, 0)]);
    support::wait_for("an object", MINUTE, || said(&format!("\"topic\":\"{topic}\"")));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = support::wait_for("the end", MINUTE, || child.try_wait().unwrap());
    assert!(kill.success() && status.success(), "{status}");
    let _ = std::fs::remove_file(&page);
}

#[test]
fn a_flow_of_ours_exports_how_long_its_next_record_waits() {
    let mut world = World::new("behind");
    world.produce(600);
    world.flush();
    let instance = world.start();
    world.wait_written(MINUTE);
    let at_the_end = || instance.metric("sluicegate_lag_seconds").filter(|seconds| *seconds == 0.0);
    support::wait_for("0 seconds", MINUTE, at_the_end);
    // Nothing can be written: what comes now waits, and longer and longer.
    let mut client = support::connect(&world.url);
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE processed_seed_status").unwrap();
    world.produce(60);
    world.flush();
    let first = support::wait_for("a wait", MINUTE, || instance.metric("sluicegate_lag_seconds").filter(|s| *s > 1.0));
    support::wait_for("more of it", MINUTE, || instance.metric("sluicegate_lag_seconds").filter(|s| *s > first));
    assert!(instance.metric("sluicegate_batches_in_flight").is_some_and(|count| count > 0.0));
    lock.rollback().unwrap();
    world.wait_written(MINUTE);
    support::wait_for("0 again", MINUTE, at_the_end);
    support::wait_for("no batch", MINUTE, || instance.metric("sluicegate_batches_in_flight").filter(|n| *n == 0.0));
    world.check();
}

#[test]
fn the_lag_of_groups_of_others_is_exported_where_it_is_asked_for() {
    let ((topic, group), mut world) = (stranger(), World::new("watched"));
    world.settings.insert("SLUICEGATE_LAG_GROUPS", format!("{group},nobody"));
    let instance = world.start();
    let all = |name: &str| -> Option<Vec<String>> {
        let metrics = instance.get("/metrics")?.1;
        let name = format!("sluicegate_group_lag_{name}{{");
        Some(metrics.lines().filter_map(|line| line.strip_prefix(&name)).map(str::to_owned).collect())
    };
    let of = |id: i32| format!("group=\"{group}\",topic=\"{topic}\",partition=\"{id}\"}} ");
    let shows = |expected: [String; 2]| {
        support::wait_for("the lag of others", MINUTE, || (all("records")? == expected).then_some(()));
    };
    // Of the last one it has committed nothing.
    shows([format!("{}6", of(0)), format!("{}0", of(1))]);
    let seconds = || all("seconds")?.iter().find_map(|line| line.strip_prefix(&of(0))?.parse::<f64>().ok());
    assert!(support::wait_for("its time", MINUTE, seconds) > 990_000.0);
    commit(&topic, &group, &[(0, 9)]);
    shows([format!("{}1", of(0)), format!("{}0", of(1))]);
}

#[test]
fn a_record_that_is_not_due_yet_is_not_late() {
    let mut stream = Stream::new("kept", r#"[{"kind": "fail", "transient_percent": 100, "permanent_percent": 0}]"#)
        .with("SLUICEGATE_FLOWS_EVENTS_RETRY_DELAY_MS", "3600000");
    stream.send(Some("m-1"), "key", "{}");
    stream.flush();
    let instance = stream.start();
    let waits_at = || {
        let metrics = instance.get("/metrics")?.1;
        let topic = format!("topic=\"{}-retry-1\"", stream.topic);
        let is_it = |line: &&str| line.starts_with("sluicegate_partition_lag_records") && line.contains(&topic);
        let line = metrics.lines().filter(is_it).find(|line| line.ends_with("} 1"))?;
        Some((line.split_once('{')?.1.to_owned(), metrics.clone()))
    };
    let behind = || {
        let (place, metrics) = waits_at()?;
        let name = format!("sluicegate_partition_lag_seconds{{{}", place.strip_suffix('1')?);
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    };
    assert_eq!(support::wait_for("a record that waits", MINUTE, behind), "0");
}
