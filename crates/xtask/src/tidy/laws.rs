//! Every law is written where it is upheld, and cited by a test that tries to break it.

use super::text::has_word;
use super::{Finding, Repo, is_test_file, tests_begin};

/// The laws of the architecture.
const LAWS: [&str; 19] = [
    "O1", "O2", "O3", "O4", "R1", "R2", "R3", "R4", "R5", "B1", "B2", "B3", "B4", "E1", "E2", "E3",
    "E4", "D1", "D2",
];

/// Laws that no test cites yet: this list only gets shorter.
const NOT_YET: [&str; 0] = [];

/// Findings, and warnings about laws whose test is known to be missing.
pub(super) fn check(repo: &Repo) -> (Vec<Finding>, Vec<String>) {
    check_with(repo, &NOT_YET)
}

fn check_with(repo: &Repo, not_yet: &[&str]) -> (Vec<Finding>, Vec<String>) {
    let (mut findings, mut warnings) = (vec![], vec![]);
    let here = |what: String| Finding::new("crates/xtask/src/tidy/laws.rs", 0, what);
    for law in LAWS {
        let (mut tested, mut written) = (false, false);
        for (path, text) in repo.rust().filter(|(path, _)| !path.starts_with("crates/xtask/")) {
            let cut = if is_test_file(path) { 0 } else { tests_begin(text) };
            written |= text[..cut].lines().any(|line| has_word(line, law));
            tested |= text[cut..].lines().any(|line| has_word(line, law));
        }
        if !written {
            findings.push(here(format!("law {law} is not written in any file that upholds it")));
        }
        match (tested, not_yet.contains(&law)) {
            (true, false) => {}
            (true, true) => {
                warnings.push(format!("a test cites law {law} now: take it off the list"))
            }
            (false, true) => warnings.push(format!("no test cites law {law} yet")),
            (false, false) => findings.push(here(format!("no test cites law {law}"))),
        }
    }
    (findings, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_law_is_written_and_tested() {
        let all = LAWS.map(|law| format!("//! law {law}\n")).concat();
        let without_d2 = all.replace("//! law D2\n", "//! D22 and ID2\n");
        let repo = |source: &str, test: &str| {
            Repo::of(&[("crates/x/src/a.rs", source), ("crates/x/src/a/tests.rs", test)])
        };
        assert_eq!(check_with(&repo(&all, &all), &[]), (vec![], vec![]));
        let (findings, warnings) = check_with(&repo(&all, &without_d2), &[]);
        assert!(findings[0].what.contains("no test cites law D2") && warnings.is_empty());
        let (findings, warnings) = check_with(&repo(&all, &without_d2), &["D2"]);
        assert!(findings.is_empty() && warnings.len() == 1);
        let (findings, warnings) = check_with(&repo(&all, &all), &["D2"]);
        assert!(findings.is_empty() && warnings[0].contains("take it off the list"));
        let (findings, _) = check_with(&repo(&without_d2, &all), &[]);
        assert!(findings[0].what.contains("not written"));
        // A test module at the end of a source file counts as a test, and not as the law's place.
        let both = format!("{all}#[cfg(test)]\nmod tests {{\n{all}}}\n");
        assert_eq!(check_with(&Repo::of(&[("crates/x/src/a.rs", &both)]), &[]), (vec![], vec![]));
    }
}
