//! The page lock: one owner at a time (law O1), and nobody who waits is forgotten.

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::sync::thread;
use cowback_base::{PageIndex, PageRange};
use cowback_page_cache::{Busy, CacheLimits, Frame, LockedPages, Mapping, PageCache, PageOps};
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;

/// The pages of these models: the last two of a leaf and the first two of the next.
const FIRST: u64 = 30;
const COUNT: u64 = 4;

fn cache() -> Arc<PageCache> {
    PageCache::new(CacheLimits::for_budget(16 << 20))
}

fn range(from: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(FIRST + from), PageIndex(FIRST + end))
}

fn page(number: u64) -> PageIndex {
    PageIndex(FIRST + number)
}

/// Who is where: a page that two are in at once has two owners.
#[derive(Default)]
struct Rooms([AtomicU64; 4]);

impl Rooms {
    fn room(&self, page: PageIndex) -> &AtomicU64 {
        &self.0[usize::try_from(page.0 - FIRST).unwrap()]
    }

    fn enter(&self, page: PageIndex) {
        assert_eq!(self.room(page).swap(1, Ordering::SeqCst), 0, "{page:?} has two owners");
    }

    fn leave(&self, page: PageIndex) {
        assert_eq!(self.room(page).swap(0, Ordering::SeqCst), 1, "{page:?} lost its owner");
    }

    fn each(range: PageRange) -> impl Iterator<Item = PageIndex> {
        (range.start.0..range.end.0).map(PageIndex)
    }
}

/// Locks pages in one of the ways there are, and gives them back in another.
fn lock_something(mapping: &Mapping, rooms: &Rooms) {
    let first = thread_rng().gen_range(0..COUNT);
    match thread_rng().gen_range(0..4) {
        0 => {
            let token = mapping.lock_page(page(first));
            rooms.enter(page(first));
            rooms.leave(page(first));
            token.unlock();
        }
        1 => {
            if let Some(token) = mapping.try_lock_page(page(first)) {
                rooms.enter(page(first));
                rooms.leave(page(first));
                drop(token);
            }
        }
        2 => mapping.invalidate(range(first, COUNT), |_| {}),
        _ => lock_run(mapping, rooms, first),
    }
}

/// A run from page `first` to the last, cut, and given back piece by piece.
fn lock_run(mapping: &Mapping, rooms: &Rooms, first: u64) {
    let mut run = mapping.lock_page(page(first)).into_range();
    rooms.enter(page(first));
    for next in Rooms::each(range(first + 1, COUNT)) {
        run.absorb(mapping.lock_page(next));
        rooms.enter(next);
    }
    let cut = thread_rng().gen_range(first..=COUNT);
    let (left, right) = run.split_at(page(cut));
    let (one, other) = if thread_rng().r#gen() { (left, right) } else { (right, left) };
    Rooms::each(one.range()).for_each(|page| rooms.leave(page));
    one.unlock();
    let keep = page(thread_rng().gen_range(0..COUNT));
    let of_others: Vec<_> = Rooms::each(other.range()).filter(|page| *page != keep).collect();
    of_others.into_iter().for_each(|page| rooms.leave(page));
    if let Some(kept) = other.release(PageOps::empty(), Some(keep)) {
        rooms.leave(kept.index());
    }
}

#[test]
fn a_locked_page_has_one_owner() {
    explore("a locked page has one owner", 2000, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        let rooms = Rooms::default();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    lock_something(&mapping, &rooms);
                    lock_something(&mapping, &rooms);
                });
            }
        });
        assert_eq!(cache.stats().locked, 0);
        let all = mapping.lock_absent(range(0, COUNT));
        assert_eq!(all.len() as u64, COUNT, "every page can be locked again");
    });
}

/// Versions of pages that became dirty, and the ways in which they ceased to be (law O3).
#[derive(Default)]
struct Versions {
    dirtied: AtomicU64,
    frozen: AtomicU64,
    dropped: AtomicU64,
}

impl Versions {
    fn write(&self, mapping: &Mapping, number: u64) {
        mapping.write(page(number).offset(), &[7; 4096], PageIndex(0), |newly| {
            self.dirtied.fetch_add(newly.count(), Ordering::SeqCst);
        });
    }

    /// Writes back what is dirty from page `first` on, as a flusher does, in two chunks.
    fn write_back(&self, mapping: &Mapping, first: u64, busy: Busy) {
        let Some(entry) = mapping.find_lock_page(page(first)) else { return };
        if !entry.is_dirty() || entry.is_writeback() {
            return;
        }
        let mut run = entry.into_range();
        run.append(mapping.lock_contig(range(first + 1, COUNT), busy));
        let (frames, charge) = run.freeze(|pages| {
            self.frozen.fetch_add(pages.count(), Ordering::SeqCst);
        });
        assert_eq!(frames.len() as u64, run.count());
        let middle = PageIndex(run.range().start.0.midpoint(run.range().end.0));
        let (left, right) = run.split_at(middle);
        let submit = |chunk: LockedPages| {
            let pages = chunk.range();
            chunk.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
            pages
        };
        let (left, right) = (submit(left), submit(right));
        drop(charge);
        for pages in [right, left] {
            mapping.complete(pages, PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
        }
    }
}

#[test]
fn what_becomes_dirty_is_taken_once() {
    explore("what becomes dirty is taken once", 1500, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        let versions = Versions::default();
        (0..COUNT).for_each(|number| versions.write(&mapping, number));
        thread::scope(|scope| {
            // One that waits, as there is only one per file, and one that does not.
            scope.spawn(|| {
                let tagged = PageRange::new(PageIndex(0), PageIndex(u64::MAX));
                mapping.wait_writeback(tagged);
                versions.write_back(&mapping, 0, Busy::Wait);
            });
            scope.spawn(|| versions.write_back(&mapping, 1, Busy::Stop));
            scope.spawn(|| {
                versions.write(&mapping, 1);
                versions.write(&mapping, 2);
            });
            scope.spawn(|| {
                mapping.truncate(page(2), |pages| {
                    versions.dropped.fetch_add(pages.count(), Ordering::SeqCst);
                });
            });
        });
        let stats = cache.stats();
        assert_eq!((stats.locked, stats.frozen, stats.writeback), (0, 0, 0), "{stats:?}");
        let [dirtied, frozen, dropped] = [&versions.dirtied, &versions.frozen, &versions.dropped]
            .map(|count| count.load(Ordering::SeqCst));
        assert_eq!(dirtied, frozen + dropped + stats.dirty, "each version leaves in one way");
        mapping.truncate(PageIndex(0), |_| {});
        cache.check_at_rest().unwrap();
    });
}

/// Reads page `number` as a reader does: from the cache, or by filling it, or by waiting for who does.
fn read_page(mapping: &Mapping, number: u64) -> Frame {
    loop {
        if let Some(frame) = mapping.frame(page(number)) {
            return frame;
        }
        for token in mapping.lock_absent(range(number, number + 1)) {
            token.fill(Frame::from_slice(&[9; 4096]));
        }
        let _ = mapping.wait_uptodate(page(number));
    }
}

#[test]
fn a_reader_that_waits_for_another_is_woken() {
    explore("a reader that waits for another is woken", 1500, || {
        let cache = cache();
        let mapping = cache.mapping(1);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for number in [1, 2] {
                        let first = read_page(&mapping, number).bytes()[0];
                        assert!(first == 9 || (number == 2 && first == 7), "{first}");
                    }
                });
            }
            scope.spawn(|| {
                mapping.write(page(2).offset(), &[7; 4096], PageIndex(0), |_| {});
            });
            scope.spawn(|| {
                mapping.drop_clean(range(0, COUNT));
                cache.reclaim(COUNT);
            });
        });
        assert_eq!(read_page(&mapping, 2).bytes()[0], 7, "a fill does not undo a write");
        assert_eq!((cache.stats().locked, cache.stats().dirty), (0, 1));
    });
}
