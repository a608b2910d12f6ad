//! The rules for a whole leaf: each item by its kind, and neighbours that must not overlap.

use super::{
    BlockGroupItem, ChunkItem, DataRef, DevExtent, DevItem, DevStats, DirEntry, ExtentItem,
    FileExtent, FreeSpaceInfo, InodeExtref, InodeItem, InodeRef, RootItem, RootRef, extent, group,
    uuid_key,
};
use crate::error::{DiskError, DiskResult};
use crate::key::{ItemKind, Key, objectid};
use crate::node::ParsedLeaf;

/// What the rules for items depend on.
#[derive(Debug, Clone, Copy)]
pub struct LeafRules {
    /// Bytes of a tree block.
    pub nodesize: u64,
    /// Bytes of one block's checksum.
    pub csum_size: usize,
    /// No generation in an item may be above this: the superblock's, or the running transaction's.
    pub max_generation: u64,
}

/// Checks every item of a leaf, and that neighbours do not overlap. Items of kinds that are not known are let pass.
///
/// # Errors
/// Names the first field that is wrong.
pub fn check_leaf(leaf: &ParsedLeaf<'_>, rules: &LeafRules) -> DiskResult<()> {
    let mut before: Option<(Key, u64)> = None;
    for (key, data) in leaf.items() {
        let end = check_item(&key, data, rules)?;
        let start = if starts_at_offset(key.kind) { key.offset } else { key.objectid };
        if let Some((last, last_end)) = before
            && same_space(&last, &key)
            && last_end > start
        {
            let expected = format!("{last_end} or more, where {last} ends");
            return Err(DiskError::new("leaf", "item start", 0, key, expected));
        }
        if let Some(end) = end {
            before = Some((key, end));
        }
    }
    Ok(())
}

/// Whether the item's range begins at its key's offset, and not at the objectid.
const fn starts_at_offset(kind: ItemKind) -> bool {
    matches!(
        kind,
        ItemKind::EXTENT_DATA | ItemKind::EXTENT_CSUM | ItemKind::DEV_EXTENT | ItemKind::CHUNK_ITEM
    )
}

/// Whether the ranges of both items lie in one space, where they must not overlap.
fn same_space(a: &Key, b: &Key) -> bool {
    let group = |kind| if kind == ItemKind::METADATA_ITEM { ItemKind::EXTENT_ITEM } else { kind };
    group(a.kind) == group(b.kind) && (!starts_at_offset(a.kind) || a.objectid == b.objectid)
}

/// Checks one item; gives the end of its range if its kind has one.
///
/// # Errors
/// Names the first field that is wrong.
pub fn check_item(key: &Key, data: &[u8], rules: &LeafRules) -> DiskResult<Option<u64>> {
    let newest = |structure, generation| {
        if generation <= rules.max_generation {
            return Ok(());
        }
        let expected = format!("at most {}", rules.max_generation);
        Err(DiskError::new(structure, "generation", 0, generation, expected))
    };
    let after_key = |len: u64| Ok(Some(key.objectid.saturating_add(len)));
    match key.kind {
        ItemKind::INODE_ITEM => {
            let item = InodeItem::parse(data)?;
            newest("inode item", item.generation.max(item.transid))?;
        }
        ItemKind::EXTENT_DATA => {
            let item = FileExtent::parse(key, data)?;
            newest("file extent", item.generation)?;
            return Ok(Some(item.end(key.offset)));
        }
        ItemKind::EXTENT_CSUM => return csum_end(key, data, rules.csum_size).map(Some),
        ItemKind::ROOT_ITEM => {
            let item = RootItem::parse(data)?;
            newest("root item", item.generation.max(item.v2.generation).max(item.last_snapshot))?;
        }
        ItemKind::EXTENT_ITEM | ItemKind::METADATA_ITEM => {
            newest("extent item", ExtentItem::parse(key, data)?.generation)?;
            let skinny = key.kind == ItemKind::METADATA_ITEM;
            return after_key(if skinny { rules.nodesize } else { key.offset });
        }
        ItemKind::BLOCK_GROUP_ITEM => {
            BlockGroupItem::parse(key.offset, data)?;
            return after_key(key.offset);
        }
        ItemKind::FREE_SPACE_EXTENT => {
            check_empty("free space extent", data)?;
            group::check_free_extent(key.objectid, key.offset)?;
            return after_key(key.offset);
        }
        ItemKind::FREE_SPACE_BITMAP => {
            group::parse_free_space_bitmap(key.objectid, key.offset, data)?;
            return after_key(key.offset);
        }
        ItemKind::CHUNK_ITEM => {
            let chunk = ChunkItem::parse(key.offset, data)?;
            return Ok(Some(key.offset.saturating_add(chunk.length)));
        }
        ItemKind::DEV_EXTENT => {
            let item = DevExtent::parse(data)?;
            return Ok(Some(key.offset.saturating_add(item.length)));
        }
        _ => check_alone(key, data)?,
    }
    Ok(None)
}

/// Checks an item that has neither a range nor a generation.
fn check_alone(key: &Key, data: &[u8]) -> DiskResult<()> {
    match key.kind {
        ItemKind::INODE_REF => InodeRef::parse_all(data).map(drop),
        ItemKind::INODE_EXTREF => InodeExtref::parse_all(data).map(drop),
        ItemKind::DIR_ITEM | ItemKind::DIR_INDEX | ItemKind::XATTR_ITEM => {
            DirEntry::parse_all(key, data).map(drop)
        }
        ItemKind::ROOT_REF | ItemKind::ROOT_BACKREF => RootRef::parse(data).map(drop),
        ItemKind::EXTENT_DATA_REF => DataRef::parse(data).map(drop),
        ItemKind::SHARED_DATA_REF => extent::parse_shared_data_ref(data).map(drop),
        ItemKind::FREE_SPACE_INFO => FreeSpaceInfo::parse(data).map(drop),
        ItemKind::DEV_ITEM => {
            let devid = DevItem::parse(data)?.devid;
            if devid == key.offset && key.objectid == objectid::DEV_ITEMS {
                return Ok(());
            }
            Err(DiskError::new("device item", "key", 0, key, format_args!("(1 DEV_ITEM {devid})")))
        }
        ItemKind::UUID_KEY_SUBVOL | ItemKind::UUID_KEY_RECEIVED_SUBVOL => {
            uuid_key::parse_uuid_item(data).map(drop)
        }
        ItemKind::PERSISTENT_ITEM if key.objectid == objectid::DEV_STATS => {
            DevStats::parse(data).map(drop)
        }
        ItemKind::ORPHAN_ITEM => check_empty("orphan item", data),
        ItemKind::TREE_BLOCK_REF | ItemKind::SHARED_BLOCK_REF => check_empty("keyed ref", data),
        _ => Ok(()),
    }
}

fn check_empty(structure: &'static str, data: &[u8]) -> DiskResult<()> {
    if data.is_empty() {
        return Ok(());
    }
    Err(DiskError::new(structure, "length", 0, data.len(), 0))
}

/// End of the range whose checksums the item at `key` holds.
fn csum_end(key: &Key, data: &[u8], csum_size: usize) -> DiskResult<u64> {
    let error =
        |field, found, expected: &str| Err(DiskError::new("csum item", field, 0, found, expected));
    if key.objectid != objectid::EXTENT_CSUM {
        return error("key objectid", key.objectid, "-10");
    }
    if !key.offset.is_multiple_of(4096) {
        return error("key offset", key.offset, "a multiple of 4096");
    }
    if csum_size == 0 || data.is_empty() || !data.len().is_multiple_of(csum_size) {
        return error("length", data.len() as u64, "a multiple of the checksum's length");
    }
    let end = key.offset.checked_add((data.len() / csum_size) as u64 * 4096);
    end.map_or_else(|| error("length", data.len() as u64, "an end below 2^64"), Ok)
}
