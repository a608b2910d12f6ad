//! What became of a check that may not be possible everywhere: a skipped one is said aloud and never counts as passed.

use std::fs::OpenOptions;
use std::io::Write;

use crate::random::announce;

/// The file to which skipped checks are appended, if this environment variable names one: `cargo xtask test` reads it.
pub const SKIP_LOG: &str = "COWBACK_SKIP_LOG";

/// If this environment variable is set to 1, a skipped check is a failure: for machines on which all is possible.
pub const REQUIRE: &str = "COWBACK_REQUIRE_ORACLES";

/// What became of a check. A check that found something wrong gives an error instead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a skipped check must be reported, see Outcome::report"]
pub enum Outcome {
    /// It was done, and all is well.
    Passed,
    /// It was not done, for this reason.
    Skipped(String),
}

impl Outcome {
    /// Whether the check was done.
    #[must_use]
    pub fn passed(&self) -> bool {
        *self == Self::Passed
    }

    /// Says aloud if the check was skipped, even when the test harness captures output. Tells whether it was done.
    ///
    /// # Panics
    /// If it was skipped, and `COWBACK_REQUIRE_ORACLES` is 1.
    pub fn report(self, what: &str) -> bool {
        let Self::Skipped(why) = self else { return true };
        skipped(what, &why);
        false
    }
}

/// Says aloud that `what` is skipped, because of `why`.
///
/// # Panics
/// If `COWBACK_REQUIRE_ORACLES` is 1.
pub fn skipped(what: &str, why: &str) {
    // Programs explain themselves in several lines; the list has one for each check.
    let why: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = format!("SKIPPED: {what} ({})", why.join("; "));
    announce(&line);
    if let Ok(path) = std::env::var(SKIP_LOG)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{line}, and {REQUIRE} is 1");
}

/// Returns from the test, saying aloud that it was skipped, unless the outcome is that the check passed.
///
/// `require!(outcome, "what is checked")`
#[macro_export]
macro_rules! require {
    ($outcome:expr, $what:expr) => {
        if !$crate::Outcome::report($outcome, $what) {
            return;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_done_counts_as_passed() {
        assert!(Outcome::Passed.report("nothing"));
        assert!(Outcome::Passed.passed());
        assert!(!Outcome::Skipped("no root".into()).passed());
        let reached = std::cell::Cell::new(false);
        let body = || {
            require!(Outcome::Passed, "nothing");
            reached.set(true);
        };
        body();
        assert!(reached.get());
    }
}
