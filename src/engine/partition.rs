//! A partition thread: takes records from its lane, decodes them into a batch, closes the batch on rows,
//! bytes or age, and hands it over once the previous one has its receipt. It is the unit of order. It never
//! talks to PostgreSQL and never decides who owns the partition: it ends, says why, and intake goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};

use super::batch::{Job, Note, Receipt};
use super::pace::Pace;
use super::{Batch, Clock, Lane, Outcome, Policy, Seen, Sink, Thread};
use crate::failpoint::{self, Point};
use crate::fault::{Cause, Fault};
use crate::track::{PartitionTrack, Side, Track};

/// Why a partition thread ended.
pub(super) enum End {
    Told,
    Fenced,
    /// The sink would not take these records: to be set aside, or halted at, when they are read again.
    Refused(BTreeMap<i64, Cause>),
    Halted(Cause),
}

pub(super) struct PartitionThread<S: Sink, L: Lane> {
    pub lane: L,
    pub sink: Arc<S>,
    pub policy: Arc<Policy>,
    pub clock: Clock,
    pub batches: Sender<Job<S::Rows>>,
    pub inbox: Receiver<Note<S::Rows>>,
    pub inbox_address: Sender<Note<S::Rows>>,
    pub track: Arc<Track>,
    pub place: Arc<PartitionTrack>,
    pub refused: BTreeMap<i64, Cause>,
    pub filling: Batch<S::Rows>,
    pub spare: Option<Batch<S::Rows>>,
    pub in_flight: bool,
    /// How often the lane had nothing, the last times that it was asked.
    pub dry_takes: u32,
    pub pace: Arc<Pace>,
    /// How many partitions share the memory for batches.
    pub sharing: Arc<AtomicUsize>,
    /// When the record is due that the lane keeps back, in milliseconds since 1970.
    pub due_ms: Option<u64>,
    /// When the next record may be taken by the pace, on the engine's clock: the lane keeps it as well.
    pub paced_until: Option<Duration>,
    pub finish_by: Option<Duration>,
}

/// The longest wait for a record or for room: how late an order can be noticed. It also covers the wake-ups
/// that a partition's queue is known to lose.
const SLICE: Duration = Duration::from_millis(100);
/// For a receipt, where there is nothing to take meanwhile; each time so much longer, up to a slice.
const DRY_WAIT: Duration = Duration::from_millis(25);

impl<S: Sink, L: Lane> PartitionThread<S, L> {
    pub fn start(self) -> Thread<End> {
        let clock = self.clock.clone();
        let name = format!("{}-{}", self.track.flow, self.filling.partition().id);
        clock.spawn(name, move || self.run())
    }

    fn run(mut self) -> End {
        loop {
            let turn = match self.finish_by {
                None => self.turn(),
                Some(by) => Err(self.finish(by)),
            };
            if let Err(end) = turn {
                self.filling.claim.end();
                self.place.ahead.set(0);
                self.place.pending_ms.set(-1);
                return end;
            }
        }
    }

    /// Poll, decode, and write if the batch is due.
    fn turn(&mut self) -> Result<(), End> {
        // What has room for more and time to wait for it waits where it takes.
        let is_idle = self.is_waiting() && self.is_due() && self.dry_takes > 0;
        let wait = if is_idle { (DRY_WAIT * self.dry_takes).min(SLICE) } else { Duration::ZERO };
        self.read_notes(wait)?;
        if self.finish_by.is_none() {
            match self.early_by() {
                Some(early_by) => self.read_notes(early_by.min(SLICE))?,
                None => self.fill()?,
            }
            if self.is_due() && !self.is_waiting() {
                self.hand_over(None)?;
            }
        }
        Ok(())
    }

    /// Whether a batch that is old enough takes along what comes, as the one before it is still being written. Large batches
    /// are cheaper by the record, and this one cannot go yet.
    fn is_waiting(&self) -> bool {
        let is_held_back = self.due_ms.is_some() || self.paced_until.is_some();
        self.in_flight && !is_held_back && !self.is_full()
    }

    /// How long the lane's next record has to wait. In slices, because clocks are set.
    fn early_by(&self) -> Option<Duration> {
        if let Some(due_ms) = self.due_ms {
            let early_ms = due_ms.saturating_sub(self.clock.unix_ms());
            return (early_ms > 0).then(|| Duration::from_millis(early_ms));
        }
        let now = self.clock.now();
        let paced = self.paced_until?.saturating_sub(now);
        if paced.is_zero() {
            return None;
        }
        // What has been taken does not wait for the pace.
        let age = now.saturating_sub(self.filling.opened_at);
        Some(if self.filling.is_empty() { paced } else { paced.min(self.policy.linger.saturating_sub(age)) })
    }

    fn fill(&mut self) -> Result<(), End> {
        let room = self.policy.batch_rows_max.saturating_sub(self.filling.records());
        let bytes_max = self.bytes_max();
        let bytes = bytes_max.saturating_sub(self.filling.bytes());
        let age = self.clock.now().saturating_sub(self.filling.opened_at);
        let wait = if self.filling.is_empty() { SLICE } else { SLICE.min(self.policy.linger.saturating_sub(age)) };
        self.place.asking.set(1);
        let (filling, refused, sink, clock) = (&mut self.filling, &self.refused, &self.sink, &self.clock);
        let (pace, mut paced_until) = (&self.pace, None);
        let (mut seen, mut early_ms) = (0, None);
        // The clock is read for each take, not for each record.
        let (was_empty, asked_at, mut shown_at) = (filling.is_empty(), clock.now(), None);
        let has_links = self.track.courses.get().is_some();
        let taken = self.lane.take(room.max(1), bytes, wait, &mut |record| {
            if record.offset < filling.next {
                return Ok(Seen::Taken); // from before the lane's position: applied already
            }
            // The lane counts what records have; what they become may be more.
            if filling.bytes() >= bytes_max {
                return Ok(Seen::Later);
            }
            let due_ms = sink.due_ms(record);
            early_ms = due_ms.filter(|due_ms| *due_ms > clock.unix_ms());
            if early_ms.is_some() {
                return Ok(Seen::Later);
            }
            if pace.is_set() {
                paced_until = pace.take(clock.now()).err();
                if paced_until.is_some() {
                    return Ok(Seen::Later);
                }
            }
            let shown_at = *shown_at.get_or_insert_with(|| clock.now());
            if filling.is_empty() {
                // One that had to wait is late from when it was due.
                let since_ms = due_ms.map(|due_ms| due_ms as i64).or(record.timestamp_ms);
                (filling.opened_at, filling.marks.first_ms) = (shown_at, since_ms);
            }
            filling.marks.last_ms = record.timestamp_ms;
            if has_links {
                filling.link(record);
            }
            seen += 1;
            match refused.get(&record.offset) {
                None => filling.add(record, |record, rows| sink.decode(record, rows)),
                Some(reason) => filling.add(record, |_, _| Err(sink.refusal(reason.clone()))),
            }
            .map(|()| Seen::Taken)
        });
        (self.due_ms, self.paced_until) = (early_ms, paced_until);
        if !self.in_flight {
            self.note_pending();
        }
        if early_ms.is_some() || paced_until.is_some() {
            // A silence with a cause: nothing is asked for until then.
            self.place.asking.set(0);
        }
        let now = self.clock.now();
        if !was_empty {
            self.filling.marks.polling += shown_at.unwrap_or(now).saturating_sub(asked_at);
        }
        self.filling.marks.decoding += shown_at.map_or(Duration::ZERO, |shown_at| now.saturating_sub(shown_at));
        self.dry_takes = if seen == 0 { self.dry_takes.saturating_add(1) } else { 0 };
        self.track.consumed.add(seen);
        self.place.ahead.add(seen as i64);
        match taken {
            Ok(end) => {
                if let Some(end) = end.filter(|end| *end > self.filling.next) {
                    if self.filling.is_empty() {
                        self.filling.opened_at = self.clock.now();
                    }
                    self.filling.pass_over(end);
                }
                self.place.read_offset.set(self.filling.next);
                Ok(())
            }
            Err(Fault::Retry(cause)) => {
                self.track.troubled(Side::Source, &cause);
                self.read_notes(SLICE)
            }
            Err(Fault::Reject(cause) | Fault::Stop(cause)) => self.halt(cause),
        }
    }

    /// Since when the first record that is read waits to be written, with nothing before it in flight. A record that is
    /// kept back waits from when it is due.
    fn note_pending(&self) {
        let due_ms = self.due_ms.map(|due_ms| due_ms as i64);
        self.place.pending_ms.set(self.filling.marks.first_ms.or(due_ms).unwrap_or(-1));
    }

    /// Going on would skip something. What came before it is written first, so that the ledger stands where it is.
    fn halt(&mut self, cause: Cause) -> Result<(), End> {
        self.place.asking.set(0);
        while !self.filling.is_empty() && self.finish_by.is_none() {
            self.hand_over(None)?;
        }
        self.await_receipt(None)?;
        match self.finish_by {
            None => Err(End::Halted(cause)),
            Some(_) => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.filling.records() >= self.policy.batch_rows_max || self.filling.bytes() >= self.bytes_max()
    }

    fn bytes_max(&self) -> usize {
        let share = self.policy.batch_memory_bytes / 2 / self.sharing.load(Ordering::Relaxed).max(1);
        self.policy.batch_bytes_max.min(share)
    }

    fn is_due(&self) -> bool {
        let batch = &self.filling;
        !batch.is_empty()
            && (self.due_ms.is_some()
                || self.is_full()
                || self.clock.now().saturating_sub(batch.opened_at) >= self.policy.linger)
    }

    /// Waits for the receipt of the previous batch, then sends this one. Gives up, with the batch back in
    /// `filling`, at `by` or, without one, when told to finish.
    fn hand_over(&mut self, by: Option<Duration>) -> Result<(), End> {
        self.place.asking.set(0);
        let _ = failpoint::reach(Point::Fetched);
        if self.filling.marks.closed_at.is_zero() {
            self.filling.marks.closed_at = self.clock.now();
        }
        self.await_receipt(by)?;
        if self.in_flight {
            return Ok(());
        }
        let following = match self.spare.take() {
            Some(mut batch) => {
                batch.reset(self.filling.next);
                batch
            }
            None => Batch::new(self.filling.claim.clone(), self.filling.next),
        };
        let mut job = Job { batch: std::mem::replace(&mut self.filling, following), reply: self.inbox_address.clone() };
        loop {
            match self.clock.send(&self.batches, job, SLICE) {
                Ok(()) => {
                    self.in_flight = true;
                    self.track.batches_waiting.add(1);
                    self.track.batches_in_flight.add(1);
                    return Ok(());
                }
                Err(SendTimeoutError::Timeout(back)) => job = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(End::Told),
            }
            self.read_notes(Duration::ZERO)?;
            if self.gives_up(by) {
                self.spare = Some(std::mem::replace(&mut self.filling, job.batch));
                return Ok(());
            }
        }
    }

    fn await_receipt(&mut self, by: Option<Duration>) -> Result<(), End> {
        while self.in_flight && !self.gives_up(by) {
            self.read_notes(SLICE)?;
        }
        Ok(())
    }

    fn gives_up(&self, by: Option<Duration>) -> bool {
        match by {
            Some(by) => self.clock.now() >= by,
            None => self.finish_by.is_some(),
        }
    }

    /// The last acts, within the time given. What does not get written is read again by the next owner.
    fn finish(&mut self, by: Duration) -> End {
        let wrote = match self.filling.is_empty() {
            true => Ok(()),
            false => self.hand_over(Some(by)),
        };
        match wrote.and_then(|()| self.await_receipt(Some(by))) {
            Ok(()) | Err(End::Told) => End::Told,
            Err(end) => end,
        }
    }

    /// Reads what is in the inbox, waiting for the first note if there is none.
    fn read_notes(&mut self, wait: Duration) -> Result<(), End> {
        let mut wait = wait;
        while let Ok(note) = self.clock.recv(&self.inbox, wait) {
            wait = Duration::ZERO;
            match note {
                Note::Receipt(receipt) => self.settle(receipt)?,
                Note::Finish { by } => self.finish_by = Some(by),
                Note::Drop => return Err(End::Told),
            }
        }
        Ok(())
    }

    fn settle(&mut self, receipt: Receipt<S::Rows>) -> Result<(), End> {
        self.in_flight = false;
        match receipt.outcome {
            Outcome::Written => {
                let batch = receipt.batch;
                self.place.ahead.add(-((batch.offsets.len() + batch.letters.len()) as i64));
                self.place.next_offset.set(batch.next);
                batch.marks.last_ms.into_iter().for_each(|last_ms| self.place.written_ms.set(last_ms));
                self.note_pending();
                // Remembered until written: the next batch may be refused for another record of the same span.
                self.refused = self.refused.split_off(&batch.next);
                self.spare = Some(batch);
                Ok(())
            }
            Outcome::Fenced => Err(End::Fenced),
            Outcome::Refused(records) => {
                let mut refused = std::mem::take(&mut self.refused);
                refused.extend(records);
                Err(End::Refused(refused))
            }
        }
    }
}
