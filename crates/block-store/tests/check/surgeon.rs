//! Changes volumes below all that guards them: items, pointers, headers and superblocks are altered in place, and get right
//! checksums again.

use std::collections::BTreeMap;

use cowback_block_store::BlockDevice;
use cowback_btrfs_disk::items::{ChunkItem, RootItem};
use cowback_btrfs_disk::node::{
    BlockExpect, Header, NodePtr, ParsedBlock, parse_block, write_leaf, write_node,
};
use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS, Superblock};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use crate::patched::Patched;

/// Items of a leaf.
pub(crate) type Items = Vec<(Key, Vec<u8>)>;

/// A tree block, taken apart.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Leaf(Items),
    Node(Vec<NodePtr>),
}

/// A volume under the knife.
#[derive(Debug)]
pub(crate) struct Surgeon {
    pub(crate) device: Patched,
    pub(crate) sb: Superblock,
    pub(crate) chunks: BTreeMap<u64, ChunkItem>,
}

impl Surgeon {
    pub(crate) fn new(device: Patched) -> Self {
        let sb = device.get(SUPER_OFFSETS[0], SUPER_LEN);
        let sb = Superblock::parse(&sb, SUPER_OFFSETS[0]).unwrap();
        let chunks = sb.sys_chunks.iter().cloned().collect();
        let mut own = Self { device, sb, chunks };
        for (key, data) in own.items(TreeId::CHUNK) {
            if key.kind == ItemKind::CHUNK_ITEM {
                let chunk = ChunkItem::parse(key.offset, &data).unwrap();
                own.chunks.insert(key.offset, chunk);
            }
        }
        own
    }

    /// Device addresses of the copies of what is at `logical`.
    pub(crate) fn copies(&self, logical: u64) -> Vec<u64> {
        let (start, chunk) = self.chunks.range(..=logical).next_back().unwrap();
        chunk.stripes.iter().map(|stripe| stripe.offset + (logical - start)).collect()
    }

    pub(crate) fn nodesize(&self) -> usize {
        usize::try_from(self.sb.nodesize).unwrap()
    }

    /// Address of a tree's root block.
    pub(crate) fn root(&self, tree: TreeId) -> u64 {
        match tree {
            TreeId::ROOT => self.sb.root,
            TreeId::CHUNK => self.sb.chunk_root,
            _ => {
                let key = Key::new(tree.0, ItemKind::ROOT_ITEM, 0);
                RootItem::parse(&self.get(TreeId::ROOT, &key)).unwrap().bytenr
            }
        }
    }

    /// The block at `bytenr`.
    pub(crate) fn block(&self, bytenr: u64) -> (Header, Body) {
        let bytes = self.device.get(self.copies(bytenr)[0], self.nodesize());
        let expect = BlockExpect { bytenr, fsid: self.sb.tree_uuid(), ..BlockExpect::default() };
        match parse_block(&bytes, &expect, self.sb.csum).unwrap() {
            ParsedBlock::Leaf(leaf) => {
                let items = leaf.items().map(|(key, data)| (key, data.to_vec())).collect();
                (leaf.header().clone(), Body::Leaf(items))
            }
            ParsedBlock::Node(node) => (node.header.clone(), Body::Node(node.ptrs)),
        }
    }

    /// Puts a block where it says that it is, in all copies.
    pub(crate) fn put(&self, header: &Header, body: &Body) {
        let (size, sum) = (self.nodesize(), self.sb.csum);
        let bytes = match body {
            Body::Leaf(items) => {
                write_leaf(header, size, sum, items.iter().map(|(key, data)| (*key, &data[..])))
            }
            Body::Node(ptrs) => write_node(header, size, sum, ptrs),
        };
        let bytes = bytes.unwrap();
        for at in self.copies(header.bytenr) {
            self.device.write_at(at, &bytes).unwrap();
        }
    }

    /// Changes the block at `bytenr`.
    pub(crate) fn edit_block(&self, bytenr: u64, edit: impl FnOnce(&mut Header, &mut Body)) {
        let (mut header, mut body) = self.block(bytenr);
        edit(&mut header, &mut body);
        self.put(&header, &body);
    }

    /// All blocks of a tree, parents first.
    pub(crate) fn blocks(&self, tree: TreeId) -> Vec<u64> {
        let mut blocks = vec![self.root(tree)];
        let mut at = 0;
        while let Some(bytenr) = blocks.get(at) {
            if let (_, Body::Node(ptrs)) = self.block(*bytenr) {
                blocks.extend(ptrs.iter().map(|ptr| ptr.bytenr));
            }
            at += 1;
        }
        blocks
    }

    /// All trees.
    pub(crate) fn trees(&self) -> Vec<TreeId> {
        let roots = self.items(TreeId::ROOT).into_iter().map(|(key, _)| key);
        let roots = roots.filter(|key| key.kind == ItemKind::ROOT_ITEM);
        [TreeId::ROOT, TreeId::CHUNK]
            .into_iter()
            .chain(roots.map(|key| TreeId(key.objectid)))
            .collect()
    }

    /// All items of a tree, in order.
    pub(crate) fn items(&self, tree: TreeId) -> Items {
        let mut items = Items::new();
        for bytenr in self.blocks(tree) {
            if let (_, Body::Leaf(own)) = self.block(bytenr) {
                items.extend(own);
            }
        }
        items.sort_by_key(|(key, _)| *key);
        items
    }

    /// The first item that `wanted` takes.
    pub(crate) fn find(
        &self,
        tree: TreeId,
        wanted: impl Fn(&Key, &[u8]) -> bool,
    ) -> (Key, Vec<u8>) {
        self.items(tree).into_iter().find(|(key, data)| wanted(key, data)).unwrap()
    }

    /// The data of an item.
    pub(crate) fn get(&self, tree: TreeId, key: &Key) -> Vec<u8> {
        self.find(tree, |own, _| own == key).1
    }

    /// The blocks from the root down to the leaf where `key` is or would be, each with the child taken.
    fn path(&self, tree: TreeId, key: &Key) -> Vec<(u64, usize)> {
        let mut path = Vec::new();
        let mut at = self.root(tree);
        while let (_, Body::Node(ptrs)) = self.block(at) {
            let child = ptrs.partition_point(|ptr| ptr.key <= *key).saturating_sub(1);
            path.push((at, child));
            at = ptrs[child].bytenr;
        }
        path.push((at, 0));
        path
    }

    /// Changes the items of the leaf where `key` is or would be. Its parents learn of a new first key.
    pub(crate) fn edit_leaf(&self, tree: TreeId, key: &Key, edit: impl FnOnce(&mut Items)) {
        let mut path = self.path(tree, key);
        let (leaf, _) = path.pop().unwrap();
        let mut first = None;
        self.edit_block(leaf, |_, body| {
            let Body::Leaf(items) = body else { unreachable!() };
            edit(items);
            items.sort_by_key(|(key, _)| *key);
            first = items.first().map(|(key, _)| *key);
        });
        let first = first.expect("a leaf below a node keeps an item");
        for (node, child) in path.into_iter().rev() {
            self.edit_block(node, |_, body| {
                let Body::Node(ptrs) = body else { unreachable!() };
                ptrs[child].key = first;
            });
            if child > 0 {
                break;
            }
        }
    }

    /// Puts an item in.
    pub(crate) fn insert(&self, tree: TreeId, key: Key, data: Vec<u8>) {
        self.edit_leaf(tree, &key, |items| items.push((key, data)));
    }

    /// Takes an item out.
    pub(crate) fn remove(&self, tree: TreeId, key: &Key) -> Vec<u8> {
        let mut gone = None;
        self.edit_leaf(tree, key, |items| {
            let at = items.iter().position(|(own, _)| own == key).unwrap();
            gone = Some(items.remove(at).1);
        });
        gone.unwrap()
    }

    /// Replaces an item's data.
    pub(crate) fn set(&self, tree: TreeId, key: &Key, data: Vec<u8>) {
        self.edit_leaf(tree, key, |items| {
            items.iter_mut().find(|(own, _)| own == key).unwrap().1 = data;
        });
    }

    /// Moves an item to another key.
    pub(crate) fn rename(&self, tree: TreeId, from: &Key, to: Key) {
        let leaf_of = |key| self.path(tree, key).last().map(|(leaf, _)| *leaf);
        if leaf_of(from) != leaf_of(&to) {
            let data = self.remove(tree, from);
            return self.insert(tree, to, data);
        }
        // In place: without the item its leaf might begin behind the new key.
        self.edit_leaf(tree, from, |items| {
            items.iter_mut().find(|(own, _)| own == from).unwrap().0 = to;
        });
    }

    /// Changes all copies of the superblock.
    pub(crate) fn edit_super(&self, edit: impl Fn(&mut Superblock)) {
        for offset in SUPER_OFFSETS {
            if offset + SUPER_LEN as u64 > self.sb.total_bytes {
                break;
            }
            let mut copy = Superblock { bytenr: offset, ..self.sb.clone() };
            edit(&mut copy);
            self.device.write_at(offset, &copy.to_bytes().unwrap()).unwrap();
        }
    }
}
