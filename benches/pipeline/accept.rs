//! How many orders HTTP accepts a second, by wrk with keep-alive: single orders and batches. An order is accepted once
//! Kafka has acknowledged it, and the flow writes what is accepted meanwhile, on the same cores. Connections ask again
//! as soon as they are answered, so the latency is that of a desk with its hands full.

use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::machine::said;
use crate::meter::Meter;
use crate::orders::{clean, new_topic, settings};
use crate::program::Program;
use crate::results::{Accept, Load};
use crate::stage::Stage;

/// Paths, and how many orders a request has.
const ENDPOINTS: [(&str, u64); 2] = [("/order", 1), ("/orders/batch", 100)];
const CONNECTIONS: usize = 128;
const THREADS: usize = 1;
const WARM_UP_S: u64 = 3;
const MEASURED_S: u64 = 10;

/// The last line of `accept.lua`.
#[derive(Deserialize)]
struct Told {
    requests: u64,
    /// Answered with a status from 400 on.
    refused: u64,
    /// Connections that failed, and answers that took too long.
    broken: u64,
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Told {
    fn accepted(&self) -> u64 {
        self.requests - self.refused
    }
}

pub fn measure(stage: &Stage, load: &Load, rounds: u64) -> Vec<Accept> {
    if said("which", &["wrk"]).is_none() {
        println!("There is no `wrk` on the PATH: the accept rate is left out.");
        return Vec::new();
    }
    let mut found = Vec::new();
    for round in 1..=rounds {
        let mut endpoints = ENDPOINTS;
        if round % 2 == 0 {
            endpoints.reverse();
        }
        for (endpoint, orders) in endpoints {
            let accept = run(stage, load, endpoint, orders, round);
            println!(
                "round {round}  {endpoint:<14} {:>8.0} orders/s, p99 {:.0} ms",
                accept.orders_per_s(),
                accept.p99_ms
            );
            found.push(accept);
        }
    }
    found
}

fn run(stage: &Stage, load: &Load, endpoint: &str, orders_per_request: u64, round: u64) -> Accept {
    let topic = new_topic(stage, load);
    clean(stage, 1);
    let program = Program::start(&settings(stage, load, &topic));
    program.await_ready();
    let warm_up = wrk(&program, endpoint, orders_per_request, WARM_UP_S);
    let meter = Meter::start(stage);
    let before_s = program.cpu_s();
    let told = wrk(&program, endpoint, orders_per_request, MEASURED_S);
    // wrk is among the others: it is what the machine does besides.
    let others_percent = meter.finish(program.cpu_s() - before_s).others_percent;
    // Whatever was accepted becomes a row; what was under way when wrk left may become one as well.
    program.await_written((warm_up.accepted() + told.accepted()) * orders_per_request);
    program.stop();
    Accept {
        endpoint: endpoint.to_owned(),
        round,
        connections: CONNECTIONS,
        orders_per_request,
        accepted: told.accepted(),
        failed: told.refused + told.broken,
        seconds: told.seconds,
        p50_ms: told.p50_ms,
        p99_ms: told.p99_ms,
        max_ms: told.max_ms,
        others_percent,
    }
}

fn wrk(program: &Program, path: &str, orders: u64, seconds: u64) -> Told {
    let mut command = Command::new("wrk");
    command.args(["--threads", &THREADS.to_string(), "--connections", &CONNECTIONS.to_string()]);
    command.args(["--duration", &format!("{seconds}s"), "--timeout", "10s"]);
    command.args(["--script", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pipeline/accept.lua")]);
    command.args([&program.url(), "--", path, &orders.to_string()]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rfind(|line| line.starts_with('{'));
    line.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("wrk: {}: {text}", output.status))
}
