//! Page operations over a contiguous run of locked pages (stage 3).
//!
//! What the kernel does with a page pointer that several parties compare and some of them own is a token here
//! ([`LockedPages`], laws O1 and O2): the entry page, the one that writeback met first, joins its run's token, and goes
//! with the part of the run that covers it when the run is cut. Two chunks cannot both own it.

use cowback_base::PageIndex;
use cowback_page_cache::{LockedPage, LockedPages, PageOps};

/// Does `ops` to every page of the run, in the order that [`PageOps`] documents, and then unlocks it.
///
/// `locked_page`, if it is in the run, takes part in `ops` but stays locked: the exemption is for the unlock only (law
/// O2). Its token comes back.
pub fn process_pages_contig(
    pages: LockedPages,
    locked_page: Option<PageIndex>,
    ops: PageOps,
) -> Option<LockedPage> {
    pages.release(ops, locked_page)
}

/// Does `ops` to every page of the run and gives it up.
///
/// The kernel's function of this name also clears the delalloc bits. Here they were cleared, and their reservation
/// taken, in the critical section that took the snapshot of the pages (see [`crate::delalloc`]), so that a newer write
/// to these pages is never cleared along with them.
pub fn extent_clear_unlock_delalloc(pages: LockedPages, ops: PageOps) {
    let kept = process_pages_contig(pages, None, ops);
    debug_assert!(kept.is_none(), "nobody asked for a page to be kept");
}
