//! Every law stands in the table of `docs/architecture.md`, is written in the file that upholds it, and is cited by a test that tries to
//! break it; and what is cited as a law is one.

use std::collections::BTreeMap;

use super::text::has_word;
use super::{Finding, Repo, is_test_file, tests_begin};

const DOC: &str = "docs/architecture.md";
const SECTION: &str = "## Laws";
/// What names of laws begin with.
const LETTERS: [char; 5] = ['O', 'R', 'B', 'E', 'D'];

/// A row of the table.
#[derive(Debug)]
struct Row<'a> {
    line: usize,
    law: &'a str,
    /// Files that uphold it.
    files: Vec<&'a str>,
}

/// What is wrong with the table, or with what cites it.
pub(super) fn check(repo: &Repo) -> Vec<Finding> {
    let rows = rows(repo.text(DOC).unwrap_or_default());
    let mut findings = vec![];
    if rows.is_empty() {
        findings.push(Finding::new(DOC, 0, format!("{SECTION:?} has no table of laws")));
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        if seen.insert(row.law, row.line).is_some() {
            let what = format!("law {} is there twice", row.law);
            findings.push(Finding::new(DOC, row.line, what));
        }
        check_row(repo, row, &mut findings);
    }
    for (path, text) in sources(repo) {
        for (number, line) in (1..).zip(text.lines()) {
            for law in cited(line).filter(|law| !seen.contains_key(law)) {
                let what = format!("cites {law}, which is no law of {DOC}");
                findings.push(Finding::new(path, number, what));
            }
        }
    }
    findings
}

fn check_row(repo: &Repo, row: &Row<'_>, findings: &mut Vec<Finding>) {
    let law = row.law;
    let mut add = |what: String| findings.push(Finding::new(DOC, row.line, what));
    if row.files.is_empty() {
        add(format!("law {law}: no file is named that upholds it"));
    }
    for file in &row.files {
        let text = repo.text(file).unwrap_or_default();
        let own = if is_test_file(file) { "" } else { &text[..tests_begin(text)] };
        if !own.lines().any(|line| has_word(line, law)) {
            add(format!("law {law} is not written in {file}"));
        }
    }
    let tests = sources(repo)
        .map(|(path, text)| if is_test_file(path) { text } else { &text[tests_begin(text)..] });
    if !tests.flat_map(str::lines).any(|line| has_word(line, law)) {
        add(format!("no test cites law {law}"));
    }
}

/// The rows of the section's table.
fn rows(doc: &str) -> Vec<Row<'_>> {
    let lines = (1..).zip(doc.lines()).skip_while(|(_, line)| *line != SECTION).skip(1);
    let lines = lines.take_while(|(_, line)| !line.starts_with("## "));
    lines
        .filter_map(|(line, text)| {
            let mut cells = text.strip_prefix('|')?.trim_end_matches('|').split('|');
            let law = cells.next()?.trim();
            cited(law).next().filter(|cited| *cited == law)?;
            let files = cells.next_back().unwrap_or_default().split('`').skip(1).step_by(2);
            Some(Row { line, law, files: files.collect() })
        })
        .collect()
}

/// What a line names that looks like a law.
fn cited(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        let mut chars = word.chars();
        let is_law = chars.next().is_some_and(|first| LETTERS.contains(&first));
        is_law && chars.next().is_some_and(|digit| digit.is_ascii_digit()) && chars.next().is_none()
    })
}

/// The Rust files that may cite laws: all but this tool's, whose tests plant some.
fn sources(repo: &Repo) -> impl Iterator<Item = (&str, &str)> {
    repo.rust().filter(|(path, _)| !path.starts_with("crates/xtask/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# T\n| O9 | before | |\n## Laws\n| law | | |\n|---|---|---|\n| O1 | one owner | `crates/x/src/a.rs` |\n| R3 | in order | `crates/x/src/a.rs` |\n## More\n";
    const CODE: &str = "//! Law O1, and the order (R3).\n";

    fn found(table: &str, code: &str, test: &str) -> Vec<String> {
        let files = [(DOC, table), ("crates/x/src/a.rs", code), ("crates/x/src/a/tests.rs", test)];
        check(&Repo::of(&files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn laws_that_are_in_the_table_and_written_and_tested_are_good() {
        assert_eq!(found(TABLE, CODE, "// laws O1, R3\n"), [""; 0]);
        // A test module at the end of a source file counts as a test, and not as the law's place.
        let both = format!("{CODE}#[cfg(test)]\nmod tests {{\n// O1 R3\n}}\n");
        assert_eq!(found(TABLE, &both, ""), [""; 0]);
        assert_eq!(found(TABLE, CODE, "// laws O1, R3; S3-FIFO, 0xE9, R3_a and D22\n"), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_found() {
        let row = |number: usize, what: &str| format!("{DOC}:{number}: {what}");
        assert_eq!(found(TABLE, CODE, "// O1, R33\n"), [row(7, "no test cites law R3")]);
        let unwritten = row(6, "law O1 is not written in crates/x/src/a.rs");
        assert_eq!(found(TABLE, "//! (R3)\n", "// O1, R3\n"), [unwritten]);
        let cites = format!("crates/x/src/a.rs:2: cites D2, which is no law of {DOC}");
        assert_eq!(found(TABLE, &format!("{CODE}// law D2\n"), "// O1, R3\n"), [cites]);
        let cites = format!("crates/x/src/a/tests.rs:1: cites O9, which is no law of {DOC}");
        assert_eq!(found(TABLE, CODE, "// O1, R3, O9\n"), [cites]);
        let without = TABLE.replace(" `crates/x/src/a.rs` |\n## More", " |\n## More");
        let unnamed = row(7, "law R3: no file is named that upholds it");
        assert_eq!(found(&without, CODE, "// O1, R3\n"), [unnamed]);
        let twice = TABLE.replace("| R3 | in", "| O1 | in");
        assert!(found(&twice, "//! O1\n", "// O1\n").contains(&row(7, "law O1 is there twice")));
        assert!(found("# T\n", "//! A.\n", "")[0].contains("has no table of laws"));
    }
}
