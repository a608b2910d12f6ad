//! Many threads on one volume: different files, different ranges of one file, readers, names and commits, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cowback::device::MemoryDevice;
use cowback::{Options, Volume};
use cowback_testkit::random::{Rng, seed};
use cowback_tests::read_all;
use cowback_tests::work::content;

fn options(threads: usize) -> Options {
    Options {
        threads,
        cache_bytes: 8 << 20,
        commit_interval: Some(Duration::from_millis(20)),
        ..Options::default()
    }
}

/// Law R2, with pools of 1, 2 and 8 threads: a lock held across the pool hangs with some of them.
#[test]
fn files_and_ranges_are_written_at_once_and_all_is_there_after_reopening() {
    let seed = seed("threads", 3);
    for threads in [1, 2, 8] {
        let device = Arc::new(MemoryDevice::new(512 << 20));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options(threads)).unwrap();
        let shared = volume.create_file("shared").unwrap();
        let stop = AtomicBool::new(false);
        let (mut own, mut parts) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            let (volume, shared, stop) = (&volume, &shared, &stop);
            let writers: Vec<_> = (0..6u64)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut rng = Rng::new(seed).fork(thread);
                        let name = format!("own{thread}");
                        let file = volume.create_file(&name).unwrap();
                        let mut mine = vec![0; 600_000];
                        // Parts of the shared file that touch each other in the middle of blocks and of compressed extents.
                        let base = thread * 300_001;
                        let mut part = vec![0; 300_001];
                        for _ in 0..40 {
                            let at = rng.index(500_000);
                            let len = 1 + rng.index(100_000);
                            let data = content(&mut rng, len);
                            mine[at..at + len].copy_from_slice(&data);
                            file.write_at(at as u64, &data).unwrap();
                            let at = rng.index(part.len() - 1);
                            let len = 1 + rng.index((part.len() - at).min(90_000));
                            let data = content(&mut rng, len);
                            part[at..at + len].copy_from_slice(&data);
                            shared.write_at(base + at as u64, &data).unwrap();
                            if rng.percent(10) {
                                file.sync_data().unwrap();
                            }
                        }
                        file.write_at(mine.len() as u64 - 1, &[mine[mine.len() - 1]]).unwrap();
                        (name, mine, part)
                    })
                })
                .collect();
            scope.spawn(move || {
                let mut buffer = vec![0; 50_000];
                let mut rng = Rng::new(seed).fork(99);
                while !stop.load(Ordering::Relaxed) {
                    shared.read_at(rng.below(2_000_000), &mut buffer).unwrap();
                    volume.rename("own0", "renamed").ok();
                    volume.rename("renamed", "own0").ok();
                }
            });
            for writer in writers {
                let (name, mine, part) = writer.join().unwrap();
                own.push((name, mine));
                parts.push(part);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut whole = parts.concat();
        whole.truncate(usize::try_from(shared.len()).unwrap());
        drop(shared);
        let compare = |volume: &Volume, when: &str| {
            for (name, mine) in &own {
                assert!(
                    read_all(volume, name).unwrap() == *mine,
                    "{name}, {when}, {threads} threads"
                );
            }
            assert!(read_all(volume, "shared").unwrap() == whole, "{when}, {threads} threads");
        };
        compare(&volume, "from memory");
        volume.close().unwrap(); // checks that every gauge is at rest (E4)
        let volume = Volume::open_on(device, &options(threads)).unwrap();
        compare(&volume, "from disk");
        volume.close().unwrap();
    }
}

#[test]
fn what_was_synced_by_any_thread_survives_a_kill() {
    // Law D2, with many syncs sharing commits.
    let device = Arc::new(MemoryDevice::new(256 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(2)).unwrap();
    let mut synced = Vec::new();
    std::thread::scope(|scope| {
        let volume = &volume;
        let threads: Vec<_> = (0..8u64)
            .map(|thread| {
                scope.spawn(move || {
                    let file = volume.create_file(format!("log{thread}")).unwrap();
                    let mut at = 0;
                    for record in 0..30u64 {
                        let line = format!("thread {thread} record {record}\n");
                        file.write_at(at, line.as_bytes()).unwrap();
                        at += line.len() as u64;
                        file.sync_data().unwrap();
                    }
                    at
                })
            })
            .collect();
        synced.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    });
    drop(volume);
    let volume = Volume::open_on(device, &options(2)).unwrap();
    for (thread, len) in synced.into_iter().enumerate() {
        let text = String::from_utf8(read_all(&volume, &format!("log{thread}")).unwrap()).unwrap();
        assert_eq!(text.len() as u64, len);
        for (record, line) in text.lines().enumerate() {
            assert_eq!(line, format!("thread {thread} record {record}"));
        }
    }
    volume.close().unwrap();
}

/// A directory that is read in several batches.
#[test]
fn a_large_directory_lists_each_name_once_while_others_are_moved_over_it() {
    const ENTRIES: usize = 3000;
    let volume = Volume::create_on(Arc::new(MemoryDevice::new(0)), &options(1)).unwrap();
    let name = |number: usize| format!("entry{number:04}");
    (0..ENTRIES).for_each(|number| drop(volume.create_file(name(number)).unwrap()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..60 {
                let entries = volume.read_dir("").unwrap().into_iter().map(|entry| entry.name);
                let mut names: Vec<_> = entries.filter(|name| name != b"new").collect();
                names.sort_unstable();
                let all = (0..ENTRIES).map(|number| name(number).into_bytes());
                assert!(names.into_iter().eq(all));
            }
        });
        let mut rng = Rng::new(seed("large directory", 3));
        while !reader.is_finished() {
            volume.create_file("new").unwrap();
            volume.rename("new", name(rng.index(ENTRIES))).unwrap();
        }
        reader.join().unwrap();
    });
    volume.close().unwrap();
}
