//! The checker: silent on healthy volumes, whoever wrote them, and never silent on damaged ones. And the store, on damaged ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;
mod clean;
mod damage;
mod invariants;
mod lies;
mod odd;
mod patched;
mod relocation;
mod surgeon;

use std::path::Path;
use std::process::Command;

use cowback_block_store::BlockDevice;
use cowback_block_store::check::{Report, check};
use cowback_testkit::skipped;

/// What the checker says about a volume.
fn problems(device: &dyn BlockDevice) -> (Vec<String>, Report) {
    let mut lines = Vec::new();
    let report = check(device, true, &mut |problem| lines.push(problem.to_string())).unwrap();
    assert_eq!(report.problems, lines.len() as u64);
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    (lines, report)
}

/// Whether a program can be run.
fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let found = found.is_ok_and(|out| out.status.success());
    if !found {
        skipped(&format!("what {program} says"), "it is not installed");
    }
    found
}

/// Whether the other checker finds nothing wrong with an image, and what it says.
fn btrfs_check(image: &Path) -> (bool, String) {
    let out = Command::new("btrfs")
        .args(["check", "--readonly", "--check-data-csum"])
        .arg(image)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    (out.status.success() && !text.contains("ERROR"), text)
}
