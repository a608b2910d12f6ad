//! Dirty limits: who lowers a gauge looks, without a lock, whether anybody waits for that; who waits has said so before it looked at the gauge.

use std::sync::Arc;

use cowback_page_cache::{CacheLimits, PageCache, PageOps};

use crate::explore::{Bound, explore, spawn};
use crate::page::{page, under_writeback};

/// A cache whose writers wait as soon as one page is unwritten.
fn small_cache() -> Arc<PageCache> {
    PageCache::new(CacheLimits { budget: 1 << 20, background: 0, hard: 4096 })
}

#[test]
fn a_writer_at_the_limit_goes_on_when_the_last_page_is_written() {
    explore("a writer at the limit goes on", Bound::None, || {
        let cache = small_cache();
        let (mapping, charge) = under_writeback(&cache);
        let writer = {
            let mapping = Arc::clone(&mapping);
            spawn(move || assert!(mapping.throttle(|| false)))
        };
        mapping.complete(page(), PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
        drop(charge);
        writer.join().unwrap();
    });
}

#[test]
fn two_writers_at_the_limit_both_go_on() {
    explore("two writers at the limit go on", Bound::Preemptions(3), || {
        let cache = small_cache();
        let (mapping, charge) = under_writeback(&cache);
        let writers = [(); 2].map(|()| {
            let mapping = Arc::clone(&mapping);
            spawn(move || assert!(mapping.throttle(|| false)))
        });
        mapping.complete(page(), PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
        drop(charge);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}
