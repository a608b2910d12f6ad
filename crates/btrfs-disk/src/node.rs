//! Tree blocks: header, leaves and interior nodes.
//!
//! A leaf's items are packed as btrfs requires: item headers from the front, their data from the end backwards in the
//! same order, without gaps or overlap, and zeros between. Parsing checks all of that (law E3), so whoever holds a
//! [`ParsedLeaf`] reads items without further checks.

use std::iter::FusedIterator;
use std::ops::Range;

use uuid::Uuid;

use crate::csum;
use crate::error::{DiskError, DiskResult};
use crate::key::{Key, TreeId};
use crate::wire::{Reader, Writer};
use cowback_codec::ChecksumKind;

/// Bytes of a tree block's header.
pub const HEADER_LEN: usize = 101;
/// Bytes of an item header in a leaf: key, offset, size.
pub const ITEM_LEN: usize = 25;
/// Bytes of a pointer in an interior node: key, address, generation.
pub const PTR_LEN: usize = 33;
/// Levels that a tree may have; the root's level is at most one less.
pub const MAX_LEVEL: u8 = 8;
/// Tree block addresses are multiples of this.
const SECTOR: u64 = 4096;
const FLAG_WRITTEN: u64 = 1;
const FLAG_RELOC: u64 = 2;
const FLAG_BITS: u64 = (1 << 56) - 1;
const MIXED_BACKREF_REV: u64 = 1;

/// What a tree block says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The volume (its metadata UUID).
    pub fsid: Uuid,
    /// Logical disk address of this block.
    pub bytenr: u64,
    /// Whether balance made this block.
    pub reloc: bool,
    /// UUID of the chunk tree, the same in every block.
    pub chunk_tree_uuid: Uuid,
    /// Transaction that wrote the block.
    pub generation: u64,
    /// Tree that the block was made for.
    pub owner: TreeId,
    /// 0 for a leaf.
    pub level: u8,
}

/// What the reader of a block knows about it beforehand.
#[derive(Debug, Clone, Default)]
pub struct BlockExpect {
    /// Its address.
    pub bytenr: u64,
    /// The volume's metadata UUID.
    pub fsid: Uuid,
    /// The level that its parent implies.
    pub level: Option<u8>,
    /// The generation that its parent names.
    pub generation: Option<u64>,
    /// The tree, where blocks are not shared between trees.
    pub owner: Option<u64>,
    /// The key that its parent names.
    pub first_key: Option<Key>,
}

/// Where an item of a leaf is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its key.
    pub key: Key,
    /// First byte of its data, from the start of the block.
    pub offset: u32,
    /// Bytes of its data.
    pub len: u32,
}

/// A leaf, checked. Borrows the block.
#[derive(Debug, Clone)]
pub struct ParsedLeaf<'a> {
    header: Header,
    slots: Vec<Slot>,
    block: &'a [u8],
}

/// A pointer of an interior node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePtr {
    /// First key of the child.
    pub key: Key,
    /// Logical disk address of the child.
    pub bytenr: u64,
    /// Transaction that wrote the child.
    pub generation: u64,
}

/// An interior node, checked: at least one pointer, keys strictly ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedNode {
    /// What the block says about itself; the level is at least 1.
    pub header: Header,
    /// The children in order.
    pub ptrs: Vec<NodePtr>,
}

/// A tree block, checked.
#[derive(Debug, Clone)]
pub enum ParsedBlock<'a> {
    /// Level 0.
    Leaf(ParsedLeaf<'a>),
    /// Level 1 and up.
    Node(ParsedNode),
}

impl ParsedBlock<'_> {
    /// What the block says about itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        match self {
            Self::Leaf(leaf) => &leaf.header,
            Self::Node(node) => &node.header,
        }
    }
}

impl<'a> ParsedLeaf<'a> {
    /// What the block says about itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The items' places, in key order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The items, in key order.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = (Key, &'a [u8])> + FusedIterator + '_ {
        let block = self.block;
        self.slots.iter().map(move |slot| {
            let data = block.get(slot.range()).expect("parse_block checked the slot");
            (slot.key, data)
        })
    }
}

impl Slot {
    /// The item's data within the block.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.offset as usize..self.offset as usize + self.len as usize
    }
}

/// Bytes for items (their headers and data) in a leaf of `nodesize` bytes.
#[must_use]
pub const fn leaf_capacity(nodesize: usize) -> usize {
    nodesize.saturating_sub(HEADER_LEN)
}

/// Pointers in an interior node of `nodesize` bytes.
#[must_use]
pub const fn node_capacity(nodesize: usize) -> usize {
    nodesize.saturating_sub(HEADER_LEN) / PTR_LEN
}

/// Checks a whole tree block.
///
/// # Errors
/// Names the first field that is wrong.
pub fn parse_block<'a>(
    bytes: &'a [u8],
    expect: &BlockExpect,
    csum: ChecksumKind,
) -> DiskResult<ParsedBlock<'a>> {
    csum::verify("tree block", csum, bytes)?;
    let (header, nritems) = parse_header(bytes, expect)?;
    let first = if header.level == 0 {
        let leaf = parse_leaf(bytes, header, nritems)?;
        let first = leaf.slots.first().map(|slot| slot.key);
        (ParsedBlock::Leaf(leaf), first)
    } else {
        let node = parse_node(bytes, header, nritems)?;
        let first = node.ptrs.first().map(|ptr| ptr.key);
        (ParsedBlock::Node(node), first)
    };
    let (block, first) = first;
    if let Some(key) = expect.first_key
        && first != Some(key)
    {
        let found = first.map_or_else(|| "no item".to_owned(), |key| key.to_string());
        return Err(DiskError::new("tree block", "first key", HEADER_LEN, found, key));
    }
    Ok(block)
}

fn parse_header(bytes: &[u8], expect: &BlockExpect) -> DiskResult<(Header, usize)> {
    let mut r = Reader::new("header", bytes);
    r.take("csum", csum::CSUM_FIELD)?;
    let fsid = r.uuid("fsid")?;
    let bytenr = r.u64("bytenr")?;
    let flags_at = r.at();
    let flags = r.u64("flags")?;
    let chunk_tree_uuid = r.uuid("chunk tree uuid")?;
    let generation = r.u64("generation")?;
    let owner = r.u64("owner")?;
    let nritems = r.u32("nritems")?;
    let level_at = r.at();
    let level = r.u8("level")?;

    if fsid != expect.fsid {
        return Err(r.error("fsid", 32, fsid, expect.fsid));
    }
    if bytenr != expect.bytenr {
        return Err(r.error("bytenr", 48, bytenr, expect.bytenr));
    }
    let plain = flags & FLAG_BITS;
    if plain & FLAG_WRITTEN == 0 || plain & !(FLAG_WRITTEN | FLAG_RELOC) != 0 {
        let expected = "WRITTEN (0x1), perhaps RELOC (0x2)";
        return Err(r.error("flags", flags_at, format_args!("{plain:#x}"), expected));
    }
    if flags >> 56 != MIXED_BACKREF_REV {
        return Err(r.error("backref revision", flags_at, flags >> 56, MIXED_BACKREF_REV));
    }
    if let Some(expected) = expect.generation
        && generation != expected
    {
        return Err(r.error("generation", 80, generation, expected));
    }
    if owner == 0 {
        return Err(r.error("owner", 88, owner, "a tree"));
    }
    if let Some(expected) = expect.owner
        && owner != expected
    {
        return Err(r.error("owner", 88, TreeId(owner), TreeId(expected)));
    }
    if level >= MAX_LEVEL {
        return Err(r.error("level", level_at, level, format_args!("below {MAX_LEVEL}")));
    }
    if let Some(expected) = expect.level
        && level != expected
    {
        return Err(r.error("level", level_at, level, expected));
    }
    let reloc = plain & FLAG_RELOC != 0;
    let owner = TreeId(owner);
    let header = Header { fsid, bytenr, reloc, chunk_tree_uuid, generation, owner, level };
    Ok((header, nritems as usize))
}

fn nritems_error(structure: &'static str, found: usize, expected: String) -> DiskError {
    DiskError::new(structure, "nritems", 96, found, expected)
}

fn parse_leaf(bytes: &[u8], header: Header, nritems: usize) -> DiskResult<ParsedLeaf<'_>> {
    let room = leaf_capacity(bytes.len());
    if nritems > room / ITEM_LEN {
        return Err(nritems_error("leaf", nritems, format!("at most {}", room / ITEM_LEN)));
    }
    if nritems == 0 && header.owner.is_never_empty() {
        return Err(nritems_error("leaf", 0, format!("an item, as {:?} has some", header.owner)));
    }
    let mut r = Reader::new("leaf", bytes);
    r.take("header", HEADER_LEN)?;
    let mut slots: Vec<Slot> = Vec::with_capacity(nritems);
    let mut end = bytes.len();
    for _ in 0..nritems {
        let key_at = r.at();
        let key = r.key("item key")?;
        if let Some(last) = slots.last()
            && last.key >= key
        {
            return Err(r.error("item key", key_at, key, format_args!("above {}", last.key)));
        }
        let at = r.at();
        let (offset, len) = (r.u32("item offset")?, r.u32("item size")?);
        // An item's offset on disk counts from the end of the header.
        let start = u64::from(offset) + HEADER_LEN as u64;
        if start + u64::from(len) != end as u64 {
            return Err(r.error(
                "item end",
                at,
                start + u64::from(len),
                format_args!("{end}, where the data before it begins"),
            ));
        }
        end -= len as usize;
        let offset = u32::try_from(start)
            .map_err(|_| r.error("item offset", at, offset, "an offset within the block"))?;
        slots.push(Slot { key, offset, len });
    }
    if end < r.at() {
        let expected = format!("{} or more, past the item headers", r.at());
        return Err(r.error("item data", HEADER_LEN, end, expected));
    }
    Ok(ParsedLeaf { header, slots, block: bytes })
}

fn parse_node(bytes: &[u8], header: Header, nritems: usize) -> DiskResult<ParsedNode> {
    let most = node_capacity(bytes.len());
    if nritems == 0 || nritems > most {
        return Err(nritems_error("node", nritems, format!("1 to {most}")));
    }
    let mut r = Reader::new("node", bytes);
    r.take("header", HEADER_LEN)?;
    let mut ptrs: Vec<NodePtr> = Vec::with_capacity(nritems);
    for _ in 0..nritems {
        let key_at = r.at();
        let key = r.key("pointer key")?;
        if let Some(last) = ptrs.last()
            && last.key >= key
        {
            return Err(r.error("pointer key", key_at, key, format_args!("above {}", last.key)));
        }
        let at = r.at();
        let bytenr = r.u64("pointer bytenr")?;
        if bytenr == 0 || !bytenr.is_multiple_of(SECTOR) {
            return Err(r.error("pointer bytenr", at, bytenr, "a multiple of 4096, not 0"));
        }
        let at = r.at();
        let generation = r.u64("pointer generation")?;
        if generation > header.generation {
            let expected = format!("at most {}, the node's own", header.generation);
            return Err(r.error("pointer generation", at, generation, expected));
        }
        ptrs.push(NodePtr { key, bytenr, generation });
    }
    Ok(ParsedNode { header, ptrs })
}

fn write_header(w: &mut Writer, header: &Header, nritems: usize) -> DiskResult<()> {
    let nritems = u32::try_from(nritems)
        .map_err(|_| nritems_error("tree block", nritems, "at most 2^32-1".to_owned()))?;
    let reloc = if header.reloc { FLAG_RELOC } else { 0 };
    w.pad_to(csum::CSUM_FIELD)
        .uuid(&header.fsid)
        .u64(header.bytenr)
        .u64(FLAG_WRITTEN | reloc | MIXED_BACKREF_REV << 56)
        .uuid(&header.chunk_tree_uuid)
        .u64(header.generation)
        .u64(header.owner.0)
        .u32(nritems)
        .u8(header.level);
    Ok(())
}

/// Lays a leaf out: item headers from the front, data from the end, zeros between, checksum.
///
/// # Errors
/// If the keys do not ascend strictly, the items do not fit, or the header's level is not 0.
pub fn write_leaf<'a>(
    header: &Header,
    nodesize: usize,
    csum: ChecksumKind,
    items: impl IntoIterator<Item = (Key, &'a [u8])>,
) -> DiskResult<Vec<u8>> {
    if header.level != 0 {
        return Err(DiskError::new("leaf", "level", 100, header.level, 0));
    }
    let items: Vec<(Key, &[u8])> = items.into_iter().collect();
    let mut w = Writer::with_capacity(nodesize);
    write_header(&mut w, header, items.len())?;
    let mut end = nodesize;
    let mut last: Option<Key> = None;
    for (key, data) in &items {
        check_order("leaf", "item key", &mut last, *key)?;
        let limit = w.0.len() + ITEM_LEN;
        end = match end.checked_sub(data.len()) {
            Some(end) if end >= limit => end,
            _ => {
                return Err(DiskError::new(
                    "leaf",
                    "room",
                    limit,
                    data.len(),
                    end - limit.min(end),
                ));
            }
        };
        let (offset, len) = (u32::try_from(end - HEADER_LEN), u32::try_from(data.len()));
        let (Ok(offset), Ok(len)) = (offset, len) else {
            return Err(DiskError::new("leaf", "nodesize", 0, nodesize, "below 4 GiB"));
        };
        w.key(key).u32(offset).u32(len);
    }
    w.pad_to(end.max(w.0.len()));
    for (_, data) in items.iter().rev() {
        w.bytes(data);
    }
    w.pad_to(nodesize);
    csum::seal(csum, &mut w.0);
    Ok(w.0)
}

/// Lays an interior node out: pointers, zeros, checksum.
///
/// # Errors
/// If the keys do not ascend strictly, the pointers do not fit, there is none, or the header's level is 0.
pub fn write_node(
    header: &Header,
    nodesize: usize,
    csum: ChecksumKind,
    ptrs: &[NodePtr],
) -> DiskResult<Vec<u8>> {
    if header.level == 0 || header.level >= MAX_LEVEL {
        return Err(DiskError::new("node", "level", 100, header.level, "1 to 7"));
    }
    if ptrs.is_empty() || ptrs.len() > node_capacity(nodesize) {
        let expected = format!("1 to {}", node_capacity(nodesize));
        return Err(nritems_error("node", ptrs.len(), expected));
    }
    let mut w = Writer::with_capacity(nodesize);
    write_header(&mut w, header, ptrs.len())?;
    let mut last: Option<Key> = None;
    for ptr in ptrs {
        check_order("node", "pointer key", &mut last, ptr.key)?;
        w.key(&ptr.key).u64(ptr.bytenr).u64(ptr.generation);
    }
    w.pad_to(nodesize);
    csum::seal(csum, &mut w.0);
    Ok(w.0)
}

fn check_order(
    structure: &'static str,
    field: &'static str,
    last: &mut Option<Key>,
    key: Key,
) -> DiskResult<()> {
    if let Some(before) = last.replace(key)
        && before >= key
    {
        return Err(DiskError::new(structure, field, 0, key, format_args!("above {before}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
