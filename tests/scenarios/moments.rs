//! Rows "truncate", "rewrite", "flush/sync", "reads" and "queue": what comes while a writeback stands before the device. The moments within the
//! pipeline, between whose phases no device stands, are hit in `async-cow/tests/moments.rs`.

use std::sync::Arc;
use std::time::Duration;

use cowback::Volume;
use cowback::device::{BlockDevice, MemoryDevice};

use crate::bench::{BLOCK, Bench, KIB, POOLS, must_end, noise, options, text};

const LEN: usize = 1024 * KIB;

/// A volume with a file whose writeback does not get on: with one worker, which is busy, its chunks are queued; with more they
/// stand before the device.
fn under_way(threads: usize) -> (Bench, cowback::File, Vec<cowback::File>, Vec<u8>) {
    let bench = Bench::new("zstd:1", threads);
    let content = text(LEN, 1);
    let file = bench.volume.create_file("f").unwrap();
    file.write_at(0, &content).unwrap();
    let occupiers = bench.occupy(1);
    file.start_writeback();
    if threads == 1 {
        assert_eq!(bench.volume.stats().queued_chunks, 2);
    } else {
        bench.device.wait_for(2);
    }
    assert_eq!(file.dirty_bytes(), 0, "it is on its way");
    (bench, file, occupiers, content)
}

#[test]
fn a_page_that_is_on_its_way_is_rewritten_without_waiting() {
    for threads in POOLS {
        must_end("a rewrite", move || {
            let (bench, file, occupiers, mut content) = under_way(threads);
            for (at, len) in [(0, BLOCK), (5 * BLOCK + 7, 100), (LEN - BLOCK, BLOCK)] {
                file.write_at(at as u64, &vec![9; len]).unwrap();
                content[at..at + len].fill(9);
            }
            assert_eq!(file.dirty_bytes(), 3 * BLOCK as u64, "a new version of each");
            bench.device.open();
            drop((file, occupiers));
            bench.settle("f", &content);
        });
    }
}

#[test]
fn a_dirty_page_that_is_overwritten_is_written_once() {
    for threads in POOLS {
        let bench = Bench::new("none", threads);
        let file = bench.volume.create_file("f").unwrap();
        for round in 0..10 {
            file.write_at(0, &vec![round; 8 * BLOCK]).unwrap();
        }
        file.sync_data().unwrap();
        assert_eq!(bench.volume.stats().written.raw.stored_bytes, 8 * BLOCK as u64);
        drop(file);
        bench.settle("f", &[9; 8 * BLOCK]);
    }
}

#[test]
fn a_truncate_of_what_is_on_its_way_waits_and_cuts() {
    for threads in POOLS {
        for to in [0, 5000, 512 * KIB, LEN - 5000] {
            must_end("a truncate", move || {
                let (bench, file, occupiers, mut content) = under_way(threads);
                let cutter = file.clone();
                let thread = std::thread::spawn(move || cutter.set_len(to as u64).unwrap());
                std::thread::sleep(Duration::from_millis(5));
                assert!(!thread.is_finished(), "it did not wait for what is under way");
                bench.device.open();
                thread.join().unwrap();
                content.truncate(to);
                // What was cut off does not come back.
                file.set_len(LEN as u64).unwrap();
                content.resize(LEN, 0);
                drop((file, occupiers));
                bench.settle("f", &content);
            });
        }
    }
}

#[test]
fn a_truncate_that_extends_does_not_wait_for_what_is_on_its_way() {
    for threads in POOLS {
        must_end("an extending truncate", move || {
            let (bench, file, occupiers, mut content) = under_way(threads);
            file.set_len(2 * LEN as u64 + 100).unwrap();
            content.resize(2 * LEN + 100, 0);
            bench.device.open();
            drop((file, occupiers));
            bench.settle("f", &content);
        });
    }
}

/// The volume on `device` as a crash of this moment leaves it.
fn crashed(bench: &Bench, threads: usize) -> Volume {
    let mut bytes = vec![0; 512 << 20];
    bench.device.read_at(0, &mut bytes).unwrap();
    let device = Arc::new(MemoryDevice::new(bytes.len() as u64));
    for (number, part) in bytes.chunks(1 << 20).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            device.write_at((number as u64) << 20, part).unwrap();
        }
    }
    Volume::open_on(device, &options("zstd:1", threads)).unwrap()
}

#[test]
fn a_sync_while_chunks_are_queued_returns_when_they_are_durable() {
    for threads in POOLS {
        must_end("a sync", move || {
            let (bench, file, occupiers, content) = under_way(threads);
            let syncer = file.clone();
            let thread = std::thread::spawn(move || syncer.sync_data().unwrap());
            std::thread::sleep(Duration::from_millis(5));
            assert!(!thread.is_finished(), "chunks are queued, and it returned (law R5)");
            bench.device.open();
            thread.join().unwrap();
            let after = crashed(&bench, threads);
            assert!(cowback_tests::read_all(&after, "f").unwrap() == content, "law D2");
            drop((file, occupiers));
            bench.settle("f", &content);
        });
    }
}

#[test]
fn a_second_sync_writes_no_data_again() {
    let bench = Bench::new("zstd:1", 2);
    let file = bench.volume.create_file("f").unwrap();
    file.write_at(0, &text(LEN, 1)).unwrap();
    file.sync_data().unwrap();
    let written = bench.volume.stats().written;
    file.sync_data().unwrap();
    assert_eq!(bench.volume.stats().written, written);
    drop(file);
    bench.settle("f", &text(LEN, 1));
}

#[test]
fn what_is_on_its_way_is_read_without_waiting() {
    for threads in POOLS {
        must_end("a read", move || {
            let (bench, file, occupiers, content) = under_way(threads);
            // All of it is in memory: a reader needs neither worker nor device.
            let mut bytes = vec![0; LEN];
            assert_eq!(file.read_at(0, &mut bytes).unwrap(), LEN);
            assert!(bytes == content);
            bench.device.open();
            drop((file, occupiers));
            bench.settle("f", &content);
        });
    }
}

#[test]
fn behind_a_slow_first_chunk_no_more_piles_up_than_may_be_in_flight() {
    for threads in POOLS {
        must_end("a pile", move || {
            let bench = Bench::new("zstd:1", threads);
            let content = noise(64 << 20, 4);
            let file = bench.volume.create_file("f").unwrap();
            let occupiers = bench.occupy(1);
            let writer = file.clone();
            let bytes = content.clone();
            let thread = std::thread::spawn(move || {
                // Beyond the background limit (64 MiB) it writes back itself, and waits for room.
                for (number, part) in bytes.chunks(1 << 20).enumerate() {
                    writer.write_at((number as u64) << 20, part).unwrap();
                }
                writer.start_writeback();
            });
            // 16 MiB and 4 MiB for each worker, 64 MiB at most, and a run (8 MiB) that is being cut.
            let (may, run) = ((16 + 4 * threads as u64).min(64) << 20, 8 << 20);
            let in_flight = || {
                let bytes = bench.volume.stats().in_flight_bytes;
                assert!(bytes <= may + run, "{bytes} in flight");
                bytes
            };
            while in_flight() + run < may {
                std::thread::sleep(Duration::from_millis(1));
            }
            for _ in 0..20 {
                in_flight();
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(!thread.is_finished(), "it waits for room");
            bench.device.open();
            thread.join().unwrap();
            drop((file, occupiers));
            bench.settle("f", &content);
        });
    }
}

#[test]
fn a_volume_that_is_closed_with_work_in_flight_finishes_it() {
    for threads in POOLS {
        must_end("closing", move || {
            let (bench, file, occupiers, content) = under_way(threads);
            let device = Arc::clone(&bench.device);
            drop((file, occupiers));
            let opener = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                device.open();
            });
            bench.settle("f", &content);
            opener.join().unwrap();
        });
    }
}

#[test]
fn a_volume_that_is_dropped_with_work_in_flight_waits_for_it_and_is_as_at_its_last_commit() {
    for threads in POOLS {
        must_end("dropping", move || {
            let (bench, file, occupiers, _) = under_way(threads);
            let Bench { device, volume, .. } = bench;
            let thread = std::thread::spawn(move || drop((file, occupiers, volume)));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!thread.is_finished(), "jobs were left behind");
            device.open();
            thread.join().unwrap();
            let volume = Volume::open_on(device, &options("zstd:1", threads)).unwrap();
            assert!(volume.read_dir("").unwrap().is_empty(), "nothing was committed");
        });
    }
}

#[test]
fn names_and_writeback_go_on_while_a_commit_is_written() {
    for threads in POOLS {
        must_end("a commit", move || {
            let bench = Bench::new("zstd:1", threads);
            bench.volume.create_file("before").unwrap();
            bench.device.shut();
            std::thread::scope(|scope| {
                let commit = scope.spawn(|| bench.volume.commit().unwrap());
                bench.device.wait_for(1);
                // It stands before the device with its first tree blocks.
                bench.volume.rename("before", "renamed").unwrap();
                let file = bench.volume.create_file("new").unwrap();
                file.write_at(0, &noise(BLOCK, 1)).unwrap();
                file.start_writeback();
                bench.device.wait_for(2);
                assert!(!commit.is_finished());
                bench.device.open();
                commit.join().unwrap();
            });
            let volume = bench.killed();
            assert!(volume.exists("before").unwrap(), "what came behind the cut is in it");
            assert!(!volume.exists("renamed").unwrap() && !volume.exists("new").unwrap());
            volume.close().unwrap();
        });
    }
}
