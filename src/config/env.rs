//! The environment and `.env`: names to values, with where each came from. A variable that is set to
//! nothing counts as not set, because that is what `DB_URL=${DB_URL}` leaves behind in a compose file.
//! The environment of the process is read and never changed.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::{Finding, Origin};
use super::keys::{self, ENV_PREFIX, KEYS};

/// Names the configuration file, and is no key itself.
pub const CONFIG: &str = "SLUICEGATE_CONFIG";

/// What the project's own scripts and tests go by; none is a key.
const OF_SCRIPTS: [&str; 9] = [
    "SLUICEGATE_RUN_DIR",
    "SLUICEGATE_TOOLS_DIR",
    "SLUICEGATE_KAFKA_PORT",
    "SLUICEGATE_KAFKA_HEAP",
    "SLUICEGATE_POSTGRES_PORT",
    "SLUICEGATE_START_TIMEOUT_S",
    "SLUICEGATE_TEST_SERVICES",
    "SLUICEGATE_SIM_SEEDS",
    "SLUICEGATE_SIM_SEED",
];

#[derive(Default)]
pub struct Variables {
    found: BTreeMap<String, (String, Origin)>,
    pub findings: Vec<Finding>,
}

impl Variables {
    /// `process` wins over the `.env` in `folder`, name by name.
    pub fn read(process: &[(String, String)], folder: &Path) -> Variables {
        let mut variables = Variables::default();
        variables.read_file(&folder.join(".env"));
        for (name, value) in process {
            variables.add(name, value, Origin::Environment(name.clone()));
        }
        variables
    }

    pub fn get(&self, name: &str) -> Option<(&str, &Origin)> {
        self.found.get(name).map(|(value, origin)| (value.as_str(), origin))
    }

    /// The value of a key: of all its names, the process environment before `.env`, and then the first.
    pub fn of(&self, names: &[String]) -> Option<(&str, &Origin)> {
        let given: Vec<_> = names.iter().filter_map(|name| self.get(name)).collect();
        let process = given.iter().find(|(_, origin)| matches!(origin, Origin::Environment(_)));
        process.or(given.first()).copied()
    }

    fn add(&mut self, name: &str, value: &str, origin: Origin) {
        if value.trim().is_empty() {
            return;
        }
        let is_ours =
            name.starts_with(ENV_PREFIX) && name != CONFIG && !OF_SCRIPTS.contains(&name) && !is_service_link(name);
        if is_ours && !names().any(|known| known == name) {
            let cure = match keys::nearest(name, names()) {
                Some(near) => format!("did you mean {near}?"),
                None => "unset it; docs/CONFIG.md lists every name".to_owned(),
            };
            self.findings.push(Finding::new(name, None, origin, "is not a key", cure));
            return;
        }
        self.found.insert(name.to_owned(), (value.to_owned(), origin));
    }

    fn read_file(&mut self, path: &Path) {
        let unreadable =
            |rule: String| Finding::new("", None, Origin::File(path.to_owned()), rule, "make it readable or remove it");
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.findings.push(unreadable(format!("cannot be read: {error}"))),
        };
        for line in dotenvy::from_read_iter(text.trim_start_matches('\u{feff}').as_bytes()) {
            match line {
                Ok((name, value)) => self.add(&name, &value, Origin::DotEnv(name.clone())),
                Err(dotenvy::Error::LineParse(part, _)) => {
                    let (name, place) = place_of(&part, &text);
                    let rule = format!("is in a line that cannot be read{place}");
                    let cure = "write NAME=value, with single quotes around a value that has spaces, quotes or $";
                    self.findings.push(Finding::new(name, None, Origin::File(path.to_owned()), rule, cure));
                }
                Err(_) => return self.findings.push(unreadable("cannot be read to its end".to_owned())),
            }
        }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.env.iter().map(String::as_str))
}

/// Where a part that dotenvy could not read stands: the name before the first `=` of that line, and its
/// number. The part itself must not be shown: it can be the rest of a password.
fn place_of(part: &str, text: &str) -> (String, String) {
    let end = part.lines().next().unwrap_or("").trim_end();
    let found = text.lines().enumerate().find(|(_, line)| line.trim_end().ends_with(end));
    let Some((number, line)) = found else { return (String::new(), String::new()) };
    let name = line.split_once('=').map_or("", |(name, _)| name.trim().trim_start_matches("export ").trim());
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (if is_name { name.to_owned() } else { String::new() }, format!(" ({})", number + 1))
}

/// Kubernetes announces a service called `sluicegate` to every container by names like these.
fn is_service_link(name: &str) -> bool {
    let rest = name.trim_start_matches(ENV_PREFIX);
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(process: &[(&str, &str)], dot_env: &str) -> Variables {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), dot_env).unwrap();
        let process: Vec<_> = process.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Variables::read(&process, folder.path())
    }

    fn of(variables: &Variables, path: &str) -> Option<String> {
        let key = keys::find(path).unwrap();
        variables.of(&key.env).map(|(value, origin)| format!("{value} ({origin})"))
    }

    #[test]
    fn the_process_wins_over_the_file_and_our_name_over_the_names_of_others() {
        let both = read(&[("KAFKA_TOPIC", "a")], "KAFKA_TOPIC=b\nSLUICEGATE_FLOWS_STATUS_TOPIC=c\nSERVER_PORT=1\n");
        assert_eq!(of(&both, "flows.status.topic").unwrap(), "a (environment KAFKA_TOPIC)");
        assert_eq!(of(&both, "http.port").unwrap(), "1 (.env SERVER_PORT)");
        let names = read(&[("KAFKA_TOPIC", "a"), ("SLUICEGATE_FLOWS_STATUS_TOPIC", "c")], "");
        assert_eq!(of(&names, "flows.status.topic").unwrap(), "c (environment SLUICEGATE_FLOWS_STATUS_TOPIC)");
    }

    #[test]
    fn a_variable_set_to_nothing_is_not_set_and_uncovers_the_file() {
        let variables = read(&[("KAFKA_TOPIC", " "), ("SERVER_PORT", "")], "KAFKA_TOPIC=b\n");
        assert_eq!(of(&variables, "flows.status.topic").unwrap(), "b (.env KAFKA_TOPIC)");
        assert_eq!(of(&variables, "http.port"), None);
    }

    #[test]
    fn an_unknown_name_of_ours_is_a_finding_and_one_of_others_is_not() {
        let process = [
            ("SLUICEGATE_KAFKA_BROKER", "x"),
            ("SLUICEGATE_SERVICE_HOST", "10.0.0.1"),
            ("SLUICEGATE_PORT", "tcp://10.0.0.1:80"),
            (CONFIG, "x.yaml"),
            ("KAFKA_OPTS", "x"),
        ];
        let findings = read(&process, "OTHER=1\n").findings;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].cure, "did you mean SLUICEGATE_KAFKA_BROKERS?");
    }

    #[test]
    fn comments_quotes_and_export_are_read_and_a_broken_line_is_not_quoted() {
        let variables = read(&[], "# x\nexport SERVER_PORT='1'\nDB_URL=a b canary\nKAFKA_TOPIC=\"t\" # y\n");
        assert_eq!(of(&variables, "http.port").unwrap(), "1 (.env SERVER_PORT)");
        assert_eq!(of(&variables, "flows.status.topic").unwrap(), "t (.env KAFKA_TOPIC)");
        assert_eq!(variables.findings.len(), 1);
        assert_eq!(variables.findings[0].key, "DB_URL");
        assert_eq!(variables.findings[0].rule, "is in a line that cannot be read (3)");
        for text in
            ["DB_URL=a b canary\n", "canary\n", "DB_URL='canary\nx\n", "DB_URL=canary'x y\n", "x canary=canary y z\n"]
        {
            let findings = read(&[], text).findings;
            assert!(!format!("{findings:?}").contains("canary"), "{text:?} {findings:?}");
        }
    }
}
