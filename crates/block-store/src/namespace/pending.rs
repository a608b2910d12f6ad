//! Completions that the trees do not know yet, per inode.
//!
//! Extents complete in any order, on any thread. To keep the image a function of the sequence of calls (law R3), they wait
//! here and enter the trees at commit, by inode and then by position in the file; lookups ask here first. What a later
//! completion supersedes before that never enters the trees, and its space is given back at that time, by address.
//!
//! What was written to preallocated space waits here as well: only here is it known that it was written.
//!
//! Who truncates a file or ends it has its completions applied, or discarded, first.

use std::collections::BTreeMap;

use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_btrfs_disk::TreeId;
use cowback_btrfs_disk::items::{DiskRange, FileExtent, FileExtentData};
use cowback_extent_io::store::{
    Compression, ExtentKind, ExtentMap, FinishedExtent, InlineExtent, OrderedKind, StoreResult,
};

use super::extents::{self, HOLE_END, code_of};
use super::inode::inode_flags;
use super::{Trees, csums, inode, prealloc};
use crate::error::no_space;

/// A completed extent.
#[derive(Debug)]
struct OnDisk {
    len: u64,
    /// What it holds of the file.
    range: ByteRange,
    compression: Compression,
    sums: Vec<u8>,
    /// Whether it is a part of an extent that the trees have as preallocated: then its space is theirs.
    prealloc: bool,
}

/// The part of an extent that is current.
#[derive(Debug, Clone, Copy)]
struct Piece {
    end: u64,
    bytenr: u64,
}

impl OnDisk {
    /// The checksums of `range` of the file, of an extent that is not compressed.
    fn sums_of(&self, range: ByteRange) -> &[u8] {
        let size = self.sums.len() as u64 / (self.len / BLOCK_SIZE);
        let at = |byte: u64| {
            usize::try_from((byte - self.range.start) / BLOCK_SIZE * size).unwrap_or(usize::MAX)
        };
        self.sums.get(at(range.start)..at(range.end)).unwrap_or_default()
    }
}

/// What waits for a byte of a file.
#[derive(Debug)]
pub enum Waiting {
    /// This.
    Yes {
        /// What maps the byte: of what was preallocated just the part that was written.
        map: ExtentMap,
        /// Whether its data has checksums.
        sums: bool,
    },
    /// Nothing.
    No {
        /// The bytes around it for which nothing waits.
        gap: ByteRange,
    },
}

/// What is current of what waits for a byte of a file.
#[derive(Debug)]
struct Found {
    map: ExtentMap,
    /// Whether it was written to preallocated space, of which `map` shows the part that was written.
    prealloc: bool,
    sums: bool,
}

#[derive(Debug, Default)]
struct InodePending {
    /// Whether the trees' extents are all superseded, as the whole content became inline.
    replaces_all: bool,
    inline: Option<InlineExtent>,
    /// By first byte in the file; they do not overlap.
    pieces: BTreeMap<u64, Piece>,
    /// By address.
    extents: BTreeMap<u64, OnDisk>,
}

/// All completions that wait.
#[derive(Debug, Default)]
pub struct Pending {
    inodes: BTreeMap<Ino, InodePending>,
    /// Whose extent is at an address.
    owners: BTreeMap<u64, Ino>,
}

impl Pending {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Extents that wait.
    #[must_use]
    pub fn extents(&self) -> usize {
        self.owners.len()
    }

    /// Extents of `ino` that wait.
    #[must_use]
    pub fn extents_of(&self, ino: Ino) -> usize {
        self.inodes.get(&ino).map_or(0, |waiting| waiting.extents.len())
    }

    /// Whether something waits for `ino`.
    #[must_use]
    pub fn waits_for(&self, ino: Ino) -> bool {
        self.inodes.contains_key(&ino)
    }

    /// Takes in a completed extent.
    pub fn finish(&mut self, finished: FinishedExtent) {
        let FinishedExtent { ino, range, written, compression } = finished;
        let (bytenr, len) = (written.extent.bytenr.0, written.extent.len);
        let prealloc = match written.extent.kind {
            OrderedKind::Regular => false,
            OrderedKind::Prealloc => true,
            OrderedKind::Nocow => return, // the file is mapped as it was
        };
        let waiting = self.inodes.entry(ino).or_default();
        waiting.supersede(range);
        waiting.pieces.insert(range.start, Piece { end: range.end, bytenr });
        let on_disk = OnDisk { len, range, compression, sums: written.sums, prealloc };
        waiting.extents.insert(bytenr, on_disk);
        self.owners.insert(bytenr, ino);
    }

    /// Takes in a file's whole content as inline extent.
    ///
    /// # Errors
    /// If it does not fit into an item of `max_item` bytes; nothing changed then.
    pub fn finish_inline(
        &mut self,
        ino: Ino,
        inline: InlineExtent,
        max_item: usize,
    ) -> StoreResult<()> {
        let room = max_item.saturating_sub(FileExtent::INLINE_START);
        if inline.data.len() > room || !(1..=BLOCK_SIZE).contains(&inline.ram_bytes) {
            return Err(no_space("inline extent", inline.data.len() as u64, room as u64));
        }
        let waiting = self.inodes.entry(ino).or_default();
        waiting.pieces.clear();
        waiting.replaces_all = true;
        waiting.inline = Some(inline);
        Ok(())
    }

    /// The extent map that holds byte `offset` of the file.
    ///
    /// # Errors
    /// The store's.
    pub fn lookup(
        &self,
        trees: &dyn Trees,
        tree: TreeId,
        ino: Ino,
        offset: u64,
    ) -> StoreResult<ExtentMap> {
        let Some(waiting) = self.inodes.get(&ino) else {
            return extents::lookup(trees, tree, ino, offset);
        };
        match waiting.find(offset) {
            Ok(Found { map, prealloc: false, .. }) => Ok(map),
            Ok(Found { map, .. }) => {
                let whole = clipped(extents::lookup(trees, tree, ino, offset)?, map.range);
                Ok(written(whole))
            }
            Err(gap) if waiting.replaces_all => {
                Ok(ExtentMap { range: gap, kind: ExtentKind::Hole })
            }
            Err(gap) => Ok(clipped(extents::lookup(trees, tree, ino, offset)?, gap)),
        }
    }

    /// What waits for byte `offset` of the file, and whether it has checksums; or the gap around it for which nothing waits. If the file has become
    /// inline, the gap is a hole, whatever the trees say.
    #[must_use]
    pub fn find(&self, ino: Ino, offset: u64) -> Waiting {
        let Some(waiting) = self.inodes.get(&ino) else {
            return Waiting::No { gap: ByteRange::new(0, HOLE_END) };
        };
        match waiting.find(offset) {
            Ok(Found { map, sums, .. }) => Waiting::Yes { map, sums },
            Err(gap) if waiting.replaces_all => {
                let map = ExtentMap { range: gap, kind: ExtentKind::Hole };
                Waiting::Yes { map, sums: false }
            }
            Err(gap) => Waiting::No { gap },
        }
    }

    /// Bytes that an inode holds, of which the trees say `nbytes`, once its completions are in the trees.
    ///
    /// # Errors
    /// The store's.
    pub fn nbytes(
        &self,
        trees: &dyn Trees,
        tree: TreeId,
        ino: Ino,
        nbytes: u64,
    ) -> StoreResult<u64> {
        let Some(waiting) = self.inodes.get(&ino) else { return Ok(nbytes) };
        let mut held = if waiting.replaces_all { 0 } else { nbytes };
        held = held.saturating_add(waiting.inline.as_ref().map_or(0, |inline| inline.ram_bytes));
        for range in waiting.stretches() {
            if !waiting.replaces_all {
                held = held.saturating_sub(extents::held(trees, tree, ino, range)?);
            }
            held = held.saturating_add(range.len());
        }
        Ok(held)
    }

    /// The checksums of the `len` bytes at `bytenr`, if they are part of an extent that waits; none for data without checksums.
    #[must_use]
    pub fn sums(&self, bytenr: Bytenr, len: u64) -> Option<&[u8]> {
        let (first, ino) = self.owners.range(..=bytenr.0).next_back()?;
        let extent = self.inodes.get(ino)?.extents.get(first)?;
        let from = bytenr.0 - first;
        let to = from.checked_add(len)?;
        if to > extent.len {
            return None;
        }
        if extent.sums.is_empty() {
            return Some(&[]);
        }
        let size = extent.sums.len() as u64 / (extent.len / BLOCK_SIZE);
        let at = |byte: u64| usize::try_from(byte / BLOCK_SIZE * size).ok();
        extent.sums.get(at(from)?..at(to)?)
    }

    /// Enters completions into the trees, inode by inode: at most `most` extents, or all with `usize::MAX`. An inode whose content is inline counts as
    /// an extent.
    ///
    /// # Errors
    /// The store's. See [`Pending::apply_inode`].
    pub fn apply(&mut self, trees: &mut dyn Trees, tree: TreeId, most: usize) -> StoreResult<()> {
        let mut sums = csums::Fresh::default();
        let entered = self.enter_most(trees, tree, most, &mut sums);
        // Also of what was entered before one failed: who reads on finds that in the trees only.
        sums.record(trees).and(entered)
    }

    fn enter_most(
        &mut self,
        trees: &mut dyn Trees,
        tree: TreeId,
        mut most: usize,
        sums: &mut csums::Fresh,
    ) -> StoreResult<()> {
        while most > 0
            && let Some((ino, _)) = self.inodes.first_key_value()
        {
            let ino = *ino;
            most -= self.enter_inode(trees, tree, ino, most, sums)?;
        }
        Ok(())
    }

    /// Enters the completions of one inode into the trees.
    ///
    /// # Errors
    /// The store's. The completions still wait then, and may have been entered in part: if `trees` did change, they must not be
    /// entered once more.
    pub fn apply_inode(
        &mut self,
        trees: &mut dyn Trees,
        tree: TreeId,
        ino: Ino,
    ) -> StoreResult<()> {
        let mut sums = csums::Fresh::default();
        self.enter_inode(trees, tree, ino, usize::MAX, &mut sums)?;
        sums.record(trees)
    }

    /// Enters completions of one inode, at most `most` extents, but for the checksums of its data, which go to `sums`. Gives how many, and at least
    /// one.
    fn enter_inode(
        &mut self,
        trees: &mut dyn Trees,
        tree: TreeId,
        ino: Ino,
        most: usize,
        sums: &mut csums::Fresh,
    ) -> StoreResult<usize> {
        let Some(waiting) = self.inodes.get_mut(&ino) else { return Ok(1) };
        let Some(mut item) = inode::find(trees, tree, ino)? else {
            self.discard(trees, ino);
            return Ok(1);
        };
        let some: Vec<u64> = waiting.extents.keys().copied().take(most).collect();
        let sums = (item.flags & inode_flags::NODATASUM == 0, sums);
        item.nbytes = waiting.enter(trees, tree, ino, item.nbytes, (&some, sums))?;
        inode::save(trees, tree, ino, &mut item)?;
        waiting.forget(&some);
        if waiting.extents.is_empty() {
            assert!(waiting.pieces.is_empty(), "what is current of an extent lies in it");
            self.inodes.remove(&ino);
        }
        for bytenr in &some {
            self.owners.remove(bytenr);
        }
        Ok(some.len().max(1))
    }

    /// Forgets the completions of an inode that ends, and gives their space back.
    pub fn discard(&mut self, trees: &mut dyn Trees, ino: Ino) {
        if let Some(waiting) = self.take(ino) {
            waiting.free_all(trees);
        }
    }

    fn take(&mut self, ino: Ino) -> Option<InodePending> {
        let waiting = self.inodes.remove(&ino)?;
        for bytenr in waiting.extents.keys() {
            self.owners.remove(bytenr);
        }
        Some(waiting)
    }
}

impl InodePending {
    /// Makes room for a newer extent at `range`.
    fn supersede(&mut self, range: ByteRange) {
        if range.start == 0 {
            self.inline = None;
        }
        let over: Vec<(u64, Piece)> = self
            .pieces
            .range(..range.end)
            .rev()
            .take_while(|(_, piece)| piece.end > range.start)
            .map(|(start, piece)| (*start, *piece))
            .collect();
        for (start, piece) in over {
            self.pieces.remove(&start);
            if start < range.start {
                self.pieces.insert(start, Piece { end: range.start, ..piece });
            }
            if piece.end > range.end {
                self.pieces.insert(range.end, piece);
            }
        }
    }

    /// What the pieces cover, without the borders between neighbours.
    fn stretches(&self) -> Vec<ByteRange> {
        let mut stretches: Vec<ByteRange> = Vec::new();
        for (start, piece) in &self.pieces {
            match stretches.last_mut() {
                Some(before) if before.end == *start => before.end = piece.end,
                _ => stretches.push(ByteRange::new(*start, piece.end)),
            }
        }
        stretches
    }

    /// What holds `offset`, or the gap around it.
    fn find(&self, offset: u64) -> Result<Found, ByteRange> {
        let mut gap = ByteRange::new(0, HOLE_END);
        if let Some(inline) = &self.inline {
            let range = ByteRange::new(0, BLOCK_SIZE);
            if range.contains(offset) {
                let InlineExtent { ram_bytes, compression, data } = inline.clone();
                let kind = ExtentKind::Inline { ram_bytes, compression, data };
                let map = ExtentMap { range, kind };
                return Ok(Found { map, prealloc: false, sums: false });
            }
            gap.start = range.end;
        }
        if let Some((start, piece)) = self.pieces.range(..=offset).next_back() {
            if offset < piece.end {
                let range = ByteRange::new(*start, piece.end);
                let extent = self.extents.get(&piece.bytenr);
                let extent = extent.expect("a piece's extent stays as long as the piece");
                let kind = ExtentKind::Regular {
                    disk_bytenr: Bytenr(piece.bytenr),
                    disk_len: extent.len,
                    ram_bytes: extent.range.len(),
                    offset: range.start - extent.range.start,
                    compression: extent.compression,
                };
                let map = ExtentMap { range, kind };
                let (prealloc, sums) = (extent.prealloc, !extent.sums.is_empty());
                return Ok(Found { map, prealloc, sums });
            }
            gap.start = gap.start.max(piece.end);
        }
        if let Some((start, _)) = self.pieces.range(offset..).next() {
            gap.end = *start;
        }
        Err(gap)
    }

    /// Where an extent is current.
    fn pieces_of(&self, bytenr: u64, extent: &OnDisk) -> Vec<ByteRange> {
        let within = self.pieces.range(extent.range.start..extent.range.end);
        let own = within.filter(|(_, piece)| piece.bytenr == bytenr);
        own.map(|(start, piece)| ByteRange::new(*start, piece.end)).collect()
    }

    /// Forgets some extents, which are in the trees, and with the first of them what stands for the file as a whole.
    fn forget(&mut self, extents: &[u64]) {
        (self.replaces_all, self.inline) = (false, None);
        for bytenr in extents {
            let Some(extent) = self.extents.get(bytenr) else { continue };
            for piece in self.pieces_of(*bytenr, extent) {
                self.pieces.remove(&piece.start);
            }
            self.extents.remove(bytenr);
        }
    }

    /// Enters `some` of the extents into the trees, each whole, and before them what stands for the file as a whole. But for checksums: these go to
    /// `fresh`, none if the file is not `summed`. Gives the bytes that the inode, which held `nbytes`, holds then.
    fn enter(
        &self,
        trees: &mut dyn Trees,
        tree: TreeId,
        ino: Ino,
        mut nbytes: u64,
        (some, (summed, fresh)): (&[u64], (bool, &mut csums::Fresh)),
    ) -> StoreResult<u64> {
        let generation = trees.generation();
        if self.replaces_all {
            let dropped = extents::drop_range(trees, tree, ino, ByteRange::new(0, u64::MAX))?;
            nbytes = extents::less(ino, nbytes, dropped)?;
        }
        if let Some(InlineExtent { ram_bytes, compression, data }) = &self.inline {
            let (compression, data) =
                (code_of(*compression), FileExtentData::Inline(data.to_vec()));
            let extent = FileExtent { generation, ram_bytes: *ram_bytes, compression, data };
            let added = extents::insert(trees, tree, ino, 0, &extent)?;
            nbytes = extents::more(ino, nbytes, added)?;
        }
        let waiting = some.iter().filter_map(|bytenr| self.extents.get_key_value(bytenr));
        let (mut unused, mut useless) = (Vec::new(), Vec::new());
        for (bytenr, on_disk) in waiting {
            let pieces = self.pieces_of(*bytenr, on_disk);
            if on_disk.prealloc {
                let at = |range: ByteRange| {
                    ByteRange::at(bytenr + (range.start - on_disk.range.start), range.len())
                };
                useless.extend(gaps(on_disk.range, &pieces).into_iter().map(at));
                for range in pieces {
                    let from = bytenr + (range.start - on_disk.range.start);
                    prealloc::mark_written(trees, tree, ino, range, Bytenr(from))?;
                    let sums = if summed { on_disk.sums_of(range) } else { &[] };
                    fresh.add(ByteRange::at(from, range.len()), sums);
                }
                continue;
            }
            if pieces.is_empty() {
                unused.push((*bytenr, on_disk.len));
                continue;
            }
            for range in pieces {
                let shown = DiskRange {
                    bytenr: *bytenr,
                    disk_len: on_disk.len,
                    offset: range.start - on_disk.range.start,
                    num_bytes: range.len(),
                };
                let extent = FileExtent {
                    generation,
                    ram_bytes: on_disk.range.len(),
                    compression: code_of(on_disk.compression),
                    data: FileExtentData::Regular(shown),
                };
                let dropped = extents::drop_range(trees, tree, ino, range)?;
                nbytes = extents::less(ino, nbytes, dropped)?;
                let added = extents::insert(trees, tree, ino, range.start, &extent)?;
                nbytes = extents::more(ino, nbytes, added)?;
            }
            let sums = if summed { &on_disk.sums[..] } else { &[] };
            fresh.add(ByteRange::at(*bytenr, on_disk.len), sums);
        }
        // Last: who fails before anything of the trees has changed comes again.
        unused.into_iter().for_each(|(bytenr, len)| trees.free_data_extent(bytenr, len));
        useless.into_iter().for_each(|range| trees.forget_data(range));
        Ok(nbytes)
    }

    /// Gives all space back.
    fn free_all(self, trees: &mut dyn Trees) {
        for (bytenr, on_disk) in self.extents {
            if on_disk.prealloc {
                trees.forget_data(ByteRange::at(bytenr, on_disk.len));
            } else {
                trees.free_data_extent(bytenr, on_disk.len);
            }
        }
    }
}

/// What of `whole` none of `pieces` covers, which lie in it one behind the other.
fn gaps(whole: ByteRange, pieces: &[ByteRange]) -> Vec<ByteRange> {
    let starts = std::iter::once(whole.start).chain(pieces.iter().map(|piece| piece.end));
    let ends = pieces.iter().map(|piece| piece.start).chain([whole.end]);
    let gaps = starts.zip(ends).map(|(start, end)| ByteRange::new(start, end));
    gaps.filter(|gap| !gap.is_empty()).collect()
}

/// The part of `map` that lies in `gap`; both hold the byte that was asked for.
fn clipped(map: ExtentMap, gap: ByteRange) -> ExtentMap {
    let start = map.range.start.max(gap.start);
    let end = map.range.end.min(gap.end).max(start);
    map.slice(ByteRange::new(start, end))
}

/// A preallocated extent as it is once it was written.
fn written(map: ExtentMap) -> ExtentMap {
    let kind = match map.kind {
        ExtentKind::Prealloc { disk_bytenr, disk_len, offset } => {
            let (ram_bytes, compression) = (disk_len, Compression::None);
            ExtentKind::Regular { disk_bytenr, disk_len, ram_bytes, offset, compression }
        }
        other => other,
    };
    ExtentMap { kind, ..map }
}

#[cfg(test)]
mod tests;
