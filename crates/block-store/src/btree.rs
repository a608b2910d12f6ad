//! Copy-on-write B-trees (stage 9).
//!
//! Invariants: a pointer carries exactly its child's first key and generation; every leaf is equally deep; a block that an
//! earlier transaction made is never changed but copied to a new address first (law R4), and so are all blocks above it;
//! a root above level 0 has two children or more (unless it was read that way). Ascending insertion leaves full leaves
//! behind. Reading takes `&self`, changing `&mut self`; there is no lock but the cache's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cowback_btrfs_disk::TreeId;
use cowback_btrfs_disk::node::{BlockExpect, MAX_LEVEL, leaf_capacity};
use cowback_extent_io::store::StoreResult;
use uuid::Uuid;

use crate::cache::NodeCache;
use crate::disk::Disk;
use crate::error::corrupt;
use crate::node::Node;

mod change;
mod read;

/// Where blocks that are not in memory come from.
pub(crate) trait NodeSource: Send + Sync + fmt::Debug {
    /// Reads and checks the block at `expect.bytenr`.
    fn read(&self, expect: &BlockExpect) -> StoreResult<Node>;

    /// The volume, as blocks name it.
    fn fsid(&self) -> Uuid;
}

impl NodeSource for Disk {
    fn read(&self, expect: &BlockExpect) -> StoreResult<Node> {
        self.read_node(expect.bytenr, expect)
    }

    fn fsid(&self) -> Uuid {
        self.fsid
    }
}

/// Where space for blocks comes from, and where it goes.
pub(crate) trait Blocks {
    /// Space for one block of `tree`, which no tree holds. In the middle of a change of `tree`, that one may be unfit to be searched.
    fn alloc(&mut self, forest: &Forest, tree: TreeId, level: u8) -> StoreResult<u64>;

    /// `tree` no longer holds `block`; if an earlier transaction made it, its content was copied to a block of this one.
    fn free(&mut self, forest: &Forest, tree: TreeId, block: &Node) -> StoreResult<()>;
}

/// Where a tree begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// Address of the root block.
    pub(crate) bytenr: u64,
    /// Its level.
    pub(crate) level: u8,
    /// Its generation.
    pub(crate) generation: u64,
    /// Blocks in the tree.
    pub(crate) blocks: u64,
    /// Offset of the root item's key.
    pub(crate) item_offset: u64,
    /// Blocks of this generation and older ones may be shared with a snapshot.
    pub(crate) last_snapshot: u64,
    /// Whether any of this changed since the root item was written.
    pub(crate) changed: bool,
}

/// All trees of a volume.
#[derive(Debug)]
pub(crate) struct Forest {
    source: Arc<dyn NodeSource>,
    /// Blocks in memory.
    pub(crate) cache: NodeCache,
    /// The trees that are known.
    pub(crate) roots: BTreeMap<TreeId, Root>,
    /// The running transaction.
    pub(crate) generation: u64,
    /// The blocks that the running transaction made.
    pub(crate) dirty: BTreeSet<u64>,
    nodesize: usize,
}

/// The way from a tree's root down to a place in a leaf; index 0 is the leaf.
#[derive(Debug, Clone, Copy)]
struct Path {
    tree: TreeId,
    steps: [(u64, usize); MAX_LEVEL as usize],
    top: usize,
}

impl Path {
    /// The parent of the step at `level`, and which child of it that is.
    fn above(&self, level: usize) -> Option<(u64, usize)> {
        (level < self.top).then(|| self.steps[level + 1])
    }
}

impl Forest {
    /// No trees yet.
    pub(crate) fn new(
        source: Arc<dyn NodeSource>,
        nodesize: usize,
        cached: usize,
        generation: u64,
    ) -> Self {
        let cache = NodeCache::new(cached);
        cache.set_unwritten(generation);
        let (roots, dirty) = (BTreeMap::new(), BTreeSet::new());
        Self { source, cache, roots, generation, dirty, nodesize }
    }

    /// Bytes of a block.
    pub(crate) const fn nodesize(&self) -> usize {
        self.nodesize
    }

    /// Bytes of the longest item.
    pub(crate) const fn max_item(&self) -> usize {
        leaf_capacity(self.nodesize) - cowback_btrfs_disk::node::ITEM_LEN
    }

    /// Makes a tree of one empty leaf.
    pub(crate) fn create(&mut self, blocks: &mut dyn Blocks, tree: TreeId) -> StoreResult<()> {
        let bytenr = self.space_for(blocks, tree, 0)?;
        self.keep(Node::empty_leaf(bytenr, self.generation, tree));
        let generation = self.generation;
        let root = Root {
            bytenr,
            level: 0,
            generation,
            blocks: 1,
            item_offset: 0,
            last_snapshot: 0,
            changed: true,
        };
        self.roots.insert(tree, root);
        Ok(())
    }

    /// The root of `tree`.
    pub(crate) fn root(&self, tree: TreeId) -> StoreResult<&Root> {
        self.roots.get(&tree).ok_or_else(|| corrupt("root", tree, "the volume has no such tree"))
    }

    fn root_mut(&mut self, tree: TreeId) -> &mut Root {
        let root = self.roots.get_mut(&tree).expect("the path into the tree began at its root");
        root.changed = true;
        root
    }

    /// The block that `expect` speaks of, from memory or from the source.
    fn fetch(&self, expect: &BlockExpect) -> StoreResult<Arc<Node>> {
        let bytenr = expect.bytenr;
        if let Some(node) = self.cache.get(bytenr) {
            let wrong = if expect.level.is_some_and(|level| level != node.level) {
                Some("level")
            } else if expect.generation.is_some_and(|generation| generation != node.generation) {
                Some("generation")
            } else if expect.owner.is_some_and(|owner| owner != node.owner.0) {
                Some("owner")
            } else if expect.first_key.is_some() && expect.first_key != node.first_key() {
                Some("first key")
            } else {
                None
            };
            return match wrong {
                None => Ok(node),
                Some(what) => {
                    Err(corrupt("tree block", bytenr, format_args!("another {what} than named")))
                }
            };
        }
        let node = Arc::new(self.source.read(expect)?);
        self.cache.put(Arc::clone(&node));
        Ok(node)
    }

    /// The root block of `tree`.
    fn fetch_root(&self, tree: TreeId) -> StoreResult<Arc<Node>> {
        let root = self.root(tree)?;
        self.fetch(&BlockExpect {
            bytenr: root.bytenr,
            fsid: self.source.fsid(),
            level: Some(root.level),
            generation: Some(root.generation),
            owner: (!tree.is_file_tree()).then_some(tree.0),
            first_key: None,
        })
    }

    /// Child `slot` of `parent`.
    fn fetch_child(&self, tree: TreeId, parent: &Node, slot: usize) -> StoreResult<Arc<Node>> {
        let ptr = parent.ptrs()[slot];
        self.fetch(&BlockExpect {
            bytenr: ptr.bytenr,
            fsid: self.source.fsid(),
            level: Some(parent.level - 1),
            generation: Some(ptr.generation),
            owner: (!tree.is_file_tree()).then_some(tree.0),
            first_key: Some(ptr.key),
        })
    }

    /// Keeps a block that the running transaction made.
    fn keep(&mut self, node: Node) {
        self.dirty.insert(node.bytenr);
        self.cache.put(Arc::new(node));
    }

    /// Forgets a block that is in no tree any more.
    fn forget(&mut self, bytenr: u64) {
        self.dirty.remove(&bytenr);
        self.cache.remove(bytenr);
    }

    /// Ends the running transaction: its blocks, by address. They can no longer be changed.
    pub(crate) fn end_transaction(&mut self) -> Vec<Arc<Node>> {
        let dirty = std::mem::take(&mut self.dirty);
        self.cache.set_unwritten(self.generation);
        self.generation += 1;
        let get = |bytenr| self.cache.get(bytenr).expect("unwritten blocks are pinned");
        dirty.into_iter().map(get).collect()
    }

    /// A block of the running transaction.
    fn dirty(&mut self, bytenr: u64) -> &mut Node {
        self.cache.get_mut(bytenr).expect("blocks of the running transaction are pinned")
    }
}

#[cfg(test)]
mod tests;
