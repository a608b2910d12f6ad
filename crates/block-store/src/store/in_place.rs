//! What may be written where it is, and what is preallocated: which bytes of a file have space of their own that nothing else needs.
//!
//! A block may be overwritten in place if no one could miss what is there: it is preallocated and was never written, or the file is
//! one whose data is not copied on write (and has no checksums, as these could not change at the same moment). And if no one else
//! can see it: the extent tree, with what it is yet to be told, knows references of this file at this place only; and neither the item nor the
//! extent is as old as the tree's last snapshot, since what a snapshot shares has no reference of its own until a leaf is copied.
//!
//! A reference that goes counts until that is durable, as after a crash it is there again (see [`crate::refs::LostRefs`]).
//!
//! This is asked under the state lock. What is found stays so until the block is written: who asks keeps the file's mapping from changing, and
//! whatever gives an extent one more reference must have waited for writeback of its file before. Nor does a transaction end meanwhile: who writes
//! back keeps commits out until they have captured theirs.

use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_btrfs_disk::items::inode::inode_flags;
use cowback_btrfs_disk::items::{
    CompressionCode, DiskRange, ExtentItem, ExtentOwner, FileExtent, FileExtentData,
};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::{
    Compression, DiskExtent, ExtentKind, InPlace, OrderedKind, PreallocMode, StoreResult,
};

use super::Store;
use super::stop::Memory;
use crate::error::{invalid, range_at};
use crate::extent_tree::has_others;
use crate::namespace::pending::Waiting;
use crate::namespace::{NsResult, csums, extents, inode, prealloc};
use crate::refs::DataOwner;
use crate::reserve::{Load, Purpose};
use crate::state::State;
use crate::trees::Trees;

/// Longest preallocated extent: the longest that Linux makes of data that is not compressed.
const PREALLOC_MAX: u64 = 128 << 20;

impl State {
    /// Of how many bytes of `range` from its start on the answer is, and where they may be overwritten.
    fn in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        let flags = inode::find(self, self.tree, ino)?.map_or(0, |item| item.flags);
        let nocow = inode_flags::NODATACOW | inode_flags::NODATASUM;
        let nocow = flags & nocow == nocow;
        let gap = match self.pending.find(ino, range.start) {
            // What waits for the trees is this file's alone.
            Waiting::Yes { map, sums } => {
                let len = map.range.end.min(range.end) - range.start;
                let part = map.slice(ByteRange::at(range.start, len));
                let place = match part.kind {
                    ExtentKind::Regular {
                        disk_bytenr,
                        offset,
                        compression: Compression::None,
                        ..
                    } if nocow && !sums => Some(disk_bytenr.plus(offset)),
                    _ => None,
                };
                let of = |bytenr| DiskExtent { bytenr, len, kind: OrderedKind::Nocow };
                return Ok(InPlace { len, extent: place.map(of) });
            }
            Waiting::No { gap } => gap,
        };
        let end = range.end.min(gap.end);
        let (key, extent) = match extents::item_at(self, self.tree, ino, range.start)? {
            Ok(found) => found,
            Err(next) => {
                return Ok(InPlace { len: end.min(next) - range.start, extent: None });
            }
        };
        let part = ByteRange::new(range.start, end.min(extent.end(key.offset)));
        let extent = self.overwritable(ino, &key, &extent, part, nocow)?;
        Ok(InPlace { len: part.len(), extent })
    }

    /// Where `part` of the file may be overwritten, which the item at `key` maps.
    fn overwritable(
        &self,
        ino: Ino,
        key: &Key,
        extent: &FileExtent,
        part: ByteRange,
        nocow: bool,
    ) -> StoreResult<Option<DiskExtent>> {
        let (shown, kind) = match extent.data {
            FileExtentData::Prealloc(shown) => (shown, OrderedKind::Prealloc),
            FileExtentData::Regular(shown) if nocow => (shown, OrderedKind::Nocow),
            _ => return Ok(None),
        };
        if shown.bytenr == 0 || extent.compression != CompressionCode::None {
            return Ok(None);
        }
        let whole = range_at("extent", shown.bytenr, shown.disk_len)?;
        let closed = self.space.data_group(whole)?.closed;
        let bytenr = shown.bytenr + shown.offset + (part.start - key.offset);
        let place = ByteRange::at(bytenr, part.len());
        let owner = DataOwner::File(self.tree.0, ino.0, key.offset.wrapping_sub(shown.offset));
        let free_to = extent.generation > self.forest.root(self.tree)?.last_snapshot
            && !closed
            && self.is_sole_owner(&shown, owner)?
            && !csums::has_any(self, place)?;
        Ok(free_to.then_some(DiskExtent { bytenr: Bytenr(bytenr), len: part.len(), kind }))
    }

    /// Whether nothing but `owner` refers to an extent, by what the extent tree says, what it is yet to be told, and what the last durable commit
    /// says: another's reference that goes counts until then.
    fn is_sole_owner(&self, shown: &DiskRange, owner: DataOwner) -> StoreResult<bool> {
        let told = self.refs.data.get(&shown.bytenr);
        if told.is_some_and(|change| change.deltas.iter().any(|(other, _)| *other != owner))
            || self.lost_refs.has_other(shown.bytenr, owner)
        {
            return Ok(false);
        }
        let key = Key::new(shown.bytenr, ItemKind::EXTENT_ITEM, shown.disk_len);
        let Some(data) = self.get(TreeId::EXTENT, &key)? else {
            return Ok(told.is_some_and(|change| !change.deltas.is_empty()));
        };
        let item = ExtentItem::parse(&key, &data).map_err(|error| invalid(key, &error))?;
        Ok(item.owner == ExtentOwner::Data
            && item.generation > self.forest.root(self.tree)?.last_snapshot
            && !has_others(&item, owner))
    }

    /// The stretches of `range` that are to be preallocated.
    fn to_prealloc(
        &self,
        ino: Ino,
        range: ByteRange,
        mode: PreallocMode,
    ) -> StoreResult<Vec<ByteRange>> {
        let mut stretches: Vec<ByteRange> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let map = self.pending.lookup(self, self.tree, ino, at)?;
            let end = map.range.end.min(range.end);
            let stays = match mode {
                PreallocMode::Keep => map.kind != ExtentKind::Hole,
                PreallocMode::Zero => matches!(map.kind, ExtentKind::Prealloc { .. }),
            };
            match stretches.last_mut() {
                _ if stays => {}
                Some(last) if last.end == at => last.end = end,
                _ => stretches.push(ByteRange::new(at, end)),
            }
            at = end;
        }
        Ok(stretches)
    }

    /// Takes space for all of `stretches`, `bytes` bytes, or for none, and sees to it that there is room for what `load` makes of the number of
    /// extents.
    fn take_space(
        &mut self,
        stretches: &[ByteRange],
        bytes: u64,
        load: impl FnOnce(u64) -> Load,
    ) -> StoreResult<Vec<(u64, ByteRange)>> {
        let (before, growing) = (*self.space.promises(), self.space.policy.grow);
        self.space.promise(bytes)?;
        // It is kept by what follows. Were it open, and the device turned out to have the size that it has, all of that would be for it.
        self.space.keep(bytes);
        let mut pieces: Vec<(u64, ByteRange)> = Vec::new();
        let mut taken = Ok(());
        'all: for stretch in stretches {
            let mut at = stretch.start;
            while at < stretch.end {
                let want = (stretch.end - at).min(PREALLOC_MAX);
                match self.alloc_data(want, BLOCK_SIZE) {
                    Ok(place) => {
                        pieces.push((at, place));
                        at += place.len();
                    }
                    Err(error) => {
                        taken = Err(error);
                        break 'all;
                    }
                }
            }
        }
        let load = load(pieces.len() as u64);
        let done = taken.and_then(|()| self.ensure_metadata(Purpose::Add, &load));
        if done.is_err() {
            self.space.unpromise(&before);
            for (_, place) in &pieces {
                self.space.free_now(*place)?;
            }
        }
        if growing && !self.space.policy.grow {
            self.space.count(0);
        }
        done.map(|()| pieces)
    }
}

impl Store {
    /// Makes what was written in place of a file durable, if that is all that was done to it since it was last durable: if it is
    /// `size` bytes long on disk, too, and all of it is mapped as on disk. Else it gives false, and a commit is needed.
    ///
    /// # Errors
    /// The device's, and the store takes no more writes then, as after a commit that fails.
    pub fn sync_in_place(&self, ino: Ino, size: u64) -> StoreResult<bool> {
        self.check_writable()?;
        {
            let state = self.state.read();
            let item = inode::find(&*state, state.tree, ino)?;
            let unwritten = state.forest.cache.unwritten();
            // Whatever changes what a file maps changes its inode, in the same transaction.
            let on_disk = item.is_some_and(|item| item.transid < unwritten && item.size == size);
            if !on_disk || state.pending.waits_for(ino) {
                return Ok(false);
            }
        }
        let guard = self.stop_on_panic("a flush", Memory::Whole);
        let flushed = self.disk.flush();
        guard.disarm();
        flushed.inspect_err(|error| self.stop("a flush", error, Memory::Whole))?;
        Ok(true)
    }

    /// See [`cowback_extent_io::store::ExtentStore::claim_in_place`].
    pub(super) fn claim(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        self.check_writable()?;
        let found = self.state.read().in_place(ino, range)?;
        Ok(found)
    }

    /// See [`cowback_extent_io::store::ExtentStore::prealloc_extents`].
    pub(super) fn prealloc(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> NsResult<()> {
        let mut state = self.writable()?;
        let stretches = state.to_prealloc(ino, range, mode)?;
        if stretches.is_empty() {
            return Ok(());
        }
        let goes = state.dropping(ino, range)?;
        let bytes = stretches.iter().map(|stretch| stretch.len()).sum();
        let pieces =
            state.take_space(&stretches, bytes, |pieces| goes.and(Load::prealloc(pieces)))?;
        let before = state.changes;
        let guard = self.stop_on_panic("preallocating", Memory::InPart);
        let done = state.apply_pending_of(ino).map_err(Into::into).and_then(|()| {
            let tree = state.tree;
            prealloc::insert(&mut *state, tree, ino, &pieces)
        });
        guard.disarm();
        if let Err(error) = &done {
            if state.changes == before {
                for (_, place) in pieces {
                    state.space.free_now(place)?;
                }
            } else {
                self.stop_in_part("preallocating", error);
            }
        }
        done
    }
}

#[cfg(test)]
mod tests;
