//! Traces through the real program: what came in with a record goes on with what is published because of it, stands in
//! log lines and letters, and spans of batches come to a collector, which may as well be silent.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sluicegate::kafka::Producer;
use sluicegate::outlet::{Message, Outlet};
use sluicegate::trace::Trace;

use support::stream::{PARTITIONS, SOON, Stream};
use support::world::World;
use support::{Instance, unique, update, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A trace like no other, as a header has it.
fn made_up(number: u64) -> String {
    format!("00-4bf92f3577b34da6a3ce929d{number:08x}-00f067aa0ba902b7-01")
}

fn trace(header: &str) -> Trace {
    Trace::read(header.as_bytes()).unwrap_or_else(|| panic!("{header:?} is no trace"))
}

/// A collector: keeps what it is sent, and says so, or takes the connection and never says a word.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start(is_silent: bool) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = requests.clone();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                match is_silent {
                    true => held.push(stream),
                    false => kept.lock().unwrap().push(take(stream)),
                }
            }
        });
        Collector { url, requests }
    }

    /// Every span that has come, by its name in its trace.
    fn spans(&self) -> BTreeMap<(String, String), Value> {
        let requests = self.requests.lock().unwrap();
        let of_request =
            |request: &Value| request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        let key = |span: &Value| (text(&span["traceId"]), text(&span["name"]));
        requests.iter().flat_map(of_request).map(|span| (key(&span), span)).collect()
    }
}

fn take(mut stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
        head.push_str(&std::mem::take(&mut line));
    }
    assert!(
        head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("Content-Type: application/json"),
        "{head}"
    );
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().trim().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn nanos(value: &Value) -> u64 {
    text(value).parse().unwrap()
}

/// Records of the status flow that belong to traces.
fn send_traced(world: &mut World, count: u64) {
    let producer = Producer::new(&world.brokers, &Default::default(), &world.topic).unwrap();
    for number in 0..count {
        let partition = (number % world.produced.len() as u64) as i32;
        let offset = &mut world.produced[partition as usize];
        let payload = update(partition, *offset, "SUCCESS");
        producer.send_with(Some(partition), None, &payload, &[("traceparent", made_up(number))]).unwrap();
        *offset += 1;
    }
    assert_eq!(producer.finish().0.failed, 0);
}

#[test]
fn a_collector_gets_the_way_of_each_batch_and_the_traces_that_its_records_belong_to() {
    let collector = Collector::start(false);
    let mut world = World::new("spans");
    world.settings.insert("SLUICEGATE_TRACING_OTLP_ENDPOINT", collector.url.clone());
    world.settings.insert("SLUICEGATE_TRACING_SAMPLE_RATIO", "1".to_owned());
    send_traced(&mut world, 600);
    let mut instance = world.start();
    world.wait_written(MINUTE);
    let rows = |spans: &BTreeMap<(String, String), Value>| -> i64 {
        let batches = spans.values().filter(|span| span["name"] == "batch");
        let rows = |span: &Value| {
            let attributes = span["attributes"].as_array().unwrap().iter();
            let rows = attributes.clone().find(|attribute| attribute["key"] == "sluicegate.rows").unwrap();
            text(&rows["value"]["intValue"]).parse::<i64>().unwrap()
        };
        batches.map(rows).sum()
    };
    wait_for("spans of all rows", MINUTE, || (rows(&collector.spans()) == 600).then_some(()));
    let spans = collector.spans();
    let mut linked = BTreeSet::new();
    for ((trace_id, _), batch) in spans.iter().filter(|((_, name), _)| name == "batch") {
        let span = |name: &str| &spans[&(trace_id.clone(), name.to_owned())];
        assert_eq!((trace_id.len(), text(&batch["parentSpanId"]).as_str()), (32, ""));
        for name in ["poll", "decode", "queue", "write"] {
            assert_eq!(span(name)["parentSpanId"], batch["spanId"], "{name}");
        }
        assert_eq!(span("commit")["parentSpanId"], span("write")["spanId"]);
        let (begin, end) =
            (|name: &str| nanos(&span(name)["startTimeUnixNano"]), |name: &str| nanos(&span(name)["endTimeUnixNano"]));
        assert!(begin("batch") <= begin("queue") && end("queue") <= begin("write") && begin("write") < end("write"));
        assert!(begin("write") <= begin("commit") && begin("commit") < end("commit") && end("write") == end("batch"));
        assert!(begin("decode") < end("decode") && end("decode") == begin("queue"));
        let links = batch["links"].as_array().unwrap();
        assert!((1..=8).contains(&links.len()), "{links:?}");
        linked.extend(links.iter().map(|link| text(&link["traceId"])));
    }
    assert!(linked.contains(&made_up(0)[3..35]) && linked.iter().all(|id| id.starts_with("4bf92f3577b34da6a3ce929d")));
    let batches = spans.keys().filter(|(_, name)| name == "batch").count();
    let exported = || instance.metric("sluicegate_spans_exported_total").filter(|count| *count == batches as f64);
    wait_for("as many counted", MINUTE, exported);
    assert_eq!(instance.metric("sluicegate_spans_dropped_total"), Some(0.0));
    // What is under way when it is told to stop is sent too, however long it takes: here it waits for a lock.
    let mut client = support::connect(&world.url);
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE processed_seed_status").unwrap();
    world.produce(6);
    world.flush();
    let under_way = || instance.metric("sluicegate_batches_in_flight").filter(|count| *count == 6.0);
    wait_for("batches under way", MINUTE, under_way);
    instance.signal("TERM");
    wait_for("the order to be heard", MINUTE, || instance.log_text().contains("stopping, within").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    lock.rollback().unwrap();
    assert_eq!(instance.wait(MINUTE), Some(0));
    assert_eq!(rows(&collector.spans()), 606);
    world.check();
}

#[test]
fn a_collector_that_says_nothing_costs_spans_and_no_record() {
    let collector = Collector::start(true);
    let mut world = World::new("silent");
    world.settings.insert("SLUICEGATE_TRACING_OTLP_ENDPOINT", collector.url.clone());
    world.settings.insert("SLUICEGATE_TRACING_SAMPLE_RATIO", "1.0".to_owned());
    world.settings.insert("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", "2".to_owned());
    world.produce(12_000);
    world.flush();
    let mut instance = world.start();
    world.wait_written(MINUTE);
    let dropped = || instance.metric("sluicegate_spans_dropped_total").filter(|count| *count > 0.0);
    wait_for("drops", MINUTE, dropped);
    instance.signal("TERM");
    assert_eq!(instance.wait(Duration::from_secs(20)), Some(0));
    assert_eq!(instance.log_text().matches("spans are dropped").count(), 1, "it is said once");
    world.check();
}

#[test]
fn a_letter_and_its_log_line_say_which_trace_they_belong_to() {
    let world = World::new("letter");
    let producer = Producer::new(&world.brokers, &Default::default(), &world.topic).unwrap();
    for (partition, header) in [(0, made_up(7)), (1, "canary".to_owned())] {
        producer.send_with(Some(partition), None, b"no Avro", &[("traceparent", header)]).unwrap();
    }
    producer.finish();
    let instance = world.start();
    let letters =
        || support::connect(&world.url).query("SELECT id FROM sluicegate_letters ORDER BY partition", &[]).ok();
    let ids: Vec<i64> = wait_for("two letters", MINUTE, || letters().filter(|rows| rows.len() == 2))
        .iter()
        .map(|row| row.get(0))
        .collect();
    let log =
        wait_for("the line", MINUTE, || Some(instance.log_text()).filter(|log| log.matches("set aside").count() == 2));
    let line = log.lines().find(|line| line.contains("trace_id=")).expect("a line with its trace");
    assert!(line.contains(&format!("trace_id={} span_id={}", &made_up(7)[3..35], &made_up(7)[36..52])), "{line}");
    assert!(!log.contains("canary") && log.matches("trace_id=").count() == 1, "what is no trace is in no line");
    let show = |arguments: &[&str]| {
        let mut show = Instance::start_with(&world.settings, &[&["letters", "show"], arguments].concat());
        assert_eq!(show.wait(MINUTE), Some(0));
        show.log_text()
    };
    let page = show(&[&ids[0].to_string()]);
    assert!(page.contains(&format!("trace id      {}\n", &made_up(7)[3..35])), "{page}");
    assert!(page.contains(&format!("span id       {}\n", &made_up(7)[36..52])), "{page}");
    assert!(!show(&[&ids[1].to_string()]).contains("trace id"));
    let json = show(&[&ids[0].to_string(), "--json"]);
    let json: Value = serde_json::from_str(json.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!(text(&json["trace_id"]), &made_up(7)[3..35]);
}

/// What is wrong with a ticket shows only in its transaction.
#[test]
fn a_letter_that_a_flow_decides_on_in_its_transaction_has_the_same_line() {
    let (topic, url) = (unique("ticket"), support::new_database("ticket"));
    support::create_topic(&support::brokers(), &topic, 2, &[]);
    let settings = HashMap::from([
        ("KAFKA_BROKERS", support::brokers()),
        ("DB_URL", url.clone()),
        ("LOG_LEVEL", "debug".to_owned()),
        ("SLUICEGATE_FLOWS_TICKETS_TOPIC", topic.clone()),
        ("GROUP_ID", topic.clone()),
    ]);
    let producer = Producer::new(&support::brokers(), &Default::default(), &topic).unwrap();
    producer.send_with(Some(1), Some(b"a"), b"{", &[("traceparent", made_up(7))]).unwrap();
    producer.finish();
    let instance = Instance::start_with(&settings, &["run", "--flow", "tickets"]);
    let line = |log: &str, what: &str| log.lines().find(|line| line.contains(what)).map(str::to_owned);
    let line_of = |what: &str, log: &dyn Fn() -> String| wait_for("the line", MINUTE, || line(&log(), what));
    let traced = format!(" trace_id={} span_id={}", &made_up(7)[3..35], &made_up(7)[36..52]);
    let found = line_of("set aside: ", &|| instance.log_text());
    let place = format!(" flow=tickets topic={topic} partition=1 offset=0 code=tickets.invalid");
    assert!(found.ends_with(&format!("{place}{traced}")), "{found}");
    let mut replay = Instance::start_with(&settings, &["letters", "replay", "--flow", "tickets"]);
    assert_eq!(replay.wait(MINUTE), Some(1), "{}", replay.log_text());
    let found = line_of("refused again: ", &|| replay.log_text());
    assert!(found.contains(&format!("{place} letter=")) && found.ends_with(&traced), "{found}");
    assert_eq!(instance.log_text().matches("set aside: ").count(), 1);
}

#[test]
fn an_event_that_is_tried_again_and_buried_stays_in_its_trace() {
    let stream = Stream::new("traced", r#"[{"kind": "fail", "transient_percent": 100, "permanent_percent": 0}]"#);
    let header = made_up(9);
    let headers = [("message_id", Some(&b"m-1"[..])), ("traceparent", Some(header.as_bytes()))];
    let message = Message { topic: &stream.topic, key: None, payload: Some(b"{}"), source: None, headers: &headers };
    let (tell, told) = std::sync::mpsc::channel();
    stream.publisher.publish(&message, Box::new(move |result| tell.send(result).unwrap())).unwrap();
    told.recv_timeout(SOON).unwrap().unwrap();
    let _instance = stream.start();
    wait_for("its end", MINUTE, || (stream.number("SELECT count(*) FROM sluicegate_letters") == 1).then_some(()));
    stream.settle();
    let topics = stream.read_topics().into_iter().chain([stream.dead()]);
    let traces: Vec<Trace> =
        topics.flat_map(|topic| stream.all(&topic)).map(|read| trace(read.header("traceparent").unwrap())).collect();
    assert_eq!(traces[0].to_string(), header);
    assert!(traces.len() >= 3 && traces.iter().all(|found| found.trace_id == traces[0].trace_id), "{traces:?}");
    let spans: BTreeSet<u64> = traces.iter().map(|found| found.span_id).collect();
    assert_eq!(spans.len(), traces.len(), "each has a span of its own: {traces:?}");
}

#[test]
fn what_is_told_of_an_order_belongs_to_the_trace_of_the_order() {
    // It knows how to read a topic.
    let stream = Stream::new("orders", "[]");
    let topic = unique("shop");
    let name = |suffix: &str| format!("{topic}-{suffix}");
    let settings = HashMap::from([
        ("KAFKA_BROKERS", support::brokers()),
        ("DB_URL", stream.url.clone()),
        ("SLUICEGATE_FLOWS_ORDERS_TOPIC", topic.clone()),
        ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", topic.clone()),
        ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", PARTITIONS.to_string()),
        ("SLUICEGATE_FLOWS_ORDERS_VALIDATED_TOPIC", name("validated")),
        ("SLUICEGATE_FLOWS_ORDERS_INVENTORY_TOPIC", name("inventory")),
        ("SLUICEGATE_FLOWS_ORDERS_WAREHOUSE_TOPIC", name("warehouse")),
    ]);
    assert_eq!(Instance::start_with(&settings, &["init", "--flow", "orders"]).wait(MINUTE), Some(0));
    for more in [&["--trace"][..], &[]] {
        let arguments = [&["produce", "orders", "--count", "20"], more].concat();
        assert_eq!(Instance::start_with(&settings, &arguments).wait(MINUTE), Some(0));
    }
    let _instance = Instance::start_with(&settings, &["run", "--flow", "orders"]);
    let told = |suffix: &str| {
        wait_for("40 messages", MINUTE, || Some(stream.all(&name(suffix))).filter(|all| all.len() == 40))
    };
    let ids = |all: &[support::stream::Read]| -> BTreeMap<String, Trace> {
        let order =
            |read: &support::stream::Read| text(&serde_json::from_str::<Value>(read.text()).unwrap()["order_id"]);
        all.iter().filter_map(|read| Some((order(read), trace(read.header("traceparent")?)))).collect()
    };
    let orders = ids(&stream.all(&topic));
    assert_eq!(orders.len(), 20, "those that were asked to");
    let distinct: BTreeSet<u128> = orders.values().map(|trace| trace.trace_id).collect();
    assert_eq!(distinct.len(), 20, "each has its own");
    for suffix in ["validated", "warehouse"] {
        let told = ids(&told(suffix));
        assert_eq!(told.keys().collect::<Vec<_>>(), orders.keys().collect::<Vec<_>>(), "{suffix}");
        for (order, trace) in &told {
            assert_eq!(trace.trace_id, orders[order].trace_id);
            assert_ne!(trace.span_id, orders[order].span_id);
        }
    }
}
