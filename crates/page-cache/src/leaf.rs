//! A leaf: 32 consecutive pages, one mutex over their flags as bit masks (stage 2).
//!
//! Every transition is an operation on masks, and asserts, in release builds too, what must hold before it. What must
//! hold always ([`LeafState::check`]):
//!
//! * a page has content exactly if it is uptodate; dirty, writeback, ordered and error pages are uptodate;
//! * a frozen page is locked: it leaves that state into writeback, back to dirty, or by being unlocked;
//! * a page that is to be written is dirty.
//!
//! A page that is neither uptodate nor locked is not there.

use std::sync::Weak;

use cowback_base::planted;
use cowback_base::sync::{Condvar, Mutex};

use crate::bits::each;
use crate::content::{Content, Fresh, Removed};
use crate::flags::{PageFlags, Tag};
use crate::frame::{Block, Frame};
use crate::heat::Heat;
use crate::mapping::Mapping;

/// The flags of a leaf's pages, one mask per flag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) locked: u32,
    pub(crate) uptodate: u32,
    pub(crate) dirty: u32,
    pub(crate) frozen: u32,
    pub(crate) writeback: u32,
    pub(crate) towrite: u32,
    pub(crate) ordered: u32,
    pub(crate) error: u32,
    /// Pages of the main queue of reclaim; the others are of the small one.
    pub(crate) main: u32,
}

impl Masks {
    /// Whether no page is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.uptodate | self.locked == 0
    }

    /// Pages that an ordered extent or a writeback still works on.
    pub(crate) fn in_flight(&self) -> u32 {
        self.writeback | self.ordered
    }

    /// Clean pages that nobody works on: what may be dropped without loss.
    pub(crate) fn reclaimable(&self) -> u32 {
        self.uptodate & !(self.locked | self.dirty | self.in_flight())
    }

    /// The mask of a tag.
    pub(crate) fn tagged(&self, tag: Tag) -> u32 {
        match tag {
            Tag::Dirty => self.dirty,
            Tag::Writeback => self.writeback,
            Tag::ToWrite => self.towrite,
        }
    }

    /// The flags of the page of `bit`, as far as they are masks.
    pub(crate) fn flags(&self, bit: u32) -> PageFlags {
        let mut flags = PageFlags::empty();
        flags.set(PageFlags::LOCKED, self.locked & bit != 0);
        flags.set(PageFlags::UPTODATE, self.uptodate & bit != 0);
        flags.set(PageFlags::DIRTY, self.dirty & bit != 0);
        flags.set(PageFlags::FROZEN, self.frozen & bit != 0);
        flags.set(PageFlags::WRITEBACK, self.writeback & bit != 0);
        flags.set(PageFlags::TOWRITE, self.towrite & bit != 0);
        flags.set(PageFlags::ORDERED, self.ordered & bit != 0);
        flags.set(PageFlags::ERROR, self.error & bit != 0);
        flags
    }

    /// Panics if the masks contradict each other.
    fn check(&self) {
        let of_content =
            self.dirty | self.frozen | self.writeback | self.ordered | self.error | self.main;
        assert_eq!(of_content & !self.uptodate, 0, "a page without content has flags: {self:x?}");
        assert_eq!(self.frozen & !self.locked, 0, "a frozen page is not locked: {self:x?}");
        assert_eq!(self.towrite & !self.dirty, 0, "a clean page is to be written: {self:x?}");
    }
}

/// What a leaf's mutex protects.
#[derive(Debug, Default)]
pub(crate) struct LeafState {
    pub(crate) masks: Masks,
    /// How much the pages are used.
    pub(crate) heat: Heat,
    /// The queues of reclaim that the leaf stands in, or has just been taken from by who is about to look at it.
    pub(crate) queued: Queued,
    /// The leaf was taken out of its mapping: whoever still finds it looks the mapping up again.
    pub(crate) dead: bool,
    /// Threads that wait on the leaf's condition variable.
    pub(crate) waiters: u32,
    /// What the uptodate pages hold.
    content: Content,
}

/// The queues of reclaim that a leaf stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) small: bool,
    pub(crate) main: bool,
}

/// 32 consecutive pages of a file.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) number: u64,
    /// The file, for who comes by way of a queue of reclaim.
    pub(crate) mapping: Weak<Mapping>,
    pub(crate) state: Mutex<LeafState>,
    pub(crate) wake: Condvar,
}

impl Leaf {
    /// Leaf number `number` of `mapping`, without pages.
    pub(crate) fn new(number: u64, mapping: Weak<Mapping>) -> Self {
        Self { number, mapping, state: Mutex::default(), wake: Condvar::new() }
    }
}

impl LeafState {
    /// Panics if what is known of the pages contradicts itself.
    pub(crate) fn check(&self) {
        self.masks.check();
        assert_eq!(self.masks.uptodate, self.content.there(), "a page is uptodate, or has content");
    }

    /// The flags of the page of `bit`.
    pub(crate) fn flags(&self, bit: u32) -> PageFlags {
        let mut flags = self.masks.flags(bit);
        flags.set(PageFlags::REFERENCED, self.heat.used() & bit != 0);
        flags
    }

    /// The content of an uptodate page: a snapshot.
    pub(crate) fn frame(&self, bit: u32) -> Option<Frame> {
        self.content.frame(bit)
    }

    /// The bytes of an uptodate page.
    pub(crate) fn bytes(&self, bit: u32) -> Option<&Block> {
        self.content.bytes(bit)
    }

    /// The bytes of an uptodate page, to change them.
    pub(crate) fn bytes_mut(&mut self, bit: u32) -> Option<&mut Block> {
        self.content.bytes_mut(bit)
    }

    /// What is known of the memory.
    #[cfg(test)]
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Gives those pages of `mask` content that have none: they are uptodate from now on. `fresh` has some for all of `mask`.
    pub(crate) fn fill(&mut self, mask: u32, fresh: Fresh) {
        let new = mask & !self.masks.uptodate;
        let fresh = match fresh {
            Fresh::Pages(pages) if new != mask => {
                let of = each(mask).zip(pages);
                Fresh::Pages(
                    of.filter_map(|(bit, page)| (new & bit != 0).then_some(page)).collect(),
                )
            }
            fresh => fresh,
        };
        self.content.add(new, fresh);
        self.masks.uptodate |= new;
    }

    /// Gives the pages of `mask` other content, or their first. Gives what is not needed any more.
    pub(crate) fn put(&mut self, mask: u32, fresh: Fresh) -> Removed {
        let removed = self.content.replace(mask, fresh);
        self.masks.uptodate |= mask;
        removed
    }

    /// Takes the content of the pages of `mask` away, and all that was known of it. A page lock stays.
    pub(crate) fn remove(&mut self, mask: u32) -> Removed {
        let gone = self.masks.uptodate & mask;
        assert_eq!(self.masks.in_flight() & gone, 0, "a page was removed under writeback");
        assert_eq!(self.masks.frozen & gone, 0, "a page was removed from a run");
        let removed = self.content.remove(gone);
        let keep = !gone;
        self.masks.uptodate &= keep;
        self.masks.dirty &= keep;
        self.masks.towrite &= keep;
        self.masks.error &= keep;
        self.masks.main &= keep;
        self.heat.forget(gone);
        removed
    }

    /// Locks the pages of `mask`, none of which may be locked.
    pub(crate) fn lock_pages(&mut self, mask: u32) {
        assert_eq!(self.masks.locked & mask, 0, "a locked page was locked again (law O1)");
        self.masks.locked |= mask;
    }

    /// Unlocks the pages of `mask`. A version that is still frozen is done with.
    pub(crate) fn unlock_pages(&mut self, mask: u32) {
        self.assert_locked(mask, "unlocked");
        self.masks.locked &= !mask;
        self.masks.frozen &= !mask;
    }

    /// Marks pages dirty. Gives those that were clean.
    pub(crate) fn set_dirty(&mut self, mask: u32) -> u32 {
        assert_eq!(mask & !self.masks.uptodate, 0, "a page without content was dirtied");
        let newly = mask & !self.masks.dirty;
        self.masks.dirty |= mask;
        newly
    }

    /// Dirty pages become frozen: clean, until somebody writes to them again, with their bytes of now in `out`.
    pub(crate) fn freeze(&mut self, mask: u32, out: &mut Vec<Frame>) {
        self.assert_locked(mask, "frozen");
        assert_eq!(mask & !self.masks.dirty, 0, "a clean page was frozen");
        assert_eq!(mask & self.masks.frozen, 0, "a page was frozen twice");
        self.masks.dirty &= !mask;
        self.masks.towrite &= if planted!("towrite_lost") { 0 } else { !mask };
        self.masks.error &= !mask;
        self.masks.frozen |= mask;
        out.extend(each(mask).filter_map(|bit| self.frame(bit)));
    }

    /// A version of the pages goes into writeback. They may be dirty again, with a newer one.
    pub(crate) fn start_writeback(&mut self, mask: u32) {
        self.assert_locked(mask, "put under writeback");
        assert_eq!(mask & self.masks.writeback, 0, "writeback was started twice");
        self.masks.frozen &= !mask;
        self.masks.writeback |= mask;
    }

    /// The version under writeback is done with.
    pub(crate) fn end_writeback(&mut self, mask: u32) {
        assert_eq!(mask & !self.masks.writeback, 0, "writeback ended that had not begun");
        self.masks.writeback &= !mask;
    }

    /// An ordered extent covers the pages.
    pub(crate) fn set_ordered(&mut self, mask: u32) {
        self.assert_locked(mask, "ordered");
        assert_eq!(mask & self.masks.ordered, 0, "a second ordered extent covers a page");
        self.masks.ordered |= mask;
    }

    /// The ordered extent that covered the pages is complete.
    pub(crate) fn clear_ordered(&mut self, mask: u32) {
        assert_eq!(mask & !self.masks.ordered, 0, "an ordered extent completed twice");
        self.masks.ordered &= !mask;
    }

    /// The writeback of the pages failed.
    pub(crate) fn set_error(&mut self, mask: u32) {
        self.masks.error |= mask & self.masks.uptodate;
    }

    fn assert_locked(&self, mask: u32, what: &str) {
        assert_eq!(mask & !self.masks.locked, 0, "a page was {what} that was not locked");
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
