//! A PostgreSQL that is read from, and a Kafka Connect worker whose Debezium connectors read it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{http_with, service_directory, services, services_with, wait_for};

/// A snapshot of a few tables takes seconds, and on a busy machine more of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stopped when dropped.
pub struct Connect {
    directory: String,
    pub url: String,
    port: u16,
}

impl Connect {
    pub fn start(stem: &str) -> Connect {
        let directory = service_directory(stem);
        services_with(&[("SLUICEGATE_POSTGRES_WAL_LEVEL", "logical")], &["postgres", "start", &directory]);
        services(&["connect", "start", &directory]);
        let port = |service: &str| services(&[service, "port", &directory]);
        let url = format!("postgres://postgres@127.0.0.1:{}/processed_data_db?sslmode=disable", port("postgres"));
        let port = port("connect").parse().expect("a port");
        Connect { directory, url, port }
    }

    /// Gives the worker a connector that reads these tables (a list of regular expressions), and waits until it streams.
    pub fn read(&self, prefix: &str, tables: &str, options: &[(&str, &str)]) {
        self.put(prefix, &self.configuration(prefix, tables, options));
        self.wait_streaming(prefix);
    }

    /// Everything is named by the prefix of its topics.
    pub fn configuration(&self, prefix: &str, tables: &str, options: &[(&str, &str)]) -> Map<String, Value> {
        let config: postgres::Config = self.url.parse().expect("a URL");
        let mut configuration = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": "127.0.0.1",
            "database.port": config.get_ports()[0].to_string(),
            "database.user": "postgres",
            "database.dbname": "processed_data_db",
            "plugin.name": "pgoutput",
            "topic.prefix": prefix,
            "slot.name": prefix,
            "publication.name": prefix,
            "publication.autocreate.mode": "filtered",
            "table.include.list": tables,
            // The broker makes no topics by itself; one partition each keeps the order of a table.
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": "1",
            "poll.interval.ms": "50",
        });
        let map = configuration.as_object_mut().expect("an object");
        map.extend(options.iter().map(|(name, value)| (name.to_string(), json!(value))));
        map.clone()
    }

    /// A connector of any kind.
    pub fn put(&self, name: &str, configuration: &Map<String, Value>) {
        let body = Value::Object(configuration.clone()).to_string();
        wait_for("the worker to take a connector", PATIENCE, || {
            let (status, answer) = http_with(self.port, "PUT", &format!("/connectors/{name}/config"), &body)?;
            assert!(matches!(status, 200 | 201 | 409), "{name}: {status} {answer}");
            (status != 409).then_some(()) // it is busy with another
        });
    }

    pub fn delete(&self, name: &str) {
        let (status, answer) = http_with(self.port, "DELETE", &format!("/connectors/{name}"), "").expect("an answer");
        assert_eq!(status, 204, "{name}: {answer}");
    }

    /// The trace of a task that has ended.
    pub fn failure(&self, name: &str) -> Option<String> {
        let (_, answer) = http_with(self.port, "GET", &format!("/connectors/{name}/status"), "")?;
        let status: Value = serde_json::from_str(&answer).ok()?;
        let parts = status["tasks"].as_array()?.iter().chain([&status["connector"]]);
        let trace = parts.filter(|part| part["state"] == "FAILED").map(|part| part["trace"].to_string()).next()?;
        Some(trace)
    }

    /// Its slot is read: the snapshot is over.
    pub fn wait_streaming(&self, name: &str) {
        let mut client = super::connect(&self.url);
        wait_for(&format!("connector {name} to stream; log: {}/connect.log", self.directory), PATIENCE, || {
            if let Some(trace) = self.failure(name) {
                panic!("connector {name} failed: {trace}");
            }
            let sql = "SELECT 1 FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
                       WHERE s.slot_name = $1 AND r.state = 'streaming'";
            client.query_opt(sql, &[&name]).expect("slots").map(|_| ())
        });
    }

    /// As when its machine lost power. Connectors have to be given to it again.
    pub fn kill_and_start(&self) {
        services(&["connect", "kill", &self.directory]);
        services(&["connect", "start", &self.directory, &self.port.to_string()]);
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        // What the run's end would do as well, later: a worker takes memory.
        services(&["connect", "kill", &self.directory]);
        services(&["postgres", "kill", &self.directory]);
    }
}
