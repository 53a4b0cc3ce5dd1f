//! The only unsafe code: batches out of one partition's queue, topic ids, and what groups have committed, for which
//! rdkafka has no safe call. What leaves this module is borrowed from a message for the length of a callback, or owned.
//!
//! Two facts of librdkafka shape it. `rd_kafka_consume_batch_queue` waits until its array is full or the time
//! is up, so one record is waited for and the rest taken without waiting. And it must never be called on the
//! consumer's main queue, where it would answer a rebalance by giving everything up; a partition's queue is
//! cut off from the main one here, before fetching starts, and stays cut off.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::os::raw::c_char;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;

use super::fault;
use crate::engine::Seen;
use crate::fault::Fault;
use crate::record::{Headers, Partition, Record};

/// How many messages are taken out of a queue at a time: enough to share the cost of its lock.
const TAKE_MAX: usize = 2_000;
/// More than any queue's limit holds.
const DRAINS_MAX: usize = 1_000;

/// The queue of one partition, cut off from the consumer's main queue. Keeps the consumer alive.
pub(super) struct PartitionQueue<C: ConsumerContext + 'static> {
    queue: *mut native::rd_kafka_queue_t,
    partition: Partition,
    /// Taken and not yet shown: what was left for later, and what was fetched behind it.
    messages: Vec<*mut native::rd_kafka_message_t>,
    _consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues and messages may be used from any thread, and `&mut self` keeps two threads from doing
// that at once.
unsafe impl<C: ConsumerContext + 'static> Send for PartitionQueue<C> {}

impl<C: ConsumerContext + 'static> PartitionQueue<C> {
    /// Cuts the partition's queue off. Called before the partition is assigned, so that nothing has been
    /// forwarded yet; librdkafka then leaves the forwarding alone (RD_KAFKA_Q_F_FWD_APP).
    pub fn detach(consumer: &Arc<BaseConsumer<C>>, partition: &Partition) -> Result<Self, Fault> {
        let topic = CString::new(&*partition.topic)
            .map_err(|_| Fault::stop("kafka.topic_name", format!("topic name {:?} has a NUL", partition.topic)))?;
        // SAFETY: the client lives as long as `consumer`, of which the result keeps a count; `topic` is a C
        // string. Forwarding to null means to none.
        let queue = unsafe {
            let client = consumer.client().native_ptr();
            let queue = native::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition.id);
            if !queue.is_null() {
                native::rd_kafka_queue_forward(queue, ptr::null_mut());
            }
            queue
        };
        if queue.is_null() {
            return Err(Fault::retry("kafka.no_queue", format!("{partition}: the client has no queue for it")));
        }
        let messages = Vec::with_capacity(TAKE_MAX);
        let mut lane = PartitionQueue { queue, partition: partition.clone(), messages, _consumer: consumer.clone() };
        lane.drain();
        Ok(lane)
    }

    /// Throws away what a former assignment left: its records are outdated, but an error of its, as that an
    /// offset is gone, would be taken for one of the new assignment.
    fn drain(&mut self) {
        for _ in 0..DRAINS_MAX {
            let mut taken = Taken { messages: &mut self.messages, shown: 0 };
            taken.fill(self.queue, TAKE_MAX, Duration::ZERO);
            taken.shown = taken.messages.len();
            if taken.messages.is_empty() {
                return;
            }
        }
    }

    /// Waits for one record, then shows it and what else is there, and tells of the partition's end when the
    /// client has come to it. What has been shown is given back before it returns; what is left for later stays with
    /// what was fetched behind it, and no more is fetched until all of that is shown. How many make `bytes_max` is
    /// known from the first one only; where larger ones follow a small one, it is at most what the queue may hold.
    pub fn take(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        wait: Duration,
        see: &mut dyn FnMut(&Record<'_>) -> Result<Seen, Fault>,
    ) -> Result<Option<i64>, Fault> {
        let room = records_max.clamp(1, TAKE_MAX);
        let mut taken = Taken { messages: &mut self.messages, shown: 0 };
        let is_new = taken.messages.is_empty();
        if is_new {
            taken.fill(self.queue, 1, wait);
        }
        let Some(&first) = taken.messages.first() else { return Ok(None) };
        // SAFETY: as below.
        let size = unsafe { (*first).len + (*first).key_len };
        let count = (bytes_max / size.max(1)).clamp(1, room);
        if is_new {
            taken.fill(self.queue, count - 1, Duration::ZERO);
        }
        // What follows an error that passes has been taken too and must be shown: it will not come again.
        let mut passing = None;
        let mut end = None;
        while taken.shown < count.min(taken.messages.len()) {
            // SAFETY: a message is ours until `taken` gives it back, after this loop.
            let message = unsafe { &*taken.messages[taken.shown] };
            if message.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
                end = Some(message.offset);
            } else if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                match fault::of(message.err.into(), &format!("{} at offset {}", self.partition, message.offset)) {
                    fault @ Fault::Retry(_) => passing = passing.or(Some(fault)),
                    fault => return Err(fault),
                }
            } else if see(&record(message, &self.partition))? == Seen::Later {
                break;
            }
            taken.shown += 1;
        }
        passing.map_or(Ok(end), Err)
    }
}

impl<C: ConsumerContext + 'static> Drop for PartitionQueue<C> {
    fn drop(&mut self) {
        drop(Taken { shown: self.messages.len(), messages: &mut self.messages });
        // SAFETY: the handle is ours; destroying it gives up a count on the queue, not the queue.
        unsafe { native::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Messages that were taken. Those that have been shown are given back at the end of it, whatever happens in between.
struct Taken<'a> {
    messages: &'a mut Vec<*mut native::rd_kafka_message_t>,
    shown: usize,
}

impl Taken<'_> {
    fn fill(&mut self, queue: *mut native::rd_kafka_queue_t, count_max: usize, wait: Duration) {
        let held = self.messages.len();
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        self.messages.reserve(count_max);
        // SAFETY: there is room for `count_max` pointers behind the ones held, and as many as the call says are
        // then set. A negative count is an error of the call itself and sets none.
        unsafe {
            let room = self.messages.as_mut_ptr().add(held);
            let count = native::rd_kafka_consume_batch_queue(queue, wait_ms, room, count_max);
            self.messages.set_len(held + usize::try_from(count).unwrap_or(0));
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for message in self.messages.drain(..self.shown) {
            // SAFETY: taken by `fill` and destroyed only here.
            unsafe { native::rd_kafka_message_destroy(message) }
        }
    }
}

fn record<'a>(message: &'a native::rd_kafka_message_t, partition: &'a Partition) -> Record<'a> {
    let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive for 'a; `kind` is written, nothing is kept.
    let timestamp_ms = unsafe { native::rd_kafka_message_timestamp(message, &mut kind) };
    Record {
        partition,
        offset: message.offset,
        timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
        key: bytes(message.key, message.key_len),
        payload: bytes(message.payload, message.len),
        headers: RawHeaders::of(message),
    }
}

/// Bytes that live as long as the message that `'a` was taken from by the caller.
fn bytes<'a>(start: *mut std::os::raw::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: librdkafka gives null for an absent value and otherwise `len` bytes that live with the message;
    // both callers bind 'a to it.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start as *const u8, len) })
}

/// A message seen only as its headers: the same pointer under another name, so that nothing is allocated.
#[repr(transparent)]
struct RawHeaders(native::rd_kafka_message_t);

impl RawHeaders {
    fn of(message: &native::rd_kafka_message_t) -> &RawHeaders {
        // SAFETY: `repr(transparent)` over the same type.
        unsafe { &*(ptr::from_ref(message) as *const RawHeaders) }
    }
}

impl Headers for RawHeaders {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: librdkafka parses the headers into the message on first use and keeps them there; names are C
        // strings, values have `size` bytes, and both live with the message.
        unsafe {
            if native::rd_kafka_message_headers(&self.0, &mut headers) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            for index in 0.. {
                let (mut name, mut value, mut size) = (ptr::null::<c_char>(), ptr::null(), 0usize);
                let found = native::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size);
                if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return;
                }
                see(&CStr::from_ptr(name).to_string_lossy(), bytes(value.cast_mut(), size));
            }
        }
    }
}

/// The id that the broker gave a topic when it was created; empty where the broker has none to tell.
pub(super) fn topic_id<C: ConsumerContext + 'static>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    wait: Duration,
) -> Result<String, Fault> {
    let name = c_string(topic)?;
    let client = consumer.client().native_ptr();
    // SAFETY: every object made here is destroyed here, on every way out (`Owned`); what an event or a result
    // lends is read before the event is destroyed.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = Owned(
            native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            native::rd_kafka_TopicCollection_destroy,
            PhantomData,
        );
        let question = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let asked = ask(client, question, topic, wait, |options, queue| {
            native::rd_kafka_DescribeTopics(client, topics.0, options, queue);
        })?;
        let Some(answer) = asked else { return Ok(String::new()) };
        let mut count = 0;
        let result = native::rd_kafka_event_DescribeTopics_result(answer.event.0);
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            return Ok(String::new());
        }
        let failed = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(*described));
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(fault::of(failed.into(), topic));
        }
        let id = native::rd_kafka_TopicDescription_topic_id(*described);
        let is_zero = id.is_null()
            || (native::rd_kafka_Uuid_most_significant_bits(id) == 0
                && native::rd_kafka_Uuid_least_significant_bits(id) == 0);
        Ok(if is_zero { String::new() } else { text(native::rd_kafka_Uuid_base64str(id)) })
    }
}

/// The consumer groups of the cluster, each with its state; and why those of some broker are missing, where they are.
pub(super) fn groups<C: ConsumerContext + 'static>(
    consumer: &BaseConsumer<C>,
    wait: Duration,
) -> Result<(BTreeMap<String, String>, Option<Fault>), Fault> {
    let client = consumer.client().native_ptr();
    let question = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
    // SAFETY: as in `topic_id`; the array that a result lends has `count` valid pointers.
    unsafe {
        let asked = ask(client, question, "consumer groups", wait, |options, queue| {
            native::rd_kafka_ListConsumerGroups(client, options, queue);
        })?;
        let Some(answer) = asked else { return Ok((BTreeMap::new(), None)) };
        let result = native::rd_kafka_event_ListConsumerGroups_result(answer.event.0);
        let mut count = 0;
        let errors = native::rd_kafka_ListConsumerGroups_result_errors(result, &mut count);
        let failed = (count > 0).then(|| native::rd_kafka_error_code(*errors));
        let trouble = failed.map(|failed| fault::of(failed.into(), "consumer groups"));
        let mut count = 0;
        let listed = native::rd_kafka_ListConsumerGroups_result_valid(result, &mut count);
        let group = |index| {
            let group = *listed.add(index);
            let state = native::rd_kafka_ConsumerGroupListing_state(group);
            (
                text(native::rd_kafka_ConsumerGroupListing_group_id(group)),
                text(native::rd_kafka_consumer_group_state_name(state)),
            )
        };
        Ok(((0..count).map(group).collect(), trouble))
    }
}

/// The offsets that a group has committed, of whatever topics. Whether it is ours or has members does not matter.
pub(super) fn committed<C: ConsumerContext + 'static>(
    consumer: &BaseConsumer<C>,
    group: &str,
    wait: Duration,
) -> Result<Vec<(Partition, i64)>, Fault> {
    let name = c_string(group)?;
    let client = consumer.client().native_ptr();
    let question = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    let about = format!("group {group}");
    // SAFETY: as in `topic_id`; the lists that a result lends have as many elements as they say.
    unsafe {
        let of_group = Owned(
            native::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), ptr::null()),
            native::rd_kafka_ListConsumerGroupOffsets_destroy,
            PhantomData,
        );
        let asked = ask(client, question, &about, wait, |options, queue| {
            native::rd_kafka_ListConsumerGroupOffsets(client, &mut { of_group.0 }, 1, options, queue);
        })?;
        let Some(answer) = asked else { return Ok(Vec::new()) };
        let result = native::rd_kafka_event_ListConsumerGroupOffsets_result(answer.event.0);
        let mut count = 0;
        let groups = native::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        if count == 0 {
            return Ok(Vec::new());
        }
        let failed = native::rd_kafka_error_code(native::rd_kafka_group_result_error(*groups));
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(fault::of(failed.into(), &about));
        }
        let list = native::rd_kafka_group_result_partitions(*groups);
        if list.is_null() {
            return Ok(Vec::new());
        }
        let elements = std::slice::from_raw_parts((*list).elems, usize::try_from((*list).cnt).unwrap_or(0));
        let known = elements.iter().filter(|at| at.offset >= 0);
        Ok(known.map(|at| (Partition::new(text(at.topic), at.partition), at.offset)).collect())
    }
}

fn c_string(name: &str) -> Result<CString, Fault> {
    CString::new(name).map_err(|_| Fault::stop("kafka.name", format!("{name:?} has a NUL")))
}

/// SAFETY: `text` is a C string.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The answer to an admin call, and the queue that it came by, which has to outlive it.
struct Asked {
    event: Owned<native::rd_kafka_event_t>,
    _queue: Owned<native::rd_kafka_queue_t>,
}

/// Makes an admin call about something and waits for its answer. None where the broker is too old for it.
///
/// SAFETY: `client` is alive, and what `call` gives to it is so until this returns.
unsafe fn ask(
    client: *mut native::rd_kafka_t,
    question: native::rd_kafka_admin_op_t,
    about: &str,
    wait: Duration,
    call: impl FnOnce(*const native::rd_kafka_AdminOptions_t, *mut native::rd_kafka_queue_t),
) -> Result<Option<Asked>, Fault> {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: what is made here is destroyed by `Owned`, the event before its queue.
    unsafe {
        let queue = Owned(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy, PhantomData);
        let options = native::rd_kafka_AdminOptions_new(client, question);
        let options = Owned(options, native::rd_kafka_AdminOptions_destroy, PhantomData);
        native::rd_kafka_AdminOptions_set_request_timeout(options.0, wait_ms, ptr::null_mut(), 0);
        call(options.0, queue.0);
        // The request has its own time-out; the event comes a little after it at the latest.
        let event = native::rd_kafka_queue_poll(queue.0, wait_ms.saturating_add(500));
        if event.is_null() {
            return Err(Fault::retry("kafka.timeout", format!("the broker said nothing of {about} in time")));
        }
        let event = Owned(event, native::rd_kafka_event_destroy, PhantomData);
        match native::rd_kafka_event_error(event.0) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(Some(Asked { event, _queue: queue })),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => Ok(None),
            failed => Err(fault::of(failed.into(), about)),
        }
    }
}

/// A native object with the function that destroys it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T), PhantomData<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the matching constructor, and destroyed once.
            unsafe { (self.1)(self.0) }
        }
    }
}
