//! Kafka's words, over librdkafka: the consumer as a source of the engine, the producers, topics.
//! Flows and tables are unknown here.

pub mod admin;
pub mod consumer;
pub mod fault;
pub mod lag;
pub mod peek;
pub mod producer;
pub mod publisher;
mod raw;

pub use consumer::{Consumer, ConsumerConfig, Start};
pub use producer::{Numbered, Producer, Sent};
pub use publisher::Publisher;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::fault::Cause;

/// What every client of ours has in common.
fn client_config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "sluicegate")
        // The OpenSSL that is built in would look for authorities where no system keeps them.
        .set("ssl.ca.location", "probe")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true");
    config
}

/// A broker inside this process, for a look at the program where there is no Kafka. Its data lives in memory.
pub struct DemoBroker(MockCluster<'static, DefaultProducerContext>);

impl DemoBroker {
    pub fn start() -> Result<Self, Cause> {
        MockCluster::new(1).map(DemoBroker).map_err(|error| Cause::new("kafka.demo", error.to_string()))
    }

    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), Cause> {
        self.0.create_topic(topic, partitions, 1).map_err(|error| Cause::new("kafka.demo", error.to_string()))
    }

    pub fn brokers(&self) -> String {
        self.0.bootstrap_servers()
    }
}
