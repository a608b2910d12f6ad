//! Writeback among writers, readers, truncates and reclaim: who writes waits for nobody (law B1), the last write wins, what was cut off
//! stays away, and in the end nothing is left under way (law E4).

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicBool, Ordering};
use cowback_base::sync::{Condvar, Mutex, thread};
use cowback_base::{ByteRange, Bytenr, Ino, PageIndex};
use cowback_extent_io::memory::MemoryStore;
use cowback_extent_io::store::{
    DiskExtent, ExtentMap, FinishedExtent, InPlace, InlineExtent, PreallocMode, StoreError,
    WrittenExtent,
};
use cowback_extent_io::{ExtentStore, StoreResult};
use cowback_page_cache::{CacheLimits, PageCache};

use crate::explore::explore;
use crate::rig::{PAGE, Rig, any_of, assert_same};

/// A disk that writes nothing until it is told to.
#[derive(Debug)]
struct StuckStore {
    store: Arc<MemoryStore>,
    stuck: Mutex<bool>,
    freed: Condvar,
}

impl StuckStore {
    fn free(&self) {
        *self.stuck.lock() = false;
        self.freed.notify_all();
    }
}

impl ExtentStore for StuckStore {
    fn write_extent(
        &self,
        extent: DiskExtent,
        data: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)> {
        let mut stuck = self.stuck.lock();
        while *stuck {
            self.freed.wait(&mut stuck);
        }
        drop(stuck);
        self.store.write_extent(extent, data)
    }

    fn reserve_data(&self, bytes: u64) -> StoreResult<()> {
        self.store.reserve_data(bytes)
    }
    fn reserve_data_again(&self, bytes: u64) {
        self.store.reserve_data_again(bytes);
    }
    fn release_data(&self, bytes: u64) {
        self.store.release_data(bytes);
    }
    fn reserve_in_place(&self, bytes: u64) -> StoreResult<()> {
        self.store.reserve_in_place(bytes)
    }
    fn reserve_in_place_again(&self, bytes: u64) {
        self.store.reserve_in_place_again(bytes);
    }
    fn release_in_place(&self, bytes: u64) {
        self.store.release_in_place(bytes);
    }
    fn claim_in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        self.store.claim_in_place(ino, range)
    }
    fn prealloc_extents(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> StoreResult<()> {
        self.store.prealloc_extents(ino, range, mode)
    }
    fn alloc_extent(&self, want: u64, min: u64) -> StoreResult<DiskExtent> {
        self.store.alloc_extent(want, min)
    }
    fn free_extent(&self, extent: DiskExtent) {
        self.store.free_extent(extent);
    }
    fn finish_ordered(&self, finished: FinishedExtent) -> StoreResult<()> {
        self.store.finish_ordered(finished)
    }
    fn insert_inline(&self, ino: Ino, inline: InlineExtent) -> StoreResult<()> {
        self.store.insert_inline(ino, inline)
    }
    fn truncate_extents(&self, ino: Ino, size: u64) -> StoreResult<()> {
        self.store.truncate_extents(ino, size)
    }
    fn punch_extents(&self, ino: Ino, range: ByteRange) -> StoreResult<()> {
        self.store.punch_extents(ino, range)
    }
    fn lookup_extent(&self, ino: Ino, offset: u64) -> StoreResult<ExtentMap> {
        self.store.lookup_extent(ino, offset)
    }
    fn read_extent(&self, ino: Ino, bytenr: Bytenr, target: &mut [u8]) -> StoreResult<()> {
        self.store.read_extent(ino, bytenr, target)
    }
}

#[test]
fn a_writer_waits_for_no_writeback_and_its_last_write_wins() {
    explore("a writer waits for no writeback and its last write wins", 1000, || {
        let store = Arc::new(MemoryStore::new(64));
        let (stuck, freed) = (Mutex::new(true), Condvar::new());
        let disk = Arc::new(StuckStore { store: Arc::clone(&store), stuck, freed });
        let policy = any_of(&["none", "zstd:1"]);
        let rig = Rig::over(Arc::clone(&disk) as _, store, policy, 2);
        rig.write(0, 1, 3 * PAGE);
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| {
                for version in 2..5 {
                    rig.write(0, version, PAGE);
                    rig.write(PAGE + 50, version, 100);
                }
                // Were it to wait for writeback, it would never come here.
                disk.free();
            });
        });
        let mut content = vec![1; 3 * PAGE];
        content[..PAGE].fill(4);
        content[PAGE + 50..PAGE + 150].fill(4);
        rig.close(&content);
    });
}

/// All at once, on a file whose content at the end is known whatever the order.
fn everything_at_once(policy: &str, workers: usize) {
    let rig = Rig::new(policy, workers);
    rig.write(0, 1, 4 * PAGE);
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in 2..4 {
                rig.write(0, version, PAGE);
                rig.write(PAGE + 50, version, 100);
            }
        });
        scope.spawn(|| {
            rig.sync();
            rig.background();
        });
        scope.spawn(|| {
            rig.inode.truncate(2 * PAGE as u64 + 10).unwrap();
            rig.inode.truncate(4 * PAGE as u64).unwrap();
        });
        scope.spawn(|| {
            let mut newest = 1;
            for _ in 0..3 {
                let bytes = rig.read(0, PAGE);
                assert_same(&bytes, &[bytes[0]; PAGE], "a page of two versions");
                assert!(bytes[0] >= newest, "version {} after {newest}", bytes[0]);
                newest = bytes[0];
                assert!(rig.read(2 * PAGE + 10, PAGE).iter().all(|byte| *byte < 2));
            }
        });
        scope.spawn(|| {
            rig.drop_clean();
            rig.cache.reclaim(64);
        });
    });
    let mut content = vec![1; 4 * PAGE];
    content[..PAGE].fill(3);
    content[PAGE + 50..PAGE + 150].fill(3);
    content[2 * PAGE + 10..].fill(0);
    rig.close(&content);
}

#[test]
fn a_chunk_that_comes_late_touches_no_page_of_another() {
    // The first chunk of a run is done with, its entry page has another owner, and only then the second chunk comes, and goes raw.
    explore("a chunk that comes late touches no page of another", 1500, || {
        let rig = Rig::new("zstd:1", any_of(&[1, 2]));
        let noise: Vec<u8> = (0..4 * PAGE).map(any_byte).collect();
        rig.inode.write(0, &noise).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| {
                for _ in 0..3 {
                    let entry = rig.inode.mapping().lock_page(PageIndex(0));
                    thread::yield_now();
                    thread::yield_now();
                    entry.unlock();
                }
            });
            scope.spawn(|| {
                rig.drop_clean();
                assert_same(&rig.read(0, 10), &noise[..10], "the entry page");
            });
        });
        rig.close(&noise);
    });
}

/// Bytes that do not compress.
fn any_byte(at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9).to_le_bytes()[7]
}

#[test]
fn everything_at_once_without_compression() {
    explore("everything at once, not compressed", 600, || everything_at_once("none", 1));
}

#[test]
fn everything_at_once_with_compression() {
    explore("everything at once, compressed", 600, || everything_at_once("zstd:1", 2));
}

#[test]
fn what_a_truncate_cut_off_does_not_come_back() {
    explore("what a truncate cut off does not come back", 1000, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), 1);
        rig.write(0, 1, 3 * PAGE);
        rig.sync();
        rig.drop_clean();
        thread::scope(|scope| {
            scope.spawn(|| drop(rig.read(PAGE, 2 * PAGE)));
            scope.spawn(|| {
                rig.inode.truncate(100).unwrap();
                rig.inode.truncate(3 * PAGE as u64).unwrap();
            });
        });
        let mut content = vec![0; 3 * PAGE];
        content[..100].fill(1);
        rig.close(&content);
    });
}

#[test]
fn a_file_grows_out_of_its_inline_extent_while_it_is_written_back() {
    explore("a file grows out of its inline extent", 800, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), 2);
        rig.write(0, 1, 900);
        thread::scope(|scope| {
            scope.spawn(|| {
                for (number, value) in (1..).zip(2..6) {
                    rig.write(number * 900, value, 900);
                }
            });
            scope.spawn(|| {
                rig.background();
                rig.sync();
            });
            scope.spawn(|| {
                rig.drop_clean();
                let bytes = rig.read(0, 900);
                assert_same(&bytes, &[1; 900], "the first write");
            });
        });
        let content: Vec<u8> = (1..6).flat_map(|value| [value; 900]).collect();
        rig.close(&content);
    });
}

#[test]
fn writers_that_wait_for_the_disk_are_woken() {
    explore("writers that wait for the disk are woken", 800, || {
        let limits = CacheLimits { budget: 16 << 20, background: 0, hard: 2 * PAGE as u64 };
        let store = Arc::new(MemoryStore::new(64));
        let cache = PageCache::new(limits);
        let rig = Rig::with_cache(cache, Arc::clone(&store) as _, store, "none", 1);
        rig.write(0, 9, 6 * PAGE);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    rig.sync();
                    thread::yield_now();
                }
            });
            let writers = [0, 1].map(|writer| {
                let rig = &rig;
                scope.spawn(move || {
                    for page in 0..3 {
                        rig.inode.mapping().throttle(|| false);
                        rig.write((2 * page + writer) * PAGE, 1, PAGE);
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        rig.close(&[1; 6 * PAGE]);
    });
}
