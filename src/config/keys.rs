//! The table of keys: everything that can be configured, each once. Reading, checking, showing and
//! `docs/CONFIG.md` all follow from it. A key that is not here does not exist.
//!
//! A flow is one entry of `FLOWS`: the keys that every flow has, with this flow's defaults, and its own.

use std::sync::LazyLock;

use super::handlers::path;
use super::kind::{
    Kind, broker, collector, column_name, extra, host, mask, not_empty, pattern, regex, sqlstate, table,
    table_template, topic,
};
use super::options;

/// What counts when nobody says anything.
pub enum Fallback {
    /// As it would be written in the environment.
    Is(&'static str),
    /// There is nothing sensible: the operator has to say.
    Required,
    /// Nothing is a valid answer.
    Unset,
}

/// One line of the table, as declared.
struct Row {
    path: &'static str,
    kind: Kind,
    default: Fallback,
    /// The names that the replaced systems gave it, the first one set wins.
    env: &'static [&'static str],
    help: &'static str,
}

const fn row(
    path: &'static str,
    kind: Kind,
    default: Fallback,
    env: &'static [&'static str],
    help: &'static str,
) -> Row {
    Row { path, kind, default, env, help }
}

use Fallback::{Is, Required, Unset};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const MIB: u64 = 1 << 20;

#[rustfmt::skip]
const SHARED: &[Row] = &[
    row("kafka.brokers", Kind::List(broker), Is("localhost:9092"), &["KAFKA_BROKERS", "CDC_KAFKA_BOOTSTRAP_SERVERS"],
        "Brokers to start from, host:port each."),
    row("kafka.options", Kind::Map(options::rule), Is(""), &[],
        "Passed to librdkafka as they are, for TLS, SASL and tuning. What sluicegate sets itself is refused."),
    row("kafka.request_timeout_ms", Kind::Millis { min: 100, max: 10 * MINUTE }, Is("10000"), &[],
        "How long a question to the brokers about topics, offsets or groups may take."),
    row("postgres.url", Kind::Url, Required, &["DB_URL"],
        "Where the tables are. `sslmode` is disable, prefer, require, verify-ca or verify-full; `sslrootcert`, `sslcert` and `sslkey` name PEM files."),
    row("postgres.host", Kind::Text(host), Unset, &["CDC_POSTGRES_HOST"],
        "Where there is no URL: its parts. A URL and parts that say something else are an error."),
    row("postgres.port", Kind::Integer { min: 1, max: 65535 }, Unset, &["CDC_POSTGRES_PORT"],
        "Of these parts; 5432 where nothing is said."),
    row("postgres.database", Kind::Text(not_empty), Unset, &["CDC_POSTGRES_DATABASE"],
        "Of these parts."),
    row("postgres.user", Kind::Text(not_empty), Unset, &["CDC_POSTGRES_USER"],
        "Of these parts."),
    row("postgres.password", Kind::Text(not_empty), Unset, &["CDC_POSTGRES_PASSWORD", "PGPASSWORD"],
        "Used when the URL has no password."),
    row("postgres.connections_max", Kind::Integer { min: 3, max: 1000 }, Is("50"), &[],
        "The most connections open at once. At least the writers of all enabled flows, five more for each, and one. With less than eleven for each and four, those who call over HTTP wait for each other."),
    row("postgres.connect_timeout_ms", Kind::Millis { min: 100, max: 10 * MINUTE }, Is("5000"), &[],
        "How long opening one connection may take. `connect_timeout` in the URL wins."),
    row("postgres.lock_timeout_ms", Kind::Millis { min: 100, max: 10 * MINUTE }, Is("10000"), &[],
        "How long a statement waits for a row lock before its transaction is tried again."),
    row("postgres.statement_timeout_ms", Kind::Millis { min: 0, max: 24 * HOUR }, Is("60000"), &[],
        "How long one statement may take on the server; 0 is no limit."),
    row("postgres.idle_in_transaction_timeout_ms", Kind::Millis { min: 1000, max: 24 * HOUR }, Is("60000"), &[],
        "After this long without a word from a frozen program the server ends its transaction and frees its locks. One that is frozen in the middle of a COPY is ended by other instances, after this and `statement_timeout_ms` together."),
    row("postgres.tcp_user_timeout_ms", Kind::Millis { min: 1000, max: HOUR }, Is("30000"), &[],
        "After this long without an answer a connection counts as dead. `tcp_user_timeout` in the URL wins."),
    row("http.host", Kind::Text(host), Is("127.0.0.1"), &[],
        "Address to listen on. 0.0.0.0 opens it to the network; nothing on it asks for a password."),
    row("http.enabled", Kind::Bool, Is("true"), &["CDC_METRICS_ENABLED"],
        "Whether anything listens. Off, there is no health, and there are no metrics."),
    row("http.port", Kind::Integer { min: 0, max: 65535 }, Is("8080"), &["SERVER_PORT", "METRICS_PORT", "CDC_METRICS_PORT"],
        "Port for health, tracking and metrics; 0 takes any free one. `produce --serve` listens on 2112 where nothing is said here."),
    row("logging.level", Kind::Level, Is("info"), &["LOG_LEVEL", "CDC_LOG_LEVEL"],
        "The least important messages to log, to standard error. WARNING and CRITICAL are taken for warn and error."),
    row("logging.file", Kind::Text(not_empty), Unset, &[],
        "A file that gets the same lines, at its end; it and its folder are made. Nothing turns it over: logrotate with copytruncate does."),
    row("logging.format", Kind::Word(&["text", "json"]), Is("text"), &["LOG_FORMAT"],
        "Lines for people, or one JSON object a line."),
    row("lag.groups", Kind::List(not_empty), Is(""), &[],
        "Consumer groups of others that `run` exports the lag of, each looked at every 15 seconds."),
    row("tracing.otlp_endpoint", Kind::Text(collector), Unset, &[],
        "A collector of OpenTelemetry that gets spans as JSON over HTTP, such as http://localhost:4318. Without it there are none."),
    row("tracing.sample_ratio", Kind::Ratio, Is("0.01"), &[],
        "How many of the batches it is told of."),
    row("shutdown_timeout_ms", Kind::Millis { min: 100, max: HOUR }, Is("5000"), &[],
        "How long the first signal may drain what is in flight. A second signal exits at once."),
];

/// What every flow has, below `flows.NAME`. A `Required` here must be given by each entry of `FLOWS`.
#[rustfmt::skip]
const COMMON: &[Row] = &[
    row("enabled", Kind::Bool, Is("true"), &[],
        "Whether `run` starts it. `--flow` on the command line wins."),
    row("topic", Kind::Text(topic), Required, &[],
        "Topic to read."),
    row("partitions", Kind::Integer { min: 1, max: 10_000 }, Is("20"), &[],
        "Partitions of the topic when it has to be created. At least as many as it has: so many share fetch_memory_bytes."),
    row("replication_factor", Kind::Integer { min: 1, max: 100 }, Is("1"), &[],
        "Copies of each partition when the topic has to be created."),
    row("group_id", Kind::Text(not_empty), Required, &[],
        "Consumer group. Instances with the same one share the partitions."),
    row("start", Kind::Word(&["earliest", "latest"]), Is("earliest"), &[],
        "Where a partition starts that has no row in the ledger."),
    row("table", Kind::Text(table), Required, &[],
        "Table to write, created when missing."),
    row("writers", Kind::Integer { min: 1, max: 64 }, Is("4"), &[],
        "Writer threads, one connection each."),
    row("batch_rows_max", Kind::Integer { min: 1, max: 1_000_000 }, Is("2500"), &[],
        "A batch of one partition closes at this many rows,"),
    row("batch_bytes_max", Kind::Bytes { min: 1024, max: 1024 * MIB }, Is("1048576"), &[],
        "or at this size,"),
    row("batch_memory_bytes", Kind::Bytes { min: MIB, max: 64 * 1024 * MIB }, Is("268435456"), &[],
        "or at its partition's share of this, which is the memory for two batches of each partition that the process has,"),
    row("linger_ms", Kind::Millis { min: 0, max: MINUTE }, Is("20"), &[],
        "or this long after its first record, once the batch before it is written."),
    row("group_rows_max", Kind::Integer { min: 1, max: 10_000_000 }, Is("10000"), &[],
        "A writer joins waiting batches into one transaction up to this many rows. At least batch_rows_max."),
    row("rate_max_per_s", Kind::Integer { min: 0, max: 1_000_000 }, Is("0"), &[],
        "No more records a second are taken by this process, all partitions together, but for a burst of 100 ms; 0 is no limit."),
    row("fetch_memory_bytes", Kind::Bytes { min: MIB, max: 64 * 1024 * MIB }, Is("33554432"), &[],
        "Memory for records fetched ahead, divided over the partitions; at least 64 KiB each, and one producer's batch beyond."),
    row("session_timeout_ms", Kind::Millis { min: 1000, max: HOUR }, Is("45000"), &[],
        "After this long without a heartbeat the group gives the partitions to somebody else."),
    row("commit_interval_ms", Kind::Millis { min: 10, max: HOUR }, Is("1000"), &[],
        "Between commits of offsets to Kafka. They are for onlookers: positions come from the ledger."),
    row("revoke_grace_ms", Kind::Millis { min: 0, max: 10 * MINUTE }, Is("3000"), &[],
        "How long a partition that goes to another instance may finish what is in flight. Under session_timeout_ms."),
    row("backoff_min_ms", Kind::Millis { min: 1, max: HOUR }, Is("100"), &[],
        "First pause before trying again when PostgreSQL or Kafka is away,"),
    row("backoff_max_ms", Kind::Millis { min: 1, max: HOUR }, Is("5000"), &[],
        "and the longest. At least backoff_min_ms."),
    row("synchronous_commit", Kind::Bool, Is("true"), &[],
        "Wait until each transaction is on disk. Off, a crash of the server repeats the last moment: nothing is lost or doubled."),
    row("exactly_once", Kind::Bool, Is("true"), &[],
        "Keep the ledger. Off is for measuring what it costs: a crash then loses or doubles records."),
];

/// Of every flow that reads JSON.
const JSON_SCHEMA_FILE: Row = row(
    "json_schema_file",
    Kind::Text(not_empty),
    Unset,
    &[],
    "JSON Schema that each record has to keep, beside what the flow itself asks for; schema/ has one for each flow. A record that does not is a letter.",
);

/// A flow's answers to the common keys and the keys that only it has.
struct FlowRow {
    name: &'static str,
    /// Common keys that it has not.
    without: &'static [&'static str],
    defaults: &'static [(&'static str, &'static str)],
    env: &'static [(&'static str, &'static [&'static str])],
    own: &'static [Row],
}

#[rustfmt::skip]
const FLOWS: &[FlowRow] = &[
    FlowRow {
        name: "cdc",
        without: &["topic", "table", "replication_factor"],
        // An event with its schema is some KiB, and of many topics one is being caught up with. A change costs PostgreSQL ten
        // times a row of a COPY, and less beside others of its page: a batch is large where there is much to catch up with, is
        // worth a transaction of its own, and waits for no other.
        defaults: &[
            ("enabled", "false"),
            ("group_id", "cdc_consumer"),
            ("fetch_memory_bytes", "134217728"),
            ("batch_rows_max", "100000"),
            ("batch_bytes_max", "33554432"),
            ("group_rows_max", "100000"),
        ],
        env: &[("group_id", &["CDC_KAFKA_GROUP_ID"])],
        own: &[
            row("topics", Kind::List(pattern), Is("cdc.public.*"), &[],
                "Topics to read, by name or by pattern; a pattern has at least one of * + ? ( ) [ ] { } | ^ $ and is meant for the whole name. Topics that are made later are found within seconds."),
            row("table_name", Kind::Text(table_template), Is("{schema}.{table}"), &[],
                "Target of a source table. {server}, {database}, {schema} and {table} are filled in; the dot parts schema and table."),
            row("table_pattern", Kind::Text(regex), Unset, &[],
                "A pattern for the whole of schema.table at the source,"),
            row("table_replacement", Kind::Text(not_empty), Is("$0"), &[],
                "and what it becomes before table_name is filled in; $1 is its first group."),
            row("table_case", Kind::Word(&["keep", "snake"]), Is("keep"), &[],
                "`snake` makes small letters and underscores of the names of tables and columns."),
            row("tables_include", Kind::List(regex), Is(""), &[],
                "Patterns for schema.table at the source; none takes all,"),
            row("tables_exclude", Kind::List(regex), Is(""), &[],
                "but for those that these name."),
            row("columns_include", Kind::List(regex), Is(""), &[],
                "Patterns for schema.table.column at the source; none takes all,"),
            row("columns_exclude", Kind::List(regex), Is(""), &[],
                "but for those that these name."),
            row("columns_rename", Kind::Map(column_name), Is(""), &[],
                "schema.table.column=name"),
            row("columns_mask", Kind::Map(mask), Is(""), &[],
                "A pattern for schema.table.column and what is written in place of its values: null, hash, or text:WORDS."),
            row("mask_salt", Kind::Text(not_empty), Unset, &[],
                "What is put before a value that is hashed, so that nobody can guess it by hashing."),
            row("key_columns", Kind::Map(column_name), Is(""), &[],
                "schema.table=column+column: what tells its rows apart, in place of the record's key; none for rows that nothing does."),
            row("keyless", Kind::Word(&["mirror", "append"]), Is("mirror"), &[],
                "Rows that nothing tells apart: `mirror` changes the one that was as REPLICA IDENTITY FULL says, `append` adds a row for each change."),
            row("truncate", Kind::Bool, Is("true"), &[],
                "Whether a TRUNCATE at the source empties the target."),
            row("soft_delete", Kind::Text(not_empty), Unset, &[],
                "A column that says that a row is deleted, in place of deleting it."),
            row("extra_columns", Kind::Map(extra), Is("lsn=__lsn"), &[],
                "What is kept beside each row: op, source_time, lsn, topic, partition or offset, each with its column. By lsn no row goes back, whatever is sent again; without it only the ledger guards."),
            row("gone_keep_ms", Kind::Millis { min: MINUTE, max: 365 * 24 * HOUR }, Is("604800000"), &[],
                "How long it is known of a deleted row that it was, so that an older change does not bring it back. Some 100 bytes each."),
            row("evolve", Kind::Bool, Is("true"), &[],
                "Make tables and columns that are missing, and widen types where that is safe. Off, such records are set aside."),
            row("foreign_keys", Kind::Word(&["check", "replica"]), Is("check"), &[],
                "Topics come in any order. `replica` does not check foreign keys of the target, and fires no triggers; the role must be allowed to set session_replication_role."),
            row("parent_wait_ms", Kind::Millis { min: 0, max: HOUR }, Is("10000"), &[],
                "How long a row whose foreign key finds no row yet waits, its partition with it, for other partitions to bring that one, before it is set aside. 0: not at all."),
            row("name_rules", Kind::Bool, Is("true"), &[],
                "In payloads without a schema: price, amount and total are decimals in base64, *_at is microseconds, __deleted is true or false."),
            row("decimal_scale", Kind::Integer { min: 0, max: 1000 }, Is("2"), &[],
                "Digits behind the point of those decimals."),
            row("binary_mode", Kind::Word(&["bytes", "base64", "base64-url-safe", "hex"]), Is("bytes"), &[],
                "The connector's binary.handling.mode: how a text holds what goes into a bytea column."),
            row("time_precision", Kind::Word(&["adaptive", "adaptive_time_microseconds", "connect", "microseconds", "nanoseconds", "isostring"]), Is("adaptive"), &[],
                "Its time.precision.mode: what a number counts that goes into a column of time and has no schema."),
            row("decimal_mode", Kind::Word(&["precise", "string", "double"]), Is("precise"), &[],
                "Its decimal.handling.mode: how a text without a schema holds what goes into a numeric column."),
            row("unavailable_value", Kind::Text(not_empty), Is("__debezium_unavailable_value"), &[],
                "The connector's unavailable.value.placeholder: the column keeps what it has."),
            row("continue_on_error", Kind::Bool, Is("true"), &[],
                "Set a record aside that cannot be applied. Off, its partition halts."),
        ],
    },
    FlowRow {
        name: "events",
        without: &[],
        defaults: &[
            ("enabled", "false"), ("topic", "events"), ("partitions", "3"), ("group_id", "event-processor-group"),
            ("table", "events"), ("writers", "5"),
        ],
        env: &[
            ("topic", &["KAFKA_CONSUMER_TOPIC"]), ("group_id", &["KAFKA_CONSUMER_GROUP_ID"]),
            ("writers", &["KAFKA_CONSUMER_WORKERS"]),
        ],
        own: &[
            JSON_SCHEMA_FILE,
            row("handlers", Kind::Handlers, Is(""), &[],
                "What is done with each record, in this order; docs/OPERATING.md has the kinds. None is one: a row of the table."),
            row("message_id", Kind::List(path), Is("@headers/message_id,@headers/message-id"), &[],
                "Where a message has its id: @headers/NAME or a JSON pointer. The first that has a value counts."),
            row("dedupe", Kind::Bool, Is("true"), &[],
                "Process a message once, however often it was sent. Messages without an id are not compared."),
            row("dedupe_window_ms", Kind::Millis { min: 1000, max: 30 * 24 * HOUR }, Is("3600000"), &[],
                "How long an id is remembered,"),
            row("dedupe_ids_max", Kind::Integer { min: 1000, max: 100_000_000 }, Is("1000000"), &[],
                "and how many are, at most. Each takes 16 bytes in the database and up to 55 in memory."),
            row("retry_max", Kind::Integer { min: 0, max: 20 }, Is("3"), &["KAFKA_CONSUMER_RETRY_MAX"],
                "How often a record is tried again that fails for now; it then goes the way of those that fail for good."),
            row("retry_topic_prefix", Kind::Text(topic), Is("events-retry"), &["KAFKA_RETRY_TOPIC_PREFIX"],
                "Topics in which such records wait, followed by -1, -2 and so on: one for each attempt."),
            row("dlq_topic", Kind::Text(topic), Is("events-dlq"), &["KAFKA_DLQ_TOPIC"],
                "Records that fail for good, with their history in headers."),
            row("retry_delay_ms", Kind::Millis { min: 0, max: 24 * HOUR }, Is("1000"), &[],
                "Before the first further attempt,"),
            row("retry_delay_factor", Kind::Integer { min: 1, max: 100 }, Is("5"), &[],
                "and so many times longer before each one after it,"),
            row("retry_jitter_percent", Kind::Integer { min: 0, max: 100 }, Is("20"), &[],
                "each of these up to so much shorter, so that what failed together comes back spread out."),
            row("producer_topic", Kind::Text(topic), Is("events"), &["KAFKA_PRODUCER_TOPIC"],
                "Where `produce events` and `POST /events` send."),
            row("producer_acks", Kind::Word(&["all", "1", "0"]), Is("all"), &["KAFKA_PRODUCER_ACKS"],
                "Which copies a made-up record has to reach before it counts as sent: all, the leader's, or none."),
            row("producer_retries", Kind::Integer { min: 0, max: 1_000_000 }, Is("3"), &["KAFKA_PRODUCER_RETRIES"],
                "How often it is sent again, with growing pauses,"),
            row("producer_idempotent", Kind::Bool, Is("true"), &["KAFKA_PRODUCER_IDEMPOTENT"],
                "and whether the broker drops what came twice by that. Needs acks from all and at least one retry."),
            row("ordering", Kind::Word(&["any", "key"]), Is("any"), &[],
                "`key`: a record that waits to be tried again holds back later ones of its own key, and no others."),
            row("transient_sqlstates", Kind::List(sqlstate), Is("40001,40P01,55P03,57014"), &[],
                "What a statement of a handler may say of a record that is to be tried again."),
            row("fetch_min_bytes", Kind::Bytes { min: 1, max: 100 * MIB }, Is("1024"), &["KAFKA_CONSUMER_FETCH_MIN_BYTES"],
                "The broker answers a fetch with at least this, or after 40 ms."),
            row("fetch_max_bytes", Kind::Bytes { min: 1_000_000, max: 95 * MIB }, Is("10485760"), &["KAFKA_CONSUMER_FETCH_MAX_BYTES"],
                "And with no more than this, but for a record that is larger."),
        ],
    },
    FlowRow {
        name: "orders",
        without: &[],
        defaults: &[
            ("enabled", "false"), ("topic", "orders-placed"), ("partitions", "50"), ("group_id", "order-processors"),
            ("table", "orders"),
        ],
        env: &[],
        own: &[
            JSON_SCHEMA_FILE,
            row("inventory_table", Kind::Text(table), Is("inventory"), &[],
                "Table of the stock, created with ten products when missing."),
            row("buckets", Kind::Integer { min: 1, max: 256 }, Is("1"), &[],
                "Rows that each product's stock is split over, so that as many transactions can reserve of it at once."),
            row("lock", Kind::Word(&["wait", "nowait"]), Is("wait"), &[],
                "Whether a transaction waits for stock that another one has locked, or fails at once and asks again."),
            row("events", Kind::Bool, Is("true"), &[],
                "Whether others are told of orders, in the three topics below."),
            row("validated_topic", Kind::Text(topic), Is("orders-validated"), &[],
                "Every order, reserved or rejected."),
            row("inventory_topic", Kind::Text(topic), Is("orders-inventory"), &[],
                "Changes of the stock."),
            row("warehouse_topic", Kind::Text(topic), Is("orders-warehouse"), &[],
                "Reserved orders, to be sent."),
        ],
    },
    FlowRow {
        name: "status",
        without: &[],
        defaults: &[
            ("topic", "seed-status-updates"), ("group_id", "postgres-inserter-group-go"), ("table", "processed_seed_status"),
        ],
        env: &[("topic", &["KAFKA_TOPIC"]), ("group_id", &["KAFKA_GROUP_ID"])],
        own: &[
            row("schema_files", Kind::List(not_empty), Is(""), &[],
                "Files with Avro schemas that writers of the topic use beside the built-in one."),
        ],
    },
    FlowRow {
        name: "tickets",
        without: &[],
        defaults: &[
            ("enabled", "false"), ("topic", "tickets"), ("partitions", "12"), ("group_id", "ticket-processor-group"),
            ("table", "tickets"),
        ],
        env: &[("group_id", &["GROUP_ID"])],
        own: &[
            JSON_SCHEMA_FILE,
            row("order_table", Kind::Text(table), Is("ticket_orders"), &[],
                "Table of where each order stands, created when missing."),
            row("on_disorder", Kind::Word(&["block", "set_aside", "accept"]), Is("block"), &[],
                "A ticket that is not the next one of its order: a letter that also stops its key, a letter, or written all the same."),
            row("on_failure", Kind::Word(&["block", "set_aside"]), Is("block"), &[],
                "A ticket that cannot be written: a letter that also stops its key until it is replayed or dropped, or only a letter."),
            row("produce_per_s", Kind::Integer { min: 0, max: 100_000 }, Is("0"), &[],
                "Made-up tickets that `run` itself sends each second, beside the flow; 0 is none. `produce` is a process for it."),
        ],
    },
];

/// A key with its full path.
pub struct Key {
    pub path: String,
    pub kind: Kind,
    pub default: Fallback,
    pub help: &'static str,
    /// The name that follows from the path, then those that the replaced systems gave.
    pub env: Vec<String>,
}

/// Names in the environment that begin so are ours, so an unknown one is a mistake.
pub const ENV_PREFIX: &str = "SLUICEGATE_";

impl Key {
    fn new(row: &Row, section: &str, default: Option<&'static str>, env: &[&str]) -> Key {
        let path = format!("{section}{}", row.path);
        let derived = format!("{ENV_PREFIX}{}", path.replace('.', "_").to_uppercase());
        let default = match (default, &row.default) {
            (Some(text), _) | (None, &Is(text)) => Is(text),
            (None, Required) => Required,
            (None, Unset) => Unset,
        };
        let env = std::iter::once(derived).chain(row.env.iter().chain(env).map(|&name| name.to_owned())).collect();
        Key { path, kind: row.kind, default, help: row.help, env }
    }

    /// What the value must never be shown for. URLs and maps hide the secret part only; see `check::shown`.
    pub fn is_secret(&self) -> bool {
        self.path.ends_with("password") || self.path.ends_with("salt")
    }
}

/// All keys, in the order of the table.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let shared = SHARED.iter().map(|row| Key::new(row, "", None, &[]));
    let flows = FLOWS.iter().flat_map(|flow| {
        let section = format!("flows.{}.", flow.name);
        let find = |path| flow.defaults.iter().find(|(leaf, _)| *leaf == path).map(|(_, text)| *text);
        let names = |path| flow.env.iter().find(|(leaf, _)| *leaf == path).map_or(&[][..], |(_, names)| *names);
        let rows = COMMON.iter().filter(|row| !flow.without.contains(&row.path)).chain(flow.own);
        rows.map(|row| Key::new(row, &section, find(row.path), names(row.path))).collect::<Vec<_>>()
    });
    shared.chain(flows).collect()
});

pub fn flows() -> impl Iterator<Item = &'static str> {
    FLOWS.iter().map(|flow| flow.name)
}

pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether something lies below this path.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known word that was probably meant. Case, hyphens and underscores do not count as differences.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let word = bare(word);
    let length = word.chars().count();
    let distance_max = length / 3;
    // What is much longer or shorter is not compared: that would take a long word's length times all of theirs.
    let is_near = |(bare, _): &(String, &str)| bare.chars().count().abs_diff(length) <= distance_max;
    let near = known.into_iter().map(|known| (bare(known), known)).filter(is_near);
    let by_distance = near.map(|(bare, known)| (strsim::damerau_levenshtein(&word, &bare), known));
    by_distance
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= distance_max)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_keeps_its_own_rule() {
        for key in KEYS.iter() {
            if let Is(text) = key.default {
                key.kind.settle(&text.into()).unwrap_or_else(|flaw| panic!("{} {}", key.path, flaw.rule));
            }
        }
    }

    #[test]
    fn no_path_and_no_name_in_the_environment_is_given_twice() {
        let mut seen = BTreeSet::new();
        for key in KEYS.iter() {
            assert!(seen.insert(key.path.clone()), "{}", key.path);
            assert!(!is_section(&key.path), "{} is a section and a key", key.path);
            for name in &key.env {
                assert!(seen.insert(name.clone()), "{name}");
            }
        }
    }

    #[test]
    fn every_flow_answers_what_is_required_and_names_only_keys_that_exist() {
        for flow in FLOWS {
            let exists = |leaf: &str| find(&format!("flows.{}.{leaf}", flow.name)).is_some();
            assert!(
                flow.defaults.iter().all(|(leaf, _)| exists(leaf)) && flow.env.iter().all(|(leaf, _)| exists(leaf))
            );
        }
        for key in KEYS.iter().filter(|key| key.path.starts_with("flows.")) {
            assert!(!matches!(key.default, Required), "{}", key.path);
        }
    }

    #[test]
    fn the_names_of_the_replaced_system_lead_to_their_keys() {
        for (name, path, default) in [
            ("KAFKA_BROKERS", "kafka.brokers", "localhost:9092"),
            ("KAFKA_TOPIC", "flows.status.topic", "seed-status-updates"),
            ("KAFKA_GROUP_ID", "flows.status.group_id", "postgres-inserter-group-go"),
            ("SERVER_PORT", "http.port", "8080"),
            ("METRICS_PORT", "http.port", "8080"),
            ("GROUP_ID", "flows.tickets.group_id", "ticket-processor-group"),
            ("SLUICEGATE_FLOWS_STATUS_BATCH_ROWS_MAX", "flows.status.batch_rows_max", "2500"),
        ] {
            let key = find(path).unwrap();
            assert!(key.env.iter().any(|known| known == name), "{name}");
            assert!(matches!(key.default, Is(text) if text == default), "{path}");
        }
        assert!(find("postgres.url").unwrap().env.contains(&"DB_URL".to_owned()));
    }

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("kafka.broker", ["kafka.brokers", "kafka.options"]), Some("kafka.brokers"));
        assert_eq!(nearest("batchRowsMax", ["batch_rows_max", "batch_bytes_max"]), Some("batch_rows_max"));
        assert_eq!(nearest("banana", ["kafka", "postgres"]), None);
        assert_eq!(nearest("", ["kafka"]), None);
    }
}
