//! Log lines to standard error, and to a file where one is named, for people or as JSON, one line a record whatever is in
//! its message.
//! Decides how lines look and which are written; what is worth a line is for whoever deals with it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use env_logger::fmt::Formatter;
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Record};
use serde_json::json;

use crate::config::{Format, Logging};

/// Libraries that tell of every connection or schema.
const CHATTY: [&str; 7] = ["apache_avro", "librdkafka", "rdkafka", "postgres", "tokio_postgres", "r2d2", "tiny_http"];

/// Takes effect once; later calls change nothing. Fails where the file cannot be written.
pub fn start(logging: &Logging) -> io::Result<()> {
    let mut builder = builder(logging);
    if let Some(path) = &logging.file {
        builder.target(env_logger::Target::Pipe(Box::new(Both(io::stderr(), appended(path)?))));
    }
    // The one way to fail is that a logger is there already.
    let _ = builder.try_init();
    Ok(())
}

/// At the end of a file, which is made, with its folder, where there is none. Whoever cuts it short does no harm.
fn appended(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(path)
}

/// A line to two places. That one of them is full or gone does not keep it from the other.
struct Both<A, B>(A, B);

impl<A: Write, B: Write> Write for Both<A, B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (first, second) = (self.0.write_all(bytes), self.1.write_all(bytes));
        first.and(second).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().and(self.1.flush())
    }
}

fn builder(logging: &Logging) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(logging.level);
    for target in CHATTY {
        builder.filter_module(target, logging.level.min(LevelFilter::Warn));
    }
    match logging.format {
        Format::Text => builder.format(text),
        Format::Json => builder.format(json),
    };
    builder
}

fn text(out: &mut Formatter, record: &Record) -> std::io::Result<()> {
    let level = record.level();
    let style = out.default_level_style(level);
    let time = out.timestamp_millis();
    let message = one_line(&record.args().to_string());
    let thread = thread::current();
    writeln!(out, "{time} {style}{level:5}{style:#} {} {message}{}", thread.name().unwrap_or("-"), AsText::of(record))
}

/// The fields of a line for people: ` flow=status partition=3` behind its message.
struct AsText(String);

impl AsText {
    fn of(record: &Record) -> String {
        let mut fields = AsText(String::new());
        // Nothing in the visitor fails.
        let _ = record.key_values().visit(&mut fields);
        fields.0
    }
}

impl<'kvs> VisitSource<'kvs> for AsText {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0 += &format!(" {key}={}", one_line(&value.to_string()));
        Ok(())
    }
}

/// The same as members of an object. What every line has is not written over.
struct AsMembers<'a>(&'a mut serde_json::Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for AsMembers<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let number =
            value.to_i64().map(serde_json::Value::from).or_else(|| value.to_u64().map(serde_json::Value::from));
        self.0.entry(key.as_str()).or_insert_with(|| number.unwrap_or_else(|| value.to_string().into()));
        Ok(())
    }
}

fn json(out: &mut Formatter, record: &Record) -> std::io::Result<()> {
    let mut line = json!({
        "time": out.timestamp_millis().to_string(),
        "level": record.level().as_str().to_lowercase(),
        "thread": thread::current().name().unwrap_or("-"),
        "target": record.target(),
        "message": record.args().to_string(),
    });
    if let Some(members) = line.as_object_mut() {
        let _ = record.key_values().visit(&mut AsMembers(members));
    }
    writeln!(out, "{line}")
}

/// What came from a record or a server must not be able to forge a line, move the cursor or turn the text around.
pub fn one_line(message: &str) -> String {
    if !message.contains(is_unruly) {
        return message.to_owned();
    }
    message.chars().map(|c| if is_unruly(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Whether a terminal would do something else with it than show it where it stands.
pub fn is_unruly(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use log::{Level, Log};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format, level: LevelFilter, records: &[(&str, Level, &str)]) -> String {
        let page = Page::default();
        let target = env_logger::Target::Pipe(Box::new(page.clone()));
        let logger = builder(&Logging { level, format, file: None }).target(target).build();
        for (target, level, message) in records {
            logger.log(&Record::builder().target(target).level(*level).args(format_args!("{message}")).build());
        }
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_has_time_level_thread_and_message() {
        let text = written(Format::Text, LevelFilter::Info, &[("sluicegate", Level::Warn, "a b")]);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000Z".len(), "{time}");
        assert_eq!(rest, format!("WARN  {} a b\n", thread::current().name().unwrap()));
    }

    #[test]
    fn json_is_one_object_a_line_whatever_the_message_holds() {
        let text = written(Format::Json, LevelFilter::Info, &[("x", Level::Info, "a\n\"b"), ("x", Level::Error, "c")]);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["message"], &lines[1]["level"]), (&"a\n\"b".into(), &"error".into()));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn fields_stand_behind_the_message_or_are_members() {
        let fields: [(&str, Value); 4] =
            [("flow", "status".into()), ("partition", 3.into()), ("topic", "a\nb".into()), ("level", "none".into())];
        let written = |format| {
            let page = Page::default();
            let target = env_logger::Target::Pipe(Box::new(page.clone()));
            let logger = builder(&Logging { level: LevelFilter::Info, format, file: None }).target(target).build();
            logger.log(&Record::builder().level(Level::Warn).key_values(&fields).args(format_args!("halted")).build());
            String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
        };
        assert!(written(Format::Text).ends_with(" halted flow=status partition=3 topic=a\\nb level=none\n"));
        let line: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!((&line["flow"], &line["partition"], &line["topic"]), (&"status".into(), &3.into(), &"a\nb".into()));
        assert_eq!(line["level"], "warn", "what every line has stays what it is");
    }

    #[test]
    fn libraries_are_quiet_below_warn_and_no_louder_than_the_program() {
        let records = [
            ("librdkafka", Level::Info, "1"),
            ("tokio_postgres::connection", Level::Debug, "2"),
            ("rdkafka::client", Level::Warn, "3"),
            ("sluicegate::engine", Level::Debug, "4"),
        ];
        let messages = |level| {
            let text = written(Format::Text, level, &records);
            text.lines().map(|line| line.chars().last().unwrap()).collect::<String>()
        };
        assert_eq!(messages(LevelFilter::Trace), "34");
        assert_eq!(messages(LevelFilter::Warn), "3");
        assert_eq!(messages(LevelFilter::Error), "");
        assert_eq!(messages(LevelFilter::Off), "");
    }

    #[test]
    fn a_file_is_made_with_its_folder_and_gets_lines_behind_those_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a/cdc.log");
        for line in ["one\n", "two\n"] {
            appended(&path).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert!(appended(folder.path()).is_err(), "a folder is no file");
    }

    #[test]
    fn a_line_reaches_the_second_place_where_the_first_is_gone() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let page = Page::default();
        assert!(Both(Gone, page.clone()).write(b"a").is_err());
        assert!(Both(page.clone(), Gone).write(b"b").is_err());
        assert_eq!(*page.0.lock().unwrap(), b"ab");
    }

    #[test]
    fn a_message_cannot_begin_a_second_line_or_reach_the_terminal() {
        assert_eq!(one_line("a\nERROR b\u{1b}[2J"), "a\\nERROR b\\u{1b}[2J");
        assert_eq!(one_line("a\u{202e}b\u{2028}\u{9b}"), "a\\u{202e}b\\u{2028}\\u{9b}");
        assert_eq!(one_line("plain äß"), "plain äß");
    }
}
