//! Other programs, with their time and peak memory; and what this process has resident.
//!
//! The kernel counts a child's peak from before it has become another program, when it still is a copy of its parent. So others are started by
//! a small child of ours, not by this process with its hundreds of MiB.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contest::Outcome;

/// The first argument of a child, which users never give.
pub(crate) const CHILD: &str = "as-child";

/// How a program went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// The most memory that the program, or the largest of its children, had resident.
    pub(crate) peak_bytes: u64,
}

/// Runs `command` and measures it. It must succeed.
pub(crate) fn run(command: Vec<OsString>) -> Outcome<Measured> {
    child("run", command)
}

/// Runs this program as its own child, and gives the result.
pub(crate) fn child<T: DeserializeOwned>(what: &str, args: Vec<OsString>) -> Outcome<T> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.arg(CHILD).arg(what).args(args).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{command:?}: {said}").into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// In the small child: what [`run`] asks for.
pub(crate) fn measure(command: &[OsString]) -> Outcome<Measured> {
    let (program, args) = command.split_first().ok_or("run what?")?;
    let start = Instant::now();
    let status = Command::new(program).args(args).stdout(Stdio::null()).status()?;
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{} ends with {status}", program.display()).into());
    }
    let peak_kib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    Ok(Measured { seconds, peak_bytes: u64::try_from(peak_kib)? << 10 })
}

/// Whether a program of that name can be started.
pub(crate) fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// What a program says of itself with `--help`; empty if it is not there.
pub(crate) fn help(program: &str) -> String {
    let output = Command::new(program).arg("--help").stdin(Stdio::null()).output();
    output.map_or(String::new(), |output| {
        [output.stdout, output.stderr].iter().map(|text| String::from_utf8_lossy(text)).collect()
    })
}

/// Bytes of this process that are resident now.
pub(crate) fn resident() -> Outcome<u64> {
    of_proc("/proc/self/smaps_rollup", "Rss:")
}

/// The most bytes of this process that were ever resident.
pub(crate) fn peak() -> Outcome<u64> {
    of_proc("/proc/self/status", "VmHWM:")
}

/// A line such as `VmHWM:    1234 kB`, in bytes.
fn of_proc(path: &str, name: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let number = number.ok_or_else(|| format!("{path} has no {name}"))?;
    Ok(number.trim().parse::<u64>()? << 10)
}
