//! The power is cut while databases in a volume are at work, with any of the writes since the last flush missing or torn: what redb acknowledged
//! is there, and every state is one that was committed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cowback::device::MemoryDevice;
use cowback::{Options, Volume};
use cowback_redb::workload::{self, Acknowledged, DATABASES};
use cowback_testkit::crash::{CrashState, Plan, explore};
use cowback_testkit::random::{seed, to_usize};
use cowback_testkit::recording::RecordingDevice;

/// Acknowledged commits before the work ends.
const COMMITS: u64 = 16;
const ENOUGH: &str = "enough";

fn options() -> Options {
    Options { cache_bytes: 4 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

/// Some threads at work, with a mark for each commit that was acknowledged.
fn record() -> Arc<RecordingDevice> {
    let base = Arc::new(MemoryDevice::new(64 << 20));
    Volume::create_on(Arc::clone(&base) as _, &options()).unwrap().close().unwrap();
    let device = Arc::new(RecordingDevice::over(base).unwrap());
    let volume = Volume::open_on(Arc::clone(&device) as _, &options()).unwrap();
    let acknowledged = AtomicU64::new(0);
    let ended = workload::run(&volume, &|line| {
        device.mark(line.trim_end());
        match acknowledged.fetch_add(1, Ordering::Relaxed) {
            number if number < COMMITS => Ok(()),
            _ => Err(io::Error::other(ENOUGH)),
        }
    });
    assert_eq!(ended.unwrap_err().to_string(), ENOUGH);
    drop(volume);
    device
}

fn check(state: &CrashState) -> Result<(), String> {
    let volume = Volume::open_on(state.device(), &options()).map_err(|error| error.to_string())?;
    for number in 0..DATABASES {
        let told =
            |error: Box<dyn std::error::Error + Send + Sync>| format!("database {number}: {error}");
        let mut database = workload::open(&volume, number).map_err(told)?;
        let counts = workload::verify(&mut database).map_err(told)?;
        let promised = state.marks.iter().filter_map(|mark| Acknowledged::parse(mark));
        for Acknowledged { thread, count, .. } in promised.filter(|mark| mark.database == number) {
            let there = counts[to_usize(thread)];
            if there < count {
                return Err(format!(
                    "database {number}, thread {thread}: {there} records, {count} were acknowledged"
                ));
            }
        }
    }
    volume.close().map_err(|error| error.to_string())
}

#[test]
fn what_redb_acknowledged_survives_a_power_cut_law_d2() {
    let seed = seed("redb, power cut", 1);
    match explore(record().recording(), &Plan::quick(seed), 2, check) {
        Ok(report) => {
            println!("{report}");
            assert!(report.states >= 300, "only {} states", report.states);
        }
        Err(failure) => panic!("seed {seed}: {failure}"),
    }
}
