//! What the configuration targets share: a report of made-up sources, and everything that it says to people.

use std::path::Path;

use sluicegate::config::{Report, Sources};

use super::memory;

/// A file of 1 MiB may be read, and aliases may unfold into 20,000 nodes.
const BYTES_MAX: usize = 64 << 20;

/// Of what is in the folder, and of these variables alone.
pub fn report(folder: &Path, environment: &[(&str, &str)]) -> Report {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let sources = Sources { file: None, flows: Vec::new(), environment, folder: folder.to_owned() };
    memory::at_most(BYTES_MAX, || sources.report())
}

/// Key, value and origin of each line.
pub fn lines(report: &Report) -> Vec<(&'static str, String, String)> {
    report.lines().map(|(path, value, origin)| (path, value, origin.to_string())).collect()
}

/// Everything that is ever shown of a configuration.
pub fn all(report: &Report) -> String {
    let lines: Vec<String> = report.lines().map(|(path, value, origin)| format!("{path} = {value} ({origin})")).collect();
    match &report.config {
        Ok(config) => format!("{}\n{config:?}", lines.join("\n")),
        Err(findings) => format!("{}\n{findings}\n{findings:?}", lines.join("\n")),
    }
}

/// For a terminal: no control characters, and no finding that fills the screen.
pub fn fits_a_terminal(report: &Report) {
    let is_plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
    for (path, value, _) in report.lines() {
        assert!(is_plain(&value), "{path} = {value:?}");
    }
    for finding in report.config.as_ref().err().into_iter().flat_map(|findings| &findings.0) {
        assert!(!finding.rule.is_empty() && !finding.cure.is_empty(), "{finding:?}");
        let text = finding.to_string();
        assert!(is_plain(&text) && text.len() < 2000, "{} bytes: {text:?}", text.len());
    }
}
