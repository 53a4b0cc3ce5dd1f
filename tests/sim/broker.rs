//! Kafka as the engine sees it: logs with gaps, and a group that hands partitions around, with and without
//! asking.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate::engine::{Event, Lane, Seen, Source};
use sluicegate::fault::{Cause, Fault};
use sluicegate::record::{NoHeaders, Partition, Record};

use super::{Chances, Coverage, world::World};

pub const TOPIC: &str = "t";
/// A member that does not answer a revocation loses its partitions after this.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(6);

/// Longer than the engine waits for a partition that gives nothing without a cause.
const DELAY_MAX_MS: u64 = 20_000;

/// What a record is made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Row,
    /// Decode rejects it.
    Poison,
    /// The sink refuses it.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: i64,
    pub fate: Fate,
    /// Before this moment it must not be decoded; zero where it need not wait.
    pub due: Duration,
}

#[derive(Default)]
struct Member {
    events: VecDeque<Event>,
    owned: BTreeSet<i32>,
    /// Revoked and not released: until when the group waits.
    release_by: Option<Duration>,
}

impl Member {
    /// What it takes for its own: what the group gave it last, and what it has not heard yet that it lost before that.
    fn believed(&self) -> Vec<Partition> {
        let unheard = self.events.iter().flat_map(|event| match event {
            Event::Lost(partitions) | Event::Revoked(partitions) => partitions.as_slice(),
            _ => &[],
        });
        let owned = self.owned.iter().map(|id| Partition::new(TOPIC, *id));
        owned.chain(unheard.cloned()).collect::<BTreeSet<Partition>>().into_iter().collect()
    }
}

#[derive(Default)]
struct Inner {
    logs: Vec<Vec<Entry>>,
    /// Where each log ends: behind its last record, or further.
    ends: Vec<i64>,
    members: BTreeMap<u64, Member>,
    rebalancing: bool,
    /// The highest offset that the ledger ever had: no more may be told to the group.
    applied: BTreeMap<i32, i64>,
    /// It always answers, and no further lane goes deaf. One that is has to be noticed.
    is_healed: bool,
}

pub struct Broker {
    world: Arc<World>,
    chances: Chances,
    coverage: Arc<Coverage>,
    inner: Mutex<Inner>,
}

impl Broker {
    pub fn new(world: Arc<World>, partitions: usize, chances: Chances, coverage: Arc<Coverage>) -> Arc<Broker> {
        let inner = Inner { logs: vec![Vec::new(); partitions], ends: vec![0; partitions], ..Inner::default() };
        Arc::new(Broker { world, chances, coverage, inner: Mutex::new(inner) })
    }

    pub fn heal(&self) {
        self.lock().is_healed = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn log(&self, partition: i32) -> Vec<Entry> {
        self.lock().logs[partition as usize].clone()
    }

    pub fn end(&self, partition: i32) -> i64 {
        self.lock().ends[partition as usize]
    }

    /// Appends records, here and there with a gap before or behind, as compaction and transactions leave them.
    pub fn append(&self, partition: i32, count: u64) {
        let gap = || if self.world.chance(self.chances.gap) { 1 + self.world.below(3) as i64 } else { 0 };
        for _ in 0..count {
            let (before, behind) = (gap(), gap());
            let offset = self.end(partition) + before;
            let fate = match self.world.below(1000) {
                draw if draw < self.chances.poison => Fate::Poison,
                draw if draw < self.chances.poison + self.chances.refused => Fate::Refused,
                _ => Fate::Row,
            };
            let due = match self.world.chance(self.chances.delayed) {
                true => self.world.now() + self.world.millis(DELAY_MAX_MS),
                false => Duration::ZERO,
            };
            let mut inner = self.lock();
            inner.logs[partition as usize].push(Entry { offset, fate, due });
            inner.ends[partition as usize] = offset + 1 + behind;
        }
        self.world.changed();
    }

    pub fn applied(&self, partition: i32, next: i64) {
        let mut inner = self.lock();
        let highest = inner.applied.entry(partition).or_default();
        *highest = (*highest).max(next);
    }

    pub fn join(&self, member: u64) {
        self.lock().members.insert(member, Member::default());
        self.rebalance();
    }

    /// The group has not heard of the member for too long: others get its partitions, and it hears last.
    pub fn kick(&self, member: u64, still_there: bool) {
        let mut inner = self.lock();
        let Some(former) = inner.members.remove(&member) else { return };
        if still_there {
            let events = VecDeque::from([Event::Lost(former.believed())]);
            inner.members.insert(member, Member { events, ..Member::default() });
        }
        drop(inner);
        self.rebalance();
    }

    /// Asks everybody to give everything back, as an eager group does.
    pub fn rebalance(&self) {
        let by = self.world.now() + REBALANCE_TIMEOUT;
        let mut inner = self.lock();
        inner.rebalancing = true;
        for member in inner.members.values_mut() {
            if !member.owned.is_empty() && member.release_by.is_none() {
                let owned = member.owned.iter().map(|id| Partition::new(TOPIC, *id)).collect();
                member.events.push_back(Event::Revoked(owned));
                member.release_by = Some(by);
            }
        }
        drop(inner);
        self.hand_out();
        self.world.changed();
    }

    /// Once everything is back, or its time is up, everybody gets a share.
    fn hand_out(&self) {
        let now = self.world.now();
        let mut inner = self.lock();
        if !inner.rebalancing {
            return;
        }
        for member in inner.members.values_mut() {
            if member.release_by.is_some_and(|by| now >= by) {
                // Too late: it has lost them, whatever it still hears about a revocation.
                let lost = member.believed();
                member.owned.clear();
                member.events.clear();
                member.events.push_back(Event::Lost(lost));
                member.release_by = None;
                self.coverage.hit("lost");
            }
        }
        if inner.members.is_empty() || inner.members.values().any(|member| member.release_by.is_some()) {
            return;
        }
        inner.rebalancing = false;
        let (partitions, count) = (inner.logs.len(), inner.members.len());
        for (index, member) in inner.members.values_mut().enumerate() {
            let share: Vec<i32> = (0..partitions).filter(|id| id % count == index).map(|id| id as i32).collect();
            member.owned = share.iter().copied().collect();
            member.events.push_back(Event::Assigned(share.iter().map(|id| Partition::new(TOPIC, *id)).collect()));
        }
    }

    fn trouble(&self, what: &'static str) -> Result<(), Fault> {
        match !self.lock().is_healed && self.world.chance(self.chances.source_fault) {
            true => {
                self.coverage.hit(what);
                self.world.sleep(self.world.millis(200));
                Err(Fault::retry("sim.source", what))
            }
            false => Ok(()),
        }
    }
}

/// One member of the group.
pub struct SimSource {
    pub broker: Arc<Broker>,
    pub member: u64,
    /// The client has lost its way to the brokers, and will not look for it.
    pub is_lost: bool,
}

impl Source for SimSource {
    type Lane = SimLane;

    fn next_event(&mut self, wait: Duration) -> Option<Event> {
        let world = self.broker.world.clone();
        let until = world.now() + wait;
        loop {
            self.broker.hand_out();
            // One that is lost is no member any more, and hears nothing.
            let event = self.broker.lock().members.get_mut(&self.member).and_then(|member| member.events.pop_front());
            if event.is_some() {
                let deaf = if self.broker.lock().is_healed { 0 } else { self.broker.chances.deaf };
                if matches!(event, Some(Event::Lost(_))) && world.chance(deaf) {
                    self.broker.coverage.hit("lost client");
                    self.broker.kick(self.member, false);
                    self.is_lost = true;
                }
                world.changed();
                return event;
            }
            if world.now() >= until {
                return None;
            }
            world.wait(until);
        }
    }

    fn incarnation(&mut self, _: &str) -> Result<String, Fault> {
        self.broker.trouble("incarnation").map(|()| "one".into())
    }

    fn first_offset(&mut self, _: &Partition) -> Result<i64, Fault> {
        self.broker.trouble("first_offset").map(|()| 0)
    }

    fn open(&mut self, at: &[(Partition, i64)]) -> Result<Vec<SimLane>, Fault> {
        self.broker.trouble("open")?;
        let deaf = if self.broker.lock().is_healed { 0 } else { self.broker.chances.deaf };
        let lane = |(partition, offset): &(Partition, i64)| SimLane {
            broker: self.broker.clone(),
            partition: partition.clone(),
            next: *offset,
            told_end: None,
            is_deaf: self.broker.world.chance(deaf),
        };
        Ok(at.iter().map(lane).collect())
    }

    fn release(&mut self, partitions: &[Partition]) {
        let mut inner = self.broker.lock();
        if let Some(member) = inner.members.get_mut(&self.member) {
            partitions.iter().for_each(|partition| {
                member.owned.remove(&partition.id);
            });
            if member.owned.is_empty() {
                member.release_by = None;
            }
        }
        drop(inner);
        self.broker.hand_out();
        self.broker.world.changed();
    }

    fn commit(&mut self, next: &[(Partition, i64)]) {
        let inner = self.broker.lock();
        for (partition, offset) in next {
            if inner.applied.get(&partition.id).is_none_or(|applied| offset > applied) {
                self.broker.world.fail(format!("{partition}: {offset} told to the group before it was applied"));
            }
        }
    }

    fn ends(&mut self, partitions: &[Partition]) -> Result<Vec<i64>, Fault> {
        self.broker.trouble("ends")?;
        if self.is_lost {
            return Err(Fault::retry("sim.source", "no broker that the client knows"));
        }
        Ok(partitions.iter().map(|partition| self.broker.end(partition.id)).collect())
    }

    fn renew(&mut self) -> Result<(), Fault> {
        self.broker.trouble("renew")?;
        self.broker.kick(self.member, false);
        self.broker.join(self.member);
        self.is_lost = false;
        Ok(())
    }

    fn close(self, _: Duration) {
        self.broker.kick(self.member, false);
    }
}

pub struct SimLane {
    broker: Arc<Broker>,
    partition: Partition,
    next: i64,
    told_end: Option<i64>,
    /// The client has lost its wake-up, or its fetcher: it never gives anything.
    is_deaf: bool,
}

impl Lane for SimLane {
    fn take(
        &mut self,
        records_max: usize,
        _: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<Seen, Fault>,
    ) -> Result<Option<i64>, Fault> {
        let world = self.broker.world.clone();
        let until = world.now() + wait;
        self.broker.trouble("take")?;
        if self.is_deaf {
            self.broker.coverage.hit("deaf lane");
            while world.now() < until {
                world.wait(until);
            }
            return Ok(None);
        }
        let found = loop {
            let log = self.broker.log(self.partition.id);
            let found: Vec<Entry> =
                log.into_iter().filter(|entry| entry.offset >= self.next).take(records_max).collect();
            if !found.is_empty() || self.told_end != Some(self.broker.end(self.partition.id)) || world.now() >= until {
                break found;
            }
            world.wait(until);
        };
        // Any part of what is there may come, and what came before the position may come again.
        let count = if world.chance(500) { found.len() } else { world.below(found.len() as u64 + 1) as usize };
        let again = self.broker.log(self.partition.id).into_iter().rfind(|entry| entry.offset < self.next);
        for entry in
            again.into_iter().filter(|_| world.chance(self.broker.chances.again)).chain(found.into_iter().take(count))
        {
            let mut payload = [entry.fate as u8; 9];
            payload[1..].copy_from_slice(&(entry.due.as_millis() as u64).to_be_bytes());
            let record = Record {
                partition: &self.partition,
                offset: entry.offset,
                timestamp_ms: None,
                key: None,
                payload: Some(&payload),
                headers: &NoHeaders,
            };
            if see(&record)? == Seen::Later {
                self.broker.coverage.hit("left for later");
                break;
            }
            self.next = self.next.max(entry.offset + 1);
        }
        world.changed();
        // Told once for each end that there was.
        let is_last = self.broker.log(self.partition.id).last().is_none_or(|last| last.offset < self.next);
        let end = Some(self.broker.end(self.partition.id)).filter(|_| is_last);
        let news = end.filter(|_| end != self.told_end);
        self.told_end = news.or(self.told_end);
        Ok(news)
    }
}

/// The decoding of a record, as the sink does it.
pub fn decode(record: &Record<'_>) -> Result<bool, Fault> {
    match record.payload {
        Some([fate, ..]) if *fate == Fate::Poison as u8 => Err(Fault::Reject(Cause::new("sim.poison", "poison"))),
        Some([fate, ..]) => Ok(*fate == Fate::Refused as u8),
        _ => Err(Fault::stop("sim.payload", "not a payload of the simulator's")),
    }
}

/// When it may be decoded.
pub fn due_ms(record: &Record<'_>) -> Option<u64> {
    let due_ms = record.payload?.get(1..)?.try_into().ok().map(u64::from_be_bytes)?;
    (due_ms > 0).then_some(due_ms)
}
