//! `cargo xtask tidy`: the rules of the tree that no compiler knows.
//!
//! Each check is a function from the sources to findings, so that its own test can plant what it must find.

mod cycles;
mod laws;
mod layers;
mod lexer;
mod scenarios;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::run::Result;

/// Folders that are looked at.
const FOLDERS: [&str; 4] = ["crates", "benches", "tests", "docs"];

/// The sources: text by path relative to the top, with `/` between parts.
#[derive(Debug, Default)]
pub(crate) struct Repo {
    files: BTreeMap<String, String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

impl Repo {
    /// Reads the sources below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut repo = Self::default();
        let mut todo: Vec<_> =
            FOLDERS.iter().map(|name| (root.join(name), (*name).into())).collect();
        while let Some((dir, name)) = todo.pop() {
            let with_path = |error: std::io::Error| format!("{}: {error}", dir.display());
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(with_path(error)),
            };
            for entry in entries {
                let entry = entry.map_err(with_path)?;
                let path: String = format!("{name}/{}", entry.file_name().to_string_lossy());
                let kind = entry.file_type().map_err(with_path)?;
                if kind.is_dir() && !path.ends_with("/target") {
                    todo.push((entry.path(), path));
                } else if kind.is_file() && is_text(&path) {
                    let text = fs::read(entry.path()).map_err(with_path)?;
                    repo.files.insert(path, String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Ok(repo)
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        let rust = self.files.iter().filter(|(path, _)| path.ends_with(".rs"));
        rust.map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// A file's text, if there is such a file.
    fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Self { files: files.iter().map(own).collect() }
    }
}

fn is_text(path: &str) -> bool {
    [".rs", ".toml", ".md"].iter().any(|ending| path.ends_with(ending))
}

/// Whether a whole Rust file is test code.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/")
        || path.starts_with("tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Where the test module at the end of a Rust file begins, in bytes.
fn tests_begin(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("#[cfg(test)]") {
        let after = &text[from + at + "#[cfg(test)]".len()..];
        let item = after.trim_start();
        let opens = item.find('{').unwrap_or(usize::MAX);
        let ends = item.find(';').unwrap_or(usize::MAX);
        if item.starts_with("mod ") && opens < ends {
            return from + at;
        }
        from += at + 1;
    }
    text.len()
}

/// Runs all checks and prints what they find.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let repo = Repo::read(root)?;
    let mut findings = text::check(&repo);
    findings.extend(layers::check(&repo));
    findings.extend(scenarios::check(&repo));
    findings.extend(laws::check(&repo));
    findings.sort_unstable();
    // Between crates a circle is impossible; between modules it is a matter of taste, up to a point.
    let warnings: Vec<String> = cycles::check(&repo).iter().map(ToString::to_string).collect();
    for warning in &warnings {
        println!("tidy: warning: {warning}");
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    let (files, warned) = (repo.rust().count(), warnings.len());
    println!("tidy: {files} Rust files, {} findings, {warned} warnings", findings.len());
    if findings.is_empty() { Ok(()) } else { Err("the tree is not tidy".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_code_is_told_from_the_rest() {
        for path in ["tests/a.rs", "crates/x/tests/a.rs", "crates/x/src/a/tests.rs", "a/b_tests.rs"]
        {
            assert!(is_test_file(path), "{path}");
        }
        assert!(!is_test_file("crates/testkit/src/lib.rs"));
        let text = "a\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod more {\n}\n";
        assert_eq!(&text[tests_begin(text)..], "#[cfg(test)]\nmod more {\n}\n");
        assert_eq!(tests_begin("no tests"), 8);
    }

    #[test]
    fn this_tree_can_be_read() {
        let repo = Repo::read(&crate::run::root()).unwrap();
        assert!(repo.rust().any(|(path, _)| path == "crates/xtask/src/tidy.rs"));
        assert!(repo.all().any(|(path, _)| path == "crates/xtask/Cargo.toml"));
    }
}
