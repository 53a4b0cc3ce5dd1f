//! CPU time between two moments, of everything that shares the machine: what Kafka and PostgreSQL took, and what was
//! neither theirs nor the contender's.

use crate::process;
use crate::results::Run;
use crate::stage::Stage;

pub struct Meter<'a> {
    stage: &'a Stage,
    begin: Reading,
}

/// Since the processes, or the machine, started.
struct Reading {
    kafka_s: Option<f64>,
    postgres_s: Option<f64>,
    bench_s: f64,
    /// What was worked, and that with idling.
    machine_s: Option<(f64, f64)>,
}

pub struct Metered {
    /// None where they are not ours to look at.
    pub kafka_cpu_s: Option<f64>,
    pub postgres_cpu_s: Option<f64>,
    /// Of the bench itself.
    pub bench_cpu_s: f64,
    /// Of the machine's CPU time.
    pub others_percent: Option<f64>,
}

impl Reading {
    fn take(stage: &Stage) -> Reading {
        Reading {
            kafka_s: stage.kafka_cpu_s(),
            postgres_s: stage.postgres_cpu_s(),
            bench_s: process::cpu_s(std::process::id()).expect("its own CPU time"),
            machine_s: process::machine_cpu_s(),
        }
    }
}

impl Meter<'_> {
    pub fn start(stage: &Stage) -> Meter<'_> {
        Meter { stage, begin: Reading::take(stage) }
    }

    /// With what child processes of the bench took meanwhile.
    pub fn finish(self, children_cpu_s: f64) -> Metered {
        let (begin, end) = (self.begin, Reading::take(self.stage));
        let between = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
        let kafka_cpu_s = between(begin.kafka_s, end.kafka_s);
        let postgres_cpu_s = between(begin.postgres_s, end.postgres_s);
        let bench_cpu_s = end.bench_s - begin.bench_s;
        let others_percent = || {
            let ((worked_before_s, all_before_s), (worked_s, all_s)) = (begin.machine_s?, end.machine_s?);
            let ours_s = kafka_cpu_s? + postgres_cpu_s? + bench_cpu_s + children_cpu_s;
            Some((worked_s - worked_before_s - ours_s).max(0.0) / (all_s - all_before_s) * 100.0)
        };
        Metered { kafka_cpu_s, postgres_cpu_s, bench_cpu_s, others_percent: others_percent() }
    }

    /// Adds to a run what is seen from outside: of a contender that writes, and of one inside the bench its own CPU time too,
    /// for which Kafka does nothing.
    pub fn finish_run(self, run: &mut Run, is_in_bench: bool) {
        let metered = self.finish(run.cpu_s);
        if is_in_bench {
            run.cpu_s = metered.bench_cpu_s;
        }
        run.kafka_cpu_s = metered.kafka_cpu_s.filter(|_| !is_in_bench);
        run.postgres_cpu_s = metered.postgres_cpu_s;
        run.others_percent = metered.others_percent;
    }
}
