//! The orders flow against a real Kafka and a real PostgreSQL: whatever happens, each order is one row, and what is
//! reserved was there. The checks read tables and topics, and nothing that the program says of itself.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sluicegate::kafka::Producer;
use sluicegate::kafka::admin::create_topic;
use support::{Instance, connect, unique, wait_for};
use uuid::Uuid;

const PARTITIONS: i32 = 6;
const SOON: Duration = Duration::from_secs(60);

/// What was asked for, under its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    customer: String,
    product: String,
    quantity: i32,
    cents: i64,
}

/// A database and topics of one's own, and all orders that were sent.
struct Shop {
    topic: String,
    url: String,
    settings: HashMap<&'static str, String>,
    asked: BTreeMap<Uuid, Asked>,
    letters: i64,
    producer: Option<Producer>,
}

impl Shop {
    fn new(stem: &str) -> Shop {
        let (topic, url) = (unique(stem), support::new_database(stem));
        let settings = HashMap::from([
            ("KAFKA_BROKERS", support::brokers()),
            ("DB_URL", url.clone()),
            ("LOG_LEVEL", "debug".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_TOPIC", topic.clone()),
            ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", unique("group")),
            ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", PARTITIONS.to_string()),
            ("SLUICEGATE_FLOWS_ORDERS_SESSION_TIMEOUT_MS", "6000".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_BATCH_ROWS_MAX", "100".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_GROUP_ROWS_MAX", "300".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_VALIDATED_TOPIC", format!("{topic}-validated")),
            ("SLUICEGATE_FLOWS_ORDERS_INVENTORY_TOPIC", format!("{topic}-inventory")),
            ("SLUICEGATE_FLOWS_ORDERS_WAREHOUSE_TOPIC", format!("{topic}-warehouse")),
        ]);
        for suffix in ["", "-validated", "-inventory", "-warehouse"] {
            create_topic(&support::brokers(), &Default::default(), &format!("{topic}{suffix}"), PARTITIONS, 1)
                .expect("a topic");
        }
        Shop { topic, url, settings, asked: BTreeMap::new(), letters: 0, producer: None }
    }

    fn with(mut self, leaf: &'static str, value: &str) -> Shop {
        self.settings.insert(leaf, value.to_owned());
        self
    }

    fn start(&self) -> Instance {
        Instance::start_with(&self.settings, &["run", "--flow", "orders"])
    }

    fn send(&mut self, key: &str, payload: &[u8]) {
        let new = || Producer::new(&support::brokers(), &Default::default(), &self.topic).expect("a producer");
        self.producer.get_or_insert_with(new).send(None, Some(key.as_bytes()), payload).expect("sent");
    }

    fn order(&mut self, id: Uuid, product: &str, quantity: i32) {
        let number = self.asked.len() as i64;
        let (customer, cents) = (format!("CUST{:02}", number % 37), number * 7 % 100_000);
        let asked = Asked { customer, product: product.to_owned(), quantity, cents };
        self.place(id, &asked);
        self.asked.insert(id, asked);
    }

    fn place(&mut self, id: Uuid, asked: &Asked) {
        let Asked { customer, product, quantity, cents } = asked;
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let payload = format!(
            r#"{{"order_id":"{id}","customer_id":"{customer}","product_id":"{product}","quantity":{quantity},"amount":{amount}}}"#
        );
        self.send(customer, payload.as_bytes());
    }

    /// The same record once more, as a client does that repeats its request.
    fn repeat(&mut self, id: Uuid) {
        let asked = self.asked[&id].clone();
        self.place(id, &asked);
    }

    fn nonsense(&mut self, payload: &[u8]) {
        self.letters += 1;
        self.send("CUST00", payload);
    }

    fn flush(&mut self) {
        if let Some(producer) = self.producer.take() {
            let (sent, fault) = producer.finish();
            assert!(sent.failed == 0 && fault.is_none(), "{sent:?} {fault:?}");
        }
    }

    fn number(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).expect(sql).get(0)
    }

    fn rows(&self) -> i64 {
        connect(&self.url).query_one("SELECT count(*) FROM orders", &[]).map_or(0, |row| row.get(0))
    }

    /// How often two sessions waited for each other, so that the server had to end one.
    fn deadlocks(&self) -> i64 {
        self.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    }

    /// Waits until every order is a row, and compares the tables with what was asked for.
    fn check(&self) -> Books {
        let mut client = connect(&self.url);
        wait_for("every order to be a row", SOON, || (self.rows() >= self.asked.len() as i64).then_some(()));
        wait_for("every letter", SOON, || {
            (self.number("SELECT count(*) FROM sluicegate_letters") >= self.letters).then_some(())
        });
        assert_eq!(self.number("SELECT count(*) FROM sluicegate_letters"), self.letters);

        let mut books = Books::default();
        let mut rows = BTreeMap::new();
        let sql = "SELECT order_id, customer_id, product_id, quantity, (amount * 100)::bigint, status, reason, bucket
                   FROM orders";
        for row in client.query(sql, &[]).expect("orders") {
            let asked = Asked { customer: row.get(1), product: row.get(2), quantity: row.get(3), cents: row.get(4) };
            let (status, reason): (String, Option<String>) = (row.get(5), row.get(6));
            let word = reason.clone().unwrap_or_else(|| status.clone());
            if status == "reserved" {
                *books.taken.entry((asked.product.clone(), row.get(7))).or_default() += i64::from(asked.quantity);
                books.reserved.insert(row.get(0));
            }
            *books.words.entry((asked.product.clone(), word)).or_default() += 1;
            rows.insert(row.get::<_, Uuid>(0), asked);
        }
        assert_eq!(rows, self.asked, "each order is one row, and nothing else is");

        let sql = "SELECT product_id, bucket, available_quantity, reserved_quantity, total_quantity FROM inventory";
        for row in client.query(sql, &[]).expect("inventory") {
            let shelf: (String, i16) = (row.get(0), row.get(1));
            let (available, reserved, total): (i64, i64, i64) = (row.get(2), row.get(3), row.get(4));
            assert!(available >= 0 && available + reserved == total, "{shelf:?}");
            let taken = books.taken.remove(&shelf).unwrap_or(0);
            assert_eq!(reserved, taken, "{shelf:?}: what is reserved is what the reserved orders say");
            *books.available.entry(shelf.0.clone()).or_default() += available;
            *books.total.entry(shelf.0).or_default() += total;
        }
        assert!(books.taken.is_empty(), "taken from nowhere: {:?}", books.taken);
        books
    }

    /// Every message of a topic: its source and its JSON. Waits until `is_enough`.
    fn messages(&self, suffix: &str, is_enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", support::brokers())
            .set("group.id", unique("reader"))
            .create()
            .expect("a consumer");
        let mut all = TopicPartitionList::new();
        let topic = format!("{}{suffix}", self.topic);
        (0..PARTITIONS).for_each(|id| all.add_partition_offset(&topic, id, Offset::Beginning).expect("a partition"));
        consumer.assign(&all).expect("assigned");
        let (mut seen, until) = (Vec::new(), Instant::now() + SOON);
        while !is_enough(&seen) {
            assert!(Instant::now() < until, "{topic} has only {} messages", seen.len());
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.expect("a message");
            let source = message.headers().expect("headers").iter().find(|header| header.key == "sluicegate-source");
            let source = source.and_then(|header| header.value).expect("a source");
            seen.push(Told {
                source: String::from_utf8(source.to_vec()).expect("text"),
                json: serde_json::from_slice(message.payload().expect("a payload")).expect("JSON"),
            });
        }
        seen
    }
}

struct Told {
    source: String,
    json: serde_json::Value,
}

impl Told {
    fn order_id(&self) -> Uuid {
        self.json["order_id"].as_str().expect("an id").parse().expect("a UUID")
    }
}

/// What the tables say.
#[derive(Default)]
struct Books {
    /// Orders by product and status, or reason where they were rejected.
    words: BTreeMap<(String, String), i64>,
    available: BTreeMap<String, i64>,
    total: BTreeMap<String, i64>,
    reserved: BTreeSet<Uuid>,
    taken: BTreeMap<(String, i16), i64>,
}

impl Books {
    fn word(&self, product: &str, word: &str) -> i64 {
        self.words.get(&(product.to_owned(), word.to_owned())).copied().unwrap_or(0)
    }
}

/// More orders than there is stock, some for what there is not, some twice, some that are none.
fn sells_out(shop: &mut Shop) {
    for number in 0..6_000u32 {
        let id = Uuid::now_v7();
        shop.order(id, "PROD007", 1);
        if number % 10 == 0 {
            shop.repeat(id);
            shop.order(Uuid::now_v7(), "PROD999", 1);
            shop.order(Uuid::now_v7(), "PROD001", 5);
        }
    }
    shop.nonsense(b"not JSON");
    shop.nonsense(br#"{"order_id":"1","customer_id":"","product_id":"PROD001","quantity":0,"amount":-1}"#);
    shop.flush();
}

#[test]
fn what_is_there_is_sold_to_the_last_piece_and_no_further_and_others_are_told() {
    for (buckets, lock) in [("1", "wait"), ("4", "wait"), ("1", "nowait")] {
        let mut shop = Shop::new("sellout")
            .with("SLUICEGATE_FLOWS_ORDERS_BUCKETS", buckets)
            .with("SLUICEGATE_FLOWS_ORDERS_LOCK", lock);
        sells_out(&mut shop);
        let _instances = [shop.start(), shop.start()];
        let books = shop.check();
        let what = format!("{buckets} buckets, {lock}");
        assert_eq!(books.word("PROD007", "reserved"), 5_000, "{what}");
        assert_eq!(books.word("PROD007", "insufficient_stock"), 1_000, "{what}");
        assert_eq!(books.word("PROD999", "unknown_product"), 600, "{what}");
        assert_eq!(books.word("PROD001", "reserved"), 600, "{what}");
        assert_eq!((books.available["PROD007"], books.total["PROD007"]), (0, 5_000), "{what}");
        assert_eq!((books.available["PROD001"], books.total["PROD001"]), (7_000, 10_000), "{what}");
        assert_eq!(shop.deadlocks(), 0, "{what}: our own writers never wait for each other");

        let validated = shop.messages("-validated", |seen| seen.len() >= shop.asked.len());
        let told: BTreeSet<Uuid> = validated.iter().map(Told::order_id).collect();
        assert!(told.len() == validated.len() && told.iter().eq(shop.asked.keys()), "{what}: one for each order");
        let status = |told: &&Told| told.json["status"] == "reserved";
        let reserved: BTreeSet<Uuid> = validated.iter().filter(status).map(Told::order_id).collect();
        assert_eq!(reserved, books.reserved, "{what}");
        let warehouse = shop.messages("-warehouse", |seen| seen.len() >= books.reserved.len());
        assert_eq!(warehouse.iter().map(Told::order_id).collect::<BTreeSet<_>>(), books.reserved, "{what}");
        let taken = |told: &Told| told.json["taken"].as_i64().expect("a number");
        let sum = |seen: &[Told]| seen.iter().map(taken).sum::<i64>();
        let changes = shop.messages("-inventory", |seen| sum(seen) >= 8_000);
        assert_eq!(sum(&changes), 8_000, "{what}: 5,000 of one and five times 600 of another");
        wait_for("an empty outbox", SOON, || {
            (shop.number("SELECT count(*) FROM sluicegate_outbox") == 0).then_some(())
        });
    }
}

/// A guess that did not hold gives its locks back at once, not at the end of the transaction: else two writers whose guesses
/// fail would wait for each other. The writer takes them again for its second try, and may be back before the one that was
/// waiting has woken up: who is first is left to chance.
#[test]
fn who_waits_for_a_guess_that_fails_goes_on_at_once() {
    assert!((0..40).any(|_| goes_on_at_once()), "never before the orders were committed");
}

fn goes_on_at_once() -> bool {
    let mut shop = Shop::new("guess");
    let mut first = shop.start();
    first.wait_ready();
    first.signal("TERM");
    first.wait(SOON);
    // Both in one batch, as they are there before anybody reads.
    shop.order(Uuid::now_v7(), "PROD001", 1);
    let customer = shop.asked.values().next().expect("an order").customer.clone();
    let second = Asked { customer, product: "PROD002".to_owned(), quantity: 1, cents: 7 };
    let id = Uuid::now_v7();
    shop.place(id, &second);
    shop.asked.insert(id, second);
    shop.flush();
    let waiting = || {
        shop.number(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
    };
    let mut stock = connect(&shop.url);
    let mut sale = stock.transaction().expect("a transaction");
    let sold_out = "UPDATE inventory SET total_quantity = reserved_quantity, available_quantity = 0
                    WHERE product_id = 'PROD002'";
    sale.batch_execute(sold_out).expect("sold out");
    let _instance = shop.start();
    // It has guessed, copied, and locked the first product; it waits for the second one.
    wait_for("the writer to wait", SOON, || (waiting() == 1).then_some(()));
    let orders = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let mut client = connect(&shop.url);
            let mut work = client.transaction().expect("a transaction");
            work.query("SELECT FROM inventory WHERE product_id = 'PROD001' FOR UPDATE", &[]).expect("locked");
            let orders: i64 = work.query_one("SELECT count(*) FROM orders", &[]).expect("a count").get(0);
            work.commit().expect("committed");
            orders
        });
        wait_for("the stranger to wait", SOON, || (waiting() == 2).then_some(()));
        sale.commit().expect("committed");
        stranger.join().expect("the stranger lives")
    });
    let books = shop.check();
    assert_eq!((books.word("PROD001", "reserved"), books.word("PROD002", "insufficient_stock")), (1, 1));
    orders == 0
}

/// Takes a piece away and brings it back, again and again, locks products in the wrong order, and holds them. Gives how
/// often it was done.
fn disturb(url: &str, is_over: &AtomicBool) -> u32 {
    let mut client = connect(url);
    let mut turns = 0;
    while !is_over.load(Ordering::Acquire) {
        let mut change = |change: i64| {
            let sql = format!(
                "UPDATE inventory SET available_quantity = available_quantity + {change},
                                      total_quantity = total_quantity + {change}
                 WHERE product_id = 'PROD007' AND bucket = 0 AND available_quantity + {change} >= 0"
            );
            wait_for("the change", SOON, || client.execute(&sql, &[]).ok())
        };
        if change(-1) > 0 {
            change(1);
        }
        // One of the two that wait for each other is ended by the server: it may be this one.
        let _ = client.batch_execute(
            "BEGIN; SELECT 1 FROM inventory WHERE product_id = 'PROD007' FOR UPDATE;
             SELECT pg_sleep(0.01); SELECT 1 FROM inventory WHERE product_id = 'PROD001' FOR UPDATE; COMMIT",
        );
        let _ = client.batch_execute("ROLLBACK");
        turns += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    turns
}

#[test]
fn kill_9_twenty_times_with_two_instances_and_strangers_at_the_stock_oversells_nothing() {
    for buckets in ["1", "3"] {
        let mut shop = Shop::new("kill")
            .with("SLUICEGATE_FLOWS_ORDERS_BUCKETS", buckets)
            // Whoever comes next waits for the session of the former one.
            .with("SLUICEGATE_FLOWS_ORDERS_SESSION_TIMEOUT_MS", "2000")
            .with("SLUICEGATE_FLOWS_ORDERS_REVOKE_GRACE_MS", "1000");
        // Those who wait for each other are found out soon.
        let mut client = connect(&shop.url);
        let name: String = client.query_one("SELECT current_database()::text", &[]).expect("a name").get(0);
        client.batch_execute(&format!("ALTER DATABASE \"{name}\" SET deadlock_timeout = '50ms'")).expect("set");
        let (mut killed, mut other) = (shop.start(), shop.start());
        other.wait_ready();
        let mut in_the_middle = 0;
        let is_over = AtomicBool::new(false);
        let url = shop.url.clone();
        let turns = std::thread::scope(|scope| {
            let stranger = scope.spawn(|| disturb(&url, &is_over));
            let mut random = support::random::Random(11);
            for _ in 0..10 {
                killed.wait_assigned();
                let before = shop.rows();
                for number in 0..600u32 {
                    let id = Uuid::now_v7();
                    let product = if number % 3 == 0 { "PROD001" } else { "PROD007" };
                    shop.order(id, product, 1 + (number % 2) as i32);
                    if number % 50 == 0 {
                        shop.repeat(id);
                    }
                }
                shop.flush();
                let (enough, began) = (before + random.below(300) as i64, Instant::now());
                while shop.rows() <= enough {
                    assert!(began.elapsed() < SOON, "{} rows", shop.rows());
                }
                killed.signal("KILL");
                in_the_middle += i32::from(shop.rows() < shop.asked.len() as i64);
                killed = shop.start();
                std::mem::swap(&mut killed, &mut other);
            }
            let books = shop.check();
            is_over.store(true, Ordering::Release);
            drop(books);
            stranger.join().expect("the stranger lives")
        });
        assert!(turns > 0 && in_the_middle > 0, "{turns} turns of the stranger, {in_the_middle} kills of one at work");
        assert!(shop.deadlocks() > 0, "the stranger and a writer have waited for each other");
        let books = shop.check();
        assert_eq!((books.total["PROD001"], books.total["PROD007"]), (10_000, 5_000));
        assert!(books.word("PROD007", "insufficient_stock") > 0, "more is asked for than there is");
        let validated = shop.messages("-validated", |seen| {
            seen.iter().map(Told::order_id).collect::<BTreeSet<_>>().len() >= shop.asked.len()
        });
        let sources: BTreeSet<&str> = validated.iter().map(|told| told.source.as_str()).collect();
        assert_eq!(sources.len(), shop.asked.len(), "what is told twice has the same source");
    }
}
