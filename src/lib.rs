//! sluicegate moves Kafka topics into PostgreSQL, each record exactly once.
//! Start at `engine::run`: it is the whole data path. `docs/ARCHITECTURE.md` has the map.

#[cfg(feature = "clients")]
pub mod cli;
pub mod config;
pub mod decode;
pub mod engine;
pub mod failpoint;
pub mod fault;
pub mod flow;
#[cfg(feature = "clients")]
pub mod kafka;
pub mod letters;
pub mod memory;
pub mod ops;
pub mod outlet;
pub mod pg;
#[cfg(feature = "clients")]
pub mod produce;
#[cfg(feature = "clients")]
mod progress;
pub mod rate;
pub mod record;
#[cfg(feature = "clients")]
pub mod run;
pub mod trace;
pub mod track;
#[cfg(feature = "clients")]
mod watch;
