//! `writepages` in turns: with a quota, from where the last turn ended, and around the end of the file. And what is made dirty behind the
//! engine's back.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::sync::Arc;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy, WorkerPool};
use cowback_base::{BLOCK_SIZE, Ino, PageIndex, PageRange};
use cowback_extent_io::memory::MemoryStore;
use cowback_extent_io::writepages::RUN_PAGES_MAX;
use cowback_extent_io::{
    DelallocRun, DelallocSink, InodeIo, WritebackControl, find_lock_delalloc_range, writepages,
};
use cowback_page_cache::{Busy, CacheLimits, PageCache};

/// An engine that writes down which pages came by.
struct Spy {
    engine: AsyncCow,
    seen: RefCell<Vec<PageRange>>,
}

impl DelallocSink for Spy {
    type Credit = <AsyncCow as DelallocSink>::Credit;

    fn admit(&self) -> Self::Credit {
        self.engine.admit()
    }

    fn submit(&self, run: DelallocRun, credit: Self::Credit) {
        self.seen.borrow_mut().push(run.pages());
        self.engine.submit(run, credit);
    }
}

struct Rig {
    inode: Arc<InodeIo>,
    spy: Spy,
}

impl Rig {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new(16 * 1024));
        let cache = PageCache::new(CacheLimits::for_budget(256 << 20));
        let inode = InodeIo::new(Ino(257), 0, cache.mapping(257), store, Arc::default());
        let policy = Policy { file: CompressionPolicy::None.into(), in_flight_bytes: 0 };
        let pool = Arc::new(WorkerPool::new(2).unwrap());
        Self { inode, spy: Spy { engine: AsyncCow::new(policy, pool), seen: RefCell::default() } }
    }

    fn dirty(&self, pages: impl IntoIterator<Item = u64>) {
        for page in pages {
            self.inode.write(page * BLOCK_SIZE, &[7; 4096]).unwrap();
        }
    }

    /// The first page and the length of each run that went.
    fn write(&self, control: &WritebackControl) -> Vec<(u64, u64)> {
        let sent = writepages(&self.inode, control, &self.spy);
        let seen = self.spy.seen.take();
        assert_eq!(sent, seen.iter().map(|run| run.count()).sum::<u64>());
        seen.iter().map(|run| (run.start.0, run.count())).collect()
    }

    fn settle(&self) {
        self.inode.wait_writeback();
        self.spy.engine.wait_idle();
    }
}

/// Both kinds of turn.
fn turns(quota: u64) -> [WritebackControl; 2] {
    [WritebackControl::background(quota), WritebackControl::turn(quota)]
}

#[test]
fn bug_26_each_page_comes_by_before_one_comes_by_again() {
    for control in turns(3) {
        let rig = Rig::new();
        rig.dirty((0..20).map(|number| number * 2));
        let mut first = Vec::new();
        for _ in 0..6 {
            first.extend(rig.write(&control));
            rig.settle();
            // What came by is dirty again at once, and has to wait for the others.
            rig.dirty([0, 2, 4]);
        }
        let expected: Vec<(u64, u64)> = (0..18).map(|number| (number * 2, 1)).collect();
        assert_eq!(first, expected);
        assert_eq!(rig.write(&control), [(36, 1), (38, 1), (0, 1)], "around the end");
        rig.settle();
        assert_eq!(rig.write(&control), [(2, 1), (4, 1)]);
        rig.settle();
        assert!(rig.inode.is_clean());
    }
}

#[test]
fn a_quota_ends_behind_a_run_and_the_next_turn_goes_on_there() {
    for control in turns(1) {
        let rig = Rig::new();
        rig.dirty(0..RUN_PAGES_MAX + 10);
        assert_eq!(rig.write(&control), [(0, RUN_PAGES_MAX)]);
        rig.settle();
        rig.dirty(0..5);
        assert_eq!(rig.write(&control), [(RUN_PAGES_MAX, 10)]);
        assert_eq!(rig.write(&control), [(0, 5)], "nothing is behind, so it begins anew");
        assert!(rig.write(&control).is_empty());
        rig.settle();
    }
}

#[test]
fn what_cannot_be_had_without_waiting_is_passed_by_in_the_background_only() {
    let rig = Rig::new();
    rig.dirty([0, 2, 4]);
    let held = rig.inode.mapping().find_lock_page(PageIndex(2)).unwrap();
    assert_eq!(rig.write(&WritebackControl::background(10)), [(0, 1), (4, 1)]);
    std::thread::scope(|scope| {
        let inode = &rig.inode;
        let policy = Policy { file: CompressionPolicy::None.into(), in_flight_bytes: 0 };
        let engine = AsyncCow::new(policy, Arc::new(WorkerPool::new(1).unwrap()));
        let turn = scope.spawn(move || {
            let sent = writepages(inode, &WritebackControl::turn(10), &engine);
            engine.wait_idle();
            sent
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!turn.is_finished(), "it waits for the page");
        held.unlock();
        assert_eq!(turn.join().unwrap(), 1);
    });
    rig.settle();
}

#[test]
fn bug_36_a_sync_takes_all_wherever_a_turn_has_ended() {
    let rig = Rig::new();
    rig.dirty((0..10).map(|number| number * 2));
    assert_eq!(rig.write(&WritebackControl::turn(4)).len(), 4);
    rig.settle();
    rig.dirty([0]);
    let all = rig.write(&WritebackControl::sync_all());
    assert_eq!(all, [(0, 1), (8, 1), (10, 1), (12, 1), (14, 1), (16, 1), (18, 1)]);
    rig.settle();
    assert!(rig.inode.is_clean());
}

#[test]
#[should_panic(expected = "phantom dirty page")]
fn law_o4_a_page_that_was_made_dirty_without_a_reservation_is_found_when_it_is_written() {
    let rig = Rig::new();
    rig.dirty([0]);
    // Straight into the mapping: there is no way to do so through an inode.
    rig.inode.mapping().write(BLOCK_SIZE, &[1; 4096], PageIndex(0), |_| {});
    let page = rig.inode.mapping().find_lock_page(PageIndex(1)).unwrap();
    drop(find_lock_delalloc_range(&rig.inode, page, 8, Busy::Wait));
}
