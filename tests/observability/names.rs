//! What an expression of Prometheus names: its metrics with the labels that it selects them by, and the labels that it
//! groups by. It reads as much of the language as our rules and dashboards use.

use std::collections::BTreeSet;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub metrics: BTreeSet<String>,
    /// Metric and label.
    pub selected: BTreeSet<(String, String)>,
    pub grouped: BTreeSet<String>,
}

const GROUPS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];

pub fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '"' | '[' | '0'..='9')) {
        rest = &rest[start..];
        let end = match rest.as_bytes()[0] {
            b'"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            b'[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            _ => rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        let is_word = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let next = after.trim_start();
        if !is_word || WORDS.contains(&word) {
            continue;
        }
        if GROUPS.contains(&word) {
            let (labels, after) = next.trim_start_matches('(').split_once(')').unwrap_or((next, ""));
            names.grouped.extend(labels.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        } else if let Some(matchers) = next.strip_prefix('{') {
            let (matchers, after) = matchers.split_once('}').unwrap_or((matchers, ""));
            let labels = matchers.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
            let labels = labels.map(str::trim).filter(|label| !label.is_empty());
            names.selected.extend(labels.map(|label| (word.to_owned(), label.to_owned())));
            names.metrics.insert(word.to_owned());
            rest = after;
        } else if !next.starts_with('(') && !GROUPS.iter().any(|group| next.starts_with(&format!("{group} ("))) {
            names.metrics.insert(word.to_owned());
        }
    }
    names
}

#[test]
fn metrics_and_labels_are_told_from_the_words_of_the_language() {
    let found = names(
        r#"histogram_quantile(0.99, sum by (flow, le) (rate(a_bucket{x="b",y!~"c|d"}[5m]))) > 2 * 25e9
           and max without (z) (b_total offset 15m) or vector(0) unless on (w) count(c == 0)"#,
    );
    let set = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(found.metrics, set(&["a_bucket", "b_total", "c"]));
    assert_eq!(found.grouped, set(&["flow", "le", "w", "z"]));
    let pair = |label: &str| ("a_bucket".to_owned(), label.to_owned());
    assert_eq!(found.selected, BTreeSet::from([pair("x"), pair("y")]));
}
