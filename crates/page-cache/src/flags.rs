//! The names of a page's flags, of the tags that can be searched for, and of the operations on a run of pages (stage 2).

use bitflags::bitflags;

bitflags! {
    /// The flags of one page, as [`Mapping::flags`](crate::Mapping::flags) reports them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PageFlags: u16 {
        /// Somebody holds the page's lock.
        const LOCKED = 1 << 0;
        /// The page has content.
        const UPTODATE = 1 << 1;
        /// The content is newer than what is on disk or on its way there.
        const DIRTY = 1 << 2;
        /// The page was dirty and its content is on its way to writeback; only while locked.
        const FROZEN = 1 << 3;
        /// A version of the content is being written.
        const WRITEBACK = 1 << 4;
        /// Dirty since before a flush began, and to be written by it.
        const TOWRITE = 1 << 5;
        /// An ordered extent covers the page and has not completed.
        const ORDERED = 1 << 6;
        /// The last writeback of this page failed.
        const ERROR = 1 << 7;
        /// Used again since it came into the cache, or since reclaim last looked.
        const REFERENCED = 1 << 8;
    }
}

bitflags! {
    /// What to do to every page of a run; whatever is asked for is done in the order of this list, in one critical
    /// section per leaf. Unlocking is not among them: it consumes the token, and comes last
    /// ([`LockedPages::release`](crate::LockedPages::release)).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PageOps: u8 {
        /// An ordered extent now covers the pages. Needs the page lock.
        const SET_ORDERED = 1 << 0;
        /// The frozen version goes into writeback. Needs the page lock; asserts that no version is in writeback.
        const SET_WRITEBACK = 1 << 1;
        /// The pages' writeback failed.
        const SET_ERROR = 1 << 2;
        /// The ordered extent is complete. Asserts that there was one.
        const CLEAR_ORDERED = 1 << 3;
        /// The version under writeback is done with. Asserts that there was one; wakes waiters.
        const END_WRITEBACK = 1 << 4;
    }
}

impl PageOps {
    /// The operations that need no page lock: those of a completion.
    pub const COMPLETION: Self =
        Self::SET_ERROR.union(Self::CLEAR_ORDERED).union(Self::END_WRITEBACK);
}

/// A flag that can be searched for quickly over a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tag {
    /// [`PageFlags::DIRTY`].
    Dirty,
    /// [`PageFlags::WRITEBACK`].
    Writeback,
    /// [`PageFlags::TOWRITE`].
    ToWrite,
}
