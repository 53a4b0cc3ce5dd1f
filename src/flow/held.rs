//! What a flow holds back or has set aside, looked after beside it: parked records that still have their turn go on, and how much
//! there is of both is counted for people. Nothing that fails in here keeps a record from being written, or an instance from being ready.

use std::sync::Arc;
use std::time::Duration;

use super::{Apply, Flow};
use crate::engine::{Clock, Stop, Thread};
use crate::fault::Fault;
use crate::pg::held;
use crate::pg::letters::kept;

/// Between looks for keys that have to go on,
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// and between counts, which read all that is parked, and all letters. A count that takes long is made more seldom still.
const COUNT_EVERY: Duration = Duration::from_secs(10);
const COUNT_SHARE: u32 = 20;

impl<F: Flow> Apply<F> {
    /// One transaction's part of what still has its turn. Gives whether there was any.
    pub fn go_on(&self) -> Result<bool, Fault> {
        let mut session = self.database.session()?;
        let gone = session.begin().and_then(|mut work| {
            let is_any = self.flow.go_on(&mut work)?;
            work.commit().map(|()| is_any)
        });
        match gone {
            Ok(_) => self.tell(&session),
            Err(_) => session.discard(),
        }
        gone
    }

    /// How much is held back, over all instances: the ledger went past it, so no lag of a partition shows it.
    pub fn count_held(&self) -> Result<(), Fault> {
        self.database.session()?.work(|work| {
            let level = held::level(work, self.flow.name())?;
            // Told at once: where so much is parked that it cannot be counted, that keys are held is worth the most.
            self.track.held_keys.set(level.keys);
            self.track.held_oldest_s.set(level.oldest_s);
            let records = if level.keys == 0 { 0 } else { held::count(work, self.flow.name())? };
            self.track.parked_records.set(records);
            Ok(())
        })
    }

    /// How many of the flow's letters wait for a person, over all instances: what was counted when they were written is gone
    /// with the process that wrote them, and does not fall when somebody deals with them.
    pub fn count_open(&self) -> Result<(), Fault> {
        let open = self.database.session()?.work(|work| kept::open(work, self.flow.name()))?;
        self.track.set_open_letters(open);
        Ok(())
    }

    /// A thread that does all of it until the order to stop.
    pub fn look_after(self: Arc<Self>, clock: &Clock, stop: Stop) -> Thread<()> {
        let ours = clock.clone();
        clock.spawn(format!("{}-aside", self.flow.name()), move || {
            let (mut count_at, mut trouble) = (Duration::ZERO, None);
            let holds_keys = self.flow.holds_keys();
            while !stop.asked() {
                let gone = if holds_keys { self.go_on() } else { Ok(false) };
                let is_more = gone.as_ref().is_ok_and(|is_more| *is_more);
                let former = std::mem::replace(&mut trouble, gone.err().map(Fault::into_cause));
                // Once for each kind of trouble, not once for each time that it is met.
                if let Some(cause) =
                    trouble.as_ref().filter(|cause| former.is_none_or(|former| former.code != cause.code))
                {
                    let (flow, code) = (self.flow.name(), &*cause.code);
                    log::warn!(flow, code; "what is parked does not go on: {}", cause.text);
                }
                let began = ours.now();
                if began >= count_at {
                    let held = if holds_keys { self.count_held() } else { Ok(()) };
                    for fault in [held, self.count_open()].into_iter().filter_map(Result::err) {
                        let (flow, code) = (self.flow.name(), &*fault.cause().code);
                        log::debug!(flow, code; "what is held back or set aside is not counted: {}", fault.cause().text);
                    }
                    let now = ours.now();
                    count_at = now + COUNT_EVERY.max((now - began) * COUNT_SHARE);
                }
                if !is_more {
                    stop.pause(LOOK_EVERY);
                }
            }
        })
    }
}
