//! Intake owns the source: it hears what the group says, claims partitions in the ledger, opens their lanes
//! at the ledger's offsets, starts and joins partition threads, and sends advisory commits. It never sees a
//! record, and it never waits for a dependency without listening to the group in between.

mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::batch::{INBOX_NOTES_MAX, Job, Note};
use super::pace::Pace;
use super::partition::{End, PartitionThread};
use super::{Backoff, Batch, Claim, Claims, Clock, Event, Policy, Sink, Source, Stop, Thread, Wanted};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::record::Partition;
use crate::track::{PartitionState, PartitionTrack, Side, Track};

/// How long intake listens before it looks after its partitions.
const LISTEN: Duration = Duration::from_millis(50);
/// A partition whose batch was fenced asks the ledger again after this: if it belongs to somebody else, the
/// group will have said so by then.
const FENCED_PAUSE: Duration = Duration::from_secs(1);
/// Questions to the sink that may be without an answer: each keeps a thread and a session.
const ASKING_MAX: usize = 4;
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
    stop: Stop,
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
    /// Incarnations of topics as they were when their partitions were claimed.
    incarnations: BTreeMap<Arc<str>, String>,
    /// Questions to the sink that are under way, abandoned ones among them.
    asking: Arc<AtomicUsize>,
    /// Shared by the partition threads.
    pace: Arc<Pace>,
    /// How many of them share the memory for batches.
    sharing: Arc<AtomicUsize>,
    commit_at: Duration,
    look_at: Duration,
    /// Since when the group has given us no share, not even an empty one.
    without_share: Option<Duration>,
    /// Since when the broker has not answered a look.
    unanswered: Option<Duration>,
}

impl<K: Source, S: Sink> Intake<K, S> {
    pub(super) fn new(
        source: K,
        sink: Arc<S>,
        policy: Arc<Policy>,
        clock: Clock,
        stop: Stop,
        track: Arc<Track>,
        batches: Sender<Job<S::Rows>>,
    ) -> Self {
        let backoff = Backoff::new(&clock, policy.backoff_min, policy.backoff_max);
        let pace = Arc::new(Pace::new(policy.rate_max_per_s));
        Intake {
            source,
            sink,
            policy,
            clock,
            stop,
            track,
            batches,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            answer_due: false,
            backoff,
            claim_not_before: Duration::ZERO,
            claim_failed: None,
            incarnations: BTreeMap::new(),
            asking: Arc::default(),
            pace,
            sharing: Arc::default(),
            commit_at: Duration::ZERO,
            look_at: Duration::ZERO,
            without_share: Some(Duration::ZERO),
            unanswered: None,
        }
    }

    pub(super) fn run(&mut self) {
        while !self.stop.asked() {
            match self.source.next_event(LISTEN) {
                Some(Event::Assigned(partitions)) => self.assigned(partitions),
                Some(Event::Revoked(partitions)) => self.revoked(&partitions),
                Some(Event::Lost(partitions)) => self.lost(&partitions),
                Some(Event::Trouble(cause)) => self.track.troubled(Side::Source, &cause),
                None => {}
            }
            self.collect_ended();
            self.claim_waiting();
            self.sharing.store(self.running.len(), Ordering::Relaxed);
            self.commit_progress();
            self.look_around();
        }
    }

    /// Ends every partition in order, and says until when the writers are worth waiting for. The source is left to
    /// be closed, once they are done.
    pub(super) fn finish(mut self, by: Duration) -> (K, Duration) {
        let partitions: Vec<Partition> = self.running.keys().chain(self.waiting.keys()).cloned().collect();
        let running = || self.running.values();
        running().for_each(|running| self.clock.post(&running.inbox, Note::Finish { by }));
        // Nothing is lost by leaving early what nobody takes: it is read again.
        let (mut groups, mut moved_at) = (self.track.groups.get(), self.clock.now());
        let mut ended: BTreeSet<&Partition> = BTreeSet::new();
        while ended.len() < self.running.len() && self.clock.now() < by {
            let (_, next) = self.running.iter().find(|(partition, _)| !ended.contains(partition)).expect("one runs");
            if next.thread.join(&self.clock, (self.clock.now() + LISTEN).min(by)).is_some() {
                ended.insert(&next.claim.partition);
            }
            let now = self.clock.now();
            if self.track.groups.get() != groups {
                (groups, moved_at) = (self.track.groups.get(), now);
            }
            if now.saturating_sub(moved_at) >= self.policy.drain_patience {
                log::warn!(flow = self.track.flow.as_str(); "nothing is written any more; what is in flight will be read again");
                break;
            }
        }
        let by = if ended.len() == self.running.len() { by } else { self.clock.now() };
        let late: Vec<Partition> =
            running().map(|running| &running.claim.partition).filter(|late| !ended.contains(late)).cloned().collect();
        drop(ended);
        self.end_threads(&late, || Note::Drop, by);
        self.commit_at = Duration::ZERO;
        self.commit_progress();
        self.forget(&partitions);
        (self.source, by)
    }

    fn assigned(&mut self, partitions: Vec<Partition>) {
        // Without a word about the former assignment: what still runs of it is not this one's.
        let former: Vec<Partition> =
            partitions.iter().filter(|partition| self.running.contains_key(partition)).cloned().collect();
        self.end_threads(&former, || Note::Drop, self.clock.now());
        self.forget(&former);
        self.answer_due = true;
        self.without_share = None;
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
                let Partition { topic, id } = &running.claim.partition;
                log::error!(flow = self.track.flow.as_str(), topic = &**topic, partition = id; "its thread did not end in time");
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
            if self.running.is_empty() {
                self.without_share = Some(self.clock.now());
            }
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
                // An offset that is gone may be a topic that is gone: then the claim says so.
                End::Halted(_) if self.is_another_topic(&partition.topic) => (Duration::ZERO, BTreeMap::new()),
                End::Halted(cause) => {
                    self.halt(&partition, &place, cause);
                    continue;
                }
            };
            self.claim_later(partition, place, pause, refused);
        }
    }

    fn halt(&self, partition: &Partition, place: &PartitionTrack, cause: Cause) {
        let Partition { topic, id } = partition;
        let (flow, offset) = (self.track.flow.as_str(), place.next_offset.get());
        log::error!(flow, topic = &**topic, partition = id, offset, code = &*cause.code; "halted: {}", cause.text);
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
        let mut wanted = Vec::new();
        for partition in partitions {
            let incarnation = self.source.incarnation(&partition.topic).map_err(source)?;
            self.incarnations.insert(partition.topic.clone(), incarnation.clone());
            wanted.push(Wanted { partition: partition.clone(), incarnation, first_offset: None });
        }
        let mut claims = self.ask_for(&wanted)?;
        if let Claims::Unseen(unseen) = claims {
            for index in unseen {
                let first = self.source.first_offset(&wanted[index].partition).map_err(source)?;
                wanted[index].first_offset = Some(first);
            }
            claims = self.ask_for(&wanted)?;
        }
        let Claims::Made(claims) = claims else {
            // Rows that were there a moment ago are gone: somebody deletes them. Asked again later.
            return Err((Side::Sink, Fault::retry("ledger.row_missing", "ledger rows go away while they are claimed")));
        };
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
        self.sharing.store(self.running.len() + granted.len(), Ordering::Relaxed);
        for (claim, lane) in granted.into_iter().zip(lanes) {
            let Some(waiting) = self.waiting.remove(&claim.partition) else { continue };
            let running = self.start_partition(claim, lane, waiting);
            self.running.insert(running.claim.partition.clone(), running);
        }
        Ok(())
    }

    fn ask_for(&self, wanted: &[Wanted]) -> Result<Claims, (Side, Fault)> {
        let wanted = wanted.to_vec();
        self.ask(move |sink| sink.claim(&wanted)).map_err(|fault| (Side::Sink, fault))
    }

    /// Asks the sink on a thread of its own: a link that hangs may keep the thread, and not the group waiting.
    fn ask<T: Send + 'static>(&self, call: impl FnOnce(&S) -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
        let no_answer = |text: &str| Err(Fault::retry("sink.no_answer", text));
        if self.asking.load(Ordering::Relaxed) >= ASKING_MAX {
            return no_answer("earlier questions are still without an answer");
        }
        self.asking.fetch_add(1, Ordering::Relaxed);
        let (sink, asking) = (self.sink.clone(), self.asking.clone());
        let thread = self.clock.spawn(format!("{}-ask", self.track.flow), move || {
            let answer = call(&sink);
            asking.fetch_sub(1, Ordering::Relaxed);
            answer
        });
        let by = self.clock.now() + self.policy.answer_within;
        while self.clock.now() < by && !self.stop.asked() {
            if let Some(answer) = thread.join(&self.clock, (self.clock.now() + LISTEN).min(by)) {
                return answer;
            }
        }
        no_answer("it was asked, and said nothing in time")
    }

    fn start_partition(&self, claim: Arc<Claim>, lane: K::Lane, waiting: Waiting) -> Running<S::Rows> {
        let (inbox_address, inbox) = crossbeam_channel::bounded(INBOX_NOTES_MAX);
        let Waiting { place, refused, .. } = waiting;
        place.next_offset.set(claim.next_offset);
        place.read_offset.set(claim.next_offset);
        place.asking.set(0);
        place.set_state(PartitionState::Running);
        let (Partition { topic, id }, epoch) = (&claim.partition, claim.epoch);
        let (flow, offset) = (self.track.flow.as_str(), claim.next_offset);
        log::debug!(flow, topic = &**topic, partition = id, offset, epoch; "reads from here on");
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
            dry_takes: 0,
            pace: self.pace.clone(),
            sharing: self.sharing.clone(),
            due_ms: None,
            paced_until: None,
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

    /// Whether a topic has another incarnation than when it was claimed. What the source cannot tell now, it can tell
    /// at the next look.
    fn is_another_topic(&mut self, topic: &Arc<str>) -> bool {
        let Ok(incarnation) = self.source.incarnation(topic) else { return false };
        let known = self.incarnations.get(topic).filter(|known| !known.is_empty() && !incarnation.is_empty());
        known.is_some_and(|known| *known != incarnation)
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
