//! What travels from a partition thread to a writer and back: rows of one partition with the span of
//! offsets that they cover, the letters of records that became no row, and the notes that come back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::Outcome;
use crate::fault::{Cause, Fault};
use crate::record::{Partition, Record};
use crate::trace::{LINKS_MAX, LOOKS_MAX, Trace};

/// A buffer of what a flow made of records. One decoded record adds one row or none.
pub trait Rows: Default + Send + 'static {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Memory held by the rows, for the byte limit of a batch.
    fn bytes(&self) -> usize;
    /// Empties the buffer and keeps its memory.
    fn clear(&mut self);
    /// A copy of some rows. Only the search for a bad row asks for it.
    fn part(&self, rows: Range<usize>) -> Self;
}

/// No row and no letter is larger than this: half of what PostgreSQL takes, and any client a good deal less. Such a
/// record halts its partition; to try it again for ever would keep everything that shares its transaction waiting.
const RECORD_BYTES_MAX: usize = 512 << 20;

/// A record set aside, whole, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub reason: Cause,
}

impl Letter {
    pub fn of(record: &Record<'_>, reason: Cause) -> Self {
        let mut headers = Vec::new();
        record.headers.each(&mut |name, value| headers.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        Letter {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers,
            reason,
        }
    }

    pub fn bytes(&self) -> usize {
        let held = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + held(value)).sum();
        held(&self.key) + held(&self.payload) + headers + self.reason.text.len()
    }
}

/// The right to write a partition, as the ledger gave it. Shared by everything that is done under it.
#[derive(Debug)]
pub struct Claim {
    pub partition: Partition,
    /// Fencing token: the ledger counts it up at every claim.
    pub epoch: i64,
    /// Everything before this offset had been applied when the claim was made.
    pub next_offset: i64,
    over: AtomicBool,
}

impl Claim {
    pub fn new(partition: Partition, epoch: i64, next_offset: i64) -> Arc<Self> {
        Arc::new(Claim { partition, epoch, next_offset, over: AtomicBool::new(false) })
    }

    /// The partition is no longer ours: batches under this claim are not worth writing. Only a saving of
    /// work: what keeps them out of the table is the ledger.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// What a batch went through so far.
#[derive(Default)]
pub struct Marks {
    /// When it was full, or old enough, to be handed over; zero before.
    pub closed_at: Duration,
    /// When a writer took it.
    pub taken_at: Duration,
    /// Spent on waiting for more records once the first was there, and on making rows of them.
    pub polling: Duration,
    pub decoding: Duration,
    /// The timestamp of its first record, or when that was due, and the timestamp of its last one.
    pub first_ms: Option<i64>,
    pub last_ms: Option<i64>,
    /// Where courses are told of: the traces of its first records that somebody collects.
    pub links: Vec<Trace>,
}

/// Rows of one partition and the span of offsets that they cover: the ledger goes from `first` to `next`
/// in the transaction that writes them.
pub struct Batch<R> {
    pub claim: Arc<Claim>,
    /// The ledger's offset before this batch.
    pub first: i64,
    /// And after it: one past the last record, whether that became a row, a letter or nothing.
    pub next: i64,
    pub rows: R,
    /// The offset of each row.
    pub offsets: Vec<i64>,
    pub letters: Vec<Letter>,
    letter_bytes: usize,
    /// When the first record came, on the engine's clock.
    pub opened_at: Duration,
    /// What those want to know who watch. Apart, because a batch is moved often.
    pub marks: Box<Marks>,
}

impl<R: Rows> Batch<R> {
    pub fn new(claim: Arc<Claim>, first: i64) -> Self {
        Batch {
            claim,
            first,
            next: first,
            rows: R::default(),
            offsets: Vec::new(),
            letters: Vec::new(),
            letter_bytes: 0,
            opened_at: Duration::ZERO,
            marks: Box::default(),
        }
    }

    /// Empties the batch for reuse; the memory of its rows stays.
    pub fn reset(&mut self, first: i64) {
        self.first = first;
        self.next = first;
        self.rows.clear();
        self.offsets.clear();
        self.letters.clear();
        self.letter_bytes = 0;
        let Marks { links, .. } = std::mem::take(&mut *self.marks);
        self.marks.links = links;
        self.marks.links.clear();
    }

    /// Some of the rows by themselves, as the search for a bad one writes them.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let mut part = Batch::new(self.claim.clone(), self.first);
        part.offsets.extend_from_slice(&self.offsets[rows.clone()]);
        part.rows = self.rows.part(rows);
        part.next = self.next;
        part
    }

    /// Whether its records are those of letters, which somebody wants applied once more. Epoch 0 is nobody's.
    pub fn is_replay(&self) -> bool {
        self.claim.epoch == 0
    }

    pub fn partition(&self) -> &Partition {
        &self.claim.partition
    }

    /// How many records it holds, as rows or as letters.
    pub fn records(&self) -> usize {
        self.rows.len() + self.letters.len()
    }

    /// True until a record, of whatever fate, has been added.
    pub fn is_empty(&self) -> bool {
        self.next == self.first
    }

    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.letter_bytes
    }

    /// Adds what a record became. A fault other than `Reject` is for the caller: the batch is as before.
    pub fn add(
        &mut self,
        record: &Record<'_>,
        decode: impl FnOnce(&Record<'_>, &mut R) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        check_size(record, record.key.map_or(0, <[u8]>::len) + record.payload.map_or(0, <[u8]>::len))?;
        let before = self.rows.len();
        match decode(record, &mut self.rows) {
            Ok(()) => {
                if self.rows.len() > before {
                    self.offsets.push(record.offset);
                }
            }
            Err(Fault::Reject(reason)) => self.set_aside(record, reason)?,
            Err(fault) => return Err(fault),
        }
        self.next = record.offset + 1;
        Ok(())
    }

    /// Remembers the trace of a record, as long as it is one of the first.
    pub fn link(&mut self, record: &Record<'_>) {
        if self.records() < LOOKS_MAX && self.marks.links.len() < LINKS_MAX {
            self.marks.links.extend(Trace::of(record.headers).filter(|trace| trace.is_sampled));
        }
    }

    /// Nothing comes before this offset any more: what is between was never for us, as markers of
    /// transactions and what they took back.
    pub fn pass_over(&mut self, next: i64) {
        self.next = self.next.max(next);
    }

    fn set_aside(&mut self, record: &Record<'_>, reason: Cause) -> Result<(), Fault> {
        let letter = Letter::of(record, reason);
        check_size(record, letter.bytes())?;
        self.letter_bytes += letter.bytes();
        self.letters.push(letter);
        Ok(())
    }
}

#[inline]
fn check_size(record: &Record<'_>, bytes: usize) -> Result<(), Fault> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let (partition, offset) = (record.partition, record.offset);
    Err(Fault::stop(
        "record.too_large",
        format!(
            "{partition}: the record at offset {offset} has {bytes} bytes, and no row and no letter takes more than \
             {RECORD_BYTES_MAX}. To go on without it, set next_offset of this partition in sluicegate_ledger to {} and \
             restart",
            offset + 1
        ),
    ))
}

/// A batch on its way, with the inbox that waits for its receipt.
pub(super) struct Job<R> {
    pub batch: Batch<R>,
    pub reply: Sender<Note<R>>,
}

/// What comes into the inbox of a partition thread.
pub(super) enum Note<R> {
    Receipt(Receipt<R>),
    /// Write what you have, if that can be done by then, and end.
    Finish {
        by: Duration,
    },
    /// End at once: somebody else may own the partition.
    Drop,
}

pub(super) struct Receipt<R> {
    pub batch: Batch<R>,
    pub outcome: Outcome,
}

/// One receipt can be on its way, and one order of each kind.
pub(super) const INBOX_NOTES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NoHeaders;

    #[derive(Default)]
    struct Count(usize);

    impl Rows for Count {
        fn len(&self) -> usize {
            self.0
        }
        fn bytes(&self) -> usize {
            0
        }
        fn clear(&mut self) {
            self.0 = 0;
        }
        fn part(&self, rows: Range<usize>) -> Self {
            Count(rows.len())
        }
    }

    #[test]
    fn a_record_that_nothing_could_take_halts_its_partition_and_names_the_way_on() {
        let bytes = vec![0u8; RECORD_BYTES_MAX + 1]; // never touched, so it takes no memory
        let add = |key: Option<&[u8]>, payload: Option<&[u8]>| {
            let claim = Claim::new(Partition::new("t", 3), 1, 7);
            let partition = &claim.partition;
            let record = Record { partition, offset: 7, timestamp_ms: None, key, payload, headers: &NoHeaders };
            let mut batch = Batch::new(claim.clone(), 7);
            let added = batch.add(&record, |_, rows: &mut Count| {
                rows.0 += 1;
                Ok(())
            });
            (added, batch.records())
        };
        assert_eq!(add(None, Some(&bytes[1..])), (Ok(()), 1));
        for (key, payload) in
            [(None, Some(&bytes[..])), (Some(&bytes[..9]), Some(&bytes[9..])), (Some(&bytes[..]), None)]
        {
            let (Err(Fault::Stop(cause)), 0) = add(key, payload) else { panic!("taken") };
            assert_eq!(cause.code, "record.too_large");
            assert!(cause.text.contains("t/3: the record at offset 7") && cause.text.contains("to 8 and"), "{cause}");
        }
    }
}
