//! Where messages go out: the seam between whoever has something to tell and the client of a broker, neither of which
//! knows the other. Nothing that passes here waits.

use crate::fault::Fault;

/// Something to be published.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    /// Messages of one key stay in order.
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    /// Where it comes from, for whoever drops what it has seen. Sent as the header `sluicegate-source`, before the others.
    pub source: Option<&'a str>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// The code of the fault of an outlet that holds as much as it may: there is room again once some of that is answered.
pub const FULL: &str = "kafka.queuefull";

/// Hears what became of a message. A fault leaves it open whether it is there all the same.
pub type Told = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// Where messages go. Made by `kafka::Publisher`.
pub trait Outlet: Send + Sync {
    /// Hands a message over and returns at once; `told` is called once it is acknowledged by all, or is not going to be.
    /// A fault says that it was not taken, and `told` is never called.
    fn publish(&self, message: &Message<'_>, told: Told) -> Result<(), Fault>;
}
