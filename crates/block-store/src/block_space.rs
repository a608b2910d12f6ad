//! Space for tree blocks, and what happens to a block that a tree copied (stage 9).
//!
//! A block of the running transaction is free again at once, one of an earlier transaction once the running one is durable
//! (law R4). A block that is not younger than its tree's last snapshot, or that a balance made, may belong to several trees: then
//! its space is pinned only with its last reference, and what it refers to gains references, as the copy refers to the same.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{ExtentItem, ExtentOwner, FileExtent, FileExtentData};
use cowback_btrfs_disk::{ItemKind, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::btree::{Blocks, Forest};
use crate::error::{corrupt, invalid};
use crate::extent_tree::{InUse, block_item};
use crate::node::Node;
use crate::refs::{BlockOwner, BlockRef, DataOwner, DelayedRefs};
use crate::space::{Class, Space};

/// Space for tree blocks.
#[derive(Debug)]
pub(crate) struct BlockSpace<'a> {
    pub(crate) space: &'a mut Space,
    pub(crate) refs: &'a mut DelayedRefs,
    pub(crate) nodesize: u64,
    pub(crate) generation: u64,
}

impl Blocks for BlockSpace<'_> {
    fn alloc(&mut self, forest: &Forest, tree: TreeId, level: u8) -> StoreResult<u64> {
        let class = if tree == TreeId::CHUNK { Class::System } else { Class::Metadata };
        let range = self.space.alloc(class, self.nodesize, self.nodesize)?;
        match forest.check_unused(range) {
            Err(InUse::Unknown(_)) if tree == TreeId::EXTENT => {} // it is being changed
            checked => checked?,
        }
        self.refs.block_added(range.start, BlockRef { tree, level });
        Ok(range.start)
    }

    fn free(&mut self, forest: &Forest, tree: TreeId, block: &Node) -> StoreResult<()> {
        let ours = block.generation == self.generation;
        let last_snapshot = forest.root(tree)?.last_snapshot;
        if !ours && may_be_shared(block.reloc, block.generation, last_snapshot) {
            return self.give_up_shared(forest, tree, block);
        }
        let range = ByteRange::at(block.bytenr, self.nodesize);
        self.refs.block_dropped(block.bytenr, BlockRef { tree, level: block.level });
        if ours { self.space.free_now(range) } else { self.space.pin(range) }
    }
}

/// Whether trees besides the one that a block is found in may have it: it is as old as a snapshot of that, or a balance has moved it, which makes
/// it new and says so in its header (`reloc`).
pub(crate) const fn may_be_shared(reloc: bool, generation: u64, last_snapshot: u64) -> bool {
    reloc || generation <= last_snapshot
}

impl BlockSpace<'_> {
    /// `tree` has copied a block that others may have, too, and has no use for it any more.
    fn give_up_shared(&mut self, forest: &Forest, tree: TreeId, block: &Node) -> StoreResult<()> {
        let (refs, full_backref) = self.shared_state(forest, block)?;
        let by_root = BlockOwner::Tree(tree.0);
        let by_block = BlockOwner::Parent(block.bytenr);
        if refs > 1 && block.owner == tree && !full_backref {
            // The copy takes over the references in the tree's name; the others hold on by the block's address.
            self.change_children(block, by_block, 1)?;
            self.refs.shared.entry(block.bytenr).or_default().full_backref = true;
        } else if refs > 1 {
            self.change_children(block, by_root, 1)?;
        } else if full_backref {
            self.change_children(block, by_root, 1)?;
            self.change_children(block, by_block, -1)?;
        }
        self.refs.shared_changed(block.bytenr, block.level, by_root, -1);
        Ok(())
    }

    /// How many references a block has, and whether what it refers to counts it by its address: what the extent tree says
    /// and what it is yet to be told.
    fn shared_state(&self, forest: &Forest, block: &Node) -> StoreResult<(i64, bool)> {
        let (key, data) = block_item(forest, block.bytenr, block.level)?;
        let item = ExtentItem::parse(&key, &data).map_err(|error| invalid(key, &error))?;
        let full = matches!(item.owner, ExtentOwner::TreeBlock { full_backref: true, .. });
        let refs =
            i64::try_from(item.refs).map_err(|_| corrupt("extent item", key, "its count"))?;
        Ok(match self.refs.shared.get(&block.bytenr) {
            None => (refs, full),
            Some(change) => {
                let now = refs.checked_add(change.deltas.iter().map(|(_, by)| by).sum());
                let now = now.ok_or_else(|| corrupt("extent item", key, "its count"))?;
                (now, full || change.full_backref)
            }
        })
    }

    /// Changes by `by` the reference of `owner` to everything that `block` refers to.
    fn change_children(&mut self, block: &Node, owner: BlockOwner, by: i64) -> StoreResult<()> {
        for ptr in block.ptrs() {
            self.refs.shared_changed(ptr.bytenr, block.level - 1, owner, by);
        }
        let Some(leaf) = block.leaf() else { return Ok(()) };
        for (at, slot) in leaf.slots().iter().enumerate() {
            let key = slot.key;
            if key.kind != ItemKind::EXTENT_DATA {
                continue;
            }
            let extent = FileExtent::parse(&key, leaf.data(at));
            let extent = extent.map_err(|error| invalid(key, &error))?;
            let (FileExtentData::Regular(range) | FileExtentData::Prealloc(range)) = extent.data
            else {
                continue;
            };
            if range.bytenr == 0 {
                continue;
            }
            let owner = match owner {
                BlockOwner::Tree(root) => {
                    let offset = key.offset.wrapping_sub(range.offset);
                    DataOwner::File(root, key.objectid, offset)
                }
                BlockOwner::Parent(leaf) => DataOwner::Leaf(leaf),
            };
            self.refs.data_changed(range.bytenr, range.disk_len, owner, by);
        }
        Ok(())
    }
}
