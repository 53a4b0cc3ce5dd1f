//! What the tests against real services share: a database and a topic of one's own, records whose content
//! says where they came from, instances of the real binary, and a little HTTP.
#![allow(dead_code)] // each test binary uses its own part
#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

pub mod connect;
pub mod disk;
pub mod hostile;
pub mod proxy;
pub mod random;
pub mod stream;
pub mod world;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use sluicegate::decode::avro::write::{long, text};
use sluicegate::kafka::admin;
use sluicegate::pg::{Database, SessionOptions};

pub fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: these tests need services, run `make test`"))
}

/// How long, how often, from which seed: what the longer forms of a test are told.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")),
        Err(_) => default,
    }
}

pub fn brokers() -> String {
    service("KAFKA_BROKERS")
}

/// A name that no other test, and no other run, uses.
pub fn unique(stem: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos());
    format!("{stem}_{}_{}_{nanos}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A new database on the server of `DB_URL`, and its URL.
pub fn new_database(stem: &str) -> String {
    let (url, name) = (service("DB_URL"), unique(stem));
    connect(&url).batch_execute(&format!("CREATE DATABASE \"{name}\"")).expect("a database is created");
    with_database(&url, &name)
}

fn with_database(url: &str, name: &str) -> String {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let server = rest.rsplit_once('/').expect("a URL with a database").0;
    format!("{server}/{name}?{query}")
}

pub fn connect(url: &str) -> postgres::Client {
    postgres::Client::connect(url, postgres::NoTls).expect("PostgreSQL answers")
}

/// Sessions as the program has them: how long they wait for locks, and how long a transaction of theirs may be idle.
pub fn database(url: &str, lock_timeout: Duration, idle_in_transaction_timeout: Duration) -> Database {
    database_with(url, &session_options(lock_timeout, idle_in_transaction_timeout))
}

pub fn session_options(lock_timeout: Duration, idle_in_transaction_timeout: Duration) -> SessionOptions {
    SessionOptions {
        synchronous_commit: true,
        lock_timeout,
        claim_lock_timeout: lock_timeout,
        statement_timeout: Duration::ZERO,
        idle_in_transaction_timeout,
    }
}

pub fn database_with(url: &str, options: &SessionOptions) -> Database {
    let mut config: postgres::Config = url.parse().expect("a URL");
    config.application_name("sluicegate-test");
    let tls = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).expect("TLS").build();
    Database::new(config, postgres_openssl::MakeTlsConnector::new(tls), options, 4)
}

/// Calls until it gives something, or panics after `limit` with what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Below those that the system gives to whoever does not mind, and not twice: it is for somebody who only begins to listen
/// some time later.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 50 * 100;
    let port = |_| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 5_000;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..5_000).map(port).find(is_free).expect("a free port")
}

/// One process of the program. Killed when dropped.
pub struct Instance {
    pub child: Child,
    pub port: u16,
    pub log: PathBuf,
}

impl Instance {
    pub fn start(settings: &HashMap<&str, String>) -> Instance {
        Instance::start_with(settings, &["run"])
    }

    pub fn start_with(settings: &HashMap<&str, String>, arguments: &[&str]) -> Instance {
        let port = free_port();
        let log = std::env::temp_dir().join(unique("sluicegate").replace('/', "_") + ".log");
        let file = std::fs::File::create(&log).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(arguments)
            .env_clear()
            .env("SERVER_PORT", port.to_string())
            .env("SLUICEGATE_HTTP_HOST", "127.0.0.1")
            .envs(settings)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the program starts");
        Instance { child, port, log }
    }

    pub fn signal(&self, name: &str) {
        assert!(self.send_signal(name), "kill -{name}");
    }

    /// The same to a process that may be gone: whether it was there. The number of one that has been waited for may be
    /// a stranger's by now.
    pub fn try_signal(&mut self, name: &str) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && self.send_signal(name)
    }

    fn send_signal(&self, name: &str) -> bool {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &self.child.id().to_string()]).stderr(Stdio::null());
        kill.status().is_ok_and(|status| status.success())
    }

    /// The most memory that it has ever held, and what it holds now.
    pub fn memory_peak_mb(&self) -> f64 {
        memory_mb(self.child.id(), "VmHWM:").expect("a process")
    }

    pub fn memory_now_mb(&self) -> f64 {
        memory_mb(self.child.id(), "VmRSS:").expect("a process")
    }

    /// SIGSTOP has reached it.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    pub fn log_tail(&self, lines_max: usize) -> String {
        tail(&self.log_text(), lines_max)
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the process to end and gives its exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let child = &mut self.child;
        let status = wait_for("the process to end", limit, || child.try_wait().expect("a child"));
        status.code()
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http(self.port, "GET", path)
    }

    pub fn post(&self, path: &str) -> Option<(u16, String)> {
        http(self.port, "POST", path)
    }

    pub fn json(&self, path: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get(path)?.1).ok()
    }

    /// The first value of a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").filter(|(status, _)| *status == 200)?;
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
    }

    /// Until it has partitions to read: one that has none is no loss to anybody.
    pub fn wait_assigned(&self) {
        let is_assigned = || self.metric("sluicegate_partitions_assigned").filter(|count| *count > 0.0);
        wait_for("partitions", Duration::from_secs(60), is_assigned);
    }

    pub fn is_ready(&self) -> bool {
        self.get("/health/ready").is_some_and(|(status, _)| status == 200)
    }

    pub fn wait_ready(&self) {
        wait_for(&format!("readiness; log: {}", self.log.display()), Duration::from_secs(60), || {
            self.is_ready().then_some(())
        });
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the instance on port {} ---\n{}", self.port, tail(&self.log_text(), 40));
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

/// What the kernel says of a process's memory under this name.
pub fn memory_mb(pid: u32, name: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse::<f64>().ok()?;
    Some(kib / 1024.0)
}

fn tail(text: &str, lines_max: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// Status and body, or nothing where nobody answers.
pub fn http(port: u16, method: &str, path: &str) -> Option<(u16, String)> {
    http_with(port, method, path, "")
}

/// The same with a body, which is JSON.
pub fn http_with(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunk(body),
        false => body.to_owned(),
    };
    Some((status, body))
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size @ 1..) = usize::from_str_radix(size.trim(), 16) else { break };
        body.push_str(&after[..size.min(after.len())]);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    body
}

/// An update in raw Avro whose ids are its partition and a number of its own, as its offset.
pub fn update(partition: i32, offset: i64, status: &str) -> Vec<u8> {
    update_saying(partition, offset, status, &format!("record {offset} of partition {partition}"))
}

pub fn update_saying(partition: i32, offset: i64, status: &str, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    long(&mut out, 1_767_225_600_000 + offset);
    long(&mut out, 1);
    text(&mut out, message);
    text(&mut out, status);
    for id in [i64::from(partition), offset, 7, 8] {
        long(&mut out, id);
    }
    out
}

pub fn admin_client(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client")
}

/// A topic with settings of its own.
pub fn create_topic(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(60)));
    admin::wait(admin_client(brokers).create_topics([&new], &options)).expect("asked").remove(0).expect("a topic");
}

/// Says something that is seen although the test passes: the harness takes only what is printed.
pub fn loudly(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** {text}");
}

/// A service's directory of this test's own, below that of the run: cleaned with it, also when the test fails.
pub fn service_directory(stem: &str) -> String {
    format!("{}/{}", service("SLUICEGATE_RUN_DIR"), unique(stem))
}

pub fn services(arguments: &[&str]) -> String {
    services_with(&[], arguments)
}

pub fn services_with(settings: &[(&str, &str)], arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let mut command = Command::new(script);
    let output = command.args(arguments).envs(settings.iter().copied()).output().expect("scripts/services runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/services {}: {text}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
