//! How far a verb of the command line is: a bar on a terminal, a plain line now and then where there is none.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Plain lines come this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: ProgressBar,
    line_at: Instant,
    /// What is counted, and what was done to it.
    what: &'static str,
}

impl Progress {
    /// Without a total there is no bar, only a count.
    pub fn new(total: impl Into<Option<u64>>, what: &'static str) -> Self {
        let total = total.into();
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        // Lines are for logs, bars are for people.
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(match total {
            Some(_) => "{bar:40} {human_pos}/{human_len} {per_sec} eta {eta}",
            None => "{spinner} {human_pos} {per_sec}",
        });
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, line_at: Instant::now() + LINE_EVERY, what }
    }

    pub fn at(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && Instant::now() >= self.line_at {
            match self.bar.length() {
                Some(total) => println!("{done} of {total} {}", self.what),
                None => println!("{done} {}", self.what),
            }
            self.line_at += LINE_EVERY;
        }
    }

    /// A line that stays, whatever the bar does.
    pub fn say(&self, line: &str) {
        // A reader that went away has seen what it wanted.
        self.bar.suspend(|| drop(writeln!(std::io::stdout(), "{line}")));
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
