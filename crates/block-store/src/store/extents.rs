//! Data: the engine's view of the store ([`ExtentStore`]).
//!
//! Extents are allocated in the order of calls, one behind the other; bytes are written and read, and checksums computed,
//! outside of any lock. A completion is noted and enters the trees at commit (law R3).

use cowback_base::{BLOCK_SIZE_USIZE, ByteRange, Bytenr, Ino};
use cowback_btrfs_disk::ChecksumKind;
use cowback_btrfs_disk::items::FileExtent;
use cowback_btrfs_disk::node::ITEM_LEN;
use cowback_btrfs_disk::superblock::Incompat;
use cowback_codec::{block_sums, first_mismatch};
use cowback_extent_io::store::{
    Compression, DiskExtent, ExtentMap, ExtentStore, FinishedExtent, InPlace, InlineExtent,
    OrderedKind, PreallocMode, StoreError, StoreResult, WrittenExtent,
};

use super::Store;
use crate::error::corrupt;
use crate::extent_tree::InUse;
use crate::namespace::inode::inode_flags;
use crate::namespace::{NamespaceError, Pending, csums, inode};
use crate::space::Class;
use crate::state::State;

/// Places that are in use, and that free space is said to be at, that are passed over for one extent. An image with more of them is damaged beyond that.
const IN_USE_MAX: u32 = 64;

impl State {
    /// Enters what completed for one file into the trees.
    pub(super) fn apply_pending_of(&mut self, ino: Ino) -> StoreResult<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let tree = self.tree;
        let applied = pending.apply_inode(self, tree, ino);
        self.pending = pending;
        applied
    }

    /// Forgets what completed for a file that ends.
    pub(super) fn discard_pending_of(&mut self, ino: Ino) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.discard(self, ino);
        self.pending = pending;
    }

    /// Gives space back that was to be written, if it is not some file's already.
    fn give_back(&mut self, extent: &DiskExtent) {
        if extent.kind == OrderedKind::Regular {
            let freed = self.space.free_now(ByteRange::at(extent.bytenr.0, extent.len));
            assert!(freed.is_ok(), "{freed:?}");
        }
    }

    /// Notes in the superblock that a codec is in use.
    fn use_codec(&mut self, compression: Compression) {
        let bit = match compression {
            Compression::None | Compression::Zlib => return,
            Compression::Lzo => Incompat::COMPRESS_LZO,
            Compression::Zstd => Incompat::COMPRESS_ZSTD,
        };
        self.use_feature(bit);
    }

    /// The checksums of what is at `range`, which file `ino` maps: none only if the file is one without. For such a file none are looked for: what
    /// is recorded there is of data that was there before it.
    fn sums_of(&self, ino: Ino, range: ByteRange) -> StoreResult<Option<Vec<u8>>> {
        let pending: &Pending = &self.pending;
        if let Some(sums) = pending.sums(Bytenr(range.start), range.len()) {
            return Ok(Some(sums.to_vec()).filter(|sums| !sums.is_empty()));
        }
        let item = inode::find(self, self.tree, ino)?;
        if item.is_some_and(|item| item.flags & inode_flags::NODATASUM != 0) {
            return Ok(None);
        }
        let missing = || {
            let why = format_args!("the checksums of {} bytes are missing", range.len());
            corrupt("data", range.start, why)
        };
        csums::lookup(self, range)?.ok_or_else(missing).map(Some)
    }

    /// Takes space for data: what is free by the extent tree, too. What is not is left alone from then on.
    pub(super) fn alloc_data(&mut self, want: u64, least: u64) -> StoreResult<ByteRange> {
        let mut in_use = 0;
        loop {
            let range = self.space.alloc(Class::Data, want, least)?;
            match self.forest.check_unused(range) {
                Ok(()) => return Ok(range),
                Err(InUse::Extent(_)) if in_use < IN_USE_MAX => in_use += 1,
                Err(InUse::Extent(error)) => return Err(error),
                Err(InUse::Unknown(error)) => {
                    self.space.free_now(range)?;
                    return Err(error);
                }
            }
        }
    }
}

/// The checksums of the blocks that `parts` add up to.
fn sums_of_parts(kind: ChecksumKind, parts: &[&[u8]]) -> Vec<u8> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut sums = Vec::with_capacity(total / BLOCK_SIZE_USIZE * kind.size());
    let mut rest: Vec<u8> = Vec::new();
    for part in parts {
        let mut part = *part;
        if !rest.is_empty() {
            let (head, tail) = part.split_at(part.len().min(BLOCK_SIZE_USIZE - rest.len()));
            rest.extend_from_slice(head);
            part = tail;
            if rest.len() == BLOCK_SIZE_USIZE {
                block_sums(kind, &rest, &mut sums);
                rest.clear();
            }
        }
        let whole = part.len() / BLOCK_SIZE_USIZE * BLOCK_SIZE_USIZE;
        let (whole, tail) = part.split_at(whole);
        block_sums(kind, whole, &mut sums);
        rest.extend_from_slice(tail);
    }
    assert!(rest.is_empty(), "an extent is a whole number of blocks");
    sums
}

impl ExtentStore for Store {
    fn reserve_data(&self, bytes: u64) -> StoreResult<()> {
        self.writable()?.reserve(bytes)
    }

    fn reserve_data_again(&self, bytes: u64) {
        self.state.write().space.promise_again(bytes);
    }

    fn release_data(&self, bytes: u64) {
        self.state.write().space.give_up(bytes);
    }

    fn spend_data(&self, bytes: u64) {
        self.state.write().space.keep(bytes);
    }

    fn reserve_in_place(&self, bytes: u64) -> StoreResult<()> {
        self.writable()?.reserve_in_place(bytes)
    }

    fn reserve_in_place_again(&self, bytes: u64) {
        self.state.write().space.promise_in_place_again(bytes);
    }

    fn release_in_place(&self, bytes: u64) {
        self.state.write().space.give_up_in_place(bytes);
    }

    fn spend_in_place(&self, bytes: u64) {
        self.state.write().space.keep_in_place(bytes);
    }

    fn claim_in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        self.claim(ino, range)
    }

    fn alloc_extent(&self, want: u64, min: u64) -> StoreResult<DiskExtent> {
        let range = self.writable()?.alloc_data(want, min)?;
        let (bytenr, len) = (Bytenr(range.start), range.len());
        Ok(DiskExtent { bytenr, len, kind: OrderedKind::Regular })
    }

    fn free_extent(&self, extent: DiskExtent) {
        let mut state = self.state.write();
        state.give_back(&extent);
    }

    fn write_extent(
        &self,
        extent: DiskExtent,
        data: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)> {
        let total: u64 = data.iter().map(|part| part.len() as u64).sum();
        if total != extent.len {
            let why = format_args!("{total} bytes for an extent of {}", extent.len);
            let error = corrupt("data", extent.bytenr, why);
            return Err((extent, error));
        }
        if let Err(error) = self.check_writable() {
            return Err((extent, error));
        }
        let sums = sums_of_parts(self.disk.checksum, data);
        match self.disk.write_data(extent.bytenr.0, data, &sums) {
            // What is overwritten has no checksums in the trees.
            Ok(()) if extent.kind == OrderedKind::Nocow => {
                Ok(WrittenExtent { extent, sums: Vec::new() })
            }
            Ok(()) => Ok(WrittenExtent { extent, sums }),
            Err(error) => Err((extent, error)),
        }
    }

    fn finish_ordered(&self, finished: FinishedExtent) -> StoreResult<()> {
        let mut state = self.state.write();
        if let Err(error) = self.check_writable() {
            let extent = &finished.written.extent;
            // Who had it written keeps it. Whether it is there does not matter for going on.
            self.disk.forget_data(ByteRange::at(extent.bytenr.0, extent.len));
            state.give_back(extent);
            return Err(error);
        }
        state.use_codec(finished.compression);
        state.pending.finish(finished);
        Ok(())
    }

    fn insert_inline(&self, ino: Ino, inline: InlineExtent) -> StoreResult<()> {
        let mut state = self.writable()?;
        let (compression, most) = (inline.compression, state.forest.max_item());
        state.take_inline((inline.data.len() + FileExtent::INLINE_START + ITEM_LEN) as u64)?;
        state.pending.finish_inline(ino, inline, most)?;
        state.use_codec(compression);
        Ok(())
    }

    fn truncate_extents(&self, ino: Ino, size: u64) -> StoreResult<()> {
        let done = self.drop_extents_behind(ino, size);
        done.map_err(|error| match error {
            NamespaceError::Store(error) => error,
            other => corrupt("file", ino, other),
        })
    }

    fn punch_extents(&self, ino: Ino, range: ByteRange) -> StoreResult<()> {
        self.punch(ino, range).map_err(|error| match error {
            NamespaceError::Store(error) => error,
            other => corrupt("file", ino, other),
        })
    }

    fn prealloc_extents(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> StoreResult<()> {
        self.prealloc(ino, range, mode).map_err(|error| match error {
            NamespaceError::Store(error) => error,
            other => corrupt("file", ino, other),
        })
    }

    fn lookup_extent(&self, ino: Ino, offset: u64) -> StoreResult<ExtentMap> {
        let state = self.state.read();
        state.pending.lookup(&*state, state.tree, ino, offset)
    }

    fn read_extent(&self, ino: Ino, bytenr: Bytenr, target: &mut [u8]) -> StoreResult<()> {
        let range =
            bytenr.0.checked_add(target.len() as u64).map(|end| ByteRange::new(bytenr.0, end));
        let range = range.ok_or_else(|| corrupt("extent", bytenr, "it ends beyond 2^64"))?;
        let sums = self.state.read().sums_of(ino, range)?;
        let kind = self.disk.checksum;
        let verify = |data: &[u8]| match &sums {
            None => Ok(()),
            Some(sums) => match first_mismatch(kind, data, sums) {
                None => Ok(()),
                Some(block) => {
                    let at = range.start + (block * BLOCK_SIZE_USIZE) as u64;
                    Err(corrupt("data", at, "its checksum is wrong"))
                }
            },
        };
        self.disk.read_data(range.start, target, verify)
    }
}
