//! `check`: shows what the configuration comes to, says everything that is wrong with it, and with
//! `--connect` asks PostgreSQL and Kafka whether they answer, and what would become of what is there. It changes nothing anywhere.

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{Choice, FAILED, REFUSED, Settings, outlook, say};
use crate::config::{self, Config, Kafka, Logging, Postgres};
use crate::ops;

/// Show every key with its value and origin, and everything that is wrong
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    choice: Choice,
    /// Also connect to PostgreSQL and Kafka
    #[arg(long)]
    connect: bool,
    /// Print a file of every key with its default, and do nothing else
    #[arg(long, conflicts_with_all = ["connect", "flow"])]
    example: bool,
}

pub fn run(settings: &Settings, options: &Check) -> ExitCode {
    if options.example {
        say(&config::example());
        return ExitCode::SUCCESS;
    }
    let report = settings.sources(&options.choice).report();
    let lines: Vec<_> = report.lines().collect();
    let width = lines.iter().map(|(path, ..)| path.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (path, value, origin) in &lines {
        text += &format!("{path:width$}  {value}  ({origin})\n");
    }
    for note in &report.notes {
        text += &format!("\n{note}\n");
    }
    if let Ok(config) = &report.config {
        let names: Vec<_> = config.enabled().map(|(name, _)| name).collect();
        text += &format!("\nflows that run: {}\n", names.join(", "));
    }
    say(&text);

    let config = match report.config {
        Ok(config) => config,
        Err(findings) => {
            eprintln!("{findings}");
            return ExitCode::from(REFUSED);
        }
    };
    if options.connect {
        let logging = Logging { file: None, ..config.logging.clone() };
        if let Err(error) = ops::log::start(&logging) {
            eprintln!("logging: {error}");
        }
        let answers = [("postgres", postgres(&config.postgres)), ("kafka", kafka(&config))];
        for (name, answer) in &answers {
            match answer {
                Ok(text) => say(&format!("{name}: {text}\n")),
                Err(text) => eprintln!("{name}: {text}"),
            }
        }
        if answers.iter().any(|(_, answer)| answer.is_err()) {
            return ExitCode::from(FAILED);
        }
        match outlook::look(&config) {
            Ok((text, is_well)) => {
                say(&text);
                if !is_well {
                    return ExitCode::from(FAILED);
                }
            }
            Err(text) => {
                eprintln!("{text}");
                return ExitCode::from(FAILED);
            }
        }
    }
    say("ok\n");
    ExitCode::SUCCESS
}

fn postgres(postgres: &Postgres) -> Result<String, String> {
    let Postgres { target, connect_timeout, .. } = postgres.clone();
    // The driver bounds the connecting only: a server that accepts and then says nothing would be waited for forever.
    let patience = connect_timeout + Duration::from_secs(5);
    let shown = target.to_string();
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || {
        let asked =
            target.connector().and_then(|connector| ask(target.config, connector).map_err(|error| full(&error)));
        let _ = answer.send(asked);
    });
    match answered.recv_timeout(patience) {
        Ok(Ok((version, true))) => Err(format!("{shown} is PostgreSQL {version}, and read-only: name the primary")),
        Ok(Ok((version, false))) => Ok(format!("{shown} is PostgreSQL {version}")),
        Ok(Err(error)) => Err(format!("{shown}: {error}")),
        Err(_) => Err(format!("{shown} has not answered within {} ms", patience.as_millis())),
    }
}

fn ask(
    config: postgres::Config,
    connector: postgres_openssl::MakeTlsConnector,
) -> Result<(String, bool), postgres::Error> {
    let mut client = config.connect(connector)?;
    let row = client
        .query_one("SELECT current_setting('server_version'), current_setting('transaction_read_only') = 'on'", &[])?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The error with its causes: the first is only "error connecting to server". An answer of the server
/// is cut to its message, because a detail may quote what was sent.
fn full(error: &postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        // OpenSSL's errors contain their causes.
        if !text.contains(&next.to_string()) {
            text += &format!(": {next}");
        }
        cause = next.source();
    }
    text
}

fn kafka(config: &Config) -> Result<String, String> {
    let Kafka { brokers, options, request_timeout } = &config.kafka;
    let shown = brokers.join(",");
    let mut client = ClientConfig::new();
    client.extend(options.clone());
    client.set("bootstrap.servers", &shown);
    let consumer: BaseConsumer = client.create().map_err(|error| format!("{shown}: {error}"))?;

    let mut text = String::new();
    let topics = |flow: &config::Flow| {
        let named = flow.topics.iter().filter(|topic| !config::is_pattern(topic)).cloned();
        let own = Some(flow.topic.clone()).filter(|topic| !topic.is_empty());
        own.into_iter().chain(flow.retry_topics()).chain(named).collect::<Vec<_>>()
    };
    for (name, topic) in
        config.enabled().flat_map(|(name, flow)| topics(flow).into_iter().map(move |topic| (name, topic)))
    {
        let metadata = consumer
            .fetch_metadata(Some(&topic), *request_timeout)
            .map_err(|error| format!("{shown}: {error}; is a broker there, and reachable from here?"))?;
        if text.is_empty() {
            text = format!("{shown} is a cluster of {}", counted(metadata.brokers().len(), "broker"));
        }
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.map_or(0, |found| found.partitions().len());
        text += &match partitions {
            0 => format!("\n  {name}: topic {topic} is not there yet"),
            count => format!("\n  {name}: topic {topic} has {}", counted(count, "partition")),
        };
    }
    Ok(text)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
