//! How much room metadata needs (stage 6), and who may have the last of it: so that whatever was let begin can be committed.
//!
//! A commit must not run out of space half way. So a change is let through only if there is room for all tree blocks that everything under
//! way may copy or make, the change among it. The figures are upper bounds: a transaction copies a block of a tree once, however many items
//! of it change, so that no tree is copied more than whole; new items may split each block that they go to, and fill new ones half.
//!
//! What is under way is everything that was promised since the last commit, at its full size: how much of it became how small an extent by now
//! depends on threads, and must not decide who is let through (law R3). Who is refused commits, and after that only what is dirty counts.
//!
//! Beyond that there is the **reserve**: as much as removing something, and committing that, may take. Who may use it is written here, and
//! nowhere else:
//!
//! | [`Purpose`] | who | must leave free |
//! |---|---|---|
//! | `Add` | promises of data, inline content, new names, links, attributes, renaming | what is under way, and the reserve |
//! | `Remove` | unlink, rmdir, truncate, punch, evict, removing an attribute, a file's time and size ahead of changes of its size and extents | what is under way |
//! | `Commit` | attributes that a commit writes | nothing |
//!
//! The commit itself takes what it needs. So a volume that refuses to take more can be committed, and can be made emptier; and after that
//! commit the next removal has its room again.

use cowback_base::{BLOCK_SIZE, COMPRESSED_EXTENT_MAX};
use cowback_btrfs_disk::TreeId;
use cowback_btrfs_disk::items::group::BITMAP_RANGE;
use cowback_extent_io::store::StoreResult;

use crate::error::no_space;
use crate::space::Class;
use crate::state::State;

/// Bytes of a file extent item, with its header.
const FILE_EXTENT: u64 = 53 + 25;
/// Bytes of a data extent's item in the extent tree, with its header and one reference.
const EXTENT: u64 = 53 + 25;
/// Bytes of a tree block's item in the extent tree, with its header.
const BLOCK: u64 = 33 + 25;
/// Bytes of an item's header.
const HEADER: u64 = 25;
/// Places in the file tree that an operation on names changes: a directory's inode, hashed and indexed entry, the inode, the orphan's mark.
const NAME_PLACES: u64 = 5;
/// Bytes of new items that an operation on names brings, without what the caller hands in.
const NAME_BYTES: u64 = 1536;
/// Of a tree block of [`COUNTED`] bytes: most children, and most data extents that a leaf refers to.
const CHILDREN: u64 = 500;
/// Children that an inner block has at least, but for the last ones: those with fewer are joined.
const FEWEST_CHILDREN: u64 = 100;
/// Items of tree blocks, which lie together as tree blocks do, in a leaf of the extent tree at least.
const FEWEST_BLOCKS: u64 = 100;
/// And of the gaps between them in one of the free space tree.
const FEWEST_GAPS: u64 = 300;
/// Bitmaps of free space in a leaf of that tree.
const FEWEST_BITMAPS: u64 = 25;
/// Bytes of the tree blocks for which the figures above hold. In others there is room for more or less in proportion.
const COUNTED: u64 = 16 * 1024;
/// Extents that can be removed from the reserve, even if nothing else is free.
const RESERVED_EXTENTS: u64 = 256;
/// Extents that one step of removing a file drops: the reserve has room for several.
pub(crate) const STEP_EXTENTS: u64 = 64;
/// Data extents noted in one transaction from which on no more of removing a file is done in it: the notes are in memory until the commit.
pub(crate) const MOST_NOTED: u64 = 1 << 16;

/// Figures are not above this, whatever the trees say of a file: no device has room for that much, and what is reckoned from it does not
/// overflow.
const MOST: u64 = 1 << 44;

/// What a change is for, and so how far down it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It brings something, and leaves the reserve alone.
    Add,
    /// It removes something, and may use the reserve.
    Remove,
    /// It is part of a commit, and may use what there is.
    Commit,
}

/// What is to change, in numbers that bound the tree blocks which that takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Places in the file tree where items change.
    places: u64,
    /// Of these, places where items come.
    inserts: u64,
    /// Bytes of items that come to the file tree.
    bytes: u64,
    /// Data extents that come.
    comes: u64,
    /// Bytes of data that come with them.
    data: u64,
    /// Data extents that lose references, or go.
    goes: u64,
    /// Bytes of data that go with them.
    gone: u64,
}

impl Load {
    const NONE: Self =
        Self { places: 0, inserts: 0, bytes: 0, comes: 0, data: 0, goes: 0, gone: 0 };

    /// An operation on a few names or attributes, which brings `bytes` bytes that the caller handed in.
    pub(crate) const fn names(bytes: u64) -> Self {
        Self { places: NAME_PLACES, inserts: 3, bytes: NAME_BYTES + bytes, ..Self::NONE }
    }

    /// A change of attributes that are there.
    pub(crate) const fn attributes() -> Self {
        Self { places: 1, ..Self::NONE }
    }

    /// Removing a name, and `extents` extents of its file, which lie one behind the other, with `gone` bytes on disk.
    pub(crate) const fn removal(extents: u64, gone: u64) -> Self {
        let places = NAME_PLACES + extents / 64;
        Self { places, inserts: 1, goes: extents, gone, ..Self::NONE }
    }

    /// `extents` extents of `data` bytes that replace whatever their files have there: up to an extent for each block.
    const fn arrival(extents: u64, data: u64) -> Self {
        let blocks = data / BLOCK_SIZE;
        let places = 2 * extents + blocks / 64;
        let bytes = extents * FILE_EXTENT;
        Self { places, inserts: extents, bytes, comes: extents, data, goes: blocks, gone: data }
    }

    /// `pieces` preallocated extents, which have no checksums.
    pub(crate) const fn prealloc(pieces: u64) -> Self {
        let (places, bytes) = (2 * pieces + 1, pieces * FILE_EXTENT);
        Self { places, inserts: pieces, bytes, comes: pieces, ..Self::NONE }
    }

    /// Both; of each figure at most [`MOST`], or as many blocks.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            places: sum(self.places, other.places, MOST),
            inserts: sum(self.inserts, other.inserts, MOST),
            bytes: sum(self.bytes, other.bytes, MOST * BLOCK_SIZE),
            comes: sum(self.comes, other.comes, MOST),
            data: sum(self.data, other.data, MOST * BLOCK_SIZE),
            goes: sum(self.goes, other.goes, MOST),
            gone: sum(self.gone, other.gone, MOST * BLOCK_SIZE),
        }
    }
}

/// `count`, which is right for tree blocks of [`COUNTED`] bytes, for blocks of `nodesize` bytes.
const fn in_block(count: u64, nodesize: u64) -> u64 {
    count * nodesize / COUNTED
}

const fn sum(a: u64, b: u64, most: u64) -> u64 {
    let sum = a.saturating_add(b);
    if sum < most { sum } else { most }
}

impl State {
    /// Blocks from the root of `tree` to a leaf.
    fn height(&self, tree: TreeId) -> u64 {
        self.forest.roots.get(&tree).map_or(0, |root| u64::from(root.level) + 1)
    }

    /// Blocks of `tree`; none if there is no such tree.
    fn blocks_of(&self, tree: TreeId) -> u64 {
        self.forest.roots.get(&tree).map_or(0, |root| root.blocks.max(1))
    }

    /// Blocks that changes at `places` places of `tree` may copy: the leaves, and those above up to the one root.
    fn copies(&self, tree: TreeId, places: u64) -> u64 {
        if places == 0 {
            return 0;
        }
        let (blocks, height) = (self.blocks_of(tree), self.height(tree));
        let above = places.saturating_mul(height.saturating_sub(2)) + 1;
        let fewest = in_block(FEWEST_CHILDREN, self.forest.nodesize() as u64);
        blocks.min(places.saturating_add(above.min(blocks / fewest + height)))
    }

    /// Blocks that changes at `places` places of `tree` may copy or make, where `bytes` bytes of items come at `inserts` of them.
    fn changes(&self, tree: TreeId, places: u64, inserts: u64, bytes: u64) -> u64 {
        let copies = self.copies(tree, places);
        if inserts == 0 {
            return copies;
        }
        // Where items come, the copy may be split, and all above it once; what comes fills blocks half.
        let half = self.forest.nodesize() as u64 / 2;
        copies + copies.min(inserts) + self.height(tree) + bytes / half
    }

    /// Blocks that committing `load` may take.
    fn bound(&self, load: &Load) -> u64 {
        let nodesize = self.forest.nodesize() as u64;
        let sum = self.disk.checksum.size() as u64;
        let groups = self.space.promises().groups;
        let files = self.changes(self.tree, load.places, load.inserts, load.bytes);
        // The first change of a block that others may share changes the references of all that is below it.
        let shared = self.forest.roots.get(&self.tree).is_some_and(|root| root.last_snapshot > 0);
        let children = in_block(CHILDREN, nodesize);
        let below = if shared { self.copies(self.tree, load.places) * children } else { 0 };
        let below = below + self.refs.shared.len() as u64;
        let both = load.comes + load.goes;
        // A csum item is a quarter of a block long at most, and one that loses its middle becomes two.
        let runs = load.gone / BLOCK_SIZE * sum / (nodesize / 4);
        let bytes = load.data / BLOCK_SIZE * sum + load.comes * HEADER;
        let csums = self.changes(TreeId::CSUM, both + load.goes + runs, both, bytes);
        let fresh = 2 * self.space.promises().fresh;
        let others = self.changes(TreeId::DEV, fresh, fresh, 0)
            + self.changes(TreeId::BLOCK_GROUP, groups, fresh, 0)
            + self.blocks_of(TreeId::QUOTA);
        // How large the root tree is, is not known; of its items only those of trees that changed change.
        let roots = match self.height(TreeId::ROOT) {
            1 => 1,
            height => 8 * height,
        };
        let made = files + csums + others + roots + self.refs.blocks.len() as u64;
        let blocks = self.space.pool(Class::Metadata).total / nodesize;
        let leaves = blocks / in_block(FEWEST_BLOCKS, nodesize) + groups;
        let gaps = blocks / in_block(FEWEST_GAPS, nodesize) + groups;
        let bytes = load.comes * EXTENT + below * (HEADER + 13) + made * BLOCK;
        let comes = load.comes + below + leaves;
        let extents = self.changes(TreeId::EXTENT, comes + load.goes, comes, bytes);
        let bytes = (both + made + extents) * HEADER;
        // Where free space is bitmaps, one extent may be in many.
        let bitmaps = (load.data + load.gone) / BITMAP_RANGE / in_block(FEWEST_BITMAPS, nodesize);
        let places = both + gaps + bitmaps;
        let free_space = self.changes(TreeId::FREE_SPACE, places, both + gaps, bytes);
        files + csums + others + roots + extents + free_space
    }

    /// What only removals may use: what a large one takes, or a part of what is free where that is little.
    fn reserved(&self) -> u64 {
        let large = Load::removal(RESERVED_EXTENTS, RESERVED_EXTENTS * BLOCK_SIZE);
        let free = self.space.metadata_left() / self.forest.nodesize() as u64;
        self.bound(&large).min(free / 4)
    }

    /// What everything under way amounts to.
    fn under_way(&self) -> Load {
        let promises = self.space.promises();
        let promised = Load::arrival(promises.extents(), promises.data.bytes);
        let in_place = Load::arrival(promises.in_place.extents, promises.in_place.bytes);
        let inline = Load { bytes: promises.inline, ..Load::NONE };
        // What is told of extents that go is told of free space after that.
        let noted = self.refs.data.len() + self.free_space.len();
        let (goes, gone) = (noted as u64, self.refs.data_bytes);
        let noted = Load { goes, gone, ..Load::NONE };
        promised.and(in_place).and(inline).and(noted)
    }

    /// Sees to it that there is room for everything under way, and for `load`.
    pub(crate) fn ensure_metadata(&mut self, purpose: Purpose, load: &Load) -> StoreResult<()> {
        if self.space.policy.grow {
            return Ok(());
        }
        let all = || self.bound(&self.under_way().and(*load));
        let blocks = match purpose {
            Purpose::Add => all() + self.reserved(),
            Purpose::Remove => all(),
            Purpose::Commit => self.changes(self.tree, load.places, load.inserts, load.bytes),
        };
        let nodesize = self.forest.nodesize() as u64;
        let (wanted, left) = (blocks.saturating_mul(nodesize), self.space.metadata_left());
        if wanted <= left {
            return Ok(());
        }
        self.refused = self.refused.and(*load);
        Err(no_space("metadata", wanted, left))
    }

    /// Promises data space, and room for the metadata that will name it.
    pub(crate) fn reserve(&mut self, bytes: u64) -> StoreResult<()> {
        let before = *self.space.promises();
        self.space.promise(bytes)?;
        let room = self.ensure_metadata(Purpose::Add, &Load::NONE);
        room.inspect_err(|_| {
            self.space.unpromise(&before);
            let extents = bytes.div_ceil(COMPRESSED_EXTENT_MAX);
            self.refused = self.refused.and(Load::arrival(extents, bytes));
        })
    }

    /// Promises room for the metadata of what has its space already.
    pub(crate) fn reserve_in_place(&mut self, bytes: u64) -> StoreResult<()> {
        let before = *self.space.promises();
        self.space.promise_in_place(bytes);
        let room = self.ensure_metadata(Purpose::Add, &Load::NONE);
        room.inspect_err(|_| {
            self.space.unpromise(&before);
            let extents = bytes.div_ceil(COMPRESSED_EXTENT_MAX);
            self.refused = self.refused.and(Load::arrival(extents, bytes));
        })
    }

    /// Takes room for the inline content of a file, whose item has `bytes` bytes. A place in the tree was promised with the data.
    pub(crate) fn take_inline(&mut self, bytes: u64) -> StoreResult<()> {
        if self.space.take_inline(bytes) {
            return Ok(());
        }
        Err(no_space("inline content before the next commit", bytes, 0))
    }

    /// Counts what there is, at the end of a commit: who was `refused` in its transaction, or has been since, finds room, if there is any.
    pub(crate) fn count_space(&mut self, refused: Load) {
        let refused = refused.and(self.refused);
        if self.space.policy.grow {
            return;
        }
        let nodesize = self.forest.nodesize() as u64;
        let needed = |state: &Self| {
            // And a name, so that there is no commit for the first one.
            let load = state.under_way().and(refused).and(Load::names(BLOCK_SIZE));
            (state.bound(&load) + state.reserved()).saturating_mul(nodesize)
        };
        self.space.set_inline_aside(0);
        self.space.count(needed(self));
        // The count says, too, how many block groups there can be.
        let needed = needed(self);
        self.space.set_inline_aside(self.space.metadata_left().saturating_sub(needed));
    }
}

#[cfg(test)]
mod tests;
