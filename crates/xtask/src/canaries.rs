//! `cargo xtask canaries`: defects of the kernel's history, or close kin of theirs, planted one by one; a test must find each.
//!
//! A canary is a `cfg(canary = "name")` in the sources that only this command sets. Which bug of the kernel it stands for is in
//! `docs/kernel-bugs.md`, with what keeps all others out.

use std::process::Stdio;
use std::time::Duration;

use crate::models::{Explorer, wrapper};
use crate::run::{Result, cargo, root, target, watch_for};

/// Where a canary must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    /// Unit and property tests of a crate.
    Unit(&'static str),
    /// The pipeline over a store in memory.
    Pipeline,
    /// The same, under a scheduler that explores interleavings.
    Models,
    /// The small protocols in it, in all interleavings.
    Loom,
    /// A volume against a plain model.
    Volume,
    /// The same, with several actors, under a scheduler that explores interleavings.
    VolumeModels,
    /// The store, on devices that fail.
    Store,
}

/// The planted defects: name, number of the kernel's bug if there was one, and the nets in the order in which they are cast.
const CANARIES: &[(&str, &str, &[Net])] = &[
    ("locked_page", "1", &[Net::Models]),
    ("size_twice", "3", &[Net::Models]),
    ("clean_while_pending", "4", &[Net::Pipeline]),
    ("lock_leak", "9", &[Net::Unit("page-cache")]),
    ("run_forgotten", "14", &[Net::Pipeline]),
    ("cleaned_twice", "16", &[Net::Pipeline]),
    ("inline_and_written", "18", &[Net::Pipeline]),
    ("no_raw_fallback", "20", &[Net::Pipeline]),
    ("queued_gap", "22", &[Net::Loom, Net::Models]),
    ("two_servers", "23", &[Net::Loom, Net::Models]),
    ("look_unordered", "23", &[Net::Loom]),
    ("notify_unlocked", "23", &[Net::Loom]),
    ("wake_lost", "-", &[Net::Loom]),
    ("credit_unheard", "-", &[Net::Loom]),
    ("dead_leaf", "11", &[Net::Loom]),
    ("error_late", "45", &[Net::Loom]),
    ("bound_late", "41", &[Net::Loom]),
    ("held_back", "25", &[Net::Models]),
    ("freed_twice", "31", &[Net::Pipeline]),
    ("ordered_not_counted", "32", &[Net::Pipeline]),
    ("tag_left", "35", &[Net::Unit("page-cache")]),
    ("towrite_lost", "36", &[Net::Unit("page-cache"), Net::Models]),
    ("reservation_twice", "38", &[Net::Pipeline]),
    ("noreserve_unguarded", "40", &[Net::Models]),
    ("beyond_eof", "41", &[Net::Models]),
    ("tail_not_zeroed", "42", &[Net::Pipeline]),
    ("wait_stops_at_error", "43", &[Net::Pipeline]),
    ("commit_without_waiting", "44", &[Net::Volume]),
    ("error_not_recorded", "45", &[Net::Pipeline]),
    ("sizes_cross", "-", &[Net::VolumeModels]),
    ("ahead_ungated", "-", &[Net::VolumeModels]),
    ("found_not_flushed", "-", &[Net::Store]),
];

/// A net that takes longer hangs: that is a find, too.
const PATIENCE: Duration = Duration::from_secs(240);

impl Net {
    fn explorer(self) -> Option<Explorer> {
        match self {
            Self::Models | Self::VolumeModels => Some(Explorer::Shuttle),
            Self::Loom => Some(Explorer::Loom),
            Self::Unit(_) | Self::Pipeline | Self::Volume | Self::Store => None,
        }
    }

    fn args(self) -> (String, &'static [&'static str]) {
        match self {
            Self::Unit(name) => (format!("cowback-{name}"), &["--lib"]),
            Self::Pipeline => ("cowback-async-cow".to_owned(), &["--test", "pipeline"]),
            Self::Models => ("cowback-async-cow".to_owned(), &["--test", "models"]),
            Self::Loom => ("cowback-async-cow".to_owned(), &["--test", "loom"]),
            Self::Volume => ("cowback-tests".to_owned(), &["--test", "model"]),
            Self::VolumeModels => ("cowback".to_owned(), &["--test", "models"]),
            Self::Store => ("cowback-block-store".to_owned(), &["--test", "store"]),
        }
    }
}

/// Plants each defect, or only the one that is named, and reports who found it.
pub(crate) fn canaries(only: Option<&str>) -> Result<()> {
    if only.is_some_and(|only| CANARIES.iter().all(|(name, ..)| *name != only)) {
        return Err(format!("there is no canary {only:?}"));
    }
    check_names()?;
    let mut lines = Vec::new();
    let mut missed = Vec::new();
    for (name, number, nets) in CANARIES.iter().filter(|(name, ..)| only.is_none_or(|o| o == *name))
    {
        let found = nets.iter().find_map(|net| find(name, *net).transpose()).transpose()?;
        if found.is_none() {
            missed.push(*name);
        }
        let by = found.unwrap_or_else(|| "NOBODY".to_owned());
        let line = format!("{name:<24} (kernel bug {number:>2}) found by {by}");
        println!("{line}");
        lines.push(line);
    }
    println!("\n{}", lines.join("\n"));
    println!("\n{} passed, {} failed", lines.len() - missed.len(), missed.len());
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join(", "))) }
}

/// Casts a net for a canary: the tests that found it, if any did.
fn find(name: &str, net: Net) -> Result<Option<String>> {
    let explorer = net.explorer();
    let dir = explorer.map_or_else(|| target().join("canaries"), Explorer::target);
    let (package, which) = net.args();
    let command = |more: &[&str]| -> Result<std::process::Command> {
        let args = [&["test", "--quiet", "--package", &package][..], which, more].concat();
        let mut command = cargo(&args);
        if let Some(explorer) = explorer {
            command.env("RUSTFLAGS", explorer.rustflags());
        }
        command.env("CARGO_TARGET_DIR", &dir).env("RUST_BACKTRACE", "0").stderr(Stdio::null());
        command.env("RUSTC_WORKSPACE_WRAPPER", wrapper(&dir, name)?);
        Ok(command)
    };
    let built = watch_for(&mut command(&["--no-run"])?, None)?;
    if !built.is_some_and(|ended| ended.success) {
        return Err(format!("{package} with the canary {name} does not build"));
    }
    let Some(ended) = watch_for(&mut command(&["--", "--test-threads=2"])?, Some(PATIENCE))? else {
        return Ok(Some(format!("{package} {}: it hangs", which.join(" "))));
    };
    if ended.success {
        return Ok(None);
    }
    let failed: Vec<&str> = failed_tests(&ended.output).collect();
    if failed.is_empty() {
        return Ok(Some(format!("{package} {}: it ends half way", which.join(" "))));
    }
    let (some, more) = failed.split_at(failed.len().min(3));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Ok(Some(format!("{package}: {}{more}", some.join(", "))))
}

/// The names in the last list that the test harness prints.
fn failed_tests(output: &str) -> impl Iterator<Item = &str> {
    let list = output.rsplit("failures:\n").next().unwrap_or_default();
    list.lines().take_while(|line| line.starts_with("    ")).map(str::trim)
}

/// Each canary is in the sources, and each of the sources is in the list.
fn check_names() -> Result<()> {
    let sources = crate::tidy::Repo::read(&root())?;
    let ours = || sources.rust().filter(|(path, _)| !path.contains("/xtask/"));
    for (name, ..) in CANARIES {
        let word = format!("canary = \"{name}\"");
        if !ours().any(|(_, text)| text.contains(&word)) {
            return Err(format!("no source has the canary {name}"));
        }
    }
    for (path, text) in ours() {
        for rest in text.split("canary = \"").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            if CANARIES.iter().all(|(known, ..)| *known != name) {
                return Err(format!("{path}: the canary {name} is not in the list"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_tests_are_read_from_the_harness() {
        let output = "failures:\n\n---- a stdout ----\nboom\n\nfailures:\n    a::b\n    c\n\ntest result: FAILED.";
        assert_eq!(failed_tests(output).collect::<Vec<_>>(), ["a::b", "c"]);
    }

    #[test]
    fn the_list_and_the_sources_agree() {
        check_names().expect("each name is in both");
    }
}
