//! Inserting, updating and removing items: copying paths, splitting, merging, growing and shrinking trees.

use cowback_btrfs_disk::node::{ITEM_LEN, MAX_LEVEL, NodePtr};
use cowback_btrfs_disk::{Key, TreeId};
use cowback_extent_io::store::StoreResult;

use super::{Blocks, Forest, Path};
use crate::error::corrupt;
use crate::node::{Body, Leaf, Node};

impl Forest {
    fn leaf_mut(&mut self, bytenr: u64) -> &mut Leaf {
        match &mut self.dirty(bytenr).body {
            Body::Leaf(leaf) => leaf,
            Body::Inner(_) => unreachable!("level 0 of a path is a leaf"),
        }
    }

    fn ptrs_mut(&mut self, bytenr: u64) -> &mut Vec<NodePtr> {
        match &mut self.dirty(bytenr).body {
            Body::Inner(ptrs) => ptrs,
            Body::Leaf(_) => unreachable!("levels above 0 of a path are interior nodes"),
        }
    }

    /// How full a block of the running transaction is, as (used, capacity).
    fn fill_of(&mut self, bytenr: u64) -> (usize, usize) {
        let nodesize = self.nodesize;
        self.dirty(bytenr).fill(nodesize)
    }

    /// Space for one block of `tree`. What is in memory is in use, whatever the trees say that tell of space.
    pub(super) fn space_for(
        &self,
        blocks: &mut dyn Blocks,
        tree: TreeId,
        level: u8,
    ) -> StoreResult<u64> {
        let bytenr = blocks.alloc(self, tree, level)?;
        if self.cache.contains(bytenr) {
            return Err(corrupt("free space", bytenr, "a block of a tree is there"));
        }
        Ok(bytenr)
    }

    /// Makes every block on the path one of the running transaction. If the leaf is, all are.
    fn own(&mut self, blocks: &mut dyn Blocks, path: &mut Path, leaf: u64) -> StoreResult<()> {
        if leaf == self.generation {
            return Ok(());
        }
        for level in (0..=path.top).rev() {
            let (bytenr, _) = path.steps[level];
            let node = match path.above(level) {
                None => self.fetch_root(path.tree)?,
                Some((parent, slot)) => {
                    let parent = self.cache.get(parent).expect("the parent was just made ours");
                    self.fetch_child(path.tree, &parent, slot)?
                }
            };
            if node.generation == self.generation {
                continue;
            }
            let fresh = self.space_for(blocks, path.tree, node.level)?;
            self.keep(node.copy_to(fresh, self.generation, path.tree));
            blocks.free(self, path.tree, &node)?;
            self.forget(bytenr);
            path.steps[level].0 = fresh;
            let generation = self.generation;
            match path.above(level) {
                None => {
                    let root = self.root_mut(path.tree);
                    (root.bytenr, root.generation) = (fresh, generation);
                }
                Some((parent, slot)) => {
                    let ptr = &mut self.ptrs_mut(parent)[slot];
                    (ptr.bytenr, ptr.generation) = (fresh, generation);
                }
            }
        }
        Ok(())
    }

    /// Makes every block of `tree` one of the running transaction: all of it moves to where space is given now.
    pub(crate) fn own_all(&mut self, blocks: &mut dyn Blocks, tree: TreeId) -> StoreResult<()> {
        let mut firsts = Vec::new();
        self.for_each_block(tree, &mut |node| {
            if node.level == 0 {
                firsts.push(node.first_key().unwrap_or(Key::MIN));
            }
        })?;
        for key in firsts {
            let (mut path, _, node) = self.search(tree, &key)?;
            self.own(blocks, &mut path, node.generation)?;
        }
        Ok(())
    }

    /// Carries the new first key of the block at `level - 1` of the path into its ancestors.
    fn set_first_key(&mut self, path: &Path, level: usize, key: Key) {
        for level in level..=path.top {
            let (bytenr, slot) = path.steps[level];
            self.ptrs_mut(bytenr)[slot].key = key;
            if slot != 0 {
                break;
            }
        }
    }

    /// Makes a block and keeps it.
    fn make(
        &mut self,
        blocks: &mut dyn Blocks,
        tree: TreeId,
        level: u8,
        body: Body,
    ) -> StoreResult<NodePtr> {
        let bytenr = self.space_for(blocks, tree, level)?;
        let generation = self.generation;
        let node = Node { bytenr, generation, owner: tree, level, reloc: false, body };
        let key = node.first_key().unwrap_or(Key::MIN);
        self.keep(node);
        self.root_mut(tree).blocks += 1;
        Ok(NodePtr { key, bytenr, generation })
    }

    /// Gives up the block at `bytenr`.
    fn unmake(&mut self, blocks: &mut dyn Blocks, tree: TreeId, node: &Node) -> StoreResult<()> {
        blocks.free(self, tree, node)?;
        self.forget(node.bytenr);
        let root = self.root_mut(tree);
        root.blocks = root.blocks.saturating_sub(1);
        Ok(())
    }

    /// Puts a new item in.
    pub(crate) fn insert(
        &mut self,
        blocks: &mut dyn Blocks,
        tree: TreeId,
        key: Key,
        data: &[u8],
    ) -> StoreResult<()> {
        self.check_len(tree, &key, data)?;
        let (mut path, found, node) = self.search(tree, &key)?;
        if found {
            return Err(corrupt(tree_item(tree), key, "an item that was to be new exists"));
        }
        let generation = node.generation;
        drop(node);
        self.own(blocks, &mut path, generation)?;
        self.put(blocks, &mut path, key, data)
    }

    /// Replaces the data of an item.
    pub(crate) fn update(
        &mut self,
        blocks: &mut dyn Blocks,
        tree: TreeId,
        key: &Key,
        data: &[u8],
    ) -> StoreResult<()> {
        self.check_len(tree, key, data)?;
        let (mut path, found, node) = self.search(tree, key)?;
        let slot = path.steps[0].1;
        let leaf = node.leaf().filter(|_| found);
        let Some(old) = leaf.map(|leaf| leaf.data(slot)) else {
            return Err(corrupt(tree_item(tree), key, "an item that was to be updated is missing"));
        };
        if old == data {
            return Ok(());
        }
        let grows = data.len().saturating_sub(old.len());
        let (used, most) = node.fill(self.nodesize);
        let generation = node.generation;
        drop(node);
        self.own(blocks, &mut path, generation)?;
        let leaf = self.leaf_mut(path.steps[0].0);
        if used + grows <= most {
            leaf.update(slot, data);
            return Ok(());
        }
        // Too long for its leaf: as if it were new. The first key is the same in the end, so that nothing above changes
        // in between.
        leaf.remove(slot);
        if leaf.count() == 0 {
            leaf.insert(0, *key, data);
            return Ok(());
        }
        let first = leaf.slots()[0].key;
        if slot == 0 {
            self.set_first_key(&path, 1, first);
        }
        self.put(blocks, &mut path, *key, data)
    }

    /// Takes an item out.
    pub(crate) fn remove(
        &mut self,
        blocks: &mut dyn Blocks,
        tree: TreeId,
        key: &Key,
    ) -> StoreResult<Vec<u8>> {
        let (mut path, found, node) = self.search(tree, key)?;
        if !found {
            return Err(corrupt(tree_item(tree), key, "an item that was to be removed is missing"));
        }
        let generation = node.generation;
        drop(node);
        self.own(blocks, &mut path, generation)?;
        let (bytenr, slot) = path.steps[0];
        let leaf = self.leaf_mut(bytenr);
        let data = leaf.remove(slot);
        match leaf.slots().first().map(|slot| slot.key) {
            None if path.top > 0 => self.remove_child(blocks, &mut path, 0)?,
            None => {}
            Some(first) => {
                if slot == 0 {
                    self.set_first_key(&path, 1, first);
                }
                self.merge(blocks, &mut path, 0)?;
            }
        }
        Ok(data)
    }

    fn check_len(&self, tree: TreeId, key: &Key, data: &[u8]) -> StoreResult<()> {
        if data.len() <= self.max_item() {
            return Ok(());
        }
        let why = format_args!("{} bytes, at most {} fit", data.len(), self.max_item());
        Err(corrupt(tree_item(tree), key, why))
    }

    /// Puts an item where the path leads; all of the path is ours.
    fn put(
        &mut self,
        blocks: &mut dyn Blocks,
        path: &mut Path,
        key: Key,
        data: &[u8],
    ) -> StoreResult<()> {
        let (bytenr, slot) = path.steps[0];
        let (used, most) = self.fill_of(bytenr);
        let leaf = self.leaf_mut(bytenr);
        if used + ITEM_LEN + data.len() > most {
            return self.split_leaf(blocks, path, key, data);
        }
        leaf.insert(slot, key, data);
        leaf.last_insert = Some(slot);
        if slot == 0 {
            self.set_first_key(path, 1, key);
        }
        Ok(())
    }

    /// Puts an item into a leaf that has no room for it.
    fn split_leaf(
        &mut self,
        blocks: &mut dyn Blocks,
        path: &mut Path,
        key: Key,
        data: &[u8],
    ) -> StoreResult<()> {
        let (bytenr, slot) = path.steps[0];
        let need = ITEM_LEN + data.len();
        let most = self.fill_of(bytenr).1;
        let leaf = self.leaf_mut(bytenr);
        let plan = plan_split(leaf, slot, need, most);
        let mut right = leaf.split_off(plan.cut);
        let mut middle = None;
        match plan.side {
            Side::Left => {
                leaf.insert(slot, key, data);
                leaf.last_insert = Some(slot);
            }
            Side::Right => {
                right.insert(slot - plan.cut, key, data);
                right.last_insert = Some(slot - plan.cut);
            }
            Side::Between => {
                let mut own = Leaf::default();
                own.insert(0, key, data);
                own.last_insert = Some(0);
                middle = Some(own);
            }
        }
        let first = leaf.slots()[0].key;
        for body in [Some(right), middle].into_iter().flatten() {
            if body.count() > 0 {
                let ptr = self.make(blocks, path.tree, 0, Body::Leaf(body))?;
                self.add_child(blocks, path, 1, ptr)?;
            }
        }
        if slot == 0 {
            self.set_first_key(path, 1, first);
        }
        Ok(())
    }

    /// Puts a pointer behind the one that the path takes at `level`. The path stays on its child.
    fn add_child(
        &mut self,
        blocks: &mut dyn Blocks,
        path: &mut Path,
        level: usize,
        ptr: NodePtr,
    ) -> StoreResult<()> {
        if level > path.top {
            return self.grow(blocks, path, ptr);
        }
        let (bytenr, slot) = path.steps[level];
        let (count, most) = self.fill_of(bytenr);
        let at = slot + 1;
        let ptrs = self.ptrs_mut(bytenr);
        if count < most {
            ptrs.insert(at, ptr);
            return Ok(());
        }
        // At the end, the new pointer goes alone: ascending insertion leaves full nodes behind.
        let cut = if at == count { count } else { count / 2 };
        let mut right = ptrs.split_off(cut);
        let moved = slot >= cut;
        if at > cut || at == count {
            right.insert(at - cut, ptr);
        } else {
            ptrs.insert(at, ptr);
        }
        let level_u8 = self.dirty(bytenr).level;
        let right = self.make(blocks, path.tree, level_u8, Body::Inner(right))?;
        self.add_child(blocks, path, level + 1, right)?;
        if moved {
            path.steps[level] = (right.bytenr, slot - cut);
            self.advance(path, level + 1, right.bytenr);
        }
        Ok(())
    }

    /// Moves the path at `level` on to the child at `bytenr`, which was just put behind the one that it took.
    fn advance(&mut self, path: &mut Path, level: usize, child: u64) {
        let (bytenr, slot) = path.steps[level];
        let ptrs = self.ptrs_mut(bytenr);
        if ptrs.get(slot + 1).is_some_and(|ptr| ptr.bytenr == child) {
            path.steps[level].1 = slot + 1;
            return;
        }
        // The node above was split right between the two: the child is first in the node behind it.
        let key = self.cache.get(child).and_then(|node| node.first_key()).unwrap_or(Key::MIN);
        let mut at = self.root(path.tree).expect("the tree has a root").bytenr;
        for above in (level..=path.top).rev() {
            let node = self.cache.get(at).expect("blocks of the running transaction are pinned");
            let slot = super::read::child_of(&node, &key);
            path.steps[above] = (at, slot);
            at = node.ptrs()[slot].bytenr;
        }
    }

    /// Puts a new root above the old one and `ptr`.
    fn grow(&mut self, blocks: &mut dyn Blocks, path: &mut Path, ptr: NodePtr) -> StoreResult<()> {
        let top = path.top + 1;
        if top >= usize::from(MAX_LEVEL) {
            return Err(corrupt("tree", path.tree, "it would have more than eight levels"));
        }
        let (bytenr, _) = path.steps[path.top];
        let generation = self.generation;
        let old = self.dirty(bytenr);
        let (level, key) = (old.level + 1, old.first_key().unwrap_or(Key::MIN));
        let first = NodePtr { key, bytenr, generation };
        let root = self.make(blocks, path.tree, level, Body::Inner(vec![first, ptr]))?;
        let at = self.root_mut(path.tree);
        (at.bytenr, at.level, at.generation) = (root.bytenr, level, generation);
        path.top = top;
        path.steps[top] = (root.bytenr, 0);
        Ok(())
    }

    /// Drops the block at `level` of the path, which has become empty, from its parent.
    fn remove_child(
        &mut self,
        blocks: &mut dyn Blocks,
        path: &mut Path,
        level: usize,
    ) -> StoreResult<()> {
        let tree = path.tree;
        let node = self.cache.get(path.steps[level].0).expect("the path is ours");
        self.unmake(blocks, tree, &node)?;
        let (parent, slot) = path.steps[level + 1];
        let ptrs = self.ptrs_mut(parent);
        ptrs.remove(slot);
        let first = ptrs.first().map(|ptr| ptr.key);
        match first {
            Some(first) => {
                if slot == 0 {
                    self.set_first_key(path, level + 2, first);
                }
                path.steps[level + 1].1 = slot.saturating_sub(1);
                self.merge(blocks, path, level + 1)
            }
            None if level + 1 < path.top => self.remove_child(blocks, path, level + 1),
            None => {
                let old = self.cache.get(parent).expect("the path is ours");
                let leaf = self.make(blocks, tree, 0, Body::Leaf(Leaf::default()))?;
                self.unmake(blocks, tree, &old)?;
                let root = self.root_mut(tree);
                (root.bytenr, root.level, root.generation) = (leaf.bytenr, 0, leaf.generation);
                Ok(())
            }
        }
    }

    /// Joins the block at `level` of the path with a neighbour if it is rather empty and both fit into one; makes the
    /// tree lower if it is a root with one child.
    fn merge(&mut self, blocks: &mut dyn Blocks, path: &mut Path, level: usize) -> StoreResult<()> {
        let Some((parent, slot)) = path.above(level) else {
            return self.shrink(blocks, path);
        };
        let (used, most) = self.fill_of(path.steps[level].0);
        if used >= most / 4 {
            return Ok(());
        }
        let above = self.cache.get(parent).expect("the path is ours");
        let before = slot.checked_sub(1);
        let behind = Some(slot + 1).filter(|slot| *slot < above.count());
        for other_slot in [before, behind].into_iter().flatten() {
            // A neighbour that cannot be read need not be: this block is merely rather empty.
            let Ok(other) = self.fetch_child(path.tree, &above, other_slot) else { continue };
            if other.fill(self.nodesize).0 + used > most - most / 8 {
                continue;
            }
            drop(above);
            self.join(path.steps[level].0, &other, other_slot < slot);
            self.unmake(blocks, path.tree, &other)?;
            let kept_key = self.dirty(path.steps[level].0).first_key();
            let ptrs = self.ptrs_mut(parent);
            ptrs.remove(other_slot);
            let own = slot.min(other_slot);
            ptrs[own].key = kept_key.expect("the joined block has items");
            path.steps[level + 1].1 = own;
            return self.merge(blocks, path, level + 1);
        }
        Ok(())
    }

    /// Puts all that `other` holds into the block at `bytenr`, before or behind what is there.
    fn join(&mut self, bytenr: u64, other: &Node, before: bool) {
        match (&mut self.dirty(bytenr).body, &other.body) {
            (Body::Leaf(own), Body::Leaf(other)) if before => {
                let mut joined = other.clone();
                joined.append_all(own);
                *own = joined;
            }
            (Body::Leaf(own), Body::Leaf(other)) => own.append_all(other),
            (Body::Inner(own), Body::Inner(other)) if before => {
                own.splice(0..0, other.iter().copied());
            }
            (Body::Inner(own), Body::Inner(other)) => own.extend_from_slice(other),
            _ => unreachable!("neighbours are of one level"),
        }
    }

    /// While the root has one child only, makes that the root.
    fn shrink(&mut self, blocks: &mut dyn Blocks, path: &mut Path) -> StoreResult<()> {
        while path.top > 0 {
            let (bytenr, _) = path.steps[path.top];
            let old = self.cache.get(bytenr).expect("the path is ours");
            if old.count() != 1 {
                return Ok(());
            }
            let child = self.fetch_child(path.tree, &old, 0)?;
            let mut at = (child.bytenr, child.generation);
            if child.generation != self.generation {
                let fresh = self.space_for(blocks, path.tree, child.level)?;
                self.keep(child.copy_to(fresh, self.generation, path.tree));
                blocks.free(self, path.tree, &child)?;
                self.forget(child.bytenr);
                at = (fresh, self.generation);
            }
            let level = child.level;
            self.unmake(blocks, path.tree, &old)?;
            let root = self.root_mut(path.tree);
            (root.bytenr, root.generation, root.level) = (at.0, at.1, level);
            path.top -= 1;
            path.steps[path.top].0 = at.0;
        }
        Ok(())
    }
}

fn tree_item(tree: TreeId) -> String {
    format!("item of tree {tree}")
}

/// Which part of a split leaf the new item goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Between,
}

/// How a leaf is split: the items from `cut` on move to the right.
#[derive(Debug, Clone, Copy)]
struct Split {
    cut: usize,
    side: Side,
}

/// Where to split `leaf` so that an item of `need` bytes fits at `slot`.
fn plan_split(leaf: &Leaf, slot: usize, need: usize, most: usize) -> Split {
    let count = leaf.count();
    if slot == count {
        return Split { cut: count, side: Side::Right };
    }
    let sizes = leaf.slots().iter().map(crate::node::Slot::size);
    let before: usize = sizes.clone().take(slot).sum();
    let behind = leaf.used() - before;
    if slot > 0 && leaf.last_insert == Some(slot - 1) {
        // An ascending run within the leaf: what comes behind it moves away.
        let side = if before + need <= most {
            Side::Left
        } else if behind + need <= most {
            Side::Right
        } else {
            Side::Between
        };
        return Split { cut: slot, side };
    }
    let mut best: Option<(usize, Split)> = None;
    let mut left = 0;
    for (cut, size) in sizes.enumerate().chain([(count, 0)]) {
        let right = leaf.used() - left;
        for side in [Side::Left, Side::Right] {
            let (l, r, fits_order) = match side {
                Side::Left => (left + need, right, cut >= slot),
                _ => (left, right + need, cut <= slot),
            };
            let whole = l > 0 && r > 0 && (side == Side::Left || cut > 0);
            if fits_order && whole && l <= most && r <= most {
                let score = l.abs_diff(r);
                if best.is_none_or(|(other, _)| score < other) {
                    best = Some((score, Split { cut, side }));
                }
            }
        }
        left += size;
    }
    best.map_or(Split { cut: slot, side: Side::Between }, |(_, split)| split)
}
