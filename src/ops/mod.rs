//! What an operator sees: health, tracking, metrics, logs. Reads the tracks of the flows and never touches the
//! data path.

pub mod api;
pub mod http;
pub mod log;
pub mod metrics;
pub mod tracking;
