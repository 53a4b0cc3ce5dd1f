//! The command line: what the user asks for, and how the process ends. 0 done, 1 failed, 2 usage or
//! configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Finding};
use crate::fault::Cause;
use crate::{check, ops, produce, run};

/// Moves Kafka topics into PostgreSQL, each record exactly once.
#[derive(Parser)]
#[command(name = "sluicegate", version, about)]
struct Arguments {
    /// YAML or JSON; the environment and .env override it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run all enabled flows, or those named
    Run {
        /// Only these, separated by commas
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        flow: Vec<String>,
        /// Use a broker inside this process, in memory: for a look where there is no Kafka
        #[arg(long)]
        demo_broker: bool,
    },
    /// Show the configuration and everything that is wrong with it
    Check {
        /// Also connect to Kafka and PostgreSQL
        #[arg(long)]
        connect: bool,
    },
    /// Create what is missing: tables and topics
    Init,
    /// Send made-up records into a flow's topic
    Produce {
        /// Which flow's records: status
        flow: String,
        /// How many
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
    },
}

/// Why a verb did not do its work.
pub enum Failure {
    /// What the user wrote: exit code 2.
    Configuration(Vec<String>),
    /// What the world did: exit code 1.
    World(String),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Failure::World(cause.to_string())
    }
}

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(findings)) => {
            findings.iter().for_each(|finding| eprintln!("error: {finding}"));
            ExitCode::from(2)
        }
        Err(Failure::World(text)) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let wrong = |findings: Vec<Finding>| Failure::Configuration(findings.iter().map(Finding::to_string).collect());
    let dot_env = config::dot_env().map_err(|finding| wrong(vec![*finding]))?;
    let (mut config, effective) =
        config::load(arguments.config.as_deref(), &dot_env, &config::process_env()).map_err(wrong)?;
    ops::log::start(config.log_level, config.log_json);
    match arguments.verb {
        Verb::Run { flow, demo_broker } => {
            only(&mut config, &flow)?;
            run::run(config, demo_broker)
        }
        Verb::Check { connect } => check::check(&config, &effective, connect),
        Verb::Init => run::init(&config),
        Verb::Produce { flow, count } => produce::produce(&config, &flow, count),
    }
}

/// Switches every flow off that is not named. No name means all.
fn only(config: &mut Config, named: &[String]) -> Result<(), Failure> {
    if named.is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = config.flows.iter().map(|flow| flow.name).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
        let text = format!("--flow \"{unknown}\": there is no such flow; use {}", known.join(", "));
        return Err(Failure::Configuration(vec![text]));
    }
    config.flows.iter_mut().for_each(|flow| flow.enabled = named.iter().any(|name| name == flow.name));
    Ok(())
}
