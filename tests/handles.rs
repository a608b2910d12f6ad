//! Handles and names against each other: what is open while it is renamed, removed, closed, committed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::options::ExtentSize;
use cowback::{FilePolicy, Options, Stats, Volume};
use cowback_tests::read_all;

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

fn volume() -> (Arc<MemoryDevice>, Volume) {
    let device = Arc::new(MemoryDevice::new(24 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    (device, volume)
}

/// What is on the device now, as after a crash.
fn crashed(device: &MemoryDevice) -> Volume {
    let bytes = device.to_vec();
    let copy = Arc::new(MemoryDevice::new(bytes.len() as u64));
    copy.write_at(0, &bytes).unwrap();
    Volume::open_on(copy, &options()).unwrap()
}

#[test]
fn a_size_that_was_synced_is_there_however_many_handles_were_closed_meanwhile() {
    let (device, volume) = volume();
    let file = volume.create_file("f").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(file.clone());
                }
            });
        }
        for round in 1..150u64 {
            file.write_at(round * 100 - 1, b"x").unwrap();
            file.sync_data().unwrap();
            if round.is_multiple_of(10) {
                assert_eq!(crashed(&device).metadata("f").unwrap().size, round * 100);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(file);
    volume.close().unwrap();
}

#[test]
fn a_file_that_was_forgotten_and_opened_again_keeps_its_newest_size() {
    let (device, volume) = volume();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[1; 5000]).unwrap();
    file.start_writeback();
    drop(file);
    // So many files are closed that the first one is forgotten.
    for number in 0..1100 {
        drop(volume.create_file(format!("other{number}")).unwrap());
    }
    let file = volume.open_file("f").unwrap();
    file.write_at(5000, &[2; 5000]).unwrap();
    drop(file);
    volume.commit().unwrap();
    assert_eq!(volume.metadata("f").unwrap().size, 10_000);
    let found = read_all(&crashed(&device), "f").unwrap();
    assert!(found == [[1; 5000], [2; 5000]].concat());
    volume.close().unwrap();
}

#[test]
fn who_opens_a_file_while_it_is_replaced_finds_the_old_or_the_new_one_whole() {
    let (_, volume) = volume();
    let replace = |version: u8| {
        let file = volume.create_file("new").unwrap();
        file.write_at(0, &[version; 9000]).unwrap();
        drop(file);
        volume.rename("new", "config").unwrap();
    };
    replace(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    // Once at least, however late the thread begins.
                    let mut last = false;
                    while !last {
                        last = stop.load(Ordering::Relaxed);
                        let file = volume.open_file("config").unwrap();
                        assert_eq!(volume.metadata("config").unwrap().size, 9000);
                        let mut bytes = [0; 9000];
                        assert_eq!(file.read_at(0, &mut bytes).unwrap(), 9000);
                        assert!(bytes[0] > 0 && bytes == [bytes[0]; 9000]);
                        file.write_at(0, &[bytes[0]; 10]).unwrap();
                    }
                })
            })
            .collect();
        for version in 0..400 {
            replace(1 + u8::try_from(version % 250).unwrap());
            if version % 40 == 0 {
                volume.commit().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    volume.commit().unwrap();
    volume.close().unwrap();
}

#[test]
fn files_that_come_and_go_leave_nothing_in_memory() {
    let (_, volume) = volume();
    for number in 0..3000 {
        let name = format!("temporary{number}");
        volume.create_file(&name).unwrap().write_at(0, &[1; 100]).unwrap();
        volume.remove_file(&name).unwrap();
    }
    let stats = volume.stats();
    assert_eq!((stats.cached_bytes, stats.cache.leaves), (0, 0), "{stats:?}");
    volume.close().unwrap();
}

#[test]
fn closed_files_that_were_written_back_one_by_one_need_no_commit_to_leave_memory() {
    // Neither the cache nor the volume is full, which would have all written, or commit.
    let device = Arc::new(MemoryDevice::new(256 << 20));
    let options = Options { cache_bytes: 256 << 20, ..options() };
    let volume = Volume::create_on(device, &options).unwrap();
    for number in 0..3000 {
        let file = volume.create_file(format!("small{number}")).unwrap();
        file.write_at(0, &[1; 5000]).unwrap();
        file.start_writeback();
        assert_eq!(file.data_ranges().unwrap().len(), 1, "which waits for its place");
    }
    // Some are kept for who opens them again.
    let Stats { cache, commits, .. } = volume.stats();
    assert!((1..1500).contains(&cache.leaves), "{} files of 3000 are in memory", cache.leaves);
    assert_eq!(commits.count, 0);
    volume.close().unwrap();
}

#[test]
fn files_that_are_opened_again_and_again_stay_in_memory() {
    let (_, volume) = volume();
    for name in ["a", "b"] {
        volume.create_file(name).unwrap().write_at(0, &[7; 100_000]).unwrap();
    }
    volume.commit().unwrap();
    // More often than closed files are kept.
    for _ in 0..3000 {
        for name in ["a", "b"] {
            let file = volume.open_file(name).unwrap();
            assert_eq!(file.read_at(50_000, &mut [0; 100]).unwrap(), 100);
        }
    }
    volume.commit().unwrap();
    assert_eq!(volume.stats().cache.misses, 0, "what was written is there still");
    // One that is replaced is forgotten, however often it was open.
    volume.rename("a", "b").unwrap();
    assert_eq!(volume.stats().cache.leaves, 1);
    volume.close().unwrap();
}

#[test]
fn a_handle_of_a_volume_that_is_gone_changes_nothing() {
    let (device, volume) = volume();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, b"in time").unwrap();
    volume.commit().unwrap();
    let before = device.to_vec();
    drop(volume);
    assert!(file.write_at(0, b"too late").is_err());
    assert!(file.sync_data().is_err() && file.set_len(1).is_err() && file.data_ranges().is_err());
    file.start_writeback();
    drop(file);
    assert!(device.to_vec() == before);
}

#[test]
fn a_policy_lasts_as_long_as_the_file_is_open() {
    let (_, volume) = volume();
    let text = b"the same words again and again ".repeat(10_000);
    let codecs = |file: &cowback::File| {
        let extents = file.extents().unwrap();
        extents.iter().map(|extent| (extent.unpacked, extent.codec)).collect::<Vec<_>>()
    };
    let file = volume.create_file("f").unwrap();
    let other = file.clone();
    let policy = FilePolicy {
        compression: "zlib:1".parse().unwrap(),
        extent_size: ExtentSize::of_bytes(64 << 10).unwrap(),
    };
    file.set_policy(policy).unwrap();
    other.write_at(0, &text[..256 << 10]).unwrap();
    assert_eq!(codecs(&file), vec![(64 << 10, "zlib"); 4]);
    drop((file, other));
    let file = volume.open_file("f").unwrap();
    file.write_at(0, &text[..256 << 10]).unwrap();
    assert_eq!(codecs(&file), vec![(128 << 10, "zstd"); 2]);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn holes_are_made_and_found() {
    let (device, volume) = volume();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[7; 100_000]).unwrap();
    file.set_len(300_000).unwrap();
    file.write_at(200_000, b"island").unwrap();
    file.punch_hole(8192..40_960).unwrap();
    file.punch_hole(50_000..50_010).unwrap();
    assert_eq!(file.data_ranges().unwrap(), [0..8192, 40_960..102_400, 196_608..200_704]);
    let seek = |at| (file.seek_data(at).unwrap(), file.seek_hole(at).unwrap());
    assert_eq!(seek(0), (Some(0), Some(8192)));
    assert_eq!(seek(8192), (Some(40_960), Some(8192)));
    assert_eq!(seek(102_400), (Some(196_608), Some(102_400)));
    assert_eq!(seek(200_705), (None, Some(200_705)));
    assert_eq!(seek(300_000), (None, None));
    assert_eq!(seek(u64::MAX), (None, None));
    volume.commit().unwrap();
    let mut expected = [vec![7; 100_000], vec![0; 200_000]].concat();
    expected[200_000..200_006].copy_from_slice(b"island");
    expected[8192..40_960].fill(0);
    expected[50_000..50_010].fill(0);
    assert!(read_all(&crashed(&device), "f").unwrap() == expected);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn a_directory_takes_the_place_of_a_file_that_a_path_led_through() {
    let (_, volume) = volume();
    drop(volume.create_file("f").unwrap());
    let error = volume.exists("f/x").unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
    volume.symlink("f", "s").unwrap();
    assert!(volume.create_file("s/x").unwrap_err().to_string().contains("not a directory"));
    volume.remove_file("f").unwrap();
    volume.remove_file("s").unwrap();
    for dir in ["f", "s"] {
        volume.create_dir(dir).unwrap();
        volume.create_file(format!("{dir}/x")).unwrap();
    }
    volume.close().unwrap();
}
