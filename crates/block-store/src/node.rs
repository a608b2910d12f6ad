//! Tree blocks in memory (stage 9): leaves as slots over a heap of item data, interior nodes as pointers.
//!
//! Invariants: keys ascend strictly; a leaf's items with their headers fit into a block; `used` is their sum. The heap
//! may hold dead bytes, which `compact` drops. What a block looks like on disk depends on its items alone.

use cowback_btrfs_disk::node::{
    Header, ITEM_LEN, NodePtr, ParsedBlock, leaf_capacity, node_capacity, write_leaf, write_node,
};
use cowback_btrfs_disk::{Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::disk::Disk;
use crate::error::invalid;

/// An item of a leaf: its key, and where in the heap its data is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    off: u32,
    len: u32,
}

impl Slot {
    /// Bytes that the item takes up in a block.
    pub(crate) const fn size(&self) -> usize {
        ITEM_LEN + self.len as usize
    }
}

/// The items of a leaf.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaf {
    slots: Vec<Slot>,
    heap: Vec<u8>,
    used: usize,
    /// Where the last item was put in: ascending runs are split behind it.
    pub(crate) last_insert: Option<usize>,
}

/// What a block holds.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Leaf(Leaf),
    Inner(Vec<NodePtr>),
}

/// A tree block.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its logical address.
    pub(crate) bytenr: u64,
    /// The transaction that made it.
    pub(crate) generation: u64,
    /// The tree that it was made for.
    pub(crate) owner: TreeId,
    /// 0 for a leaf.
    pub(crate) level: u8,
    /// A balance of the kernel's made it: other trees may refer to it, whatever its generation.
    pub(crate) reloc: bool,
    /// What it holds.
    pub(crate) body: Body,
}

impl Leaf {
    /// Items.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Number of items.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of a block that the items take up.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// Where `key` is, or would be.
    pub(crate) fn search(&self, key: &Key) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| slot.key.cmp(key))
    }

    /// The data of item `index`.
    pub(crate) fn data(&self, index: usize) -> &[u8] {
        let slot = &self.slots[index];
        &self.heap[slot.off as usize..slot.off as usize + slot.len as usize]
    }

    fn append(&mut self, data: &[u8]) -> (u32, u32) {
        let fits = "a heap is a few blocks long, a block at most 64 KiB";
        if self.heap.len() > 4 * self.used.max(16 * 1024) {
            self.compact();
        }
        let off = u32::try_from(self.heap.len()).expect(fits);
        self.heap.extend_from_slice(data);
        (off, u32::try_from(data.len()).expect(fits))
    }

    /// Puts an item in at `index`. The caller has seen to room and order.
    pub(crate) fn insert(&mut self, index: usize, key: Key, data: &[u8]) {
        let (off, len) = self.append(data);
        self.slots.insert(index, Slot { key, off, len });
        self.used += ITEM_LEN + data.len();
    }

    /// Replaces the data of item `index`. The caller has seen to room.
    pub(crate) fn update(&mut self, index: usize, data: &[u8]) {
        let Slot { off, len, .. } = self.slots[index];
        if len as usize == data.len() {
            self.heap[off as usize..off as usize + data.len()].copy_from_slice(data);
            return;
        }
        self.used = self.used - len as usize + data.len();
        let (off, len) = self.append(data);
        let slot = &mut self.slots[index];
        (slot.off, slot.len) = (off, len);
    }

    /// Takes item `index` out.
    pub(crate) fn remove(&mut self, index: usize) -> Vec<u8> {
        let data = self.data(index).to_vec();
        let slot = self.slots.remove(index);
        self.used -= slot.size();
        self.last_insert = None;
        data
    }

    /// Moves the items from `index` on into a leaf of their own.
    pub(crate) fn split_off(&mut self, index: usize) -> Self {
        let mut right = Self::default();
        for at in index..self.slots.len() {
            let key = self.slots[at].key;
            right.insert(at - index, key, self.data(at));
        }
        self.slots.truncate(index);
        self.used -= right.used;
        self.last_insert = None;
        self.compact();
        right
    }

    /// Appends all items of `right`, which come behind this leaf's.
    pub(crate) fn append_all(&mut self, right: &Self) {
        for (at, slot) in right.slots.iter().enumerate() {
            self.insert(self.slots.len(), slot.key, right.data(at));
        }
        self.last_insert = None;
    }

    /// Drops dead bytes from the heap.
    fn compact(&mut self) {
        *self = self.compacted();
    }

    /// A copy without dead bytes, and with room for a few items more.
    fn compacted(&self) -> Self {
        let mut slots = Vec::with_capacity(self.slots.len() + 8);
        let mut heap = Vec::with_capacity(self.used + 2048);
        for slot in &self.slots {
            let off = u32::try_from(heap.len()).expect("the heap becomes shorter");
            heap.extend_from_slice(&self.heap[slot.off as usize..][..slot.len as usize]);
            slots.push(Slot { off, ..*slot });
        }
        Self { slots, heap, used: self.used, last_insert: self.last_insert }
    }
}

impl Node {
    /// A leaf without items.
    pub(crate) fn empty_leaf(bytenr: u64, generation: u64, owner: TreeId) -> Self {
        let body = Body::Leaf(Leaf::default());
        Self { bytenr, generation, owner, level: 0, reloc: false, body }
    }

    /// What was read from `block`.
    pub(crate) fn from_parsed(parsed: &ParsedBlock<'_>, block: &[u8]) -> Self {
        let header = parsed.header();
        let body = match parsed {
            ParsedBlock::Leaf(leaf) => {
                let slots = leaf.slots().iter();
                let slots: Vec<Slot> =
                    slots.map(|s| Slot { key: s.key, off: s.offset, len: s.len }).collect();
                let used = slots.iter().map(Slot::size).sum();
                Body::Leaf(Leaf { slots, heap: block.to_vec(), used, last_insert: None })
            }
            ParsedBlock::Node(node) => Body::Inner(node.ptrs.clone()),
        };
        Self {
            bytenr: header.bytenr,
            generation: header.generation,
            owner: header.owner,
            level: header.level,
            reloc: header.reloc,
            body,
        }
    }

    /// A copy at another address, in another transaction, for `owner`.
    pub(crate) fn copy_to(&self, bytenr: u64, generation: u64, owner: TreeId) -> Self {
        let body = match &self.body {
            Body::Leaf(leaf) => Body::Leaf(leaf.compacted()),
            Body::Inner(ptrs) => {
                let mut copy = Vec::with_capacity(ptrs.len() + 4);
                copy.extend_from_slice(ptrs);
                Body::Inner(copy)
            }
        };
        Self { bytenr, generation, owner, level: self.level, reloc: false, body }
    }

    /// The items, if this is a leaf.
    pub(crate) const fn leaf(&self) -> Option<&Leaf> {
        match &self.body {
            Body::Leaf(leaf) => Some(leaf),
            Body::Inner(_) => None,
        }
    }

    /// The children; none if this is a leaf.
    pub(crate) fn ptrs(&self) -> &[NodePtr] {
        match &self.body {
            Body::Leaf(_) => &[],
            Body::Inner(ptrs) => ptrs,
        }
    }

    /// The first key.
    pub(crate) fn first_key(&self) -> Option<Key> {
        match &self.body {
            Body::Leaf(leaf) => leaf.slots.first().map(|slot| slot.key),
            Body::Inner(ptrs) => ptrs.first().map(|ptr| ptr.key),
        }
    }

    /// Items or children.
    pub(crate) fn count(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.slots.len(),
            Body::Inner(ptrs) => ptrs.len(),
        }
    }

    /// How full the block is, as (used, capacity).
    pub(crate) fn fill(&self, nodesize: usize) -> (usize, usize) {
        match &self.body {
            Body::Leaf(leaf) => (leaf.used, leaf_capacity(nodesize)),
            Body::Inner(ptrs) => (ptrs.len(), node_capacity(nodesize)),
        }
    }

    /// The block as it goes to disk, checksum and all.
    pub(crate) fn to_block(&self, disk: &Disk) -> StoreResult<Vec<u8>> {
        let header = Header {
            fsid: disk.fsid,
            bytenr: self.bytenr,
            reloc: self.reloc,
            chunk_tree_uuid: disk.chunk_tree_uuid,
            generation: self.generation,
            owner: self.owner,
            level: self.level,
        };
        let (size, sum) = (disk.nodesize, disk.checksum);
        let block = match &self.body {
            Body::Leaf(leaf) => {
                let items = leaf.slots.iter().enumerate();
                let items = items.map(|(at, slot)| (slot.key, leaf.data(at)));
                write_leaf(&header, size, sum, items)
            }
            Body::Inner(ptrs) => write_node(&header, size, sum, ptrs),
        };
        block.map_err(|error| invalid(format_args!("{} of {:?}", self.bytenr, self.owner), &error))
    }
}
