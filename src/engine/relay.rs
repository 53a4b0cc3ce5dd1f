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
    /// What the relay keeps from time to time: its connection, and the right to publish.
    type Session: Default + Send;

    /// Publishes some that wait, and forgets them once they are acknowledged.
    fn publish_some(&self, session: &mut Self::Session, outlet: &dyn Outlet) -> Result<Published, Fault>;
}

/// What became of some that waited.
#[derive(Debug, Default)]
pub struct Published {
    /// Acknowledged ones.
    pub messages: u64,
    /// How long the oldest had waited.
    pub age: Duration,
    /// Why the rest of them stayed.
    pub fault: Option<Fault>,
}

/// Between looks into an outbox that was empty.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn relay<O: Outbox>(
    outbox: Arc<O>,
    outlet: Arc<dyn Outlet>,
    mut backoff: Backoff,
    clock: &Clock,
    stop: Stop,
    track: Arc<Track>,
) -> Thread<()> {
    clock.spawn(format!("{}-relay", track.flow), move || {
        let (mut session, mut attempt) = (O::Session::default(), 0u32);
        while !stop.asked() {
            let fault = match outbox.publish_some(&mut session, &*outlet) {
                Ok(Published { messages, age, fault }) => {
                    track.published.add(messages);
                    track.outbox_age_s.set(age.as_secs() as i64);
                    if fault.is_none() && messages == 0 {
                        stop.pause(LOOK_EVERY);
                    }
                    fault
                }
                Err(fault) => Some(fault),
            };
            match fault {
                None => {
                    backoff.reset();
                    attempt = 0;
                }
                Some(fault) => {
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
