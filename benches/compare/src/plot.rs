//! The throughput by threads and codec, as a picture: plain SVG that reads well in light and in dark.

use std::fmt::Write as _;

use crate::contest::{KERNEL, LIMIT, OURS, Row, Table};
use crate::report::number;

const BAR: f64 = 30.0;
/// Between the bars of two numbers of threads, and of two codecs.
const GAP: f64 = 12.0;
const GROUP_GAP: f64 = 30.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 76.0;
const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = 64.0;

/// Colours by class, and the same for dark screens. No variables: not every viewer knows them.
const STYLE: &str = "
.paper { fill: #ffffff; }
.ours { fill: #0f766e; }
.kernel { fill: #9aa7b4; }
.limit { stroke: #b45309; stroke-width: 2.5; }
.grid { stroke: #d8dee4; stroke-width: 1; }
text { fill: #1f2328; font: 12px system-ui, sans-serif; }
.title { font-size: 16px; font-weight: 600; }
.value { font-size: 10px; paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  .ours { fill: #2dd4bf; }
  .kernel { fill: #66727f; }
  .limit { stroke: #fbbf24; }
  .grid { stroke: #30363d; }
  text { fill: #e6edf3; }
  .value { stroke: #0d1117; }
}
";

/// The picture of a table whose lines are called `CODEC, N threads`.
pub(crate) fn svg(table: &Table) -> String {
    let groups = groups(&table.rows);
    let highest = table.rows.iter().flat_map(|row| &row.figures).map(|figure| figure.median);
    let step = tick(highest.fold(1.0, f64::max));
    let top = ticks(&table.rows, step) * step;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / top);

    let (mut bars, mut values) = (String::new(), String::new());
    let mut x = LEFT + GROUP_GAP / 2.0;
    for (codec, rows) in &groups {
        let from = x;
        for (threads, row) in rows {
            let over = (&mut bars, &mut values);
            bar(over, row, OURS, "ours", x, &y);
            let over = (&mut bars, &mut values);
            bar(over, row, KERNEL, "kernel", x + BAR, &y);
            if let Some(limit) = row.by(LIMIT) {
                let (at, right) = (y(limit.median), x + BAR + 4.0);
                let left = x - 4.0;
                put(
                    &mut bars,
                    format_args!(
                        "<line class=\"limit\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
                    ),
                );
            }
            label(&mut bars, "", x + BAR, TOP + HEIGHT + 18.0, "middle", threads);
            x += 2.0 * BAR + GAP;
        }
        x -= GAP;
        let middle = f64::midpoint(from, x);
        label(&mut bars, "title", middle, TOP + HEIGHT + 42.0, "middle", codec);
        x += GROUP_GAP;
    }
    let (width, height) = (x.max(560.0), TOP + HEIGHT + BOTTOM);

    let mut text = String::new();
    put(
        &mut text,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">"
        ),
    );
    put(&mut text, format_args!("<title>{}</title>\n<style>{STYLE}</style>", escape(&table.title)));
    put(&mut text, format_args!("<rect class=\"paper\" width=\"100%\" height=\"100%\"/>"));
    label(&mut text, "title", 16.0, 26.0, "start", &format!("{}, MiB/s", table.title));
    legend(&mut text);
    let mut value = 0.0;
    while value <= top {
        let at = y(value);
        put(
            &mut text,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                width - 12.0
            ),
        );
        label(&mut text, "", LEFT - 8.0, at + 4.0, "end", &format!("{value:.0}"));
        value += step;
    }
    text.push_str(&bars);
    text.push_str(&values); // on top of every line
    text.push_str("</svg>\n");
    text
}

/// The lines by codec, each with what says how many threads.
fn groups(rows: &[Row]) -> Vec<(&str, Vec<(&str, &Row)>)> {
    let mut groups: Vec<(&str, Vec<(&str, &Row)>)> = Vec::new();
    for row in rows {
        let (codec, threads) = row.line.work.split_once(", ").unwrap_or((&row.line.work, ""));
        match groups.last_mut() {
            Some((last, rows)) if *last == codec => rows.push((threads, row)),
            _ => groups.push((codec, vec![(threads, row)])),
        }
    }
    groups
}

/// A step of 1, 2 or 5 times a power of ten, of which `highest` takes four to ten.
fn tick(highest: f64) -> f64 {
    let power = 10f64.powf((highest / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0];
    steps.iter().map(|step| step * power).find(|step| highest / step >= 4.0).unwrap_or(power)
}

/// How many steps hold all figures, and leave room for the number over a bar.
fn ticks(rows: &[Row], step: f64) -> f64 {
    let highest = rows.iter().flat_map(|row| &row.figures).map(|figure| figure.median);
    (highest.fold(1.0, f64::max) / step).ceil().max(1.0)
}

fn legend(text: &mut String) {
    let mut x = 16.0;
    for (name, class) in [(OURS, "ours"), (KERNEL, "kernel"), (LIMIT, "limit")] {
        if class == "limit" {
            put(
                text,
                format_args!(
                    "<line class=\"limit\" x1=\"{x}\" x2=\"{:.1}\" y1=\"48\" y2=\"48\"/>",
                    x + 16.0
                ),
            );
        } else {
            put(
                text,
                format_args!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"42\" width=\"16\" height=\"12\"/>"
                ),
            );
        }
        label(text, "", x + 22.0, 52.0, "start", name);
        x += 120.0;
    }
}

fn bar(
    (bars, values): (&mut String, &mut String),
    row: &Row,
    name: &str,
    class: &str,
    x: f64,
    y: &dyn Fn(f64) -> f64,
) {
    let Some(figure) = row.by(name) else { return };
    let at = y(figure.median);
    let (width, height) = (BAR - 2.0, y(0.0) - at);
    put(
        bars,
        format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{at:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ),
    );
    label(values, "value", x + width / 2.0, at - 5.0, "middle", &number(figure.median));
}

fn label(text: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    put(
        text,
        format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
        ),
    );
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{line}");
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::{Figure, Line};

    #[test]
    fn every_figure_becomes_a_bar_and_every_limit_a_line() {
        let figure = |by, median: f64| Figure { by, median, runs: vec![median] };
        let row = |work: &str, limit: Option<f64>| {
            let mut figures = vec![figure(OURS, 200.0), figure(KERNEL, 100.0)];
            figures.extend(limit.map(|limit| figure(LIMIT, limit)));
            Row { line: Line::higher(work, "MiB/s"), figures }
        };
        let rows = vec![
            row("zstd:3, 1 thread", Some(220.0)),
            row("zstd:3, 2 threads", Some(400.0)),
            row("none, 1 thread", None),
        ];
        let title = "a < b".to_owned();
        let text = svg(&Table { contest: "threads", title, rows, notes: Vec::new() });
        let count = |what: &str| text.matches(what).count();
        assert_eq!(count("<rect class=\"ours\""), 3 + 1, "three bars and the legend");
        assert_eq!(count("<rect class=\"kernel\""), 3 + 1);
        assert_eq!(count("<line class=\"limit\""), 2 + 1);
        assert_eq!((count(">zstd:3<"), count(">1 thread<"), count(">2 threads<")), (1, 2, 1));
        assert!(text.contains("<title>a &lt; b</title>") && text.ends_with("</svg>\n"));
        // 400 fills the picture exactly, 200 half of it.
        assert!(text.contains("y=\"226.0\" width=\"28.0\" height=\"150.0\""), "{text}");
    }

    #[test]
    fn ticks_are_round_and_not_too_many() {
        for (highest, step) in
            [(400.0, 100.0), (399.0, 50.0), (1318.0, 200.0), (7.9, 1.0), (9000.0, 2000.0)]
        {
            assert_eq!(tick(highest), step, "{highest}");
        }
    }
}
