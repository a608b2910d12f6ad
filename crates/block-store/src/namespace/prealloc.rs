//! Preallocated extents: put under a file, and turned into ordinary ones where they were written to.
//!
//! Of one extent that was preallocated, some items of a file may show parts that were written, and others parts that were not. Items that
//! show adjoining parts that were written are one item: so a file that is filled from its start, as a log is, has two.

use cowback_base::{ByteRange, Bytenr, Ino};
use cowback_btrfs_disk::items::{CompressionCode, DiskRange, FileExtent, FileExtentData};
use cowback_btrfs_disk::{Key, TreeId};
use cowback_extent_io::store::StoreResult;

use super::extents::{self, is_extent_of, item_before, key_of};
use super::inode::inode_flags;
use super::{Trees, csums, inode};
use crate::error::corrupt;
use crate::namespace::NsResult;

/// Puts preallocated extents, each (first byte in the file, where it is on disk), in place of what maps the file there, and records in the inode
/// what it holds then.
///
/// # Errors
/// [`super::NamespaceError::NoInode`], or the store's.
pub fn insert(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    pieces: &[(u64, ByteRange)],
) -> NsResult<()> {
    let mut item = inode::load(trees, tree, ino)?;
    for (offset, place) in pieces {
        csums::replace(trees, *place, &[])?;
        let dropped = extents::drop_range(trees, tree, ino, ByteRange::at(*offset, place.len()))?;
        item.nbytes = extents::less(ino, item.nbytes, dropped)?;
        let extent = FileExtent {
            generation: trees.generation(),
            ram_bytes: place.len(),
            compression: CompressionCode::None,
            data: FileExtentData::Prealloc(DiskRange {
                bytenr: place.start,
                disk_len: place.len(),
                offset: 0,
                num_bytes: place.len(),
            }),
        };
        let added = extents::insert(trees, tree, ino, *offset, &extent)?;
        item.nbytes = extents::more(ino, item.nbytes, added)?;
    }
    item.flags |= inode_flags::PREALLOC;
    Ok(inode::save(trees, tree, ino, &mut item)?)
}

/// Records that `range` of the file, preallocated at `bytenr`, was written.
///
/// # Errors
/// The store's; corrupt if it is not preallocated there.
pub fn mark_written(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    range: ByteRange,
    bytenr: Bytenr,
) -> StoreResult<()> {
    let mut at = range.start;
    while at < range.end {
        let place = bytenr.0 + (at - range.start);
        let found = item_before(trees, tree, ino, at)?;
        let found = found.and_then(|(key, extent)| Item::of(&key, &extent, true));
        let Some(item) = found.filter(|item| item.at(at) == Some(place)) else {
            let why = format!("it was written at {place}, and is not preallocated there");
            return Err(corrupt("file extent", key_of(ino, at), why));
        };
        let part = ByteRange::new(at, range.end.min(item.range.end));
        split_written(trees, tree, ino, &item, part)?;
        at = part.end;
    }
    Ok(())
}

/// An item that shows a part of an uncompressed extent.
#[derive(Debug, Clone, Copy)]
struct Item {
    /// The bytes of the file.
    range: ByteRange,
    ram_bytes: u64,
    shown: DiskRange,
}

impl Item {
    /// What the item at `key` is, if it is preallocated, or is written, as `prealloc` asks.
    fn of(key: &Key, extent: &FileExtent, prealloc: bool) -> Option<Self> {
        let shown = match extent.data {
            FileExtentData::Prealloc(shown) if prealloc => shown,
            FileExtentData::Regular(shown) if !prealloc => shown,
            _ => return None,
        };
        let range = ByteRange::new(key.offset, extent.end(key.offset));
        let raw = extent.compression == CompressionCode::None && shown.bytenr != 0;
        raw.then_some(Self { range, ram_bytes: extent.ram_bytes, shown })
    }

    /// Where byte `offset` of the file is on disk.
    fn at(&self, offset: u64) -> Option<u64> {
        let inside = self.range.contains(offset);
        inside.then(|| self.shown.bytenr + self.shown.offset + (offset - self.range.start))
    }

    /// The part of this that shows `range`, or that together with what adjoins it.
    fn showing(&self, range: ByteRange) -> Self {
        // Of what adjoins on the left, the offset is smaller.
        let offset = self.shown.offset + range.start - self.range.start;
        let shown = DiskRange { offset, num_bytes: range.len(), ..self.shown };
        Self { range, shown, ..*self }
    }

    /// Whether `other` shows what is right behind this, in the file and in the extent.
    fn adjoins(&self, other: &Self) -> bool {
        self.range.end == other.range.start
            && (self.shown.bytenr, self.shown.disk_len)
                == (other.shown.bytenr, other.shown.disk_len)
            && self.shown.offset + self.range.len() == other.shown.offset
    }

    fn bytes(&self, generation: u64, prealloc: bool) -> Vec<u8> {
        let data = if prealloc {
            FileExtentData::Prealloc(self.shown)
        } else {
            FileExtentData::Regular(self.shown)
        };
        let (ram_bytes, compression) = (self.ram_bytes, CompressionCode::None);
        FileExtent { generation, ram_bytes, compression, data }.to_bytes()
    }
}

/// Makes `part` of the preallocated `item` an ordinary one, joined with those beside it that are.
fn split_written(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    item: &Item,
    part: ByteRange,
) -> StoreResult<()> {
    let (left, right) =
        (ByteRange::new(item.range.start, part.start), ByteRange::new(part.end, item.range.end));
    let before = match (left.is_empty(), item.range.start.checked_sub(1)) {
        (true, Some(before)) => {
            let found = item_before(trees, tree, ino, before)?;
            let found = found.and_then(|(key, extent)| Item::of(&key, &extent, false));
            found.filter(|other| other.adjoins(item))
        }
        _ => None,
    };
    let after = if right.is_empty() {
        let found = trees.at_or_after(tree, &key_of(ino, item.range.end))?;
        let found = found.filter(|(key, _)| is_extent_of(key, ino));
        let found = match found {
            Some((key, data)) => Item::of(&key, &extents::parse(&key, &data)?, false),
            None => None,
        };
        found.filter(|other| item.adjoins(other))
    } else {
        None
    };
    let written = item.showing(ByteRange::new(
        before.map_or(part.start, |before| before.range.start),
        after.map_or(part.end, |after| after.range.end),
    ));
    let generation = trees.generation();
    let bytes = written.bytes(generation, false);
    let key = key_of(ino, item.range.start);
    match (left.is_empty(), before) {
        (false, _) => {
            trees.update(tree, &key, &item.showing(left).bytes(generation, true))?;
            trees.insert(tree, key_of(ino, part.start), &bytes)?;
        }
        (true, None) => trees.update(tree, &key, &bytes)?,
        (true, Some(before)) => {
            trees.remove(tree, &key)?;
            trees.update(tree, &key_of(ino, before.range.start), &bytes)?;
        }
    }
    if let Some(after) = after {
        trees.remove(tree, &key_of(ino, after.range.start))?;
    }
    if !right.is_empty() {
        let bytes = item.showing(right).bytes(generation, true);
        trees.insert(tree, key_of(ino, right.start), &bytes)?;
    }
    // Each item is a reference, and all these are alike.
    let was = 1 + i64::from(before.is_some()) + i64::from(after.is_some());
    let is = 1 + i64::from(!left.is_empty()) + i64::from(!right.is_empty());
    let (bytenr, len) = (item.shown.bytenr, item.shown.disk_len);
    let ref_offset = item.range.start.wrapping_sub(item.shown.offset);
    for _ in was..is {
        trees.add_data_ref(bytenr, len, tree, ino.0, ref_offset);
    }
    for _ in is..was {
        trees.drop_data_ref(bytenr, len, tree, ino.0, ref_offset);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
