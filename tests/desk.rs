//! The desk with a real PostgreSQL, a real Kafka and real sockets: what people do to the books is done once, and what
//! they are told is in Kafka.

#[path = "http/client.rs"]
#[allow(dead_code)]
mod client;
mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use sluicegate::flow::orders::desk::{Desk, books};
use sluicegate::kafka::{Publisher, admin};
use sluicegate::ops::{Api, Sent, Server, SinkFacts, TestData};
use sluicegate::pg::{outbox, quoted};
use sluicegate::track::Track;
use uuid::Uuid;

use client::{Connection, Response};
use support::proxy::{Mode, Proxy};

struct NoData;

impl TestData for NoData {
    fn send(&self, _: &str, _: u64) -> Result<Sent, sluicegate::fault::Fault> {
        unreachable!("nobody asks for test data here")
    }
}

/// A desk behind a server, its database and its topic.
struct World {
    server: Server,
    url: String,
    topic: String,
}

/// The tables are made as the flow makes them.
fn tables() -> String {
    let create = include_str!("../sql/orders/create.sql");
    let create = create.replace("{orders_customer}", "orders_customer");
    let create = create.replace("{orders}", &quoted("orders")).replace("{inventory}", &quoted("inventory"));
    format!("{create}; {}; {}", books::CREATE, outbox::CREATE)
}

fn world_on(url: String) -> World {
    let topic = support::unique("orders-placed");
    let options = Default::default();
    admin::create_topic(&support::brokers(), &options, &topic, 6, 1).expect("a topic");
    let config: postgres::Config = url.parse().expect("a URL");
    let tls = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).expect("TLS").build();
    let database = books::database(config, postgres_openssl::MakeTlsConnector::new(tls), 4);
    let track = Track::new("orders");
    let outlet = Arc::new(Publisher::new(&support::brokers(), &options, Duration::from_secs(30)).expect("a publisher"));
    let desk = Desk::new(outlet, database, &topic, "orders", "inventory", true, track.clone());
    let api = Api::new(vec![track], Arc::new(NoData), vec![Arc::new(desk)], SinkFacts::default(), Arc::default());
    World { server: Server::start("127.0.0.1:0", api, 4).expect("a server"), url, topic }
}

fn world() -> World {
    let url = support::new_database("desk");
    support::connect(&url).batch_execute(&tables()).expect("tables");
    world_on(url)
}

impl World {
    fn ask(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> Response {
        Connection::open(self.server.local_addr()).send(method, path, key, body)
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        told(&self.ask("POST", path, None, body))
    }

    /// Again, where it is told to: a slow machine may take longer than the desk waits.
    fn insist(&self, path: &str, key: Option<&str>, body: &str) -> (u16, Value) {
        let answer = || Some(told(&self.ask("POST", path, key, body))).filter(|(status, _)| *status != 503);
        support::wait_for("an answer", Duration::from_secs(60), answer)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        told(&self.ask("GET", path, None, ""))
    }

    fn stock(&self, product: &str) -> (i64, i64, i64) {
        let sql = "SELECT available_quantity, reserved_quantity, total_quantity FROM inventory WHERE product_id = $1 AND bucket = 0";
        let row = support::connect(&self.url).query_one(sql, &[&product]).expect("a row");
        (row.get(0), row.get(1), row.get(2))
    }

    /// An order as the flow leaves it.
    fn order(&self, product: &str, quantity: i32, status: &str) -> Uuid {
        let order_id = Uuid::now_v7();
        let sql = "INSERT INTO orders (order_id, customer_id, product_id, quantity, amount, created_at, status, reason, bucket)
                   VALUES ($1, 'CUST001', $2, $3, 12345678901.10, '2026-01-02 03:04:05.678+00', $4::text,
                           CASE WHEN $4 = 'rejected' THEN 'insufficient_stock' END, CASE WHEN $4 = 'rejected' THEN NULL ELSE 0 END)";
        let mut client = support::connect(&self.url);
        client.execute(sql, &[&order_id, &product, &quantity, &status]).expect("an order");
        if status == "reserved" {
            let sql = "UPDATE inventory SET available_quantity = available_quantity - $2,
                       reserved_quantity = reserved_quantity + $2 WHERE product_id = $1 AND bucket = 0";
            client.execute(sql, &[&product, &i64::from(quantity)]).expect("reserved");
        }
        order_id
    }

    /// All that is in the topic now: key and payload.
    fn records(&self) -> Vec<(i32, String, Value)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", support::brokers())
            .set("group.id", "a test")
            .create()
            .expect("a consumer");
        let wait = Duration::from_secs(10);
        let mut partitions = TopicPartitionList::new();
        let mut records = Vec::new();
        let mut count = 0;
        for partition in 0..6 {
            let (low, high) = consumer.fetch_watermarks(&self.topic, partition, wait).expect("watermarks");
            count += high - low;
            partitions.add_partition_offset(&self.topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&partitions).expect("assigned");
        while (records.len() as i64) < count {
            let message = consumer.poll(wait).expect("a record").expect("no error");
            let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("text");
            records.push((
                message.partition(),
                key,
                serde_json::from_slice(message.payload().expect("a payload")).expect("JSON"),
            ));
        }
        records
    }
}

fn told(response: &Response) -> (u16, Value) {
    (response.status, response.json())
}

#[test]
fn an_order_that_is_cancelled_by_many_at_once_is_given_back_once() {
    let world = world();
    let (product, before) = ("PROD007", world.stock("PROD007"));
    for round in 0..5 {
        // The only reservation: were it given back twice, the books would not allow it; were there another, they would.
        let others = (round % 2 == 1).then(|| world.order(product, 7, "reserved"));
        let order_id = world.order(product, 3, "reserved");
        let path = format!("/orders/{order_id}/cancel");
        let answers = thread::scope(|scope| {
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| world.insist(&path, None, ""))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect::<Vec<_>>()
        });
        for (status, body) in answers {
            assert_eq!((status, &body["status"]), (200, &json!("cancelled")), "{body}");
        }
        let reserved = before.1 + if others.is_some() { 7 } else { 0 };
        assert_eq!(world.stock(product), (before.2 - reserved, reserved, before.2), "round {round}");
        if let Some(other) = others {
            assert_eq!(world.insist(&format!("/orders/{other}/cancel"), None, "").0, 200);
        }
    }
    assert_eq!(world.stock(product), before);
    let sql = "SELECT count(*), count(DISTINCT topic) FROM sluicegate_outbox WHERE topic LIKE 'cancelled/%'";
    let row = support::connect(&world.url).query_one(sql, &[]).expect("the outbox");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (7, 7), "others are told of each cancellation, once");
}

#[test]
fn only_a_reservation_can_be_given_back() {
    let world = world();
    let rejected = world.order("PROD001", 5, "rejected");
    let (status, body) = world.post(&format!("/orders/{rejected}/cancel"), "");
    assert_eq!((status, &body["error"]["code"]), (409, &json!("order_rejected")));
    let unknown = Uuid::now_v7();
    let (status, body) = world.post(&format!("/orders/{unknown}/cancel"), "");
    assert_eq!((status, &body["error"]["code"]), (404, &json!("order_unknown")));
    assert_eq!(world.stock("PROD001"), (10_000, 0, 10_000));
}

#[test]
fn a_restock_with_a_key_is_one_however_often_and_by_whomever_it_is_sent() {
    let world = world();
    let path = "/inventory/PROD002/restock";
    let send = |key: Option<&str>, quantity: i64| {
        told(&world.ask("POST", path, key, &json!({ "quantity": quantity }).to_string()))
    };
    thread::scope(|scope| {
        let insist = || world.insist(path, Some("k"), "{\"quantity\":5}");
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(insist)).collect();
        for thread in threads {
            let (status, body) = thread.join().expect("an answer");
            assert_eq!((status, &body["available_quantity"]), (200, &json!(50_005)), "{body}");
        }
    });
    assert_eq!(send(Some("k"), 6).1["error"]["code"], "idempotency_key_reused");
    assert_eq!(world.stock("PROD002"), (50_005, 0, 50_005));
    assert_eq!((send(None, 1).0, send(None, 1).0), (200, 200));
    assert_eq!(world.stock("PROD002"), (50_007, 0, 50_007));
    // Another product's key is another key, and one under which nothing was done is free.
    let other = |path: &str| world.ask("POST", path, Some("k"), "{\"quantity\":5}").status;
    assert_eq!((other("/inventory/PROD003/restock"), other("/inventory/PROD999/restock")), (200, 404));
    let noted =
        support::connect(&world.url).query_one("SELECT count(*) FROM sluicegate_restocks", &[]).expect("a count");
    assert_eq!(noted.get::<_, i64>(0), 2);
}

#[test]
fn orders_and_stock_are_shown_exactly() {
    let world = world();
    let order_id = world.order("PROD001", 5, "reserved");
    let shown = world.ask("GET", &format!("/orders/{order_id}"), None, "");
    let expected = format!(
        "{{\"order_id\":\"{order_id}\",\"customer_id\":\"CUST001\",\"product_id\":\"PROD001\",\"quantity\":5,\
         \"amount\":12345678901.10,\"status\":\"reserved\",\"reason\":null,\"created_at\":\"2026-01-02T03:04:05.678Z\"}}\n"
    );
    assert_eq!((shown.status, shown.body), (200, expected));
    let rejected = world.order("PROD001", 5, "rejected");
    assert_eq!(world.get(&format!("/orders/{rejected}")).1["reason"], "insufficient_stock");

    let mut client = support::connect(&world.url);
    client
        .batch_execute(
            "INSERT INTO inventory (product_id, bucket, product_name, available_quantity, reserved_quantity, total_quantity)
             VALUES ('PROD001', 1, 'Laptop', 7, 3, 10)",
        )
        .expect("a second bucket");
    let (status, stock) = world.get("/inventory");
    assert_eq!((status, stock.as_array().map(Vec::len)), (200, Some(10)));
    let laptop = json!({ "product_id": "PROD001", "product_name": "Laptop", "available_quantity": 10_002,
                         "reserved_quantity": 8, "total_quantity": 10_010, "buckets": 2 });
    assert_eq!(stock[0], laptop);
    assert_eq!(world.get("/inventory?after=PROD009").1[0]["product_id"], "PROD010");

    client
        .batch_execute(
            "INSERT INTO inventory (product_id, product_name, available_quantity, total_quantity)
             SELECT 'X ' || lpad(n::text, 4, '0'), 'x', 0, 0 FROM generate_series(1, 1000) n",
        )
        .expect("more products");
    let first = world.ask("GET", "/inventory", None, "");
    let next = first.header("Link").expect("a link").to_owned();
    assert_eq!(
        (first.json().as_array().unwrap().len(), next.as_str()),
        (1000, "</inventory?after=X%200990>; rel=\"next\"")
    );
    let rest = world.ask("GET", "/inventory?after=X%200990", None, "");
    assert_eq!((rest.json().as_array().unwrap().len(), rest.header("Link")), (10, None));
}

#[test]
fn what_was_accepted_is_in_kafka_in_order_and_under_its_customer() {
    let world = world();
    let wish = |customer: usize, quantity: usize| json!({ "customer_id": format!("CUST{customer}"), "product_id": "PROD001", "quantity": quantity, "amount": "0.10" });
    let mut expected: Vec<String> = Vec::new();
    let mut connection = Connection::open(world.server.local_addr());
    for round in 1..4 {
        let list = Value::from((0..300).map(|index| wish(index % 7, round)).collect::<Vec<_>>());
        let (status, lines) = told(&connection.send("POST", "/orders/batch", None, &list.to_string()));
        assert_eq!(status, 202);
        let (status, one) = told(&connection.send("POST", "/order", Some("k"), &wish(0, 9).to_string()));
        assert_eq!((status, &one["status"]), (202, &json!("accepted")));
        expected.extend(lines.as_array().unwrap().iter().map(|line| line["order_id"].as_str().unwrap().to_owned()));
        if round == 1 {
            expected.push(one["order_id"].as_str().unwrap().to_owned());
            let (status, shown) = world.get(&format!("/orders/{}", one["order_id"].as_str().unwrap()));
            assert_eq!((status, shown), (200, one));
        }
    }
    let records = world.records();
    let mut homes = std::collections::HashMap::new();
    let mut newest = std::collections::HashMap::new();
    for (partition, key, order) in &records {
        assert_eq!((order["customer_id"].as_str(), &order["amount"]), (Some(key.as_str()), &json!(0.10)));
        assert_eq!(homes.entry(key).or_insert(partition), &partition, "{key} has one partition");
        if order["quantity"] != 9 {
            let former = newest.insert(key, order["quantity"].as_u64());
            assert!(former.is_none_or(|former| former <= order["quantity"].as_u64()), "{key} is in order");
        }
    }
    let mut sent: Vec<&str> = records.iter().map(|(_, _, order)| order["order_id"].as_str().unwrap()).collect();
    sent.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sent, expected, "each once");
}

#[test]
fn without_postgresql_orders_are_accepted_and_questions_refused() {
    let url = support::new_database("away");
    support::connect(&url).batch_execute(&tables()).expect("tables");
    let address = url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL with a user").0;
    let proxy = Proxy::to(address);
    let world = world_on(url.replace(address, &format!("127.0.0.1:{}", proxy.port)));
    // What the test looks at, it looks at directly.
    let world = World { url, ..world };
    let order_id = world.order("PROD001", 5, "reserved");
    let path = format!("/orders/{order_id}");
    assert_eq!(world.get(&path).0, 200);
    // A link that falls silent in the middle of a statement is given up by the server, and before one by the desk.
    for (mode, limit) in [(Mode::Hold, 20), (Mode::Refuse, 9), (Mode::Hold, 20)] {
        proxy.set(mode);
        // More than there are threads for them.
        let began = Instant::now();
        let answers = thread::scope(|scope| {
            // Of another order: one that is held may be done in the end.
            let cancel = format!("/orders/{}/cancel", Uuid::now_v7());
            let asked: Vec<_> = (0..12)
                .map(|number| {
                    let cancel = cancel.clone();
                    let path = path.clone();
                    let world = &world;
                    scope.spawn(move || match number % 3 {
                        0 => world.ask("GET", &path, None, ""),
                        1 => world.ask("GET", "/inventory", None, ""),
                        _ => world.ask("POST", &cancel, None, ""),
                    })
                })
                .collect();
            let wish = json!({ "customer_id": "C", "product_id": "P", "quantity": 1, "amount": 1 }).to_string();
            while asked.iter().any(|asked| !asked.is_finished()) {
                assert_eq!(world.post("/order", &wish).0, 202);
                client::health(world.server.local_addr());
            }
            asked.into_iter().map(|asked| asked.join().expect("an answer")).collect::<Vec<_>>()
        });
        for answer in answers {
            assert_eq!((answer.status, answer.header("Retry-After").is_some()), (503, true), "{}", answer.body);
        }
        assert!(began.elapsed() < Duration::from_secs(limit), "{mode:?} {:?}", began.elapsed());
        // Sessions that died meanwhile are nobody's trouble but ours.
        proxy.set(Mode::Pass);
        support::wait_for("PostgreSQL", Duration::from_secs(30), || (world.get("/inventory").0 == 200).then_some(()));
        for _ in 0..8 {
            assert_eq!(world.get(&path).1["status"], "reserved");
        }
    }
    assert_eq!(world.post(&format!("{path}/cancel"), "").1["status"], "cancelled");
    assert_eq!(world.stock("PROD001"), (10_000, 0, 10_000));
}
