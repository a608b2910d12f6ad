//! Tests of reclaim and of dirty limits.

use std::sync::Arc;
use std::time::Duration;

use cowback_base::sync::thread;
use cowback_base::{PageIndex, PageRange};

use crate::{Busy, CacheLimits, Frame, Mapping, PageCache, PageFlags, PageOps};

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageIndex(end))
}

fn cache_of(budget_pages: u64) -> Arc<PageCache> {
    PageCache::new(CacheLimits::for_budget(budget_pages * 4096))
}

fn fill(file: &Mapping, range: PageRange) {
    for page in file.lock_absent(range) {
        page.fill(Frame::zeroed());
    }
}

fn dirty(file: &Mapping, range: PageRange) {
    for index in range.iter() {
        file.write(index.offset(), &[1; 4096], PageIndex(0), |_| {});
    }
}

/// Writes all of `range` back, as far as the cache sees it.
fn clean(file: &Mapping, range: PageRange) {
    let run = file.lock_contig(range, Busy::Wait);
    assert_eq!(run.range(), range);
    let (_, charge) = run.freeze(|_| {});
    run.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
    file.complete(range, PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
    charge.written();
}

#[test]
fn reclaim_takes_only_clean_pages_that_nobody_works_on() {
    let cache = cache_of(10_000);
    let file = cache.mapping(1);
    fill(&file, pages(0, 100));
    dirty(&file, pages(10, 20));
    let locked = file.lock_page(PageIndex(50));
    dirty(&file, pages(60, 62));
    let run = file.lock_contig(pages(60, 62), Busy::Wait);
    drop(run.freeze(|_| {}));
    let (ordered, written) = run.split_at(PageIndex(61));
    ordered.release(PageOps::SET_ORDERED, None);
    written.release(PageOps::SET_WRITEBACK, None);

    // Twice: the second time, nothing counts as used any more.
    let freed = cache.reclaim(1000) + cache.reclaim(1000);
    assert_eq!(freed, 100 - 10 - 1 - 2);
    let left: Vec<_> =
        pages(0, 100).iter().filter(|i| !file.flags(*i).is_empty()).map(|i| i.0).collect();
    assert_eq!(left, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 50, 60, 61]);
    assert_eq!((cache.stats().pages, cache.stats().leaves), (13, 2), "an empty leaf goes too");

    locked.unlock();
    file.complete(pages(60, 61), PageOps::CLEAR_ORDERED);
    file.complete(pages(61, 62), PageOps::END_WRITEBACK);
    clean(&file, pages(10, 20));
    cache.reclaim(1000);
    cache.reclaim(1000);
    assert_eq!((cache.stats().pages, cache.stats().leaves), (0, 0));
    cache.check_at_rest().unwrap();
}

#[test]
fn a_full_cache_stays_within_its_budget_and_keeps_what_is_used() {
    let cache = cache_of(320);
    let (hot, cold) = (cache.mapping(1), cache.mapping(2));
    fill(&hot, pages(0, 32));
    for round in 0..200 {
        assert_eq!(hot.frames(pages(0, 32)).len(), 32, "round {round}: the hot file was dropped");
        fill(&cold, pages(round * 32, round * 32 + 32));
        assert!(cache.stats().pages <= 320, "{:?}", cache.stats());
    }
    assert!(cache.stats().reclaimed >= 200 * 32 - 320);
    assert!(cache.stats().leaves < 20, "{:?}", cache.stats());
}

#[test]
fn writers_get_pages_beyond_the_budget_when_all_are_dirty() {
    let cache = cache_of(64);
    let file = cache.mapping(1);
    dirty(&file, pages(0, 256));
    assert_eq!((cache.stats().pages, cache.stats().dirty), (256, 256));
    clean(&file, pages(0, 256));
    fill(&file, pages(1000, 1001));
    fill(&file, pages(1001, 1002));
    assert!(cache.stats().pages <= 64, "{:?}", cache.stats());
}

#[test]
fn a_dropped_file_gives_its_pages_back_and_tells_of_lost_ones() {
    let cache = cache_of(1000);
    let (clean_file, dirty_file) = (cache.mapping(1), cache.mapping(2));
    fill(&clean_file, pages(0, 40));
    drop(clean_file);
    cache.check_at_rest().unwrap();
    assert_eq!((cache.stats().pages, cache.stats().leaves), (0, 0));
    dirty(&dirty_file, pages(0, 3));
    assert_eq!(cache.dirty_mappings().iter().map(|m| m.owner()).collect::<Vec<_>>(), [2]);
    drop(dirty_file);
    assert_eq!((cache.stats().dirty, cache.stats().lost_dirty), (0, 3));
    assert!(cache.dirty_mappings().is_empty());
    assert!(cache.check_at_rest().unwrap_err().contains("lost_dirty: 3"));
}

#[test]
fn many_short_lived_files_leave_no_queue_behind() {
    let cache = cache_of(1_000_000);
    for owner in 0..20_000 {
        fill(&cache.mapping(owner), pages(0, 1));
    }
    assert!(
        cache.budget().root().0.reclaim.len() < 2000,
        "{}",
        cache.budget().root().0.reclaim.len()
    );
}

#[test]
fn what_counts_against_the_limits_is_every_version_that_is_not_on_disk_law_e4() {
    let cache = cache_of(64); // background 16, hard 32
    let file = cache.mapping(1);
    dirty(&file, pages(0, 15));
    assert!(!file.over_background());
    dirty(&file, pages(15, 31));
    assert!(file.over_background() && !file.must_wait());
    dirty(&file, pages(31, 32));
    assert!(file.must_wait());
    let run = file.lock_contig(pages(0, 32), Busy::Wait);
    let (_, mut charge) = run.freeze(|_| {});
    assert!(!file.over_background(), "the flusher has done what it can");
    assert!(file.must_wait(), "frozen counts");
    run.release(PageOps::SET_WRITEBACK, None);
    assert!(file.must_wait(), "writeback counts");
    assert!(cache.check_at_rest().is_err());
    drop(charge.split(16));
    file.complete(pages(0, 16), PageOps::END_WRITEBACK);
    assert!(!file.must_wait());
    file.complete(pages(16, 32), PageOps::END_WRITEBACK);
    assert!(cache.check_at_rest().is_err(), "the charge is still there");
    drop(charge);
    cache.check_at_rest().unwrap();
}

#[test]
fn throttled_writers_are_let_go_one_after_another_as_writeback_ends() {
    let cache = cache_of(64);
    let files: Vec<_> = (0..4).map(|owner| cache.mapping(owner)).collect();
    let done = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for file in &files {
            let done = &done;
            scope.spawn(move || {
                for page in 0..200 {
                    file.throttle(|| false);
                    dirty(file, pages(page, page + 1));
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        // The flusher: writes back what it finds, until all writers are through.
        while done.load(std::sync::atomic::Ordering::SeqCst) < 4 {
            for file in cache.dirty_mappings() {
                let Some(run) =
                    file.next_tagged_run(crate::Tag::Dirty, PageIndex(0), PageIndex(500))
                else {
                    continue;
                };
                clean(&file, run);
            }
            assert!(cache.budget().unwritten_bytes() <= (32 + 4) * 4096, "the limit does not hold");
            thread::sleep(Duration::from_micros(50));
        }
    });
    assert!(cache.stats().stalls.count > 0, "the limit was never reached");
    for file in &files {
        file.truncate(PageIndex(0), |_| {});
        assert_eq!(file.flags(PageIndex(0)), PageFlags::empty());
    }
    cache.check_at_rest().unwrap();
}
