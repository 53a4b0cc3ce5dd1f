//! The cdc flow behind a real Debezium connector that reads a real PostgreSQL.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

#[path = "cdc/golden.rs"]
mod golden;
#[path = "cdc/kinds.rs"]
mod kinds;
mod support;
