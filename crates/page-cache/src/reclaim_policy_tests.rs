//! Tests of the policy's promises: what a scan cannot push out, what is never freed, and that no leaf is lost by the queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowback_base::sync::thread;
use cowback_base::{PageIndex, PageRange};
use proptest::prelude::*;

use super::*;
use crate::{Busy, CacheLimits, Frame, LockedPage, PageCache, PageFlags, PageOps};

const CLEAN: PageOps = PageOps::CLEAR_ORDERED.union(PageOps::END_WRITEBACK);

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageIndex(end))
}

fn cache_of(budget_pages: u64) -> Arc<PageCache> {
    PageCache::new(CacheLimits::for_budget(budget_pages * 4096))
}

/// Uses a page as a reader does: reads it in if it is not there.
fn read(file: &Mapping, index: u64) {
    while file.read(index * 4096, &mut [0; 100]) == 0 {
        for page in file.lock_absent(pages(index, index + 1)) {
            page.fill(Frame::zeroed());
        }
    }
}

/// Reads all of `range` in as readahead does, and then, in steps of `step` bytes, as a reader that comes behind.
fn scan(file: &Mapping, range: PageRange, step: usize) {
    for run in file.lock_absent_runs(range) {
        run.fill(|_| Frame::zeroed());
    }
    let mut at = range.start.offset();
    while at < range.end.offset() {
        let done = file.read_on(at, &mut vec![0; step]);
        assert!(done > 0, "page {} was read in, and went before it was read", at / 4096);
        at += done as u64;
    }
}

fn cached(file: &Mapping, mut set: impl Iterator<Item = u64>) -> usize {
    let mut there = 0;
    set.by_ref().for_each(|index| {
        there += usize::from(file.flags(PageIndex(index)).contains(PageFlags::UPTODATE));
    });
    there
}

/// Leaves that stand in the queues of the root group.
fn queued(cache: &PageCache) -> usize {
    cache.budget().root().0.reclaim.len()
}

/// Asserts that, nothing being under way, each leaf stands once in each queue from which pages of it can go, that its flags
/// say so, and that nothing else is in the queues but leaves that are gone.
fn check_queues(cache: &PageCache, files: &[Arc<Mapping>]) {
    let mut standing = cache.budget().root().0.reclaim.standing();
    let (mut held, mut main) = (0, 0);
    for leaf in files.iter().flat_map(|file| file.every_leaf()) {
        let state = leaf.state.lock();
        state.check();
        let stands = standing.remove(&Arc::as_ptr(&leaf)).unwrap_or_default();
        let flags = (u32::from(state.queued.small), u32::from(state.queued.main));
        assert_eq!(stands, flags, "{:?}", state.masks);
        let idle = state.masks.reclaimable();
        assert!(state.queued.small || idle & !state.masks.main == 0, "lost: {:?}", state.masks);
        assert!(state.queued.main || idle & state.masks.main == 0, "lost: {:?}", state.masks);
        held += u64::from(state.masks.uptodate.count_ones());
        main += u64::from(state.masks.main.count_ones());
    }
    assert!(standing.is_empty(), "a leaf in a queue is of no file");
    assert_eq!((cache.stats().pages, cache.stats().hot), (held, main));
    let ghost = cache.budget().root().0.reclaim.ghost.lock().leaves() as u64;
    assert!(ghost <= cache.budget().limits().budget / 4096 / 8 + 1, "{ghost} leaves remembered");
}

#[test]
fn a_scan_of_ten_times_the_budget_does_not_push_out_what_was_used_again() {
    for budget in [512, 4096, 20_000] {
        for (spread, step) in [(1, 1 << 16), (7, 4096), (32, 700)] {
            let cache = cache_of(budget);
            let (hot, cold) = (cache.mapping(1), cache.mapping(2));
            let set = || (0..budget * 2 / 5).map(|page| page * spread);
            for round in 0..3 {
                set().for_each(|index| read(&hot, index));
                assert_eq!(cached(&hot, set()), set().count(), "round {round}");
            }
            for at in (0..budget * 10).step_by(128) {
                scan(&cold, pages(at, at + 128), step);
                assert!(cache.stats().pages <= budget * 17 / 16, "{:?}", cache.stats());
            }
            assert!(cache.stats().pages <= budget, "{:?}", cache.stats());
            let left = cached(&hot, set());
            assert!(left * 10 >= set().count() * 9, "{left} of {} left", set().count());
            assert!(cache.stats().hot < budget / 2, "the scan looks hot: {:?}", cache.stats());
            check_queues(&cache, &[hot, cold]);
        }
    }
}

#[test]
fn a_scan_over_the_hot_pages_file_leaves_the_hot_pages() {
    let cache = cache_of(4096);
    let file = cache.mapping(1);
    let hot = || (0..1000).map(|page| page * 40);
    for _ in 0..2 {
        hot().for_each(|index| read(&file, index));
    }
    for at in (0..40_000).step_by(64) {
        scan(&file, pages(at, at + 64), 4096);
    }
    assert!(cached(&file, hot()) >= 900, "{} of 1000 left", cached(&file, hot()));
}

#[test]
fn a_page_that_comes_back_soon_after_it_went_stays() {
    let cache = cache_of(4096);
    let (file, cold) = (cache.mapping(1), cache.mapping(2));
    let set = || 0..400;
    set().for_each(|index| read(&file, index));
    scan(&cold, pages(0, 4096), 4096);
    assert_eq!(cached(&file, set()), 0, "used once");
    set().for_each(|index| read(&file, index));
    for at in (5000..20_000).step_by(128) {
        scan(&cold, pages(at, at + 128), 4096);
    }
    assert_eq!(cached(&file, set()), 400, "the ghost remembered them");
}

#[test]
fn what_is_used_once_goes_before_what_is_used_twice() {
    let cache = cache_of(1000);
    let file = cache.mapping(1);
    (0..960).for_each(|index| read(&file, index));
    let twice = || (0..960).filter(|index| index % 3 == 0);
    twice().for_each(|index| read(&file, index));
    let freed = cache.reclaim(120);
    assert!(freed >= 120, "{freed}");
    assert_eq!(cached(&file, twice()), twice().count());
    assert_eq!(cached(&file, 0..960) as u64, 960 - freed);
}

#[test]
fn the_budget_holds_but_for_a_sixteenth_when_every_page_is_hot() {
    let cache = cache_of(40_000);
    let file = cache.mapping(1);
    for index in 0..60_000 {
        (0..5).for_each(|_| read(&file, index));
        assert!(cache.stats().pages <= 42_500, "{:?}", cache.stats());
    }
}

#[test]
fn leaves_that_cannot_give_are_not_looked_at_again_and_again() {
    let cache = cache_of(2000);
    let file = cache.mapping(1);
    for index in 0..6400 {
        file.write(index * 4096, &[1; 4096], PageIndex(0), |_| {});
    }
    assert_eq!(queued(&cache), 0, "dirty leaves stand in no queue");
    let run = file.lock_contig(pages(0, 3200), Busy::Wait);
    drop(run.freeze(|_| {}));
    run.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
    assert_eq!(queued(&cache), 0, "nor do those under writeback");
    file.complete(pages(0, 3200), CLEAN);
    assert_eq!(queued(&cache), 100);
    assert_eq!(cache.reclaim(3200), 3200);
    assert_eq!((queued(&cache), cache.stats().pages), (0, 3200));
    file.truncate(PageIndex(0), |_| {});
    cache.check_at_rest().unwrap();
}

#[derive(Debug, Clone)]
enum Op {
    Read { file: usize, page: u64 },
    ReadIn { file: usize, page: u64, len: u64 },
    Write { file: usize, page: u64, len: u64 },
    Lock { file: usize, page: u64 },
    Unlock { nth: usize },
    Send { file: usize, page: u64, len: u64, ordered_only: bool },
    Complete { nth: usize },
    Reclaim { pages: u64 },
    Truncate { file: usize, page: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let at = || (0..2_usize, 0..300_u64);
    let len = || 1..70_u64;
    prop_oneof![
        4 => at().prop_map(|(file, page)| Op::Read { file, page }),
        3 => (at(), len()).prop_map(|((file, page), len)| Op::ReadIn { file, page, len }),
        3 => (at(), len()).prop_map(|((file, page), len)| Op::Write { file, page, len }),
        1 => at().prop_map(|(file, page)| Op::Lock { file, page }),
        1 => (0..4_usize).prop_map(|nth| Op::Unlock { nth }),
        3 => (at(), len(), any::<bool>()).prop_map(|((file, page), len, ordered_only)| {
            Op::Send { file, page, len, ordered_only }
        }),
        2 => (0..4_usize).prop_map(|nth| Op::Complete { nth }),
        2 => (1..400_u64).prop_map(|pages| Op::Reclaim { pages }),
        1 => at().prop_map(|(file, page)| Op::Truncate { file, page }),
    ]
}

/// What the policy promises, without how: which pages cannot go, and what the others' bytes are.
struct Promises {
    cache: Arc<PageCache>,
    files: Vec<Arc<Mapping>>,
    /// The byte that each page was last written with.
    written: BTreeMap<(usize, u64), u8>,
    locked: Vec<(usize, LockedPage)>,
    flying: Vec<(usize, PageRange, PageOps)>,
    version: u8,
}

const BUDGET: u64 = 200;

impl Promises {
    fn new() -> Self {
        let cache = cache_of(BUDGET);
        let files = (0..2).map(|owner| cache.mapping(owner)).collect();
        let (written, locked, flying) = Default::default();
        Self { cache, files, written, locked, flying, version: 0 }
    }

    /// The pages that must not go.
    fn kept(&self) -> Vec<(usize, u64)> {
        let busy = PageFlags::DIRTY | PageFlags::LOCKED | PageFlags::WRITEBACK | PageFlags::ORDERED;
        let pages = (0..2).flat_map(|file| (0..400).map(move |page| (file, page)));
        pages
            .filter(|(file, page)| {
                let flags = self.files[*file].flags(PageIndex(*page));
                flags.contains(PageFlags::UPTODATE) && flags.intersects(busy)
            })
            .collect()
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Read { file, page } => drop(self.files[file].frame(PageIndex(page))),
            Op::ReadIn { file, page, len } => {
                for run in self.files[file].lock_absent_runs(pages(page, page + len)) {
                    run.fill(|index| {
                        let byte = self.written.get(&(file, index.0)).copied().unwrap_or(0);
                        Frame::from_slice(&[byte; 4096])
                    });
                }
            }
            Op::Write { file, page, len } => {
                self.version = self.version.wrapping_add(1);
                let bytes = vec![self.version; usize::try_from(len).unwrap() * 4096];
                self.files[file].write(page * 4096, &bytes, PageIndex(0), |_| {});
                (page..page + len).for_each(|page| {
                    self.written.insert((file, page), self.version);
                });
            }
            Op::Lock { file, page } => {
                let token = self.files[file].try_lock_page(PageIndex(page));
                self.locked.extend(token.map(|token| (file, token)));
            }
            Op::Unlock { nth } if nth < self.locked.len() => drop(self.locked.swap_remove(nth)),
            Op::Send { file, page, len, ordered_only } => {
                let run = self.files[file].lock_contig(pages(page, page + len), Busy::Stop);
                let range = run.range();
                drop(run.freeze(|_| {}));
                let (set, clear) = if ordered_only {
                    (PageOps::SET_ORDERED, PageOps::CLEAR_ORDERED)
                } else {
                    (PageOps::SET_WRITEBACK, PageOps::END_WRITEBACK)
                };
                // One version in flight at a time, as with any flusher.
                let ordered =
                    range.iter().any(|i| self.files[file].flags(i).contains(PageFlags::ORDERED));
                if ordered {
                    self.files[file].redirty(range, |_| {});
                    run.unlock();
                } else {
                    run.release(set, None);
                    self.flying.push((file, range, clear));
                }
            }
            Op::Complete { nth } if nth < self.flying.len() => {
                let (file, range, clear) = self.flying.swap_remove(nth);
                self.files[file].complete(range, clear);
            }
            Op::Reclaim { pages } => drop(self.cache.reclaim(pages)),
            Op::Truncate { file, page } => {
                let busy =
                    self.locked.iter().any(|(of, token)| *of == file && token.index().0 >= page)
                        || self.flying.iter().any(|(of, run, _)| *of == file && run.end.0 > page);
                if !busy {
                    self.files[file].truncate(PageIndex(page), |_| {});
                    self.written.retain(|(of, index), _| *of != file || *index < page);
                }
            }
            Op::Unlock { .. } | Op::Complete { .. } => {}
        }
    }

    fn check(&self, op: &Op, kept: &[(usize, u64)], before: u64) {
        let gone = |(file, page): &&(usize, u64)| {
            !self.files[*file].flags(PageIndex(*page)).contains(PageFlags::UPTODATE)
        };
        match op {
            Op::Truncate { .. } => {}
            _ => assert_eq!(kept.iter().find(gone), None, "freed in use by {op:?}"),
        }
        for leaf in self.files.iter().flat_map(|file| file.every_leaf()) {
            assert!(!leaf.state.lock().masks.is_empty(), "an empty leaf stays");
        }
        check_queues(&self.cache, &self.files);
        let stats = self.cache.stats();
        if stats.pages <= before {
            return;
        }
        // Who brings pages in makes room, as far as those that are there are not in use; its own come on top.
        let most = BUDGET.max(self.kept().len() as u64 + 70);
        assert!(stats.pages <= most, "{stats:?}, {most} allowed after {op:?}");
    }

    fn check_content(&self) {
        for ((file, page), byte) in &self.written {
            if let Some(frame) = self.files[*file].frame(PageIndex(*page)) {
                assert_eq!(frame.bytes(), &[*byte; 4096], "page {page} of file {file}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_keeps_its_promises_whatever_happens(ops in prop::collection::vec(op(), 1..120)) {
        let mut promises = Promises::new();
        for op in &ops {
            let (kept, before) = (promises.kept(), promises.cache.stats().pages);
            promises.run(op);
            promises.check(op, &kept, before);
        }
        promises.check_content();
        promises.locked.clear();
        for (file, range, clear) in promises.flying.drain(..) {
            promises.files[file].complete(range, clear);
        }
        check_queues(&promises.cache, &promises.files);
        promises.files.iter().for_each(|file| file.truncate(PageIndex(0), |_| {}));
        promises.cache.check_at_rest().unwrap();
        prop_assert_eq!(promises.cache.stats().leaves, 0);
    }
}

/// One thread's share of the storm: reads, writes that are written back at once, truncates, reclaim.
fn storm(cache: &PageCache, files: &[Arc<Mapping>], mut random: u64) {
    let mut draw = |below: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..1500 {
        let file = &files[usize::try_from(draw(files.len() as u64)).unwrap()];
        let at = draw(500);
        let range = pages(at, at + 1 + draw(40));
        match draw(10) {
            0..4 => file
                .lock_absent_runs(range)
                .into_iter()
                .for_each(|run| run.fill(|_| Frame::zeroed())),
            4 | 5 => drop(file.frames(range)),
            6 | 7 => {
                file.write(at * 4096, &[7; 3 * 4096], PageIndex(0), |_| {});
                let run = file.lock_contig(pages(at, at + 3), Busy::Wait);
                let sent = run.range();
                drop(run.freeze(|_| {}));
                run.release(PageOps::SET_WRITEBACK, None);
                file.complete(sent, PageOps::END_WRITEBACK);
            }
            8 if draw(4) == 0 => file.truncate(PageIndex(at), |_| {}),
            _ => drop(cache.reclaim(draw(200))),
        }
    }
}

#[test]
fn no_leaf_is_lost_or_counted_twice_by_threads_that_reclaim_read_write_and_truncate() {
    for threads in [1, 2, 8] {
        let seed = std::collections::hash_map::RandomState::new();
        let seed = std::hash::BuildHasher::hash_one(&seed, threads);
        let seed = std::env::var("COWBACK_SEED").map_or(seed, |seed| seed.parse().unwrap());
        println!("COWBACK_SEED={seed}, {threads} threads");
        let cache = cache_of(300);
        let files: Vec<_> = (0..3).map(|owner| cache.mapping(owner)).collect();
        thread::scope(|scope| {
            for thread in 0..threads {
                let (cache, files) = (&cache, &files);
                scope.spawn(move || storm(cache, files, seed ^ thread));
            }
        });
        check_queues(&cache, &files);
        let all = pages(0, 600);
        files
            .iter()
            .flat_map(|file| file.lock_absent_runs(all))
            .for_each(|run| run.fill(|_| Frame::zeroed()));
        // At rest, all clean: whatever is over the budget goes, down to the last page.
        assert!(cache.dirty_mappings().is_empty(), "each writer wrote its own back");
        while cache.reclaim(1000) > 0 {}
        assert_eq!((cache.stats().pages, cache.stats().leaves, queued(&cache)), (0, 0, 0));
        cache.check_at_rest().unwrap();
    }
}
