//! `cargo xtask test`: set-up, all tests, the models; at the end what was counted and what was skipped.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::count::Count;
use crate::run::{Result, cargo, target, watch};
use crate::{models, setup};

/// The file in which tests note what they skip.
const SKIP_LOG: &str = "COWBACK_SKIP_LOG";

/// Sets up what tests need, runs them, and tells how many there were. The models are run even if a test has failed.
pub(crate) fn test() -> Result<()> {
    let begun = Instant::now();
    setup::btrfs_progs()?;
    setup::kernel();
    let target = target();
    std::fs::create_dir_all(&target).map_err(|error| format!("{target:?}: {error}"))?;
    let log = target.join("skipped-checks.txt");
    std::fs::write(&log, "").map_err(|error| format!("{log:?}: {error}"))?;

    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    let tests = watch(command.env(SKIP_LOG, &log), true)?;
    println!("tests: {} s", tests.seconds);
    let mut count = Count::of(&tests.output);
    let models = models::models(None).map(|models| count += models);

    let skipped = std::fs::read_to_string(&log).unwrap_or_default();
    // One that is skipped in a loop is one.
    let skipped: BTreeSet<&str> = skipped.lines().collect();
    if !skipped.is_empty() {
        println!("\nNot tested, because it is not possible here:");
        skipped.iter().for_each(|line| println!("  {line}"));
    }
    let skips = skipped.len() as u64;
    let Count { passed, failed, ignored } = count;
    println!("\n{} s in all", begun.elapsed().as_secs());
    // The harness counts a test that skipped something as passed: we do not.
    println!(
        "{} passed, {failed} failed, {} skipped",
        passed.saturating_sub(skips),
        ignored + skips
    );
    models?;
    if tests.success { Ok(()) } else { Err("tests failed".into()) }
}
