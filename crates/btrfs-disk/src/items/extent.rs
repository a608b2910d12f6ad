//! Extent items: what is allocated, and who refers to it.
//!
//! References stand inline in the extent item, ascending by kind and, within a kind, descending by
//! [`InlineRef::sequence`]; those for which there is no room are items of their own behind it.

use crate::error::DiskResult;
use crate::hash::data_ref_hash;
use crate::key::{ItemKind, Key};
use crate::node::MAX_LEVEL;
use crate::wire::{Reader, Writer};

const FLAG_DATA: u64 = 1;
const FLAG_TREE_BLOCK: u64 = 2;
const FLAG_FULL_BACKREF: u64 = 1 << 8;

/// One file extent item's, or several alike items', use of a data extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataRef {
    /// File tree.
    pub root: u64,
    /// Inode.
    pub ino: u64,
    /// Position in the file minus offset into the extent; may have wrapped below zero.
    pub offset: u64,
    /// How many items.
    pub count: u32,
}

impl DataRef {
    /// Bytes on disk.
    pub const LEN: usize = 28;

    /// More references of one extent with the same hash, or with those that follow it, are taken for damage.
    pub const COLLISIONS_MAX: u64 = 1 << 16;

    /// Key offset when this is an item of its own.
    #[must_use]
    pub fn hash(&self) -> u64 {
        data_ref_hash(self.root, self.ino, self.offset)
    }

    /// Whether this may be an item of its own with the key offset `at`: that is its hash, or, if references with that hash were there before,
    /// the first place behind it that was free then. They may have gone since, so that there are gaps.
    #[must_use]
    pub fn may_be_at(&self, at: u64) -> bool {
        at.checked_sub(self.hash()).is_some_and(|behind| behind < Self::COLLISIONS_MAX)
    }

    /// Reads the item at (bytenr, `EXTENT_DATA_REF`, hash).
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("extent data ref", bytes);
        let data_ref = Self::read(&mut r)?;
        r.done()?;
        Ok(data_ref)
    }

    fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let at = r.at();
        let (root, ino) = (r.u64("root")?, r.u64("objectid")?);
        let (offset, count) = (r.u64("offset")?, r.u32("count")?);
        if !offset.is_multiple_of(4096) {
            return Err(r.error("offset", at + 16, offset, "a multiple of 4096"));
        }
        if count == 0 {
            return Err(r.error("count", at + 24, count, "1 or more"));
        }
        Ok(Self { root, ino, offset, count })
    }

    fn write(&self, w: &mut Writer) {
        w.u64(self.root).u64(self.ino).u64(self.offset).u32(self.count);
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        self.write(&mut w);
        w.0
    }
}

/// A reference within an extent item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InlineRef {
    /// From a tree to its block.
    TreeBlock {
        /// The tree.
        root: u64,
    },
    /// From a file to its data.
    Data(DataRef),
    /// From a shared node to the tree block below it.
    SharedBlock {
        /// The node's address.
        parent: u64,
    },
    /// From a shared leaf to the data that it names.
    SharedData {
        /// The leaf's address.
        parent: u64,
        /// How many items of the leaf.
        count: u32,
    },
    /// First owner, of volumes with simple quotas. Counts as no reference.
    Owner {
        /// The tree.
        root: u64,
    },
}

impl InlineRef {
    /// The kind, by which references stand in ascending order.
    #[must_use]
    pub const fn kind(&self) -> ItemKind {
        match self {
            Self::TreeBlock { .. } => ItemKind::TREE_BLOCK_REF,
            Self::Data(_) => ItemKind::EXTENT_DATA_REF,
            Self::SharedBlock { .. } => ItemKind::SHARED_BLOCK_REF,
            Self::SharedData { .. } => ItemKind::SHARED_DATA_REF,
            Self::Owner { .. } => ItemKind::EXTENT_OWNER_REF,
        }
    }

    /// What references of one kind stand in descending order of; the key offset as an item of its own.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match self {
            Self::TreeBlock { root } | Self::Owner { root } => *root,
            Self::Data(data) => data.hash(),
            Self::SharedBlock { parent } | Self::SharedData { parent, .. } => *parent,
        }
    }

    /// How many references this is.
    #[must_use]
    pub const fn count(&self) -> u32 {
        match self {
            Self::TreeBlock { .. } | Self::SharedBlock { .. } => 1,
            Self::Data(data) => data.count,
            Self::SharedData { count, .. } => *count,
            Self::Owner { .. } => 0,
        }
    }

    /// Bytes on disk.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Data(_) => 1 + DataRef::LEN,
            Self::SharedData { .. } => 13,
            _ => 9,
        }
    }

    /// Never: a reference has bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let at = r.at();
        let kind = ItemKind(r.u8("inline ref kind")?);
        Ok(match kind {
            ItemKind::EXTENT_DATA_REF => Self::Data(DataRef::read(r)?),
            ItemKind::TREE_BLOCK_REF => Self::TreeBlock { root: r.u64("root")? },
            ItemKind::EXTENT_OWNER_REF => Self::Owner { root: r.u64("root")? },
            ItemKind::SHARED_BLOCK_REF => Self::SharedBlock { parent: aligned(r)? },
            ItemKind::SHARED_DATA_REF => {
                let parent = aligned(r)?;
                let count = r.u32("count")?;
                if count == 0 {
                    return Err(r.error("count", at + 9, count, "1 or more"));
                }
                Self::SharedData { parent, count }
            }
            other => {
                let expected = "a kind of reference";
                return Err(r.error("inline ref kind", at, format_args!("{other:?}"), expected));
            }
        })
    }

    fn write(&self, w: &mut Writer) {
        w.u8(self.kind().0);
        match self {
            Self::TreeBlock { root } | Self::Owner { root } => w.u64(*root),
            Self::SharedBlock { parent } => w.u64(*parent),
            Self::SharedData { parent, count } => w.u64(*parent).u32(*count),
            Self::Data(data) => {
                data.write(w);
                w
            }
        };
    }
}

fn aligned(r: &mut Reader<'_>) -> DiskResult<u64> {
    let at = r.at();
    let parent = r.u64("parent")?;
    if parent == 0 || !parent.is_multiple_of(4096) {
        return Err(r.error("parent", at, parent, "a multiple of 4096, not 0"));
    }
    Ok(parent)
}

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentOwner {
    /// File data.
    Data,
    /// A tree block.
    TreeBlock {
        /// Whether all references below it are shared ones.
        full_backref: bool,
        /// First key and level, which only items of kind `EXTENT_ITEM` record here.
        info: Option<(Key, u8)>,
    },
}

/// An allocated extent. Key: (bytenr, `EXTENT_ITEM`, length), or (bytenr, `METADATA_ITEM`, level) for tree blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentItem {
    /// References in all, inline and as items of their own.
    pub refs: u64,
    /// Transaction that allocated it.
    pub generation: u64,
    /// What it holds.
    pub owner: ExtentOwner,
    /// The inline references in order.
    pub inline: Vec<InlineRef>,
}

impl ExtentItem {
    /// Bytes on disk before the inline references, without a tree block's info.
    pub const FIXED_LEN: usize = 24;

    /// Reads the item at `key`.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(key: &Key, bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("extent item", bytes);
        let refs = r.u64("refs")?;
        let generation = r.u64("generation")?;
        let flags = r.u64("flags")?;
        if !key.objectid.is_multiple_of(4096) {
            return Err(r.error("key objectid", 0, key.objectid, "a multiple of 4096"));
        }
        let owner = Self::read_owner(key, flags, &mut r)?;
        let mut inline: Vec<InlineRef> = Vec::new();
        let mut counted = 0u64;
        while r.left() > 0 {
            let at = r.at();
            let one = InlineRef::read(&mut r)?;
            let is_block =
                matches!(one, InlineRef::TreeBlock { .. } | InlineRef::SharedBlock { .. });
            let is_data = matches!(one, InlineRef::Data(_) | InlineRef::SharedData { .. });
            if (owner == ExtentOwner::Data && is_block) || (owner != ExtentOwner::Data && is_data) {
                let found = format_args!("{:?}", one.kind());
                return Err(r.error("inline ref kind", at, found, "one that fits the flags"));
            }
            counted += u64::from(one.count());
            inline.push(one);
        }
        if counted > refs || refs == 0 {
            let expected = format!("{} or more", counted.max(1));
            return Err(r.error("refs", 0, refs, expected));
        }
        Ok(Self { refs, generation, owner, inline })
    }

    fn read_owner(key: &Key, flags: u64, r: &mut Reader<'_>) -> DiskResult<ExtentOwner> {
        let skinny = key.kind == ItemKind::METADATA_ITEM;
        if !skinny {
            key.expect_kind("extent item", ItemKind::EXTENT_ITEM)?;
            if key.offset == 0 || !key.offset.is_multiple_of(4096) {
                return Err(r.error("key offset", 0, key.offset, "a multiple of 4096, not 0"));
            }
            if key.objectid.checked_add(key.offset).is_none() {
                return Err(r.error("key offset", 0, key.offset, "an end below 2^64"));
            }
        } else if key.offset >= u64::from(MAX_LEVEL) {
            return Err(r.error("key offset", 0, key.offset, "a level below 8"));
        }
        match flags {
            FLAG_DATA if !skinny => Ok(ExtentOwner::Data),
            _ if flags & !FLAG_FULL_BACKREF == FLAG_TREE_BLOCK => {
                let full_backref = flags & FLAG_FULL_BACKREF != 0;
                if skinny {
                    return Ok(ExtentOwner::TreeBlock { full_backref, info: None });
                }
                let first = r.key("first key")?;
                let at = r.at();
                let level = r.u8("level")?;
                if level >= MAX_LEVEL {
                    return Err(r.error("level", at, level, "below 8"));
                }
                Ok(ExtentOwner::TreeBlock { full_backref, info: Some((first, level)) })
            }
            _ => {
                let expected =
                    if skinny { "tree block (0x2)" } else { "data (0x1) or tree block (0x2)" };
                Err(r.error("flags", 16, format_args!("{flags:#x}"), expected))
            }
        }
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let (flags, info) = match self.owner {
            ExtentOwner::Data => (FLAG_DATA, None),
            ExtentOwner::TreeBlock { full_backref, info } => {
                (FLAG_TREE_BLOCK | if full_backref { FLAG_FULL_BACKREF } else { 0 }, info)
            }
        };
        w.u64(self.refs).u64(self.generation).u64(flags);
        if let Some((key, level)) = info {
            w.key(&key).u8(level);
        }
        for one in &self.inline {
            one.write(&mut w);
        }
        w.0
    }

    /// Puts the inline references into the order that the format wants.
    pub fn sort_inline(&mut self) {
        self.inline.sort_by_key(|one| (one.kind(), std::cmp::Reverse(one.sequence())));
    }
}

/// Reads the count of the item at (bytenr, `SHARED_DATA_REF`, parent).
///
/// # Errors
/// If the item is not 4 bytes, or the count is 0.
pub fn parse_shared_data_ref(bytes: &[u8]) -> DiskResult<u32> {
    let mut r = Reader::new("shared data ref", bytes);
    let count = r.u32("count")?;
    r.done()?;
    if count == 0 {
        return Err(r.error("count", 0, count, "1 or more"));
    }
    Ok(count)
}
