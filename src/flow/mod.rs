//! A flow: what one kind of record becomes in PostgreSQL. This file has the trait and the list, and is the
//! only place that names the flows; each of them is one file here and one folder in `sql/`.

pub mod apply;
mod cdc;
mod events;
pub mod field;
mod held;
pub mod orders;
mod packed;
mod patience;
pub mod relay;
mod replay;
mod status;
pub mod tickets;

pub use apply::Apply;
pub use cdc::Cdc;
pub use events::{EventRows, Events};
pub use orders::{Desk, Orders};
pub use replay::{Fate, Replay};
pub use status::Status;
pub use tickets::{TicketRows, Tickets};

use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::decode::schema::JsonSchema;
use crate::engine::{Batch, Rows};
use crate::fault::{Cause, Fault};
use crate::ops::Service;
use crate::outlet::{Message, Outlet};
use crate::pg::letters::kept::Held;
use crate::pg::{MakeTlsConnector, Work};
use crate::record::{Partition, Record};
use crate::track::Track;

/// The code of a fault of `Flow::write` that says: these rows were made by what was known before. They are read again.
pub const AGAIN: &str = "flow.again";

pub trait Flow: Send + Sync + 'static {
    type Rows: Rows;

    fn name(&self) -> &'static str;

    /// The statements that create what is missing.
    fn tables(&self) -> String;

    /// Appends what the record becomes. Pure: no I/O, and no allocation per row where speed matters.
    /// What PostgreSQL would refuse is refused here.
    fn decode(&self, record: &Record<'_>, rows: &mut Self::Rows) -> Result<(), Fault>;

    /// What is to become of a record that cannot be applied: a letter, unless somebody would rather have a halt.
    fn refusal(&self, cause: Cause) -> Fault {
        Fault::Reject(cause)
    }

    /// Whether the record may only be early: what it needs may be on its way in another partition.
    fn may_be_early(&self, _cause: &Cause) -> bool {
        false
    }

    /// How long such records wait before they are refused.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// When the record may be decoded, in milliseconds since 1970, where it has to wait.
    fn due_ms(&self, _record: &Record<'_>) -> Option<u64> {
        None
    }

    /// The effects of these batches, inside the transaction that also moves the ledger.
    fn write(&self, work: &mut Work<'_>, batches: &[&Batch<Self::Rows>]) -> Result<(), Fault>;

    /// A person decided to go without the records of these letters.
    fn dropped(&self, _work: &mut Work<'_>, _letters: &[Held]) -> Result<(), Fault> {
        Ok(())
    }

    /// Some of the parked records whose turn has come, where there were more of them than one transaction takes. Gives
    /// whether there were any.
    fn go_on(&self, _work: &mut Work<'_>) -> Result<bool, Fault> {
        Ok(false)
    }

    /// Whether records of a key may be parked behind one of them (`pg/held`).
    fn holds_keys(&self) -> bool {
        false
    }

    /// Topics that this flow reads beside the configured one, by name or by pattern.
    fn inlets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Topics that this flow publishes to.
    fn outlets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Shows the messages that it has put into the outbox. `from` is where their records came from.
    fn messages(&self, _body: &[u8], _from: &Partition, _see: &mut dyn FnMut(Message<'_>)) -> Result<(), Fault> {
        Ok(())
    }
}

/// Made-up records of a flow, for `produce` and for trying things out.
pub trait Sample: Send + Sync {
    /// None where records have no key; they are spread over the partitions in turn then.
    fn key(&self, _number: u64) -> Option<String> {
        None
    }

    /// Appends the payload of record `number`.
    fn payload(&self, number: u64, out: &mut Vec<u8>);

    fn headers(&self, _number: u64) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Something to be done with each enabled flow, whatever its types.
pub trait Visit {
    fn flow<F: Flow>(&mut self, config: &config::Flow, flow: F);
}

/// The list. A flow is one line here.
pub fn each(config: &config::Config, visit: &mut impl Visit) -> Result<(), Cause> {
    for (name, flow) in config.enabled() {
        match name {
            cdc::NAME => visit.flow(flow, Cdc::from_config(flow)?),
            events::NAME => visit.flow(flow, Events::from_config(flow)?),
            orders::NAME => visit.flow(flow, Orders::from_config(flow)?),
            status::NAME => visit.flow(flow, Status::from_config(flow)?),
            tickets::NAME => visit.flow(flow, Tickets::from_config(flow)?),
            unknown => return Err(Cause::new("flow.unknown", format!("there is no flow named \"{unknown}\""))),
        }
    }
    Ok(())
}

/// What records would become where tables follow their records, before anything runs.
pub trait Outlook {
    /// Of one topic, oldest first, by the last one that says it; None where none does. A fault says why it would be refused.
    fn preview(&self, records: &[Record<'_>], work: &mut Work<'_>) -> Result<Option<Preview>, Fault>;
}

/// The table of a topic's records, for people. Names and types are as SQL has them.
#[derive(Debug)]
pub struct Preview {
    pub table: String,
    /// Two of them must not have one table.
    pub source: String,
    pub key: Vec<String>,
    /// Each with its type.
    pub columns: Vec<String>,
    /// Whether types are those of the values, because no schema says them.
    pub is_guess: bool,
    /// Columns whose type a rule knows by their name.
    pub by_name: Vec<String>,
    /// Columns that the table makes of others, whatever their fields say.
    pub left_out: Vec<String>,
    pub is_there: bool,
    /// The statements that would make it fit.
    pub changes: Vec<String>,
}

/// None where a flow's tables do not follow its records.
pub fn outlook(name: &str, config: &config::Flow) -> Result<Option<Box<dyn Outlook>>, Cause> {
    match name {
        cdc::NAME => Ok(Some(Box::new(Cdc::from_config(config)?))),
        _ => Ok(None),
    }
}

/// What a flow's service over HTTP is made of.
pub struct Behind<'a> {
    pub outlet: Arc<dyn Outlet>,
    pub target: &'a postgres::Config,
    pub tls: MakeTlsConnector,
    pub track: Arc<Track>,
    pub sessions_max: u32,
}

/// Whether a flow publishes, or takes requests that it publishes.
pub fn publishes(flow: &str) -> bool {
    [events::NAME, orders::NAME].contains(&flow)
}

/// Whether letters of a flow may be what their keys wait for: then nobody else can drop them.
pub fn waits_for_letters(flow: &str) -> bool {
    flow == tickets::NAME
}

/// Whether keys of a flow may be held back, as `Flow::holds_keys` says of one that is configured.
pub fn may_hold_keys(flow: &str) -> bool {
    [events::NAME, tickets::NAME].contains(&flow)
}

/// What can be asked of a flow over HTTP, where there is something.
pub fn service(name: &str, config: &config::Flow, behind: Behind<'_>) -> Option<Arc<dyn Service>> {
    match name {
        events::NAME => Some(Arc::new(events::Door::new(behind.outlet, config.sample_topic(), behind.track))),
        orders::NAME => {
            let database = orders::desk::books::database(behind.target.clone(), behind.tls, behind.sessions_max);
            let (table, inventory) = (&config.table, &config.inventory_table);
            let (topic, tells) = (&config.topic, config.events);
            Some(Arc::new(Desk::new(behind.outlet, database, topic, table, inventory, tells, behind.track)))
        }
        _ => None,
    }
}

/// The operator's rules for JSON records, where there are such.
fn json_schema(config: &config::Flow) -> Result<Option<JsonSchema>, Cause> {
    config.json_schema_file.as_deref().map(JsonSchema::read).transpose()
}

/// How many keys made-up records have at once, unless somebody says otherwise.
const KEYS_USUAL: u64 = 1000;

/// Made-up records of a flow by its name, of so many keys at once where its records have keys.
pub fn sample(flow: &str, keys: Option<u64>) -> Option<Box<dyn Sample>> {
    let keys = keys.unwrap_or(KEYS_USUAL).max(1);
    match flow {
        events::NAME => Some(Box::new(events::Happenings { users: keys })),
        orders::NAME => Some(Box::new(orders::Wishes { customers: keys })),
        status::NAME => Some(Box::new(status::Updates)),
        tickets::NAME => Some(Box::new(tickets::Journeys::new(keys))),
        _ => None,
    }
}
