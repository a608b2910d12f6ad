//! Dirty limits and their ends: a writer that runs into them goes on, or hears why not; and a volume that cannot commit says so.

use std::sync::Arc;
use std::time::Duration;

use cowback::budget::{Budget, Limits};
use cowback::device::MemoryDevice;
use cowback::error::StoreError;
use cowback::options::CompressionPolicy;
use cowback::{Error, Options, Volume};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op};
use cowback_testkit::random::Rng;
use cowback_tests::{must_end, read_all};

const CACHE: u64 = 2 << 20;

fn options(commit_interval: Option<Duration>) -> Options {
    Options {
        cache_bytes: CACHE,
        threads: 1,
        compression: CompressionPolicy::None,
        commit_interval,
        ..Options::default()
    }
}

/// Without a background thread, and with one that nobody waits for.
fn both() -> [Options; 2] {
    [options(None), options(Some(Duration::from_secs(3600)))]
}

#[test]
fn a_writer_whose_cache_is_full_of_what_cannot_be_written_is_told_and_loses_nothing() {
    for options in both() {
        must_end("a full cache", move || {
            let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
            let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
            let file = volume.create_file("f").unwrap();
            device.arm_from_now(Fault::forever(Op::Write, 0, Effect::Eio));
            let content = Rng::new(1).bytes(16 << 20);
            let mut taken = 0;
            let error = content.chunks(64 << 10).find_map(|part| {
                let result = file.write_at(taken, part);
                taken += part.len() as u64;
                result.err()
            });
            assert!(matches!(error, Some(Error::Store(StoreError::Io { .. }))), "{error:?}");
            assert!(taken <= 2 * CACHE, "{taken} bytes were taken");
            // The device is well again: what was taken is written, and read.
            device.disarm();
            file.write_at(taken, b"more").unwrap();
            drop(file.sync_data()); // tells of the failure, once
            file.sync_data().unwrap();
            let mut expected = content[..usize::try_from(taken).unwrap()].to_vec();
            expected.extend_from_slice(b"more");
            assert!(read_all(&volume, "f").unwrap() == expected);
            drop(file);
            volume.close().unwrap();
        });
    }
}

/// Law E1: what failed is tried again, but not all of it with every write.
#[test]
fn what_cannot_be_written_is_not_tried_again_with_every_write() {
    const UNWRITTEN: u64 = 14 << 20;
    for options in both() {
        must_end("writes that a full disk refuses", move || {
            // With room for all: nobody has to commit to make some, and is told by that.
            let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(1 << 30)), 1));
            // A long way from where flushers run to where writers wait.
            let limits = Limits { budget: 64 << 20, background: 4 << 20, hard: 40 << 20 };
            let options = Options { group: Some(Budget::new(limits).root()), ..options };
            let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
            let file = volume.create_file("f").unwrap();
            device.arm_from_now(Fault::forever(Op::Write, 0, Effect::Enospc));
            let before = device.count(Op::Write);
            let content = Rng::new(1).bytes(usize::try_from(UNWRITTEN).unwrap());
            assert!(volume.latest_write_error().is_none());
            for (part, at) in content.chunks(64 << 10).zip((0..).step_by(64 << 10)) {
                file.write_at(at, part).unwrap();
                // All that was sent has failed by the next write.
                while volume.stats().in_flight_bytes > 0 {
                    std::thread::yield_now();
                }
            }
            let tried = device.count(Op::Write) - before;
            assert!(tried > 0, "nothing was written back");
            // More than 160 writes come after the first failure.
            assert!(tried < 80, "{tried} writes were tried");
            assert!(matches!(volume.latest_write_error(), Some(Error::Store(_))));
            device.disarm();
            drop(volume.commit()); // it may tell of a write that failed while it began
            volume.commit().unwrap();
            assert!(read_all(&volume, "f").unwrap() == content);
            drop(file);
            volume.close().unwrap();
        });
    }
}

/// Law R1: whoever waits for the disk holds no page, so that the others, the commit among them, get on.
#[test]
fn writers_at_the_limit_go_on_when_another_commits() {
    for options in both() {
        must_end("writers beside commits", move || {
            let device = Arc::new(MemoryDevice::new(256 << 20));
            let volume = Volume::create_on(device, &options).unwrap();
            std::thread::scope(|scope| {
                let volume = &volume;
                for thread in 0..3u64 {
                    scope.spawn(move || {
                        let data = Rng::new(thread).bytes(1 << 20);
                        let file = volume.create_file(format!("{thread}")).unwrap();
                        for round in 0..24 {
                            file.write_at(round % 8 * data.len() as u64, &data).unwrap();
                        }
                    });
                }
                scope.spawn(|| {
                    for _ in 0..40 {
                        volume.commit().unwrap();
                    }
                });
            });
            let stats = volume.stats();
            let stalls = stats.cache.stalls;
            assert!(stalls.count > 0, "nobody was at the limit: {stalls:?}");
            assert!(stalls.longest <= stalls.total && !stalls.longest.is_zero(), "{stalls:?}");
            let commits = stats.commits;
            assert!((1..=40).contains(&commits.count) && commits.failed == 0, "{commits:?}");
            assert!(commits.p50 <= commits.p99 && commits.p99 <= commits.max, "{commits:?}");
            assert!(stats.in_flight_bytes > 0 || stats.queued_chunks == 0, "{stats:?}");
            volume.close().unwrap();
        });
    }
}

#[test]
fn close_says_what_could_not_be_committed() {
    for options in both() {
        let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        let file = volume.create_file("f").unwrap();
        file.write_at(0, &[1; 10_000]).unwrap();
        device.arm_from_now(Fault::once(Op::Flush, 0, Effect::Eio));
        assert!(volume.commit().is_err());
        drop(file);
        // All pages are clean, and yet nothing of them is durable.
        let error = volume.close().unwrap_err();
        let reason = matches!(&error, Error::Store(StoreError::ReadOnly { .. }));
        assert!(reason, "{error}");
    }
}

#[test]
fn writers_hear_of_a_volume_that_stops_under_them() {
    for options in both() {
        must_end("a volume that stops", move || {
            // With room for all: nobody else commits.
            let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(256 << 20)), 1));
            let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
            let files = ["f", "g"].map(|name| volume.create_file(name).unwrap());
            device.arm_from_now(Fault::forever(Op::Flush, 0, Effect::Eio));
            let began = std::sync::Barrier::new(files.len() + 1);
            std::thread::scope(|scope| {
                let began = &began;
                for file in &files {
                    scope.spawn(move || {
                        file.write_at(0, &[1; 1 << 16]).unwrap();
                        began.wait();
                        let ended =
                            (1..600).find_map(|at| file.write_at(at << 16, &[1; 1 << 16]).err());
                        assert!(
                            matches!(ended, Some(Error::Store(StoreError::ReadOnly { .. }))),
                            "a stopped volume took 40 MiB, or says {ended:?}"
                        );
                    });
                }
                began.wait();
                assert!(volume.commit().is_err());
            });
        });
    }
}

#[test]
fn a_large_file_takes_turns_with_the_others() {
    let options = Options { cache_bytes: 128 << 20, ..options(None) };
    let volume = Volume::create_on(Arc::new(MemoryDevice::new(256 << 20)), &options).unwrap();
    let large = volume.create_file("large").unwrap();
    large.write_at(0, &vec![1; 30 << 20]).unwrap();
    let small = volume.create_file("small").unwrap();
    small.write_at(0, &[2; 10_000]).unwrap();
    assert!(small.dirty_bytes() > 0 && large.dirty_bytes() == 30 << 20, "all is in memory yet");
    // Over the background limit, a quarter of the cache: half of that is to be left.
    large.write_at(30 << 20, &vec![1; 3 << 20]).unwrap();
    assert_eq!(small.dirty_bytes(), 0, "it had its turn while the large one was not done");
    let left = large.dirty_bytes();
    assert!((1..16 << 20).contains(&left), "{left} bytes of the large file are dirty");
    drop((large, small));
    volume.close().unwrap();
}

#[test]
fn a_background_commit_that_panics_leaves_nobody_waiting_for_its_thread() {
    cowback_tests::rough::hush();
    must_end("a background thread that panics", move || {
        let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
        let options = options(Some(Duration::from_millis(20)));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        let file = volume.create_file("f").unwrap();
        let write = |at: u64| file.write_at((at % 128) << 16, &[1; 1 << 16]);
        device.arm_from_now(Fault::forever(Op::Flush, 0, Effect::Panic));
        let ended = (0..).find_map(|at| write(at).err());
        assert!(matches!(ended, Some(Error::Store(StoreError::ReadOnly { .. }))), "{ended:?}");
        device.disarm();
        volume.try_resume().unwrap();
        // Ten times what the cache holds, which nobody but that thread writes back.
        for at in 0..320 {
            write(at).unwrap();
        }
        drop(file.sync_data()); // tells of what the stopped volume refused
        file.sync_data().unwrap();
        drop(file);
        volume.close().unwrap();
    });
}
