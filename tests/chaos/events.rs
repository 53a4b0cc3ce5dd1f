//! The events flow: each message has all of its effects once, at the attempt at which it was bound to, or it is a dead
//! letter once. Which of them fail, and how often, a function in the database decides by their number, so that it is known
//! here. Two in three have an id, and some of these come twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::load::{Drawn, Load, Numbers, PARTITIONS, Sent, count, difference};
use crate::support;
use crate::support::random::Random;

/// Attempts after the first, and so many retry topics.
const RETRIES: i32 = 2;

/// Two effects of each message: a row by COPY, and a statement of its own. Nothing in the tables would refuse a second one.
const HANDLERS: &str = r#"[
    {"kind": "table", "table": "events", "columns": [
        {"name": "key", "path": "@key", "type": "text", "required": true},
        {"name": "attempt", "path": "@attempt", "type": "integer", "required": true}]},
    {"kind": "sql", "sql": "SELECT note($1, $2, $3)", "params": [{"path": "@key", "type": "text"},
        {"path": "/number", "type": "integer"}, {"path": "@attempt", "type": "integer"}]}]"#;

/// What `Fate` says of a number, for the program.
const NOTE: &str = "CREATE TABLE notes (key text NOT NULL, attempt integer NOT NULL);
    CREATE FUNCTION note(key text, number integer, attempt integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF number % 25 = 7 AND attempt < 2 THEN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END IF;
        IF number % 100 = 9 THEN RAISE EXCEPTION 'never'; END IF;
        INSERT INTO notes VALUES (key, attempt);
    END $$";

/// What becomes of a message, by its number.
enum Fate {
    /// Processed at this attempt.
    Processed(i32),
    /// Refused by a statement.
    Dead,
    /// No JSON.
    Cut,
}

fn fate(number: i32) -> Fate {
    match number {
        _ if number % 100 == 9 => Fate::Dead,
        _ if number % 100 == 59 => Fate::Cut,
        _ if number % 25 == 7 => Fate::Processed(RETRIES),
        _ => Fate::Processed(0),
    }
}

/// What tells messages apart in tables and topics.
fn key((partition, number): (i32, i32)) -> String {
    format!("{partition}/{number}")
}

pub struct Events {
    topic: String,
    numbers: Numbers,
    /// Dead letters as others see them, by key: the places that they say they come from. They are published at least once.
    dead: BTreeMap<String, BTreeSet<String>>,
    reader: Option<BaseConsumer>,
}

impl Events {
    pub fn load(topic: &str) -> Box<dyn Load> {
        Box::new(Events { topic: topic.to_owned(), numbers: Numbers::default(), dead: BTreeMap::new(), reader: None })
    }

    fn dead_topic(&self) -> String {
        format!("{}-dlq", self.topic)
    }

    /// Everything that the topic of dead letters has by now.
    fn read_dead(&mut self) {
        let topic = self.dead_topic();
        let reader = self.reader.get_or_insert_with(|| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", support::brokers()).set("group.id", support::unique("reader"));
            let reader: BaseConsumer = config.create().expect("a consumer");
            let mut all = TopicPartitionList::new();
            for id in 0..PARTITIONS {
                all.add_partition_offset(&topic, id, Offset::Beginning).expect("a partition");
            }
            reader.assign(&all).expect("assigned");
            reader
        });
        while let Some(message) = reader.poll(Duration::ZERO) {
            // The broker is there all the time; what is lost on the way is asked for again.
            let Ok(message) = message else { continue };
            let headers = message.headers().expect("a dead letter has its history");
            let source =
                headers.iter().find(|header| header.key == "sluicegate-source").and_then(|header| header.value);
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            self.dead.entry(text(message.key())).or_default().insert(text(source));
        }
    }
}

impl Load for Events {
    fn flow(&self) -> &'static str {
        "events"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TOPIC", self.topic.clone()),
            ("PRODUCER_TOPIC", self.topic.clone()),
            ("RETRY_TOPIC_PREFIX", format!("{}-retry", self.topic)),
            ("DLQ_TOPIC", self.dead_topic()),
            ("HANDLERS", HANDLERS.to_owned()),
            ("RETRY_MAX", RETRIES.to_string()),
            ("RETRY_DELAY_MS", "100".to_owned()),
            ("RETRY_DELAY_FACTOR", "1".to_owned()),
        ]
    }

    fn topics(&self) -> Vec<String> {
        let retries = (1..=RETRIES).map(|number| format!("{}-retry-{number}", self.topic));
        retries.chain([self.dead_topic()]).collect()
    }

    fn prepare(&self) -> &'static str {
        NOTE
    }

    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent> {
        let Drawn { partition, number, .. } = self.numbers.draw(random, is_aborted);
        // What is aborted has the id of the next one: nobody may remember it.
        let named = if is_aborted { number + 1 } else { number };
        let has_id = named % 3 != 0;
        let end = if matches!(fate(number), Fate::Cut) { "" } else { "}" };
        let key = key((partition, number));
        let message = |partition: i32| Sent {
            partition,
            key: Some(key.clone()),
            payload: Some(format!(r#"{{"number":{number}{end}"#).into_bytes()),
            headers: if has_id { vec![("message_id", format!("message-{named}"))] } else { Vec::new() },
        };
        let mut messages = vec![message(partition)];
        if has_id && random.chance(3) {
            messages.push(message(random.below(PARTITIONS as u64) as i32));
        }
        messages
    }

    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error> {
        self.read_dead();
        Ok((count(client, "SELECT count(*) FROM events")? + self.dead.len(), self.numbers.count()))
    }

    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error> {
        let (mut processed, mut dead) = (Vec::new(), Vec::new());
        for place in self.numbers.all() {
            match fate(place.1) {
                Fate::Processed(attempt) => processed.push((key(place), attempt)),
                Fate::Dead | Fate::Cut => dead.push(key(place)),
            }
        }
        processed.sort();
        dead.sort();
        for table in ["events", "notes"] {
            let rows = client.query(&format!("SELECT key, attempt FROM {table}"), &[])?;
            let mut found: Vec<(String, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            found.sort();
            if let Some(difference) = difference(&found, &processed) {
                return Ok(Some(format!("{table}: {difference}")));
            }
        }
        let rows = client.query("SELECT convert_from(key, 'UTF8') FROM sluicegate_letters", &[])?;
        let mut letters: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        letters.sort();
        if let Some(difference) = difference(&letters, &dead) {
            return Ok(Some(format!("letters: {difference}")));
        }
        self.read_dead();
        let told: Vec<String> = self.dead.keys().cloned().collect();
        if let Some(difference) = difference(&told, &dead) {
            return Ok(Some(format!("the topic of dead letters: {difference}")));
        }
        let split = self.dead.iter().find(|(_, sources)| sources.len() > 1);
        Ok(split.map(|(key, sources)| format!("{key} is a dead letter by {sources:?}")))
    }

    fn has_letters(&self) -> bool {
        true
    }
}
