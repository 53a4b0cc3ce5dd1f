//! The cdc flow against a real PostgreSQL, without Kafka: captured and made-up events, applied batch by batch.

#[path = "changes/events.rs"]
mod events;
#[path = "changes/families.rs"]
mod families;
#[path = "changes/golden.rs"]
mod golden;
#[path = "changes/keyless.rs"]
mod keyless;
#[path = "changes/keys.rs"]
mod keys;
#[path = "changes/large.rs"]
mod large;
#[path = "changes/marks.rs"]
mod marks;
#[path = "changes/model.rs"]
mod model;
#[path = "changes/moves.rs"]
mod moves;
#[path = "changes/names.rs"]
mod names;
#[path = "changes/nulls.rs"]
mod nulls;
#[path = "changes/partitions.rs"]
mod partitions;
#[path = "changes/refusals.rs"]
mod refusals;
#[path = "changes/rows.rs"]
mod rows;
#[path = "changes/snapshots.rs"]
mod snapshots;
#[path = "changes/strangers.rs"]
mod strangers;
mod support;
#[path = "changes/target.rs"]
mod target;
