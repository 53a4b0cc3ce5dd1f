//! sluicegate moves Kafka topics into PostgreSQL, each record exactly once.

pub mod cli;
pub mod config;
pub mod engine;
pub mod fault;
pub mod ops;
pub mod pg;
pub mod record;
pub mod track;
