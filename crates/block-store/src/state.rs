//! The running transaction (stages 8 and 9): trees, space and references, and how they hang together.
//!
//! All of it is guarded by the store's one state lock. Invariant: each tree block and each data extent that was allocated
//! is in the extent tree, or noted in the delayed references, or held by a writer who will finish or free it.

use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::DevItem;
use cowback_btrfs_disk::superblock::{CompatRo, Incompat, Superblock};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::block_space::BlockSpace;
use crate::btree::Forest;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::free_space::FreeSpaceChanges;
use crate::namespace::Pending;
use crate::refs::{DataOwner, DelayedRefs, LostRefs};
use crate::reserve::Load;
use crate::space::Space;
use crate::trees::Trees;

/// The running transaction, and what it builds on.
#[derive(Debug)]
pub(crate) struct State {
    /// The device.
    pub(crate) disk: Arc<Disk>,
    /// The trees.
    pub(crate) forest: Forest,
    /// Space.
    pub(crate) space: Space,
    /// What the extent tree does not know yet.
    pub(crate) refs: DelayedRefs,
    /// References to data that count until it is durable that they went.
    pub(crate) lost_refs: LostRefs,
    /// What the free space tree does not know yet.
    pub(crate) free_space: FreeSpaceChanges,
    /// The superblock of the last commit.
    pub(crate) superblock: Superblock,
    /// The device's item, as the chunk tree has it.
    pub(crate) device: DevItem,
    /// Whether the superblock has to be written even if no tree changed.
    pub(crate) super_changed: bool,
    /// Where time stamps come from.
    pub(crate) clock: Clock,
    /// Completions that the trees do not know yet.
    pub(crate) pending: Pending,
    /// The file tree that is worked on.
    pub(crate) tree: TreeId,
    /// The last inode number that was given out.
    pub(crate) last_ino: u64,
    /// Subvolumes that are being deleted: their blocks are there, and nobody here looks at them.
    pub(crate) dead_trees: Vec<TreeId>,
    /// Files without names that are to be removed, for which there was no room in the transaction yet.
    pub(crate) leftover: std::collections::BTreeSet<cowback_base::Ino>,
    /// What there was no room for in the running transaction.
    pub(crate) refused: Load,
    /// Counts changes of trees: an operation that failed without any did no harm.
    pub(crate) changes: u64,
}

impl State {
    /// The tree that block group items are in.
    pub(crate) fn groups_tree(&self) -> TreeId {
        if self.superblock.compat_ro.contains(CompatRo::BLOCK_GROUP_TREE) {
            TreeId::BLOCK_GROUP
        } else {
            TreeId::EXTENT
        }
    }

    /// Whether there is a free space tree, and it is right.
    pub(crate) fn has_free_space_tree(&self) -> bool {
        let both = CompatRo::FREE_SPACE_TREE.union(CompatRo::FREE_SPACE_TREE_VALID);
        self.superblock.compat_ro.contains(both)
    }

    /// Whether there is nothing to commit.
    pub(crate) fn is_clean(&self) -> bool {
        self.forest.dirty.is_empty()
            && self.refs.is_empty()
            && self.pending.is_empty()
            && self.space.fresh.is_empty()
            && !self.super_changed
    }

    /// The volume uses `feature` from now on: who reads it has to know.
    pub(crate) fn use_feature(&mut self, feature: Incompat) {
        if !self.superblock.incompat.contains(feature) {
            self.superblock.incompat |= feature;
            self.super_changed = true;
        }
    }

    /// An item of `kind` is written. Of the features that items stand for, a volume of others may lack this one.
    fn use_item(&mut self, kind: ItemKind) {
        if kind == ItemKind::INODE_EXTREF {
            self.use_feature(Incompat::EXTENDED_IREF);
        }
    }

    /// The trees, to be changed, and where their blocks come from.
    pub(crate) fn parts(&mut self) -> (&mut Forest, BlockSpace<'_>) {
        let nodesize = self.forest.nodesize() as u64;
        let generation = self.forest.generation;
        let (space, refs) = (&mut self.space, &mut self.refs);
        (&mut self.forest, BlockSpace { space, refs, nodesize, generation })
    }
}

impl Trees for State {
    fn get(&self, tree: TreeId, key: &Key) -> StoreResult<Option<Vec<u8>>> {
        self.forest.get(tree, key)
    }

    fn at_or_after(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>> {
        self.forest.at_or_after(tree, key)
    }

    fn at_or_before(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>> {
        self.forest.at_or_before(tree, key)
    }

    fn insert(&mut self, tree: TreeId, key: Key, data: &[u8]) -> StoreResult<()> {
        self.changes += 1;
        self.use_item(key.kind);
        let (forest, mut blocks) = self.parts();
        forest.insert(&mut blocks, tree, key, data)
    }

    fn update(&mut self, tree: TreeId, key: &Key, data: &[u8]) -> StoreResult<()> {
        self.changes += 1;
        self.use_item(key.kind);
        let (forest, mut blocks) = self.parts();
        forest.update(&mut blocks, tree, key, data)
    }

    fn remove(&mut self, tree: TreeId, key: &Key) -> StoreResult<Vec<u8>> {
        self.changes += 1;
        let (forest, mut blocks) = self.parts();
        forest.remove(&mut blocks, tree, key)
    }

    fn add_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64) {
        self.changes += 1;
        self.refs.data_changed(bytenr, len, DataOwner::File(root.0, ino, offset), 1);
    }

    fn drop_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64) {
        self.changes += 1;
        self.refs.data_changed(bytenr, len, DataOwner::File(root.0, ino, offset), -1);
    }

    fn free_data_extent(&mut self, bytenr: u64, len: u64) {
        let range = ByteRange::at(bytenr, len);
        // It never was in a tree: no commit, not even one that is being written, names it.
        self.disk.forget_data(range);
        let freed = self.space.pin(range);
        assert!(freed.is_ok(), "{freed:?}");
    }

    fn forget_data(&mut self, range: ByteRange) {
        self.disk.forget_data(range);
    }

    fn generation(&self) -> u64 {
        self.forest.generation
    }

    fn max_item(&self) -> usize {
        self.forest.max_item()
    }

    fn checksum(&self) -> ChecksumKind {
        self.disk.checksum
    }

    fn now(&self) -> (i64, u32) {
        self.clock.now()
    }
}
