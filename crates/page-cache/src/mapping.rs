//! The pages of one file (stage 2): finding leaves, locking pages, searching tags, operations on runs.
//!
//! To find a leaf takes no lock ([`Directory`]). A leaf that leaves the mapping is marked dead under its mutex, so who found
//! it a moment before looks again. Page locks are taken in ascending order (law R1); to wait for a page is to wait on
//! its leaf's condition variable, without the leaf's mutex.

use std::fmt;
use std::sync::{Arc, Weak};

use cowback_base::sync::atomic::{AtomicU8, Ordering};
use cowback_base::sync::{ArcSwap, RwLock};
use cowback_base::{PageIndex, PageRange, planted};

use crate::bits::{bit_of, first_of_leaf, leaf_of, lowest, mask_in, pieces, runs};
use crate::cache::PageCache;
use crate::directory::Directory;
use crate::flags::{PageFlags, PageOps, Tag};
use crate::frame::LeafMemory;
use crate::gauge::Gauge;
use crate::group::Share;
use crate::guard::LeafGuard;
use crate::leaf::{Leaf, LeafState, Masks};
use crate::tags::TagIndex;
use crate::token::{LockedPage, LockedPages};

/// What [`Mapping::lock_contig`] does when a dirty page is locked by another, or an older version of it is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// Wait for it.
    Wait,
    /// End the run before it.
    Stop,
}

/// What becomes of a file's pages once they have served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum CachePolicy {
    /// They stay until the cache needs their room for pages that are used more.
    #[default]
    Normal,
    /// What is written leaves the cache when it has reached the disk. What is read stays, as with `Normal`.
    DropAfterWriteback,
    /// Pages leave the cache when they were read or have reached the disk, and never stay for having been used often. What
    /// was read is dropped by who reads ([`Mapping::drop_clean`]).
    Uncached,
}

impl CachePolicy {
    const ALL: [Self; 3] = [Self::Normal, Self::DropAfterWriteback, Self::Uncached];
}

/// The cached pages of one file.
pub struct Mapping {
    me: Weak<Self>,
    serial: u64,
    owner: u64,
    pub(crate) cache: Arc<PageCache>,
    leaves: Directory,
    tags: TagIndex,
    /// Whom its pages are charged to. See [`crate::owner`].
    pub(crate) share: ArcSwap<Share>,
    /// Held shared by who charges or uncharges pages, exclusively by who changes `share`.
    pub(crate) charging: RwLock<()>,
    pub(crate) pages: Gauge,
    /// Pages of the main queue of reclaim.
    pub(crate) main: Gauge,
    dirty: Gauge,
    writeback: Gauge,
    /// A [`CachePolicy`].
    policy: AtomicU8,
}

impl Mapping {
    pub(crate) fn new(
        cache: Arc<PageCache>,
        share: Arc<Share>,
        serial: u64,
        owner: u64,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            serial,
            owner,
            cache,
            leaves: Directory::default(),
            tags: TagIndex::default(),
            share: ArcSwap::new(share),
            charging: RwLock::new(()),
            pages: Gauge::new(),
            main: Gauge::new(),
            dirty: Gauge::new(),
            writeback: Gauge::new(),
            policy: AtomicU8::new(CachePolicy::Normal as u8),
        })
    }

    /// The number by which the owner knows the file.
    #[must_use]
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// The number by which the cache knows the file, never used twice.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// The cache that holds the pages.
    #[must_use]
    pub fn cache(&self) -> &Arc<PageCache> {
        &self.cache
    }

    /// What becomes of the pages once they have served.
    #[must_use]
    pub fn policy(&self) -> CachePolicy {
        CachePolicy::ALL[usize::from(self.policy.load(Ordering::Relaxed))]
    }

    /// Sets what becomes of the pages once they have served. Pages that are clean already are not dropped by it.
    pub fn set_policy(&self, policy: CachePolicy) {
        self.policy.store(policy as u8, Ordering::Relaxed);
    }

    /// Pages with content.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.pages.get()
    }

    /// Dirty pages.
    #[must_use]
    pub fn dirty_count(&self) -> u64 {
        self.dirty.get()
    }

    /// Pages under writeback.
    #[must_use]
    pub fn writeback_count(&self) -> u64 {
        self.writeback.get()
    }

    /// The flags of a page; none if it is not there.
    #[must_use]
    pub fn flags(&self, index: PageIndex) -> PageFlags {
        self.peek_leaf(leaf_of(index), |leaf| leaf.flags(bit_of(index)))
            .unwrap_or(PageFlags::empty())
    }

    // ---- page locks ----

    /// Locks a page, whether or not it has content. Waits for who holds it.
    pub fn lock_page(&self, index: PageIndex) -> LockedPage {
        let bit = bit_of(index);
        self.on_new_leaf(leaf_of(index), |leaf| {
            leaf.wait_unlocked(bit);
            leaf.lock_pages(bit);
        });
        LockedPage::new(self.arc(), index)
    }

    /// Locks a page, whether or not it has content, unless somebody holds it.
    #[must_use]
    pub fn try_lock_page(&self, index: PageIndex) -> Option<LockedPage> {
        let bit = bit_of(index);
        let locked = self.on_new_leaf(leaf_of(index), |leaf| {
            let free = leaf.masks.locked & bit == 0;
            if free {
                leaf.lock_pages(bit);
            }
            free
        });
        locked.then(|| LockedPage::new(self.arc(), index))
    }

    /// Locks a page if it has content. Waits for who holds it.
    #[must_use]
    pub fn find_lock_page(&self, index: PageIndex) -> Option<LockedPage> {
        let bit = bit_of(index);
        let locked = self.on_leaf(leaf_of(index), |leaf| {
            leaf.wait_unlocked(bit);
            let there = leaf.masks.uptodate & bit != 0;
            if there {
                leaf.lock_pages(bit);
            }
            there
        });
        (locked == Some(true)).then(|| LockedPage::new(self.arc(), index))
    }

    /// Memory for the content of a leaf, out of the cache's unused if it has some, for [`LockedPages::fill_leaf`].
    #[must_use]
    pub fn leaf_memory(&self) -> LeafMemory {
        LeafMemory(self.cache.pool().slab())
    }

    /// Locks those pages of `range` that have no content and that nobody holds: to read them in. One token a page.
    #[must_use]
    pub fn lock_absent(&self, range: PageRange) -> Vec<LockedPage> {
        self.lock_absent_runs(range).into_iter().flat_map(LockedPages::into_pages).collect()
    }

    /// As [`Mapping::lock_absent`], a token for each run of neighbours.
    #[must_use]
    pub fn lock_absent_runs(&self, range: PageRange) -> Vec<LockedPages> {
        let mut tokens: Vec<LockedPages> = Vec::new();
        for (number, mask) in pieces(range) {
            let taken = self.on_new_leaf(number, |leaf| {
                let absent = mask & !(leaf.masks.uptodate | leaf.masks.locked);
                leaf.lock_pages(absent);
                absent
            });
            for run in runs(number, taken) {
                let run = LockedPages::new(self.arc(), run);
                match tokens.last_mut() {
                    Some(last) if last.range().end == run.range().start => last.append(run),
                    _ => tokens.push(run),
                }
            }
        }
        tokens
    }

    /// Locks the pages from `range.start` on, in ascending order, as long as each is dirty and no older version of it
    /// is under writeback. The token covers those before the first that was not; perhaps none.
    ///
    /// The caller may hold locks of pages below `range`, not above (law R1).
    pub fn lock_contig(&self, range: PageRange, busy: Busy) -> LockedPages {
        let mut held = LockedPages::none(self.arc());
        for (number, mask) in pieces(range) {
            let taken =
                self.on_leaf(number, |leaf| lock_dirty_prefix(leaf, mask, busy)).unwrap_or(0);
            for run in runs(number, taken) {
                held.append(LockedPages::new(self.arc(), run));
            }
            if taken != mask {
                break;
            }
        }
        held
    }

    /// Waits until the page has content or nobody reads it in. Gives whether it has content.
    #[must_use]
    pub fn wait_uptodate(&self, index: PageIndex) -> bool {
        let bit = bit_of(index);
        let found = self.on_leaf(leaf_of(index), |leaf| {
            while leaf.masks.locked & !leaf.masks.uptodate & bit != 0 {
                leaf.wait();
            }
            leaf.masks.uptodate & bit != 0
        });
        found.unwrap_or(false)
    }

    // ---- operations on runs ----

    /// What a completion does to pages that need not be locked: any of [`PageOps::COMPLETION`].
    ///
    /// # Panics
    /// If other operations are asked for, or a page is not in the state that an operation needs.
    pub fn complete(&self, range: PageRange, ops: PageOps) {
        assert!(PageOps::COMPLETION.contains(ops), "{ops:?} needs the page lock");
        let kept = self.policy() == CachePolicy::Normal;
        self.on_pieces(range, |leaf, mask| {
            apply_ops(leaf, mask, ops);
            if !kept {
                leaf.drop_idle(mask);
            }
        });
    }

    /// Marks pages dirty whose writeback failed (law E1). `on_dirty` gets, under the leaf's mutex, the runs that had not
    /// been dirtied by somebody else since. A frozen version is given up for it.
    ///
    /// # Panics
    /// If a page has no content.
    pub fn redirty(&self, range: PageRange, mut on_dirty: impl FnMut(PageRange)) {
        self.on_pieces(range, |leaf, mask| {
            let newly = leaf.set_dirty(mask);
            leaf.masks.frozen &= !mask;
            runs(leaf.number, newly).for_each(&mut on_dirty);
        });
    }

    /// Waits until no page of `range` is under writeback. New writeback may begin meanwhile, behind the search.
    pub fn wait_writeback(&self, range: PageRange) {
        let mut from = range.start;
        while let Some(run) = self.next_tagged_run(Tag::Writeback, from, range.end) {
            // Writeback may have ended, and the leaf gone, since the search.
            for (number, mask) in pieces(run) {
                self.on_leaf(number, |leaf| {
                    while leaf.masks.writeback & mask != 0 {
                        leaf.wait();
                    }
                });
            }
            from = run.end;
        }
    }

    // ---- tags ----

    /// Tags as to be written what is dirty in `range` now, so that a flush ends though writers go on.
    pub fn tag_dirty_as_towrite(&self, range: PageRange) {
        let mut from = range.start;
        while let Some(number) = self.next_tagged_leaf(Tag::Dirty, from, range.end) {
            self.on_leaf(number, |leaf| {
                leaf.masks.towrite |= leaf.masks.dirty & mask_in(number, range);
            });
            from = first_of_leaf(number + 1);
        }
    }

    /// The first page of `[from, end)` that has the tag.
    #[must_use]
    pub fn next_tagged(&self, tag: Tag, from: PageIndex, end: PageIndex) -> Option<PageIndex> {
        self.next_tagged_run(tag, from, end).map(|run| run.start)
    }

    /// The first run of tagged pages in `[from, end)`, or what of it lies in one leaf (128 KiB).
    #[must_use]
    pub fn next_tagged_run(
        &self,
        tag: Tag,
        mut from: PageIndex,
        end: PageIndex,
    ) -> Option<PageRange> {
        loop {
            let number = self.next_tagged_leaf(tag, from, end)?;
            let wanted = mask_in(number, PageRange::new(from, end));
            let mask = self.peek_leaf(number, |leaf| leaf.masks.tagged(tag) & wanted).unwrap_or(0);
            if let Some(run) = runs(number, mask).next() {
                return Some(run);
            }
            from = first_of_leaf(number + 1);
        }
    }

    fn next_tagged_leaf(&self, tag: Tag, from: PageIndex, end: PageIndex) -> Option<u64> {
        if from >= end {
            return None;
        }
        self.tags.next(tag, leaf_of(from), leaf_of(PageIndex(end.0 - 1)) + 1)
    }

    /// Whether a leaf is in the index of a tag. Called under the leaf's mutex.
    #[cfg(feature = "invariants")]
    pub(crate) fn is_leaf_tagged(&self, tag: Tag, number: u64) -> bool {
        self.tags.next(tag, number, number + 1).is_some()
    }

    // ---- for the crate: leaves ----

    pub(crate) fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("a mapping in use is alive")
    }

    fn leaf_or_new(&self, number: u64) -> Arc<Leaf> {
        self.leaves.get_or_insert(number, || {
            // Counted before others can find the leaf, and may drop it.
            self.cache.gauges.leaves.add(1);
            Leaf::new(number, self.me.clone())
        })
    }

    /// The numbers of the leaves that have pages in `range`.
    pub(crate) fn leaves_in(&self, range: PageRange) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        let leaves = self.leaves.range(leaf_of(range.start), leaf_of(PageIndex(range.end.0 - 1)));
        leaves.iter().map(|leaf| leaf.number).collect()
    }

    /// All leaves.
    pub(crate) fn every_leaf(&self) -> Vec<Arc<Leaf>> {
        self.leaves.range(0, u64::MAX)
    }

    /// Bytes of the directory, if an allocation of so many takes what `allocated` says.
    #[cfg(test)]
    pub(crate) fn directory_bytes(&self, allocated: fn(usize) -> usize) -> usize {
        self.leaves.bytes(allocated)
    }

    /// Runs `f` on a leaf that exists. A leaf that `f` leaves without pages goes.
    pub(crate) fn on_leaf<R>(
        &self,
        number: u64,
        f: impl FnOnce(&mut LeafGuard<'_>) -> R,
    ) -> Option<R> {
        loop {
            let leaf = self.leaves.get(number)?;
            let guard = LeafGuard::new(self, &leaf);
            if !guard.dead {
                return Some(self.leave(guard, f));
            }
        }
    }

    /// Looks at a leaf that exists, without waiting for pages and without changing its masks. A little faster than
    /// [`Mapping::on_leaf`].
    pub(crate) fn peek_leaf<R>(
        &self,
        number: u64,
        f: impl FnOnce(&mut LeafState) -> R,
    ) -> Option<R> {
        // Of a leaf that died meanwhile it sees that no page is there, as was true at that moment.
        self.leaves.with(number, |leaf| f(&mut leaf.state.lock()))
    }

    /// Runs `f` on a leaf, and takes it out of the mapping if no page of it is left.
    fn leave<R>(&self, mut guard: LeafGuard<'_>, f: impl FnOnce(&mut LeafGuard<'_>) -> R) -> R {
        let result = f(&mut guard);
        let (number, empty) = (guard.number, guard.masks.is_empty());
        drop(guard);
        if empty {
            self.drop_if_empty(number);
        }
        result
    }

    /// Runs `f` on a leaf, made if need be. As [`Mapping::on_leaf`] otherwise.
    pub(crate) fn on_new_leaf<R>(&self, number: u64, f: impl FnOnce(&mut LeafGuard<'_>) -> R) -> R {
        loop {
            let leaf = self.leaf_or_new(number);
            let guard = LeafGuard::new(self, &leaf);
            if !guard.dead || planted!("dead_leaf") {
                return self.leave(guard, f);
            }
        }
    }

    /// Runs `f` on each leaf of `range`, with the range's bits in it. The leaves exist: pages of them are in use.
    pub(crate) fn on_pieces(&self, range: PageRange, mut f: impl FnMut(&mut LeafGuard<'_>, u32)) {
        for (number, mask) in pieces(range) {
            let found = self.on_leaf(number, |leaf| f(leaf, mask));
            assert!(found.is_some(), "pages of {range:?} are in use, but are not there");
        }
    }

    /// Takes a leaf out of the mapping if no page of it is there and nobody waits for one.
    pub(crate) fn drop_if_empty(&self, number: u64) {
        if self.leaves.remove_if_empty(number) {
            self.cache.gauges.leaves.sub(1);
        }
    }

    /// Accounts for a change of a leaf's masks. Called under the leaf's mutex, while its mapping is charged.
    pub(crate) fn account(&self, share: &Share, number: u64, was: &Masks, now: &Masks) {
        let gauges = &self.cache.gauges;
        if was.uptodate != now.uptodate {
            share.shift(|counts| &counts.pages, was.uptodate, now.uptodate);
            self.pages.shift(was.uptodate, now.uptodate);
        }
        if was.main != now.main {
            share.shift(|counts| &counts.main, was.main, now.main);
            self.main.shift(was.main, now.main);
        }
        if was.locked != now.locked {
            gauges.locked.shift(was.locked, now.locked);
        }
        // Against the order in which a version goes through these states, so that it is counted at every moment.
        if was.writeback != now.writeback {
            self.writeback.shift(was.writeback, now.writeback);
            gauges.writeback.shift(was.writeback, now.writeback);
        }
        if was.frozen != now.frozen {
            gauges.frozen.shift(was.frozen, now.frozen);
        }
        if was.dirty != now.dirty {
            self.dirty.shift(was.dirty, now.dirty);
            share.shift(|counts| &counts.dirty, was.dirty, now.dirty);
        }
        self.tags.update(number, was, now);
        // Also if a version only went into a charge: whoever looked meanwhile may have counted it twice.
        if now.dirty.count_ones() < was.dirty.count_ones() {
            share.relieved();
        }
    }
}

fn lock_dirty_prefix(leaf: &mut LeafGuard<'_>, mask: u32, busy: Busy) -> u32 {
    let mut taken = 0;
    loop {
        let want = mask & !taken;
        let stop = want & !(leaf.masks.dirty & !leaf.masks.locked & !leaf.masks.writeback);
        let first = lowest(stop);
        let take = if first == 0 { want } else { want & (first - 1) };
        leaf.lock_pages(take);
        taken |= take;
        if first == 0 || leaf.masks.dirty & first == 0 || busy == Busy::Stop {
            if planted!("lock_leak") {
                leaf.masks.locked |= first & leaf.masks.uptodate;
            }
            return taken;
        }
        leaf.wait();
    }
}

/// Does `ops` to the pages of `mask`, in the order in which [`PageOps`] lists them.
pub(crate) fn apply_ops(leaf: &mut LeafGuard<'_>, mask: u32, ops: PageOps) {
    if ops.contains(PageOps::SET_ORDERED) {
        leaf.set_ordered(mask);
    }
    if ops.contains(PageOps::SET_WRITEBACK) {
        leaf.start_writeback(mask);
    }
    if ops.contains(PageOps::SET_ERROR) {
        leaf.set_error(mask);
    }
    if ops.contains(PageOps::CLEAR_ORDERED) {
        leaf.clear_ordered(mask);
    }
    if ops.contains(PageOps::END_WRITEBACK) {
        leaf.end_writeback(mask);
    }
}

impl Drop for Mapping {
    /// Forgets the pages. A page that is still dirty is lost, and counted as such ([`crate::CacheStats::lost_dirty`]).
    fn drop(&mut self) {
        self.cache.unregister(self.serial);
        for leaf in &self.leaves.range(0, u64::MAX) {
            let mut guard = LeafGuard::new(self, leaf);
            self.cache.gauges.lost_dirty.add(u64::from(guard.masks.dirty.count_ones()));
            guard.masks.writeback = 0;
            guard.masks.ordered = 0;
            guard.masks.frozen = 0;
            guard.masks.locked = 0;
            guard.dead = true;
            let unused = guard.remove(u32::MAX);
            drop(guard);
            self.cache.pool().give(unused);
            self.cache.gauges.leaves.sub(1);
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("owner", &self.owner)
            .field("pages", &self.page_count())
            .field("dirty", &self.dirty_count())
            .field("writeback", &self.writeback_count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
