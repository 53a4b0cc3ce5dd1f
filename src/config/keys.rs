//! Every key there is, in one table: how it is written, what it may hold, what it is without being written,
//! and which environment names set it. Reading, checking and the documentation all come from here.

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A connection URL; its password is a secret.
    Url,
    /// Comma-separated `host:port`.
    Brokers,
    /// Comma-separated files.
    Files,
    Number {
        min: u64,
        max: u64,
    },
    Flag,
    Word(&'static [&'static str]),
    /// `name: value` pairs, handed on as they are.
    Options,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub path: String,
    pub kind: Kind,
    /// None: it has to be given. An empty text: nothing.
    pub default: Option<&'static str>,
    /// Names besides the one that comes from the path.
    pub env: &'static [&'static str],
    pub help: &'static str,
}

impl Key {
    /// `kafka.brokers` is `SLUICEGATE_KAFKA_BROKERS`.
    pub fn env_name(&self) -> String {
        format!("SLUICEGATE_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// The names that may set it, the strongest first.
    pub fn env_names(&self) -> Vec<String> {
        std::iter::once(self.env_name()).chain(self.env.iter().map(|name| name.to_string())).collect()
    }
}

/// What differs from flow to flow. A flow is one line here.
struct FlowDefaults {
    name: &'static str,
    topic: &'static str,
    group_id: &'static str,
    partitions: &'static str,
    table: &'static str,
}

const FLOWS: [FlowDefaults; 1] = [FlowDefaults {
    name: "status",
    topic: "seed-status-updates",
    group_id: "postgres-inserter-group-go",
    partitions: "20",
    table: "processed_seed_status",
}];

pub fn flow_names() -> impl Iterator<Item = &'static str> {
    FLOWS.iter().map(|flow| flow.name)
}

type Row = (&'static str, Kind, Option<&'static str>, &'static [&'static str], &'static str);

const MINUTE_MS: u64 = 60_000;
const MIB: u64 = 1 << 20;

#[rustfmt::skip]
const COMMON: [Row; 14] = [
    ("kafka.brokers", Kind::Brokers, Some("localhost:9092"), &["KAFKA_BROKERS"], "where Kafka is: host:port, host:port"),
    ("kafka.options", Kind::Options, Some(""), &[], "librdkafka's own options, such as security.protocol; in the environment name=value,name=value"),
    ("postgres.url", Kind::Url, None, &["DB_URL"], "where PostgreSQL is: postgres://user:password@host:port/database?sslmode=…"),
    ("postgres.synchronous_commit", Kind::Flag, Some("true"), &[], "false: a crash of the server may take back the newest rows, with their ledger; they are read again"),
    ("postgres.lock_timeout_ms", Kind::Number { min: 100, max: 60 * MINUTE_MS }, Some("10000"), &[], "how long a statement waits for somebody else's lock before it is tried again"),
    ("postgres.claim_lock_timeout_ms", Kind::Number { min: 100, max: 60 * MINUTE_MS }, Some("3000"), &[], "how long a claim waits for a former owner before that one's session is ended"),
    ("postgres.idle_in_transaction_timeout_ms", Kind::Number { min: 1000, max: 60 * MINUTE_MS }, Some("60000"), &[], "the server ends a session of ours that is frozen inside its transaction after this"),
    ("http.host", Kind::Text, Some("0.0.0.0"), &[], "the address that HTTP listens on"),
    ("http.port", Kind::Number { min: 0, max: 65535 }, Some("8080"), &["SERVER_PORT"], "and its port; 0 takes a free one"),
    ("http.threads", Kind::Number { min: 3, max: 64 }, Some("4"), &[], "threads that answer; two of them always stay free for health and metrics"),
    ("logging.level", Kind::Word(&["off", "error", "warn", "info", "debug", "trace"]), Some("info"), &["LOG_LEVEL"], "how much is logged"),
    ("logging.format", Kind::Word(&["text", "json"]), Some("text"), &["LOG_FORMAT"], "one line of text or one JSON object a record"),
    ("shutdown_timeout_ms", Kind::Number { min: 100, max: 10 * MINUTE_MS }, Some("5000"), &[], "how long the first Ctrl-C or SIGTERM lets things drain"),
    ("look_interval_ms", Kind::Number { min: 100, max: 10 * MINUTE_MS }, Some("2000"), &[], "between looks at the end of each partition and at the ledger"),
];

#[rustfmt::skip]
const PER_FLOW: [Row; 18] = [
    ("enabled", Kind::Flag, Some("true"), &[], "whether `run` starts the flow"),
    ("topic", Kind::Text, None, &["KAFKA_TOPIC"], "the topic that it reads"),
    ("group_id", Kind::Text, None, &["KAFKA_GROUP_ID"], "the consumer group that shares the partitions"),
    ("partitions", Kind::Number { min: 1, max: 10_000 }, None, &[], "partitions of the topic when `init` makes it; also what the fetch memory is divided by"),
    ("replication_factor", Kind::Number { min: 1, max: 100 }, Some("1"), &[], "replicas of the topic when `init` makes it"),
    ("start", Kind::Word(&["earliest", "latest"]), Some("earliest"), &[], "where a partition starts that the ledger has never seen"),
    ("table", Kind::Text, None, &[], "the table that it writes; its sequence has the same name with _seq"),
    ("schema_files", Kind::Files, Some(""), &[], "further Avro schemas that producers use, for payloads that name theirs"),
    ("writers", Kind::Number { min: 1, max: 64 }, Some("4"), &[], "writer threads, each with a connection"),
    ("batch_rows_max", Kind::Number { min: 1, max: 1_000_000 }, Some("2500"), &[], "a batch of a partition closes at this many rows,"),
    ("batch_bytes_max", Kind::Number { min: 1024, max: 1 << 30 }, Some("1048576"), &[], "or at this many bytes,"),
    ("linger_ms", Kind::Number { min: 0, max: MINUTE_MS }, Some("20"), &[], "or this long after its first record"),
    ("group_rows_max", Kind::Number { min: 1, max: 10_000_000 }, Some("10000"), &[], "a writer joins waiting batches up to this many rows into one transaction"),
    ("fetch_memory_bytes", Kind::Number { min: MIB, max: 1 << 36 }, Some("33554432"), &[], "what the Kafka client may hold fetched ahead, over all partitions"),
    ("session_timeout_ms", Kind::Number { min: 1000, max: 30 * MINUTE_MS }, Some("45000"), &[], "an instance that is silent this long loses its partitions"),
    ("commit_interval_ms", Kind::Number { min: 100, max: 10 * MINUTE_MS }, Some("1000"), &[], "between advisory commits to Kafka, which only lag tools read"),
    ("revoke_grace_ms", Kind::Number { min: 0, max: MINUTE_MS }, Some("3000"), &[], "how long a partition that goes to another instance may finish what is in flight"),
    ("exactly_once", Kind::Flag, Some("true"), &[], "false only to measure what the ledger costs: a restart then writes twice"),
];

/// Backoff is one key pair for every flow: nobody tunes it per flow.
#[rustfmt::skip]
const BACKOFF: [Row; 2] = [
    ("backoff_min_ms", Kind::Number { min: 1, max: MINUTE_MS }, Some("100"), &[], "the first pause after a failure; each further one doubles"),
    ("backoff_max_ms", Kind::Number { min: 1, max: 10 * MINUTE_MS }, Some("5000"), &[], "up to this"),
];

pub fn all() -> Vec<Key> {
    let row = |(path, kind, default, env, help): Row| Key { path: path.to_owned(), kind, default, env, help };
    let mut keys: Vec<Key> = COMMON.into_iter().chain(BACKOFF).map(row).collect();
    for flow in &FLOWS {
        keys.extend(PER_FLOW.into_iter().map(|(name, kind, default, env, help)| {
            let default = match name {
                "topic" => Some(flow.topic),
                "group_id" => Some(flow.group_id),
                "partitions" => Some(flow.partitions),
                "table" => Some(flow.table),
                _ => default,
            };
            row(("", kind, default, env, help)).at(format!("flows.{}.{name}", flow.name))
        }));
    }
    keys
}

impl Key {
    fn at(self, path: String) -> Key {
        Key { path, ..self }
    }
}
