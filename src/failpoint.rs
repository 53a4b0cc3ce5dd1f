//! Places at which a test may kill the process, freeze it, or lose an answer. They exist only in a build with the
//! feature `failpoints`; in every other one `reach` is nothing.
//!
//! `FAILPOINT=name=action@count` arms one of them: at its count-th time the action is done, once.
//! `kill` is SIGKILL and `stop` SIGSTOP, to the process itself; `lose` makes the caller's call fail although it
//! was done.

use crate::fault::Fault;

/// The rows of the crash table, by the name under which they are armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Records are decoded into a batch that no transaction knows.
    Fetched,
    /// Some bytes of a COPY are with the server.
    InCopy,
    /// Everything is written, COMMIT is not sent.
    BeforeCommit,
    /// COMMIT is done. With `lose`, its answer never arrives.
    Committed,
    /// The ledger has moved; the group has not been told.
    BeforeAdvisoryCommit,
    /// The ledger gives a partition, and the claim is not committed.
    InClaim,
    /// Claimed, and not yet assigned.
    Claimed,
    /// The group takes partitions back, and the engine has not begun to give them.
    Revoked,
}

impl Point {
    pub const ALL: [(Point, &'static str); 8] = [
        (Point::Fetched, "fetched"),
        (Point::InCopy, "in_copy"),
        (Point::BeforeCommit, "before_commit"),
        (Point::Committed, "committed"),
        (Point::BeforeAdvisoryCommit, "before_advisory_commit"),
        (Point::InClaim, "in_claim"),
        (Point::Claimed, "claimed"),
        (Point::Revoked, "revoked"),
    ];
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_: Point) -> Result<(), Fault> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use armed::reach;

#[cfg(feature = "failpoints")]
mod armed {
    use std::process::Command;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Fault, Point};

    struct Armed {
        point: Point,
        action: String,
        count: u64,
        reached: AtomicU64,
    }

    impl Armed {
        fn parse(text: &str) -> Option<Armed> {
            let (name, rest) = text.split_once('=')?;
            let (action, count) = rest.split_once('@')?;
            let (point, _) = *Point::ALL.iter().find(|(_, known)| *known == name)?;
            ["kill", "stop", "lose"].contains(&action).then_some(())?;
            Some(Armed { point, action: action.to_owned(), count: count.parse().ok()?, reached: AtomicU64::new(0) })
        }
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = std::env::var("FAILPOINT").ok()?;
            Some(Armed::parse(&text).unwrap_or_else(|| panic!("FAILPOINT: {text} is no name=action@count")))
        };
        ARMED.get_or_init(read).as_ref()
    }

    pub fn reach(point: Point) -> Result<(), Fault> {
        let Some(armed) = armed().filter(|armed| armed.point == point) else { return Ok(()) };
        if armed.reached.fetch_add(1, Ordering::SeqCst) + 1 != armed.count {
            return Ok(());
        }
        log::error!("fail point {point:?}: {}", armed.action);
        if armed.action == "lose" {
            return Err(Fault::retry("failpoint.lost", format!("the answer at {point:?} was lost")));
        }
        // The command outlives the signal; what comes after it, a killed process never does.
        let signal = if armed.action == "kill" { "-KILL" } else { "-STOP" };
        let _ = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
        Ok(())
    }
}
