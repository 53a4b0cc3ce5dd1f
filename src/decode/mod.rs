//! Bytes to values: formats of payloads, and nothing about where they come from or go to.

pub mod avro;
pub mod debezium;
pub mod json;
pub mod schema;
