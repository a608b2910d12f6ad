//! File extents: dropping, cutting, inserting and looking up what maps a file's bytes.
//!
//! Ranges are block aligned. An item refers to a part of an extent on disk; cutting the item changes the part and leaves
//! the extent whole, and each item counts as one reference under (tree, inode, position minus offset into the extent),
//! which is the same for all pieces of one item. Volumes have `NO_HOLES`: what no item covers is a hole; explicit hole
//! items of older volumes are understood.

use bytes::Bytes;
use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino, block_align_down};
use cowback_btrfs_disk::items::{CompressionCode, DiskRange, FileExtent, FileExtentData};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::{Compression, ExtentKind, ExtentMap, StoreResult};

use super::error::NsResult;
use super::{Trees, inode};
use crate::error::{corrupt, invalid};

/// Where the last hole of a file ends.
pub(crate) const HOLE_END: u64 = block_align_down(u64::MAX);

pub(super) const fn key_of(ino: Ino, offset: u64) -> Key {
    Key::new(ino.0, ItemKind::EXTENT_DATA, offset)
}

pub(super) const fn is_extent_of(key: &Key, ino: Ino) -> bool {
    key.objectid == ino.0 && key.kind.0 == ItemKind::EXTENT_DATA.0
}

pub(super) fn parse(key: &Key, data: &[u8]) -> StoreResult<FileExtent> {
    FileExtent::parse(key, data).map_err(|error| invalid(key, &error))
}

/// How compression is named on disk.
#[must_use]
pub const fn code_of(compression: Compression) -> CompressionCode {
    match compression {
        Compression::None => CompressionCode::None,
        Compression::Zlib => CompressionCode::Zlib,
        Compression::Lzo => CompressionCode::Lzo,
        Compression::Zstd => CompressionCode::Zstd,
    }
}

/// What a name on disk stands for.
#[must_use]
pub const fn compression_of(code: CompressionCode) -> Compression {
    match code {
        CompressionCode::None => Compression::None,
        CompressionCode::Zlib => Compression::Zlib,
        CompressionCode::Lzo => Compression::Lzo,
        CompressionCode::Zstd => Compression::Zstd,
    }
}

/// The last item that begins at or before `offset`.
pub(super) fn item_before(
    trees: &dyn Trees,
    tree: TreeId,
    ino: Ino,
    offset: u64,
) -> StoreResult<Option<(Key, FileExtent)>> {
    match trees.at_or_before(tree, &key_of(ino, offset))? {
        Some((key, data)) if is_extent_of(&key, ino) => Ok(Some((key, parse(&key, &data)?))),
        _ => Ok(None),
    }
}

/// Drops what maps `range` of the file; items that reach beyond it are cut. Gives the bytes that the inode no longer
/// holds; its item is the caller's business. An inline extent goes as a whole, with its first block.
///
/// # Errors
/// The store's.
pub fn drop_range(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    range: ByteRange,
) -> StoreResult<u64> {
    let mut dropped = 0;
    if range.is_empty() {
        return Ok(dropped);
    }
    let before = item_before(trees, tree, ino, range.start)?;
    let mut at = match before {
        Some((key, extent)) if extent.end(key.offset) > range.start => key.offset,
        _ => range.start,
    };
    while at < range.end {
        let Some((key, data)) = trees.at_or_after(tree, &key_of(ino, at))? else { break };
        if !is_extent_of(&key, ino) || key.offset >= range.end {
            break;
        }
        let extent = parse(&key, &data)?;
        at = extent.end(key.offset);
        dropped += cut(trees, tree, ino, &key, extent, range)?;
    }
    Ok(dropped)
}

/// Drops the last items of a file, `most` of them at most. Gives the bytes that the inode no longer holds, and whether none are left.
///
/// # Errors
/// The store's.
pub fn drop_last(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    most: u64,
) -> StoreResult<(u64, bool)> {
    let mut dropped = 0;
    for _ in 0..most {
        let Some((key, extent)) = item_before(trees, tree, ino, u64::MAX)? else {
            return Ok((dropped, true));
        };
        dropped += cut(trees, tree, ino, &key, extent, ByteRange::new(0, u64::MAX))?;
    }
    Ok((dropped, item_before(trees, tree, ino, u64::MAX)?.is_none()))
}

/// How many items [`drop_range`] would drop or cut, and the bytes on disk of their extents, `u64::MAX` if these are more.
///
/// # Errors
/// The store's.
pub fn count(
    trees: &dyn Trees,
    tree: TreeId,
    ino: Ino,
    range: ByteRange,
) -> StoreResult<(u64, u64)> {
    let before = item_before(trees, tree, ino, range.start)?;
    let mut at = before.map_or(range.start, |(key, _)| key.offset);
    let (mut items, mut bytes) = (0, 0);
    while let Some((key, data)) = trees.at_or_after(tree, &key_of(ino, at))? {
        if !is_extent_of(&key, ino) || key.offset >= range.end {
            break;
        }
        items += 1;
        if let FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown) =
            parse(&key, &data)?.data
        {
            bytes = u64::saturating_add(bytes, shown.disk_len);
        }
        at = key.offset + 1;
    }
    Ok((items, bytes))
}

/// Bytes that the inode would no longer hold after [`drop_range`].
///
/// # Errors
/// The store's.
pub fn held(trees: &dyn Trees, tree: TreeId, ino: Ino, range: ByteRange) -> StoreResult<u64> {
    let before = item_before(trees, tree, ino, range.start)?;
    let mut at = before.map_or(range.start, |(key, _)| key.offset);
    let mut bytes = 0;
    while let Some((key, data)) = trees.at_or_after(tree, &key_of(ino, at))? {
        if !is_extent_of(&key, ino) || key.offset >= range.end {
            break;
        }
        let extent = parse(&key, &data)?;
        let end = extent.end(key.offset);
        if end > range.start {
            bytes += match extent.data {
                FileExtentData::Inline(_) => extent.ram_bytes,
                FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown)
                    if shown.bytenr == 0 =>
                {
                    0
                }
                _ => end.min(range.end) - key.offset.max(range.start),
            };
        }
        at = key.offset + 1;
    }
    Ok(bytes)
}

/// Takes `range` out of the item at `key`, which overlaps it; gives the bytes that the inode no longer holds.
fn cut(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    key: &Key,
    mut extent: FileExtent,
    range: ByteRange,
) -> StoreResult<u64> {
    let (start, end) = (key.offset, extent.end(key.offset));
    let (FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown)) = &mut extent.data
    else {
        trees.remove(tree, key)?;
        return Ok(extent.ram_bytes);
    };
    let whole = *shown;
    let is_hole = whole.bytenr == 0;
    let ref_offset = start.wrapping_sub(whole.offset);
    let (cut_start, cut_end) = (range.start.max(start), range.end.min(end));
    let (left, right) = (cut_start - start, end - cut_end);

    if left > 0 {
        shown.num_bytes = left;
        trees.update(tree, key, &extent.to_bytes())?;
    } else {
        trees.remove(tree, key)?;
    }
    if right > 0 {
        let (FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown)) = &mut extent.data
        else {
            return Ok(0);
        };
        let offset = if is_hole { 0 } else { whole.offset + (cut_end - start) };
        *shown = DiskRange { offset, num_bytes: right, ..whole };
        trees.insert(tree, key_of(ino, cut_end), &extent.to_bytes())?;
    }
    if is_hole {
        return Ok(0);
    }
    match (left > 0, right > 0) {
        (true, true) => trees.add_data_ref(whole.bytenr, whole.disk_len, tree, ino.0, ref_offset),
        (false, false) => {
            trees.drop_data_ref(whole.bytenr, whole.disk_len, tree, ino.0, ref_offset);
        }
        _ => {}
    }
    Ok(cut_end - cut_start)
}

/// Puts a file extent in at `offset`, where nothing maps the file, and counts its reference. Gives the bytes that the
/// inode now holds besides; its item is the caller's business.
///
/// # Errors
/// The store's.
pub fn insert(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    offset: u64,
    extent: &FileExtent,
) -> StoreResult<u64> {
    trees.insert(tree, key_of(ino, offset), &extent.to_bytes())?;
    match &extent.data {
        FileExtentData::Inline(_) => Ok(extent.ram_bytes),
        FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown) => {
            if shown.bytenr == 0 {
                return Ok(0);
            }
            let ref_offset = offset.wrapping_sub(shown.offset);
            trees.add_data_ref(shown.bytenr, shown.disk_len, tree, ino.0, ref_offset);
            Ok(shown.num_bytes)
        }
    }
}

/// Drops what maps `range`, and records in the inode what it no longer holds: a hole from then on.
///
/// # Errors
/// [`super::NamespaceError::NoInode`], or the store's.
pub fn punch(trees: &mut dyn Trees, tree: TreeId, ino: Ino, range: ByteRange) -> NsResult<()> {
    let mut item = inode::load(trees, tree, ino)?;
    let dropped = drop_range(trees, tree, ino, range)?;
    if dropped > 0 {
        item.nbytes = less(ino, item.nbytes, dropped)?;
        inode::save(trees, tree, ino, &mut item)?;
    }
    Ok(())
}

/// Drops what maps the file at or after `size`, rounded up to a block; an uncompressed inline extent is cut to `size`.
/// The inode's size is the caller's business.
///
/// # Errors
/// [`super::NamespaceError::NoInode`], or the store's.
pub fn truncate(trees: &mut dyn Trees, tree: TreeId, ino: Ino, size: u64) -> NsResult<()> {
    let first = size.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(HOLE_END);
    punch(trees, tree, ino, ByteRange::new(first, u64::MAX))?;
    if size == 0 || size >= BLOCK_SIZE {
        return Ok(());
    }
    let key = key_of(ino, 0);
    let Some(data) = trees.get(tree, &key)? else { return Ok(()) };
    let mut extent = parse(&key, &data)?;
    let FileExtentData::Inline(data) = &mut extent.data else { return Ok(()) };
    if extent.compression != CompressionCode::None || extent.ram_bytes <= size {
        return Ok(());
    }
    let mut item = inode::load(trees, tree, ino)?;
    data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    item.nbytes = less(ino, item.nbytes, extent.ram_bytes - size)?;
    extent.ram_bytes = size;
    trees.update(tree, &key, &extent.to_bytes())?;
    Ok(inode::save(trees, tree, ino, &mut item)?)
}

/// `nbytes` without `dropped` of them.
pub(crate) fn less(ino: Ino, nbytes: u64, dropped: u64) -> StoreResult<u64> {
    nbytes.checked_sub(dropped).ok_or_else(|| {
        let why = format!("it holds {nbytes} bytes, and {dropped} of them were dropped");
        corrupt("inode item", inode::key(ino), why)
    })
}

/// `nbytes` and `added` of them more.
pub(crate) fn more(ino: Ino, nbytes: u64, added: u64) -> StoreResult<u64> {
    nbytes.checked_add(added).ok_or_else(|| {
        corrupt("inode item", inode::key(ino), format!("it holds {nbytes} bytes already"))
    })
}

/// The extent map that holds byte `offset` of the file, from the trees alone.
///
/// # Errors
/// The store's.
pub fn lookup(trees: &dyn Trees, tree: TreeId, ino: Ino, offset: u64) -> StoreResult<ExtentMap> {
    let mut hole_start = 0;
    if let Some((key, extent)) = item_before(trees, tree, ino, offset)? {
        let end = extent.end(key.offset);
        if offset < end {
            return Ok(map_of(&key, extent));
        }
        hole_start = end;
    }
    let hole_end = match trees.at_or_after(tree, &key_of(ino, offset))? {
        Some((key, _)) if is_extent_of(&key, ino) => key.offset,
        _ => HOLE_END,
    };
    Ok(ExtentMap { range: ByteRange::new(hole_start, hole_end), kind: ExtentKind::Hole })
}

/// The item that maps byte `offset` of the file; if there is none, where the next one begins.
///
/// # Errors
/// The store's.
pub fn item_at(
    trees: &dyn Trees,
    tree: TreeId,
    ino: Ino,
    offset: u64,
) -> StoreResult<Result<(Key, FileExtent), u64>> {
    if let Some((key, extent)) = item_before(trees, tree, ino, offset)?
        && offset < extent.end(key.offset)
    {
        return Ok(Ok((key, extent)));
    }
    let next = trees.at_or_after(tree, &key_of(ino, offset))?;
    Ok(Err(next.filter(|(key, _)| is_extent_of(key, ino)).map_or(HOLE_END, |(key, _)| key.offset)))
}

/// The item at `key` as an extent map.
fn map_of(key: &Key, extent: FileExtent) -> ExtentMap {
    let range = ByteRange::new(key.offset, extent.end(key.offset));
    let compression = compression_of(extent.compression);
    let ram_bytes = extent.ram_bytes;
    let kind = match extent.data {
        FileExtentData::Inline(data) => {
            ExtentKind::Inline { ram_bytes, compression, data: Bytes::from(data) }
        }
        FileExtentData::Prealloc(shown) if shown.bytenr == 0 => ExtentKind::Hole,
        FileExtentData::Prealloc(shown) => ExtentKind::Prealloc {
            disk_bytenr: Bytenr(shown.bytenr),
            disk_len: shown.disk_len,
            offset: shown.offset,
        },
        FileExtentData::Regular(shown) if shown.bytenr == 0 => ExtentKind::Hole,
        FileExtentData::Regular(shown) => ExtentKind::Regular {
            disk_bytenr: Bytenr(shown.bytenr),
            disk_len: shown.disk_len,
            ram_bytes,
            offset: shown.offset,
            compression,
        },
    };
    ExtentMap { range, kind }
}

#[cfg(test)]
mod tests;
