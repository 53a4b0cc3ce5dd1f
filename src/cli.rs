//! The command line: verbs, their options, and what the process says when it ends. Exit codes: 0 done,
//! 1 failed, 2 usage or configuration. What a verb does lives elsewhere.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Sources};
use crate::fault::Failure;
use crate::letters::moment;
use crate::rate::{PER_S_MAX, PER_S_MIN};
use crate::{ops, produce, run};

pub mod check;
mod lag;
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
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), required_unless_present_any = ["duration", "serve"])]
        count: Option<u64>,
        /// For how long, as 60s or 5m; with a count, whichever is reached first
        #[arg(long, value_name = "SPAN", value_parser = span)]
        duration: Option<Duration>,
        /// How many a second, from 0.1 to 100000; what is late by up to 10 ms is made up for [default: as fast as Kafka takes them]
        #[arg(long, value_name = "PER_SECOND", value_parser = per_second)]
        rate: Option<f64>,
        /// How many keys there are at once: of tickets, the orders that are under way [default: 1000]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        keys: Option<u64>,
        /// Wait for each record to be acknowledged before the next one is sent
        #[arg(long)]
        sync: bool,
        /// As a service: health and metrics on http.port, or 2112 where that is not set; waits for Kafka while it is away, and
        /// goes on until a signal where neither count nor duration is given
        #[arg(long)]
        serve: bool,
        /// Begin a trace with each record: a header traceparent. Events always have one
        #[arg(long)]
        trace: bool,
    },
    Lag(lag::Options),
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
        self.load_with_port(choice, None)
    }

    /// The same, with a port to listen on where nobody says anything about it.
    fn load_with_port(&self, choice: &Choice, port_usual: Option<u16>) -> Result<Config, ExitCode> {
        let report = self.sources(choice).report();
        let port = port_usual.filter(|_| !report.is_given("http.port"));
        let mut config = report.config.map_err(|findings| {
            eprintln!("{findings}");
            ExitCode::from(REFUSED)
        })?;
        config.http.port = port.unwrap_or(config.http.port);
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
        Verb::Produce { flow, count, duration, rate, keys, sync, serve, trace } => {
            let manner = produce::Manner { per_s: rate, one_by_one: sync, keys, is_traced: trace };
            let extent = produce::Extent { count, duration };
            let port = serve.then_some(produce::PORT_USUAL);
            done(settings.load_with_port(&Choice::default(), port), |config| match serve {
                true => produce::serve(config, &flow, extent, manner),
                false => produce::produce(&config, &flow, extent, manner),
            })
        }
        Verb::Lag(options) => ended(&settings, &Choice::default(), |config| lag::run(&config, &options)),
        Verb::Letters(verb) => ended(&settings, verb.choice(), |config| letters::run(&config, &verb)),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let span = moment::span(text).filter(|span| !span.is_zero());
    span.ok_or_else(|| "must be a stretch of time, as 60s, 5m or 2h".to_owned())
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
    done(settings.load(choice), verb)
}

fn done(loaded: Result<Config, ExitCode>, verb: impl FnOnce(Config) -> Result<(), Failure>) -> ExitCode {
    let (code, text) = match loaded.map(verb) {
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
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
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
