//! Intake owns the source: it hears what the group says, claims partitions in the ledger, opens their lanes
//! at the ledger's offsets, starts and joins partition threads, and sends advisory commits. It never sees a
//! record, and it never waits for a dependency without listening to the group in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::batch::{INBOX_NOTES_MAX, Job, Note};
use super::partition::{End, PartitionThread};
use super::{Backoff, Batch, Claim, Clock, Event, Policy, Sink, Source, Stop, Thread, Wanted};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::record::Partition;
use crate::track::{PartitionState, PartitionTrack, Side, Track};

/// How long intake listens before it looks after its partitions.
const LISTEN: Duration = Duration::from_millis(50);
/// A partition whose batch was fenced asks the ledger again after this: if it belongs to somebody else, the
/// group will have said so by then.
const FENCED_PAUSE: Duration = Duration::from_secs(1);
/// Beyond its time to finish, a partition thread needs this to notice and end.
const JOIN_SLACK: Duration = Duration::from_millis(500);

/// A partition with a thread.
struct Running<R> {
    claim: Arc<Claim>,
    place: Arc<PartitionTrack>,
    inbox: Sender<Note<R>>,
    thread: Thread<End>,
    committed: i64,
    /// Since when, and at which offset, it asks in vain for what the broker says is there.
    behind: Option<(i64, Duration)>,
}

/// A partition that is ours and has no thread yet.
struct Waiting {
    place: Arc<PartitionTrack>,
    not_before: Duration,
    refused: BTreeMap<i64, Cause>,
}

pub struct Intake<K: Source, S: Sink> {
    source: K,
    sink: Arc<S>,
    policy: Arc<Policy>,
    clock: Clock,
    track: Arc<Track>,
    batches: Sender<Job<S::Rows>>,
    running: BTreeMap<Partition, Running<S::Rows>>,
    waiting: BTreeMap<Partition, Waiting>,
    /// The group has assigned partitions and waits for `Source::open`.
    answer_due: bool,
    backoff: Backoff,
    claim_not_before: Duration,
    /// The side that kept the last claim from being made: it is in trouble, whatever else it answers.
    claim_failed: Option<Side>,
    commit_at: Duration,
    look_at: Duration,
}

impl<K: Source, S: Sink> Intake<K, S> {
    pub(super) fn new(
        source: K,
        sink: Arc<S>,
        policy: Arc<Policy>,
        clock: Clock,
        track: Arc<Track>,
        batches: Sender<Job<S::Rows>>,
    ) -> Self {
        let backoff = Backoff::new(&clock, policy.backoff_min, policy.backoff_max);
        Intake {
            source,
            sink,
            policy,
            clock,
            track,
            batches,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            answer_due: false,
            backoff,
            claim_not_before: Duration::ZERO,
            claim_failed: None,
            commit_at: Duration::ZERO,
            look_at: Duration::ZERO,
        }
    }

    pub(super) fn run(&mut self, stop: &Stop) {
        while !stop.asked() {
            match self.source.next_event(LISTEN) {
                Some(Event::Assigned(partitions)) => self.assigned(partitions),
                Some(Event::Revoked(partitions)) => self.revoked(&partitions),
                Some(Event::Lost(partitions)) => self.lost(&partitions),
                Some(Event::Trouble(cause)) => self.track.troubled(Side::Source, &cause),
                None => {}
            }
            self.collect_ended();
            self.claim_waiting();
            self.commit_progress();
            self.look_around();
        }
    }

    /// Ends every partition in order. The source is left to be closed, once the writers are done.
    pub(super) fn finish(mut self, by: Duration) -> K {
        let partitions: Vec<Partition> = self.running.keys().chain(self.waiting.keys()).cloned().collect();
        self.end_threads(&partitions, || Note::Finish { by }, by);
        self.commit_at = Duration::ZERO;
        self.commit_progress();
        self.forget(&partitions);
        self.source
    }

    fn assigned(&mut self, partitions: Vec<Partition>) {
        self.answer_due = true;
        self.track.joined();
        self.track.recovered(Side::Source);
        for partition in partitions {
            let place = self.track.add_partition(&partition);
            self.waiting.insert(partition, Waiting { place, not_before: Duration::ZERO, refused: BTreeMap::new() });
        }
    }

    fn revoked(&mut self, partitions: &[Partition]) {
        let _ = failpoint::reach(Point::Revoked);
        let by = self.clock.now() + self.policy.revoke_grace;
        self.end_threads(partitions, || Note::Finish { by }, by);
        self.commit_at = Duration::ZERO;
        self.commit_progress();
        self.forget(partitions);
        self.source.release(partitions);
    }

    fn lost(&mut self, partitions: &[Partition]) {
        self.end_threads(partitions, || Note::Drop, self.clock.now());
        self.forget(partitions);
        self.source.release(partitions);
    }

    /// Tells the threads of these partitions to end and waits for them: their lanes are dropped after that.
    fn end_threads(&mut self, partitions: &[Partition], order: impl Fn() -> Note<S::Rows>, by: Duration) {
        let running = || partitions.iter().filter_map(|partition| self.running.get(partition));
        running().for_each(|running| self.clock.post(&running.inbox, order()));
        for running in running() {
            if running.thread.join(&self.clock, by + JOIN_SLACK).is_none() {
                log::error!("{}: its thread did not end in time", running.claim.partition);
            }
            running.claim.end();
        }
    }

    fn forget(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.running.remove(partition);
            self.waiting.remove(partition);
            self.track.drop_partition(partition);
        }
        if self.waiting.is_empty() {
            self.answer_due = false;
            self.claim_failed = None;
        }
    }

    /// Partitions whose thread ended by itself: most of them only need to be claimed again.
    fn collect_ended(&mut self) {
        let ended: Vec<(Partition, End)> = self
            .running
            .iter()
            .filter_map(|(partition, running)| running.thread.ended().map(|end| (partition.clone(), end)))
            .collect();
        for (partition, end) in ended {
            let Some(Running { place, .. }) = self.running.remove(&partition) else { continue };
            let (pause, refused) = match end {
                End::Told => continue,
                End::Fenced => (FENCED_PAUSE, BTreeMap::new()),
                End::Refused(refused) => (Duration::ZERO, refused),
                End::Halted(cause) => {
                    self.halt(&partition, &place, cause);
                    continue;
                }
            };
            self.claim_later(partition, place, pause, refused);
        }
    }

    fn halt(&self, partition: &Partition, place: &PartitionTrack, cause: Cause) {
        log::error!("{partition} halted: {cause}");
        self.track.failed(&cause);
        place.set_state(PartitionState::Halted(cause));
    }

    fn claim_waiting(&mut self) {
        let now = self.clock.now();
        if now < self.claim_not_before {
            return;
        }
        let due = |waiting: &Waiting| self.answer_due || waiting.not_before <= now;
        let partitions: Vec<Partition> =
            self.waiting.iter().filter(|(_, waiting)| due(waiting)).map(|(partition, _)| partition.clone()).collect();
        if partitions.is_empty() && !self.answer_due {
            return;
        }
        match self.claim(&partitions) {
            Ok(()) => {
                self.backoff.reset();
                self.claim_failed = None;
                self.track.recovered(Side::Source);
            }
            Err((side, fault)) => {
                self.claim_failed = Some(side);
                self.track.troubled(side, fault.cause());
                self.claim_not_before = self.clock.now() + self.backoff.next_pause();
            }
        }
    }

    /// Claims partitions in the ledger, opens their lanes at its offsets and starts their threads.
    fn claim(&mut self, partitions: &[Partition]) -> Result<(), (Side, Fault)> {
        let source = |fault| (Side::Source, fault);
        let wanted = partitions
            .iter()
            .map(|partition| {
                let incarnation = self.source.incarnation(&partition.topic)?;
                Ok(Wanted { partition: partition.clone(), incarnation })
            })
            .collect::<Result<Vec<Wanted>, Fault>>()
            .map_err(source)?;
        let mut asked_in_vain = false;
        let claims = self
            .sink
            .claim(&wanted, &mut |partition| self.source.first_offset(partition).inspect_err(|_| asked_in_vain = true))
            .map_err(|fault| (if asked_in_vain { Side::Source } else { Side::Sink }, fault))?;
        self.track.recovered(Side::Sink);

        let mut at = Vec::new();
        let mut granted = Vec::new();
        for (partition, claim) in partitions.iter().zip(claims) {
            match claim {
                Ok(claim) => {
                    at.push((partition.clone(), claim.next_offset));
                    granted.push(claim);
                }
                Err(cause) => {
                    let Some(Waiting { place, .. }) = self.waiting.remove(partition) else { continue };
                    self.halt(partition, &place, cause);
                }
            }
        }
        let _ = failpoint::reach(Point::Claimed);
        let lanes = self.source.open(&at).map_err(source)?;
        self.answer_due = false;
        for (claim, lane) in granted.into_iter().zip(lanes) {
            let Some(waiting) = self.waiting.remove(&claim.partition) else { continue };
            let running = self.start_partition(claim, lane, waiting);
            self.running.insert(running.claim.partition.clone(), running);
        }
        Ok(())
    }

    fn start_partition(&self, claim: Arc<Claim>, lane: K::Lane, waiting: Waiting) -> Running<S::Rows> {
        let (inbox_address, inbox) = crossbeam_channel::bounded(INBOX_NOTES_MAX);
        let Waiting { place, refused, .. } = waiting;
        place.next_offset.set(claim.next_offset);
        place.read_offset.set(claim.next_offset);
        place.asking.set(0);
        place.set_state(PartitionState::Running);
        log::debug!("{}: from offset {} under epoch {}", claim.partition, claim.next_offset, claim.epoch);
        let thread = PartitionThread {
            lane,
            sink: self.sink.clone(),
            policy: self.policy.clone(),
            clock: self.clock.clone(),
            batches: self.batches.clone(),
            inbox,
            inbox_address: inbox_address.clone(),
            track: self.track.clone(),
            place: place.clone(),
            refused,
            filling: Batch::new(claim.clone(), claim.next_offset),
            spare: None,
            in_flight: false,
            finish_by: None,
        }
        .start();
        Running { committed: claim.next_offset, claim, place, inbox: inbox_address, thread, behind: None }
    }

    fn commit_progress(&mut self) {
        let now = self.clock.now();
        if now < self.commit_at {
            return;
        }
        self.commit_at = now + self.policy.commit_every;
        let mut moved = Vec::new();
        for (partition, running) in &mut self.running {
            let next = running.place.next_offset.get();
            if next != running.committed {
                running.committed = next;
                moved.push((partition.clone(), next));
            }
        }
        if !moved.is_empty() {
            let _ = failpoint::reach(Point::BeforeAdvisoryCommit);
            self.source.commit(&moved);
        }
    }

    /// Asks both sides how things stand, which also tells whether they are there while nothing flows.
    fn look_around(&mut self) {
        let now = self.clock.now();
        if now < self.look_at {
            return;
        }
        self.look_at = now + self.policy.look_every;
        self.look_at_ends();
        self.look_for_stalls();
        self.look_at_ledger();
    }

    fn look_at_ends(&mut self) {
        let places = self.track.partitions();
        let partitions: Vec<Partition> = places.iter().map(|(partition, _)| partition.clone()).collect();
        match self.source.ends(&partitions) {
            Ok(ends) => {
                places.iter().zip(ends).for_each(|((_, place), end)| place.end_offset.set(end));
                if self.claim_failed != Some(Side::Source) {
                    self.track.recovered(Side::Source);
                }
            }
            Err(fault) => {
                self.track.troubled(Side::Source, fault.cause());
                // A broker that does not answer is cause enough for silence.
                self.running.values_mut().for_each(|running| running.behind = None);
            }
        }
    }

    /// The client can lose a partition's wake-up, or stop fetching it, and say nothing. A partition that asks,
    /// is behind its end, and hears nothing for long, is opened again at the ledger's offset.
    fn look_for_stalls(&mut self) {
        let now = self.clock.now();
        let mut stalled = Vec::new();
        for (partition, running) in &mut self.running {
            let read = running.place.read_offset.get();
            let is_behind = running.place.asking.get() == 1 && read < running.place.end_offset.get();
            running.behind = match running.behind {
                Some((at, since)) if is_behind && at == read => Some((at, since)),
                _ => is_behind.then_some((read, now)),
            };
            if running.behind.is_some_and(|(_, since)| now.saturating_sub(since) >= self.policy.stall_after) {
                stalled.push(partition.clone());
            }
        }
        for partition in &stalled {
            log::error!("{partition}: gives nothing and is behind its end; it is opened again");
            self.track.stalls_repaired.add(1);
        }
        self.claim_again(stalled, Duration::ZERO);
    }

    /// A partition that the ledger no longer knows as ours, or not as far, is claimed and read again.
    fn look_at_ledger(&mut self) {
        let claims: Vec<(Arc<Claim>, i64)> =
            self.running.values().map(|running| (running.claim.clone(), running.place.next_offset.get())).collect();
        let held = match self.sink.holds(&claims) {
            Ok(held) => held,
            Err(fault) => return self.track.troubled(Side::Sink, fault.cause()),
        };
        // While a writer is at work, it is the one to say whether writing succeeds.
        if self.track.active_writers.get() == 0 && self.claim_failed != Some(Side::Sink) {
            self.track.recovered(Side::Sink);
        }
        let lost = claims.iter().zip(held).filter(|(_, held)| !held).map(|((claim, _), _)| claim.partition.clone());
        let lost: Vec<Partition> = lost.collect();
        for partition in &lost {
            log::warn!("{partition}: the ledger stands elsewhere; it is claimed again");
        }
        self.claim_again(lost, FENCED_PAUSE);
    }

    /// Ends the threads of partitions that stay ours and starts them anew from the ledger.
    fn claim_again(&mut self, partitions: Vec<Partition>, pause: Duration) {
        self.end_threads(&partitions, || Note::Drop, self.clock.now());
        for partition in partitions {
            if let Some(Running { place, .. }) = self.running.remove(&partition) {
                self.claim_later(partition, place, pause, BTreeMap::new());
            }
        }
    }

    fn claim_later(
        &mut self,
        partition: Partition,
        place: Arc<PartitionTrack>,
        pause: Duration,
        refused: BTreeMap<i64, Cause>,
    ) {
        place.set_state(PartitionState::Claiming);
        let not_before = self.clock.now() + pause;
        self.waiting.insert(partition, Waiting { place, not_before, refused });
    }
}
