//! CPU time and memory of processes, from /proc.

use std::fs::read_to_string;

/// Ticks of the CPU times in /proc: a constant of Linux, whatever the kernel's own clock.
const TICKS_PER_S: f64 = 100.0;

struct Stat {
    parent: u32,
    own_s: f64,
    /// Of children that have ended and been waited for.
    ended_children_s: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let line = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks; what follows it begins with the third field.
    let fields: Vec<&str> = line.rsplit(')').next()?.split_whitespace().collect();
    let seconds = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_S);
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_s: seconds(11)? + seconds(12)?,
        ended_children_s: seconds(13)? + seconds(14)?,
    })
}

/// User and system time of one process.
pub fn cpu_s(pid: u32) -> Option<f64> {
    stat(pid).map(|stat| stat.own_s)
}

/// The same for a process with all its children, those that have ended included: PostgreSQL is one process for each
/// connection and each helper.
pub fn family_cpu_s(pid: u32) -> Option<f64> {
    // A child that ends while the others are read moves into its parent's sum: then it is read again.
    for _ in 0..20 {
        let before = stat(pid)?;
        let children: f64 = std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter_map(stat)
            .filter(|stat| stat.parent == pid)
            .map(|stat| stat.own_s + stat.ended_children_s)
            .sum();
        let after = stat(pid)?;
        if before.ended_children_s == after.ended_children_s {
            return Some(after.own_s + after.ended_children_s + children);
        }
    }
    None
}

/// The same of each thread that lives, by the first 15 letters of its name. To the nanosecond: ticks, cut off for each of
/// many threads, would lose a tenth of the whole.
pub fn threads_cpu_s(pid: u32) -> Vec<(String, f64)> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let thread = |entry: std::fs::DirEntry| {
        let name = read_to_string(entry.path().join("comm")).ok()?;
        let on_cpu_ns = read_to_string(entry.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()?;
        Some((name.trim().to_owned(), on_cpu_ns / 1e9))
    };
    threads.filter_map(|entry| thread(entry.ok()?)).collect()
}

/// CPU time of the whole machine since it started: what was worked (or taken by its host), and that with idling.
pub fn machine_cpu_s() -> Option<(f64, f64)> {
    let text = read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, waiting for disks, two kinds of interrupts, steal; guests are in the first two.
    let ticks: Vec<f64> =
        text.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    Some(((all - ticks.get(3)? - ticks.get(4)?) / TICKS_PER_S, all / TICKS_PER_S))
}

fn status_mb(pid: u32, name: &str) -> Option<f64> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// The most memory that the process has ever held.
pub fn memory_peak_mb(pid: u32) -> Option<f64> {
    status_mb(pid, "VmHWM:")
}

pub fn memory_mb(pid: u32) -> Option<f64> {
    status_mb(pid, "VmRSS:")
}
