//! What the kernel says about this process, read from /proc when somebody asks. Where there is no /proc there
//! are no values, and no error either.

use std::fs;

/// Ticks a second in /proc/self/stat: fixed for user space, whatever the kernel runs at.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Default)]
pub struct Process {
    pub resident_bytes: Option<f64>,
    pub threads: Option<f64>,
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<f64>,
    pub max_fds: Option<f64>,
    pub start_seconds: Option<f64>,
    pub uptime_seconds: Option<f64>,
}

impl Process {
    pub fn look() -> Process {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let stat = read("/proc/self/stat");
        // The second field is the program's name in parentheses, and may hold spaces: fields count from its end.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(f64::NAN)).collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).copied().filter(|value| value.is_finite());
        let booted = number_after(&read("/proc/stat"), "btime");
        let since_boot = number_after(&read("/proc/uptime"), "");
        let started = field(22).map(|ticks| ticks / TICKS_PER_SECOND);
        Process {
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib * 1024.0),
            threads: number_after(&status, "Threads:"),
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            // One of them is the look itself.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as f64),
            max_fds: number_after(&read("/proc/self/limits"), "Max open files"),
            start_seconds: booted.zip(started).map(|(booted, started)| booted + started),
            uptime_seconds: since_boot.zip(started).map(|(since_boot, started)| (since_boot - started).max(0.0)),
        }
    }
}

/// The number that follows `name` at the start of a line.
fn number_after(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn this_process_has_believable_numbers() {
        let process = Process::look();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.resident_bytes.unwrap() > 1e5);
        assert!(process.threads.unwrap() >= 1.0);
        assert!((0.0..1e6).contains(&process.cpu_seconds.unwrap()));
        assert!(process.open_fds.unwrap() >= 3.0);
        assert!(process.max_fds.unwrap() >= process.open_fds.unwrap());
        assert!((now - 86_400.0..=now + 2.0).contains(&process.start_seconds.unwrap()));
        let since_start = now - process.start_seconds.unwrap();
        assert!((process.uptime_seconds.unwrap() - since_start).abs() < 3.0);
    }

    #[test]
    fn what_is_not_there_has_no_number() {
        assert_eq!(number_after("VmRSS:\t  12 kB\n", "Threads:"), None);
        assert_eq!(number_after("Max open files  unlimited unlimited", "Max open files"), None);
    }
}
