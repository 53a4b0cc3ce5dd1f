//! A full disk, under the tables of PostgreSQL and under its log. Records flow until it is full; the program says so,
//! lives, and goes on when there is room, and then each record is there once.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::disk::SmallDisk;
use support::world::World;
use support::{connect, service_directory, services, update_saying, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A server of the test's own: one whose disk is full is no company for others.
struct Server {
    directory: String,
    port: String,
    /// Where its data is, and its user may write.
    place: PathBuf,
}

impl Server {
    fn start(stem: &str) -> Server {
        let directory = service_directory(stem);
        let port = services(&["free-port"]);
        services(&["postgres", "start", &directory, &port]);
        let place = std::fs::canonicalize(format!("{directory}/postgres")).expect("its data");
        Server { directory, port, place }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}

/// Rows of a little more than a kilobyte, which PostgreSQL neither packs nor puts elsewhere.
fn produce_large(world: &mut World, count: usize) {
    let message = "x".repeat(1000);
    for number in 0..count {
        let partition = (number % world.produced.len()) as i32;
        let offset = world.produced[partition as usize];
        world.send(partition, &update_saying(partition, offset, "SUCCESS", &message));
    }
    world.flush();
}

#[test]
fn a_disk_that_is_full_is_named_and_gone_on_from() {
    let server = Server::start("tables");
    let disk = SmallDisk::mount(server.place.join("tables"), 64);
    let mut admin = connect(&server.url("postgres"));
    match &disk {
        Some(disk) => {
            disk.fill(36);
            let sql = format!("CREATE TABLESPACE small LOCATION '{}'", disk.path.display());
            admin.batch_execute(&sql).expect("a table space");
            admin.batch_execute("CREATE DATABASE small TABLESPACE small").expect("a database on it");
        }
        None => admin.batch_execute("CREATE DATABASE small").expect("a database"),
    }
    let mut world = World::on("tables", support::brokers(), server.url("small"));
    let mut instance = world.start();
    world.produce(600);
    world.flush();
    world.wait_written(MINUTE);
    if disk.is_none() {
        let sql = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION
                   'could not extend file' USING ERRCODE = 'disk_full'; END $$;
                   CREATE TRIGGER no_room BEFORE INSERT ON processed_seed_status EXECUTE FUNCTION no_room()";
        connect(&world.url).batch_execute(sql).expect("a pretended fault");
    }
    produce_large(&mut world, 24_000);
    let body = wait_for("the reason", MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && body.contains("pg.53100")).then_some(body)
    });
    assert!(body.contains("could not extend file"), "{body}");
    assert_eq!(instance.get("/health/live").map(|(status, _)| status), Some(200));
    assert!(world.rows() < 24_600, "it became full too late");
    match &disk {
        Some(disk) => disk.relieve(),
        None => connect(&world.url).batch_execute("DROP FUNCTION no_room CASCADE").expect("room again"),
    }
    world.wait_written(2 * MINUTE);
    instance.wait_ready();
    world.check();
    assert!(instance.child.try_wait().expect("a child").is_none(), "it is the same process");
    drop((instance, disk));
    services(&["clean", &server.directory]);
}

/// PostgreSQL cannot do without its log: it ends all of its sessions, starts again, and may not come up.
#[test]
fn a_server_whose_log_has_no_room_falls_and_is_gone_on_from() {
    let server = Server::start("log");
    services(&["postgres", "stop", &server.directory]);
    let disk = SmallDisk::mount(server.place.join("log"), 224);
    if let Some(disk) = &disk {
        let (log, moved) = (server.place.join("data/pg_wal"), disk.path.join("pg_wal"));
        assert!(Command::new("mv").args([&log, &moved]).status().expect("mv").success());
        std::os::unix::fs::symlink(&moved, &log).expect("a link");
        disk.fill(160);
    }
    services(&["postgres", "start", &server.directory, &server.port]);
    let mut world = World::on("log", support::brokers(), server.url("processed_data_db"));
    let mut instance = world.start();
    world.produce(600);
    world.flush();
    world.wait_written(MINUTE);
    if disk.is_none() {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sluicegate%' LIMIT 1";
        let session: i32 = connect(&world.url).query_one(sql, &[]).expect("a session").get(0);
        assert!(Command::new("kill").args(["-ABRT", &session.to_string()]).status().expect("kill").success());
    }
    produce_large(&mut world, 60_000);
    wait_for("the server to fall", MINUTE, || {
        let log = std::fs::read_to_string(format!("{}/postgres.log", server.directory)).ok()?;
        let is_named = log.contains("PANIC:  could not write to file") || disk.is_none();
        (is_named && log.contains("was terminated by signal 6")).then_some(())
    });
    assert_eq!(instance.get("/health/live").map(|(status, _)| status), Some(200));
    if let Some(disk) = &disk {
        disk.relieve();
    }
    // It has come up by itself, or could not.
    wait_for("the server", MINUTE, || {
        services(&["postgres", "start", &server.directory, &server.port]);
        postgres::Client::connect(&world.url, postgres::NoTls).ok()
    });
    world.wait_written(2 * MINUTE);
    instance.wait_ready();
    world.check();
    assert!(instance.child.try_wait().expect("a child").is_none(), "it is the same process");
    drop(instance);
    services(&["postgres", "kill", &server.directory]);
    drop(disk);
    services(&["clean", &server.directory]);
}
