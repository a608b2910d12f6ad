//! Tokens of page locks (stage 2 to 4).
//!
//! Law O1: a locked page has exactly one owner. A lock is held by whoever holds its token; a token can be moved, split
//! and joined, never copied, and only consuming or dropping it unlocks. So no two chunks can own a page, and none can
//! unlock what it does not own. Law O2: [`LockedPages::release`] does its operations to every page of the run, and
//! spares one page of the *unlock* only, whose token it gives back.
//!
//! What these types rule out can still be planted, to show that the models would see it: with the canary `locked_page` the second
//! part of a run that is cut gets a second token of the entry page.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE_USIZE, PageIndex, PageRange};

use crate::bits::{LEAF_PAGES, bit_of, each, leaf_of, page_at, pieces};
use crate::content::Fresh;
use crate::flags::{PageFlags, PageOps};
use crate::frame::{Frame, LeafMemory};
use crate::group::Charge;
use crate::mapping::{CachePolicy, Mapping, apply_ops};

/// One locked page. Unlocked when dropped.
///
/// ```
/// # use cowback_base::PageIndex;
/// # use cowback_page_cache::{CacheLimits, PageCache};
/// # let mapping = PageCache::new(CacheLimits::default()).mapping(1);
/// let page = mapping.lock_page(PageIndex(0));
/// assert!(mapping.try_lock_page(PageIndex(0)).is_none());
/// drop(page);
/// assert!(mapping.try_lock_page(PageIndex(0)).is_some());
/// ```
///
/// There cannot be two tokens of one page (law O1):
///
/// ```compile_fail,E0599
/// # use cowback_base::PageIndex;
/// # use cowback_page_cache::{CacheLimits, PageCache};
/// # let mapping = PageCache::new(CacheLimits::default()).mapping(1);
/// let page = mapping.lock_page(PageIndex(0));
/// let second = page.clone();
/// ```
#[derive(Debug)]
#[must_use = "the page is unlocked at once when its token is not kept"]
pub struct LockedPage {
    mapping: Arc<Mapping>,
    index: PageIndex,
    /// Whether dropping this unlocks: not once the lock has gone into a [`LockedPages`].
    owns: bool,
}

impl LockedPage {
    pub(crate) fn new(mapping: Arc<Mapping>, index: PageIndex) -> Self {
        Self { mapping, index, owns: true }
    }

    /// The page.
    #[must_use]
    pub fn index(&self) -> PageIndex {
        self.index
    }

    /// The file that the page belongs to.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The page's flags.
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        self.mapping.flags(self.index)
    }

    /// Whether the page has content.
    #[must_use]
    pub fn is_uptodate(&self) -> bool {
        self.flags().contains(PageFlags::UPTODATE)
    }

    /// Whether the content is newer than what is on disk or on its way there. A writer can change that at any time.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.flags().contains(PageFlags::DIRTY)
    }

    /// Whether some version of the content is being written.
    #[must_use]
    pub fn is_writeback(&self) -> bool {
        self.flags().contains(PageFlags::WRITEBACK)
    }

    /// A snapshot of the content, if there is any.
    #[must_use]
    pub fn frame(&self) -> Option<Frame> {
        self.mapping.frame(self.index)
    }

    /// Gives the page content that was read from disk. A page that was written meanwhile keeps what was written; gives
    /// whether the frame was taken.
    pub fn fill(&self, frame: Frame) -> bool {
        self.mapping.make_room(1);
        let bit = bit_of(self.index);
        self.mapping.on_new_leaf(leaf_of(self.index), |leaf| {
            let absent = leaf.masks.uptodate & bit == 0;
            if absent {
                leaf.fill(bit, Fresh::Pages(vec![frame.into_single()]));
                leaf.heat.read_in(bit);
            }
            absent
        })
    }

    /// Waits until no version of the page is being written. None can start as long as the page is locked.
    pub fn wait_writeback(&self) {
        self.mapping.wait_writeback(PageRange::one(self.index));
    }

    /// Unlocks the page.
    pub fn unlock(self) {
        drop(self);
    }

    /// The lock as a run of one page, which must be resolved.
    pub fn into_range(mut self) -> LockedPages {
        self.owns = false;
        LockedPages::new(Arc::clone(&self.mapping), PageRange::one(self.index))
    }
}

impl Drop for LockedPage {
    fn drop(&mut self) {
        if self.owns {
            unlock(&self.mapping, PageRange::one(self.index));
        }
    }
}

/// A contiguous run of locked pages of one file. To be resolved by [`release`](LockedPages::release) or
/// [`unlock`](LockedPages::unlock): to drop a run that still holds pages is a defect, and panics.
///
/// A run that is cut is two runs, and the entry page is in one of them only:
///
/// ```
/// # use cowback_base::PageIndex;
/// # use cowback_page_cache::{CacheLimits, PageCache};
/// # let mapping = PageCache::new(CacheLimits::default()).mapping(1);
/// let mut run = mapping.lock_page(PageIndex(0)).into_range();
/// run.absorb(mapping.lock_page(PageIndex(1)));
/// let (entry, rest) = run.split_at(PageIndex(1));
/// rest.unlock();
/// assert!(mapping.try_lock_page(PageIndex(0)).is_none(), "the rest does not own it");
/// entry.unlock();
/// ```
///
/// Nobody can keep the whole run besides (law O1), neither as it was nor as a copy:
///
/// ```compile_fail,E0382
/// # use cowback_base::PageIndex;
/// # use cowback_page_cache::{CacheLimits, PageCache};
/// # let mapping = PageCache::new(CacheLimits::default()).mapping(1);
/// let run = mapping.lock_page(PageIndex(0)).into_range();
/// let (entry, rest) = run.split_at(PageIndex(1));
/// run.unlock();
/// ```
///
/// ```compile_fail,E0599
/// # use cowback_base::PageIndex;
/// # use cowback_page_cache::{CacheLimits, PageCache};
/// # let mapping = PageCache::new(CacheLimits::default()).mapping(1);
/// let run = mapping.lock_page(PageIndex(0)).into_range();
/// let second = run.clone();
/// ```
#[derive(Debug)]
#[must_use = "a run of locked pages must be released"]
pub struct LockedPages {
    mapping: Arc<Mapping>,
    range: PageRange,
    #[cfg(canaries)]
    forged: Option<ForgedToken>,
}

impl LockedPages {
    pub(crate) fn new(mapping: Arc<Mapping>, range: PageRange) -> Self {
        Self {
            mapping,
            range,
            #[cfg(canaries)]
            forged: None,
        }
    }

    pub(crate) fn none(mapping: Arc<Mapping>) -> Self {
        Self::new(mapping, PageRange::default())
    }

    /// The pages.
    #[must_use]
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.range.count()
    }

    /// Whether this token holds no page. Such a one may be dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The file that the pages belong to.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The run in two: the pages before `index`, and those from it on. Either may be empty.
    ///
    /// # Panics
    /// If `index` is neither in the run nor at its end.
    pub fn split_at(mut self, index: PageIndex) -> (Self, Self) {
        let range = std::mem::take(&mut self.range);
        assert!(range.start <= index && index <= range.end, "{index:?} is outside of {range:?}");
        let part = |start, end| Self::new(Arc::clone(&self.mapping), PageRange::new(start, end));
        let parts = (part(range.start, index), part(index, range.end));
        #[cfg(canaries)]
        let parts = ForgedToken::plant(self.forged.take(), parts);
        parts
    }

    /// Takes a page into the run, at either end.
    ///
    /// # Panics
    /// If the page is not next to the run, or belongs to another file.
    pub fn absorb(&mut self, page: LockedPage) {
        self.append(page.into_range());
    }

    /// Takes another run into this one, at either end.
    ///
    /// # Panics
    /// If the runs do not touch, or belong to different files.
    pub fn append(&mut self, mut other: Self) {
        assert!(Arc::ptr_eq(&self.mapping, &other.mapping), "runs of two files were joined");
        let more = other.range;
        if more.is_empty() {
            return;
        }
        let joined = if self.range.is_empty() {
            more
        } else if self.range.end == more.start {
            PageRange::new(self.range.start, more.end)
        } else {
            assert_eq!(more.end, self.range.start, "runs were joined that do not touch");
            PageRange::new(more.start, self.range.end)
        };
        other.range = PageRange::default();
        self.range = joined;
    }

    /// Takes the dirty pages' content for writeback: they are clean from now on, until somebody writes to them again,
    /// and what that changes is not seen in the frames given (law B1). `under_lock` is called, under the leaf's mutex,
    /// for the pages of each leaf in turn: there, what is known of their being dirty elsewhere moves into the run. The charge is for
    /// these versions: it is to be kept until they are on disk, dirty again, or gone.
    ///
    /// # Panics
    /// If a page is not dirty.
    #[must_use = "the versions are charged for as long as the charge is kept"]
    pub fn freeze(&self, mut under_lock: impl FnMut(PageRange)) -> (Vec<Frame>, Charge) {
        let mut frames = Vec::with_capacity(usize::try_from(self.count()).unwrap_or(0));
        let mut charge = Charge::new(self.mapping.share());
        self.mapping.on_pieces(self.range, |leaf, mask| {
            // Before they stop being charged as dirty: they are at every moment.
            charge.grow(mask.count_ones().into());
            leaf.freeze(mask, &mut frames);
            crate::bits::runs(leaf.number, mask).for_each(&mut under_lock);
        });
        (frames, charge)
    }

    /// Does `ops` to every page; they stay locked.
    ///
    /// # Panics
    /// If a page is not in the state that an operation needs.
    pub fn apply(&self, ops: PageOps) {
        self.mapping.on_pieces(self.range, |leaf, mask| apply_ops(leaf, mask, ops));
    }

    /// Does `ops` to every page and unlocks it, in one critical section per leaf. The page `keep`, if it is in the run,
    /// takes part in `ops` but stays locked (law O2); its token is given back.
    ///
    /// # Panics
    /// If a page is not in the state that an operation needs.
    pub fn release(mut self, ops: PageOps, keep: Option<PageIndex>) -> Option<LockedPage> {
        let range = self.range;
        let keep = keep.filter(|index| range.contains(*index));
        let dropped = self.mapping.policy() != CachePolicy::Normal;
        self.mapping.on_pieces(range, |leaf, mask| {
            apply_ops(leaf, mask, ops);
            let kept = keep.filter(|index| leaf_of(*index) == leaf.number).map_or(0, bit_of);
            // Stored already, inline say: that is all the writeback they have.
            let done = mask & leaf.masks.frozen & !kept;
            leaf.unlock_pages(mask & !kept);
            if dropped {
                leaf.drop_idle(done);
            }
        });
        self.range = PageRange::default();
        keep.map(|index| LockedPage::new(Arc::clone(&self.mapping), index))
    }

    /// Unlocks the pages. Versions that were frozen and did not go into writeback are done with (stored inline, say).
    pub fn unlock(self) {
        let kept = self.release(PageOps::empty(), None);
        debug_assert!(kept.is_none());
    }

    /// Gives the pages content that was read from disk, `frame` for each, and unlocks them, in one critical section per
    /// leaf: whoever waits is woken once. A page that was written meanwhile keeps what was written.
    pub fn fill(self, mut frame: impl FnMut(PageIndex) -> Frame) {
        self.fill_pieces(|number, mask| {
            let frames = each(mask).map(|bit| frame(page_at(number, bit)).into_single());
            Fresh::Pages(frames.collect())
        });
    }

    /// As [`LockedPages::fill`]: the content is a copy of `bytes`, from the first byte of the run on, and zeros behind.
    pub fn fill_from(self, bytes: &[u8]) {
        let mapping = Arc::clone(&self.mapping);
        let mut rest = bytes;
        self.fill_pieces(|_, mask| {
            let pages = mask.count_ones() as usize;
            let (part, behind) = rest.split_at(rest.len().min(pages * BLOCK_SIZE_USIZE));
            rest = behind;
            mapping.cache.pool().copy(part, pages)
        });
    }

    /// As [`LockedPages::fill`], for a run of exactly one leaf, whose content is in `memory` already: no copy is made.
    ///
    /// # Panics
    /// If the run is not of exactly one leaf.
    pub fn fill_leaf(self, memory: LeafMemory) {
        assert!(self.is_leaf(), "{:?} is not one leaf", self.range);
        let mut memory = Some(memory.0);
        self.fill_pieces(|_, _| Fresh::Leaf(memory.take().expect("there is one piece")));
    }

    /// Whether the run is of exactly one leaf: 32 pages, from one on whose number is divisible by 32.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        self.count() == LEAF_PAGES && self.range.start.0.is_multiple_of(LEAF_PAGES)
    }

    /// Fills the pages with what `content` makes for the part of each leaf, and unlocks them.
    fn fill_pieces(mut self, mut content: impl FnMut(u64, u32) -> Fresh) {
        self.mapping.make_room(self.count());
        for (number, mask) in pieces(self.range) {
            // Made before the leaf is locked: copying takes a while.
            let fresh = content(number, mask);
            self.mapping.on_new_leaf(number, |leaf| {
                let new = mask & !leaf.masks.uptodate;
                leaf.heat.read_in(new);
                leaf.fill(mask, fresh);
                leaf.unlock_pages(mask);
            });
        }
        self.range = PageRange::default();
    }

    /// The locks of the run, each page's by itself.
    #[must_use]
    pub fn into_pages(mut self) -> Vec<LockedPage> {
        let range = std::mem::take(&mut self.range);
        range.iter().map(|index| LockedPage::new(Arc::clone(&self.mapping), index)).collect()
    }

    /// The lock of a run of one page, as that page's.
    ///
    /// # Panics
    /// If there is not exactly one page.
    pub fn into_page(mut self) -> LockedPage {
        assert_eq!(self.count(), 1, "{:?} is not one page", self.range);
        let range = std::mem::take(&mut self.range);
        LockedPage::new(Arc::clone(&self.mapping), range.start)
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        if self.range.is_empty() {
            return;
        }
        unlock(&self.mapping, self.range);
        assert!(std::thread::panicking(), "{:?} were dropped locked (law O1)", self.range);
    }
}

fn unlock(mapping: &Mapping, range: PageRange) {
    mapping.on_pieces(range, |leaf, mask| leaf.unlock_pages(mask));
}

/// The canary `locked_page`: a second token of the entry page of a run, in the hands of a part that does not cover it, as each
/// async chunk of the kernel once held the locked page of its run. When that part is done, be it long after the page was
/// unlocked and found another owner, it takes the page for its own: if it is locked, it unlocks it.
#[cfg(canaries)]
#[derive(Debug)]
struct ForgedToken {
    mapping: Arc<Mapping>,
    entry: PageIndex,
}

#[cfg(canaries)]
impl ForgedToken {
    /// Gives the second part of a run that was cut a token of the run's entry page. `of_run` is what the run had already.
    fn plant(
        of_run: Option<Self>,
        parts: (LockedPages, LockedPages),
    ) -> (LockedPages, LockedPages) {
        let (mut left, mut right) = parts;
        if cowback_base::planted!("locked_page") && !left.is_empty() && !right.is_empty() {
            let entry = of_run.as_ref().map_or(left.range.start, |forged| forged.entry);
            right.forged = Some(Self { mapping: Arc::clone(&right.mapping), entry });
        }
        left.forged = of_run;
        (left, right)
    }
}

#[cfg(canaries)]
impl Drop for ForgedToken {
    fn drop(&mut self) {
        let bit = bit_of(self.entry);
        self.mapping.on_leaf(leaf_of(self.entry), |leaf| {
            let locked = leaf.masks.locked & bit;
            leaf.unlock_pages(locked);
        });
    }
}
