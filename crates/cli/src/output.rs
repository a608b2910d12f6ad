//! What commands say at their end.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::args::ReportArgs;
use crate::failure::{Failure, Outcome};

/// Says how the work went: the summary, or the object, or nothing.
pub(crate) fn report(
    args: &ReportArgs,
    object: &impl Serialize,
    summary: impl FnOnce() -> String,
) -> Outcome<()> {
    if args.json {
        json(object)
    } else if args.quiet {
        Ok(())
    } else {
        line(&summary())
    }
}

/// Prints one JSON object.
pub(crate) fn json(object: &impl Serialize) -> Outcome<()> {
    let text = serde_json::to_string(object)
        .map_err(|error| Failure::new("standard output", error.to_string()))?;
    line(&text)
}

/// Prints a line.
pub(crate) fn line(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| Failure::stdout(&error))
}

/// Most memory that this process has had, in bytes; 0 if the system does not tell.
pub(crate) fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_used_memory() {
        assert!(super::peak_rss() > 1 << 20);
    }
}
