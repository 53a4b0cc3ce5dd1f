//! The real binary as a child process, watched from outside.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process;
use crate::results::Run;
use crate::stage::Settings;

/// Longer than any part of the bench takes.
const PATIENCE: Duration = Duration::from_secs(900);
/// The longest and the shortest pause between looks at a running program.
const LOOK_MAX: Duration = Duration::from_millis(250);
const LOOK_MIN: Duration = Duration::from_millis(3);

pub struct Program {
    child: Child,
    port: u16,
    began: Instant,
}

impl Program {
    pub fn start(settings: &Settings) -> Program {
        Program::start_with(settings, &["run"])
    }

    pub fn start_with(settings: &Settings, arguments: &[&str]) -> Program {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let mut command = command(settings, arguments);
        command.stdout(Stdio::null());
        command.env("SERVER_PORT", free.port().to_string());
        let began = Instant::now();
        Program { child: command.spawn().expect("it starts"), port: free.port(), began }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The body of an answer with status 200.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.1 200 ").then_some(text)
    }

    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics")?;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits for the first 200 of the readiness endpoint, and says how long after exec that was.
    pub fn await_ready(&self) -> Duration {
        while self.get("/health/ready").is_none() {
            self.expect_soon("ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.began.elapsed()
    }

    pub fn written(&self) -> u64 {
        self.metric("database_records_written_total").unwrap_or(0.0) as u64
    }

    /// Rows a second from the first row that it has written to the last, by its own metric; that they are all there
    /// is checked in the table afterwards. It is asked rarely, and more often towards the end: answers cost it time.
    pub fn await_rows(&self, rows: u64) -> f64 {
        self.await_applied(rows, || self.written())
    }

    /// The same of records that may become something else than a row, by another's word.
    pub fn await_applied(&self, rows: u64, applied: impl FnMut() -> u64) -> f64 {
        await_applied(rows, applied)
    }

    /// Until so many rows are written, or more.
    pub fn await_written(&self, rows: u64) {
        while self.written() < rows {
            self.expect_soon("at the last row");
            std::thread::sleep(LOOK_MAX);
        }
    }

    fn expect_soon(&self, what: &str) {
        assert!(self.began.elapsed() < PATIENCE, "the program is not {what} after {PATIENCE:?}");
    }

    pub fn cpu_s(&self) -> f64 {
        process::cpu_s(self.pid()).expect("it runs")
    }

    /// CPU time by what its threads do.
    pub fn threads_cpu_s(&self) -> BTreeMap<String, f64> {
        let mut by_work = BTreeMap::new();
        for (name, cpu_s) in process::threads_cpu_s(self.pid()) {
            *by_work.entry(work_of(&name).to_owned()).or_default() += cpu_s;
        }
        by_work
    }

    pub fn memory_peak_mb(&self) -> f64 {
        process::memory_peak_mb(self.pid()).expect("it runs")
    }

    /// Adds to a run of so many rows what the program took, and stops it.
    pub fn finish_run(self, run: &mut Run) {
        (run.cpu_s, run.threads_cpu_s) = (self.cpu_s(), self.threads_cpu_s());
        run.memory_peak_mb = Some(self.memory_peak_mb());
        run.rows_per_transaction = self.rows_per_transaction(run.rows);
        self.stop();
    }

    pub fn rows_per_transaction(&self, rows: u64) -> Option<f64> {
        self.metric("sluicegate_groups_written_total").map(|transactions| rows as f64 / transactions)
    }

    /// As an operator stops it.
    pub fn stop(self) {
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        self.await_end();
    }

    /// Until it has ended, well.
    pub fn await_end(mut self) {
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "sluicegate: {status}");
    }
}

/// Rows a second from the first look that finds some applied to the last one.
pub fn await_applied(rows: u64, mut applied: impl FnMut() -> u64) -> f64 {
    let (began, mut first) = (Instant::now(), None::<(Instant, u64)>);
    loop {
        let written = applied();
        let now = Instant::now();
        let pause = match first {
            _ if written >= rows => break,
            None if written == 0 => LOOK_MIN,
            None => {
                first = Some((now, written));
                LOOK_MAX
            }
            Some((since, before)) => {
                let share_left = (rows - written) as f64 / (written - before).max(1) as f64;
                (now - since).mul_f64(share_left.min(1.0) / 2.0).clamp(LOOK_MIN, LOOK_MAX)
            }
        };
        assert!(began.elapsed() < PATIENCE, "{written} of {rows} rows after {PATIENCE:?}");
        std::thread::sleep(pause);
    }
    let (since, before) = first.expect("seen at work: more rows than one look finds");
    (rows - before) as f64 / since.elapsed().as_secs_f64()
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const FETCHING: &str = "Kafka client: fetching";
pub const DECODING: &str = "partitions: taking, decoding, batching";
pub const WRITING: &str = "writers: COPY and the ledger";
pub const TELLING: &str = "relay: telling others";
pub const OTHER_WORK: &str = "intake, HTTP, the rest";

/// What a thread of the program does, by its name.
fn work_of(thread: &str) -> &'static str {
    match ["status-", "orders-", "events-", "tickets-", "cdc-"].iter().find_map(|flow| thread.strip_prefix(flow)) {
        Some(number) if number.parse::<u32>().is_ok() => DECODING,
        Some(writer) if writer.starts_with("writer") => WRITING,
        Some("relay") => TELLING,
        // The second one takes the broker's answers to those who published.
        None if thread.starts_with("rdk:") || thread.starts_with("producer poll") => FETCHING,
        _ => OTHER_WORK,
    }
}

fn command(settings: &Settings, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    // In a place without a .env or a sluicegate.yaml of the user's.
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear().envs(settings);
    command.stdin(Stdio::null());
    command
}

pub fn run_to_end(settings: &Settings, arguments: &[&str]) {
    let status = command(settings, arguments).stdout(Stdio::null()).status().expect("it starts");
    assert!(status.success(), "sluicegate {}: {status}", arguments.join(" "));
}
