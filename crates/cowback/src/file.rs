//! An open file.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, PageIndex, PageRange, block_align_down};
use cowback_block_store::namespace::XattrMode;
use cowback_extent_io::store::{Compression, ExtentKind};
use cowback_extent_io::write::FILE_SIZE_MAX;
use cowback_extent_io::{ErrorCursor, ExtentStore, FilePolicy, InodeIo, StoreError};
use cowback_page_cache::CachePolicy;

use crate::budget::Group;
use crate::error::{Error, Result};
use crate::gates::Gates;
use crate::inner::Inner;
use crate::node::{HandleState, Node};

/// Bytes of a large write between two looks at the dirty limits.
const WRITE_STEP: usize = 1 << 20;

/// An open file of a [`Volume`](crate::Volume). Many threads may use one, and read and write at once.
///
/// Writes go to the cache and return; they reach the disk later, compressed and checksummed, and survive a crash once a commit or a sync of
/// the file has returned. A write that could not reach the disk stays readable, is tried again, and is reported by the next sync of each
/// handle that was there when it failed, once.
///
/// A clone is another handle. A file whose last name is removed lives on until its last handle is dropped. To drop a handle of a changed file, or the
/// last one of a file without a name, waits for a commit that is taking its cut.
#[derive(Debug)]
pub struct File {
    pub(crate) inner: Arc<Inner>,
    pub(crate) node: Arc<Node>,
    state: HandleState,
    seen: ErrorCursor,
}

impl File {
    pub(crate) fn new(inner: Arc<Inner>, node: Arc<Node>) -> Self {
        let seen = node.io.errors().cursor();
        Self { inner, node, state: HandleState::default(), seen }
    }

    /// Writes all of `data` at byte `offset`. The file grows as needed; a gap reads as zeros.
    ///
    /// # Errors
    /// A volume that takes no changes, no space, old content around the write that cannot be read, the largest file size: part of `data` may have
    /// been written then. Or the cache is full of what cannot be written to disk: then a first part of `data` is in the cache, or all of it.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        if end > FILE_SIZE_MAX {
            return Err(Error::TooLarge { at: end, max: FILE_SIZE_MAX });
        }
        let mut at = offset;
        for part in data.chunks(WRITE_STEP) {
            self.inner.change(Gates::Data, || Ok(self.write_part(at, part)?))?;
            self.balance(part.len() as u64)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_part(&self, at: u64, part: &[u8]) -> std::result::Result<(), StoreError> {
        let result = self.node.io.write(at, part);
        match &result {
            // Nothing was written, and nothing promised that the inode's item could be changed.
            Err(StoreError::NoSpace { .. }) => self.inner.dirty.add(&self.node),
            _ => self.changed(),
        }
        result
    }

    /// The file was written to, or another change was tried. A gate of the commit's cut is held.
    fn changed(&self) {
        self.node.attrs.touch(self.inner.now());
        self.inner.dirty.add(&self.node);
    }

    /// Reads into `target` from byte `offset` on. Returns how many bytes were read: fewer than asked for only at the end of the file.
    ///
    /// A block (4 KiB) is seen before or after a write to it, never in between. Who reads while others change the same range may find some of its
    /// blocks old and some new, the first part of what is being appended, and zeros where the file is being cut.
    ///
    /// # Errors
    /// Bytes that cannot be read, or are not what was written (their checksum says so). `target` is undefined then.
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<usize> {
        let readahead = &self.state.readahead;
        Ok(self.node.io.read(offset, target, readahead, &*self.inner.pool)?)
    }

    /// The bytes of the block that holds byte `offset`, shared with the cache: nothing is copied, and later writes do not change them. The
    /// block is cut at the end of the file; beyond it there are no bytes.
    ///
    /// What this gives may keep the memory of its neighbours alive, 128 KiB in all, and outside of the budget once the cache has let them go: copy
    /// what is to be kept for long.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_block(&self, offset: u64) -> Result<bytes::Bytes> {
        let size = self.len();
        if offset >= size {
            return Ok(bytes::Bytes::new());
        }
        let index = PageIndex::containing(offset);
        let mut block = bytes::Bytes::from(self.node.io.read_frame(index)?);
        block.truncate(usize::try_from((size - index.offset()).min(BLOCK_SIZE)).unwrap_or(0));
        Ok(block)
    }

    /// What becomes of the file's pages in the cache once they have served.
    #[must_use]
    pub fn cache_policy(&self) -> CachePolicy {
        self.node.io.mapping().policy()
    }

    /// Sets what becomes of the file's pages in the cache once they have served: for backups, logs and whatever else is written or
    /// read once, so that it takes no room from what is used again.
    ///
    /// It holds for all handles, and as long as the volume remembers the file: while it is open or dirty, and for a while after. It is
    /// not stored. [`CachePolicy::Uncached`] drops what is clean at once. What is read ahead stays until it is read.
    pub fn set_cache_policy(&self, policy: CachePolicy) {
        let mapping = self.node.io.mapping();
        mapping.set_policy(policy);
        if policy == CachePolicy::Uncached {
            mapping.drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
        }
    }

    /// The group that the file belongs to: who pays for its pages in memory, and is slowed down when too many of them are dirty.
    #[must_use]
    pub fn group(&self) -> Group {
        self.node.io.mapping().group()
    }

    /// Gives the file to a group of the volume's budget, with what is cached and dirty of it. What is on its way to disk stays charged to the
    /// group that it was taken from, until it is there.
    ///
    /// It holds for all handles, as long as the volume remembers the file, as [`File::set_cache_policy`] does.
    ///
    /// # Errors
    /// [`Error::Option`] for a group of another budget.
    pub fn set_group(&self, group: &Group) -> Result<()> {
        let mapping = self.node.io.mapping();
        if mapping.group().budget() != group.budget() {
            let why = "it belongs to another budget than the volume".to_owned();
            return Err(Error::Option { option: "group", why });
        }
        mapping.set_group(group);
        if mapping.over_background() {
            mapping.start_writeback();
        }
        Ok(())
    }

    /// Bytes in the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.node.io.size()
    }

    /// Whether the file has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts the file, or extends it by zeros, to `size` bytes.
    ///
    /// # Errors
    /// A volume that takes no changes, no space, a block that cannot be read, the largest file size: the file is as before then. Or the cache is
    /// full of what cannot be written to disk: then it was done.
    ///
    /// A full volume may lack the room to cut off very many extents at once. Then they go in steps from the end on, with commits between: others, and
    /// who opens the volume after a crash, may find the file at a length on the way, and so it stays if the volume fails meanwhile.
    pub fn set_len(&self, size: u64) -> Result<()> {
        if size > FILE_SIZE_MAX {
            return Err(Error::TooLarge { at: size, max: FILE_SIZE_MAX });
        }
        match self.change_extents(|io| io.truncate(size)) {
            Err(error) if error.is_volume_full() && size < self.len() => self.cut_in_steps(size),
            done => done,
        }
    }

    /// Cuts the file on a volume that has no room to tell the trees of all that goes at once: from its end on, in steps. What one gives back, the next
    /// one has when it is committed, which happens if it finds no space.
    fn cut_in_steps(&self, size: u64) -> Result<()> {
        let mut step = (self.len().saturating_sub(size) / 2).max(BLOCK_SIZE);
        loop {
            let to = size.max(block_align_down(self.len().saturating_sub(step)));
            match self.change_extents(|io| io.truncate(to)) {
                Ok(()) if to == size => return Ok(()),
                // Room comes back, little by little.
                Ok(()) => step += step / 4,
                Err(error) if error.is_volume_full() && step > BLOCK_SIZE => step /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `range`, as far as it is in the file, a hole: it reads as zeros, and its whole blocks (4 KiB) take no space any more. The
    /// size stays.
    ///
    /// # Errors
    /// A volume that takes no changes, no space, a block that cannot be read: what the range held is still there then, but for its parts of the
    /// blocks at its ends. Or the cache is full of what cannot be written to disk: then it was done.
    pub fn punch_hole(&self, range: std::ops::Range<u64>) -> Result<()> {
        if range.start >= range.end {
            return Ok(());
        }
        self.change_extents(|io| io.punch(ByteRange::new(range.start, range.end)))
    }

    /// Runs a change of the file's size or extents.
    pub(crate) fn change_extents(
        &self,
        change: impl Fn(&Arc<InodeIo>) -> std::result::Result<(), StoreError>,
    ) -> Result<()> {
        self.inner.change(Gates::NamesAndData, || {
            self.inner.put_ahead(&self.node)?;
            let result = change(&self.node.io);
            self.changed();
            Ok(result?)
        })?;
        self.balance(0)
    }

    /// After a write of `bytes`, with no lock held.
    fn balance(&self, bytes: u64) -> Result<()> {
        self.inner.balance_dirty_pages(&self.node, &self.state.pace, bytes)
    }

    /// Returns when every write to this file that returned before survives a power cut.
    ///
    /// # Errors
    /// What could not be written, or a write of this file that failed since this handle last asked (it is tried again, and the
    /// next sync tells how that went). On a volume that was opened for reading, as [`Volume::commit`](crate::Volume::commit).
    pub fn sync_data(&self) -> Result<()> {
        self.inner.check_open()?;
        let result = match self.sync_in_place() {
            Ok(false) => self.inner.commit().map(drop),
            done => done.map(drop),
        };
        self.tell_errors().and(result)
    }

    /// As [`File::sync_data`]; attributes and names are always part of it.
    ///
    /// # Errors
    /// As [`File::sync_data`].
    pub fn sync_all(&self) -> Result<()> {
        self.inner.check_open()?;
        let result = self.inner.commit().map(drop);
        self.tell_errors().and(result)
    }

    /// The error of a write that failed since this handle last asked.
    fn tell_errors(&self) -> Result<()> {
        match self.node.io.errors().check_and_advance(&self.seen) {
            Some(error) => Err(Error::Store(error)),
            None => Ok(()),
        }
    }

    /// Writes the file back and flushes the device, if that is all that its data needs: it was overwritten in place, and is where it was, and as
    /// long. False if a commit is needed.
    fn sync_in_place(&self) -> Result<bool> {
        if !self.node.io.data_flags().nodatacow {
            return Ok(false);
        }
        let failures = self.node.io.errors().count();
        // No commit takes its cut meanwhile: what it took of the file would neither be in the trees nor here.
        let _flushing = self.inner.flush_gate.read();
        self.inner.write_back(&self.node);
        self.node.io.wait_writeback();
        if self.node.io.errors().count() != failures {
            return Ok(false);
        }
        Ok(self.inner.store.sync_in_place(self.node.io.ino(), self.node.io.size())?)
    }

    /// Starts to write back what is dirty, without waiting for it to be on disk. It may wait for room: as much as may be on its way at once is, and
    /// something has to arrive first. While a commit takes its cut this does nothing, as that commit writes all of it back.
    pub fn start_writeback(&self) {
        if self.inner.check_open().is_ok()
            && let Some(_flushing) = self.inner.flush_gate.try_read()
        {
            self.inner.write_back(&self.node);
        }
    }

    /// Has everything that is dirty written back, so that all of the file's content has its place in the trees.
    fn settle(&self) -> Result<()> {
        self.inner.check_open()?;
        let errors = self.node.io.errors();
        let failures = errors.count();
        {
            // Not between a commit's cut and its end: what is written after the cut is none of its business.
            let _flushing = self.inner.flush_gate.read();
            self.inner.write_back(&self.node);
        }
        self.node.io.wait_writeback();
        // What failed is dirty again, and has no place: to tell of a hole there would be wrong.
        match errors.latest().filter(|_| errors.count() != failures) {
            Some(error) => Err(Error::Store(error)),
            None => Ok(()),
        }
    }

    /// Sets how this file's data is stored that is written back from now on, whichever handle wrote it, until the file is opened anew after its last
    /// handle was closed. What is dirty already may still go the old way.
    ///
    /// # Errors
    /// [`Error::Option`] for a compression of a file without checksums (`chattr +C` under Linux), which btrfs does not allow.
    pub fn set_policy(&self, policy: FilePolicy) -> Result<()> {
        if self.node.io.data_flags().nodatasum && policy.compression.spec().is_some() {
            let why = "the file has no checksums, and compressed data must have some".to_owned();
            return Err(Error::Option { option: "compression", why });
        }
        self.node.io.set_policy(Some(policy));
        Ok(())
    }

    /// The file's inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.node.io.ino().0
    }

    /// Sets attributes of the file.
    ///
    /// # Errors
    /// A volume that takes no changes, no space; its inode cannot be read; [`Error::Option`] for a time that is none.
    pub fn set_attributes(&self, set: &crate::SetAttributes) -> Result<()> {
        set.check()?;
        self.inner.change(Gates::Names, || {
            let set = self.inner.set_attributes(self.node.io.ino(), Some(&self.node), set);
            Ok(set?)
        })
    }

    /// Sets an extended attribute of the file.
    ///
    /// # Errors
    /// A volume that takes no changes, no space; a name or value that is too long; its inode cannot be read.
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.inner.change(Gates::Names, || {
            let set = self.inner.store.set_xattr(self.node.io.ino(), name, value, XattrMode::Any);
            Ok(set?)
        })
    }

    /// What is known about the file.
    ///
    /// # Errors
    /// Its inode cannot be read.
    pub fn metadata(&self) -> Result<crate::Metadata> {
        Ok(self.inner.metadata_of(self.node.io.ino())?)
    }

    /// Bytes of the file that wait for writeback.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.node.io.delalloc_bytes().0
    }

    /// The ranges of the file that have data; between them are holes, or what is preallocated and was not written to. Data that is still dirty is written
    /// back first, and waited for, and so is a commit that is taking its cut.
    ///
    /// Ranges begin and end at blocks of 4 KiB, but for the last, which ends with the file: a byte that was written makes its block data.
    ///
    /// # Errors
    /// Data that could not be written just now, of which the next sync of the handle tells as well; extents that cannot be read; a volume that was
    /// closed.
    pub fn data_ranges(&self) -> Result<Vec<std::ops::Range<u64>>> {
        self.settle()?;
        let size = self.len();
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        let mut at = 0;
        while at < size {
            let map = self.inner.store.lookup_extent(self.node.io.ino(), at)?;
            let end = map.range.end.min(size).max(at + 1);
            if !reads_as_hole(&map.kind) {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => ranges.push(at..end),
                }
            }
            at = end;
        }
        Ok(ranges)
    }
}

impl File {
    /// The first byte at or after `offset` that is not in a hole, nor preallocated and unwritten; `None` if there is none before the end of the file. Whole
    /// blocks are one or the other, and data that is still dirty is written back first, as for [`File::data_ranges`].
    ///
    /// # Errors
    /// As [`File::data_ranges`].
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(self.seek(offset, |kind| !reads_as_hole(kind))?.0)
    }

    /// The first byte at or after `offset` that is in a hole, or preallocated and unwritten, where the end of the file counts as one; `None` if `offset` is not in the
    /// file. Whole blocks are one or the other, and data that is still dirty is written back first, as for [`File::data_ranges`].
    ///
    /// # Errors
    /// As [`File::data_ranges`].
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let (found, size) = self.seek(offset, reads_as_hole)?;
        Ok(found.or((offset < size).then_some(size)))
    }

    /// Where the first extent at or after `offset` is that is `wanted`, and the size of the file up to which was looked.
    fn seek(
        &self,
        offset: u64,
        wanted: impl Fn(&ExtentKind) -> bool,
    ) -> Result<(Option<u64>, u64)> {
        self.settle()?;
        let size = self.len();
        let mut at = offset;
        while at < size {
            let map = self.inner.store.lookup_extent(self.node.io.ino(), at)?;
            if wanted(&map.kind) {
                return Ok((Some(at), size));
            }
            at = map.range.end.max(at + 1);
        }
        Ok((None, size))
    }
}

/// A piece of a file, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// The bytes of the file.
    pub range: std::ops::Range<u64>,
    /// Where the whole extent lies in the volume; `None` if the bytes lie in the file tree itself.
    pub disk: Option<u64>,
    /// Bytes on disk of the whole extent.
    pub stored: u64,
    /// Bytes that the whole extent unpacks to.
    pub unpacked: u64,
    /// `none`, `zlib`, `lzo` or `zstd`.
    pub codec: &'static str,
    /// Whether it is allocated and was never written: it reads as zeros.
    pub prealloc: bool,
}

impl File {
    /// How the file is stored, piece by piece; holes are left out. Data that is still dirty is written back first.
    ///
    /// # Errors
    /// As [`File::data_ranges`].
    pub fn extents(&self) -> Result<Vec<Extent>> {
        self.settle()?;
        let size = self.len();
        let mut extents = Vec::new();
        let mut at = 0;
        while at < size {
            let map = self.inner.store.lookup_extent(self.node.io.ino(), at)?;
            let range = at..map.range.end.min(size).max(at + 1);
            at = range.end;
            extents.extend(Extent::of(range, &map.kind));
        }
        Ok(extents)
    }
}

impl Extent {
    fn of(range: std::ops::Range<u64>, kind: &ExtentKind) -> Option<Self> {
        let raw = Self {
            disk: None,
            stored: 0,
            unpacked: range.end - range.start,
            range,
            codec: "none",
            prealloc: false,
        };
        match kind {
            ExtentKind::Hole => None,
            ExtentKind::Prealloc { disk_bytenr, disk_len, .. } => Some(Self {
                disk: Some(disk_bytenr.0),
                stored: *disk_len,
                unpacked: *disk_len,
                prealloc: true,
                ..raw
            }),
            ExtentKind::Inline { ram_bytes, compression, data } => Some(Self {
                stored: data.len() as u64,
                unpacked: *ram_bytes,
                codec: codec_name(*compression),
                ..raw
            }),
            ExtentKind::Regular { disk_bytenr, disk_len, ram_bytes, compression, .. } => {
                Some(Self {
                    disk: Some(disk_bytenr.0),
                    stored: *disk_len,
                    unpacked: *ram_bytes,
                    codec: codec_name(*compression),
                    ..raw
                })
            }
        }
    }
}

/// Whether there are zeros, and nothing was ever written.
fn reads_as_hole(kind: &ExtentKind) -> bool {
    matches!(kind, ExtentKind::Hole | ExtentKind::Prealloc { .. })
}

fn codec_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Zlib => "zlib",
        Compression::Lzo => "lzo",
        Compression::Zstd => "zstd",
    }
}

impl Clone for File {
    fn clone(&self) -> Self {
        let node = self.inner.nodes.reopen(&self.node);
        Self::new(Arc::clone(&self.inner), node)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.inner.close_node(&self.node);
    }
}
