//! The models: the shipped code under what explores interleavings, and once more with a defect planted in it.
//!
//! A build for models differs in every crate that locks anything, so it has a target folder of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::count::Count;
use crate::run::{Result, cargo, root, target, watch};

/// What explores interleavings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Explorer {
    /// Whole paths, by schedules that are drawn.
    Shuttle,
    /// Small protocols, completely or up to a number of preemptions.
    Loom,
}

/// The defects that the models of a package must find in every test run, as values of `cfg(canary)`; for all others see `canaries`.
const CANARIES: [(Explorer, &str, &str); 2] = [
    (Explorer::Loom, "cowback-async-cow", "look_unordered"),
    (Explorer::Shuttle, "cowback-async-cow", "locked_page"),
];

impl Explorer {
    /// The `cfg` that builds for it.
    pub(crate) fn cfg(self) -> &'static str {
        match self {
            Self::Shuttle => "shuttle",
            Self::Loom => "loom",
        }
    }

    /// The test program of a package with its models.
    pub(crate) fn test(self) -> &'static str {
        match self {
            Self::Shuttle => "models",
            Self::Loom => "loom",
        }
    }

    /// Where its builds go.
    pub(crate) fn target(self) -> PathBuf {
        target().join(self.test())
    }

    /// The flags for the compiler: the given ones, and the `cfg`.
    pub(crate) fn rustflags(self) -> String {
        let given = std::env::var("RUSTFLAGS").unwrap_or_default();
        format!("{given} --cfg {}", self.cfg()).trim_start().to_owned()
    }
}

/// Runs the models of all crates that have some. Gives the number of tests, canaries included.
pub(crate) fn models(schedules: Option<&str>) -> Result<Count> {
    let mut count = Count::default();
    for explorer in [Explorer::Loom, Explorer::Shuttle] {
        for package in packages(explorer)? {
            let ended = watch(&mut command(explorer, &package, None, schedules, false)?, true)?;
            count += Count::of(&ended.output);
            if !ended.success {
                return Err(format!("a model of {package} failed; its output tells the seed"));
            }
            println!("{} models of {package}: {} s", explorer.cfg(), ended.seconds);
        }
        for (_, package, canary) in CANARIES.iter().filter(|(by, ..)| *by == explorer) {
            find(explorer, package, canary)?;
            count.passed += 1;
        }
    }
    Ok(count)
}

/// Runs the models with a planted defect: they have to fail, and not because they do not build.
fn find(explorer: Explorer, package: &str, canary: &str) -> Result<()> {
    let built = watch(&mut command(explorer, package, Some(canary), None, true)?, true)?;
    if !built.success {
        return Err(format!("{package} with the canary {canary} does not build"));
    }
    let ended = watch(&mut command(explorer, package, Some(canary), None, false)?, false)?;
    let failed = Count::of(&ended.output).failed;
    if ended.success || failed == 0 {
        return Err(format!("the models of {package} did not notice the planted defect {canary}"));
    }
    println!(
        "the planted defect {canary} was found by {failed} models of {package}: {} s",
        ended.seconds
    );
    Ok(())
}

fn command(
    explorer: Explorer,
    package: &str,
    canary: Option<&str>,
    schedules: Option<&str>,
    build_only: bool,
) -> Result<Command> {
    let mut args = vec!["test", "--package", package, "--test", explorer.test()];
    if build_only {
        args.push("--no-run");
    } else if canary.is_none() {
        args.extend(["--", "--nocapture"]);
    }
    let mut command = cargo(&args);
    let dir = explorer.target();
    command.env("RUSTFLAGS", explorer.rustflags()).env("CARGO_TARGET_DIR", &dir);
    if let Some(canary) = canary {
        command.env("RUSTC_WORKSPACE_WRAPPER", wrapper(&dir, canary)?);
    }
    if let Some(schedules) = schedules {
        command.env("COWBACK_MODEL_SCHEDULES", schedules);
    }
    if canary.is_some() && !build_only {
        // It is about to panic, many times: nobody wants to read that.
        command.env("RUST_BACKTRACE", "0").stderr(Stdio::null());
    }
    Ok(command)
}

/// A script in `dir` that compiles with the defect. It is used for our own crates alone, so that what they need is built once.
pub(crate) fn wrapper(dir: &Path, canary: &str) -> Result<PathBuf> {
    let path = dir.join(format!("rustc-with-{canary}"));
    let script = format!("#!/bin/sh\nexec \"$@\" --cfg 'canary=\"{canary}\"'\n");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    std::fs::write(&path, script).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(path)
}

/// Packages that have models for `explorer`.
fn packages(explorer: Explorer) -> Result<Vec<String>> {
    let crates = root().join("crates");
    let main = Path::new("tests").join(explorer.test()).join("main.rs");
    let mut packages = vec![];
    for entry in std::fs::read_dir(&crates).map_err(|error| format!("{crates:?}: {error}"))? {
        let dir = entry.map_err(|error| error.to_string())?.path();
        if dir.join(&main).is_file() {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            packages.push(if name == "cowback" { name } else { format!("cowback-{name}") });
        }
    }
    packages.sort_unstable();
    Ok(packages)
}
