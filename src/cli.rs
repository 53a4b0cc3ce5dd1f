//! The command line: verbs, their options, and what the process says when it ends. Exit codes: 0 done,
//! 1 failed, 2 usage or configuration. What a verb does lives elsewhere.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Sources};
use crate::fault::Failure;
use crate::rate::{PER_S_MAX, PER_S_MIN};
use crate::{ops, produce, run};

pub mod check;
mod letters;
mod outlook;

/// It ran and did not succeed.
pub const FAILED: u8 = 1;
/// It did not run: the command line or the configuration is wrong. clap uses the same number.
pub const REFUSED: u8 = 2;

/// Moves Kafka topics into PostgreSQL, each record exactly once.
#[derive(Parser)]
#[command(name = "sluicegate", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Every key of the configuration can also be set in the environment or in .env; docs/CONFIG.md lists them.
Exit codes: 0 done, 1 failed, 2 usage or configuration.";

#[derive(Subcommand)]
enum Verb {
    /// Run all enabled flows, or those named
    Run {
        #[command(flatten)]
        choice: Choice,
        /// Use a broker inside this process, in memory: for a look where there is no Kafka
        #[arg(long)]
        demo_broker: bool,
    },
    Check(check::Check),
    /// Create what is missing: tables and topics
    Init {
        #[command(flatten)]
        choice: Choice,
    },
    /// Send made-up records into a flow's topic
    Produce {
        /// Whose records
        #[arg(value_name = "FLOW")]
        flow: String,
        /// How many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
        /// How many a second, from 0.1 to 100000; what is late by up to 10 ms is made up for [default: as fast as Kafka takes them]
        #[arg(long, value_name = "PER_SECOND", value_parser = per_second)]
        rate: Option<f64>,
        /// Wait for each record to be acknowledged before the next one is sent
        #[arg(long)]
        sync: bool,
    },
    /// Look at records that were set aside, put them through their flow again, or drop them
    #[command(subcommand)]
    Letters(letters::Letters),
}

/// Where the configuration is. Before or after the verb.
#[derive(Args)]
pub struct Settings {
    /// YAML or JSON file [default: $SLUICEGATE_CONFIG, or sluicegate.yaml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// Which flows. For verbs that can do with some of them.
#[derive(Args, Clone, Default)]
pub struct Choice {
    /// Only these flows, separated by commas [default: all that are enabled]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    flow: Vec<String>,
}

impl Settings {
    pub fn sources(&self, choice: &Choice) -> Sources {
        Sources::here(self.config.clone(), choice.flow.clone())
    }

    /// The configuration, with logging started. When it is wrong, all findings are on standard error and
    /// the process has only to exit with the code.
    pub fn load(&self, choice: &Choice) -> Result<Config, ExitCode> {
        let config = self.sources(choice).load().map_err(|findings| {
            eprintln!("{findings}");
            ExitCode::from(REFUSED)
        })?;
        ops::log::start(&config.logging).map_err(|error| {
            let file = config.logging.file.as_deref().unwrap_or(Path::new(""));
            eprintln!("error: logging.file {}: {error}; name one that can be written", file.display());
            ExitCode::from(FAILED)
        })?;
        Ok(config)
    }
}

pub fn main() -> ExitCode {
    let Cli { settings, verb } = Cli::parse();
    match verb {
        Verb::Run { choice, demo_broker } => ended(&settings, &choice, |config| run::run(config, demo_broker)),
        Verb::Check(options) => check::run(&settings, &options),
        Verb::Init { choice } => ended(&settings, &choice, |config| run::init(&config)),
        Verb::Produce { flow, count, rate, sync } => {
            let manner = produce::Manner { per_s: rate, one_by_one: sync };
            ended(&settings, &Choice::default(), |config| produce::produce(&config, &flow, count, manner))
        }
        Verb::Letters(verb) => ended(&settings, verb.choice(), |config| letters::run(&config, &verb)),
    }
}

fn per_second(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    match (PER_S_MIN..=PER_S_MAX).contains(&rate) {
        true => Ok(rate),
        false => Err(format!("is not between {PER_S_MIN} and {PER_S_MAX}")),
    }
}

/// Does a verb with the configuration and tells how that ended.
fn ended(settings: &Settings, choice: &Choice, verb: impl FnOnce(Config) -> Result<(), Failure>) -> ExitCode {
    let (code, text) = match settings.load(choice).map(verb) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(Failure::Refused(text))) => (REFUSED, text),
        Ok(Err(Failure::Failed(text))) => (FAILED, text),
        Err(code) => return code,
    };
    eprintln!("error: {text}");
    ExitCode::from(code)
}

/// A reader that went away, as `head` does, has seen what it wanted.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
