//! A board as a picture: its panels with what Prometheus answered to their queries, as an SVG by hand. For a page that
//! Grafana does not draw.

use std::fmt::Write;

use serde_json::Value;

use super::boards::{Board, Panel, Show};

const WIDTH: f64 = 1200.0;
const GAP: f64 = 10.0;
const NUMBER_HEIGHT: f64 = 92.0;
const GRAPH_HEIGHT: f64 = 190.0;
const COLORS: [&str; 6] = ["#2b6cb0", "#dd8a1f", "#2f855a", "#9f4fb5", "#c53030", "#4a5568"];
const INK: &str = "#1f2933";
const PALE: &str = "#7b8794";
const GRID: &str = "#e4e7eb";

/// A line with its name: moments in seconds, and values.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

pub fn draw(board: &Board, ask: impl Fn(&str) -> Vec<Value>) -> String {
    let numbers = board.panels.iter().filter(|panel| panel.show == Show::Number).count();
    let (mut body, mut x, mut y, mut row) = (String::new(), GAP, 46.0, 0.0);
    for panel in &board.panels {
        let is_number = panel.show == Show::Number;
        let columns = if is_number { numbers } else { 3 } as f64;
        let (width, height) = ((WIDTH - GAP) / columns - GAP, if is_number { NUMBER_HEIGHT } else { GRAPH_HEIGHT });
        if x + width > WIDTH || (row != 0.0 && row != height) {
            (x, y) = (GAP, y + row + GAP);
        }
        row = height;
        let _ = writeln!(
            body,
            r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="4" fill="#fff" stroke="{GRID}"/>"##
        );
        text(&mut body, x + 10.0, y + 19.0, 12.5, INK, panel.title);
        let series = series(panel, &ask);
        match is_number {
            true => number(&mut body, panel, &series, x, y, width),
            false => graph(&mut body, panel, &series, (x, y, width, height)),
        }
        x += width + GAP;
    }
    let height = y + row + GAP;
    let mut head = String::new();
    text(&mut head, GAP, 29.0, 18.0, INK, &format!("sluicegate: {}", board.name));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#f5f7fa\"/>\n{head}{body}</svg>\n"
    )
}

fn text(out: &mut String, x: f64, y: f64, size: f64, color: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{color}">{text}</text>"#);
}

fn series(panel: &Panel, ask: &impl Fn(&str) -> Vec<Value>) -> Vec<Series> {
    let mut all = Vec::new();
    for (query, legend) in &panel.queries {
        for found in ask(&query.replace("$__rate_interval", "5s")) {
            let mut name = legend.to_string();
            for (label, value) in found["metric"].as_object().into_iter().flatten() {
                name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
            }
            let point = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse::<f64>().ok()?));
            let points = found["values"].as_array().into_iter().flatten().filter_map(point);
            all.push(Series { name, points: points.filter(|(_, value)| value.is_finite()).collect() });
        }
    }
    all.retain(|series: &Series| !series.points.is_empty());
    all
}

fn number(out: &mut String, panel: &Panel, all: &[Series], x: f64, y: f64, width: f64) {
    let each = (width - 16.0) / all.len().max(1) as f64;
    for (index, series) in all.iter().enumerate() {
        let value = series.points.last().map_or(0.0, |(_, value)| *value);
        let is_bad = panel.limit.is_some_and(|limit| value >= limit);
        let at = x + 10.0 + each * index as f64;
        // Many of them have less room each.
        let (large, small) = if all.len() > 3 { (9.0, 8.5) } else { (18.0, 11.0) };
        text(out, at, y + 54.0, large, if is_bad { "#c53030" } else { "#2f855a" }, &shown(value, panel.unit));
        text(out, at, y + 77.0, small, PALE, &series.name);
    }
}

fn graph(out: &mut String, panel: &Panel, all: &[Series], (x, y, width, height): (f64, f64, f64, f64)) {
    let (left, right, top, bottom) = (x + 52.0, x + width - 10.0, y + 32.0, y + height - 30.0);
    let sizes: Vec<f64> = all.iter().map(|series| series.points.last().map_or(0.0, |(_, value)| *value)).collect();
    let mut all: Vec<Series> =
        all.iter().map(|series| Series { name: series.name.clone(), points: series.points.clone() }).collect();
    if panel.show == Show::Stack {
        for index in 1..all.len() {
            let below = all[index - 1].points.clone();
            for (moment, value) in &mut all[index].points {
                *value += below.iter().find(|(at, _)| at == moment).map_or(0.0, |(_, below)| *below);
            }
        }
    }
    let points = || all.iter().flat_map(|series| &series.points);
    let (first, last) =
        (points().map(|(at, _)| *at).fold(f64::MAX, f64::min), points().map(|(at, _)| *at).fold(0.0, f64::max));
    let most = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.08 } else { 1.0 };
    for step in 0..=4 {
        let (part, at) = (step as f64 / 4.0, bottom - (bottom - top) * step as f64 / 4.0);
        let _ = writeln!(out, r#"<line x1="{left:.1}" y1="{at:.1}" x2="{right:.1}" y2="{at:.1}" stroke="{GRID}"/>"#);
        text(out, x + 8.0, at + 3.5, 9.5, PALE, &shown(most * part, panel.unit));
    }
    // The highest first, so that what is stacked below it covers it.
    for (index, series) in all.iter().enumerate().rev() {
        let color = COLORS[index % COLORS.len()];
        let across = |at: f64| left + (right - left) * (at - first) / (last - first).max(1.0);
        let place =
            |(at, value): &(f64, f64)| format!("{:.1},{:.1}", across(*at), bottom - (bottom - top) * value / most);
        let path = series.points.iter().map(place).collect::<Vec<_>>().join(" ");
        let (begin, end) = (across(series.points[0].0), across(series.points[series.points.len() - 1].0));
        let _ = match panel.show == Show::Stack {
            true => writeln!(
                out,
                r#"<polygon points="{begin:.1},{bottom:.1} {path} {end:.1},{bottom:.1}" fill="{color}" fill-opacity="0.85"/>"#
            ),
            false => writeln!(out, r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>"#),
        };
    }
    let room = |name: &str| 26.0 + 5.6 * name.chars().count() as f64;
    let mut named: Vec<(usize, &Series)> = all.iter().enumerate().collect();
    if all.iter().map(|series| room(&series.name)).sum::<f64>() > right + GAP - left {
        // Not all of them can be named: those that matter most are.
        named.sort_by(|(one, _), (other, _)| sizes[*other].total_cmp(&sizes[*one]));
    }
    let mut legend = left;
    for (index, series) in named {
        let width = room(&series.name);
        if legend + width > right + GAP {
            text(out, legend, y + height - 8.0, 10.0, PALE, "…");
            break;
        }
        let (color, at) = (COLORS[index % COLORS.len()], y + height - 13.0);
        let _ = writeln!(out, r#"<rect x="{legend:.1}" y="{at:.1}" width="10" height="3" fill="{color}"/>"#);
        text(out, legend + 14.0, y + height - 8.0, 10.0, INK, &series.name);
        legend += width;
    }
}

fn shown(value: f64, unit: &str) -> String {
    match unit {
        "s" if value < 0.001 && value > 0.0 => format!("{:.0} µs", value * 1e6),
        "s" if value < 1.0 && value > 0.0 => format!("{:.0} ms", value * 1e3),
        "s" => format!("{value:.1} s"),
        "bytes" => format!("{:.0} MB", value / 1e6),
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ if value >= 1e3 => format!("{:.1} k", value / 1e3),
        _ if value == value.round() => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
