//! The figures as text.

use std::fmt::Write as _;
use std::path::Path;

use crate::contest::{Outcome, Row, Table};
use crate::contests::Setup;

/// In a file between these, the section is replaced; the rest of the file stays.
const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Where and on what the figures were taken.
pub(crate) fn machine(setup: &Setup, dir: &Path) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = line(&read("/proc/cpuinfo"), "model name");
    let memory = line(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let allocator = match cfg!(feature = "system-allocator") {
        true => "the system's allocator",
        false => "mimalloc",
    };
    let tree = setup.tree.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "{cores} cores ({cpu}), {:.0} GiB of memory, kernel {kernel}, cowback {} with {allocator}. {} MiB of {tree}, {} worker threads, images under {}, runs: {}.",
        kib / f64::from(1 << 20),
        env!("CARGO_PKG_VERSION"),
        setup.bytes() >> 20,
        setup.threads,
        dir.display(),
        setup.runs,
    )
}

/// One contest, in Markdown.
pub(crate) fn table(table: &Table) -> String {
    let mut names: Vec<&str> = Vec::new();
    for figure in table.rows.iter().flat_map(|row| &row.figures) {
        if !names.contains(&figure.by) {
            names.push(figure.by);
        }
    }
    let against_kernel = table.rows.iter().any(|row| row.ratio().is_some());
    let with_limit = table.rows.iter().any(|row| row.share().is_some());
    let mut head = vec!["work".to_owned(), "unit".to_owned()];
    head.extend(names.iter().map(|name| (*name).to_owned()));
    if against_kernel {
        head.push("times better than the kernel (min to max)".to_owned());
    }
    if with_limit {
        head.push("of the limit".to_owned());
    }
    let mut text = format!("### {}\n\n", table.title);
    line(&mut text, &head);
    line(&mut text, &vec!["---".to_owned(); head.len()]);
    for row in &table.rows {
        let mut cells = vec![row.line.work.clone(), row.line.unit.to_owned()];
        cells.extend(names.iter().map(|name| cell(row, name)));
        if against_kernel {
            cells.push(ratio(row));
        }
        if with_limit {
            cells
                .push(row.share().map_or(String::new(), |share| format!("{:.0} %", 100.0 * share)));
        }
        line(&mut text, &cells);
    }
    text.push('\n');
    for note in &table.notes {
        let _ = writeln!(text, "* {note}");
    }
    if !table.notes.is_empty() {
        text.push('\n');
    }
    text
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The median; where there is no pair to compare, how far the runs lie apart as well.
fn cell(row: &Row, name: &str) -> String {
    let Some(figure) = row.by(name).filter(|figure| !figure.median.is_nan()) else {
        return String::new();
    };
    if row.figures.len() > 1 {
        return number(figure.median);
    }
    let end = |pick: fn(f64, f64) -> f64| figure.runs.iter().copied().fold(f64::NAN, pick);
    format!("{} ({} to {})", number(figure.median), number(end(f64::min)), number(end(f64::max)))
}

fn ratio(row: &Row) -> String {
    row.ratio().map_or(String::new(), |ratio| {
        // Losses stand out.
        let mark = if ratio.median < 1.0 { "**" } else { "" };
        let [median, min, max] = [ratio.median, ratio.min, ratio.max].map(number);
        format!("{mark}{median}{mark} ({min} to {max})")
    })
}

/// Three digits that count, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    if decimals > 0 {
        return plain;
    }
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

/// All of it, as a section for the file `path`, with the picture if there is one.
pub(crate) fn section(
    machine: &str,
    tables: &[Table],
    path: &Path,
    picture: Option<&Path>,
) -> String {
    let mut text = format!("{machine}\n\n");
    if let Some(picture) = picture {
        let beside = path.parent().and_then(|dir| picture.strip_prefix(dir).ok());
        let link = beside.unwrap_or(picture).display();
        let _ = writeln!(text, "![Throughput by threads and codec]({link})\n");
    }
    tables.iter().for_each(|one| text.push_str(&table(one)));
    format!("{}\n", text.trim_end())
}

/// Puts `section` between the markers of the file `path`; a file without them, or none, becomes the section.
pub(crate) fn write_section(path: &Path, section: &str) -> Outcome<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let text = replace(&old, section).unwrap_or_else(|| section.to_owned());
    Ok(std::fs::write(path, text)?)
}

fn replace(old: &str, section: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::{Figure, KERNEL, LIMIT, Line, OURS};

    #[test]
    fn numbers_have_three_digits_and_commas() {
        for (value, text) in [
            (0.0, "0.00"),
            (1.236, "1.24"),
            (9.999, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (999.4, "999"),
            (1234.5, "1,234"),
            (-1_234_567.0, "-1,234,567"),
            (-123.0, "-123"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn a_table_has_a_column_for_each_contestant_and_marks_losses() {
        let figure = |by, median: f64| Figure { by, median, runs: vec![median] };
        let of = |work: &str, figures| Row { line: Line::higher(work, "MiB/s"), figures };
        let rows = vec![
            of("write", vec![figure(OURS, 300.0), figure(KERNEL, 200.0), figure(LIMIT, 400.0)]),
            of("read", vec![figure(OURS, 100.0), figure(KERNEL, 200.0)]),
        ];
        let notes = vec!["a note".to_owned()];
        let text = table(&Table { contest: "stream", title: "Title".to_owned(), rows, notes });
        let want = "### Title\n\n\
            | work | unit | cowback | kernel btrfs | raw limit | times better than the kernel (min to max) | of the limit |\n\
            | --- | --- | --- | --- | --- | --- | --- |\n\
            | write | MiB/s | 300 | 200 | 400 | 1.50 (1.50 to 1.50) | 75 % |\n\
            | read | MiB/s | 100 | 200 |  | **0.50** (0.50 to 0.50) |  |\n\n* a note\n\n";
        assert_eq!(text, want);
    }

    #[test]
    fn a_section_links_its_picture_from_where_it_stands() {
        let of = |path, picture| section("A machine.", &[], Path::new(path), picture);
        assert_eq!(of("docs/a.md", None), "A machine.\n");
        for (path, link) in [("docs/a.md", "b.svg"), ("a.md", "docs/b.svg")] {
            let text = of(path, Some(Path::new("docs/b.svg")));
            assert!(text.ends_with(&format!("\n\n![Throughput by threads and codec]({link})\n")));
        }
    }

    #[test]
    fn a_section_goes_between_its_markers() {
        let old = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n");
        let new = replace(&old, "new\n").unwrap();
        assert_eq!(new, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nThe end.\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new, "again changes nothing");
        assert_eq!(replace("no markers", "new"), None);
    }
}
