//! PostgreSQL's words: connections, COPY, the ledger, letters. What a table means is a flow's affair.

pub mod copy;
pub mod fault;
pub mod frozen;
pub mod held;
pub mod ledger;
pub mod letters;
pub mod outbox;
pub mod search;
pub mod seen;
#[cfg(feature = "clients")]
pub mod tls;
pub mod url;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, Statement};
use r2d2_postgres::PostgresConnectionManager;

use crate::engine::Letter;
use crate::failpoint::{self, Point};
use crate::fault::Fault;
use crate::record::Partition;

#[cfg(feature = "clients")]
pub type MakeTlsConnector = postgres_openssl::MakeTlsConnector;
/// A build without the clients connects to nothing.
#[cfg(not(feature = "clients"))]
pub type MakeTlsConnector = postgres::NoTls;

/// The code of a lock that was not granted in time.
pub const LOCK_NOT_AVAILABLE: &str = "pg.55P03";
/// The code of a table that cannot be changed now: something of this transaction still waits for it.
pub const OBJECT_IN_USE: &str = "pg.55006";
/// The code of a row that refers to one that is not there, or is referred to by one that still is.
pub const FOREIGN_KEY_VIOLATION: &str = "pg.23503";
/// With NOWAIT: so many attempts, each with a longer pause after it, about a quarter of a second in all.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_micros(200);
/// Large enough for a batch of usual size to be one message. Memory: writers x 3 x this.
const COPY_PART_BYTES: usize = 1 << 20;
/// Of one session. Most flows have some ten; one that makes tables as they come has some for each.
const STATEMENTS_MAX: usize = 1_000;
/// The code of a row whose key another one has.
pub const UNIQUE_VIOLATION: &str = "pg.23505";

/// A connection that its user can declare spent: the pool then closes it.
struct Link {
    client: Client,
    is_spent: bool,
}

struct Manager(PostgresConnectionManager<MakeTlsConnector>);

impl r2d2::ManageConnection for Manager {
    type Connection = Link;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Link, postgres::Error> {
        self.0.connect().map(|client| Link { client, is_spent: false })
    }

    fn is_valid(&self, link: &mut Link) -> Result<(), postgres::Error> {
        self.0.is_valid(&mut link.client)
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.is_spent || self.0.has_broken(&mut link.client)
    }
}

/// How every session of ours is set up, whatever the defaults of its database.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// False trades durability delay for speed, never correctness: rows and ledger are lost or kept together.
    pub synchronous_commit: bool,
    pub lock_timeout: Duration,
    /// Zero is none.
    pub statement_timeout: Duration,
    /// For claims: whoever holds a partition longer than this is taken for frozen.
    pub claim_lock_timeout: Duration,
    /// A session of ours that is frozen inside its transaction is ended by the server after this.
    pub idle_in_transaction_timeout: Duration,
}

impl SessionOptions {
    fn statements(&self) -> String {
        format!(
            "SET client_encoding = 'UTF8'; SET default_transaction_isolation = 'read committed';
             SET statement_timeout = {}; SET synchronous_commit = {}; SET lock_timeout = {};
             SET idle_in_transaction_session_timeout = {}",
            self.statement_timeout.as_millis(),
            if self.synchronous_commit { "on" } else { "off" },
            self.lock_timeout.as_millis(),
            self.idle_in_transaction_timeout.as_millis(),
        )
    }
}

/// A bounded pool of sessions.
#[derive(Clone)]
pub struct Database {
    pool: r2d2::Pool<Manager>,
    last_error: LastError,
    options: SessionOptions,
}

impl Database {
    /// Connects when a session is first asked for, so that a server that is down is a fault like any other.
    pub fn new(config: Config, tls: MakeTlsConnector, options: &SessionOptions, sessions_max: u32) -> Self {
        let last_error = LastError::default();
        let pool = r2d2::Pool::builder()
            .max_size(sessions_max)
            .min_idle(Some(0))
            // Writers keep their session, and find out by using it whether it lives.
            .test_on_check_out(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_timeout(Duration::from_secs(3))
            .error_handler(Box::new(last_error.clone()))
            .connection_customizer(Box::new(SetUp(options.statements())))
            .build_unchecked(Manager(PostgresConnectionManager::new(config, tls)));
        Database { pool, last_error, options: options.clone() }
    }

    /// Sessions that are open, in use or not.
    pub fn sessions_open(&self) -> u32 {
        self.pool.state().connections
    }

    /// Whether a commit waits for the disk.
    pub fn is_synchronous(&self) -> bool {
        self.options.synchronous_commit
    }

    pub fn session(&self) -> Result<Session, Fault> {
        self.session_within(self.pool.connection_timeout())
    }

    /// A session that has just answered, for whoever has somebody waiting: one that died while nobody used it is
    /// replaced, and a server that is away is a fault after about `wait`.
    pub fn live_session(&self, wait: Duration) -> Result<Session, Fault> {
        let by = Instant::now() + wait;
        loop {
            let mut session = self.session_within(by.saturating_duration_since(Instant::now()))?;
            if session.link.client.is_valid(wait).is_ok() {
                return Ok(session);
            }
            session.link.is_spent = true;
            // The client waits for its server even to take leave, which one that hangs never gives.
            let end = thread::Builder::new().name("pg-discard".into()).spawn(move || drop(session));
            end.map_err(|error| Fault::retry("pg.connection", error.to_string()))?;
        }
    }

    fn session_within(&self, wait: Duration) -> Result<Session, Fault> {
        match self.pool.get_timeout(wait) {
            Ok(link) => Ok(Session { link, statements: HashMap::new(), tally: Tally::default() }),
            // The pool only knows that it waited in vain; why is what its manager said last.
            Err(timeout) => {
                let text = self.last_error.take().unwrap_or_else(|| timeout.to_string());
                Err(Fault::retry("pg.connection", text))
            }
        }
    }
}

#[derive(Debug)]
struct SetUp(String);

impl r2d2::CustomizeConnection<Link, postgres::Error> for SetUp {
    fn on_acquire(&self, link: &mut Link) -> Result<(), postgres::Error> {
        link.client.batch_execute(&self.0)
    }
}

#[derive(Clone, Debug, Default)]
struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl r2d2::HandleError<postgres::Error> for LastError {
    fn handle_error(&self, error: postgres::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault::of(&error).into_cause().text);
    }
}

/// One connection, with the statements that it has prepared.
pub struct Session {
    link: r2d2::PooledConnection<Manager>,
    statements: HashMap<String, Statement>,
    tally: Tally,
}

/// What a transaction says of itself, for people. It counts once the transaction is committed.
#[derive(Debug, Default)]
pub struct Tally {
    /// Spent in `Work::lock`.
    pub lock_wait: Duration,
    /// Spent on the commit, however it ended.
    pub commit: Duration,
    counts: Counts,
    /// Of its letters, where the log would have them.
    lines: Vec<letters::Line>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    outcomes: BTreeMap<&'static str, u64>,
    letters: BTreeMap<String, u64>,
}

impl Tally {
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.outcomes.iter().map(|(outcome, count)| (*outcome, *count))
    }

    /// Letters by the code of their reason.
    pub fn letters(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.letters.iter().map(|(code, count)| (code.as_str(), *count))
    }

    pub fn lines(&self) -> &[letters::Line] {
        &self.lines
    }
}

/// A transaction that is open, or a savepoint in one. Dropped before it is done, it goes with all that was counted in it.
struct Level<'a> {
    client: &'a mut Client,
    tally: &'a mut Tally,
    /// Of the savepoints around it.
    depth: usize,
    /// What was counted before it, and how many lines there were.
    before: Option<(Counts, usize)>,
    is_done: bool,
}

impl<'a> Level<'a> {
    fn open(client: &'a mut Client, tally: &'a mut Tally, depth: usize) -> Result<Self, Fault> {
        let begin = if depth == 0 { "BEGIN".to_owned() } else { format!("SAVEPOINT level_{depth}") };
        client.batch_execute(&begin).map_err(|error| fault::of(&error))?;
        let before = (depth > 0).then(|| (tally.counts.clone(), tally.lines.len()));
        Ok(Level { client, tally, depth, before, is_done: false })
    }

    fn commit(mut self) -> Result<(), Fault> {
        let depth = self.depth;
        let commit = if depth == 0 { "COMMIT".to_owned() } else { format!("RELEASE level_{depth}") };
        let began = Instant::now();
        // If it fails, the whole transaction has.
        self.is_done = true;
        let done = self.client.batch_execute(&commit).map_err(|error| fault::of(&error));
        self.tally.commit = began.elapsed();
        done
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Some((counts, lines)) = self.before.take() {
            self.tally.counts = counts;
            self.tally.lines.truncate(lines);
        }
        let depth = self.depth;
        // To go back to a savepoint leaves it open. Whatever is tried next would be inside of it, with a lock of its own each,
        // and what is written behind it would not be known by the transaction's number.
        let back = if depth == 0 {
            "ROLLBACK".to_owned()
        } else {
            format!("ROLLBACK TO level_{depth}; RELEASE level_{depth}")
        };
        // Where that fails, so does what comes next: the transaction is aborted, or the connection has ended.
        let _ = self.client.batch_execute(&back);
    }
}

impl Session {
    /// A transaction. Dropped without `commit`, it is rolled back.
    pub fn begin(&mut self) -> Result<Work<'_>, Fault> {
        self.tally = Tally::default();
        let level = Level::open(&mut self.link.client, &mut self.tally, 0)?;
        Ok(Work { level, statements: &mut self.statements })
    }

    /// One transaction. A session in which it fails is not used again: it may be one that can only read since a fail-over.
    pub fn work<T>(mut self, ask: impl FnOnce(&mut Work<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let answer = self.attempt(ask);
        if answer.is_err() {
            self.discard();
        }
        answer
    }

    /// The same for whoever has something to ask in it even then.
    pub fn attempt<T>(&mut self, ask: impl FnOnce(&mut Work<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut work = self.begin()?;
        let answer = ask(&mut work)?;
        work.commit().map(|()| answer)
    }

    /// Of the newest transaction.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Closes the connection, in place of giving it back for others to use.
    pub fn discard(mut self) {
        self.link.is_spent = true;
    }
}

/// A transaction under way.
pub struct Work<'a> {
    level: Level<'a>,
    statements: &'a mut HashMap<String, Statement>,
}

impl Work<'_> {
    /// A transaction inside this one: a savepoint.
    pub fn begin(&mut self) -> Result<Work<'_>, Fault> {
        let Level { client, tally, depth, .. } = &mut self.level;
        Ok(Work { level: Level::open(client, tally, *depth + 1)?, statements: self.statements })
    }

    /// Inside another one, which may be rolled back whatever becomes of this.
    pub fn is_inner(&self) -> bool {
        self.level.depth > 0
    }

    pub fn commit(self) -> Result<(), Fault> {
        self.level.commit()
    }

    /// Runs statements without parameters.
    pub fn run(&mut self, sql: &str) -> Result<(), Fault> {
        self.level.client.batch_execute(sql).map_err(|error| fault::of(&error))
    }

    pub fn query(
        &mut self,
        sql: &str,
        values: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<Vec<postgres::Row>, Fault> {
        let statement = self.prepared(sql)?;
        self.level.client.query(&statement, values).map_err(|error| fault::of(&error))
    }

    /// A query that locks rows others want too. How long it waits is measured.
    pub fn lock(
        &mut self,
        sql: &str,
        values: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<Vec<postgres::Row>, Fault> {
        let began = Instant::now();
        let rows = self.query(sql, values);
        self.level.tally.lock_wait += began.elapsed();
        rows
    }

    /// The same of a query with NOWAIT: it is asked again and again, with longer and longer pauses.
    pub fn lock_nowait(
        &mut self,
        sql: &str,
        values: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<Vec<postgres::Row>, Fault> {
        let began = Instant::now();
        let mut attempt = 1;
        let rows = loop {
            // A query that failed takes its transaction with it: each has a savepoint of its own.
            let mut inner = self.begin()?;
            match inner.query(sql, values) {
                Ok(rows) => break inner.commit().map(|()| rows),
                Err(fault) if fault.cause().code == LOCK_NOT_AVAILABLE && attempt < LOCK_ATTEMPTS => {
                    drop(inner);
                    thread::park_timeout(LOCK_PAUSE * attempt);
                    attempt += 1;
                }
                Err(fault) => break Err(fault),
            }
        };
        self.level.tally.lock_wait += began.elapsed();
        rows
    }

    /// So many more records came to this. A word that begins with `rejected` is not what their senders hoped for.
    pub fn count(&mut self, outcome: &'static str, records: u64) {
        if records > 0 {
            *self.level.tally.counts.outcomes.entry(outcome).or_default() += records;
        }
    }

    /// One more letter.
    pub fn count_letter(&mut self, partition: &Partition, letter: &Letter) {
        let Tally { counts, lines, .. } = &mut *self.level.tally;
        *counts.letters.entry(letter.reason.code.clone().into_owned()).or_default() += 1;
        if log::log_enabled!(log::Level::Debug) {
            lines.push(letters::Line::of(partition, letter, letter.reason.clone()));
        }
    }

    /// How many rows it touched.
    pub fn execute(&mut self, sql: &str, values: &[&(dyn postgres::types::ToSql + Sync)]) -> Result<u64, Fault> {
        let statement = self.prepared(sql)?;
        self.level.client.execute(&statement, values).map_err(|error| fault::of(&error))
    }

    /// A statement whose parameters are encoded already, each in the binary form of its type.
    pub fn call(&mut self, sql: &str, types: &[Type], values: &[Option<&[u8]>]) -> Result<u64, Fault> {
        let statement = self.prepared_as(sql, types)?;
        encoded(values, |values| self.level.client.execute(&statement, values)).map_err(|error| fault::of(&error))
    }

    /// The same of a query.
    pub fn ask(&mut self, sql: &str, types: &[Type], values: &[Option<&[u8]>]) -> Result<Vec<postgres::Row>, Fault> {
        let statement = self.prepared_as(sql, types)?;
        encoded(values, |values| self.level.client.query(&statement, values)).map_err(|error| fault::of(&error))
    }

    /// One binary COPY of joined buffers. The client copies a message twice on its way and the server takes no more
    /// than one GiB of it: large buffers go in parts.
    pub fn copy(&mut self, sql: &str, buffers: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<u64, Fault> {
        let statement = self.prepared(sql)?;
        let mut writer = self.level.client.copy_in(&statement).map_err(|error| fault::of(&error))?;
        let write = |writer: &mut postgres::CopyInWriter<'_>, bytes: &[u8]| {
            writer.write_all(bytes).map_err(|error| of_io(&error))
        };
        write(&mut writer, copy::HEADER)?;
        for buffer in buffers {
            for part in buffer.as_ref().chunks(COPY_PART_BYTES) {
                write(&mut writer, part)?;
            }
            failpoint::reach(Point::InCopy)?;
        }
        write(&mut writer, copy::TRAILER)?;
        writer.finish().map_err(|error| fault::of(&error))
    }

    fn prepared(&mut self, sql: &str) -> Result<Statement, Fault> {
        self.prepared_as(sql, &[])
    }

    /// Types that are not given PostgreSQL finds out by itself.
    fn prepared_as(&mut self, sql: &str, types: &[Type]) -> Result<Statement, Fault> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() == STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.level.client.prepare_typed(sql, types).map_err(|error| fault::of(&error))?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// A value in the binary form of its type.
#[derive(Debug)]
struct Encoded<'a>(Option<&'a [u8]>);

/// Values as the client takes them.
fn encoded<T>(values: &[Option<&[u8]>], give: impl FnOnce(&[&(dyn ToSql + Sync)]) -> T) -> T {
    let values: Vec<Encoded<'_>> = values.iter().map(|value| Encoded(*value)).collect();
    give(&values.iter().map(|value| value as &(dyn ToSql + Sync)).collect::<Vec<_>>())
}

impl ToSql for Encoded<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.map_or(Ok(IsNull::Yes), |bytes| {
            out.extend_from_slice(bytes);
            Ok(IsNull::No)
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// `CopyInWriter` hides the server's error inside an `io::Error`.
fn of_io(error: &std::io::Error) -> Fault {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<postgres::Error>()) {
        Some(error) => fault::of(error),
        None => Fault::retry("pg.connection", error.to_string()),
    }
}

/// A table, column or sequence name as PostgreSQL takes it literally. `schema.table` is two names.
pub fn quoted(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}
