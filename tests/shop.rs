//! The whole shop: orders over HTTP into Kafka, out of it into the books, while others cancel and restock. What was
//! accepted is there once, and the books add up.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

#[path = "http/client.rs"]
#[allow(dead_code)]
mod client;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::Connection;
use serde_json::{Value, json};
use support::{Instance, connect, unique, wait_for};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

struct Shop {
    url: String,
    instances: Vec<Instance>,
    /// The stock of each product before anything was sold.
    first: BTreeMap<String, i64>,
}

impl Shop {
    fn open(stem: &str, instances: usize, buckets: &str) -> Shop {
        let (topic, url) = (unique(stem), support::new_database(stem));
        let own = |leaf: &str, value: String| (format!("SLUICEGATE_FLOWS_ORDERS_{leaf}"), value);
        let settings = HashMap::from([
            ("KAFKA_BROKERS".to_owned(), support::brokers()),
            ("DB_URL".to_owned(), url.clone()),
            own("TOPIC", topic.clone()),
            own("GROUP_ID", unique("group")),
            own("PARTITIONS", "6".to_owned()),
            own("BUCKETS", buckets.to_owned()),
            own("VALIDATED_TOPIC", format!("{topic}-validated")),
            own("INVENTORY_TOPIC", format!("{topic}-inventory")),
            own("WAREHOUSE_TOPIC", format!("{topic}-warehouse")),
        ]);
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        Instance::start_with(&settings, &["init", "--flow", "orders"]).wait(SOON);
        let instances: Vec<Instance> =
            (0..instances).map(|_| Instance::start_with(&settings, &["run", "--flow", "orders"])).collect();
        instances.iter().for_each(Instance::wait_ready);
        let sql = "SELECT product_id, sum(total_quantity)::bigint FROM inventory GROUP BY 1";
        let rows = connect(&url).query(sql, &[]).expect("the stock");
        let first = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Shop { url, instances, first }
    }

    fn address(&self, number: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.instances[number % self.instances.len()].port))
    }

    fn post(&self, number: usize, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
        let response = Connection::open(self.address(number)).send("POST", path, key, &body.to_string());
        (response.status, response.json())
    }

    /// Again, where it is told to: a slow machine may take longer than the desk waits. For what is done once however often
    /// it is sent.
    fn insist(&self, number: usize, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
        let answer = || Some(self.post(number, path, key, body)).filter(|(status, _)| *status != 503);
        wait_for("an answer", SOON, answer)
    }

    fn number(&self, sql: &str) -> i64 {
        connect(&self.url).query_one(sql, &[]).expect(sql).get(0)
    }

    /// Every order that was accepted is one row, and the stock is what the orders and the restocks say.
    fn check(&self, accepted: &BTreeSet<Uuid>, restocked: &BTreeMap<&str, i64>) {
        wait_for("every order to be a row", SOON, || {
            (self.number("SELECT count(*) FROM orders") >= accepted.len() as i64).then_some(())
        });
        let mut client = connect(&self.url);
        let rows = client.query("SELECT order_id FROM orders", &[]).expect("orders");
        let rows: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(rows.len(), accepted.len());
        assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), *accepted);
        let sql = "SELECT product_id, sum(available_quantity)::bigint, sum(reserved_quantity)::bigint, sum(total_quantity)::bigint,
                     (SELECT coalesce(sum(quantity), 0)::bigint FROM orders AS o
                      WHERE o.product_id = i.product_id AND status = 'reserved')
                   FROM inventory AS i GROUP BY product_id";
        for row in client.query(sql, &[]).expect("the stock") {
            let product: String = row.get(0);
            let (available, reserved, total, taken): (i64, i64, i64, i64) =
                (row.get(1), row.get(2), row.get(3), row.get(4));
            assert_eq!(total, self.first[&product] + restocked.get(&*product).unwrap_or(&0), "{product}");
            assert_eq!((reserved, available + reserved), (taken, total), "{product}");
            assert!(available >= 0, "{product}");
        }
    }
}

fn order(customer: u64, product: &str, quantity: u64) -> Value {
    json!({"customer_id": format!("CUST{customer:03}"), "product_id": product, "quantity": quantity, "amount": "19.99"})
}

fn id(line: &Value) -> Uuid {
    assert_eq!(line["status"], "accepted", "{line}");
    line["order_id"].as_str().expect("an id").parse().expect("a UUID")
}

#[test]
fn a_hundred_at_once_get_one_piece_each_of_the_same_product() {
    let shop = Shop::open("race", 2, "1");
    let race = |number: usize| {
        let (status, line) = shop.post(number, "/order", None, &order(number as u64, "PROD007", 1));
        assert_eq!(status, 202, "{line}");
        id(&line)
    };
    let accepted: BTreeSet<Uuid> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100).map(|number| scope.spawn(move || race(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("accepted")).collect()
    });
    assert_eq!(accepted.len(), 100);
    shop.check(&accepted, &BTreeMap::new());
    assert_eq!(shop.number("SELECT reserved_quantity FROM inventory WHERE product_id = 'PROD007'"), 100);

    // And the race that people can run by hand.
    let script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/load"))
        .arg("race")
        .env("SLUICEGATE_URL", format!("http://{}", shop.address(0)))
        .output()
        .expect("it starts");
    assert!(
        script.status.success(),
        "{}{}",
        String::from_utf8_lossy(&script.stdout),
        String::from_utf8_lossy(&script.stderr)
    );
    wait_for("two hundred", SOON, || {
        let sql = "SELECT reserved_quantity FROM inventory WHERE product_id = 'PROD007'";
        (shop.number(sql) == 200).then_some(())
    });
}

#[test]
fn books_add_up_while_people_order_cancel_and_restock() {
    for buckets in ["1", "3"] {
        let shop = Shop::open("shop", 2, buckets);
        let accepted = Mutex::new(Vec::<Uuid>::new());
        let (is_over, cancelled) = (AtomicBool::new(false), Mutex::new(BTreeSet::<Uuid>::new()));
        std::thread::scope(|scope| {
            let orders: Vec<_> = (0..3u64)
                .map(|thread| {
                    let (shop, accepted) = (&shop, &accepted);
                    scope.spawn(move || {
                        for request in 0..40u64 {
                            let product = ["PROD007", "PROD001", "PROD002"][(request % 3) as usize];
                            let list: Vec<Value> =
                                (0..50).map(|number| order(number * 7 % 40, product, 1 + number % 3)).collect();
                            let key = format!("{thread}-{request}");
                            let (status, lines) =
                                shop.insist(request as usize, "/orders/batch", Some(&key), &json!(list));
                            assert_eq!(status, 202, "{lines}");
                            let ids = lines.as_array().expect("a list").iter().map(id);
                            accepted.lock().expect("no panic").extend(ids);
                            if request % 10 == 0 {
                                // The same once more, at the other instance.
                                let again =
                                    shop.insist(request as usize + 1, "/orders/batch", Some(&key), &json!(list));
                                assert_eq!(again, (202, lines));
                            }
                        }
                    })
                })
                .collect();
            let cancels = scope.spawn(|| {
                let mut random = support::random::Random(3);
                while !is_over.load(Ordering::Acquire) {
                    let chosen = {
                        let accepted = accepted.lock().expect("no panic");
                        (!accepted.is_empty()).then(|| accepted[random.below(accepted.len() as u64) as usize])
                    };
                    let Some(order_id) = chosen else { continue };
                    let path = format!("/orders/{order_id}/cancel");
                    let (status, answer) = shop.insist(random.below(2) as usize, &path, None, &json!({}));
                    match status {
                        200 => drop(cancelled.lock().expect("no panic").insert(order_id)),
                        // Not decided yet, rejected, or unknown to an instance that did not accept it.
                        404 | 409 => {}
                        _ => panic!("{status} {answer}"),
                    }
                }
            });
            for round in 0..20usize {
                for instance in [0, 1] {
                    let (key, body) = (format!("restock-{round}"), json!({"quantity": 10}));
                    let (status, answer) = shop.insist(instance, "/inventory/PROD007/restock", Some(&key), &body);
                    assert_eq!(status, 200, "{answer}");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            orders.into_iter().for_each(|thread| thread.join().expect("accepted"));
            is_over.store(true, Ordering::Release);
            cancels.join().expect("answered");
        });
        let accepted: BTreeSet<Uuid> = accepted.into_inner().expect("no panic").into_iter().collect();
        assert_eq!(accepted.len(), 6_000);
        shop.check(&accepted, &BTreeMap::from([("PROD007", 200)]));
        let mut client = connect(&shop.url);
        let rows = client.query("SELECT order_id FROM orders WHERE status = 'cancelled'", &[]).expect("orders");
        let cancelled = cancelled.into_inner().expect("no panic");
        assert!(!cancelled.is_empty(), "nobody came to cancel");
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<BTreeSet<Uuid>>(), cancelled, "{buckets} buckets");
        wait_for("an empty outbox", SOON, || {
            (shop.number("SELECT count(*) FROM sluicegate_outbox") == 0).then_some(())
        });
        assert_eq!(shop.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"), 0);
    }
}
