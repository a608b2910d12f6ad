//! A process with databases in a volume is killed at any moment: what it acknowledged is there, and every state is one that was committed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowback::{Options, Volume};
use cowback_redb::workload::{self, Acknowledged, DATABASES, THREADS};
use cowback_testkit::oracle::{Mode, Oracle};
use cowback_testkit::random::{Rng, seed, to_usize};

const ROUNDS: u64 = 12;
const SIGKILL: i32 = 9;

/// The counts of the threads, by database.
type Counts = Vec<Vec<u64>>;

fn options() -> Options {
    Options { cache_bytes: 4 << 20, commit_interval: None, ..Options::default() }
}

/// Lets a process work for `time`, kills it, and gives what it had acknowledged.
fn work_and_die(image: &Path, threads: u64, time: Duration) -> Vec<Acknowledged> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_redb-workload"))
        .arg(image)
        .arg(threads.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Read as it comes: a full pipe would hold the workload up.
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        said
    });
    std::thread::sleep(time);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "it worked until it was killed: {status}");
    reader.join().unwrap().lines().filter_map(Acknowledged::parse).collect()
}

/// Opens everything again, as the next process would, and gives the counts that are there.
fn reopen(image: &Path) -> Counts {
    let volume = Volume::open(image, &options()).unwrap();
    let counts = (0..DATABASES)
        .map(|number| {
            let mut database = workload::open(&volume, number).unwrap();
            workload::verify(&mut database).unwrap()
        })
        .collect();
    volume.close().unwrap();
    let report = Volume::check(image, &mut |problem| panic!("{problem:?}"));
    report.unwrap();
    counts
}

#[test]
fn what_redb_acknowledged_survives_a_kill_at_any_moment_law_d2() {
    let seed = seed("redb, killed", 20);
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("killed.img");
    Volume::create(&image, &options()).unwrap().close().unwrap();

    let mut there: Counts = vec![vec![0; to_usize(THREADS)]; to_usize(DATABASES)];
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let threads = [1, 2, 8][rng.index(3)];
        let time = Duration::from_millis(rng.within(10, 900));
        let mut promised = there.clone();
        for Acknowledged { database, thread, count } in work_and_die(&image, threads, time) {
            let promised = &mut promised[to_usize(database)][to_usize(thread)];
            assert!(count > *promised, "a thread's count grows, round {round}");
            *promised = count;
            acknowledged += 1;
        }
        there = reopen(&image);
        for (there, promised) in there.iter().flatten().zip(promised.iter().flatten()) {
            assert!(
                there >= promised,
                "{there} records, {promised} were acknowledged: round {round}, {threads} threads, killed after {time:?}"
            );
        }
    }
    println!("{acknowledged} commits were acknowledged; records by database and thread: {there:?}");
    assert!(there.iter().flatten().all(|&count| count > 0), "every thread got to work: {there:?}");
    Oracle::available().check(&image, Mode::Original).unwrap().report("btrfs check");
}
