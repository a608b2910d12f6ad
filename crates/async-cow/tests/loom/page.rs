//! A page: its lock (law O1), its writeback and its content, and those who wait for one of them; the leaf that holds it, found by a look-up
//! that takes no lock.

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::{PageIndex, PageRange};
use cowback_page_cache::{CacheLimits, Charge, Frame, Mapping, PageCache, PageFlags, PageOps};

use crate::explore::{Bound, both, explore};

const FIRST: PageIndex = PageIndex(0);

/// The page of these models, as a range.
pub(crate) fn page() -> PageRange {
    PageRange::one(FIRST)
}

fn cache() -> Arc<PageCache> {
    PageCache::new(CacheLimits::for_budget(1 << 20))
}

fn write(mapping: &Mapping, value: u8) {
    mapping.write(0, &[value; 4096], FIRST, |_| {});
}

/// A mapping whose page has a version under writeback.
pub(crate) fn under_writeback(cache: &Arc<PageCache>) -> (Arc<Mapping>, Charge) {
    let mapping = cache.mapping(1);
    write(&mapping, 1);
    let run = mapping.lock_page(FIRST).into_range();
    let (_, charge) = run.freeze(|_| {});
    run.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
    (mapping, charge)
}

#[test]
fn a_locked_page_has_one_owner_and_who_waits_becomes_it() {
    explore("a locked page has one owner", Bound::None, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        let turns = Arc::new(AtomicU64::new(0));
        let take_turn = {
            let (mapping, turns) = (Arc::clone(&mapping), Arc::clone(&turns));
            move || {
                let page = mapping.lock_page(FIRST);
                // Ordered by nothing but the page lock.
                let before = turns.load(Ordering::Relaxed);
                turns.store(before + 1, Ordering::Relaxed);
                page.unlock();
            }
        };
        both(take_turn.clone(), take_turn);
        assert_eq!(turns.load(Ordering::Relaxed), 2, "two were in at once");
        assert_eq!((cache.stats().locked, cache.stats().leaves), (0, 0));
    });
}

#[test]
fn who_waits_for_writeback_hears_of_its_end() {
    explore("who waits for writeback hears of its end", Bound::None, || {
        let cache = cache();
        let (mapping, _charge) = under_writeback(&cache);
        let waiter = Arc::clone(&mapping);
        both(
            move || {
                waiter.wait_writeback(page());
                assert!(!waiter.flags(FIRST).contains(PageFlags::WRITEBACK));
            },
            move || mapping.complete(page(), PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK),
        );
        assert_eq!(cache.stats().writeback, 0);
    });
}

#[test]
fn who_waits_for_content_gets_it() {
    explore("who waits for content gets it", Bound::None, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        let reading = mapping.lock_page(FIRST);
        let waiter = Arc::clone(&mapping);
        both(
            move || {
                assert!(waiter.wait_uptodate(FIRST));
                assert_eq!(waiter.frame(FIRST).unwrap().bytes()[0], 9);
            },
            move || {
                assert!(reading.fill(Frame::from_slice(&[9; 4096])));
                reading.unlock();
            },
        );
    });
}

#[test]
fn what_is_written_while_its_leaf_dies_is_in_the_next_one() {
    explore("what is written while its leaf dies", Bound::None, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        let reading = mapping.lock_page(FIRST);
        reading.fill(Frame::from_slice(&[9; 4096]));
        reading.unlock();
        let dropper = Arc::clone(&mapping);
        let writer = Arc::clone(&mapping);
        both(
            move || {
                dropper.drop_clean(page());
            },
            move || write(&writer, 7),
        );
        assert_eq!(mapping.frame(FIRST).map(|frame| frame.bytes()[0]), Some(7));
        let stats = cache.stats();
        assert_eq!((stats.pages, stats.dirty, stats.leaves), (1, 1, 1));
    });
}
