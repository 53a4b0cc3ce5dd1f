//! Memory while PostgreSQL is stopped for a minute and the topic is full: what the program holds then is bounded by its
//! settings, whatever waits in Kafka.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::Program;
use crate::results::{Away, Load};
use crate::stage::Stage;

const AWAY: Duration = Duration::from_secs(60);
/// By then the program is at work, or has heard of its last COMMIT.
const SETTLE: Duration = Duration::from_secs(1);

/// None where PostgreSQL is not ours to stop.
pub fn measure(stage: &Stage, load: &Load) -> Option<Away> {
    stage.services.as_ref()?;
    let topic = stage.filled_topic(load);
    stage.clean();
    let program = Program::start(&stage.settings(load, &topic));
    program.await_ready();
    std::thread::sleep(SETTLE);
    let before_mb = program.memory_peak_mb();
    let since = Instant::now();
    postgres(stage, "stop");
    std::thread::sleep(SETTLE);
    let written = program.written();
    assert!(written < load.rows, "PostgreSQL went away too late: all rows were written");
    std::thread::sleep(AWAY);
    let away_mb = program.memory_peak_mb();
    assert_eq!(program.written(), written, "nothing was written without PostgreSQL");
    postgres(stage, "start");
    let away_s = since.elapsed().as_secs_f64();
    program.await_rows(load.rows);
    let after_mb = program.memory_peak_mb();
    program.stop();
    assert_eq!(stage.count(), load.rows, "every row was written once");
    Some(Away {
        partitions: load.partitions,
        record_bytes: load.record_bytes,
        rows: load.rows,
        away_s,
        before_mb,
        away_mb,
        after_mb,
    })
}

fn postgres(stage: &Stage, verb: &str) {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
    command.args(["postgres", verb]).arg(stage.services.as_ref().expect("services of ours"));
    assert!(command.status().expect("it starts").success(), "services postgres {verb}");
}
