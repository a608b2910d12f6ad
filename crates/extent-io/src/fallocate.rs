//! Preallocation: space that is allocated before it is written to (stage 2, where the caller asks for what stage 6 gives otherwise).
//!
//! The store puts preallocated extents under a file at once; they read as zeros. A write to one goes through cache, run and ordered extent as
//! any other, and finds its place instead of being given one ([`crate::store::ExtentStore::claim_in_place`]); completion turns what was
//! written, and no more, into an ordinary extent, in the running transaction. So after a crash the bytes are zero or whole, and never
//! what the device held before.

use std::sync::Arc;

use cowback_base::{ByteRange, PageIndex, block_align_down, block_align_up};

use crate::inode::InodeIo;
use crate::policy::DataFlags;
use crate::store::{ExtentKind, PreallocMode, StoreResult};
use crate::write::{FILE_SIZE_MAX, Quiet};

/// What becomes of the size of a file when space beyond its end is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeMode {
    /// It stays.
    Keep,
    /// The file ends no earlier than the range.
    Grow,
}

impl InodeIo {
    /// Gives all blocks that hold a byte of `range` space on disk. What they hold stays.
    ///
    /// # Errors
    /// No space, old content that could not be read, or the trees could not be changed; the file reads as before, and has its old size.
    ///
    /// # Panics
    /// If the end is beyond [`FILE_SIZE_MAX`].
    pub fn allocate(self: &Arc<Self>, range: ByteRange, size: SizeMode) -> StoreResult<()> {
        let _exclusive = self.io_lock.write();
        let quiet = self.keep_writeback_out();
        self.allocate_blocks(range, size, &quiet)?;
        self.grow_to(range.end, size);
        Ok(())
    }

    /// As [`InodeIo::allocate`]; all bytes of `range` are zero then.
    ///
    /// # Errors
    /// As [`InodeIo::allocate`]; the parts of the blocks at the ends of the range may be zero.
    ///
    /// # Panics
    /// If the end is beyond [`FILE_SIZE_MAX`].
    pub fn zero_range(self: &Arc<Self>, range: ByteRange, size: SizeMode) -> StoreResult<()> {
        let _exclusive = self.io_lock.write();
        let quiet = self.keep_writeback_out();
        self.allocate_blocks(range, size, &quiet)?;
        // Of the last block, all that is in the file is all there is.
        let end = if range.end >= self.size() { block_align_up(range.end) } else { range.end };
        let (first, last) = (block_align_up(range.start), block_align_down(end));
        let in_file = self.clamp(range);
        if first >= last {
            self.zero_within_block(in_file, &quiet)?;
            let second = ByteRange::new(first.clamp(in_file.start, in_file.end), in_file.end);
            self.zero_within_block(second, &quiet)?;
        } else {
            let tail = ByteRange::new(last.min(in_file.end), in_file.end);
            let head = ByteRange::new(in_file.start, first.clamp(in_file.start, in_file.end));
            self.zero_within_block(head, &quiet)?;
            self.zero_within_block(tail, &quiet)?;
            let blocks = ByteRange::new(first, last);
            self.prealloc(blocks, PreallocMode::Zero)?;
            self.drop_pages(blocks.pages());
        }
        self.grow_to(range.end, size);
        Ok(())
    }

    /// Allocates what [`InodeIo::allocate`] allocates.
    fn allocate_blocks(
        self: &Arc<Self>,
        range: ByteRange,
        size: SizeMode,
        quiet: &Quiet<'_>,
    ) -> StoreResult<()> {
        assert!(range.end <= FILE_SIZE_MAX, "allocation of {range} is beyond the largest file");
        if range.is_empty() {
            return Ok(());
        }
        let old_size = self.size();
        let inline = matches!(self.extent_map(0)?.kind, ExtentKind::Inline { .. });
        // Nothing goes inline from here on: an inline extent is all that a file has.
        self.set_data_flags(DataFlags { prealloc: true, ..self.data_flags() });
        if inline && old_size > 0 {
            self.rewrite_first_byte(quiet)?;
        }
        let blocks = ByteRange::new(block_align_down(range.start), block_align_up(range.end));
        self.prealloc(blocks, PreallocMode::Keep)?;
        if size == SizeMode::Grow && range.end > old_size {
            let rewritten = self.rewrite_last_block(old_size, range.end, Some(quiet));
            self.set_size(old_size); // and the bound, which the rewriting has raised
            rewritten?;
        }
        Ok(())
    }

    /// Makes the first block dirty as it is: what was an inline extent is an ordinary one after the next writeback, which comes before the next
    /// commit.
    fn rewrite_first_byte(self: &Arc<Self>, quiet: &Quiet<'_>) -> StoreResult<()> {
        let mut byte = [0];
        while self.mapping().read(0, &mut byte) == 0 {
            self.read_page(PageIndex(0))?;
        }
        self.copy_in(0, &byte, Some(quiet))
    }

    fn prealloc(&self, blocks: ByteRange, mode: PreallocMode) -> StoreResult<()> {
        let _locked = self.states.lock_range(blocks);
        let done = self.store().prealloc_extents(self.ino(), blocks, mode);
        self.maps.drop_range(blocks);
        done
    }

    fn grow_to(&self, end: u64, size: SizeMode) {
        if size == SizeMode::Grow && end > self.size() {
            self.set_size(end);
        }
    }

    /// Runs `change`, which writes the inode item, and then has `flags` change the copy of the flags that is kept here. False, with nothing done, if
    /// the file is not empty.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change_data_flags<E>(
        &self,
        flags: impl FnOnce(DataFlags) -> DataFlags,
        change: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let _exclusive = self.io_lock.write();
        let _quiet = self.keep_writeback_out();
        if self.size() > 0 {
            return Ok(false);
        }
        change()?;
        self.set_data_flags(flags(self.data_flags()));
        Ok(true)
    }
}
