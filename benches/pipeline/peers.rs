//! Contenders that are programs of their own and say themselves what they took: the Go peers, and the consumer alone.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::machine::said;
use crate::results::Load;
use crate::stage::{Settings, Stage, TABLE};

/// The last line of such a program.
#[derive(Serialize, Deserialize)]
pub struct Told {
    pub rows: u64,
    pub rows_per_s: f64,
    pub cpu_s: f64,
    pub peak_mb: f64,
}

pub struct Peers {
    programs: PathBuf,
}

impl Peers {
    /// Builds them. None, with a word on why, where that cannot be done.
    pub fn build() -> Option<Peers> {
        if said("go", &["version"]).is_none() {
            println!("There is no `go` on the PATH: the Go peers are left out.");
            return None;
        }
        let programs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("peers");
        std::fs::create_dir_all(&programs).expect("a directory");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&programs).arg("./...").stdin(Stdio::null());
        let built = build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers")).status();
        if !built.is_ok_and(|status| status.success()) {
            println!("The Go peers could not be built (above): they are left out.");
            return None;
        }
        Some(Peers { programs })
    }

    pub fn run(&self, name: &str, stage: &Stage, load: &Load, topic: &str) -> Told {
        let mut command = Command::new(self.programs.join(name));
        command.args(["-brokers", &stage.brokers, "-db", &stage.url, "-topic", topic, "-group", &stage.new_name()]);
        command.args(["-table", TABLE, "-rows", &load.rows.to_string(), "-writers", &load.writers.to_string()]);
        command.args(["-batch", &load.batch_rows.unwrap_or(crate::contenders::BATCH_ROWS).to_string()]);
        told(command)
    }
}

/// The bench itself as the contender that only consumes.
pub fn consume(settings: &Settings, rows: u64) -> Told {
    let mut command = Command::new(std::env::current_exe().expect("the bench"));
    command.args(["--consume", &rows.to_string()]).current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear().envs(settings);
    told(command)
}

fn told(mut command: Command) -> Told {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}
