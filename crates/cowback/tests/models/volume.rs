//! All at once on one volume.

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::options::{CompressionPolicy, Profile};
use cowback::{CachePolicy, File, FilePolicy, Options, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;

const PAGE: usize = 4096;

/// Pages of the cache that hold another file: few are left.
const BALLAST: usize = 250;

fn options() -> Options {
    Options {
        compression: CompressionPolicy::None,
        threads: 2,
        cache_bytes: 1 << 20,
        metadata: Profile::Single,
        commit_interval: None,
        ..Options::default()
    }
}

/// A volume with a nearly full cache, and a file of four pages of ones in it.
fn volume() -> (Arc<MemoryDevice>, Volume, File) {
    let device = Arc::new(MemoryDevice::new(128 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let ballast = volume.create_file("ballast").unwrap();
    ballast.write_at(0, &[7; BALLAST * PAGE]).unwrap();
    let file = volume.create_file("f").unwrap();
    let policy: CompressionPolicy = "zstd:1".parse().unwrap();
    file.set_policy(FilePolicy::from(policy.forced())).unwrap();
    file.write_at(0, &[1; 4 * PAGE]).unwrap();
    volume.commit().unwrap();
    (device, volume, file)
}

fn read(file: &File, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    let n = file.read_at(offset as u64, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

/// A writer each of page 0 and page 1, one who cuts and extends behind that, a flusher, one who evicts, a reader, one who syncs what it has
/// written to page 1, one who commits.
fn all_seven(volume: &Volume, file: &File) {
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in 2..4 {
                file.write_at(0, &[version; PAGE]).unwrap();
            }
        });
        scope.spawn(|| {
            file.set_len(2 * PAGE as u64 + 10).unwrap();
            file.set_len(4 * PAGE as u64).unwrap();
        });
        scope.spawn(|| {
            file.start_writeback();
            file.start_writeback();
        });
        scope.spawn(|| {
            // What is new needs room, and takes it from what is clean.
            let other = volume.create_file("other").unwrap();
            other.write_at(0, &[8; 8 * PAGE]).unwrap();
            file.set_cache_policy(CachePolicy::Uncached);
            file.set_cache_policy(CachePolicy::Normal);
        });
        scope.spawn(|| {
            let mut newest = 1;
            for _ in 0..3 {
                let page = read(file, 0, PAGE);
                assert_eq!(page, [page[0]; PAGE], "a page of two versions");
                assert!(page[0] >= newest, "version {} after {newest}", page[0]);
                newest = page[0];
                assert!(read(file, 2 * PAGE + 10, PAGE).iter().all(|byte| *byte < 2));
            }
        });
        scope.spawn(|| {
            file.write_at(PAGE as u64 + 50, &[5; 100]).unwrap();
            file.sync_data().unwrap();
        });
        scope.spawn(|| {
            volume.commit().unwrap();
        });
    });
}

#[test]
fn flusher_writers_truncate_reclaim_reader_sync_and_commit_together() {
    explore("all seven on a volume", 300, || {
        let (device, volume, file) = volume();
        all_seven(&volume, &file);
        let mut content = vec![1; 4 * PAGE];
        content[..PAGE].fill(3);
        content[PAGE + 50..PAGE + 150].fill(5);
        content[2 * PAGE + 10..].fill(0);
        assert!(read(&file, 0, content.len() + 1) == content, "from the cache");
        drop(file);
        // Closed, it holds all; as if killed, what was synced (law D2).
        let closed = thread_rng().r#gen();
        if closed {
            volume.close().unwrap();
        } else {
            drop(volume);
        }
        let volume = Volume::open_on(device, &options()).unwrap();
        let file = volume.open_file("f").unwrap();
        if closed {
            assert!(read(&file, 0, content.len() + 1) == content, "from disk");
        } else {
            assert_eq!(read(&file, PAGE + 50, 100), [5; 100], "what was synced is gone");
        }
        let ballast = volume.open_file("ballast").unwrap();
        assert!(read(&ballast, 0, BALLAST * PAGE) == [7; BALLAST * PAGE]);
        drop((file, ballast));
        volume.close().unwrap();
    });
}

/// Between a reader's look at where a page is and its look at the checksums of that, the page must not be known as gone in the trees: whoever makes
/// a hole there waits for the reader, and a commit, with what it does ahead of its cut, for both.
#[test]
fn a_hole_is_made_under_a_reader_while_another_commits() {
    explore("hole under a reader", 600, || {
        let device = Arc::new(MemoryDevice::new(128 << 20));
        let volume = Volume::create_on(device, &options()).unwrap();
        let file = volume.create_file("f").unwrap();
        file.write_at(0, &[1; 2 * PAGE]).unwrap();
        volume.commit().unwrap();
        file.set_cache_policy(CachePolicy::Uncached);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Cut off, it is empty.
                let page = read(&file, 0, PAGE);
                assert!(page.iter().all(|byte| *byte < 2 && *byte == page[0]));
            });
            scope.spawn(|| {
                let (from, to) = (0, 2 * PAGE as u64);
                if thread_rng().r#gen() {
                    file.punch_hole(from..to).unwrap();
                } else {
                    file.set_len(0).unwrap();
                    file.set_len(to).unwrap();
                }
            });
            scope.spawn(|| {
                volume.commit().unwrap();
            });
        });
        assert_eq!(read(&file, 0, 2 * PAGE), [0; 2 * PAGE]);
        drop(file);
        volume.close().unwrap();
    });
}
