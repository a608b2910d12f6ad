//! `cargo xtask canaries`: defects of the kernel's history, or close kin of theirs, planted one by one; a test must find each.
//!
//! A canary is a `planted!("name")` in the sources. Which bug of the kernel it stands for is in `docs/kernel-bugs.md`, with what
//! keeps all others out.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::build::{Build, Program};
use crate::count::Count;
use crate::run::{Result, root, watch_for};

/// Where a canary must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    /// Unit and property tests of a crate: where it is, and its name.
    Unit(&'static str, &'static str),
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

const PAGE_CACHE: Net = Net::Unit("crates/page-cache", "cowback_page_cache");

/// The planted defects: name, number of the kernel's bug if there was one, and the nets in the order in which they are cast.
const CANARIES: &[(&str, &str, &[Net])] = &[
    ("locked_page", "1", &[Net::Models]),
    ("size_twice", "3", &[Net::Models]),
    ("clean_while_pending", "4", &[Net::Pipeline]),
    ("lock_leak", "9", &[PAGE_CACHE]),
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
    ("tag_left", "35", &[PAGE_CACHE]),
    ("towrite_lost", "36", &[PAGE_CACHE, Net::Models]),
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

/// Those that the models have to find in every test run.
const IN_EACH_RUN: [&str; 2] = ["look_unordered", "locked_page"];

impl Net {
    fn build(self) -> Build {
        match self {
            Self::Models | Self::VolumeModels => Build::Shuttle,
            Self::Loom => Build::Loom,
            Self::Unit(..) | Self::Pipeline | Self::Volume | Self::Store => Build::Canaries,
        }
    }

    /// Where the package is, and the test program in it.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Unit(dir, name) => (dir, name),
            Self::Pipeline => ("crates/async-cow", "pipeline"),
            Self::Models => ("crates/async-cow", "models"),
            Self::Loom => ("crates/async-cow", "loom"),
            Self::Volume => ("tests", "model"),
            Self::VolumeModels => ("crates/cowback", "models"),
            Self::Store => ("crates/block-store", "store"),
        }
    }
}

/// Plants each defect, or only the one that is named, and reports who found it.
pub(crate) fn canaries(only: Option<&str>) -> Result<()> {
    if only.is_some_and(|only| CANARIES.iter().all(|(name, ..)| *name != only)) {
        return Err(format!("there is no canary {only:?}"));
    }
    check_names()?;
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let (lines, missed) = plant(wanted, |_| true)?;
    println!("\n{}", lines.join("\n"));
    println!("\n{} passed, {} failed", lines.len() - missed.len(), missed.len());
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join(", "))) }
}

/// Plants the few that are for every test run. Tests have to fail, there: what hangs or ends half way may do so for other reasons.
pub(crate) fn canaries_of_each_run() -> Result<Count> {
    let (lines, missed) = plant(|name| IN_EACH_RUN.contains(&name), Found::by_tests)?;
    match missed[..] {
        [] => Ok(Count { passed: lines.len() as u64, ..Count::default() }),
        _ => Err(format!("no model noticed the planted defects: {}", missed.join(", "))),
    }
}

/// How a canary was found.
enum Found {
    /// By tests that failed: which.
    Tests(String),
    /// The test program hung, or ended half way.
    Abruptly(&'static str),
}

impl Found {
    fn by_tests(&self) -> bool {
        matches!(self, Self::Tests(_))
    }
}

/// Plants what is `wanted`: a line for each, and the names of those that nobody found in a way that `counts`.
fn plant(
    wanted: impl Fn(&str) -> bool,
    counts: impl Fn(&Found) -> bool,
) -> Result<(Vec<String>, Vec<&'static str>)> {
    let wanted: Vec<_> = CANARIES.iter().filter(|(name, ..)| wanted(name)).collect();
    let needed = |build: &Build| {
        wanted.iter().any(|(.., nets)| nets.iter().any(|net| net.build() == *build))
    };
    let mut programs = vec![];
    for build in [Build::Canaries, Build::Shuttle, Build::Loom].into_iter().filter(needed) {
        programs.extend(build.programs()?.into_iter().map(|program| (build, program)));
    }
    let (mut lines, mut missed) = (vec![], vec![]);
    for (name, number, nets) in wanted {
        let begun = Instant::now();
        let mut by = "NOBODY".to_owned();
        let mut counted = false;
        for net in *nets {
            let Some(found) = find(name, *net, &programs)? else { continue };
            let (package, test) = net.program();
            counted = counts(&found);
            by = match found {
                Found::Tests(which) => format!("{package} {test}: {which}"),
                Found::Abruptly(how) => format!("{package} {test}: it {how}"),
            };
            break;
        }
        if !counted {
            missed.push(*name);
        }
        let line = format!("{name:<24} (kernel bug {number:>2}) found by {by}");
        println!("{line}: {} s", begun.elapsed().as_secs());
        lines.push(line);
    }
    Ok((lines, missed))
}

/// Casts a net for a canary.
fn find(name: &str, net: Net, programs: &[(Build, Program)]) -> Result<Option<Found>> {
    let (package, test) = net.program();
    let mut of_net = programs
        .iter()
        .filter(|(build, program)| *build == net.build() && program.is(package, test));
    let (_, program) = of_net.next().ok_or_else(|| format!("{package} has no test {test}"))?;
    let mut cast = program.command(&["--quiet", "--test-threads=2"]);
    // It is about to panic, many times: nobody wants to read that.
    cast.env("COWBACK_CANARY", name).env("RUST_BACKTRACE", "0").stderr(Stdio::null());
    let Some(ended) = watch_for(&mut cast, PATIENCE)? else {
        return Ok(Some(Found::Abruptly("hangs")));
    };
    if ended.success {
        return Ok(None);
    }
    let failed: Vec<&str> = failed_tests(&ended.output).collect();
    if failed.is_empty() {
        return Ok(Some(Found::Abruptly("ends half way")));
    }
    let (some, more) = failed.split_at(failed.len().min(3));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Ok(Some(Found::Tests(format!("{}{more}", some.join(", ")))))
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
        let word = format!("planted!(\"{name}\")");
        if !ours().any(|(_, text)| text.contains(&word)) {
            return Err(format!("no source has the canary {name}"));
        }
    }
    for (path, text) in ours() {
        for rest in text.split("planted!(\"").skip(1) {
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
