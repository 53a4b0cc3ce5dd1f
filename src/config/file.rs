//! The file as written: YAML or JSON, a tree of sections. Out come the values by full path and what is
//! wrong with the tree itself. What a value means is not asked here, and no value is ever quoted. Paths of the replaced
//! sink's file are in `replaced`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::check::{Finding, Origin};
use super::{keys, replaced};

/// A configuration of every key with comments has 10 KiB. Past this it is the wrong file, or an endless one.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Default)]
pub struct Written {
    pub origin: Origin,
    pub values: BTreeMap<String, Value>,
    /// By key, the name that it has in the file where that is another one.
    names: BTreeMap<String, &'static str>,
    pub findings: Vec<Finding>,
    /// What is no mistake, and does not do what one might think.
    pub notes: Vec<String>,
    /// Nothing could be read, so that a key that is missing may only seem so.
    pub is_broken: bool,
    /// Whether it has anything of the replaced sink's form.
    pub is_replaced: bool,
}

impl Written {
    /// `name`: what the file calls the key, where that is another name than its own.
    pub fn add(&mut self, key: &str, name: Option<&'static str>, value: Value) {
        if let Some(former) = self.values.get(key) {
            let both_renamed = name.is_some() && self.is_renamed(key);
            if !(both_renamed && *former == value) {
                let other = self.names.get(key).copied().unwrap_or(key);
                let rule = format!("is the same key as {other}, and both are given");
                let origin = self.origin.clone();
                self.findings.push(Finding::new(name.unwrap_or(key), None, origin, rule, "keep one of the two"));
            }
            return;
        }
        if let Some(name) = name {
            self.names.insert(key.to_owned(), name);
        }
        self.values.insert(key.to_owned(), value);
    }

    pub fn is_renamed(&self, key: &str) -> bool {
        self.names.contains_key(key)
    }

    pub fn origin_of(&self, key: &str) -> Origin {
        match (&self.origin, self.names.get(key)) {
            (Origin::File(path), Some(name)) => Origin::Renamed(path.clone(), name),
            (origin, _) => origin.clone(),
        }
    }
}

pub fn read(path: &Path) -> Written {
    let origin = Origin::File(path.to_owned());
    let broken = |rule: String, cure: &str| Written {
        findings: vec![Finding::new("", None, origin.clone(), rule, cure)],
        is_broken: true,
        ..Written::default()
    };

    let mut bytes = Vec::new();
    let reading = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = reading {
        return broken(format!("cannot be read: {error}"), "give the path of a file that this user may read");
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return broken(format!("is over {FILE_BYTES_MAX} bytes"), "give the path of a configuration file");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return broken("is not UTF-8".to_owned(), "save it as UTF-8");
    };
    match parse(text.trim_start_matches('\u{feff}')) {
        Ok(tree) => {
            let mut written = Written { origin, ..Written::default() };
            walk("", tree, &mut written);
            replaced::choose_flow(&mut written);
            written
        }
        Err(rule) => {
            broken(format!("is not YAML or JSON: {rule}"), "mend that place; `sluicegate check` reads it again")
        }
    }
}

/// JSON goes the same way: it is YAML, and serde_json would let a key that is given twice pass.
fn parse(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        // A snippet would show lines around the fault, with whatever password is in them.
        with_snippet: false,
        // Aliases that unfold into each other must not cost more than the file is worth.
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 20_000, max_events: 100_000, max_documents: 1 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

fn walk(section: &str, tree: Value, written: &mut Written) {
    let children = match tree {
        Value::Object(children) => children,
        // A section whose lines are all commented out, and an empty file.
        Value::Null => return,
        _ => {
            let name = if section.is_empty() { "the file" } else { section };
            let cure = "write `name: value` lines below it, indented";
            written.findings.push(Finding::new(
                section,
                None,
                written.origin.clone(),
                format!("{name} must hold sections"),
                cure,
            ));
            return;
        }
    };
    for (name, value) in children {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        if !name.contains('.') && replaced::take(&path, &value, written) {
            continue;
        }
        let is_section = keys::is_section(&path) || replaced::is_section(&path);
        if name.contains('.') || !(keys::find(&path).is_some() || is_section) {
            written.findings.push(unknown(section, &name, &path, &written.origin));
        } else if is_section {
            walk(&path, value, written);
        } else if !value.is_null() {
            written.add(&path, None, value);
        }
    }
}

fn unknown(section: &str, name: &str, path: &str, origin: &Origin) -> Finding {
    let known = || keys::KEYS.iter().map(|key| key.path.as_str());
    let is_leaf = |path: &str| path.rsplit('.').next() == Some(name);
    let ours = keys::KEYS.iter().map(|key| key.path.as_str());
    let below = ours.chain(replaced::names().map(|(path, _)| path)).filter_map(|path| {
        let rest = path.strip_prefix(section)?;
        rest.trim_start_matches('.').split('.').next()
    });
    let cure = if keys::find(path).is_some() {
        let (parent, leaf) = path.rsplit_once('.').unwrap_or(("", path));
        format!("write `{leaf}:` in a line of its own, indented below `{parent}:`")
    } else if let Some(near) = keys::nearest(name, below) {
        format!("did you mean `{near}`?")
    } else if let Some(near) = keys::nearest(path, known()) {
        format!("did you mean {near}?")
    } else if known().any(is_leaf) {
        format!("did you mean {}?", known().filter(|path| is_leaf(path)).collect::<Vec<_>>().join(" or "))
    } else {
        "remove it; docs/CONFIG.md lists every key".to_owned()
    };
    Finding::new(path, None, origin.clone(), "is not a key", cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Written {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn cures(text: &str) -> Vec<String> {
        read_text(text).findings.into_iter().map(|finding| format!("{}: {}", finding.key, finding.cure)).collect()
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = read_text("kafka:\n  brokers: [a:1]\nhttp: {port: 1}\n");
        let json = read_text("{\"kafka\": {\"brokers\": [\"a:1\"]},\n\t\"http\": {\"port\": 1}}");
        assert!(yaml.findings.is_empty() && json.findings.is_empty(), "{:?}", json.findings);
        assert_eq!(yaml.values.len(), 2);
        assert_eq!(yaml.values, json.values);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_key_that_was_meant() {
        assert_eq!(cures("kafka:\n  broker: x"), ["kafka.broker: did you mean `brokers`?"]);
        assert_eq!(cures("kafak:\n  brokers: x"), ["kafak: did you mean `kafka`?"]);
        assert_eq!(
            cures("flows: {status: {batchRowsMax: 1}}"),
            ["flows.status.batchRowsMax: did you mean `batch_rows_max`?"]
        );
        assert_eq!(cures("flows: {statsu: {topic: x}}"), ["flows.statsu: did you mean `status`?"]);
        assert_eq!(
            cures("group_id: x"),
            [
                "group_id: did you mean flows.cdc.group_id or flows.events.group_id or flows.orders.group_id or flows.status.group_id or flows.tickets.group_id?"
            ]
        );
        assert_eq!(
            cures("kafka.brokers: x"),
            ["kafka.brokers: write `brokers:` in a line of its own, indented below `kafka:`"]
        );
        assert_eq!(cures("banana: 1"), ["banana: remove it; docs/CONFIG.md lists every key"]);
    }

    #[test]
    fn nothing_and_sections_of_comments_only_are_no_mistake() {
        for text in ["", "# nothing\n", "\u{feff}", "kafka:\n  # brokers: x\n", "http:\n  port:\n", "---\n"] {
            let written = read_text(text);
            assert!(written.findings.is_empty() && written.values.is_empty(), "{text:?} {:?}", written.findings);
        }
    }

    #[test]
    fn a_tree_of_the_wrong_shape_is_a_finding() {
        for text in ["kafka: x", "kafka: [a]", "just text", "- a\n- b", "flows: {status: true}"] {
            let written = read_text(text);
            assert_eq!(written.findings.len(), 1, "{text}");
            assert!(written.findings[0].rule.ends_with("must hold sections"), "{text}");
        }
    }

    #[test]
    fn a_key_given_twice_a_second_document_and_an_alias_bomb_are_refused() {
        let bomb = (1..40).fold("a0: &a0 [x,x]\n".to_owned(), |text, i| {
            format!("{text}a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))
        });
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            "http: {port: 1, port: 2}",
            "{\"a\":1,\"a\":2}",
            "a: 1\n---\nb: 2\n",
            &bomb,
            &deep,
            "\tkafka: x: y",
            "!!python/object:os.system {}: ",
        ] {
            let written = read_text(text);
            assert!(written.is_broken && written.findings.len() == 1, "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn a_fault_in_the_syntax_shows_no_line_of_the_file() {
        for text in
            ["postgres:\n  url: \"postgres://u:canary@h/d\n", "postgres: {url: canary, url: canary, : [", "a: *canary"]
        {
            let written = read_text(text);
            assert!(written.is_broken);
            let shown = format!("{:?}", written.findings);
            assert!(!shown.contains("canary@") && !shown.contains("url: canary"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_readable_file_is_a_finding() {
        for path in ["/", "/nowhere/x.yaml", "/dev/zero"] {
            let written = read(Path::new(path));
            assert!(written.is_broken, "{path}");
        }
    }
}
