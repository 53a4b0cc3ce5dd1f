//! The orders flow: reservations a second from a full topic in which nine of ten orders want one product.
//!
//! - `raw copy`: ready-made rows of `orders`, with its indexes, over as many connections as there are writers. Nothing is
//!   decided, and no stock is kept: what the machine's PostgreSQL takes at the most.
//! - `sluicegate`: the flow as it comes, alone in the program, telling others of every order.
//! - `no events`: nobody is told. `buckets`: the stock of each product in eight rows. `uniform`: all products alike.
//! - `seed's way`: one transaction for each order, which locks its product, from 50 workers: the peer `orders`.
//!
//! Nothing sells out. After each run the books are compared: what is reserved is what the reserved orders asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluicegate::engine::Rows;
use sluicegate::flow::field::Amount;
use sluicegate::flow::orders::order::{Order, Wish};
use sluicegate::flow::orders::stock::Verdict;
use sluicegate::flow::orders::{OrderRows, named};
use sluicegate::flow::{self, Flow, Orders};
use sluicegate::kafka::Producer;
use sluicegate::record::{NoHeaders, Partition, Record};
use uuid::Uuid;

use crate::contenders::{BATCH_ROWS, copy_all, in_turn};
use crate::meter::Meter;
use crate::peers::Peers;
use crate::program::{Program, run_to_end};
use crate::results::{Load, Run};
use crate::stage::{Settings, Stage};

pub const PARTITIONS: u32 = 50;
/// One payload, about.
pub const ORDER_BYTES: usize = 127;
const PRODUCTS: u64 = 10;
const BUCKETS: i16 = 8;
/// More than all orders of a run can take from one row.
const STOCK: i64 = 1_000_000_000;
/// The seed's way is slow: it gets one of so many orders, and its rate counts.
const SEED_SHARE: u64 = 60;
pub const SEED_WORKERS: usize = 50;
/// Rows of a batch where the program is left to its default.
const CHUNK_ROWS: usize = 2_500;
/// Between looks whether all has been told.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    RawCopy,
    Sluicegate,
    NoEvents,
    Buckets,
    Uniform,
    Seed,
}

impl Contender {
    pub const ALL: [Contender; 6] = {
        use Contender::*;
        [RawCopy, Sluicegate, NoEvents, Buckets, Uniform, Seed]
    };

    pub fn name(self) -> &'static str {
        match self {
            Contender::RawCopy => "raw copy",
            Contender::Sluicegate => "sluicegate",
            Contender::NoEvents => "no events",
            Contender::Buckets => "buckets",
            Contender::Uniform => "uniform",
            Contender::Seed => "seed's way",
        }
    }

    fn buckets(self) -> i16 {
        if self == Contender::Buckets { BUCKETS } else { 1 }
    }
}

/// Which product an order wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mix {
    /// The flow's own made-up orders: nine of ten want the same one.
    Hot,
    Uniform,
}

/// Made-up orders, all of the same sizes. A customer's are all in one partition, as many in each.
fn payload(mix: Mix, number: u64, out: &mut Vec<u8>) {
    if mix == Mix::Hot {
        return flow::sample("orders", None).expect("samples of orders").payload(number, out);
    }
    let wish = Wish {
        customer_id: format!("CUST{:03}", number % 1000).into(),
        product_id: format!("PROD{:03}", number % 1009 % PRODUCTS + 1).into(),
        quantity: 1,
        amount: Amount::from_cents(19_999).expect("an amount"),
    };
    Order { order_id: Uuid::now_v7(), wish }.write(out);
}

fn partition(number: u64) -> i32 {
    (number % u64::from(PARTITIONS)) as i32
}

/// Where the rounds take place.
struct Ring<'a> {
    stage: &'a Stage,
    load: &'a Load,
    hot: String,
    uniform: String,
    /// The rows that the flow makes of the orders, in the order in which its batches come, each for one COPY.
    encoded: Vec<Vec<u8>>,
    peers: Option<&'a Peers>,
}

/// What the program is told. The topics of its events belong to the topic.
pub fn settings(stage: &Stage, load: &Load, topic: &str) -> Settings {
    Settings::from([
        ("KAFKA_BROKERS", stage.brokers.clone()),
        ("DB_URL", stage.url.clone()),
        ("SLUICEGATE_FLOWS_STATUS_ENABLED", "false".to_owned()),
        ("SLUICEGATE_FLOWS_ORDERS_ENABLED", "true".to_owned()),
        ("SLUICEGATE_FLOWS_ORDERS_TOPIC", topic.to_owned()),
        ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", stage.new_name()),
        ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", load.partitions.to_string()),
        ("SLUICEGATE_FLOWS_ORDERS_WRITERS", load.writers.to_string()),
        ("SLUICEGATE_FLOWS_ORDERS_VALIDATED_TOPIC", format!("{topic}-validated")),
        ("SLUICEGATE_FLOWS_ORDERS_INVENTORY_TOPIC", format!("{topic}-inventory")),
        ("SLUICEGATE_FLOWS_ORDERS_WAREHOUSE_TOPIC", format!("{topic}-warehouse")),
        ("LOG_LEVEL", "error".to_owned()),
    ])
}

/// A topic, made by the program itself together with its tables and the topics of its events.
pub fn new_topic(stage: &Stage, load: &Load) -> String {
    let topic = stage.new_name();
    run_to_end(&settings(stage, load, &topic), &["init"]);
    topic
}

/// No orders, no ledger, full shelves, and a checkpoint behind all that.
pub fn clean(stage: &Stage, buckets: i16) {
    let mut client = stage.connect();
    client.batch_execute("TRUNCATE orders, inventory, sluicegate_outbox, sluicegate_ledger").expect("empty tables");
    let fill = "INSERT INTO inventory (product_id, bucket, product_name, available_quantity, total_quantity)
                SELECT 'PROD' || lpad(product::text, 3, '0'), bucket, 'made up', $3, $3
                FROM generate_series(1, $1) AS product, generate_series(0, $2 - 1) AS bucket";
    client.execute(fill, &[&(PRODUCTS as i32), &i32::from(buckets), &STOCK]).expect("a full inventory");
    client.batch_execute("CHECKPOINT").expect("a checkpoint");
}

pub fn measure(stage: &Stage, load: &Load, rounds: u64) -> Vec<Run> {
    let peers = Peers::build();
    let contenders: Vec<Contender> =
        Contender::ALL.into_iter().filter(|contender| peers.is_some() || *contender != Contender::Seed).collect();
    println!("{} orders, {} partitions, {} writers, {rounds} rounds", load.rows, load.partitions, load.writers);
    let ring = Ring {
        stage,
        load,
        hot: filled_topic(stage, load, Mix::Hot),
        uniform: filled_topic(stage, load, Mix::Uniform),
        encoded: encoded(load.rows),
        peers: peers.as_ref(),
    };
    // Not counted: the broker compiles what it has not run yet, and files grow for the first time.
    ring.run(Contender::Sluicegate, 0);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for contender in in_turn(&contenders, round) {
            let run = ring.run(contender, round);
            let told = run.told_per_s.map_or(String::new(), |told| format!(", {told:.0} told/s"));
            println!("round {round}  {:<11} {:>8.0} orders/s{told}", run.contender, run.rows_per_s);
            runs.push(run);
        }
    }
    runs
}

fn filled_topic(stage: &Stage, load: &Load, mix: Mix) -> String {
    let topic = new_topic(stage, load);
    let producer = Producer::new(&stage.brokers, &BTreeMap::new(), &topic).expect("a producer");
    let mut json = Vec::new();
    for number in 0..load.rows {
        json.clear();
        payload(mix, number, &mut json);
        let key = format!("CUST{:03}", number % 1000);
        producer.send(Some(partition(number)), Some(key.as_bytes()), &json).expect("the broker takes orders");
    }
    let (sent, fault) = producer.finish();
    assert_eq!((sent.delivered, fault), (load.rows, None), "every order is in the topic");
    topic
}

/// Chunks of one partition after the other, as many in a COPY as the program joins into a transaction.
fn encoded(orders: u64) -> Vec<Vec<u8>> {
    let flow = Orders::new("orders", "inventory", 1, true, None);
    let from = Partition::new("bench", 0);
    let mut rows = vec![OrderRows::default(); PARTITIONS as usize];
    let mut json = Vec::new();
    for number in 0..orders {
        json.clear();
        payload(Mix::Hot, number, &mut json);
        let record = Record {
            partition: &from,
            offset: 0,
            timestamp_ms: Some(1_767_225_600_000 + number as i64 / 100),
            key: None,
            payload: Some(&json),
            headers: &NoHeaders,
        };
        flow.decode(&record, &mut rows[partition(number) as usize]).expect("a sample decodes");
    }
    let chunks = rows.iter().map(Rows::len).max().unwrap_or(0).div_ceil(CHUNK_ROWS);
    let places = (0..chunks).flat_map(|chunk| rows.iter().map(move |rows| (chunk * CHUNK_ROWS, rows)));
    let mut buffers = vec![Vec::new()];
    let mut in_buffer = 0;
    for (first, rows) in places {
        for row in first..rows.len().min(first + CHUNK_ROWS) {
            if in_buffer == BATCH_ROWS {
                buffers.push(Vec::new());
                in_buffer = 0;
            }
            let buffer = buffers.last_mut().expect("a buffer");
            rows.copy(row, Verdict::Reserved { bucket: 0 }, buffer);
            in_buffer += 1;
        }
    }
    buffers
}

impl Ring<'_> {
    fn run(&self, contender: Contender, round: u64) -> Run {
        clean(self.stage, contender.buckets());
        let meter = Meter::start(self.stage);
        let mut run = Run { contender: contender.name().to_owned(), round, rows: self.load.rows, ..Run::default() };
        match contender {
            Contender::RawCopy => run.rows_per_s = self.raw_copy(),
            Contender::Seed => self.seed(&mut run),
            _ => self.sluicegate(contender, &mut run),
        }
        let is_in_bench = contender == Contender::RawCopy;
        meter.finish_run(&mut run, is_in_bench);
        self.check(contender, run.rows);
        run
    }

    fn raw_copy(&self) -> f64 {
        let sql = named(include_str!("../../sql/orders/copy.sql"), "orders", "inventory");
        let buffers: Vec<&[u8]> = self.encoded.iter().map(Vec::as_slice).collect();
        self.load.rows as f64 / copy_all(self.stage, self.load.writers, &sql, &buffers).as_secs_f64()
    }

    fn seed(&self, run: &mut Run) {
        run.rows = self.load.rows / SEED_SHARE;
        let load = Load { rows: run.rows, writers: SEED_WORKERS, batch_rows: Some(100), ..self.load.clone() };
        let told = self.peers.expect("the peers were built").run("orders", self.stage, &load, &self.hot);
        // Those that were under way when the last one was asked for are orders as well.
        run.rows = told.rows;
        (run.rows_per_s, run.cpu_s, run.memory_peak_mb) = (told.rows_per_s, told.cpu_s, Some(told.peak_mb));
    }

    fn sluicegate(&self, contender: Contender, run: &mut Run) {
        let topic = if contender == Contender::Uniform { &self.uniform } else { &self.hot };
        let mut settings = settings(self.stage, self.load, topic);
        settings.insert("SLUICEGATE_FLOWS_ORDERS_EVENTS", (contender != Contender::NoEvents).to_string());
        settings.insert("SLUICEGATE_FLOWS_ORDERS_BUCKETS", contender.buckets().to_string());
        let program = Program::start(&settings);
        run.rows_per_s = program.await_rows(self.load.rows);
        if contender != Contender::NoEvents {
            let rows = self.load.rows as f64;
            run.told_per_s = Some(rows / (rows / run.rows_per_s + self.await_told().as_secs_f64()));
        }
        program.finish_run(run);
    }

    /// How long it takes from now until the outbox is empty.
    fn await_told(&self) -> Duration {
        let (mut client, since) = (self.stage.connect(), Instant::now());
        let is_left = "SELECT EXISTS (SELECT FROM sluicegate_outbox)";
        while client.query_one(is_left, &[]).expect("the outbox").get(0) {
            std::thread::sleep(LOOK_EVERY);
        }
        since.elapsed()
    }

    /// Every order is a row, was reserved, and is in the books of its product's shelf.
    fn check(&self, contender: Contender, orders: u64) {
        let mut client = self.stage.connect();
        let sql = "SELECT count(*), count(*) FILTER (WHERE status <> 'reserved') FROM orders";
        let row = client.query_one(sql, &[]).expect("orders");
        let (count, others): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!((count as u64, others), (orders, 0), "{}: every order is reserved once", contender.name());
        if contender == Contender::RawCopy {
            return;
        }
        let sql = "SELECT count(*) FROM inventory
                   FULL JOIN (SELECT product_id, bucket, sum(quantity) AS taken FROM orders GROUP BY 1, 2) AS o
                   USING (product_id, bucket)
                   WHERE reserved_quantity IS DISTINCT FROM coalesce(taken, 0)";
        let wrong: i64 = client.query_one(sql, &[]).expect("the books").get(0);
        assert_eq!(wrong, 0, "{}: what is reserved is what the orders asked for", contender.name());
    }
}
