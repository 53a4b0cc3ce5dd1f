//! One message as Kafka gave it, borrowed, and the name of the partition that it came from.
//! Nothing here owns a payload or knows a format.

use std::fmt;
use std::sync::Arc;

/// A partition of a topic, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub topic: Arc<str>,
    pub id: i32,
}

impl Partition {
    pub fn new(topic: impl Into<Arc<str>>, id: i32) -> Self {
        Partition { topic: topic.into(), id }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.id)
    }
}

/// One message. It lives as long as the lane that lent it; whoever keeps a part copies that part.
pub struct Record<'a> {
    pub partition: &'a Partition,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: &'a dyn Headers,
}

/// Headers are parsed only when somebody looks: most records never pay for them.
pub trait Headers {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>));
}

/// The headers of a record that has none.
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn each(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

/// Those of a letter.
impl Headers for Vec<(String, Option<Vec<u8>>)> {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in self {
            see(name, value.as_deref());
        }
    }
}
