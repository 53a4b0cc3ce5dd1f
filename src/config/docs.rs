//! What is written about the keys, made from their table: an example file, and `docs/CONFIG.md`. The
//! tests here fail when `sluicegate.example.yaml` or that page differ; `UPDATE_EXPECT=1 cargo test
//! config::docs` writes them again.

use std::fmt::Write;

use serde_json::Value;

use super::keys::{Fallback, KEYS, Key};
use super::kind::Kind;

const EXAMPLE_HEAD: &str = "\
# Every key with its default. Keep the lines that you change; docs/CONFIG.md says what else there is to know.
";

/// A file of every key with its default and a line about it.
pub fn example() -> String {
    let mut text = EXAMPLE_HEAD.to_owned();
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS.iter() {
        let mut path: Vec<&str> = key.path.split('.').collect();
        let leaf = path.pop().unwrap_or_default();
        let shared = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
        if shared < path.len() || path.is_empty() {
            text.push('\n');
        }
        for (depth, name) in path.iter().enumerate().skip(shared) {
            let _ = writeln!(text, "{}{name}:", "  ".repeat(depth));
        }
        let indent = "  ".repeat(path.len());
        let _ = writeln!(text, "{indent}# {} ({})", key.help, key.kind);
        let (mark, value) = written(key);
        let _ = writeln!(text, "{indent}{mark}{leaf}: {value}");
        open = path;
    }
    text
}

/// The default as one writes it in YAML, and whether the line is only a suggestion.
fn written(key: &Key) -> (&'static str, String) {
    let text = match key.default {
        Fallback::Is(text) => text,
        Fallback::Required => {
            return ("", "postgres://postgres@localhost:5432/processed_data_db?sslmode=disable".to_owned());
        }
        Fallback::Unset => return ("# ", "\"…\"".to_owned()),
    };
    match key.kind {
        Kind::List(_) | Kind::Map(_) | Kind::Handlers => {
            ("", key.kind.settle(&text.into()).expect("a default is right").to_string())
        }
        // A bare `off` would be a boolean to some readers of YAML.
        Kind::Text(_) | Kind::Word(_) | Kind::Level => ("", Value::from(text).to_string()),
        _ => ("", text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::replaced;

    const HEAD: &str = "\
# Configuration

Every key can be written in a YAML or JSON file and in the environment. Of several places the strongest counts:

1. `--flow` on the command line (for `enabled` only)
2. the environment
3. `.env` in the working directory
4. the file: `--config FILE`, or the one that `SLUICEGATE_CONFIG` names, or `sluicegate.yaml` in the working directory
5. the default

`sluicegate check` shows every key with its value and where that came from, and everything that is wrong, at once.
`sluicegate check --connect` asks PostgreSQL and Kafka too. `sluicegate check --example` prints a file of every key
with its default, the same as `sluicegate.example.yaml`.

- Each key has the name in the environment that follows from its path, as listed. Most of the rest are names that older
  programs used; among the names of one key, in one place, the first listed wins.
- A variable that is set to nothing, and a key without a value in the file, count as not given.
- An unknown key in the file or an unknown name that begins with `SLUICEGATE_` is an error. (Names that Kubernetes sets for a
  service called `sluicegate` are passed over.) A key given twice in the file is an error.
- In the environment a list is written with commas, a map as `name=value,name=value`; either may be JSON where a value has
  commas. A list or map replaces the one of a weaker place, nothing is merged.
- In `.env`, `$NAME` is replaced by that variable: put a value that has `$`, `#`, quotes or spaces in single quotes.
- Passwords, also within a URL or in `kafka.options`, are shown as `***`.
";

    const REPLACED_HEAD: &str = "
## The Python sink's file

A file of the sink that the cdc flow replaces works as it is. What it calls otherwise is listed here; the rest are the keys
above. With any of these names, and nothing below `flows`, the file runs the cdc flow alone.

| in that file | key |
| --- | --- |
";

    /// Of a table. A bar would end its cell, in a code span too.
    fn line(cells: &[&str]) -> String {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    }

    fn markdown() -> String {
        let mut text = HEAD.to_owned();
        let mut section = None;
        for key in KEYS.iter() {
            let (parent, leaf) = key.path.rsplit_once('.').unwrap_or(("At the top", &key.path));
            if section != Some(parent) {
                section = Some(parent);
                let _ = write!(
                    text,
                    "\n## {parent}\n\n| key | what it holds | default | in the environment |\n| --- | --- | --- | --- |\n"
                );
            }
            let default = match key.default {
                Fallback::Is("") => "none".to_owned(),
                Fallback::Is(text) => format!("`{text}`"),
                Fallback::Required => "**required**, or its parts below".to_owned(),
                Fallback::Unset => "not set".to_owned(),
            };
            let names = key.env.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let what = format!("{} ({})", key.help, key.kind);
            text += &line(&[&format!("`{leaf}`"), &what, &default, &names]);
        }
        text += REPLACED_HEAD;
        for (path, key) in replaced::names() {
            let key = key.map_or("no key: CDC.md says what becomes of it".to_owned(), |key| format!("`{key}`"));
            text += &line(&[&format!("`{path}`"), &key]);
        }
        text
    }

    fn compare(name: &str, expected: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{name} differs from the table of keys: UPDATE_EXPECT=1 cargo test config::docs");
    }

    #[test]
    fn the_page_about_configuration_says_what_the_table_says() {
        compare("docs/CONFIG.md", &markdown());
    }

    #[test]
    fn the_example_holds_every_key_with_its_default() {
        compare("sluicegate.example.yaml", &example());
    }
}
