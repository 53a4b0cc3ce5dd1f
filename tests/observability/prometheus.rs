//! A real Prometheus for as long as a test needs it, with our own configuration: its targets and its intervals are all that
//! is changed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::support::{self, unique, wait_for};

/// The exit code of `scripts/services fetch` for what can't be had on this machine.
const CANNOT: i32 = 3;

/// Whether there is one. Where there is none and none can be had, that is said, and is no failure.
pub fn is_there() -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let output = Command::new(script).args(["fetch", "prometheus"]).output().expect("scripts/services runs");
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => true,
        Some(CANNOT) => {
            support::loudly(&format!("NOT CHECKED: rules, dashboards and alerts by a real Prometheus. {said}"));
            false
        }
        code => panic!("scripts/services fetch prometheus: {code:?}: {said}"),
    }
}

pub struct Prometheus {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Prometheus {
    /// With `config`, of which the first target is the program on `target`, asked every second.
    pub fn start(config: &Path, target: u16) -> Prometheus {
        let folder = std::env::temp_dir().join(unique("prometheus"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = std::fs::read_to_string(config).expect("a configuration");
        let text = text.replace("localhost:8080", &format!("127.0.0.1:{target}"));
        let text = text.replace("_interval: 15s", "_interval: 1s");
        assert!(text.contains(&format!("[\"127.0.0.1:{target}\"]")) && text.contains("scrape_interval: 1s"), "{text}");
        std::fs::write(folder.join("prometheus.yml"), text).expect("written");
        std::fs::copy(config.with_file_name("alerts.yml"), folder.join("alerts.yml")).expect("copied");
        let port = support::free_port();
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let server = Prometheus { child, port, folder };
        let log = || std::fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        wait_for(&format!("Prometheus: {}", log()), Duration::from_secs(60), || {
            support::http(port, "GET", "/-/ready").filter(|(status, _)| *status == 200)
        });
        server
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&support::http(self.port, "GET", path)?.1).ok()
    }

    /// The series that a query gives now; an error where Prometheus does not understand it.
    pub fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        self.results(&format!("/api/v1/query?query={}", encoded(query)))
    }

    /// The same of each second of the time that is past.
    pub fn history(&self, query: &str, past: Duration) -> Vec<Value> {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let start = now - past.as_secs();
        let path = format!("/api/v1/query_range?query={}&start={start}&end={now}&step=1", encoded(query));
        self.results(&path).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    fn results(&self, path: &str) -> Result<Vec<Value>, String> {
        let answer = self.get(path).ok_or("no answer")?;
        match answer["data"]["result"].as_array() {
            Some(results) if answer["status"] == "success" => Ok(results.clone()),
            _ => Err(answer.to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn encoded(query: &str) -> String {
    query
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
