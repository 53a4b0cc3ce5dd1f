//! The search for what PostgreSQL does not take: some are tried together under a savepoint, and halved where that fails,
//! until the ones at fault are alone. What passes stays, so that each is judged with all that come before it.

use std::ops::Range;

use super::Work;
use crate::fault::Fault;

/// Does so many of them.
pub type Attempt<'s> = dyn FnMut(&mut Work<'_>, Range<usize>) -> Result<(), Fault> + 's;

/// What is tried, and what is at fault: `attempt` runs under a savepoint of its own. A fault that `is_theirs` says is
/// nobody's among them ends the search.
pub struct Search<'s> {
    pub attempt: &'s mut Attempt<'s>,
    pub is_theirs: &'s dyn Fn(&Fault) -> bool,
    pub found: &'s mut dyn FnMut(usize, Fault),
}

impl Search<'_> {
    pub fn run(&mut self, work: &mut Work<'_>, items: Range<usize>) -> Result<(), Fault> {
        if items.is_empty() {
            return Ok(());
        }
        let mut inner = work.begin()?;
        match (self.attempt)(&mut inner, items.clone()) {
            Ok(()) => inner.commit(),
            Err(fault) if !(self.is_theirs)(&fault) => Err(fault),
            Err(fault) if items.len() == 1 => {
                drop(inner);
                (self.found)(items.start, fault);
                Ok(())
            }
            Err(_) => {
                drop(inner);
                let middle = items.start + items.len() / 2;
                self.run(work, items.start..middle)?;
                self.run(work, middle..items.end)
            }
        }
    }
}
