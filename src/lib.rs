//! sluicegate moves Kafka topics into PostgreSQL, each record exactly once.

pub mod fault;
pub mod record;
pub mod track;
