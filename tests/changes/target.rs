//! A database of its own with the flow in front of it: events go in as records of partitions, in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::config::Sources;
use sluicegate::engine::{Batch, Claim, Claims, Outcome, Sink, Wanted};
use sluicegate::fault::{Cause, Fault};
use sluicegate::flow::{Apply, Cdc, Replay as _};
use sluicegate::record::{Partition, Record};
use sluicegate::track::Track;

use crate::support;

/// Key, value and headers.
pub type Event = (Option<String>, Option<String>, Vec<(String, Option<Vec<u8>>)>);

pub struct Target {
    sink: Apply<Cdc>,
    pub client: postgres::Client,
    pub url: String,
    claims: HashMap<Partition, Arc<Claim>>,
    next: HashMap<Partition, i64>,
    pub letters: Vec<(i64, String, String)>,
    /// Where a partition has halted, and why.
    pub halted: Vec<(i64, String)>,
    /// How often the last group was tried.
    pub attempts: usize,
    /// What somebody else does whenever a batch is to be read again.
    pub meanwhile: &'static str,
}

impl Target {
    /// `settings`: leaves below flows.cdc.
    pub fn new(settings: &[(&str, &str)]) -> Target {
        let url = support::new_database("changes");
        let name = |leaf: &str| format!("SLUICEGATE_FLOWS_CDC_{}", leaf.to_uppercase());
        let mut environment = vec![("DB_URL".to_owned(), url.clone())];
        // Who waits for others does so only where that is the matter.
        let waits = settings.iter().any(|(leaf, _)| *leaf == "parent_wait_ms");
        environment.extend((!waits).then(|| (name("parent_wait_ms"), "0".to_owned())));
        environment.extend(settings.iter().map(|(leaf, value)| (name(leaf), (*value).to_owned())));
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { file: None, flows: vec!["cdc".into()], environment, folder: folder.path().to_owned() };
        let config = sources.load().unwrap_or_else(|findings| panic!("{findings}"));
        let flow = Cdc::from_config(&config.flows["cdc"]).unwrap();
        let database = support::database(&url, Duration::from_secs(10), Duration::from_secs(60));
        let sink = Apply::new(flow, database, "test".into(), true, Track::new("cdc"));
        sink.create_tables().unwrap();
        let (claims, next) = (HashMap::new(), HashMap::new());
        let client = support::connect(&url);
        Target { sink, client, url, claims, next, letters: Vec::new(), halted: Vec::new(), attempts: 0, meanwhile: "" }
    }

    /// As another instance does.
    pub fn start_again(&self) {
        self.sink.create_tables().unwrap();
    }

    fn claim(&mut self, partition: &Partition) -> Arc<Claim> {
        let wanted = Wanted { partition: partition.clone(), incarnation: "one".into(), first_offset: Some(0) };
        match self.sink.claim(&[wanted]).unwrap() {
            Claims::Made(mut claims) => claims.pop().unwrap().unwrap(),
            Claims::Unseen(_) => unreachable!("it came with its first offset"),
        }
    }

    /// One batch of one partition, as the engine would have it written: read again where it is told to.
    pub fn apply(&mut self, topic: &str, partition: i32, events: &[Event]) {
        self.apply_all(&[(topic, partition, events)]);
    }

    /// Batches of several partitions in one transaction.
    pub fn apply_all(&mut self, group: &[(&str, i32, &[Event])]) {
        let mut refused: HashMap<(Partition, i64), (String, String)> = HashMap::new();
        for attempt in 1..=8 {
            self.attempts = attempt;
            let mut batches = Vec::new();
            let mut halted = Vec::new();
            for (topic, id, events) in group {
                let partition = Partition::new(*topic, *id);
                let claim = match self.claims.get(&partition) {
                    Some(claim) => claim.clone(),
                    None => self.claim(&partition),
                };
                self.claims.insert(partition.clone(), claim.clone());
                let first = *self.next.entry(partition.clone()).or_insert(0);
                let mut batch = Batch::new(claim, first);
                for (index, (key, value, headers)) in events.iter().enumerate() {
                    let offset = first + index as i64;
                    let record = Record {
                        partition: &partition,
                        offset,
                        timestamp_ms: Some(1_700_000_000_000 + offset),
                        key: key.as_deref().map(str::as_bytes),
                        payload: value.as_deref().map(str::as_bytes),
                        headers,
                    };
                    let known = refused.get(&(partition.clone(), offset)).cloned();
                    let added = batch.add(&record, |record, rows| match known {
                        Some((code, text)) => Err(self.sink.refusal(Cause::new(code, text))),
                        None => self.sink.decode(record, rows),
                    });
                    match added {
                        Ok(()) => {}
                        // What comes before it is written, and nothing behind it.
                        Err(Fault::Stop(cause)) => {
                            halted.push((offset, cause.code.into_owned()));
                            break;
                        }
                        Err(fault) => panic!("{fault:?}"),
                    }
                }
                batches.push(batch);
            }
            let mut session = None;
            let outcomes = match self.sink.apply(&mut session, &batches) {
                Ok(outcomes) => outcomes,
                // A table that has changed meanwhile: the engine asks again.
                Err(Fault::Retry(cause)) if cause.code.starts_with("pg.42") => continue,
                Err(fault) => panic!("{fault:?}"),
            };
            let mut is_done = true;
            for (batch, outcome) in batches.iter().zip(outcomes) {
                let partition = batch.partition().clone();
                match outcome {
                    Outcome::Written => {
                        self.next.insert(partition, batch.next);
                        let letters = batch.letters.iter();
                        self.letters.extend(
                            letters.map(|letter| {
                                (letter.offset, letter.reason.code.to_string(), letter.reason.text.clone())
                            }),
                        );
                    }
                    Outcome::Fenced => {
                        is_done = false;
                        self.claims.remove(&partition);
                        self.client.batch_execute(self.meanwhile).unwrap();
                    }
                    Outcome::Refused(rows) => {
                        is_done = false;
                        for (offset, cause) in rows {
                            refused.insert((partition.clone(), offset), (cause.code.to_string(), cause.text));
                        }
                    }
                }
            }
            if is_done {
                self.halted.append(&mut halted);
                return;
            }
        }
        panic!("the batches are still not written");
    }

    /// All letters that are open, once more.
    pub fn replay(&mut self) {
        let ids: Vec<i64> = self
            .rows("SELECT id FROM sluicegate_letters WHERE state = 'open'")
            .iter()
            .map(|id| id.parse().unwrap())
            .collect();
        self.sink.replay(&ids, false).unwrap_or_else(|fault| panic!("{fault:?}"));
    }

    /// Rows of a query, each its columns with | between them.
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        let messages = self.client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message: &postgres::SimpleQueryMessage| match message {
            postgres::SimpleQueryMessage::Row(row) => {
                let fields: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("null")).collect();
                Some(fields.join("|"))
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    }

    /// Codes of what was set aside.
    pub fn codes(&self) -> Vec<&str> {
        self.letters.iter().map(|(_, code, _)| code.as_str()).collect()
    }
}
