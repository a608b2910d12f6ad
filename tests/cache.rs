//! What the cache keeps and what it lets go, seen through files: scans, and files with a policy of their own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::{CachePolicy, File, Options, Volume};
use cowback_testkit::faulty::{FaultDevice, Op};
use cowback_testkit::random::{Rng, seed};
use cowback_tests::work::content;

const MIB: u64 = 1 << 20;
const CACHE: u64 = 16 * MIB;
/// What is used again and again.
const HOT: u64 = 4 * MIB;

fn volume(threads: usize) -> Volume {
    let device = Arc::new(MemoryDevice::new(512 << 20));
    let options =
        Options { threads, cache_bytes: CACHE, commit_interval: None, ..Options::default() };
    Volume::create_on(device as _, &options).unwrap()
}

/// A file of `len` bytes, on disk; gives what it holds.
fn file_of(volume: &Volume, name: &str, len: u64, policy: CachePolicy) -> (File, Vec<u8>) {
    let bytes = content(&mut Rng::new(seed("cache", len)), usize::try_from(len).unwrap());
    let file = volume.create_file(name).unwrap();
    file.set_cache_policy(policy);
    for (part, at) in bytes.chunks(300_000).zip((0..).step_by(300_000)) {
        file.write_at(at, part).unwrap();
    }
    file.sync_all().unwrap();
    (file, bytes)
}

/// Reads all of `file` in steps of `step` bytes, and gives the most that was cached meanwhile.
fn scan(volume: &Volume, file: &File, bytes: &[u8], step: usize) -> u64 {
    let (mut at, mut most) = (0, 0);
    let mut target = vec![0; step];
    while at < bytes.len() {
        let read = file.read_at(at as u64, &mut target).unwrap();
        assert!(target[..read] == bytes[at..at + read], "at byte {at}");
        at += read;
        most = most.max(volume.stats().cached_bytes);
    }
    most
}

/// Bytes in the cache that are not of `file`.
fn cached_besides(volume: &Volume, file: &File) -> u64 {
    file.set_cache_policy(CachePolicy::Uncached);
    volume.stats().cached_bytes
}

#[test]
fn a_scan_in_steps_of_any_size_leaves_what_is_used_again_in_the_cache() {
    for (threads, size, step) in [(1, 160, 1 << 20), (2, 160, 5000), (8, 7, 65_536), (2, 40, 700)] {
        let volume = volume(threads);
        let (hot, hot_bytes) = file_of(&volume, "hot", HOT, CachePolicy::Normal);
        for _ in 0..3 {
            scan(&volume, &hot, &hot_bytes, 4096);
        }
        // One file of more than half the cache, which gives up what is behind its reader, or many small ones.
        let mut scanned = 0;
        for number in 0.. {
            let name = format!("cold{number}");
            let (cold, bytes) =
                file_of(&volume, &name, size * MIB, CachePolicy::DropAfterWriteback);
            scan(&volume, &cold, &bytes, step);
            scanned += size * MIB;
            if scanned >= 2 * CACHE {
                let all = volume.stats().cached_bytes;
                let left = all - cached_besides(&volume, &hot);
                assert!(left >= HOT / 10 * 9, "{left} of {HOT} bytes left, {threads} threads");
                break;
            }
        }
        volume.close().unwrap();
    }
}

#[test]
fn a_read_of_more_than_the_cache_holds_reads_each_extent_once() {
    const LEN: u64 = 4 * CACHE;
    for threads in [1, 2, 8] {
        let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(512 << 20)), 0));
        let options =
            Options { threads, cache_bytes: CACHE, commit_interval: None, ..Options::default() };
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        let (file, bytes) = file_of(&volume, "large", LEN, CachePolicy::DropAfterWriteback);
        file.set_cache_policy(CachePolicy::Normal);
        let extents = file.extents().unwrap().len() as u64;

        let before = device.count(Op::Read);
        let mut target = vec![0; bytes.len()];
        assert_eq!(file.read_at(0, &mut target).unwrap(), bytes.len());
        assert!(target == bytes);
        let reads = device.count(Op::Read) - before;
        // Beside the extents it reads some blocks of trees.
        let most = extents + extents / 4;
        assert!(reads <= most, "{reads} reads for {extents} extents, {threads} threads");
        drop(file);
        volume.close().unwrap();
    }
}

#[test]
fn a_file_that_is_dropped_after_writeback_takes_no_room_once_it_is_written() {
    for threads in [1, 2, 8] {
        let volume = volume(threads);
        let (hot, hot_bytes) = file_of(&volume, "hot", HOT, CachePolicy::Normal);
        scan(&volume, &hot, &hot_bytes, 4096);
        scan(&volume, &hot, &hot_bytes, 4096);
        // Large; of one page, which is stored inline; and of a page and a bit.
        for (name, len) in [("large", 3 * CACHE), ("tiny", 900), ("small", 5000)] {
            let (file, bytes) = file_of(&volume, name, len, CachePolicy::DropAfterWriteback);
            assert_eq!(
                volume.stats().cached_bytes,
                HOT,
                "{name}: all of the hot file, and no more"
            );
            if len < CACHE {
                // What is read stays.
                scan(&volume, &file, &bytes, 4096);
                assert_eq!(volume.stats().cached_bytes, HOT + len.next_multiple_of(4096));
            }
            file.set_cache_policy(CachePolicy::Uncached);
            scan(&volume, &file, &bytes, 100_000);
            assert_eq!(volume.stats().cached_bytes, HOT);
        }
        volume.close().unwrap();
    }
}

#[test]
fn an_uncached_file_keeps_nothing_but_what_is_read_ahead() {
    for threads in [1, 2, 8] {
        let volume = volume(threads);
        let (hot, hot_bytes) = file_of(&volume, "hot", HOT, CachePolicy::Normal);
        scan(&volume, &hot, &hot_bytes, 4096);
        scan(&volume, &hot, &hot_bytes, 4096);
        let (file, bytes) = file_of(&volume, "uncached", 40 * MIB, CachePolicy::Uncached);
        assert_eq!(volume.stats().cached_bytes, HOT, "what was written is dropped");
        for step in [1 << 20, 4096, 1000] {
            let most = scan(&volume, &file, &bytes, step);
            assert!(most <= HOT + 10 * MIB, "{most} bytes cached in steps of {step}");
            assert_eq!(volume.stats().cached_bytes, HOT, "after steps of {step}");
        }
        // At random: at most the page in which the last read ended stays.
        let mut rng = Rng::new(seed("cache", 7));
        for _ in 0..200 {
            let at = rng.index(bytes.len() - 10_000);
            let mut target = vec![0; 1 + rng.index(9000)];
            file.read_at(at as u64, &mut target).unwrap();
            assert!(target[..] == bytes[at..at + target.len()]);
            assert!(volume.stats().cached_bytes <= HOT + 4096, "{}", volume.stats().cached_bytes);
            let block = file.read_block(at as u64).unwrap();
            assert!(block[..] == bytes[at / 4096 * 4096..][..block.len()]);
        }
        file.write_at(77, &[1; 5]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(
            (file.read_block(80).unwrap()[78], file.cache_policy()),
            (1, CachePolicy::Uncached)
        );
        assert!(cached_besides(&volume, &file) <= HOT);
        volume.close().unwrap();
    }
}
