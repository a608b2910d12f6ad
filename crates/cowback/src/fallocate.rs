//! Space that a file has before it is written to, and files that are overwritten in place.

use std::ops::Range;

use cowback_base::ByteRange;
use cowback_block_store::namespace::AttrChange;
use cowback_block_store::namespace::inode::inode_flags;
use cowback_extent_io::fallocate::SizeMode;
use cowback_extent_io::write::FILE_SIZE_MAX;
use cowback_extent_io::{DataFlags, InodeIo, StoreResult};

use crate::error::{Error, Result};
use crate::file::File;
use crate::gates::Gates;

impl File {
    /// Gives all blocks (4 KiB) that hold a byte of `range` space on disk. What is there stays, holes read as zeros as before, and the file grows
    /// to the end of the range if it is shorter.
    ///
    /// The first write to each of these blocks goes to that space, as it is: not compressed, and with no need of other data space, so that it
    /// cannot fail for want of it. It changes the trees: the sync after it is a commit. A later one to the same block is copied on write, unless the
    /// file is one that is [overwritten in place](File::set_nocow).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use cowback::{Options, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let volume = Volume::create(dir.path().join("data.img"), &Options::default())?;
    /// let log = volume.create_file("log")?;
    /// log.set_nocow(true)?; // while it is empty
    /// log.allocate(0..16 << 20)?; // is there from here on
    /// log.write_at(0, b"first record")?;
    /// log.sync_data()?; // a commit: the first block is not empty any more
    /// log.write_at(12, b", second record")?;
    /// log.sync_data()?; // one write in place, and one flush
    /// assert_eq!(log.len(), 16 << 20);
    /// # drop(log);
    /// # volume.close()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A volume that takes no changes, no space (of a volume that grows: for more than 1 TiB at once), a block that cannot be read, the largest
    /// file size: the file reads as before then, and is as long. Or the cache is full of what cannot be written to disk: then it was done.
    pub fn allocate(&self, range: Range<u64>) -> Result<()> {
        self.fallocate(range, |io, range| io.allocate(range, SizeMode::Grow))
    }

    /// As [`File::allocate`], and the size stays: what is allocated behind the end of the file is there when the file grows. It goes
    /// when the length is [set](File::set_len), be it to what it is.
    ///
    /// # Errors
    /// As [`File::allocate`].
    pub fn allocate_keep_size(&self, range: Range<u64>) -> Result<()> {
        self.fallocate(range, |io, range| io.allocate(range, SizeMode::Keep))
    }

    /// As [`File::allocate`], and all of `range` reads as zeros then.
    ///
    /// # Errors
    /// As [`File::allocate`]; the parts of the range in the blocks at its ends may read as zeros then.
    pub fn zero_range(&self, range: Range<u64>) -> Result<()> {
        self.fallocate(range, |io, range| io.zero_range(range, SizeMode::Grow))
    }

    fn fallocate(
        &self,
        range: Range<u64>,
        change: impl Fn(&std::sync::Arc<InodeIo>, ByteRange) -> StoreResult<()>,
    ) -> Result<()> {
        if range.start >= range.end {
            return Ok(());
        }
        if range.end > FILE_SIZE_MAX {
            return Err(Error::TooLarge { at: range.end, max: FILE_SIZE_MAX });
        }
        let range = ByteRange::new(range.start, range.end);
        self.inner.check_writable()?;
        // Where data goes depends on the calls alone (R3): what is on its way gets its space before this.
        self.inner.engine.wait_allocated();
        self.change_extents(|io| change(io, range))
    }

    /// Whether the file is one whose data is overwritten in place (`chattr +C` under Linux).
    #[must_use]
    pub fn is_nocow(&self) -> bool {
        self.node.io.data_flags().nodatacow
    }

    /// Makes the file one whose data is overwritten in place, or one that is not; that is stored with it. The file must be empty.
    ///
    /// It is meant for logs: such data is neither compressed nor checksummed, and [`File::sync_data`] after overwriting what was
    /// durable before is one write and one flush, without a commit. The price is that a crash may leave such a write torn, the old bytes in
    /// one sector and the new ones in another, whether or not it was committed: who reads it must be able to tell. All that is not
    /// overwritten (holes, new blocks, sizes, what a snapshot shares) is as atomic as ever.
    ///
    /// # Errors
    /// [`Error::Option`] if the file is not empty; a volume that takes no changes, no space, its inode cannot be read.
    pub fn set_nocow(&self, nocow: bool) -> Result<()> {
        let set = || {
            let flags = |old| DataFlags { nodatacow: nocow, nodatasum: nocow, ..old };
            self.node.io.change_data_flags(flags, || {
                const NOCOW: u64 = inode_flags::NODATACOW | inode_flags::NODATASUM;
                let ino = self.node.io.ino();
                let old = self.inner.store.inode(ino)?.flags;
                let flags = if nocow { old | NOCOW } else { old & !NOCOW };
                let change = AttrChange { flags: Some(flags), ..AttrChange::default() };
                self.inner.store.set_attr(ino, &change).map(drop)
            })
        };
        let set = || set().map_err(Error::from);
        if self.inner.change(Gates::NamesAndData, set)? {
            return Ok(());
        }
        let why = format!("the file must be empty, and has {} bytes", self.len());
        Err(Error::Option { option: "nocow", why })
    }
}
