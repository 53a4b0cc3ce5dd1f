//! A topic and a database of one flow, where records gather from round to round: some by a plain producer, some by
//! transactions, of which some are aborted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluicegate::kafka::admin::create_topic;

use super::load::{Load, PARTITIONS, Sent};
use super::round::Round;
use crate::support::random::Random;
use crate::support::{self, Instance, connect, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const SESSION_TIMEOUT_MS: u64 = 6000;

pub struct Lane {
    pub load: Box<dyn Load>,
    topic: String,
    client: postgres::Client,
    settings: HashMap<String, String>,
    random: Random,
}

/// A producer of one call, of transactions or none.
struct Sender {
    producer: BaseProducer,
    in_transactions: bool,
}

impl Sender {
    fn new(in_transactions: bool) -> Sender {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", support::brokers()).set("enable.idempotence", "true").set("linger.ms", "1");
        if in_transactions {
            config.set("transactional.id", support::unique("chaos"));
        }
        let producer: BaseProducer = config.create().expect("a producer");
        if in_transactions {
            producer.init_transactions(MINUTE).expect("transactions");
        }
        Sender { producer, in_transactions }
    }

    fn send(&self, topic: &str, records: Vec<Sent>, is_aborted: bool) {
        if self.in_transactions {
            self.producer.begin_transaction().expect("a transaction");
        }
        for sent in &records {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(sent.partition);
            record.payload = sent.payload.as_deref();
            record.key = sent.key.as_deref().map(str::as_bytes);
            if !sent.headers.is_empty() {
                let header = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
                    headers.insert(Header { key, value: Some(value) })
                };
                record.headers = Some(sent.headers.iter().fold(OwnedHeaders::new(), header));
            }
            self.producer.send(record).map_err(|(error, _)| error).expect("sent");
        }
        match (self.in_transactions, is_aborted) {
            (false, _) => self.producer.flush(MINUTE).expect("flushed"),
            (true, false) => self.producer.commit_transaction(MINUTE).expect("committed"),
            // Flushed first, so that there is something in the log to be taken back.
            (true, true) => {
                self.producer.flush(MINUTE).expect("flushed");
                self.producer.abort_transaction(MINUTE).expect("aborted");
            }
        }
    }
}

impl Lane {
    pub fn new(load: fn(&str) -> Box<dyn Load>, seed: u64) -> Lane {
        let (topic, url) = (support::unique("chaos"), support::new_database("chaos"));
        let load = load(&topic);
        let mut settings = HashMap::from([
            ("KAFKA_BROKERS".to_owned(), support::brokers()),
            ("DB_URL".to_owned(), url.clone()),
            ("LOG_LEVEL".to_owned(), "info".to_owned()),
        ]);
        let common = [
            ("BATCH_ROWS_MAX", "40".to_owned()),
            ("GROUP_ROWS_MAX", "120".to_owned()),
            ("WRITERS", "2".to_owned()),
            ("SESSION_TIMEOUT_MS", SESSION_TIMEOUT_MS.to_string()),
            ("COMMIT_INTERVAL_MS", "100".to_owned()),
            ("PARTITIONS", PARTITIONS.to_string()),
        ];
        let own = load.settings().into_iter().chain(common);
        settings.extend(own.map(|(leaf, value)| (name(&*load, leaf), value)));
        for topic in load.topics().iter().chain([&topic]) {
            create_topic(&support::brokers(), &Default::default(), topic, PARTITIONS, 1).expect("a topic");
        }
        let mut client = connect(&url);
        client.batch_execute(load.prepare()).expect("prepared");
        Lane { load, topic, client, settings, random: Random(seed) }
    }

    /// In half of the calls within transactions, two in five of them aborted.
    fn produce(&mut self, count: u64) {
        let in_transactions = self.random.chance(50);
        let sender = Sender::new(in_transactions);
        let mut left = count;
        while left > 0 {
            let part = if in_transactions { left.min(1 + self.random.below(120)) } else { left };
            left -= part;
            let is_aborted = in_transactions && self.random.chance(40);
            let draw = |_| self.load.draw(&mut self.random, is_aborted);
            let records: Vec<Sent> = (0..part).flat_map(draw).collect();
            sender.send(&self.topic, records, is_aborted);
        }
        let last = self.load.last(&mut self.random);
        if !last.is_empty() {
            sender.send(&self.topic, last, false);
        }
    }

    fn start(&self, group: &str, failpoint: Option<String>) -> Instance {
        let mut settings = self.settings.clone();
        settings.insert(name(&*self.load, "GROUP_ID"), group.to_owned());
        if let Some(failpoint) = failpoint {
            settings.insert("FAILPOINT".to_owned(), failpoint);
        }
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        Instance::start_with(&settings, &["run", "--flow", self.load.flow()])
    }

    /// Tables that are not there yet have nothing.
    fn is_done(&mut self) -> bool {
        self.load.progress(&mut self.client).is_ok_and(|(done, due)| done >= due)
    }

    /// Whether the round has reached its fail point; or what is wrong with what it left behind.
    pub fn run(&mut self, round: &Round) -> Result<bool, String> {
        let group = support::unique("group");
        let mut instances: Vec<Instance> = Vec::new();
        self.produce(round.records / 2);
        let armed = format!("{}={}@{}", round.point, round.action, round.count);
        let mut hit = self.start(&group, Some(armed));
        if round.point == "revoked" {
            // It has to own something before a second one can come and ask for its share. What was sent does not show it: all of
            // that may have been aborted.
            hit.wait_assigned();
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
        let ends_when_done = round.point != "revoked";
        wait_for("the fail point or the end", MINUTE, || {
            (is_hit(&hit) || ends_when_done && self.is_done()).then_some(())
        });
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
        let is_frozen = was_hit && round.action == "stop";
        self.wait_done(&instances)?;
        if is_frozen {
            // It wakes with all that it held, believes that it owns it, and tries.
            hit.signal("CONT");
            self.produce(50);
            self.wait_done(&instances)?;
            std::thread::sleep(Duration::from_millis(300));
        }
        instances.push(hit);
        if round.drained {
            for instance in &mut instances {
                instance.try_signal("TERM");
            }
            for instance in &mut instances {
                wait_for("the end", MINUTE, || {
                    // One that came to its fail point only now is frozen, and hears of nothing.
                    instance.try_signal("CONT");
                    instance.child.try_wait().expect("a child")
                });
            }
        }
        drop(instances);
        self.check().map(|()| was_hit)
    }

    fn wait_done(&mut self, instances: &[Instance]) -> Result<(), String> {
        let start = Instant::now();
        while !self.is_done() {
            if start.elapsed() > MINUTE {
                let progress = self.load.progress(&mut self.client);
                let logs: Vec<String> = instances.iter().map(|instance| instance.log_tail(15)).collect();
                return Err(format!("{progress:?} (there, due) after a minute\n{}", logs.join("\n--\n")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What was produced is there once, and nothing else is.
    fn check(&mut self) -> Result<(), String> {
        let flaw = self.load.flaw(&mut self.client).map_err(|error| error.to_string())?;
        flaw.map_or(Ok(()), Err)?;
        if self.load.has_letters() {
            return Ok(());
        }
        let letters = super::load::count(&mut self.client, "SELECT count(*) FROM sluicegate_letters");
        match letters.map_err(|error| error.to_string())? {
            0 => Ok(()),
            letters => Err(format!("{letters} letters for good records")),
        }
    }
}

fn name(load: &dyn Load, leaf: &str) -> String {
    format!("SLUICEGATE_FLOWS_{}_{leaf}", load.flow().to_uppercase())
}
