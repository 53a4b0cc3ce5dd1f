//! `check`: every key with its value and where that came from, then whether the services answer.

use crate::cli::Failure;
use crate::config::check::shown;
use crate::config::{Config, Effective};
use crate::flow::{self, Flow, Visit};
use crate::{kafka, pg};

struct Names(Vec<&'static str>);

impl Visit for Names {
    fn flow<F: Flow>(&mut self, _: &crate::config::FlowConfig, flow: F) {
        self.0.push(flow.name());
    }
}

pub fn check(config: &Config, effective: &Effective, connect: bool) -> Result<(), Failure> {
    for (key, value, origin) in effective {
        println!("{} = {}  [{origin}]", key.path, shown(key.kind, value));
    }
    let mut names = Names(Vec::new());
    flow::each(config, &mut names).map_err(|cause| Failure::Configuration(vec![cause.to_string()]))?;
    println!("flows: {}", names.0.join(", "));
    if connect {
        let mut problems = Vec::new();
        match postgres_version(config) {
            Ok(version) => println!("postgres: {version}"),
            Err(why) => problems.push(format!("postgres {}: {why}", config.target)),
        }
        for flow in config.enabled_flows() {
            match kafka::admin::partitions_of(&config.brokers, &config.kafka_options, &flow.topic) {
                Ok(0) => problems.push(format!("kafka {}: there is no topic {}; run init", config.brokers, flow.topic)),
                Ok(partitions) => println!("kafka: topic {} has {partitions} partitions", flow.topic),
                Err(fault) => problems.push(format!("kafka {}: {fault}", config.brokers)),
            }
        }
        if !problems.is_empty() {
            return Err(Failure::World(problems.join("\nerror: ")));
        }
    }
    println!("ok");
    Ok(())
}

fn postgres_version(config: &Config) -> Result<String, String> {
    let tls = config.target.tls()?;
    let database = pg::Database::new(config.target.config("sluicegate check"), tls, &config.session, 1);
    let mut session = database.session().map_err(|fault| fault.to_string())?;
    let mut work = session.begin().map_err(|fault| fault.to_string())?;
    let rows = work.query("SHOW server_version", &[]).map_err(|fault| fault.to_string())?;
    Ok(rows.first().map(|row| row.get::<_, String>(0)).unwrap_or_default())
}
