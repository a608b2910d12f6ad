//! Keys, the kinds of items, tree ids and well-known objectids. A key orders by objectid, then kind, then offset.

use std::fmt;

use crate::error::{DiskError, DiskResult};
use crate::wire::{Reader, Writer};

/// What an item holds: the middle part of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKind(pub u8);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl ItemKind {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Debug for ItemKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)*
                    other => write!(f, "KIND_{other}"),
                }
            }
        }
    };
}

kinds! {
    /// Attributes of a file.
    INODE_ITEM = 1;
    /// Names of a file in one directory; offset is the directory.
    INODE_REF = 12;
    /// The same when [`ItemKind::INODE_REF`] is full; offset is a hash of directory and name.
    INODE_EXTREF = 13;
    /// Extended attributes; offset is the hash of the name.
    XATTR_ITEM = 24;
    /// fs-verity descriptor.
    VERITY_DESC = 36;
    /// fs-verity hashes.
    VERITY_MERKLE = 37;
    /// A file without names that is to be deleted; objectid is [`objectid::ORPHAN`], offset the inode.
    ORPHAN_ITEM = 48;
    /// Log tree only.
    DIR_LOG_ITEM = 60;
    /// Log tree only.
    DIR_LOG_INDEX = 72;
    /// Directory entries by hash of the name.
    DIR_ITEM = 84;
    /// Directory entry by position.
    DIR_INDEX = 96;
    /// File extent; offset is the position in the file.
    EXTENT_DATA = 108;
    /// Checksums; offset is the logical disk address of the first block.
    EXTENT_CSUM = 128;
    /// Root of a tree; objectid is the tree.
    ROOT_ITEM = 132;
    /// Subvolume to parent.
    ROOT_BACKREF = 144;
    /// Parent to subvolume.
    ROOT_REF = 156;
    /// Allocated extent; offset is its length.
    EXTENT_ITEM = 168;
    /// Allocated tree block; offset is its level.
    METADATA_ITEM = 169;
    /// Owner of an extent (simple quotas), inline only.
    EXTENT_OWNER_REF = 172;
    /// Back reference of a tree block; offset is the tree.
    TREE_BLOCK_REF = 176;
    /// Back reference of a data extent; offset is a hash of tree, inode and offset.
    EXTENT_DATA_REF = 178;
    /// Back reference of a tree block from its parent's address.
    SHARED_BLOCK_REF = 182;
    /// Back reference of a data extent from a leaf's address.
    SHARED_DATA_REF = 184;
    /// Block group; offset is its length.
    BLOCK_GROUP_ITEM = 192;
    /// Free space of a block group: form and number of entries.
    FREE_SPACE_INFO = 198;
    /// Free extent; offset is its length.
    FREE_SPACE_EXTENT = 199;
    /// Free space as one bit per block; offset is the length it covers.
    FREE_SPACE_BITMAP = 200;
    /// Part of a device that a chunk occupies; offset is the physical address.
    DEV_EXTENT = 204;
    /// Device.
    DEV_ITEM = 216;
    /// Chunk: logical to physical.
    CHUNK_ITEM = 228;
    /// Stripe tree.
    RAID_STRIPE = 230;
    /// Quota status.
    QGROUP_STATUS = 240;
    /// Quota usage.
    QGROUP_INFO = 242;
    /// Quota limits.
    QGROUP_LIMIT = 244;
    /// Quota hierarchy.
    QGROUP_RELATION = 246;
    /// State of a running operation such as balance.
    TEMPORARY_ITEM = 248;
    /// State that stays, such as device statistics.
    PERSISTENT_ITEM = 249;
    /// Device replacement.
    DEV_REPLACE = 250;
    /// UUID tree: subvolume.
    UUID_KEY_SUBVOL = 251;
    /// UUID tree: received subvolume.
    UUID_KEY_RECEIVED_SUBVOL = 252;
    /// Free text.
    STRING_ITEM = 253;
}

/// Well-known objectids that are not trees.
pub mod objectid {
    /// Device statistics, in the device tree's [`super::ItemKind::PERSISTENT_ITEM`].
    pub const DEV_STATS: u64 = 0;
    /// All device items in the chunk tree.
    pub const DEV_ITEMS: u64 = 1;
    /// The directory in the root tree that names the default subvolume.
    pub const ROOT_TREE_DIR: u64 = 6;
    /// Balance state.
    pub const BALANCE: u64 = 4u64.wrapping_neg();
    /// Orphans.
    pub const ORPHAN: u64 = 5u64.wrapping_neg();
    /// All checksum items.
    pub const EXTENT_CSUM: u64 = 10u64.wrapping_neg();
    /// Old free space cache.
    pub const FREE_SPACE: u64 = 11u64.wrapping_neg();
    /// First inode and first subvolume.
    pub const FIRST_FREE: u64 = 256;
    /// Last inode and last subvolume.
    pub const LAST_FREE: u64 = 256u64.wrapping_neg();
    /// All chunk items in the chunk tree.
    pub const FIRST_CHUNK_TREE: u64 = 256;
}

/// Which tree: the objectid of its root item, the owner in its blocks' headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u64);

impl TreeId {
    /// Roots of all trees.
    pub const ROOT: Self = Self(1);
    /// Allocated extents.
    pub const EXTENT: Self = Self(2);
    /// Chunks and devices.
    pub const CHUNK: Self = Self(3);
    /// Device extents.
    pub const DEV: Self = Self(4);
    /// The top-level file tree.
    pub const FS: Self = Self(5);
    /// Checksums of data.
    pub const CSUM: Self = Self(7);
    /// Quotas.
    pub const QUOTA: Self = Self(8);
    /// Subvolumes by UUID.
    pub const UUID: Self = Self(9);
    /// Free space.
    pub const FREE_SPACE: Self = Self(10);
    /// Block groups.
    pub const BLOCK_GROUP: Self = Self(11);
    /// RAID stripes.
    pub const RAID_STRIPE: Self = Self(12);
    /// Log tree.
    pub const TREE_LOG: Self = Self(6u64.wrapping_neg());
    /// Metadata under relocation.
    pub const TREE_RELOC: Self = Self(8u64.wrapping_neg());
    /// Data under relocation.
    pub const DATA_RELOC: Self = Self(9u64.wrapping_neg());

    /// Whether this tree holds files: the top-level one, a subvolume, or the data relocation tree.
    #[must_use]
    pub const fn is_file_tree(self) -> bool {
        self.0 == Self::FS.0
            || self.0 == Self::DATA_RELOC.0
            || (self.0 >= objectid::FIRST_FREE && self.0 <= objectid::LAST_FREE)
    }

    /// Whether a healthy volume never has this tree without items.
    #[must_use]
    pub const fn is_never_empty(self) -> bool {
        matches!(self, Self::ROOT | Self::EXTENT | Self::CHUNK | Self::DEV | Self::FS)
            || self.0 == Self::DATA_RELOC.0
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tree {self}")
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_objectid(self.0, f)
    }
}

fn fmt_objectid(id: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if id > objectid::LAST_FREE { write!(f, "-{}", id.wrapping_neg()) } else { write!(f, "{id}") }
}

/// Address of an item within a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What the item belongs to: an inode, a tree, a disk address ...
    pub objectid: u64,
    /// What the item is.
    pub kind: ItemKind,
    /// Told apart from others of its kind by this.
    pub offset: u64,
}

impl Key {
    /// Bytes of a key on disk.
    pub const LEN: usize = 17;
    /// The smallest key.
    pub const MIN: Self = Self { objectid: 0, kind: ItemKind(0), offset: 0 };
    /// The largest key.
    pub const MAX: Self = Self { objectid: u64::MAX, kind: ItemKind(u8::MAX), offset: u64::MAX };

    /// The key `(objectid, kind, offset)`.
    #[must_use]
    pub const fn new(objectid: u64, kind: ItemKind, offset: u64) -> Self {
        Self { objectid, kind, offset }
    }

    /// The key right after this one, if there is one.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.0.checked_add(1) {
            return Some(Self { kind: ItemKind(kind), offset: 0, ..self });
        }
        match self.objectid.checked_add(1) {
            Some(objectid) => Some(Self { objectid, kind: ItemKind(0), offset: 0 }),
            None => None,
        }
    }

    /// The key right before this one, if there is one.
    #[must_use]
    pub const fn prev(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_sub(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.0.checked_sub(1) {
            return Some(Self { kind: ItemKind(kind), offset: u64::MAX, ..self });
        }
        match self.objectid.checked_sub(1) {
            Some(objectid) => Some(Self { objectid, kind: ItemKind(u8::MAX), offset: u64::MAX }),
            None => None,
        }
    }

    /// Reads a key from exactly [`Key::LEN`] bytes.
    ///
    /// # Errors
    /// If there are more or fewer bytes.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("key", bytes);
        let key = r.key("key")?;
        r.done()?;
        Ok(key)
    }

    /// The key on disk.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.key(&self);
        w.0
    }

    /// Fails unless the key is of `kind`.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn expect_kind(self, structure: &'static str, kind: ItemKind) -> DiskResult<()> {
        if self.kind == kind {
            return Ok(());
        }
        Err(DiskError::new(structure, "key kind", 8, self, format_args!("{kind:?}")))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        fmt_objectid(self.objectid, f)?;
        write!(f, " {:?} {})", self.kind, self.offset)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_objectid_then_kind_then_offset() {
        let key = |o, k, off| Key::new(o, ItemKind(k), off);
        let sorted =
            [key(1, 1, u64::MAX), key(1, 2, 0), key(1, 2, 1), key(2, 0, 0), key(u64::MAX, 0, 0)];
        assert!(sorted.is_sorted());
        for key in sorted {
            assert_eq!(key.next().and_then(Key::prev), Some(key));
            assert_eq!(Key::parse(&key.to_bytes()), Ok(key));
        }
        assert_eq!((Key::MAX.next(), Key::MIN.prev()), (None, None));
        assert_eq!(key(1, 255, u64::MAX).next(), Some(key(2, 0, 0)));
    }

    #[test]
    fn a_key_prints_as_the_tools_of_the_field_print_it() {
        let key = Key::new(TreeId::DATA_RELOC.0, ItemKind::ROOT_ITEM, 0);
        assert_eq!(key.to_string(), "(-9 ROOT_ITEM 0)");
        assert_eq!(Key::new(256, ItemKind(7), 3).to_string(), "(256 KIND_7 3)");
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        assert!(Key::parse(&[0; 16]).is_err());
        assert!(Key::parse(&[0; 18]).is_err());
    }
}
