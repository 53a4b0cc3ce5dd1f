//! The hot path allocates nothing: a record costs its bytes and no more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sluicegate::engine::{Batch, Claim};
use sluicegate::flow::{Flow, Sample, Status, sample};
use sluicegate::record::{NoHeaders, Partition, Record};

/// The system's allocator with a count of its calls.
struct Counting;

thread_local! {
    /// Of this thread: what runs the tests has others.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends there is nothing left to count in.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call goes to `System` as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_batch_that_is_filled_again_allocates_nothing() {
    let status = Status::new("processed_seed_status", &[]).expect("the flow");
    let updates = sample("status", None).expect("samples");
    let payloads: Vec<Vec<u8>> = (0..10_000).map(|number| payload(&*updates, number)).collect();
    let claim = Claim::new(Partition::new("t", 0), 1, 0);
    let mut batch = Batch::new(claim.clone(), 0);
    let fill = |batch: &mut Batch<_>| {
        for (offset, payload) in payloads.iter().enumerate() {
            let record = Record {
                partition: &claim.partition,
                offset: offset as i64,
                timestamp_ms: None,
                key: None,
                payload: Some(payload),
                headers: &NoHeaders,
            };
            batch.add(&record, |record, rows| status.decode(record, rows)).expect("a row");
        }
        assert_eq!(batch.offsets.len(), payloads.len());
    };
    fill(&mut batch);
    batch.reset(0);
    let before = CALLS.get();
    fill(&mut batch);
    assert_eq!(CALLS.get() - before, 0, "for {} rows", payloads.len());
}

fn payload(updates: &dyn Sample, number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    updates.payload(number, &mut out);
    out
}
