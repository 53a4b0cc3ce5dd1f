//! File descriptors that run out: the server goes on with those that it has, and recovers.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::client::{Connection, PATIENCE, get, health, post};
use crate::world::world;

/// A process with few descriptors, and what it says.
struct Confined {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Confined {
    fn start(
        descriptors: u32,
        program: &std::ffi::OsStr,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Confined {
        let mut child = Command::new("bash")
            .args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\" 2>&1")])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Confined { child, lines }
    }

    /// What follows these words in the first line that has them.
    fn told(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "ended before it said {words:?}");
            if let Some((_, rest)) = line.split_once(words) {
                return rest.trim().to_string();
            }
        }
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// In hundredths of a second.
    fn processor_time(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The other side of the next test, which starts it in a process of its own.
#[test]
#[ignore = "a part of another test, in a process that may lose its descriptors"]
fn a_server_that_loses_its_descriptors() {
    let told = || drop(std::io::stdin().lock().read_line(&mut String::new()));
    let world = world();
    println!("listening on {}", world.addr);
    told();
    let mut eaten = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        eaten.push(file);
    }
    println!("has eaten {}", eaten.len());
    told();
    drop(eaten);
    println!("has given back");
    told();
}

#[test]
fn without_descriptors_there_is_still_an_answer_and_with_them_all_is_well() {
    let this = std::env::current_exe().unwrap();
    let name = "descriptors::a_server_that_loses_its_descriptors";
    let mut server = Confined::start(128, this.as_os_str(), &["--exact", name, "--ignored", "--nocapture"], &[]);
    let addr: SocketAddr = server.told("listening on ").parse().unwrap();
    assert_eq!(health(addr).status, 200);
    // This one is there before, and takes nothing while it waits.
    let mut kept = Connection::open(addr);
    assert_eq!(kept.ask("GET", "/health/live").status, 200);
    server.go_on();
    let eaten: usize = server.told("has eaten ").parse().unwrap();
    assert!(eaten > 50, "{eaten}");

    for _ in 0..20 {
        assert_eq!(health(addr).status, 200);
    }
    // Descriptors are needed by what changes something; its answer is a refusal, and in time.
    assert!([200, 500].contains(&post(addr, "/reset-tracking").status));
    let idle: Vec<_> = (0..300).map(|_| TcpStream::connect_timeout(&addr, PATIENCE).unwrap()).collect();
    for _ in 0..20 {
        assert_eq!(health(addr).status, 200);
        assert!(get(addr, "/metrics").body.contains("sluicegate"));
    }
    let before = server.processor_time();
    #[allow(clippy::disallowed_methods)] // the server is left alone: whoever spins does it now
    std::thread::sleep(Duration::from_secs(2));
    let spent = server.processor_time() - before;
    assert!(spent < 100, "{spent} hundredths of a second in two seconds of nothing to do");
    drop(idle);

    server.go_on();
    server.told("has given back");
    for _ in 0..20 {
        assert_eq!(health(addr).status, 200);
        assert_eq!(post(addr, "/reset-tracking").status, 200);
    }
}

#[test]
fn the_program_holds_fewer_clients_than_it_has_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there: health is about the services too, and says so.
    let environment = [
        ("DB_URL", "postgres://u:p@127.0.0.1:1/d?sslmode=disable"),
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("SERVER_PORT", "0"),
        ("SLUICEGATE_CONFIG", folder.path().join("none.yaml").to_str().unwrap()),
    ]
    .map(|(name, value)| (name, value.to_string()));
    std::fs::write(folder.path().join("none.yaml"), "{}").unwrap();
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut program = Confined::start(128, env!("CARGO_BIN_EXE_sluicegate").as_ref(), &["run"], &environment);
    let addr: SocketAddr = program.told("listening on http://").parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.extend((0..10).map(|_| TcpStream::connect_timeout(&addr, PATIENCE).unwrap()));
        let answer = health(addr);
        assert_eq!((answer.status, answer.json()["live"]["status"].as_str()), (503, Some("live")));
    }
    // It is the limit on clients that held, and never the one on descriptors.
    let value = |text: &str, name: &str| -> f64 {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
    };
    let metrics = get(addr, "/metrics").body;
    let (open, most) =
        (value(&metrics, "sluicegate_process_open_fds "), value(&metrics, "sluicegate_process_max_fds "));
    assert!(most == 128.0 && open < 100.0, "{open} of {most}");
    drop(clients);
    assert_eq!(get(addr, "/health/live").status, 200);
}
