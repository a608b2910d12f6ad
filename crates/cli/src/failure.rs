//! What went wrong, as one line: `cowback: WHAT: WHY`.

use std::ffi::OsStr;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cowback::error::NamespaceError;

/// Result of a command or a part of it.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// How a command ended that did not break off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// All is done.
    Done,
    /// It went to its end, and found damage, or left something out.
    Failed,
}

impl Status {
    pub(crate) fn failed_if(failed: bool) -> Self {
        if failed { Self::Failed } else { Self::Done }
    }
}

/// Why a command broke off.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    what: String,
    why: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Exit status 1.
    Failed,
    /// Exit status 2: what was asked for cannot be.
    Usage,
    /// Nobody reads standard output any more.
    BrokenPipe,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), kind: Kind::Failed }
    }

    /// A command line that is wrong in a way that only shows with the files it names.
    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new("command line", why) }
    }

    /// Writing to standard output failed.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        let broken = error.kind() == io::ErrorKind::BrokenPipe;
        let kind = if broken { Kind::BrokenPipe } else { Kind::Failed };
        Self { kind, ..Self::new("standard output", error.to_string()) }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.kind == Kind::BrokenPipe
    }

    /// The exit status.
    pub(crate) fn code(&self) -> u8 {
        if self.kind == Kind::Usage { 2 } else { 1 }
    }

    /// The line, without an end of line in it whatever names it holds.
    pub(crate) fn line(&self) -> String {
        plain(format!("cowback: {}: {}", self.what, self.why))
    }

    pub(crate) fn print(&self) {
        // If nobody reads it, the exit status tells.
        let _ = writeln!(io::stderr(), "{}", self.line());
    }
}

/// Says what an operation was about when it failed.
pub(crate) trait About<T> {
    /// It was about this path of the host.
    fn about(self, path: impl AsRef<Path>) -> Outcome<T>;
}

impl<T, E: Explain> About<T> for Result<T, E> {
    fn about(self, path: impl AsRef<Path>) -> Outcome<T> {
        self.map_err(|error| Failure::new(shown(path.as_ref()), error.explain()))
    }
}

/// An error in words.
pub(crate) trait Explain {
    fn explain(&self) -> String;
}

impl Explain for io::Error {
    fn explain(&self) -> String {
        self.to_string()
    }
}

impl Explain for rustix::io::Errno {
    fn explain(&self) -> String {
        io::Error::from(*self).to_string()
    }
}

impl Explain for cowback::Error {
    fn explain(&self) -> String {
        match self {
            Self::Image { source, .. } => source.to_string(),
            Self::Name { path, source } => format!("{}: {}", in_volume(path), name_error(source)),
            other => other.to_string(),
        }
    }
}

pub(crate) fn name_error(error: &NamespaceError) -> String {
    match error {
        NamespaceError::NotFound { .. } => "no such file or directory".to_owned(),
        NamespaceError::Exists { .. } => "something of that name exists".to_owned(),
        NamespaceError::NotDir { .. } => "not a directory".to_owned(),
        NamespaceError::IsDir { .. } => "is a directory".to_owned(),
        NamespaceError::NotEmpty { .. } => "directory not empty".to_owned(),
        NamespaceError::Loop { .. } => "a directory cannot move into itself".to_owned(),
        NamespaceError::NotSupported { what, .. } => (*what).to_owned(),
        other => other.to_string(),
    }
}

/// A path of the host in messages.
pub(crate) fn shown(path: impl AsRef<OsStr>) -> String {
    readable(path.as_ref().as_bytes())
}

/// A path in the volume in messages: always from the root.
pub(crate) fn in_volume(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let slash = if bytes.starts_with(b"/") { "" } else { "/" };
    format!("{slash}{}", readable(bytes))
}

/// Bytes as text: UTF-8 as it is, anything else escaped.
pub(crate) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => plain(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// `text` with what a terminal obeys escaped: control characters, ends of lines and paragraphs, and what turns the direction of writing, so that a
/// name would look like another one.
pub(crate) fn plain(text: impl Display) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line = String::new();
    for c in text.to_string().chars() {
        if c.is_control() || turns(c) {
            line.extend(c.escape_default());
        } else {
            let _ = line.write_char(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_names() {
        let failure = Failure::new(shown(OsStr::from_bytes(b"a\nb\xff")), "two\nlines\x1b[1m");
        assert_eq!(failure.line(), "cowback: a\\nb\\xff: two\\nlines\\u{1b}[1m");
    }

    #[test]
    fn what_turns_the_direction_of_writing_is_shown_and_not_obeyed() {
        assert_eq!(plain("gpj.\u{202e}exe\u{2028}\u{2066}"), "gpj.\\u{202e}exe\\u{2028}\\u{2066}");
        assert_eq!(plain("\u{5d0}\u{fc}\u{2018}"), "\u{5d0}\u{fc}\u{2018}");
    }

    #[test]
    fn paths_of_the_volume_start_at_its_root() {
        assert_eq!(in_volume(Path::new("a/\u{fc}")), "/a/\u{fc}");
        assert_eq!(in_volume(Path::new("/a")), "/a");
        assert_eq!(in_volume(Path::new("")), "/");
    }
}
