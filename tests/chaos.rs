//! The crash matrix: the real binary, killed and frozen at each row of the crash table, beside other instances
//! that work. Built with the feature `failpoints`; `make chaos ROUNDS=1000 SEED=1`.
//!
//! A seed decides every round. Rounds run in a few lanes beside each other, each with a flow, a topic and a database of
//! its own, where records gather from round to round: some by a plain producer, some by transactions, of which
//! some are aborted. The checker knows what was produced and what is in the tables, and nothing that the program
//! says of itself.

#![allow(clippy::disallowed_methods)] // the rounds poll what they cannot be told of

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluicegate::failpoint::Point;
use sluicegate::kafka::admin::create_topic;
use support::random::Random;
use support::{Instance, connect, setting, update, wait_for};
use uuid::Uuid;

const PARTITIONS: i32 = 4;
const LANES: u64 = 4;
const MINUTE: Duration = Duration::from_secs(60);
const SESSION_TIMEOUT_MS: u64 = 6000;

/// One round, as its seed says.
#[derive(Debug)]
struct Round {
    point: &'static str,
    action: &'static str,
    count: u64,
    /// Instances that work from the start, beside the one that is hit.
    others: u64,
    /// Whoever takes over is in the same group, and waits for the session of its former member, or in another
    /// one: then two groups believe that they own the topic.
    same_group: bool,
    records: u64,
    /// At the end, an order to stop in place of SIGKILL.
    drained: bool,
}

impl Round {
    fn draw(random: &mut Random) -> Round {
        let (_, point) = Point::ALL[random.below(Point::ALL.len() as u64) as usize];
        let mut action = ["kill", "kill", "stop", "lose"][random.below(4) as usize];
        if action == "lose" && !["committed", "before_commit", "in_copy", "in_claim"].contains(&point) {
            action = "kill";
        }
        let often = ["fetched", "in_copy", "before_commit", "committed"].contains(&point);
        Round {
            point,
            action,
            count: if often { 1 + random.below(4) } else { 1 },
            others: if point == "revoked" { 1 } else { random.below(3) },
            same_group: point == "revoked" || random.chance(25),
            records: 200 + random.below(600),
            drained: random.chance(30),
        }
    }
}

/// The flow of a lane: what goes into its topic, and what must then be in its tables.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Status,
    Orders,
    Tickets,
}

/// Orders of tickets in each partition.
const TICKET_ORDERS: usize = 8;

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Status => "status",
            Kind::Orders => "orders",
            Kind::Tickets => "tickets",
        }
    }

    fn setting(self, leaf: &str) -> String {
        format!("SLUICEGATE_FLOWS_{}_{leaf}", self.name().to_uppercase())
    }

    /// A record that says where it is from: its partition and its number there. `before`: how many came before it in the
    /// partition for good.
    fn payload(self, partition: i32, number: i32, before: usize, is_aborted: bool) -> Vec<u8> {
        match self {
            Kind::Status => update(partition, number.into(), if is_aborted { "ABORTED" } else { "SUCCESS" }),
            Kind::Orders => {
                let order_id = Uuid::from_u64_pair(partition as u64, number as u64);
                format!(
                    r#"{{"order_id":"{order_id}","customer_id":"CUST{partition}","product_id":"PROD{:03}","quantity":{},"amount":9.99}}"#,
                    number % 11 + 1,
                    if is_aborted { 1_000 } else { 1 + number % 3 }
                )
                .into_bytes()
            }
            Kind::Tickets => {
                let ticket_id = Uuid::from_u64_pair(partition as u64, number as u64);
                // What is aborted has the number of one that is not, or leaves a gap.
                let (order_id, sequence) = (Kind::ticket_order(partition, before), before / TICKET_ORDERS + 1);
                let sequence = sequence + if is_aborted { number as usize % 3 } else { 0 };
                format!(
                    r#"{{"ticket_id":"{ticket_id}","order_id":"{order_id}","sequence":{sequence},"status":"paid","customer_id":"c","price":9.99,"changed_at_ms":0}}"#
                )
                .into_bytes()
            }
        }
    }

    fn ticket_order(partition: i32, before: usize) -> String {
        format!("order-{partition}-{}", before % TICKET_ORDERS)
    }

    fn key(self, partition: i32, before: usize) -> Option<String> {
        matches!(self, Kind::Tickets).then(|| Kind::ticket_order(partition, before))
    }

    fn count_sql(self) -> &'static str {
        match self {
            Kind::Status => "SELECT count(*) FROM processed_seed_status",
            Kind::Orders => "SELECT count(*) FROM orders",
            Kind::Tickets => "SELECT count(*) FROM tickets",
        }
    }

    /// The partition and the number of each row, in order.
    fn found(self, client: &mut postgres::Client) -> Result<Vec<(i32, i32)>, postgres::Error> {
        match self {
            Kind::Status => {
                let sql = "SELECT seed_id, sub_scenario_id FROM processed_seed_status ORDER BY 1, 2";
                Ok(client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect())
            }
            Kind::Orders | Kind::Tickets => {
                let (column, table) =
                    if matches!(self, Kind::Orders) { ("order_id", "orders") } else { ("ticket_id", "tickets") };
                let rows = client.query(&format!("SELECT {column} FROM {table} ORDER BY 1"), &[])?;
                let place = |id: Uuid| (id.as_u64_pair().0 as i32, id.as_u64_pair().1 as i32);
                Ok(rows.iter().map(|row| place(row.get(0))).collect())
            }
        }
    }

    /// What is wrong with the rest of the books, in words.
    fn flaw(self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        match self {
            Kind::Status => Ok(None),
            Kind::Orders => {
                // What is reserved is what the reserved orders asked for, and no more than there was.
                let sql = "SELECT product_id, reserved_quantity, taken FROM inventory
                           LEFT JOIN (SELECT product_id, sum(quantity)::bigint AS taken FROM orders
                                      WHERE status = 'reserved' GROUP BY 1) AS o USING (product_id)
                           WHERE reserved_quantity <> coalesce(taken, 0) OR available_quantity < 0
                              OR available_quantity + reserved_quantity <> total_quantity";
                let wrong = client.query(sql, &[])?;
                let product = |row: &postgres::Row| {
                    let (reserved, taken): (i64, Option<i64>) = (row.get(1), row.get(2));
                    format!("{} has {reserved} reserved, its orders {taken:?}", row.get::<_, String>(0))
                };
                Ok(wrong.first().map(product))
            }
            Kind::Tickets => {
                // None is missing in an order, and each stands where its tickets do.
                let sql = "SELECT order_id, t.count, t.sequence, o.sequence FROM ticket_orders o
                           FULL JOIN (SELECT order_id, count(*), max(sequence) AS sequence FROM tickets GROUP BY 1) AS t
                               USING (order_id)
                           WHERE (t.count, t.sequence) IS DISTINCT FROM (o.sequence, o.sequence)";
                let wrong = client.query(sql, &[])?;
                let order = |row: &postgres::Row| {
                    let (count, highest): (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
                    format!("{} has {count:?} tickets up to {highest:?}", row.get::<_, String>(0))
                };
                Ok(wrong.first().map(order))
            }
        }
    }
}

/// A topic and a database, and what was produced into the one.
struct Lane {
    kind: Kind,
    topic: String,
    url: String,
    settings: HashMap<String, String>,
    /// Numbers that were produced for good, by partition; those of aborted transactions are left out.
    produced: BTreeMap<i32, Vec<i32>>,
    next_number: i32,
    random: Random,
}

impl Lane {
    fn new(kind: Kind, seed: u64) -> Lane {
        let (topic, url) = (support::unique("chaos"), support::new_database("chaos"));
        let mut settings = HashMap::from([
            ("KAFKA_BROKERS".to_owned(), support::brokers()),
            ("DB_URL".to_owned(), url.clone()),
            ("LOG_LEVEL".to_owned(), "info".to_owned()),
        ]);
        let own = [
            ("TOPIC", topic.clone()),
            ("BATCH_ROWS_MAX", "40".to_owned()),
            ("GROUP_ROWS_MAX", "120".to_owned()),
            ("WRITERS", "2".to_owned()),
            ("SESSION_TIMEOUT_MS", SESSION_TIMEOUT_MS.to_string()),
            ("COMMIT_INTERVAL_MS", "100".to_owned()),
            ("PARTITIONS", PARTITIONS.to_string()),
        ];
        settings.extend(own.map(|(leaf, value)| (kind.setting(leaf), value)));
        let mut topics = vec![topic.clone()];
        if matches!(kind, Kind::Orders) {
            for told in ["validated", "inventory", "warehouse"] {
                topics.push(format!("{topic}-{told}"));
                let name = kind.setting(&format!("{}_TOPIC", told.to_uppercase()));
                settings.insert(name, format!("{topic}-{told}"));
            }
        }
        for topic in topics {
            create_topic(&support::brokers(), &Default::default(), &topic, PARTITIONS, 1).expect("a topic");
        }
        let produced = (0..PARTITIONS).map(|partition| (partition, Vec::new())).collect();
        Lane { kind, topic, url, settings, produced, next_number: 0, random: Random(seed) }
    }

    /// Into random partitions; in half of the calls within transactions, every other one of them aborted.
    fn produce(&mut self, count: u64) {
        let in_transactions = self.random.chance(50);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", support::brokers()).set("enable.idempotence", "true").set("linger.ms", "1");
        if in_transactions {
            config.set("transactional.id", support::unique("chaos"));
        }
        let producer: BaseProducer = config.create().expect("a producer");
        if in_transactions {
            producer.init_transactions(MINUTE).expect("transactions");
        }
        let mut left = count;
        while left > 0 {
            let part = if in_transactions { left.min(1 + self.random.below(120)) } else { left };
            left -= part;
            let is_aborted = in_transactions && self.random.chance(40);
            if in_transactions {
                producer.begin_transaction().expect("a transaction");
            }
            for _ in 0..part {
                let (partition, number) = (self.random.below(PARTITIONS as u64) as i32, self.next_number);
                self.next_number += 1;
                let before = self.produced.get(&partition).map_or(0, Vec::len);
                let payload = self.kind.payload(partition, number, before, is_aborted);
                let key = self.kind.key(partition, before);
                let mut record: BaseRecord<'_, [u8], [u8]> =
                    BaseRecord::to(&self.topic).partition(partition).payload(&payload);
                record.key = key.as_deref().map(str::as_bytes);
                producer.send(record).map_err(|(error, _)| error).expect("sent");
                if !is_aborted {
                    self.produced.entry(partition).or_default().push(number);
                }
            }
            match (in_transactions, is_aborted) {
                (false, _) => producer.flush(MINUTE).expect("flushed"),
                (true, false) => producer.commit_transaction(MINUTE).expect("committed"),
                // Flushed first, so that there is something in the log to be taken back.
                (true, true) => {
                    producer.flush(MINUTE).expect("flushed");
                    producer.abort_transaction(MINUTE).expect("aborted");
                }
            }
        }
    }

    fn start(&self, group: &str, failpoint: Option<String>) -> Instance {
        let mut settings = self.settings.clone();
        settings.insert(self.kind.setting("GROUP_ID"), group.to_owned());
        if let Some(failpoint) = failpoint {
            settings.insert("FAILPOINT".to_owned(), failpoint);
        }
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        Instance::start_with(&settings, &["run", "--flow", self.kind.name()])
    }

    fn due(&self) -> usize {
        self.produced.values().map(Vec::len).sum()
    }

    fn rows(&self) -> usize {
        let found = connect(&self.url).query_one(self.kind.count_sql(), &[]);
        found.map_or(0, |row| row.get::<_, i64>(0) as usize)
    }

    fn run(&mut self, round: &Round) -> Result<bool, String> {
        let group = support::unique("group");
        let mut instances: Vec<Instance> = Vec::new();
        self.produce(round.records / 2);
        let armed = format!("{}={}@{}", round.point, round.action, round.count);
        let mut hit = self.start(&group, Some(armed));
        if round.point == "revoked" {
            // It has to own something before a second one can come and ask for its share.
            self.wait_rows(&[])?;
        }
        for _ in 0..round.others {
            // One of them may be of another group: nobody tells it to share.
            let group = if round.same_group { group.clone() } else { support::unique("group") };
            instances.push(self.start(&group, None));
        }
        self.produce(round.records / 2);
        let marker = "fail point";
        let is_hit = |hit: &Instance| hit.log_text().contains(marker);
        // Whoever joins makes the group take partitions back, some time after everything is written.
        let is_over = |rows: usize| round.point != "revoked" && rows >= self.due();
        wait_for("the fail point or the end", MINUTE, || (is_hit(&hit) || is_over(self.rows())).then_some(()));
        let was_hit = is_hit(&hit);
        if was_hit && round.action != "lose" {
            if round.action == "kill" {
                hit.wait(MINUTE);
            } else {
                wait_for("the freeze", MINUTE, || hit.is_stopped().then_some(()));
            }
            let group = if round.same_group { group.clone() } else { support::unique("group") };
            instances.push(self.start(&group, None));
        }
        self.wait_rows(&instances)?;
        if was_hit && round.action == "stop" {
            // It wakes with all that it held, believes that it owns it, and tries.
            hit.signal("CONT");
            self.produce(50);
            self.wait_rows(&instances)?;
            std::thread::sleep(Duration::from_millis(300));
        }
        instances.push(hit);
        if round.drained {
            for instance in &mut instances {
                instance.try_signal("TERM");
            }
            for instance in &mut instances {
                instance.wait(MINUTE);
            }
        }
        drop(instances);
        self.check().map(|()| was_hit)
    }

    fn wait_rows(&self, instances: &[Instance]) -> Result<(), String> {
        let start = std::time::Instant::now();
        while self.rows() < self.due() {
            if start.elapsed() > MINUTE {
                let logs: Vec<String> = instances.iter().map(|instance| instance.log_tail(15)).collect();
                return Err(format!("{} rows of {} after a minute\n{}", self.rows(), self.due(), logs.join("\n--\n")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Row by row: what was produced is there once, and nothing else is.
    fn check(&self) -> Result<(), String> {
        let mut client = connect(&self.url);
        let found = self.kind.found(&mut client).map_err(|error| error.to_string())?;
        let due: Vec<(i32, i32)> = self
            .produced
            .iter()
            .flat_map(|(partition, numbers)| numbers.iter().map(|number| (*partition, *number)))
            .collect();
        if found != due {
            let doubled: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
            let lost: Vec<_> = due.iter().filter(|row| found.binary_search(row).is_err()).collect();
            let strange: Vec<_> = found.iter().filter(|row| due.binary_search(row).is_err()).collect();
            return Err(format!("doubled {doubled:?}, lost {lost:?}, never produced or aborted {strange:?}"));
        }
        if let Some(flaw) = self.kind.flaw(&mut client).map_err(|error| error.to_string())? {
            return Err(flaw);
        }
        let letters: i64 =
            client.query_one("SELECT count(*) FROM sluicegate_letters", &[]).map_err(|error| error.to_string())?.get(0);
        (letters == 0).then_some(()).ok_or_else(|| format!("{letters} letters for good records"))
    }
}

#[test]
fn the_crash_matrix() {
    let rounds = setting("SLUICEGATE_CHAOS_ROUNDS", 50);
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed = setting("SLUICEGATE_CHAOS_SEED", now_ns % 1_000_000);
    println!("{rounds} rounds from seed {seed}: make chaos ROUNDS={rounds} SEED={seed}");
    let next = AtomicU64::new(0);
    let reached: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let failed: Mutex<Option<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for lane in 0..LANES.min(rounds) {
            let (next, reached, failed) = (&next, &reached, &failed);
            scope.spawn(move || {
                let kind = [Kind::Status, Kind::Orders, Kind::Tickets][lane as usize % 3];
                let mut world = Lane::new(kind, seed ^ (lane << 32));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds || failed.lock().expect("no panic before").is_some() {
                        return;
                    }
                    let round = Round::draw(&mut Random(seed.wrapping_mul(1_000_003).wrapping_add(number)));
                    let began = std::time::Instant::now();
                    let result = world.run(&round);
                    println!("round {number}: {kind:?} {round:?} {result:?} {:.1} s", began.elapsed().as_secs_f64());
                    match result {
                        Ok(true) => {
                            let key = format!("{} {} {}", kind.name(), round.action, round.point);
                            *reached.lock().expect("no panic before").entry(key).or_default() += 1;
                        }
                        Ok(false) => {}
                        Err(what) => {
                            let text = format!("seed {seed}, round {number}, {round:?}: {what}");
                            failed.lock().expect("no panic before").get_or_insert(text);
                        }
                    }
                }
            });
        }
    });
    if let Some(failed) = failed.into_inner().expect("no panic before") {
        panic!("{failed}");
    }
    let reached = reached.into_inner().expect("no panic before");
    println!("0 lost, 0 doubled in {rounds} rounds; fail points reached: {reached:?}");
    // A fail point that is never reached proves nothing.
    if rounds >= 200 {
        for (_, name) in Point::ALL {
            assert!(reached.keys().any(|key| key.ends_with(name)), "{name} was never reached");
        }
    }
    assert!(reached.values().sum::<u64>() * 2 >= rounds, "fewer than half of the rounds reached their fail point");
}
