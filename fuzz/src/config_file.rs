//! A configuration file, YAML or JSON, whatever is in it: there is a configuration or a list of findings that a terminal
//! can show. A password from elsewhere is never in it. JSON means what serde_json reads in it, and what a file says can
//! be said in the environment too.

use serde_json::Value;

use super::said;

const SECRET: &str = "canary-of-the-environment";
const ENVIRONMENT: [(&str, &str); 2] =
    [("DB_URL", "postgres://u:canary-of-the-environment@h/d"), ("PGPASSWORD", SECRET)];

pub fn run(text: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sluicegate.yaml");
    std::fs::write(&file, text).expect("a file");
    let report = said::report(folder.path(), &ENVIRONMENT);
    said::fits_a_terminal(&report);
    assert!(!said::all(&report).contains(SECRET), "{}", said::all(&report));
    let is_read = !said::all(&report).contains("is not YAML or JSON");

    if let Ok(tree @ Value::Object(_)) = serde_json::from_slice::<Value>(text) {
        std::fs::write(&file, tree.to_string()).expect("a file");
        let again = said::report(folder.path(), &ENVIRONMENT);
        // A key that is there twice is refused, and serde_json keeps the last one. No key takes a fraction.
        let is_equal = said::lines(&report) == said::lines(&again);
        assert!(!is_read || is_equal || has_fraction(&tree), "{}\n\nand as serde_json writes it\n\n{}", said::all(&report), said::all(&again));
    }

    let given: Vec<(String, String)> = said::lines(&report)
        .into_iter()
        .filter(|(path, value, origin)| origin.contains("sluicegate.yaml") && can_be_a_variable(path, value))
        .map(|(path, value, _)| (format!("SLUICEGATE_{}", path.replace('.', "_").to_uppercase()), value))
        .collect();
    if !given.is_empty() {
        std::fs::write(&file, "").expect("a file");
        let mut environment = ENVIRONMENT.to_vec();
        environment.extend(given.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let again = said::report(folder.path(), &environment);
        for (path, value, _) in said::lines(&report) {
            let name = format!("SLUICEGATE_{}", path.replace('.', "_").to_uppercase());
            if given.iter().any(|(given, _)| *given == name) {
                let now = said::lines(&again).into_iter().find(|(other, ..)| *other == path).map(|(_, value, _)| value);
                assert_eq!(now.as_ref(), Some(&value), "{path} in the file and in the environment");
            }
        }
    }
}

fn has_fraction(tree: &Value) -> bool {
    match tree {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(pairs) => pairs.values().any(has_fraction),
        _ => false,
    }
}

/// Whether it was shown whole and is a plain word: lists are, as long as no item has a comma.
fn can_be_a_variable(path: &str, value: &str) -> bool {
    let is_hidden = path.ends_with("password") || path.ends_with("url") || path.ends_with("options");
    let is_list = path.ends_with("brokers") || path.ends_with("schema_files");
    !is_hidden && !is_list && !value.trim().is_empty() && !value.contains('…') && !value.contains('?')
}
