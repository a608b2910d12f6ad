//! Row "reads": parts of what is compressed, what was evicted as soon as it was written, and damage to each region of a stored extent.

use std::sync::Arc;

use cowback::device::BlockDevice;
use cowback::error::StoreError;
use cowback::{CachePolicy, Error, Volume};
use cowback_testkit::RecordingDevice;
use cowback_testkit::recording::Change;

use crate::bench::{BLOCK, Bench, KIB, POOLS, noise, options, text};

#[test]
fn any_part_of_a_compressed_extent_can_be_read_alone() {
    let content = text(128 * KIB, 1);
    for threads in POOLS {
        let bench = Bench::new("zstd:1", threads);
        let file = bench.volume.create_file("f").unwrap();
        file.write_at(0, &content).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.extents().unwrap().len(), 1);
        file.set_cache_policy(CachePolicy::Uncached);
        let ends = [0, 1, 4095, 4096, 4097, 65_000, 126_977, 131_071, 131_072];
        for (number, from) in ends.into_iter().enumerate() {
            for to in &ends[number..] {
                let mut bytes = vec![0; to - from];
                assert_eq!(file.read_at(from as u64, &mut bytes).unwrap(), bytes.len());
                assert!(bytes == content[from..*to], "{from}..{to}");
            }
        }
        drop(file);
        bench.settle("f", &content);
    }
}

#[test]
fn what_leaves_the_cache_as_soon_as_it_is_written_is_read_from_disk_at_once() {
    for threads in POOLS {
        let bench = Bench::new("zstd:1", threads);
        let file = bench.volume.create_file("f").unwrap();
        file.set_cache_policy(CachePolicy::DropAfterWriteback);
        let content = text(2048 * KIB, 3);
        file.write_at(0, &content).unwrap();
        file.start_writeback();
        // While pages go, one chunk after another, and no commit has been made.
        for _ in 0..20 {
            let mut bytes = vec![0; content.len()];
            assert_eq!(file.read_at(0, &mut bytes).unwrap(), content.len());
            assert!(bytes == content);
        }
        drop(file);
        bench.settle("f", &content);
    }
}

/// Where on `device` `stored` bytes were written last that are no tree: of a volume whose only file is written back, not committed.
fn last_written(device: &RecordingDevice, stored: u64) -> u64 {
    let found =
        device.recording().changes.into_iter().rev().find_map(|logged| match logged.change {
            Change::Write { offset, data } if data.len() as u64 == stored => Some(offset),
            _ => None,
        });
    found.unwrap()
}

#[test]
fn damage_to_each_region_of_a_stored_extent_is_an_error_that_says_so() {
    for compression in ["none", "zlib:3", "lzo", "zstd:3"] {
        let device = Arc::new(RecordingDevice::zeros(256 << 20));
        let options = options(compression, 1);
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        let file = volume.create_file("f").unwrap();
        // Compresses to some blocks, with a padded last one.
        let content = [text(20_000, 1), noise(9000, 2), text(36_536, 3)].concat();
        file.write_at(0, &content).unwrap();
        let extents = file.extents().unwrap();
        assert_eq!((extents.len(), extents[0].codec), (1, &compression[..extents[0].codec.len()]));
        let stored = extents[0].stored;
        let at = last_written(&device, stored);
        file.sync_data().unwrap();
        file.set_cache_policy(CachePolicy::Uncached);
        // The head, the tail with its padding, both sides of each border of blocks, and some places between.
        let last = stored - 1;
        let mut places = vec![0, 1, 2, 3, 4, last - 1, last];
        places.extend((1..stored / BLOCK as u64).flat_map(|n| [n * 4096 - 1, n * 4096]));
        places.extend((0..stored).step_by(1009));
        for place in places {
            let flip = || {
                let mut byte = [0];
                device.read_at(at + place, &mut byte).unwrap();
                device.write_at(at + place, &[byte[0] ^ 0x10]).unwrap();
            };
            let mut bytes = vec![0; content.len()];
            flip();
            let damaged = file.read_at(0, &mut bytes);
            assert!(
                matches!(damaged, Err(Error::Store(StoreError::Corrupt { .. }))),
                "{compression}: byte {place} of {stored}: {damaged:?} (law E3)"
            );
            flip();
            assert_eq!(file.read_at(0, &mut bytes).unwrap(), content.len());
            assert!(bytes == content, "{compression}: undone, and read again");
        }
        drop(file);
        volume.close().unwrap();
    }
}
