//! The pictures of the documentation: SVG by hand, on a white card so that they can be read in the dark as well.

use std::fmt::Write;

use crate::contenders::Contender;
use crate::growth::{BATCH, CURVES, PARTITIONS, RECORD, ROWS, WRITERS};
use crate::report::{Point, points};
use crate::results::{Results, ratios, spread};

const INK: &str = "#1f2933";
const GRID: &str = "#d9dee3";
const OURS: &str = "#2b6cb0";
const OURS_LIGHT: &str = "#90b4d8";
const OTHERS: &str = "#9aa5b1";

struct Picture {
    body: String,
    width: f64,
    height: f64,
}

impl Picture {
    fn new(width: f64, height: f64) -> Picture {
        Picture { body: String::new(), width, height }
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" {style}>{text}</text>"#);
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="{width}"/>"#
        );
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{color}"/>"#
        );
    }

    /// A line through points, with a dot on each.
    fn curve(&mut self, points: &[(f64, f64)], color: &str) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(self.body, r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>"#);
        for (x, y) in points {
            let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{color}"/>"#);
        }
    }

    fn finish(self) -> String {
        let Picture { body, width, height } = self;
        let (card_width, card_height) = (width - 1.0, height - 1.0);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">
<rect x="0.5" y="0.5" width="{card_width}" height="{card_height}" rx="8" fill="#ffffff" stroke="{GRID}"/>
{body}</svg>
"##
        )
    }
}

const TITLE: &str = r#"font-size="15" font-weight="600""#;
const SMALL: &str = r##"font-size="11" fill="#52606d""##;
const SMALL_MIDDLE: &str = r##"font-size="11" fill="#52606d" text-anchor="middle""##;
const SMALL_END: &str = r##"font-size="11" fill="#52606d" text-anchor="end""##;
const END: &str = r#"text-anchor="end""#;
const LABEL: &str = r##"font-size="10" fill="#2b6cb0" text-anchor="middle""##;
const PANEL: &str = r#"font-size="12" font-weight="600""#;

/// A bar for each contender that writes rows, with its ratio to raw COPY, and the slowest and fastest round.
pub fn rates(results: &Results) -> String {
    const LEFT: f64 = 96.0;
    const SCALE: f64 = 440.0;
    const TOP: f64 = 72.0;
    const STEP: f64 = 36.0;
    const BAR: f64 = 20.0;
    const RATE: f64 = LEFT + SCALE + 86.0;
    const RATIO: f64 = RATE + 96.0;
    let of = |contender: Contender| results.rounds.iter().filter(move |run| run.contender == contender.name());
    let bars: Vec<_> = Contender::ALL
        .into_iter()
        .filter(|contender| contender.writes())
        .filter_map(|contender| Some((contender, spread(of(contender).map(|run| run.rows_per_s))?)))
        .collect();
    let highest = bars.iter().fold(0.0, |highest: f64, (_, rate)| highest.max(rate.high));
    let (top, tick) = round_top(highest);
    let bottom = TOP + STEP * bars.len() as f64;
    let x = |rate: f64| LEFT + rate / top * SCALE;

    let mut picture = Picture::new(760.0, bottom + 48.0);
    let rounds = results.rounds.iter().map(|run| run.round).max().unwrap_or(0);
    picture.text(20.0, 28.0, TITLE, "Rows per second into PostgreSQL");
    let subtitle = format!(
        "Median of {rounds} interleaved rounds, whiskers from the slowest to the fastest; {} cores for everything.",
        results.machine.cores
    );
    picture.text(20.0, 48.0, SMALL, &subtitle);
    for index in 0..=(top / tick).round() as usize {
        let rate = index as f64 * tick;
        picture.line((x(rate), TOP - 8.0), (x(rate), bottom), GRID, 1.0);
        picture.text(x(rate), bottom + 16.0, SMALL_MIDDLE, &short(rate));
    }
    picture.text(LEFT + SCALE / 2.0, bottom + 34.0, SMALL_MIDDLE, "rows per second");
    for (x, name) in [(RATE, "rows/s"), (RATIO, "of raw copy")] {
        picture.text(x, TOP - 10.0, SMALL_END, name);
    }
    for (index, (contender, rate)) in bars.iter().enumerate() {
        let y = TOP + STEP * index as f64;
        let (middle, name) = (y + BAR / 2.0, contender.name());
        let color = match contender {
            Contender::Sluicegate => OURS,
            Contender::NoLedger => OURS_LIGHT,
            _ => OTHERS,
        };
        picture.text(LEFT - 10.0, middle + 4.0, END, name);
        picture.rect(LEFT, y, x(rate.median) - LEFT, BAR, color);
        picture.line((x(rate.low), middle), (x(rate.high), middle), INK, 1.5);
        for end in [rate.low, rate.high] {
            picture.line((x(end), middle - 5.0), (x(end), middle + 5.0), INK, 1.5);
        }
        picture.text(RATE, middle + 4.0, END, &short(rate.median));
        if let Some(ratio) = spread(ratios(results.rounds.iter(), name, Contender::RawCopy.name())) {
            picture.text(RATIO, middle + 4.0, END, &format!("{:.2}", ratio.median));
        }
    }
    picture.finish()
}

/// Small multiples: a column for each thing that varies; above the rates, below the memory.
pub fn growth(results: &Results) -> String {
    const WIDTH: f64 = 150.0;
    const GAP: f64 = 48.0;
    const HEIGHT: f64 = 120.0;
    const RATES: f64 = 104.0;
    const MEMORY: f64 = 294.0;
    let left = |column: usize| 60.0 + (WIDTH + GAP) * column as f64;
    let mut picture = Picture::new(left(CURVES.len()) - GAP + 28.0, MEMORY + HEIGHT + 34.0);
    picture.text(20.0, 28.0, TITLE, "What changes as the load grows");
    let mut legend = 20.0;
    for (color, name) in [(OURS, "sluicegate"), (OTHERS, "raw copy")] {
        picture.curve(&[(legend, 48.0), (legend + 20.0, 48.0)], color);
        picture.text(legend + 28.0, 52.0, SMALL, name);
        legend += 110.0;
    }
    picture.text(legend, 52.0, SMALL, "In blue below the values: the program's rate as a share of raw copy's.");

    for (column, over) in CURVES.into_iter().enumerate() {
        let points = points(results, over);
        let left = left(column);
        // Categories, evenly spaced: the values are mostly powers.
        let x = |index: usize| left + WIDTH * (index as f64 + 0.5) / points.len().max(1) as f64;
        let mut panel = |above: f64, title: &str, unit: &str, curves: &[(&str, Curve)], label: Option<Curve>| {
            let values = curves.iter().flat_map(|(_, of)| points.iter().map(of));
            let (top, tick) = round_top(values.fold(0.0, f64::max) * 1.12);
            let y = |value: f64| above + HEIGHT * (1.0 - value / top);
            picture.text(left - 4.0, above - 22.0, PANEL, title);
            picture.text(left - 4.0, above - 8.0, SMALL, unit);
            for index in 0..=(top / tick).round() as usize {
                let value = index as f64 * tick;
                picture.line((left, y(value)), (left + WIDTH, y(value)), GRID, 1.0);
                picture.text(left - 6.0, y(value) + 4.0, SMALL_END, &short(value));
            }
            for (index, point) in points.iter().enumerate() {
                picture.text(x(index), above + HEIGHT + 16.0, SMALL_MIDDLE, &short(point.at as f64));
                if let Some(label) = label {
                    picture.text(x(index), above + HEIGHT + 32.0, LABEL, &format!("{:.2}", label(point)));
                }
            }
            for (color, of) in curves {
                let line: Vec<_> = points.iter().enumerate().map(|(index, point)| (x(index), y(of(point)))).collect();
                picture.curve(&line, color);
            }
        };
        let title = match over {
            PARTITIONS => "Partitions",
            WRITERS => "Writers",
            BATCH => "Rows a transaction",
            RECORD => "Bytes a record",
            ROWS => "Rows in all",
            other => other,
        };
        // Rows of different sizes compare by their bytes.
        let (unit, rates): (&str, [(&str, Curve); 2]) = match over {
            RECORD => (
                "MB/s of payload",
                [
                    (OTHERS, |point| point.raw_rate * point.at as f64 / 1e6),
                    (OURS, |point| point.rate * point.at as f64 / 1e6),
                ],
            ),
            _ => ("rows/s", [(OTHERS, |point| point.raw_rate), (OURS, |point| point.rate)]),
        };
        panel(RATES, title, unit, &rates, Some(|point| point.ratio));
        panel(MEMORY, "", "peak memory, MB", &[(OURS, |point| point.memory_peak_mb)], None);
    }
    picture.finish()
}

/// What a curve shows of a point.
type Curve = fn(&Point) -> f64;

/// A round number that is not below the highest value, and the distance of ticks that divides it into few.
fn round_top(highest: f64) -> (f64, f64) {
    let power = 10f64.powf(highest.max(1.0).log10().floor());
    let tick = [0.2, 0.5, 1.0, 2.0].map(|step| step * power).into_iter().find(|tick| highest / tick <= 5.0);
    let tick = tick.unwrap_or(2.0 * power);
    ((highest / tick).ceil() * tick, tick)
}

/// As people write it on an axis.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        _ if value >= 1e6 => (value / 1e6, "M"),
        _ if value >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = if scaled < 10.0 && scaled.fract() > 0.049 { format!("{scaled:.1}") } else { format!("{scaled:.0}") };
    text.trim_end_matches(".0").to_owned() + unit
}
