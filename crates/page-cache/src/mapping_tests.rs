//! Tests of mappings: against a naive model, and with threads.

use std::collections::BTreeSet;
use std::time::Duration;

use cowback_base::sync::thread;
use proptest::prelude::*;

use super::*;
use crate::Frame;
use crate::bits::LEAF_PAGES;
use crate::{CacheLimits, PageCache};

/// Pages of the model's file: four leaves.
const PAGES: u64 = 100;
/// From this page on the file has no old content.
const ZERO_BEYOND: u64 = 60;

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageIndex(end))
}

fn file() -> Arc<Mapping> {
    PageCache::new(CacheLimits::default()).mapping(1)
}

fn dirty(file: &Mapping, pages: PageRange) {
    for index in pages.iter() {
        file.write(index.offset(), &[1; 4096], PageIndex(0), |_| {});
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write { start: u64, len: u64, value: u8 },
    WritePart { page: u64, value: u8 },
    Fill { start: u64, len: u64, value: u8 },
    LockRun { start: u64, len: u64 },
    Freeze { run: usize },
    Submit { run: usize, keep: u64 },
    GiveUp { run: usize },
    Complete { nth: usize, fail: bool },
    Tag { start: u64, len: u64 },
    Invalidate { start: u64, len: u64 },
    DropClean { start: u64, len: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let span = || (0..PAGES, 1..50_u64);
    prop_oneof![
        (span(), any::<u8>()).prop_map(|((start, len), value)| Op::Write { start, len, value }),
        (0..PAGES, any::<u8>()).prop_map(|(page, value)| Op::WritePart { page, value }),
        (span(), any::<u8>()).prop_map(|((start, len), value)| Op::Fill { start, len, value }),
        span().prop_map(|(start, len)| Op::LockRun { start, len }),
        (0..4_usize).prop_map(|run| Op::Freeze { run }),
        (0..4_usize, 0..PAGES).prop_map(|(run, keep)| Op::Submit { run, keep }),
        (0..4_usize).prop_map(|run| Op::GiveUp { run }),
        (0..4_usize, any::<bool>()).prop_map(|(nth, fail)| Op::Complete { nth, fail }),
        span().prop_map(|(start, len)| Op::Tag { start, len }),
        span().prop_map(|(start, len)| Op::Invalidate { start, len }),
        span().prop_map(|(start, len)| Op::DropClean { start, len }),
    ]
}

#[derive(Default, Clone)]
struct ModelPage {
    content: Option<Vec<u8>>,
    flags: BTreeSet<&'static str>,
}

impl ModelPage {
    fn has(&self, flag: &'static str) -> bool {
        self.flags.contains(flag)
    }
    fn set(&mut self, flag: &'static str, on: bool) {
        if on {
            self.flags.insert(flag);
        } else {
            self.flags.remove(flag);
        }
    }
    fn busy(&self) -> bool {
        self.has("locked") || self.has("writeback")
    }
}

/// The real mapping beside a map of pages that does the same one page at a time.
struct Twin {
    real: Arc<Mapping>,
    model: Vec<ModelPage>,
    runs: Vec<(LockedPages, bool)>,
    written: Vec<PageRange>,
    snapshots: Vec<(Frame, Vec<u8>)>,
}

impl Twin {
    fn new() -> Self {
        Self {
            real: file(),
            model: vec![ModelPage::default(); usize::try_from(PAGES).unwrap()],
            runs: Vec::new(),
            written: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    fn page(&mut self, index: PageIndex) -> &mut ModelPage {
        &mut self.model[usize::try_from(index.0).unwrap()]
    }

    fn each(&mut self, pages: PageRange, mut f: impl FnMut(&mut ModelPage)) {
        for index in pages.iter() {
            f(self.page(index));
        }
    }

    fn expect_dirtied(&mut self, pages: PageRange, reported: &[PageRange]) {
        let clean: Vec<_> = pages.iter().filter(|i| !self.page(*i).has("dirty")).collect();
        let got: Vec<_> = reported.iter().flat_map(|run| run.iter()).collect();
        assert_eq!(got, clean, "reported as newly dirty");
        self.each(pages, |page| page.set("dirty", true));
    }

    fn run(&mut self, op: Op) {
        let span = |start: u64, len: u64| range(start, (start + len).min(PAGES));
        match op {
            Op::Write { start, len, value } => {
                let pages = span(start, len);
                let src = vec![value; usize::try_from(pages.count()).unwrap() * 4096];
                let mut reported = Vec::new();
                let offset = pages.start.offset();
                let outcome =
                    self.real.write(offset, &src, PageIndex(u64::MAX), |run| reported.push(run));
                assert_eq!((outcome.written, outcome.needs_read), (src.len(), None));
                self.each(pages, |page| page.content = Some(vec![value; 4096]));
                self.expect_dirtied(pages, &reported);
            }
            Op::WritePart { page, value } => self.write_part(page, value),
            Op::Fill { start, len, value } => {
                let pages = span(start, len);
                let tokens = self.real.lock_absent(pages);
                let mut expected = Vec::new();
                for index in pages.iter() {
                    let page = self.page(index);
                    if page.content.is_none() && !page.has("locked") {
                        page.content = Some(vec![value; 4096]);
                        expected.push(index);
                    }
                }
                let locked: Vec<_> = tokens.iter().map(LockedPage::index).collect();
                assert_eq!(locked, expected);
                assert!(tokens.iter().all(|t| t.fill(Frame::from_slice(&[value; 4096]))));
            }
            Op::LockRun { start, len } => self.lock_run(span(start, len)),
            Op::Freeze { run } => self.freeze(run),
            Op::Submit { run, keep } => self.submit(run, PageIndex(keep)),
            Op::GiveUp { run } => {
                if run < self.runs.len() {
                    let (token, frozen) = self.runs.swap_remove(run);
                    if frozen {
                        self.redirty(token.range());
                    }
                    self.each(token.range(), |page| page.set("locked", false));
                    token.unlock();
                }
            }
            Op::Complete { nth, fail } => {
                if nth < self.written.len() {
                    let pages = self.written.swap_remove(nth);
                    if fail {
                        self.redirty(pages);
                    }
                    self.real.complete(pages, PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
                    self.each(pages, |page| page.set("writeback", false));
                }
            }
            Op::Tag { start, len } => {
                self.real.tag_dirty_as_towrite(span(start, len));
                self.each(span(start, len), |p| {
                    p.set("towrite", p.has("dirty") || p.has("towrite"))
                });
            }
            Op::Invalidate { start, len } => self.invalidate(span(start, len)),
            Op::DropClean { start, len } => {
                let mut expected = 0;
                self.each(span(start, len), |page| {
                    if page.content.is_some() && !page.busy() && !page.has("dirty") {
                        *page = ModelPage::default();
                        expected += 1;
                    }
                });
                assert_eq!(self.real.drop_clean(span(start, len)), expected);
            }
        }
    }

    fn write_part(&mut self, page: u64, value: u8) {
        let index = PageIndex(page);
        let mut reported = Vec::new();
        let outcome =
            self.real.write(index.offset() + 100, &[value; 200], PageIndex(ZERO_BEYOND), |run| {
                reported.push(run)
            });
        let slot = self.page(index);
        if slot.content.is_none() && page < ZERO_BEYOND {
            assert_eq!((outcome.written, outcome.needs_read), (0, Some(index)));
            return;
        }
        assert_eq!((outcome.written, outcome.needs_read), (200, None));
        slot.content.get_or_insert_with(|| vec![0; 4096])[100..300].fill(value);
        self.expect_dirtied(PageRange::one(index), &reported);
    }

    fn redirty(&mut self, pages: PageRange) {
        let mut reported = Vec::new();
        self.real.redirty(pages, |run| reported.push(run));
        self.each(pages, |page| page.set("frozen", false));
        self.expect_dirtied(pages, &reported);
    }

    fn lock_run(&mut self, pages: PageRange) {
        let token = self.real.lock_contig(pages, Busy::Stop);
        let free = |page: &ModelPage| page.has("dirty") && !page.busy();
        let count = pages.iter().take_while(|i| free(self.page(*i))).count() as u64;
        assert_eq!(token.count(), count);
        if count > 0 {
            assert_eq!(token.range(), range(pages.start.0, pages.start.0 + count));
            self.each(token.range(), |page| page.set("locked", true));
            self.runs.push((token, false));
        }
    }

    fn freeze(&mut self, run: usize) {
        let Some((token, frozen)) = self.runs.get_mut(run) else { return };
        if std::mem::replace(frozen, true) {
            return;
        }
        let mut seen = Vec::new();
        let (frames, charge) = token.freeze(|run| seen.extend(run.iter()));
        assert_eq!(charge.pages(), token.count());
        let pages = token.range();
        assert_eq!(seen, pages.iter().collect::<Vec<_>>());
        for (index, frame) in pages.iter().zip(frames) {
            let page = self.page(index);
            page.set("dirty", false);
            page.set("towrite", false);
            page.set("frozen", true);
            let content = page.content.clone().unwrap();
            self.snapshots.push((frame, content));
        }
    }

    fn submit(&mut self, run: usize, keep: PageIndex) {
        if !self.runs.get(run).is_some_and(|(_, frozen)| *frozen) {
            return;
        }
        let (token, _) = self.runs.swap_remove(run);
        let pages = token.range();
        let kept = token.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, Some(keep));
        assert_eq!(kept.as_ref().map(LockedPage::index), pages.contains(keep).then_some(keep));
        if let Some(page) = kept {
            // Law O2: it took part in everything but the unlock.
            let all = PageFlags::LOCKED | PageFlags::ORDERED | PageFlags::WRITEBACK;
            assert!(page.flags().contains(all));
            assert!(!page.flags().contains(PageFlags::FROZEN));
        }
        self.each(pages, |page| {
            page.set("locked", false);
            page.set("frozen", false);
            page.set("writeback", true);
        });
        self.written.push(pages);
    }

    fn invalidate(&mut self, pages: PageRange) {
        // It would wait, for ever, for what this thread holds.
        if pages.iter().any(|i| self.page(i).busy()) {
            return;
        }
        let mut cleaned = Vec::new();
        self.real.invalidate(pages, |run| cleaned.extend(run.iter()));
        let expected: Vec<_> = pages.iter().filter(|i| self.page(*i).has("dirty")).collect();
        assert_eq!(cleaned, expected);
        self.each(pages, |page| *page = ModelPage::default());
    }

    fn check(&mut self) {
        let names = [
            ("locked", PageFlags::LOCKED),
            ("dirty", PageFlags::DIRTY),
            ("frozen", PageFlags::FROZEN),
            ("writeback", PageFlags::WRITEBACK),
            ("towrite", PageFlags::TOWRITE),
        ];
        for (index, page) in self.model.iter().enumerate() {
            let index = PageIndex(index as u64);
            let mut expected = PageFlags::empty();
            for (name, flag) in names {
                expected.set(flag, page.has(name));
            }
            expected.set(PageFlags::UPTODATE, page.content.is_some());
            expected.set(PageFlags::ORDERED, page.has("writeback"));
            let flags = self.real.flags(index) - PageFlags::REFERENCED;
            assert_eq!(flags, expected, "{index:?}");
            let frame = self.real.frame(index);
            let same = frame.as_ref().map(|f| &f.bytes()[..]) == page.content.as_deref();
            assert!(same, "content of {index:?}");
        }
        self.check_tags_and_counts();
        for (frame, content) in &self.snapshots {
            assert!(frame.bytes()[..] == content[..], "a snapshot changed (law B1)");
        }
    }

    fn check_tags_and_counts(&self) {
        let tags =
            [(Tag::Dirty, "dirty"), (Tag::Writeback, "writeback"), (Tag::ToWrite, "towrite")];
        for (tag, name) in tags {
            let tagged = (0..PAGES).zip(&self.model).filter(|(_, page)| page.has(name));
            let expected: Vec<_> = tagged.map(|(index, _)| index).collect();
            let mut found = Vec::new();
            let mut from = PageIndex(0);
            while let Some(run) = self.real.next_tagged_run(tag, from, PageIndex(PAGES)) {
                found.extend(run.iter().map(|index| index.0));
                from = run.end;
            }
            assert_eq!(found, expected, "{tag:?}");
            // The index is exact: it names no leaf that has no such page any more.
            for leaf in 0..PAGES.div_ceil(LEAF_PAGES) {
                let indexed = self.real.tags.next(tag, leaf, leaf + 1).is_some();
                let tagged = expected.iter().any(|index| index / LEAF_PAGES == leaf);
                assert_eq!(indexed, tagged, "{tag:?} of leaf {leaf}");
            }
        }
        let count = |name| self.model.iter().filter(|page| page.has(name)).count() as u64;
        let stats = self.real.cache().stats();
        let held = self.model.iter().filter(|page| page.content.is_some()).count() as u64;
        assert_eq!((stats.pages, self.real.page_count()), (held, held));
        assert_eq!((stats.dirty, self.real.dirty_count()), (count("dirty"), count("dirty")));
        assert_eq!(stats.writeback, count("writeback"));
        assert_eq!((stats.locked, stats.frozen), (count("locked"), count("frozen")));
    }

    /// Resolves what is under way: then every gauge is zero.
    fn finish(mut self) {
        for (token, _) in self.runs.drain(..) {
            token.unlock();
        }
        for pages in self.written.drain(..) {
            self.real.complete(pages, PageOps::COMPLETION);
        }
        self.real.truncate(PageIndex(0), |_| {});
        self.real.cache().check_at_rest().unwrap();
        let stats = self.real.cache().stats();
        assert_eq!((stats.pages, stats.leaves), (0, 0), "law E4");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_mapping_does_what_a_plain_map_of_pages_does(ops in prop::collection::vec(op(), 1..60)) {
        let mut twin = Twin::new();
        for op in ops {
            twin.run(op);
            twin.check();
        }
        twin.finish();
    }
}

#[test]
fn tag_search_visits_only_tagged_leaves() {
    let file = file();
    // A sparse file: four pages, each far from the others.
    let far = [3, 1 << 20, 1 << 35, (1 << 52) - 2];
    for page in far {
        dirty(&file, range(page, page + 1));
    }
    let mut found = Vec::new();
    let mut from = PageIndex(0);
    while let Some(page) = file.next_tagged(Tag::Dirty, from, PageIndex(1 << 52)) {
        found.push(page.0);
        from = page.next();
    }
    assert_eq!(found, far);
    assert_eq!(file.next_tagged(Tag::Dirty, PageIndex(4), PageIndex(1 << 20)), None);
    assert_eq!(file.next_tagged(Tag::Writeback, PageIndex(0), PageIndex(u64::MAX)), None);

    // A large file with one tagged page: the index names its leaf first.
    for page in file.lock_absent(range(0, 20_000)) {
        page.fill(Frame::zeroed());
    }
    file.tag_dirty_as_towrite(range(1 << 20, 1 << 40));
    let next = file.next_tagged(Tag::ToWrite, PageIndex(0), PageIndex(u64::MAX));
    assert_eq!(next, Some(PageIndex(1 << 20)));
    let leaf = file.next_tagged_leaf(Tag::ToWrite, PageIndex(0), PageIndex(u64::MAX));
    assert_eq!(leaf, Some(leaf_of(PageIndex(1 << 20))));
    file.truncate(PageIndex(0), |_| {});
}

#[test]
fn tokens_split_join_and_hand_over() {
    let file = file();
    dirty(&file, range(30, 40));
    let entry = file.find_lock_page(PageIndex(30)).unwrap();
    assert!(file.try_lock_page(PageIndex(30)).is_none(), "law O1");
    assert!(file.find_lock_page(PageIndex(50)).is_none());
    let mut run = file.lock_contig(range(31, 50), Busy::Wait);
    assert_eq!(run.range(), range(31, 40));
    run.absorb(entry);
    assert_eq!(run.range(), range(30, 40));
    let (mut low, high) = run.split_at(PageIndex(33));
    let (nothing, high) = high.split_at(PageIndex(33));
    assert!(nothing.is_empty());
    low.append(nothing);
    high.unlock();
    let (page, rest) = low.split_at(PageIndex(31));
    let page = page.into_page();
    assert_eq!(file.cache().stats().locked, 3);
    rest.unlock();
    assert_eq!((page.index(), page.is_dirty()), (PageIndex(30), true));
    drop(page);
    file.truncate(PageIndex(0), |_| {});
    file.cache().check_at_rest().unwrap();
}

#[test]
#[should_panic(expected = "dropped locked (law O1)")]
fn law_o1_a_run_that_is_dropped_is_a_defect() {
    let file = file();
    dirty(&file, range(0, 2));
    drop(file.lock_contig(range(0, 2), Busy::Wait));
}

#[test]
#[should_panic(expected = "needs the page lock")]
fn a_completion_does_nothing_that_needs_the_page_lock() {
    let file = file();
    dirty(&file, range(0, 1));
    file.complete(range(0, 1), PageOps::SET_WRITEBACK);
}

#[test]
fn no_wake_up_is_lost() {
    let file = file();
    let total = std::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (file, total) = (&file, &total);
            scope.spawn(move || {
                for round in 0..500 {
                    let page = PageIndex((round + thread) % 3);
                    let lock = file.lock_page(page);
                    let before = total.load(Ordering::Relaxed);
                    lock.fill(Frame::zeroed());
                    file.write(page.offset(), &[1; 8], PageIndex(0), |_| {});
                    let run = lock.into_range();
                    if run.mapping().flags(page).contains(PageFlags::DIRTY) {
                        file.wait_writeback(run.range());
                        drop(run.freeze(|_| {}));
                        run.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
                        let done = PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK;
                        file.complete(PageRange::one(page), done);
                    } else {
                        run.unlock();
                    }
                    if round % 50 == 0 {
                        file.invalidate(range(0, 3), |_| {});
                    }
                    total.fetch_add(1, Ordering::Relaxed);
                    assert!(before < 2000);
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 2000);
    file.truncate(PageIndex(0), |_| {});
    file.cache().check_at_rest().unwrap();
}

#[test]
fn truncate_waits_for_page_locks_and_writeback_and_tells_what_was_dirty() {
    let file = file();
    dirty(&file, range(0, 10));
    let run = file.lock_contig(range(2, 6), Busy::Wait);
    drop(run.freeze(|_| {}));
    let (written, locked) = run.split_at(PageIndex(4));
    written.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None);
    dirty(&file, range(2, 3)); // a newer version
    let mut cleaned = Vec::new();
    let ended = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            locked.unlock();
            file.complete(range(2, 4), PageOps::CLEAR_ORDERED);
            thread::sleep(Duration::from_millis(20));
            ended.store(true, Ordering::SeqCst);
            file.complete(range(2, 4), PageOps::END_WRITEBACK);
        });
        file.truncate(PageIndex(1), |run| cleaned.extend(run.iter().map(|index| index.0)));
        assert!(ended.load(Ordering::SeqCst), "a page was removed under writeback");
    });
    cleaned.sort_unstable();
    assert_eq!(cleaned, [1, 2, 6, 7, 8, 9]);
    assert_eq!((file.page_count(), file.dirty_count()), (1, 1));
    file.truncate(PageIndex(0), |_| {});
    file.cache().check_at_rest().unwrap();
}

#[test]
fn lock_contig_waits_for_an_older_version_under_writeback() {
    let file = file();
    dirty(&file, range(0, 4));
    let run = file.lock_contig(range(2, 3), Busy::Wait);
    drop(run.freeze(|_| {}));
    run.release(PageOps::SET_WRITEBACK, None);
    dirty(&file, range(2, 3));
    let before = file.lock_contig(range(0, 4), Busy::Stop);
    assert_eq!(before.range(), range(0, 2));
    before.unlock();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            file.complete(range(2, 3), PageOps::END_WRITEBACK);
        });
        let all = file.lock_contig(range(0, 4), Busy::Wait);
        assert_eq!(all.range(), range(0, 4));
        assert_eq!(file.writeback_count(), 0);
        all.unlock();
    });
    file.truncate(PageIndex(0), |_| {});
}

#[test]
fn pages_of_a_file_with_a_policy_go_when_their_writeback_ends_and_not_before() {
    for policy in [CachePolicy::DropAfterWriteback, CachePolicy::Uncached] {
        let file = file();
        file.set_policy(policy);
        assert_eq!(file.policy(), policy);
        dirty(&file, range(0, 8));
        let run = file.lock_contig(range(0, 8), Busy::Wait);
        drop(run.freeze(|_| {}));
        let (sent, stored) = run.split_at(PageIndex(6));
        assert!(sent.release(PageOps::SET_ORDERED | PageOps::SET_WRITEBACK, None).is_none());
        // Stored without writeback, as inline extents are; page 7 in a newer version besides.
        dirty(&file, range(7, 8));
        stored.unlock();
        assert_eq!(file.page_count(), 7, "page 6 is done with");
        dirty(&file, range(0, 1));
        let page = file.lock_page(PageIndex(1));
        file.complete(range(0, 3), PageOps::CLEAR_ORDERED);
        assert_eq!(file.page_count(), 7, "under writeback");
        file.complete(range(0, 3), PageOps::END_WRITEBACK);
        assert!(file.flags(PageIndex(0)).contains(PageFlags::DIRTY));
        assert!(file.flags(PageIndex(1)).contains(PageFlags::UPTODATE), "somebody holds its lock");
        assert!(file.flags(PageIndex(2)).is_empty());
        page.unlock();
        // Failed: they stay.
        file.redirty(range(3, 6), |_| {});
        file.complete(range(3, 6), PageOps::COMPLETION);
        assert_eq!((file.page_count(), file.dirty_count()), (6, 5));
        file.truncate(PageIndex(0), |_| {});
        file.cache().check_at_rest().unwrap();
    }
}
