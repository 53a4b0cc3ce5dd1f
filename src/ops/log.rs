//! Log lines to stderr, as text or as JSON. Libraries speak up from warnings on.

use std::io::Write;

use log::LevelFilter;
use serde_json::json;

pub fn start(level: LevelFilter, as_json: bool) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.min(LevelFilter::Warn)).filter_module("sluicegate", level);
    builder.format(move |out, record| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("?");
        let time = out.timestamp_millis();
        match as_json {
            true => {
                let line = json!({
                    "time": time.to_string(),
                    "level": record.level().as_str().to_lowercase(),
                    "thread": thread,
                    "message": record.args().to_string(),
                });
                writeln!(out, "{line}")
            }
            false => writeln!(out, "{time} {:<5} {thread}: {}", record.level(), record.args()),
        }
    });
    builder.init();
}
