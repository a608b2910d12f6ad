//! The power is cut at any moment. Preallocated space reads as zeros, or as what was written to it and committed, and never as what the device held
//! before (the device of these tests holds a pattern). A file that is overwritten in place has in each sector what was durable there
//! or something newer; all else of it, its size and its holes, is of the commit that is found.

use std::sync::Arc;

use cowback::{Options, Volume};
use cowback_testkit::crash::{CrashState, Plan, explore};
use cowback_testkit::oracle::{Mode, Oracle};
use cowback_testkit::random::{Rng, seed};
use cowback_testkit::recording::RecordingDevice;
use cowback_tests::files::Files;
use cowback_tests::work::content;
use cowback_tests::{Snapshot, read_all, snapshot};

const DEVICE: u64 = 96 << 20;
const SECTOR: usize = 512;

/// Every so many states, one is shown to btrfs-progs.
const ORACLE_EVERY: u64 = 197;

fn options(threads: usize) -> Options {
    Options { cache_bytes: 8 << 20, threads, commit_interval: None, ..Options::default() }
}

/// What stands behind a workload's number: as many threads.
fn threads(workload: u64) -> usize {
    [1, 2, 8][usize::try_from(workload % 3).unwrap()]
}

/// Has btrfs-progs look at a state now and then. They know one superblock only; where its write was torn, they see what cowback made of it.
fn show_oracle(state: &CrashState) -> Result<(), String> {
    if !state.number.is_multiple_of(ORACLE_EVERY) {
        return Ok(());
    }
    let torn = state.to_string().contains("at 0x10000)");
    let device = if torn { state.device() } else { state.fork() };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("crashed.img");
    device.write_to(&image).map_err(|error| error.to_string())?;
    let outcome = Oracle::available().check(&image, Mode::Original);
    outcome.map_err(|error| error.to_string())?.report("btrfs check of crash states");
    Ok(())
}

/// A device that is full of what must never be seen.
fn device() -> Arc<RecordingDevice> {
    let stale = cowback::device::MemoryDevice::new(DEVICE);
    let pattern: Vec<u8> = b"stale ".iter().copied().cycle().take(6 << 20).collect();
    for at in (0..DEVICE).step_by(6 << 20) {
        cowback::device::BlockDevice::write_at(&stale, at, &pattern).unwrap();
    }
    Arc::new(RecordingDevice::over(Arc::new(stale)).unwrap())
}

fn is_stale(content: &[u8]) -> bool {
    content.windows(12).any(|window| window == b"stale stale ")
}

/// Random work on files that are copied on write. Returns what each commit held.
fn record(seed: u64, threads: usize, commits: usize) -> (Arc<RecordingDevice>, Vec<Snapshot>) {
    let mut rng = Rng::new(seed);
    let device = device();
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(threads)).unwrap();
    let mut files = Files::default();
    files.make(&volume, "", false);
    volume.commit().unwrap();
    device.mark("commit 0");
    let mut states = vec![files.snapshot()];
    for number in 1..=commits {
        for _ in 0..1 + rng.below(10) {
            files.step(&mut rng, &volume);
        }
        states.push(files.snapshot());
        volume.commit().unwrap();
        device.mark(format!("commit {number}"));
    }
    (device, states)
}

fn check(state: &CrashState, commits: &[Snapshot]) -> Result<(), String> {
    let Some(first) = state.last_mark("commit ") else { return Ok(()) };
    let first: usize = first.parse().unwrap();
    let volume = Volume::open_on(state.device(), &options(2)).map_err(|error| error.to_string())?;
    for entry in volume.read_dir("").unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        if is_stale(&read_all(&volume, &name).map_err(|error| error.to_string())?) {
            return Err(format!("{name} shows what the device held before"));
        }
    }
    let found = snapshot(&volume).map_err(|error| error.to_string())?;
    if !commits[first..commits.len().min(first + 2)].contains(&found) {
        return Err(format!("is neither commit {first} nor the one after: {found:?}"));
    }
    goes_on(volume, state)
}

/// It is a volume that goes on, and that others know.
fn goes_on(volume: Volume, state: &CrashState) -> Result<(), String> {
    volume
        .create_file("after the crash")
        .and_then(|file| file.write_at(0, b"goes on"))
        .and_then(|()| volume.close())
        .map_err(|error| format!("does not go on: {error}"))?;
    show_oracle(state)
}

#[test]
fn law_d1_every_crash_state_of_preallocated_files_is_a_commit() {
    let seed = seed("prealloc_crash", 1);
    let mut states = 0;
    for workload in 0..10 {
        let (device, commits) = record(seed + workload, threads(workload), 10);
        let plan = Plan::quick(seed);
        let report = explore(device.recording(), &plan, 2, |state| check(state, &commits));
        states += report.unwrap_or_else(|failure| panic!("workload {workload}: {failure}")).states;
    }
    println!("prealloc_crash: {states} states");
    assert!(states > 1000, "only {states} states");
}

/// What is known of the work on a log that is overwritten in place.
#[derive(Debug, Default)]
struct Log {
    /// Its content after each operation.
    versions: Vec<Vec<u8>>,
    /// Which of these each commit holds.
    commits: Vec<usize>,
    /// Syncs that took none.
    without_commit: usize,
}

impl Log {
    /// The mark that says that all of it so far is durable.
    fn durable(&self) -> String {
        format!("durable {} {}", self.commits.len() - 1, self.versions.len() - 1)
    }

    /// Whether `found` is what may be left if `commit` is found, and all was durable as of `durable`.
    fn allows(&self, found: &[u8], commit: usize, durable: usize) -> bool {
        let at_commit = self.commits[commit];
        let since = at_commit.max(durable);
        found.len() == self.versions[at_commit].len()
            && found.chunks(SECTOR).enumerate().all(|(number, sector)| {
                self.versions[since..].iter().any(|version| {
                    let at = (number * SECTOR).min(version.len());
                    let known = &version[at..version.len().min(at + sector.len())];
                    sector[..known.len()] == *known
                        && sector[known.len()..].iter().all(|byte| *byte == 0)
                })
            })
    }
}

fn record_log(seed: u64, threads: usize, commits: usize) -> (Arc<RecordingDevice>, Log) {
    let mut rng = Rng::new(seed);
    let device = device();
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(threads)).unwrap();
    let file = volume.create_file("log").unwrap();
    file.set_nocow(true).unwrap();
    file.allocate(0..100_000).unwrap();
    let mut log = Log { versions: vec![vec![0; 100_000]], commits: vec![0], without_commit: 0 };
    volume.commit().unwrap();
    device.mark("durable 0 0");
    for _ in 0..commits {
        for _ in 0..2 + rng.below(12) {
            let mut now = log.versions.last().unwrap().clone();
            let (at, len) = (rng.index(100_000), 1 + rng.index(9000));
            let end = (at + len).min(100_000);
            let range = at as u64..end as u64;
            match rng.below(20) {
                0 => file.punch_hole(range).unwrap(),
                1 => file.zero_range(range).unwrap(),
                2 => file.set_len(at as u64 + 1).unwrap(),
                3 => file.allocate(range).unwrap(),
                4..8 => {
                    // Of what was there before, nothing is left after this, whether or not it takes a commit.
                    let generation = volume.stats().store.generation;
                    file.sync_data().unwrap();
                    if volume.stats().store.generation == generation {
                        log.without_commit += 1;
                    } else {
                        log.commits.push(log.versions.len() - 1);
                    }
                    device.mark(log.durable());
                    continue;
                }
                8..10 => {
                    file.start_writeback();
                    continue;
                }
                _ => {
                    let data = content(&mut rng, end - at);
                    file.write_at(at as u64, &data).unwrap();
                    now.resize(now.len().max(end), 0);
                    now[at..end].copy_from_slice(&data);
                    log.versions.push(now);
                    continue;
                }
            }
            log.versions.push(read_all(&volume, "log").unwrap());
        }
        let generation = volume.stats().store.generation;
        volume.commit().unwrap();
        if volume.stats().store.generation != generation {
            log.commits.push(log.versions.len() - 1);
        }
        device.mark(log.durable());
    }
    (device, log)
}

fn check_log(state: &CrashState, log: &Log) -> Result<(), String> {
    let Some(mark) = state.last_mark("durable ") else { return Ok(()) };
    let (commit, durable) = mark.split_once(' ').unwrap();
    let (commit, durable): (usize, usize) = (commit.parse().unwrap(), durable.parse().unwrap());
    let volume = Volume::open_on(state.device(), &options(2)).map_err(|error| error.to_string())?;
    let found = read_all(&volume, "log").map_err(|error| error.to_string())?;
    if is_stale(&found) {
        return Err("the log shows what the device held before".to_owned());
    }
    let commits = commit..log.commits.len().min(commit + 2);
    if !commits.into_iter().any(|commit| log.allows(&found, commit, durable)) {
        return Err(format!("it is neither of commit {commit} nor of the next, and newer"));
    }
    goes_on(volume, state)
}

#[test]
fn law_d2_what_was_synced_in_place_is_there_after_any_crash() {
    let seed = seed("nocow_crash", 1);
    let (mut states, mut without_commit) = (0, 0);
    for workload in 0..10 {
        let (device, log) = record_log(seed + workload, threads(workload), 6);
        without_commit += log.without_commit;
        let plan = Plan::quick(seed);
        let report = explore(device.recording(), &plan, 2, |state| check_log(state, &log));
        states += report.unwrap_or_else(|failure| panic!("workload {workload}: {failure}")).states;
    }
    println!("nocow_crash: {states} states, {without_commit} syncs without a commit");
    assert!(states > 1000 && without_commit > 10, "{states} states, {without_commit} such syncs");
}
