//! Buffered writes and truncation (stage 1 and 2, where they meet delayed allocation).
//!
//! Space is reserved before a page is touched (R1); the reservation is spent page by page as pages become dirty, in the leaf's critical
//! section (O4); what is left over, because pages were dirty already, goes back at the end. A writer waits neither for writeback nor for the
//! page lock of a page that has its content (B1), unless the volume is full; it waits for a read of old content that it needs.
//!
//! Invariant: bytes of a cached page at or beyond the file's size are zero, so a size that grows uncovers zeros (B2).

use std::sync::Arc;

use cowback_base::{
    BLOCK_SIZE, ByteRange, PageIndex, PageRange, block_align_down, block_align_up, planted,
};

use cowback_base::sync::MutexGuard;
use cowback_page_cache::LockedPage;

use crate::inode::{InodeIo, WritebackCursor};
use crate::reservation::{DataReservation, Promise};
use crate::store::{ExtentKind, InPlace, StoreError, StoreResult};

/// Proof that the file's writeback is kept out, and that none is under way.
pub(crate) struct Quiet<'a>(
    #[expect(dead_code, reason = "it is held")] MutexGuard<'a, WritebackCursor>,
);

/// Most bytes of a file: what btrfs' and the kernel's signed offsets allow, whole blocks.
pub const FILE_SIZE_MAX: u64 = (i64::MAX as u64) & !(BLOCK_SIZE - 1);

pub(crate) static ZERO_BLOCK: [u8; 4096] = [0; 4096];

impl InodeIo {
    /// Writes `data` at byte `offset` into the cache. A gap between the end of the file and `offset` reads as zeros.
    ///
    /// The caller has throttled, and holds no page.
    ///
    /// # Errors
    /// No space, or old content that could not be read. Bytes before the failing page may have been written; the size grows only if
    /// all were.
    ///
    /// # Panics
    /// If the end is beyond [`FILE_SIZE_MAX`].
    pub fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> StoreResult<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        assert!(range.end <= FILE_SIZE_MAX, "write of {range} is beyond the largest file");
        if range.is_empty() {
            return Ok(());
        }
        {
            let _shared = self.io_lock.read();
            if range.end <= self.size() {
                return self.copy_in(offset, data, None);
            }
        }
        let _exclusive = self.io_lock.write();
        let old_size = self.size();
        if range.end <= old_size {
            return self.copy_in(offset, data, None);
        }
        if offset > old_size {
            self.rewrite_last_block(old_size, offset, None)?;
        }
        if !planted!("bound_late") {
            self.raise_size_bound(range.end);
        }
        let result = self.copy_in(offset, data, None);
        let reached = if result.is_ok() { range.end } else { old_size };
        if result.is_err() {
            self.drop_beyond(old_size);
        }
        self.set_size(reached);
        result
    }

    /// Sets the size to `size` bytes: what is cut off is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// No space, or the straddling block could not be read, or the trees could not be changed; the file is then as before.
    pub fn truncate(self: &Arc<Self>, size: u64) -> StoreResult<()> {
        assert!(size <= FILE_SIZE_MAX, "size {size} is beyond the largest file");
        let _exclusive = self.io_lock.write();
        let old_size = self.size();
        if size > old_size {
            self.rewrite_last_block(old_size, size, None)?;
            self.set_size(size);
            return Ok(());
        }
        // What was preallocated behind the end goes even if the size stays.
        if size == old_size && !self.data_flags().prealloc {
            return Ok(());
        }
        // No writeback begins while this lasts, and what had begun ends: what is cut off is in the trees, or dirty, and nowhere between.
        let quiet = (!planted!("beyond_eof")).then(|| self.keep_writeback_out());
        let tail = match self.cut_last_block(size, old_size, quiet.as_ref()) {
            // It stays on disk, then, and goes from the cache once nothing can fail any more.
            Err(StoreError::NoSpace { .. }) if self.may_keep_tail(size)? => None,
            tail => Some(tail?),
        };
        let block_end = block_align_up(size);
        let cut = ByteRange::new(block_end, u64::MAX);
        let dropped = {
            let _locked = self.states.lock_range(cut);
            let dropped = self.store().truncate_extents(self.ino(), size);
            self.maps.drop_from(block_end.saturating_sub(BLOCK_SIZE));
            dropped
        };
        if let Err(error) = dropped {
            if let Some(tail) = &tail {
                self.restore_last_block(size, tail);
            }
            return Err(error);
        }
        self.set_size(size);
        if tail.is_none() {
            self.mapping().zero_tail(size);
        }
        self.drop_beyond(size);
        Ok(())
    }

    /// Makes `range` a hole, as far as it is in the file, whose size stays: it reads as zeros, and its whole blocks take no space.
    ///
    /// # Errors
    /// No space, blocks at the ends that could not be read, or the trees could not be changed. What the range held is still there then, but
    /// for its parts of the blocks at its ends, which may be zero.
    pub fn punch(self: &Arc<Self>, range: ByteRange) -> StoreResult<()> {
        let _exclusive = self.io_lock.write();
        let range = self.clamp(range);
        if range.is_empty() {
            return Ok(());
        }
        let quiet = self.keep_writeback_out();
        // Of the last block, all that is in the file is all there is.
        let end = if range.end == self.size() { block_align_up(range.end) } else { range.end };
        let first = block_align_up(range.start);
        let last = block_align_down(end);
        if first >= last {
            return self.zero_within_block(range, &quiet).and_then(|()| {
                let second = ByteRange::new(first.clamp(range.start, range.end), range.end);
                self.zero_within_block(second, &quiet)
            });
        }
        self.zero_within_block(ByteRange::new(range.start, first), &quiet)?;
        self.zero_within_block(ByteRange::new(last, end), &quiet)?;
        let blocks = ByteRange::new(first, last);
        {
            let _locked = self.states.lock_range(blocks);
            let punched = self.store().punch_extents(self.ino(), blocks);
            self.maps.drop_range(blocks);
            punched?;
        }
        self.drop_pages(blocks.pages());
        Ok(())
    }

    /// Zeroes the part of `range` that is in its first block, unless that block is a hole, or preallocated and not written.
    pub(crate) fn zero_within_block(
        self: &Arc<Self>,
        range: ByteRange,
        quiet: &Quiet<'_>,
    ) -> StoreResult<()> {
        let block = ByteRange::at(block_align_down(range.start), BLOCK_SIZE);
        let Some(part) = range.intersect(block) else { return Ok(()) };
        let is_zero = !self.states.any_delalloc(block)
            && matches!(
                self.extent_map(block.start)?.kind,
                ExtentKind::Hole | ExtentKind::Prealloc { .. }
            );
        if is_zero {
            return Ok(());
        }
        let zeros = usize::try_from(part.len()).expect("a block at most");
        self.copy_in(part.start, ZERO_BLOCK.get(..zeros).unwrap_or(&ZERO_BLOCK), Some(quiet))
    }

    /// Keeps writeback of the file out as long as what this gives is kept, and waits for what is under way. The caller holds `io_lock`, and no
    /// page.
    pub(crate) fn keep_writeback_out(&self) -> Quiet<'_> {
        let flusher = self.writeback_lock.lock();
        self.wait_writeback();
        Quiet(flusher)
    }

    /// Throws the content away: the file has no name and no handle any more. Its extents are the caller's affair.
    pub fn discard(&self) {
        let _exclusive = self.io_lock.write();
        let _quiet = self.keep_writeback_out();
        self.set_size(0);
        self.drop_beyond(0);
        self.maps.drop_from(0);
    }

    /// Takes the pages wholly beyond `size` out of the cache, with their delalloc and reservation; waits for those in flight.
    fn drop_beyond(&self, size: u64) {
        let from = PageIndex(block_align_up(size) / BLOCK_SIZE);
        self.drop_pages(PageRange::new(from, PageIndex(u64::MAX)));
    }

    /// Takes pages out of the cache, as [`InodeIo::drop_beyond`].
    pub(crate) fn drop_pages(&self, pages: PageRange) {
        let (mut space, mut in_place) = (0, 0);
        self.mapping().invalidate(pages, |pages| {
            let noreserve = self.states.clear_delalloc(pages);
            in_place += noreserve;
            space += pages.bytes().len() - noreserve;
        });
        drop(DataReservation::from_delalloc(self.store(), Promise::Space, space));
        drop(DataReservation::from_delalloc(self.store(), Promise::InPlace, in_place));
    }

    /// Has the store promise what writing `pages` takes. If there is no data space, but all of them are dirty already, or are to be written in
    /// place, which takes none, writeback is kept out until they are written: it might have the dirty ones cleaned, or give the others their
    /// one chance to someone else's bytes, as what is preallocated is written in place once.
    fn reserve<'a>(
        &'a self,
        pages: PageRange,
        quiet: Option<&Quiet<'_>>,
    ) -> StoreResult<(DataReservation, Option<Quiet<'a>>)> {
        let bytes = pages.bytes().len();
        let no_space = match DataReservation::new(self.store(), Promise::Space, bytes) {
            Err(error @ StoreError::NoSpace { .. }) => error,
            result => return Ok((result?, None)),
        };
        let in_place = self.data_flags().may_write_in_place();
        if !in_place && self.states.delalloc_run(pages).0 != pages {
            return Err(no_space);
        }
        let unguarded = quiet.is_none() && !planted!("noreserve_unguarded");
        let own = unguarded.then(|| self.keep_writeback_out());
        let (mut at, mut wanted) = (pages.bytes().start, 0);
        while at < pages.bytes().end {
            let rest = ByteRange::new(at, pages.bytes().end);
            let dirty = self.states.delalloc_run(rest.pages()).0.bytes().len();
            if dirty > 0 {
                at += dirty;
                continue;
            }
            if !in_place {
                return Err(no_space);
            }
            let InPlace { len, extent } = self.store().claim_in_place(self.ino(), rest)?;
            self.store().free_extent(extent.ok_or_else(|| no_space.clone())?);
            at += len;
            wanted += len;
        }
        let reservation = if wanted == 0 {
            DataReservation::from_delalloc(self.store(), Promise::InPlace, 0)
        } else {
            DataReservation::new(self.store(), Promise::InPlace, wanted)?
        };
        Ok((reservation, own))
    }

    /// Copies `data` into the pages at `offset` and makes them dirty. `quiet` is the caller's proof, if it has one.
    pub(crate) fn copy_in(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
        quiet: Option<&Quiet<'_>>,
    ) -> StoreResult<()> {
        let mut at = offset;
        let mut rest = data;
        let pages = ByteRange::at(offset, data.len() as u64).pages();
        let (mut reservation, _quiet) = self.reserve(pages, quiet)?;
        // Absent pages from here on have no old content to be read.
        let fresh_from = PageIndex(block_align_up(self.size()) / BLOCK_SIZE);
        let mut held: Option<LockedPage> = None;
        while !rest.is_empty() {
            let outcome = self.mapping().write(at, rest, fresh_from, |newly: PageRange| {
                let new = self.beyond_last_block(newly.bytes().start);
                self.states.set_delalloc(newly, new, reservation.promise());
                reservation.give_to_delalloc(newly.count() * BLOCK_SIZE);
            });
            at += outcome.written as u64;
            rest = rest.get(outcome.written..).unwrap_or_default();
            drop(held.take());
            if let Some(index) = outcome.needs_read {
                self.read_page(index)?;
                // Until its part is written: it may be the one clean page that the cache can let go for the rest of the write.
                held = self.mapping().find_lock_page(index);
            }
        }
        Ok(())
    }
}
