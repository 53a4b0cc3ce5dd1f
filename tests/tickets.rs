//! The tickets flow and their producer against a real Kafka and a real PostgreSQL: whatever happens, each order is written
//! row by row in its sequence. The checks read tables and topics, and nothing that the program says of itself.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sluicegate::kafka::Producer;
use support::proxy::{Mode, Proxy};
use support::random::Random;
use support::{Instance, connect, unique, wait_for};

const PARTITIONS: i32 = 6;
const SOON: Duration = Duration::from_secs(60);
const MINUTES: Duration = Duration::from_secs(300);

/// A topic and a database of one's own.
struct Office {
    topic: String,
    url: String,
    settings: HashMap<&'static str, String>,
}

impl Office {
    fn new(stem: &str) -> Office {
        Office::at(stem, &support::brokers())
    }

    /// With a broker of one's own.
    fn at(stem: &str, brokers: &str) -> Office {
        let (topic, url) = (unique(stem), support::new_database(stem));
        support::create_topic(brokers, &topic, PARTITIONS, &[]);
        // With a place for each row, in the order in which they were written.
        let table =
            "CREATE TABLE tickets (place bigint GENERATED ALWAYS AS IDENTITY, order_id text COLLATE \"C\" NOT NULL,
            sequence bigint NOT NULL, ticket_id uuid NOT NULL, status text NOT NULL, customer_id text NOT NULL,
            price numeric(14,2) NOT NULL, changed_at timestamptz NOT NULL, PRIMARY KEY (order_id, sequence))";
        connect(&url).batch_execute(table).expect("a table");
        let settings = HashMap::from([
            ("KAFKA_BROKERS", brokers.to_owned()),
            ("DB_URL", url.clone()),
            ("LOG_LEVEL", "debug".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_TOPIC", topic.clone()),
            ("GROUP_ID", unique("group")),
            // Short, so that what a killed instance had is soon taken over.
            ("SLUICEGATE_FLOWS_TICKETS_SESSION_TIMEOUT_MS", "2000".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_REVOKE_GRACE_MS", "1000".to_owned()),
            // Small, so that a test of seconds has many transactions.
            ("SLUICEGATE_FLOWS_TICKETS_BATCH_ROWS_MAX", "100".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_GROUP_ROWS_MAX", "300".to_owned()),
        ]);
        Office { topic, url, settings }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Office {
        self.settings.insert(name, value.to_string());
        self
    }

    fn start(&self) -> Instance {
        Instance::start_with(&self.settings, &["run", "--flow", "tickets"])
    }

    fn verb(&self, arguments: &[&str]) -> String {
        let mut verb = Instance::start_with(&self.settings, arguments);
        assert_eq!(verb.wait(SOON), Some(0), "{arguments:?}: {}", verb.log_text());
        verb.log_text()
    }

    fn number(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).map_or(0, |row| row.get(0))
    }

    fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM tickets")
    }

    /// How many records the topic has.
    fn records(&self) -> i64 {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", support::brokers()).create().expect("a consumer");
        (0..PARTITIONS).map(|id| consumer.fetch_watermarks(&self.topic, id, SOON).expect("ends").1).sum()
    }

    fn wait_rows(&self, count: i64, limit: Duration) {
        wait_for(&format!("{count} rows"), limit, || (self.rows() >= count).then_some(()));
    }

    /// Every order row by row in its sequence, none missing and none twice, and each where it stands.
    fn check_orders(&self) {
        let broken = "SELECT count(*) FROM (SELECT sequence,
                lag(sequence, 1, 0::bigint) OVER (PARTITION BY order_id ORDER BY place) AS former FROM tickets) AS pairs
            WHERE sequence <> former + 1";
        assert_eq!(self.number(broken), 0, "rows that do not follow on the one before of their order");
        let astray =
            "SELECT count(*) FROM (SELECT order_id, max(sequence) AS sequence FROM tickets GROUP BY order_id) AS t
            FULL JOIN ticket_orders o USING (order_id) WHERE t.sequence IS DISTINCT FROM o.sequence";
        assert_eq!(self.number(astray), 0, "orders that do not stand where their rows do");
        for table in ["sluicegate_letters", "sluicegate_held", "sluicegate_parked"] {
            assert_eq!(self.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    }
}

fn ticket(order: &str, sequence: u64) -> String {
    format!(
        r#"{{"ticket_id":"018f3f2e-7a2b-7c3d-8e4f-{sequence:012}","order_id":"{order}","sequence":{sequence},"status":"paid","customer_id":"c","price":"12.50","changed_at_ms":1767225600000}}"#
    )
}

/// `SLUICEGATE_TICKETS=300000` is the long form, with more kills.
#[test]
fn preloaded_tickets_under_kill_9_and_rebalances_keep_every_order_whole() {
    let count: u64 = support::setting("SLUICEGATE_TICKETS", 30_000);
    let kills = (count / 3_000).clamp(4, 60);
    let office = Office::new("kills")
        // So that there is a middle to be killed in.
        .with("SLUICEGATE_FLOWS_TICKETS_RATE_MAX_PER_S", count / 12);
    office.verb(&["produce", "tickets", "--count", &count.to_string(), "--keys", "500"]);
    assert_eq!(office.records(), count as i64);
    let mut random = Random(count);
    let mut instances = [office.start(), office.start(), office.start()];
    office.wait_rows(1, SOON);
    for round in 1..=kills {
        let due = (round * count / (kills + 1)) as i64;
        office.wait_rows(due, MINUTES);
        let index = random.below(3) as usize;
        // Some leave in good order, so that partitions are handed over.
        instances[index].signal(if random.chance(75) { "KILL" } else { "TERM" });
        instances[index].wait(SOON);
        instances[index] = office.start();
    }
    office.wait_rows(count as i64, MINUTES);
    assert_eq!(office.rows(), count as i64);
    office.check_orders();
}

#[test]
fn a_failing_ticket_stops_its_order_alone_and_the_letter_frees_it() {
    let office = Office::new("blocked");
    let producer = Producer::new(&support::brokers(), &Default::default(), &office.topic).expect("a producer");
    let send =
        |order: &str, payload: &str| producer.send(None, Some(order.as_bytes()), payload.as_bytes()).expect("sent");
    for sequence in 1..=100 {
        send("good", &ticket("good", sequence));
        if sequence == 10 {
            send("invalid", "{\"order_id\":");
        }
        send("invalid", &ticket("invalid", sequence));
        if sequence != 50 {
            send("gap", &ticket("gap", sequence));
        }
    }
    let instance = office.start();
    let others = "SELECT count(*) FROM tickets WHERE order_id = 'good'";
    wait_for("the others", SOON, || (office.number(others) == 100).then_some(()));
    wait_for("what is held to be seen", SOON, || {
        let (held, parked) = ("sluicegate_held_keys", "sluicegate_parked_records");
        (instance.metric(held) == Some(2.0) && instance.metric(parked) == Some(91.0 + 49.0)).then_some(())
    });
    assert_eq!(office.number("SELECT max(sequence) FROM tickets WHERE order_id = 'invalid'"), 9);
    // The ledger is at the end, and still it is not all done.
    let mut settings = office.settings.clone();
    settings.insert("SLUICEGATE_FLOWS_TICKETS_ENABLED", "true".to_owned());
    let mut lag = Instance::start_with(&settings, &["lag", "--group", &settings["GROUP_ID"], "--json"]);
    assert_eq!(lag.wait(SOON), Some(0), "{}", lag.log_text());
    let text = lag.log_text();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    let is_told = |line: &&str| line.contains("\"held_keys\":2,\"parked_records\":140,");
    assert!(!lines.is_empty() && lines.iter().all(is_told), "{text}");
    assert_eq!(office.number("SELECT max(sequence) FROM tickets WHERE order_id = 'gap'"), 49);

    // One that nobody will mend is dropped; its order goes on while the program runs.
    let out = office.verb(&["letters", "drop", "--flow", "tickets", "--key", "invalid"]);
    assert!(out.contains("1 letters dropped"), "{out}");
    assert_eq!(office.number("SELECT count(*) FROM tickets WHERE order_id = 'invalid'"), 100);
    // What is missing comes after all, and then the letter has its turn.
    send("gap", &ticket("gap", 50));
    wait_for("what was missing", SOON, || (office.rows() == 250).then_some(()));
    let out = office.verb(&["letters", "replay", "--flow", "tickets", "--key", "gap"]);
    assert!(out.contains("1 letters replayed"), "{out}");
    assert_eq!(office.rows(), 300);
    send("gap", &ticket("gap", 101));
    office.wait_rows(301, SOON);
    wait_for("nothing to be held", SOON, || (instance.metric("sluicegate_held_keys") == Some(0.0)).then_some(()));
    connect(&office.url).batch_execute("DELETE FROM sluicegate_letters WHERE state <> 'open'").expect("settled ones");
    office.check_orders();
}

#[test]
fn what_is_parked_and_has_its_turn_goes_on_by_itself_where_the_flow_runs() {
    let office = Office::new("by_itself").with("SLUICEGATE_FLOWS_TICKETS_ON_DISORDER", "accept");
    let producer = Producer::new(&support::brokers(), &Default::default(), &office.topic).expect("a producer");
    producer.send(None, Some(b"a"), b"{").expect("sent");
    (2..=5).for_each(|sequence| producer.send(None, Some(b"a"), ticket("a", sequence).as_bytes()).expect("sent"));
    let _instance = office.start();
    let parked = || office.number("SELECT count(*) FROM sluicegate_parked");
    wait_for("what is parked", SOON, || (parked() == 4).then_some(()));
    // As a replay of far more leaves it, whose process then ends.
    let sql = "UPDATE sluicegate_held SET head = '', reason_code = 'following'";
    connect(&office.url).batch_execute(sql).expect("updated");
    office.wait_rows(4, SOON);
    wait_for("nothing to be held", SOON, || (office.number("SELECT count(*) FROM sluicegate_held") == 0).then_some(()));
    assert_eq!((parked(), office.rows()), (0, 4));
}

#[test]
fn letters_of_tickets_are_not_dropped_where_the_flow_is_not_at_hand() {
    let office = Office::new("strange");
    let producer = Producer::new(&support::brokers(), &Default::default(), &office.topic).expect("a producer");
    producer.send(None, Some(b"a"), b"{").expect("sent");
    let _instance = office.start();
    wait_for("the letter", SOON, || (office.number("SELECT count(*) FROM sluicegate_held") == 1).then_some(()));
    let mut drop = Instance::start_with(&office.settings, &["letters", "drop", "--all"]);
    drop.wait(SOON);
    assert_eq!(office.number("SELECT count(*) FROM sluicegate_letters WHERE state = 'open'"), 1, "{}", drop.log_text());
}

#[test]
fn the_producer_as_a_service_tells_of_itself_and_ends_with_everything_acknowledged() {
    let office = Office::new("service");
    let mut producer =
        Instance::start_with(&office.settings, &["produce", "tickets", "--serve", "--rate", "400", "--keys", "7"]);
    producer.wait_ready();
    let produced = || producer.metric("sluicegate_records_produced_total").filter(|count| *count > 300.0);
    wait_for("tickets", SOON, produced);
    assert!(producer.get("/health").is_some_and(|(status, _)| status == 200));
    producer.signal("TERM");
    assert_eq!(producer.wait(SOON), Some(0), "{}", producer.log_text());
    let records = office.records();
    assert!(
        producer.log_text().contains(&format!("{records} records into {}", office.topic)),
        "{}",
        producer.log_text()
    );
    let instance = office.start();
    office.wait_rows(records, SOON);
    office.check_orders();
    assert!(instance.is_ready());
    // With an end of its own it needs no signal.
    office.verb(&["produce", "tickets", "--serve", "--count", "50", "--rate", "1000"]);
    office.verb(&["produce", "tickets", "--duration", "1s", "--rate", "100"]);
    let more = office.records() - records;
    assert!((51..=151 + 50).contains(&more), "{more}");
    office.wait_rows(records + more, SOON);
    office.check_orders();
    // It listens only where it may.
    let arguments = ["produce", "tickets", "--serve", "--count", "1"];
    assert!(office.verb(&arguments).contains("listening on "));
    let log = office.with("SLUICEGATE_HTTP_ENABLED", false).verb(&arguments);
    assert!(log.contains("1 records into ") && !log.contains("listening on "), "{log}");
}

#[test]
fn one_process_produces_and_writes() {
    let office = Office::new("both").with("SLUICEGATE_FLOWS_TICKETS_PRODUCE_PER_S", 300);
    let mut instance = office.start();
    office.wait_rows(400, SOON);
    instance.signal("TERM");
    assert_eq!(instance.wait(SOON), Some(0), "{}", instance.log_text());
    let records = office.records();
    let rest = Office { settings: office.settings.clone(), topic: office.topic.clone(), url: office.url.clone() }
        .with("SLUICEGATE_FLOWS_TICKETS_PRODUCE_PER_S", 0);
    let _instance = rest.start();
    office.wait_rows(records, SOON);
    assert_eq!(office.rows(), records);
    office.check_orders();
}

/// A producer as a service tells of the trouble that begins, goes on once it may, and has lost no ticket.
fn outlives(
    office: &Office,
    settings: &HashMap<&'static str, String>,
    begin: impl FnOnce(),
    end: impl FnOnce(),
) -> Instance {
    let producer = Instance::start_with(settings, &["produce", "tickets", "--serve", "--rate", "300"]);
    let produced = |more: f64| producer.metric("sluicegate_records_produced_total").filter(|count| *count > more);
    let before = wait_for("tickets", SOON, || produced(100.0));
    begin();
    wait_for("trouble to be told", SOON, || {
        producer.get("/health").is_some_and(|(status, _)| status == 503).then_some(())
    });
    end();
    wait_for("it to go on", MINUTES, || produced(before + 1_000.0));
    assert_eq!(producer.metric("sluicegate_publish_errors_total"), Some(0.0));
    wait_for("health", SOON, || producer.is_ready().then_some(()));
    let _instance = office.start();
    office.wait_rows(1_000, MINUTES);
    office.check_orders();
    producer
}

#[test]
fn a_producer_waits_for_kafka_and_loses_no_ticket() {
    let directory = support::service_directory("away");
    let port = support::services(&["free-port"]);
    support::services(&["kafka", "start", &directory, &port]);
    let brokers = format!("127.0.0.1:{port}");
    let office = Office::at("away", &brokers);
    outlives(
        &office,
        &office.settings,
        || drop(support::services(&["kafka", "stop", &directory])),
        || drop(support::services(&["kafka", "start", &directory, &port])),
    );
    support::services(&["kafka", "stop", &directory]);
}

/// Connections that hang for ever are what a client looks like that will never find its broker again: another one does.
#[test]
fn a_producer_whose_client_is_lost_goes_on_with_another_one_and_loses_no_ticket() {
    let directory = support::service_directory("stranded");
    let port = support::services(&["free-port"]);
    // The broker tells its clients the proxy's port, or they would go past it.
    let proxy = Proxy::to(&format!("127.0.0.1:{port}"));
    let told = proxy.port.to_string();
    support::services_with(&[("SLUICEGATE_KAFKA_ADVERTISED_PORT", &told)], &["kafka", "start", &directory, &port]);
    let brokers = format!("127.0.0.1:{told}");
    let office = Office::at("stranded", &brokers);
    // Its own client would find the way after a minute, when it gives its requests up.
    let options = "socket.timeout.ms=290000";
    let mut settings = office.settings.clone();
    settings.insert("SLUICEGATE_KAFKA_OPTIONS", options.to_owned());
    let producer = outlives(&office, &settings, || proxy.set(Mode::Strand), || {});
    assert!(producer.log_text().contains("had lost its way to the brokers"));
    support::services(&["kafka", "stop", &directory]);
}

/// A broker that takes no record until it is told to: whoever sends is told to send again.
struct Refusing(MockCluster<'static, DefaultProducerContext>);

impl Refusing {
    fn new(topic: &str) -> Refusing {
        let cluster = MockCluster::new(1).expect("a broker");
        cluster.create_topic(topic, PARTITIONS, 1).expect("a topic");
        let again = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 10_000];
        cluster.request_errors(RDKafkaApiKey::Produce, &again);
        Refusing(cluster)
    }

    fn produce(&self, topic: &str, arguments: &[&str]) -> Instance {
        let settings = HashMap::from([
            ("KAFKA_BROKERS", self.0.bootstrap_servers()),
            ("DB_URL", "postgres://nobody@127.0.0.1:1/nothing".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_TOPIC", topic.to_owned()),
        ]);
        Instance::start_with(&settings, &[&["produce", "tickets", "--serve"], arguments].concat())
    }
}

#[test]
fn a_service_that_has_sent_its_last_ticket_waits_until_kafka_takes_it() {
    let topic = unique("refused");
    // A service that only begins is not well either.
    let is_silent = |producer: &Instance| {
        producer.get("/health").is_some_and(|(status, body)| status == 503 && body.contains("kafka.silent"))
    };
    // All sent at once, or each when the one before it is there.
    for more in [&["--count", "50"][..], &["--count", "5", "--sync"]] {
        let broker = Refusing::new(&topic);
        let mut producer = broker.produce(&topic, more);
        wait_for("trouble to be told", SOON, || is_silent(&producer).then_some(()));
        assert_eq!(producer.metric("sluicegate_records_produced_total"), Some(0.0));
        broker.0.clear_request_errors(RDKafkaApiKey::Produce);
        assert_eq!(producer.wait(SOON), Some(0), "{}", producer.log_text());
        assert!(producer.log_text().contains(&format!("{} records into {topic}", more[1])), "{}", producer.log_text());
    }
    // Told to stop, it says what it could not bring home; so does one whose time is over, when it is told.
    for more in [&["--count", "50"][..], &["--duration", "1s", "--sync"]] {
        let broker = Refusing::new(&topic);
        let mut producer = broker.produce(&topic, more);
        wait_for("trouble to be told", SOON, || is_silent(&producer).then_some(()));
        producer.signal("TERM");
        assert_eq!(producer.wait(SOON), Some(1));
        assert!(producer.log_text().contains("records were not acknowledged"), "{}", producer.log_text());
    }
}
