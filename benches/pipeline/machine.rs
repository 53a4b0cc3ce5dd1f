//! What the numbers were measured on.

use std::fs::read_to_string;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::stage::Stage;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub kernel: String,
    /// Empty where the broker is not ours to look at.
    pub kafka: String,
    pub postgres: String,
    pub rustc: String,
    /// Empty where there is none.
    pub go: String,
    /// With a plus sign when files differ from it.
    pub commit: String,
}

impl Machine {
    pub fn look(stage: &Stage) -> Machine {
        let field = |file: &str, name: &str| {
            let text = read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let changed = said("git", &["status", "--porcelain", "--", "src", "benches", "sql", "Cargo.lock"]);
        let is_changed = changed.is_some_and(|lines| !lines.is_empty());
        Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            kafka: stage.kafka_version().unwrap_or_default(),
            postgres: stage.postgres_version(),
            rustc: said("rustc", &["--version"]).unwrap_or_default(),
            go: said("go", &["version"]).unwrap_or_default().trim_start_matches("go version ").to_owned(),
            commit: said("git", &["rev-parse", "--short=10", "HEAD"]).unwrap_or_default()
                + if is_changed { "+" } else { "" },
        }
    }

    pub fn line(&self) -> String {
        let Machine { cpu, cores, memory_gb, kernel, kafka, postgres, rustc, go, commit } = self;
        let mut line = format!("{cores} cores of {cpu}, {memory_gb} GB, Linux {kernel}, PostgreSQL {postgres}, ");
        for (name, version) in [("Kafka", kafka), ("", rustc), ("", go)] {
            if !version.is_empty() {
                line += format!("{name} {version}, ").trim_start();
            }
        }
        line + "commit " + commit
    }
}

/// What a command prints, if it can be run and succeeds.
pub fn said(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
