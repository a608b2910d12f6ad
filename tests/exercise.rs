//! The exerciser, in the manner of fsx, for a while: volumes of one thread, compared byte for byte and commit for commit (laws B2, D1, E1, E4),
//! reopened and crashed; and volumes that eight threads share. Half a million operations; `cargo xtask soak` does as many as one likes.

use std::sync::atomic::{AtomicU64, Ordering};

use cowback_testkit::random::seed;
use cowback_tests::exercise::alone;
use cowback_tests::exercise::campaign::{ALONE, FULL_OPS, TOGETHER};
use cowback_tests::exercise::op::Bytes;
use cowback_tests::exercise::{full, together};

/// Volumes of one thread in a test run: 420,000 operations.
const VOLUMES: u64 = 210;
/// Volumes of eight threads: 76,800 operations.
const SHARED: u64 = 40;

/// Full volumes of four threads: 24,000 operations.
const FULL: u64 = 20;

/// Runs `volume` for each of so many seeds from `seed` on, on two threads. Panics with the first that fails.
fn on_two_threads(
    seed: u64,
    volumes: u64,
    volume: impl Fn(u64) -> Result<alone::Done, String> + Sync,
) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            let volume = &volume;
            scope.spawn(move || {
                for number in (half..volumes).step_by(2) {
                    if let Err(why) = volume(seed + number) {
                        panic!("{why}");
                    }
                }
            });
        }
    });
}

#[test]
fn half_a_million_operations_are_what_the_model_says() {
    let (seed, bytes) = (seed("exercise", 1), Bytes::default());
    on_two_threads(seed, VOLUMES, |seed| alone::run_seed(seed, ALONE, &bytes));
}

/// Laws D1 and D2: what a crash leaves is one commit for all threads and files, and none before the last sync of any.
#[test]
fn eight_threads_on_shared_files_find_their_bytes_and_one_commit_after_each_crash() {
    let (seed, bytes) = (seed("exercise", 1), Bytes::default());
    on_two_threads(seed, SHARED, |seed| together::run_seed(seed, TOGETHER, &bytes));
}

/// Law E4: whoever finds the volume full loses nothing, and leaves nothing behind.
#[test]
fn threads_on_a_full_volume_lose_nothing_and_leave_nothing_behind() {
    let (seed, bytes) = (seed("exercise", 1), Bytes::default());
    let met = AtomicU64::new(0);
    on_two_threads(seed, FULL, |seed| {
        let done = full::run_seed(seed, FULL_OPS, &bytes)?;
        met.fetch_add(done.full, Ordering::Relaxed);
        Ok(done)
    });
    let met = met.into_inner();
    assert!(met > 100, "the volumes were met full only {met} times");
}
