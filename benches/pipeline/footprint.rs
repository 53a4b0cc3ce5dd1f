//! What the program takes without any work: time to start, CPU and memory at rest, the size of its file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process;
use crate::program::Program;
use crate::results::{Footprint, Load};
use crate::stage::Stage;

const STARTS: usize = 5;
/// After it was ready, until all is quiet: the group has settled and every partition has been asked for once.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

pub fn measure(stage: &Stage, load: &Load) -> Footprint {
    let topic = stage.new_topic(load);
    stage.clean();
    let mut start_ms = Vec::new();
    let mut last = None;
    for _ in 0..STARTS {
        if let Some(former) = last.take() {
            Program::stop(former);
        }
        let program = Program::start(&stage.settings(load, &topic));
        start_ms.push(program.await_ready().as_secs_f64() * 1e3);
        last = Some(program);
    }
    let program = last.expect("it was started");
    std::thread::sleep(SETTLE);
    let assigned = program.metric("sluicegate_partitions_assigned");
    assert_eq!(assigned, Some(f64::from(load.partitions)), "all partitions are assigned");
    let (since, before_s) = (Instant::now(), program.cpu_s());
    std::thread::sleep(IDLE);
    let idle_cpu_percent = (program.cpu_s() - before_s) / since.elapsed().as_secs_f64() * 100.0;
    let idle_memory_mb = process::memory_mb(program.pid()).expect("it runs");
    program.stop();
    let binary = Path::new(env!("CARGO_BIN_EXE_sluicegate"));
    Footprint {
        start_ms,
        idle_cpu_percent,
        idle_memory_mb,
        binary_mb: size_mb(binary),
        stripped_mb: stripped_mb(binary),
    }
}

fn size_mb(file: &Path) -> f64 {
    std::fs::metadata(file).expect("a file").len() as f64 / 1e6
}

/// None where there is no `strip`.
fn stripped_mb(binary: &Path) -> Option<f64> {
    let stripped = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stripped");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    status.is_ok_and(|status| status.success()).then(|| size_mb(&stripped))
}
