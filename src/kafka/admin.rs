//! Topics: made when missing. Every call waits a bounded time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{client_config, fault};
use crate::fault::Fault;

const ASK: Duration = Duration::from_secs(10);
/// Between looks whether a new topic has come to the broker that is asked.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What became of a topic that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Created,
    /// It was there, with this many partitions.
    Existed(usize),
}

pub fn create_topic(
    brokers: &str,
    options: &std::collections::BTreeMap<String, String>,
    topic: &str,
    partitions: i32,
    replication: i32,
) -> Result<Made, Fault> {
    let of_error = |error: KafkaError| fault::of_error(&error, &format!("topic {topic}"));
    let mut config = client_config(brokers);
    options.iter().for_each(|(key, value)| {
        config.set(key, value);
    });
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(of_error)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
    let limits = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let answers = wait(admin.create_topics([&new], &limits)).map_err(of_error)?;
    match answers.into_iter().next() {
        Some(Ok(_)) => await_topic(brokers, options, topic, partitions as usize).map(|()| Made::Created),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
            partitions_of(brokers, options, topic).map(Made::Existed)
        }
        Some(Err((_, code))) => Err(fault::of(code, &format!("topic {topic}"))),
        None => Err(Fault::retry("kafka.no_answer", format!("topic {topic}: the broker said nothing of it"))),
    }
}

/// The controller has a new topic before the other brokers, and before it tells of it itself: whoever asks right after
/// would be told that there is none.
fn await_topic(
    brokers: &str,
    options: &std::collections::BTreeMap<String, String>,
    topic: &str,
    partitions: usize,
) -> Result<(), Fault> {
    let (client, by) = (asker(brokers, options, topic)?, Instant::now() + ASK);
    while count_partitions(&client, topic)? < partitions {
        if Instant::now() > by {
            let text = format!("topic {topic} was made, and after {ASK:?} its partitions are still not all known");
            return Err(Fault::retry("kafka.no_topic", text));
        }
        std::thread::park_timeout(LOOK_PAUSE);
    }
    Ok(())
}

/// How many partitions a topic has; none where there is no such topic.
pub fn partitions_of(
    brokers: &str,
    options: &std::collections::BTreeMap<String, String>,
    topic: &str,
) -> Result<usize, Fault> {
    count_partitions(&asker(brokers, options, topic)?, topic)
}

/// A client for questions about a topic.
fn asker(
    brokers: &str,
    options: &std::collections::BTreeMap<String, String>,
    topic: &str,
) -> Result<BaseConsumer, Fault> {
    let mut config = client_config(brokers);
    options.iter().for_each(|(key, value)| {
        config.set(key, value);
    });
    config.create().map_err(|error| fault::of_error(&error, &format!("topic {topic}")))
}

fn count_partitions(client: &BaseConsumer, topic: &str) -> Result<usize, Fault> {
    let metadata =
        client.fetch_metadata(Some(topic), ASK).map_err(|error| fault::of_error(&error, &format!("topic {topic}")))?;
    Ok(metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len()))
}

/// rdkafka's admin calls are futures that its own thread completes; the caller's thread sleeps until then.
pub fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
