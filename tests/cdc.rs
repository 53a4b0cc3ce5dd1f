//! The cdc flow behind a real Debezium connector that reads a real PostgreSQL.
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

#[path = "cdc/golden.rs"]
mod golden;
#[path = "cdc/hostile.rs"]
mod hostile;
#[path = "cdc/kinds.rs"]
mod kinds;
#[path = "cdc/modes.rs"]
mod modes;
#[path = "cdc/replica.rs"]
mod replica;
#[path = "cdc/rows.rs"]
mod rows;
#[path = "cdc/shapes.rs"]
mod shapes;
#[path = "cdc/snapshots.rs"]
mod snapshots;
mod support;
#[path = "cdc/tree.rs"]
mod tree;
#[path = "cdc/workload.rs"]
mod workload;
