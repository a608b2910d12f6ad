//! What can be seen without understanding: how files begin and end, how long they are, and words that must not be there.

use super::lexer::code_only;
use super::{Finding, Repo};

/// Most lines of a Rust file.
const LINES_MAX: usize = 700;

/// Macros that must not be called. (Written so that this file does not contain them.)
const MACROS: [&str; 3] =
    [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("d", "bg!")];

/// Words that must not be there, comments included.
const WORDS: [&str; 3] = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];

/// How a message begins by which a test says, to nobody but the harness, that it has tested nothing.
const SKIPS: [&str; 3] =
    [concat!("\"SKIP", "PED"), concat!("\"skip", "ped:"), concat!("\"no", "te: ")];

/// Where such a message is made so that it is heard and counted.
const SKIPPER: &str = "crates/testkit/src/outcome.rs";

pub(super) fn check(repo: &Repo) -> Vec<Finding> {
    let mut findings = vec![];
    for (path, text) in repo.all() {
        whitespace(path, text, &mut findings);
    }
    for (path, text) in repo.rust() {
        rust(path, text, &mut findings);
    }
    findings
}

fn whitespace(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(Finding::new(path, 0, "does not end with one newline"));
    }
    for (number, line) in text.lines().enumerate() {
        let mut add = |what: &str| findings.push(Finding::new(path, number + 1, what));
        if line.contains('\t') {
            add("has a tab");
        }
        if line.ends_with([' ', '\r']) {
            add("ends with a blank");
        }
    }
}

fn rust(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if !text.starts_with("//!") {
        findings.push(Finding::new(path, 1, "does not open with `//!`: say what the file is"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        let what = format!("has {lines} lines, more than {LINES_MAX}: take it apart");
        findings.push(Finding::new(path, 0, what));
    }
    for (number, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            findings.push(Finding::new(path, number + 1, "has a character that is not ASCII"));
        }
        for word in WORDS.iter().filter(|word| has_word(line, word)) {
            findings.push(Finding::new(path, number + 1, format!("says {word}")));
        }
    }
    for (number, line) in text.lines().enumerate().filter(|_| path != SKIPPER) {
        if SKIPS.iter().any(|skip| line.contains(skip)) {
            let what = "says by itself that something is not tested: call testkit::skipped";
            findings.push(Finding::new(path, number + 1, what));
        }
    }
    for (number, line) in code_only(text).lines().enumerate() {
        for name in MACROS.iter().filter(|name| has_word(line, name)) {
            findings.push(Finding::new(path, number + 1, format!("calls {name}")));
        }
        if has_word(line, concat!("un", "safe")) {
            findings.push(Finding::new(
                path,
                number + 1,
                "has code that the compiler cannot check",
            ));
        }
    }
}

/// Whether `word` stands in `line`, and not as a part of another word.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && (word.ends_with('!') || !after.is_some_and(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let repo = Repo::of(&[("crates/x/src/a.rs", text)]);
        check(&repo).iter().map(ToString::to_string).collect()
    }

    fn planted(line: &str) -> String {
        let found = found(&format!("//! A file.\n\n{line}\n"));
        found.join("; ").replace("crates/x/src/a.rs:", "")
    }

    #[test]
    fn a_good_file_is_good() {
        let good = "//! A file.\n\n/// Says \"todo\" and unsafe_code, and mentions unsafe code.\nfn a() {}\n";
        assert_eq!(found(good), [""; 0]);
    }

    #[test]
    fn planted_faults_are_found() {
        assert_eq!(planted("fn a() {\tlet b = 1; }"), "3: has a tab");
        assert_eq!(planted("fn a() {} "), "3: ends with a blank");
        assert_eq!(planted(concat!("fn a() { to", "do!() }")), concat!("3: calls to", "do!"));
        assert_eq!(planted(concat!("fn a() { std::d", "bg!(1) }")), concat!("3: calls d", "bg!"));
        assert_eq!(planted(concat!("// FIX", "ME: later")), concat!("3: says FIX", "ME"));
        assert_eq!(planted(concat!("// XX", "X")), concat!("3: says XX", "X"));
        assert_eq!(planted("// XXXX and PREFIXXX are names"), "");
        let word = concat!("un", "safe");
        let wanted = "3: has code that the compiler cannot check";
        assert_eq!(planted(&format!("{word} fn a() {{}}")), wanted);
        assert_eq!(planted("let a = \"caf\u{e9}\";"), "3: has a character that is not ASCII");
        let wanted = "3: says by itself that something is not tested: call testkit::skipped";
        for said in [
            concat!("SKIP", "PED {why}"),
            concat!("skip", "ped: no root"),
            concat!("no", "te: none"),
        ] {
            assert_eq!(planted(&format!("fn a() {{ println!(\"{said}\") }}")), wanted);
        }
        assert_eq!(planted("fn a() { println!(\"{skipped} skipped\") }"), "");
        assert!(found("fn a() {}\n")[0].contains("does not open with"));
        assert!(found("//! A file.")[0].contains("newline"));
        let long = format!("//! A file.\n{}", "// line\n".repeat(700));
        assert!(found(&long)[0].contains("701 lines"));
    }
}
