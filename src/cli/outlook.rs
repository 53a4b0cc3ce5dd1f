//! What `check --connect` says of flows whose tables follow their records: which table each topic would have, and what
//! would have to be done for that. It reads a few records of each topic and the catalog, and changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{self, Config};
use crate::fault::Fault;
use crate::flow::{self, Outlook, Preview};
use crate::kafka::peek::{Kept, Peek};
use crate::ops::log::one_line;
use crate::pg::Database;
use crate::record::Record;
use crate::run;

/// More of them are not looked at: a minute or two at most is spent here.
const TOPICS_MAX: usize = 200;
/// Behind deletions and tombstones there is nearly always a row among these.
const RECORDS_MAX: i64 = 20;
const PATIENCE: Duration = Duration::from_secs(3);

/// Lines for people, and whether nothing would be refused.
pub fn look(config: &Config) -> Result<(String, bool), String> {
    let (mut text, mut is_well) = (String::new(), true);
    for (name, flow) in config.enabled() {
        let Some(outlook) = flow::outlook(name, flow).map_err(|cause| format!("{name}: {cause}"))? else { continue };
        let of_flow = |fault: Fault| format!("{name}: {fault}");
        let peek = Peek::new(&config.kafka.brokers.join(","), &config.kafka.options, PATIENCE).map_err(of_flow)?;
        let database = run::database_for_check(config, flow).map_err(|cause| format!("{name}: {cause}"))?;
        let topics = peek.topics().map_err(of_flow)?;
        let topics: Vec<_> = topics.into_iter().filter(|(topic, _)| config::takes_topic(&flow.topics, topic)).collect();
        if topics.is_empty() {
            text += &format!("{name}: no topic matches {}\n", one_line(&flow.topics.join(", ")));
        }
        let mut sources = BTreeMap::new();
        for (topic, partitions) in topics.iter().take(TOPICS_MAX) {
            let seen =
                peek.newest(topic, *partitions, RECORDS_MAX).and_then(|kept| preview(&*outlook, &database, &kept));
            let (line, is_right) = match seen {
                Ok(Seen::Nothing) => ("has no record yet".to_owned(), true),
                Ok(Seen::NoRow(count)) => (format!("has no row in its newest {count} records, or is left out"), true),
                Ok(Seen::Table(preview)) => match sources.insert(preview.table.clone(), preview.source.clone()) {
                    Some(other) if other != preview.source => {
                        let cure = "which would be mixed: give one of them another name";
                        (
                            format!("would be refused: {} has {} and {other}, {cure}", preview.table, preview.source),
                            false,
                        )
                    }
                    _ => (described(&preview), true),
                },
                Err(Fault::Retry(cause)) => (one_line(&format!("cannot be looked at: {cause}")), false),
                Err(fault) => (one_line(&format!("would be refused: {fault}")), false),
            };
            is_well &= is_right;
            text += &format!("{name}: topic {topic} {}\n", line.replace('\n', "\n    "));
        }
        if topics.len() > TOPICS_MAX {
            text += &format!("{name}: {} more topics match and are not looked at\n", topics.len() - TOPICS_MAX);
        }
    }
    Ok((text, is_well))
}

enum Seen {
    Nothing,
    NoRow(usize),
    Table(Preview),
}

fn preview(outlook: &dyn Outlook, database: &Database, kept: &[Kept]) -> Result<Seen, Fault> {
    if kept.is_empty() {
        return Ok(Seen::Nothing);
    }
    let records: Vec<Record<'_>> = kept.iter().map(Kept::record).collect();
    let mut session = database.session()?;
    let mut work = session.begin()?;
    work.run("SET TRANSACTION READ ONLY")?;
    Ok(outlook.preview(&records, &mut work)?.map_or(Seen::NoRow(kept.len()), Seen::Table))
}

/// What becomes of the table, and what it is like.
fn described(preview: &Preview) -> String {
    let fate = match (preview.is_there, preview.changes.is_empty()) {
        (false, _) => "would be made",
        (true, true) => "fits",
        (true, false) => "would be changed",
    };
    let key = match preview.key.as_slice() {
        [] => "no key".to_owned(),
        key => format!("key {}", key.join(", ")),
    };
    let mut lines = vec![format!("-> {}: {fate}", preview.table), format!("{key}; {}", preview.columns.join(", "))];
    if preview.is_there {
        lines.extend(preview.changes.iter().cloned());
    }
    if preview.is_guess {
        lines.push("no schema: types are those of the values that were seen".to_owned());
    }
    if !preview.by_name.is_empty() {
        lines.push(format!("by the rules for names: {}", preview.by_name.join(", ")));
    }
    if !preview.left_out.is_empty() {
        lines.push(format!("left out, as the table generates them: {}", preview.left_out.join(", ")));
    }
    // A name may have line breaks of its own.
    lines.iter().map(|line| one_line(line)).collect::<Vec<String>>().join("\n")
}
