//! The relay: one thread a flow, which publishes what the flow has put into its outbox. At least once: each message has
//! a name, its `source`, that stays the same when it is published again.

use std::sync::Arc;
use std::time::Duration;

use super::{Backoff, Clock, Stop, Thread};
use crate::fault::Fault;
use crate::outlet::Outlet;
use crate::track::Track;

/// Where messages wait. Made by `flow::Apply`.
pub trait Outbox: Send + Sync + 'static {
    /// Publishes some that wait, and forgets them once they are acknowledged. How many.
    fn publish_some(&self, outlet: &dyn Outlet) -> Result<u64, Fault>;
}

/// Between looks into an outbox that was empty.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn relay(
    outbox: Arc<impl Outbox>,
    outlet: Arc<dyn Outlet>,
    mut backoff: Backoff,
    clock: &Clock,
    stop: Stop,
    track: Arc<Track>,
) -> Thread<()> {
    clock.spawn(format!("{}-relay", track.flow), move || {
        let mut attempt = 0u32;
        while !stop.asked() {
            match outbox.publish_some(&*outlet) {
                Ok(0) => stop.pause(LOOK_EVERY),
                Ok(messages) => {
                    track.published.add(messages);
                    backoff.reset();
                    attempt = 0;
                }
                Err(fault) => {
                    let (flow, cause) = (track.flow.as_str(), fault.cause());
                    attempt += 1;
                    log::warn!(flow, attempt, code = &*cause.code; "outbox: {}", cause.text);
                    track.publish_failed.add(1);
                    track.failed(fault.cause());
                    stop.pause(backoff.next_pause());
                }
            }
        }
    })
}
