//! Who pays for writeback (laws E4 and O3, for charges): the owner of the pages when they were taken for it, through queue, compression, IO and
//! failure, whoever the file is given to meanwhile.

use std::sync::Arc;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy};
use cowback_base::sync::Mutex;
use cowback_base::{BLOCK_SIZE, Ino, PageIndex};
use cowback_extent_io::memory::{Faults, MemoryStore};
use cowback_extent_io::store::Compression;
use cowback_extent_io::{
    DelallocRun, Executor, ExtentStore, InodeIo, Job, Payload, StoreError, WritebackControl,
    find_lock_delalloc_range, writepages,
};
use cowback_page_cache::{Budget, Busy, CacheLimits, Group, PageCache};

const INO: Ino = Ino(257);

/// Jobs that wait until the test has them done.
#[derive(Default)]
struct Held(Mutex<Vec<Job>>);

impl Held {
    /// Does what waits now; what that spawns waits in turn.
    fn run(&self) {
        let jobs = std::mem::take(&mut *self.0.lock());
        assert!(!jobs.is_empty(), "nothing is to be done");
        jobs.into_iter().for_each(|job| job());
    }
}

impl Executor for Held {
    fn spawn(&self, job: Job) {
        self.0.lock().push(job);
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

/// Pages dirty, in flight, and written ever.
fn charged(group: &Group) -> (u64, u64, u64) {
    let stats = group.stats();
    (stats.dirty / BLOCK_SIZE, stats.in_flight / BLOCK_SIZE, stats.written / BLOCK_SIZE)
}

#[test]
fn every_io_is_charged_to_who_owned_its_pages_when_they_were_taken_whoever_owns_them_since() {
    const PAGES: u64 = 300;
    for policy in ["none", "zstd:1"] {
        let budget = Budget::new(CacheLimits::for_budget(256 << 20));
        let [a, b] = ["a", "b"].map(|name| budget.group(name, CacheLimits::default()));
        let cache = PageCache::in_group(&a);
        let store = Arc::new(MemoryStore::new(16 * 1024));
        let mapping = cache.mapping(INO.0);
        let inode = InodeIo::new(INO, 0, mapping, Arc::clone(&store) as _, Arc::default());
        let compression: CompressionPolicy = policy.parse().unwrap();
        let held = Arc::new(Held::default());
        let policy = Policy { file: compression.forced().into(), in_flight_bytes: 0 };
        let engine = AsyncCow::new(policy, Arc::clone(&held) as _);
        // Compresses well here, and hardly there.
        let mut content = vec![7; 300 * 4096];
        for (at, byte) in (0_u64..).zip(&mut content[..131_072]) {
            *byte = at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7];
        }
        let (mut of_a, mut of_b) = (0, 0);
        // The owners alternate; every third time the disk fails.
        for round in 0..9 {
            inode.mapping().set_group(&a);
            inode.write(0, &content).unwrap();
            assert_eq!((charged(&a), charged(&b)), ((PAGES, 0, of_a), (0, 0, of_b)), "dirty");
            if round % 2 == 1 {
                inode.mapping().set_group(&b);
                assert_eq!((charged(&a), charged(&b)), ((0, 0, of_a), (PAGES, 0, of_b)), "given");
            }
            let (payer, other) = if round % 2 == 1 { (&b, &a) } else { (&a, &b) };
            let (paid, others) = if round % 2 == 1 { (of_b, of_a) } else { (of_a, of_b) };
            writepages(&inode, &WritebackControl::sync_all(), &engine);
            for state in ["queued", "compressed, under writeback"] {
                for owner in [other, payer, other] {
                    inode.mapping().set_group(owner);
                    assert_eq!(charged(payer), (0, PAGES, paid), "{state}");
                    assert_eq!(charged(other), (0, 0, others), "{state}");
                }
                if state == "queued" {
                    held.run();
                }
            }
            let fails = round % 3 == 2;
            if fails {
                let faults = Faults { write: Some(0), persistent: true, ..Faults::default() };
                store.set_faults(faults);
            }
            held.run();
            engine.wait_idle();
            store.set_faults(Faults::default());
            // What failed is dirty again, and whoever has the file now pays for it.
            let dirty = if fails { PAGES } else { 0 };
            let paid = if fails { paid } else { paid + PAGES };
            assert_eq!((charged(payer), charged(other)), ((0, 0, paid), (dirty, 0, others)));
            (of_a, of_b) = if round % 2 == 1 { (others, paid) } else { (paid, others) };
        }
        inode.truncate(0).unwrap();
        assert_eq!((charged(&a), charged(&b)), ((0, 0, of_a), (0, 0, of_b)));
        assert_eq!((a.stats().cached, b.stats().cached), (0, 0));
        cache.check_at_rest().unwrap();
    }
}

#[test]
fn the_parts_of_a_run_and_their_writes_name_the_group_that_pays() {
    let budget = Budget::new(CacheLimits::default());
    let [payer, other] = ["payer", "other"].map(|name| budget.group(name, CacheLimits::default()));
    let cache = PageCache::in_group(&payer);
    let store = Arc::new(MemoryStore::new(1024));
    let mapping = cache.mapping(INO.0);
    let inode = InodeIo::new(INO, 0, mapping, Arc::clone(&store) as _, Arc::default());
    inode.write(0, &[1; 10 * 4096]).unwrap();
    let entry = inode.mapping().lock_page(PageIndex(0));
    let run = find_lock_delalloc_range(&inode, entry, 10, Busy::Wait);
    let (left, right) = DelallocRun::freeze(&inode, run).split_at(PageIndex(3));
    inode.mapping().set_group(&other);
    assert_eq!((left.group(), right.group()), (payer.clone(), payer.clone()));
    let extent = store.alloc_extent(3 * BLOCK_SIZE, 3 * BLOCK_SIZE).unwrap();
    let write = left.into_ordered(extent, Compression::None);
    assert_eq!(write.group(), Some(payer.clone()));
    assert_eq!(charged(&payer), (0, 10, 0));
    write.write(&Payload::Raw);
    assert_eq!(charged(&payer), (0, 7, 3));
    right.fail(StoreError::Internal { what: "a test" });
    assert_eq!((charged(&payer), charged(&other)), ((0, 0, 3), (7, 0, 0)));
    inode.truncate(0).unwrap();
    cache.check_at_rest().unwrap();
}
