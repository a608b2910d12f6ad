//! The table of scenarios in `docs/testing.md` names tests that are there: each name in `code` of its last column is a test function, or
//! a file.

use super::{Finding, Repo};

const DOC: &str = "docs/testing.md";
const SECTION: &str = "## Scenarios";

/// Names that nothing answers to.
pub(super) fn check(repo: &Repo) -> Vec<Finding> {
    let mut findings = vec![];
    let mut found = false;
    for (line, name) in names(repo.text(DOC).unwrap_or_default()) {
        found = true;
        if !(is_test(repo, name) || repo.text(name).is_some()) {
            findings.push(Finding::new(DOC, line, format!("there is no test `{name}`")));
        }
    }
    if !found {
        findings.push(Finding::new(DOC, 0, format!("{SECTION:?} has no table of tests")));
    }
    findings
}

/// The names in the last column of the section's tables, with their lines.
fn names(doc: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(doc.lines()).skip_while(|(_, line)| *line != SECTION).skip(1);
    let rows = lines.take_while(|(_, line)| !line.starts_with("## "));
    rows.filter(|(_, line)| line.starts_with('|')).flat_map(|(number, line)| {
        let last = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        last.split('`').skip(1).step_by(2).map(move |name| (number, name))
    })
}

/// Whether a test, or a property, is called `name`.
fn is_test(repo: &Repo, name: &str) -> bool {
    let head = format!("fn {name}(");
    repo.rust().any(|(_, text)| {
        text.match_indices(&head).any(|(at, _)| {
            let above = text.get(..at).unwrap_or_default().lines().rev().map(str::trim);
            let attributes = above.skip_while(|line| line.is_empty());
            let mut attributes = attributes.take_while(|line| line.starts_with("#["));
            attributes.any(|attribute| attribute == "#[test]")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_table_that_is_no_test_is_found() {
        let doc = "# T\n| x | `not_here` |\n## Scenarios\n| row | `words` | `there`, `gone` |\n| b | `tests/a.rs` |\n## More\n| `c` |\n";
        let code = "#[test]\nfn there() {}\nfn gone() {}\n";
        let findings = check(&Repo::of(&[(DOC, doc), ("tests/a.rs", code)]));
        assert_eq!(findings, [Finding::new(DOC, 4, "there is no test `gone`")]);
        assert_eq!(check(&Repo::of(&[(DOC, "# T\n")])).len(), 1);
    }
}
