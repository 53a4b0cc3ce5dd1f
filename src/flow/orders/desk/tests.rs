//! The desk with a broker made of a list, and no PostgreSQL.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use super::accept::UNDER_WAY_MAX;
use super::*;
use crate::outlet::{Message, Told};

/// Keeps what is published until the test says what becomes of it.
#[derive(Default)]
struct Broker {
    held: Mutex<Vec<(Value, Told)>>,
    is_full: AtomicBool,
}

impl Outlet for Broker {
    fn publish(&self, message: &Message<'_>, told: Told) -> Result<(), Fault> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Fault::retry("kafka.queuefull", "the queue is full"));
        }
        let order: Value = serde_json::from_slice(message.payload.unwrap()).unwrap();
        let key = order["customer_id"].as_str().map(str::as_bytes);
        assert_eq!((message.topic, message.key), ("orders-placed", key));
        self.held.lock().unwrap().push((order, told));
        Ok(())
    }
}

impl Broker {
    fn take(&self) -> Vec<(Value, Told)> {
        std::mem::take(&mut *self.held.lock().unwrap())
    }

    fn acknowledge_all(&self) -> Vec<Value> {
        let acknowledge = |(order, told): (Value, Told)| {
            told(Ok(()));
            order
        };
        self.take().into_iter().map(acknowledge).collect()
    }
}

fn desk() -> (Arc<Broker>, Desk) {
    let broker = Arc::new(Broker::default());
    let tls = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap().build();
    let nowhere: postgres::Config = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let database = books::database(nowhere, postgres_openssl::MakeTlsConnector::new(tls), 4);
    let track = Track::new("orders");
    (broker.clone(), Desk::new(broker, database, "orders-placed", "orders", "inventory", true, track))
}

/// An answer, now or later.
struct Heard(Receiver<Answer>);

impl Heard {
    fn is_silent(&self) -> bool {
        self.0.is_empty()
    }

    fn answer(&self) -> (u16, Value) {
        let answer = self.0.try_recv().expect("an answer");
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

fn ask(desk: &Desk, path: &str, fill: impl FnOnce(&mut Call)) -> Heard {
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.path == path).unwrap();
    let mut call = Call::new(endpoint);
    fill(&mut call);
    let (tell, heard) = bounded(1);
    desk.call(call, Reply::new(move |answer| drop(tell.try_send(answer))));
    Heard(heard)
}

fn order(desk: &Desk, path: &str, body: &Value, key: Option<&str>) -> Heard {
    ask(desk, path, |call| {
        call.body = serde_json::to_vec(body).unwrap().into();
        call.idempotency_key = key.map(str::to_owned);
    })
}

fn wish(customer: &str, quantity: i64) -> Value {
    json!({ "customer_id": customer, "product_id": "PROD001", "quantity": quantity, "amount": "6499.95" })
}

#[test]
fn an_order_is_accepted_once_kafka_has_it_and_not_before() {
    let (broker, desk) = desk();
    let one = order(&desk, ORDER, &wish("CUST001", 5), None);
    let list = order(&desk, BATCH, &json!([wish("CUST002", 1), wish("CUST003", 2)]), None);
    let held = broker.take();
    assert_eq!((held.len(), one.is_silent(), list.is_silent()), (3, true, true));
    let ids: Vec<Value> = held.iter().map(|(order, _)| order["order_id"].clone()).collect();
    for (order, told) in held.into_iter().rev() {
        assert!(one.is_silent());
        assert_eq!(order["amount"], json!(6499.95));
        told(Ok(()));
    }
    assert_eq!(one.answer(), (202, json!({ "order_id": ids[0], "status": "accepted" })));
    let lines: Vec<Value> = ids[1..].iter().map(|id| json!({ "order_id": id, "status": "accepted" })).collect();
    assert_eq!(list.answer(), (202, json!(lines)));
    assert_eq!(ids.iter().map(ToString::to_string).collect::<HashSet<_>>().len(), 3);
}

#[test]
fn what_kafka_did_not_acknowledge_is_never_called_accepted() {
    let (broker, desk) = desk();
    let timeout = || Fault::retry("kafka.messagetimedout", "timed out");
    type Deal = fn(Told, Fault);
    for (deal, status) in [((|told, fault| told(Err(fault))) as Deal, "unknown"), (|told, _| drop(told), "unknown")] {
        let one = order(&desk, ORDER, &wish("CUST001", 5), Some("a"));
        let list = order(&desk, BATCH, &json!([wish("CUST002", 1), wish("CUST003", 2)]), None);
        let mut held = broker.take();
        deal(held.pop().unwrap().1, timeout());
        held.pop().unwrap().1(Ok(()));
        let (code, body) = list.answer();
        assert_eq!((code, &body["error"]["code"]), (503, &json!("not_acknowledged")));
        let statuses: Vec<&Value> =
            body["error"]["orders"].as_array().unwrap().iter().map(|line| &line["status"]).collect();
        assert_eq!(statuses, ["accepted", status]);
        deal(held.pop().unwrap().1, timeout());
        let (code, body) = one.answer();
        assert_eq!((code, &body["error"]["orders"][0]["status"]), (503, &json!(status)));
        assert!(body["error"]["cure"].as_str().unwrap().contains("the same Idempotency-Key"));
    }
    broker.is_full.store(true, Ordering::Relaxed);
    let (code, body) = order(&desk, ORDER, &wish("CUST001", 5), None).answer();
    assert_eq!((code, &body["error"]["code"]), (503, &json!("not_sent")));
    assert_eq!(body["error"]["orders"][0]["status"], "not_sent");
    assert!(body["error"]["message"].as_str().unwrap().contains("the queue is full"));
}

#[test]
fn every_flaw_of_every_order_is_told_at_once_and_none_is_sent() {
    let (broker, desk) = desk();
    let flaws = |path: &str, body: &str| {
        let heard = ask(&desk, path, |call| call.body = body.as_bytes().to_vec().into());
        let (status, body) = heard.answer();
        assert_eq!((status, &body["error"]["code"]), (400, &json!("request_invalid")));
        body["error"]["flaws"].as_array().unwrap().clone()
    };
    assert_eq!(flaws(ORDER, "{}").len(), 4);
    assert_eq!(flaws(ORDER, "{\"quantity\":0}")[2]["field"], "quantity");
    assert_eq!(flaws(ORDER, "")[0]["field"], "");
    let list = json!([wish("a", 1), wish("b", 0), { "customer_id": 7 }, 9]).to_string();
    let found: Vec<(i64, String)> = flaws(BATCH, &list)
        .iter()
        .map(|flaw| (flaw["index"].as_i64().unwrap(), flaw["field"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [(1, "quantity"), (2, "customer_id"), (2, "product_id"), (2, "quantity"), (2, "amount"), (3, "")];
    assert_eq!(found, expected.map(|(index, field)| (index, field.to_owned())));
    let too_many = format!("[{}0]", "0,".repeat(request::BATCH_MAX));
    for (body, words) in
        [("{}", "must be a list"), ("[]", "has 0 orders"), (&*too_many, "has 1001 orders"), ("[{]", "is not JSON")]
    {
        assert!(flaws(BATCH, body)[0]["rule"].as_str().unwrap().starts_with(words), "{words}");
    }
    assert!(broker.take().is_empty());
}

#[test]
fn the_same_key_is_the_same_order_at_every_desk() {
    let (broker, desk) = desk();
    let (elsewhere, other_desk) = self::desk();
    let first = order(&desk, ORDER, &wish("CUST001", 5), Some("k"));
    // While it is under way it is sent again: the flow drops the second.
    let second = order(&desk, ORDER, &wish("CUST001", 5), Some("k"));
    let sent = broker.acknowledge_all();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    assert_eq!(first.answer(), second.answer());
    let third = order(&desk, ORDER, &wish("CUST001", 5), Some("k"));
    assert!(broker.take().is_empty());
    assert_eq!(third.answer(), (202, json!({ "order_id": sent[0]["order_id"], "status": "accepted" })));

    drop(order(&other_desk, ORDER, &wish("CUST001", 5), Some("k")));
    assert_eq!(elsewhere.acknowledge_all(), sent[..1]);

    let (status, body) = order(&desk, ORDER, &wish("CUST001", 6), Some("k")).answer();
    assert_eq!((status, &body["error"]["code"]), (422, &json!("idempotency_key_reused")));
    assert!(broker.take().is_empty());
    // Of another customer it is another key, and in a list each place is one.
    drop(order(&desk, ORDER, &wish("CUST002", 6), Some("k")));
    let list = order(&desk, BATCH, &json!([wish("CUST001", 5), wish("CUST001", 5)]), Some("k"));
    let ids: HashSet<String> = broker.acknowledge_all().iter().map(|order| order["order_id"].to_string()).collect();
    assert_eq!((ids.len(), ids.contains(&sent[0]["order_id"].to_string())), (3, false));
    assert_eq!(list.answer().0, 202);
    let list = order(&desk, BATCH, &json!([wish("CUST001", 5), wish("CUST001", 5), wish("CUST009", 1)]), Some("k"));
    assert_eq!(broker.acknowledge_all().len(), 1, "what is accepted is not sent again");
    assert_eq!(list.answer().1.as_array().unwrap().len(), 3);
}

#[test]
fn what_waits_for_kafka_is_bounded() {
    let (broker, desk) = desk();
    let list = Value::from(vec![wish("CUST001", 1); 1000]);
    let taken: Vec<Heard> = (0..UNDER_WAY_MAX / 1000).map(|_| order(&desk, BATCH, &list, None)).collect();
    assert!(taken.iter().all(Heard::is_silent));
    for _ in 0..3 {
        let (status, body) = order(&desk, ORDER, &wish("CUST001", 1), Some("k")).answer();
        assert_eq!((status, &body["error"]["code"]), (503, &json!("overloaded")));
    }
    let held = broker.take();
    assert_eq!(held.len(), UNDER_WAY_MAX);
    // However they end, they make room.
    for (index, (_, told)) in held.into_iter().enumerate() {
        match index % 3 {
            0 => told(Ok(())),
            1 => told(Err(Fault::retry("kafka.messagetimedout", "timed out"))),
            _ => drop(told),
        }
    }
    assert!(taken.iter().all(|heard| heard.answer().0 == 503));
    // A refusal because of its key makes room, too.
    let one = order(&desk, ORDER, &wish("CUST001", 1), Some("k"));
    for _ in 0..UNDER_WAY_MAX {
        assert_eq!(order(&desk, ORDER, &wish("CUST001", 2), Some("k")).answer().0, 422);
    }
    let taken: Vec<Heard> = (1..UNDER_WAY_MAX / 1000).map(|_| order(&desk, BATCH, &list, None)).collect();
    assert!(taken.iter().all(Heard::is_silent) && one.is_silent());
}

#[test]
fn headers_are_read_strictly() {
    let (broker, desk) = desk();
    let status = |key: Option<&str>, content_type: Option<&str>| {
        let heard = ask(&desk, ORDER, |call| {
            call.body = wish("CUST001", 1).to_string().into_bytes().into();
            call.idempotency_key = key.map(str::to_owned);
            call.content_type = content_type.map(str::to_owned);
        });
        broker.acknowledge_all();
        heard.answer().0
    };
    let longest = "k".repeat(255);
    for key in ["k", "\"quoted\"", "~!#", &longest] {
        assert_eq!(status(Some(key), None), 202, "{key}");
    }
    for key in ["", "a b", "a\tb", "\u{e9}", &format!("{longest}k")] {
        assert_eq!(status(Some(key), None), 400, "{key}");
    }
    for (content_type, expected) in [
        ("application/json", 202),
        ("Application/JSON ; charset=utf-8", 202),
        ("application/vnd.shop+json", 202),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ] {
        assert_eq!(status(None, Some(content_type)), expected, "{content_type}");
    }
}

#[test]
fn without_postgresql_people_are_told_so_and_soon() {
    let (broker, desk) = desk();
    let accepted = order(&desk, ORDER, &wish("CUST001", 5), None);
    let id = broker.acknowledge_all()[0]["order_id"].as_str().unwrap().to_owned();
    assert_eq!(accepted.answer().0, 202);
    for path in [SHOW, CANCEL, STOCK, RESTOCK] {
        let began = Instant::now();
        let heard = ask(&desk, path, |call| {
            call.param = id.clone();
            call.body = b"{\"quantity\":1}".to_vec().into();
        });
        let (status, body) = heard.answer();
        assert_eq!((status, &body["error"]["code"]), (503, &json!("pg.connection")), "{path}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path}");
    }
    for (path, param, body, expected) in [
        (SHOW, "7", "", 400),
        (CANCEL, "batch", "", 400),
        (RESTOCK, "PROD001", "{\"quantity\":0}", 400),
        (RESTOCK, "PROD001", "{\"quantity\":1.5}", 400),
        (RESTOCK, "PROD001", "{\"quantity\":1000000001}", 400),
        (RESTOCK, "PROD001", "", 400),
        (RESTOCK, "a\0b", "{\"quantity\":1}", 404),
    ] {
        let heard = ask(&desk, path, |call| {
            call.param = param.to_owned();
            call.body = body.as_bytes().to_vec().into();
        });
        assert_eq!(heard.answer().0, expected, "{path} {param} {body}");
    }
}
