//! Laws D1 and R4: cut the power at any write or flush, with any subset of the writes since the last flush missing or torn; what is
//! found then is exactly the state of one commit, the last that was promised or the one that was being made.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cowback::options::Profile;
use cowback::{Options, Volume};
use cowback_testkit::crash::{CrashState, Plan, explore};
use cowback_testkit::oracle::{Mode, Oracle};
use cowback_testkit::random::{Rng, seed};
use cowback_testkit::recording::RecordingDevice;
use cowback_tests::model::Model;
use cowback_tests::work::{Shape, step};
use cowback_tests::{Snapshot, snapshot};

/// Every so many states, one is shown to btrfs-progs.
const ORACLE_EVERY: u64 = 97;

fn options(profile: Profile) -> Options {
    Options {
        cache_bytes: 8 << 20,
        threads: 2,
        metadata: profile,
        commit_interval: None,
        ..Options::default()
    }
}

/// Random work with a commit now and then. Returns the log, and what each commit held: the empty volume is number 0.
fn record(seed: u64, profile: Profile, commits: usize) -> (Arc<RecordingDevice>, Vec<Snapshot>) {
    let mut rng = Rng::new(seed);
    let device = Arc::new(RecordingDevice::zeros(96 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(profile)).unwrap();
    device.mark("commit 0");
    let mut model = Model::default();
    let mut states = vec![model.snapshot()];
    for number in 1..=commits {
        for _ in 0..1 + rng.below(12) {
            let shape = if rng.percent(10) { Shape::LARGE } else { Shape::SMALL };
            step(&mut rng, shape, &volume, &mut model);
        }
        states.push(model.snapshot());
        if let (true, Some(path)) = (rng.percent(30), model.files().first()) {
            volume.open_file(path).unwrap().sync_data().unwrap();
        } else {
            volume.commit().unwrap();
        }
        device.mark(format!("commit {number}"));
    }
    drop(volume);
    (device, states)
}

/// What may be found after a crash: the last promised commit, or the one after it.
fn check(state: &CrashState, commits: &[Snapshot], profile: Profile) -> Result<(), String> {
    let promised: Option<usize> = state.last_mark("commit ").map(|number| number.parse().unwrap());
    let volume = match Volume::open_on(state.device(), &options(profile)) {
        Ok(volume) => volume,
        Err(_) if promised.is_none() => return Ok(()), // it was not yet a volume
        Err(error) => return Err(format!("does not open: {error}")),
    };
    let found = snapshot(&volume).map_err(|error| format!("cannot be read: {error}"))?;
    let first = promised.unwrap_or(0);
    let allowed = &commits[first..commits.len().min(first + 2)];
    if !allowed.contains(&found) {
        return Err(format!("is neither commit {first} nor the one after: {found:?}"));
    }
    // It is a volume that goes on: a crash during recovery is as good as the first.
    volume
        .create_file("/after the crash")
        .and_then(|file| file.write_at(0, b"goes on"))
        .map_err(|e| e.to_string())?;
    volume.close().map_err(|error| format!("does not go on: {error}"))
}

/// Has btrfs-progs look at the state. They know one superblock only; where its write was torn, they see what cowback made of the state.
fn show_oracle(state: &CrashState, image: &Path) -> Result<(), String> {
    let torn = state.to_string().contains("at 0x10000)");
    let device = if torn { state.device() } else { state.fork() };
    device.write_to(image).map_err(|error| error.to_string())?;
    let outcome = Oracle::available().check(image, Mode::Original);
    outcome.map_err(|error| error.to_string())?.report("btrfs check of crash states");
    std::fs::remove_file(image).map_err(|error| error.to_string())
}

fn explore_all(
    test: &str,
    default_seed: u64,
    profile: Profile,
    workloads: u64,
    commits: usize,
) -> u64 {
    let seed = seed(test, default_seed);
    let (mut states, shown) = (0, AtomicU64::new(0));
    let dir = tempfile::tempdir().unwrap();
    for workload in 0..workloads {
        let (device, snapshots) = record(seed + workload, profile, commits);
        let report = explore(device.recording(), &Plan::quick(seed), 2, |state| {
            check(state, &snapshots, profile)?;
            if state.number.is_multiple_of(ORACLE_EVERY) && state.last_mark("commit ").is_some() {
                let image = dir.path().join(format!("{workload}-{}.img", state.number));
                show_oracle(state, &image)?;
                shown.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        match report {
            Ok(report) => states += report.states,
            Err(failure) => panic!("workload {workload} of seed {seed}: {failure}"),
        }
    }
    println!("{test}: {states} states, {} of them through btrfs check", shown.into_inner());
    states
}

#[test]
fn every_crash_state_is_a_commit_with_duplicated_metadata() {
    let states = explore_all("crash_dup", 1, Profile::Dup, 14, 12);
    assert!(states >= 6000, "only {states} states");
}

#[test]
fn every_crash_state_is_a_commit_with_single_metadata() {
    let states = explore_all("crash_single", 1001, Profile::Single, 14, 12);
    assert!(states >= 4000, "only {states} states");
}
