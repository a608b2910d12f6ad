//! The block in which a file ends, if the file does not fill it (stage 1 and 2, at the end of a file).
//!
//! In the cache its bytes beyond the end are zero (B2). So they are on disk wherever cowback writes the block; but a truncate on a full volume leaves
//! them, and so may other drivers. Nobody sees them: what is read in is cut at the end, and whoever extends the file writes the block anew, or
//! has looked that they are zero.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, PageIndex, block_align_down, block_align_up, planted};

use crate::inode::InodeIo;
use crate::store::{Compression, ExtentKind, StoreError, StoreResult};
use crate::write::{Quiet, ZERO_BLOCK};

impl InodeIo {
    /// Zeroes what the block that `size` lies in holds beyond it, as a write: that may fail, and nothing has changed then. Gives what it held.
    pub(crate) fn cut_last_block(
        self: &Arc<Self>,
        size: u64,
        old_size: u64,
        quiet: Option<&Quiet<'_>>,
    ) -> StoreResult<Vec<u8>> {
        let end = block_align_up(size).min(old_size);
        let mut tail = vec![0; usize::try_from(end - size).expect("less than a block")];
        let mut done = 0;
        while done < tail.len() {
            let rest = tail.get_mut(done..).unwrap_or_default();
            let copied = self.mapping().read(size + done as u64, rest);
            if copied == 0 {
                self.read_page(PageIndex::containing(size))?;
            }
            done += copied;
        }
        if !tail.is_empty() && !planted!("tail_not_zeroed") {
            self.copy_in(size, ZERO_BLOCK.get(..tail.len()).unwrap_or(&ZERO_BLOCK), quiet)?;
        }
        Ok(tail)
    }

    /// Whether what the block that `size` lies in holds beyond it may stay on disk, if there is no space to write the block anew. An inline extent
    /// holds no more than the file.
    pub(crate) fn may_keep_tail(&self, size: u64) -> StoreResult<bool> {
        let map = self.extent_map(block_align_down(size))?;
        Ok(!matches!(map.kind, ExtentKind::Inline { .. }))
    }

    /// Puts back what [`InodeIo::cut_last_block`] cut. The page is dirty still, as nothing was written back since.
    pub(crate) fn restore_last_block(&self, size: u64, tail: &[u8]) {
        let outcome = self.mapping().write(size, tail, PageIndex(u64::MAX), |newly| {
            unreachable!("{newly:?} were dirty, and nobody writes them back")
        });
        debug_assert_eq!(outcome.needs_read, None, "a dirty page stays");
    }

    /// Before the file grows past its last block to `new_size`: has that block written anew if it is partial, so that what was an inline
    /// extent becomes an ordinary one, with zeros to its end (as `btrfs_cont_expand`). If there is no space for it, it may stay as it is if it is
    /// so already. The bound of the size is raised by that, unless it fails.
    pub(crate) fn rewrite_last_block(
        self: &Arc<Self>,
        old_size: u64,
        new_size: u64,
        quiet: Option<&Quiet<'_>>,
    ) -> StoreResult<()> {
        let block_end = block_align_up(old_size);
        if old_size == block_end {
            return Ok(());
        }
        let zeros = usize::try_from(block_end.min(new_size) - old_size).expect("less than a block");
        self.raise_size_bound(block_end.min(new_size));
        let zeros = ZERO_BLOCK.get(..zeros).unwrap_or(&ZERO_BLOCK);
        let result = match self.copy_in(old_size, zeros, quiet) {
            Err(error @ StoreError::NoSpace { .. }) => match self.is_tail_zero(old_size, quiet) {
                Ok(true) => Ok(()),
                _ => Err(error),
            },
            result => result,
        };
        result.inspect_err(|_| self.set_size(old_size))
    }

    /// Whether the last block can stay as it is when the file grows beyond `size`, where it ends now: it is dirty, and will be written with zeros, or
    /// has zeros on disk.
    fn is_tail_zero(&self, size: u64, quiet: Option<&Quiet<'_>>) -> StoreResult<bool> {
        let _own = quiet.is_none().then(|| self.keep_writeback_out());
        let block = ByteRange::at(block_align_down(size), BLOCK_SIZE);
        if self.states.any_delalloc(block) {
            self.mapping().zero_tail(size);
            return Ok(true);
        }
        let map = self.extent_map(block.start)?;
        match map.kind {
            ExtentKind::Hole | ExtentKind::Prealloc { .. } => Ok(true),
            ExtentKind::Regular { disk_bytenr, offset, compression: Compression::None, .. } => {
                let at = disk_bytenr.plus(offset + (block.start - map.range.start));
                let mut bytes = ZERO_BLOCK;
                self.store().read_extent(self.ino(), at, &mut bytes)?;
                let tail = usize::try_from(size - block.start).expect("less than a block");
                Ok(bytes[tail..].iter().all(|byte| *byte == 0))
            }
            ExtentKind::Regular { .. } | ExtentKind::Inline { .. } => Ok(false),
        }
    }
}
