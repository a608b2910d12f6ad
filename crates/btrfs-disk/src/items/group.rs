//! Block groups and their free space.

use super::chunk::BlockGroupFlags;
use crate::error::DiskResult;
use crate::key::objectid;
use crate::wire::{Reader, Writer};

/// A block group. Key: (first logical address, `BLOCK_GROUP_ITEM`, length).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGroupItem {
    /// Bytes of it that extents occupy.
    pub used: u64,
    /// Type and profile, as its chunk's.
    pub flags: BlockGroupFlags,
}

impl BlockGroupItem {
    /// Bytes on disk.
    pub const LEN: usize = 24;

    /// Reads the item of a block group of `length` bytes.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(length: u64, bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("block group item", bytes);
        let used = r.u64("used")?;
        let chunk_objectid = r.u64("chunk_objectid")?;
        let bits = r.u64("flags")?;
        r.done()?;
        if length == 0 {
            return Err(r.error("key offset", 0, length, "a length above 0"));
        }
        if used > length {
            return Err(r.error("used", 0, used, format_args!("at most {length}")));
        }
        if chunk_objectid != objectid::FIRST_CHUNK_TREE {
            let expected = objectid::FIRST_CHUNK_TREE;
            return Err(r.error("chunk_objectid", 8, chunk_objectid, expected));
        }
        Ok(Self { used, flags: BlockGroupFlags::checked(&r, 16, bits)? })
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u64(self.used).u64(objectid::FIRST_CHUNK_TREE).u64(self.flags.bits());
        w.0
    }
}

/// How a block group's free space is recorded. Key: (first logical address, `FREE_SPACE_INFO`, length).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpaceInfo {
    /// Free extents in the block group, in whatever form.
    pub extent_count: u32,
    /// Whether they are bitmaps instead of one item each.
    pub bitmaps: bool,
}

impl FreeSpaceInfo {
    /// Bytes on disk.
    pub const LEN: usize = 8;

    /// Reads the item.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("free space info", bytes);
        let extent_count = r.u32("extent_count")?;
        let flags = r.u32("flags")?;
        r.done()?;
        if flags > 1 {
            return Err(r.error("flags", 4, format_args!("{flags:#x}"), "0, or 1 for bitmaps"));
        }
        Ok(Self { extent_count, bitmaps: flags == 1 })
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u32(self.extent_count).u32(u32::from(self.bitmaps));
        w.0
    }
}

/// Bytes of a block.
const SECTOR: u64 = 4096;

/// Most bytes of a free space bitmap.
pub const BITMAP_LEN: usize = 256;
/// Bytes of the volume that a full bitmap speaks of.
pub const BITMAP_RANGE: u64 = BITMAP_LEN as u64 * 8 * 4096;

/// Checks the free extent whose key is (`start`, `FREE_SPACE_EXTENT`, `length`).
///
/// # Errors
/// If it is not one or more whole blocks that end below 2^64.
pub fn check_free_extent(start: u64, length: u64) -> DiskResult<()> {
    let r = Reader::new("free space extent", &[]);
    if !start.is_multiple_of(SECTOR) {
        return Err(r.error("key objectid", 0, start, "a multiple of 4096"));
    }
    if length == 0 || !length.is_multiple_of(SECTOR) || start.checked_add(length).is_none() {
        let expected = "a multiple of 4096, not 0, with an end below 2^64";
        return Err(r.error("key offset", 0, length, expected));
    }
    Ok(())
}

/// The free extents, as (first address, bytes), of the bitmap at key (`start`, `FREE_SPACE_BITMAP`, `length`).
///
/// # Errors
/// If the key is not of whole blocks, or the bitmap's length does not fit it.
pub fn parse_free_space_bitmap(
    start: u64,
    length: u64,
    bytes: &[u8],
) -> DiskResult<Vec<(u64, u64)>> {
    let r = Reader::new("free space bitmap", bytes);
    if !start.is_multiple_of(SECTOR) {
        return Err(r.error("key objectid", 0, start, "a multiple of 4096"));
    }
    if length == 0 || !length.is_multiple_of(4096) || length > BITMAP_RANGE {
        let expected = format!("a multiple of 4096 up to {BITMAP_RANGE}, not 0");
        return Err(r.error("key offset", 0, length, expected));
    }
    if start.checked_add(length).is_none() {
        return Err(r.error("key offset", 0, length, "an end below 2^64"));
    }
    let blocks = length / 4096;
    if bytes.len() as u64 != blocks.div_ceil(8) {
        return Err(r.error("length", 0, bytes.len(), blocks.div_ceil(8)));
    }
    let mut free: Vec<(u64, u64)> = Vec::new();
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    for (block, is_free) in (0..blocks).zip(bits) {
        let at = start + block * 4096;
        match free.last_mut() {
            _ if !is_free => {}
            Some((first, len)) if *first + *len == at => *len += 4096,
            _ => free.push((at, 4096)),
        }
    }
    Ok(free)
}

/// The bitmap for (`start`, `length`) with the blocks of `free` set; what lies outside is left out.
#[must_use]
pub fn free_space_bitmap(start: u64, length: u64, free: &[(u64, u64)]) -> Vec<u8> {
    let blocks = length / 4096;
    let mut out = Vec::with_capacity(BITMAP_LEN);
    for first in (0..blocks).step_by(8) {
        let byte = (0..8u8).fold(0u8, |byte, bit| {
            let at = start + (first + u64::from(bit)) * 4096;
            let inside = first + u64::from(bit) < blocks;
            let is_free = inside && free.iter().any(|&(s, len)| s <= at && at - s < len);
            byte | u8::from(is_free) << bit
        });
        out.push(byte);
    }
    out
}
