//! A strict reader of the text format of Prometheus: whatever a scraper might stumble over is an error here.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = Vec<(String, String)>;

#[derive(Default)]
pub struct Exposition {
    pub kinds: BTreeMap<String, String>,
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.samples.get(&(name.to_string(), labels)).copied()
    }
}

pub fn parse(text: &str) -> Result<Exposition, String> {
    let mut found = Exposition::default();
    let mut helped: Option<String> = None;
    let mut family: Option<(String, String)> = None;
    let mut sampled = BTreeSet::new();
    if !text.ends_with('\n') {
        return Err("the last line does not end".into());
    }
    for line in text.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(help) = line.strip_prefix("# HELP ") {
            let Some((name, text)) = help.split_once(' ') else { return wrong("no help text") };
            if text.trim().is_empty() || !is_name(name) || found.kinds.contains_key(name) {
                return wrong("an empty help text, no name, or the second help of a name");
            }
            helped = Some(name.to_string());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = kind.split_once(' ') else { return wrong("no type") };
            if helped.take().as_deref() != Some(name) {
                return wrong("a type that does not follow its help");
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return wrong("an unknown type");
            }
            found.kinds.insert(name.to_string(), kind.to_string());
            family = Some((name.to_string(), kind.to_string()));
        } else {
            let (name, labels, value) = sample(line)?;
            let Some((family, kind)) = &family else { return wrong("a sample before its type") };
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if helped.is_some() || !suffixes.iter().any(|suffix| name == format!("{family}{suffix}")) {
                return wrong("a sample outside its family");
            }
            if kind != "gauge" && !(value >= 0.0 && value.is_finite()) {
                return wrong("a counter that is negative or no number");
            }
            sampled.insert(family.clone());
            if found.samples.insert((name, labels), value).is_some() {
                return wrong("the same sample twice");
            }
        }
    }
    if let Some(name) = found.kinds.keys().find(|name| !sampled.contains(*name)) {
        return Err(format!("a family without a sample: {name}"));
    }
    histograms(&found)?;
    Ok(found)
}

fn histograms(found: &Exposition) -> Result<(), String> {
    for (name, _) in found.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for ((_, labels), value) in found.samples.iter().filter(|((sample, _), _)| *sample == format!("{name}_bucket"))
        {
            let Some(((last, bound), rest)) = labels.split_last() else { return Err(format!("{name}: no bound")) };
            if last != "le" {
                return Err(format!("{name}: no bound"));
            }
            let bound =
                if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| format!("{name}: {bound}"))? };
            series.entry(rest.to_vec()).or_default().push((bound, *value));
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            if buckets.windows(2).any(|pair| pair[0].0 >= pair[1].0 || pair[0].1 > pair[1].1) {
                return Err(format!("{name}: buckets are not cumulative: {buckets:?}"));
            }
            let (last, all) = buckets[buckets.len() - 1];
            if last != f64::INFINITY || found.samples.get(&(format!("{name}_count"), labels.clone())) != Some(&all) {
                return Err(format!("{name}: the last bucket is not the count"));
            }
            if !found.samples.contains_key(&(format!("{name}_sum"), labels)) {
                return Err(format!("{name}: no sum"));
            }
        }
    }
    Ok(())
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let wrong = || format!("not a sample: {line:?}");
    let (series, value) = line.rsplit_once(' ').ok_or_else(wrong)?;
    let value = value.parse().map_err(|_| wrong())?;
    let Some((name, labels)) = series.split_once('{') else {
        return if is_name(series) { Ok((series.into(), Vec::new(), value)) } else { Err(wrong()) };
    };
    let mut rest = labels.strip_suffix('}').ok_or_else(wrong)?;
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").ok_or_else(wrong)?;
        let end = quoted.find('"').ok_or_else(wrong)?;
        if !is_name(label) || quoted[..end].contains('\\') || labels.iter().any(|(known, _)| known == label) {
            return Err(wrong());
        }
        labels.push((label.into(), quoted[..end].into()));
        rest = &quoted[end + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').filter(|rest| !rest.is_empty()).ok_or_else(wrong)?;
        }
    }
    if is_name(name) { Ok((name.into(), labels, value)) } else { Err(wrong()) }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[test]
fn the_reader_is_strict() {
    let head = "# HELP a_total Help.\n# TYPE a_total counter\n";
    assert!(parse(&format!("{head}a_total{{x=\"1\"}} 1\na_total{{x=\"2\"}} 1\n")).is_ok());
    for bad in [
        "a_total 1\n".to_string(),
        head.to_string(),
        format!("{head}a_total 1"),
        format!("{head}a_total 1\na_total 1\n"),
        format!("{head}b_total 1\n"),
        format!("{head}a_total -1\n"),
        format!("{head}a_total{{x=\"1\"}}\n"),
        format!("{head}a_total 1\n{head}a_total{{x=\"1\"}} 1\n"),
        "# TYPE a_total counter\na_total 1\n".to_string(),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
    let head = "# HELP h Help.\n# TYPE h histogram\n";
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n")).is_ok());
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n")).is_err());
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 3\n")).is_err());
    assert!(parse(&format!("{head}h_bucket{{le=\"1\"}} 1\nh_sum 3\nh_count 1\n")).is_err());
}
