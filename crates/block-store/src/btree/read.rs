//! Finding items and walking over them.

use std::collections::HashSet;
use std::sync::Arc;

use cowback_btrfs_disk::node::MAX_LEVEL;
use cowback_btrfs_disk::{Key, TreeId};
use cowback_extent_io::store::StoreResult;

use super::{Forest, Path};
use crate::error::corrupt;
use crate::node::Node;

/// The child that holds `key`, or would.
pub(super) fn child_of(node: &Node, key: &Key) -> usize {
    node.ptrs().partition_point(|ptr| ptr.key <= *key).saturating_sub(1)
}

impl Forest {
    /// The way to where `key` is or would be, whether it is there, and the leaf.
    pub(super) fn search(&self, tree: TreeId, key: &Key) -> StoreResult<(Path, bool, Arc<Node>)> {
        let mut node = self.fetch_root(tree)?;
        let top = usize::from(node.level);
        let mut path = Path { tree, steps: [(0, 0); MAX_LEVEL as usize], top };
        for level in (1..=top).rev() {
            let slot = child_of(&node, key);
            path.steps[level] = (node.bytenr, slot);
            node = self.fetch_child(tree, &node, slot)?;
        }
        let found = node.leaf().map_or(Err(0), |leaf| leaf.search(key));
        let (Ok(slot) | Err(slot)) = found;
        path.steps[0] = (node.bytenr, slot);
        Ok((path, found.is_ok(), node))
    }

    /// The leaf behind (or before) the one that `path` leads to.
    fn neighbour(&self, path: &mut Path, behind: bool) -> StoreResult<Option<Arc<Node>>> {
        let mut level = 1;
        // The blocks of the path, from the root down: the cache may have dropped any of them meanwhile.
        let mut nodes = Vec::with_capacity(path.top);
        if path.top > 0 {
            nodes.push(self.fetch_root(path.tree)?);
            for level in (2..=path.top).rev() {
                let parent = Arc::clone(nodes.last().expect("the root was pushed"));
                nodes.push(self.fetch_child(path.tree, &parent, path.steps[level].1)?);
            }
        }
        while level <= path.top {
            let node = &nodes[path.top - level];
            let slot = path.steps[level].1;
            let next = if behind { slot.checked_add(1) } else { slot.checked_sub(1) };
            if let Some(next) = next.filter(|next| *next < node.count()) {
                path.steps[level].1 = next;
                let mut node = self.fetch_child(path.tree, node, next)?;
                for below in (1..level).rev() {
                    let slot = if behind { 0 } else { node.count().saturating_sub(1) };
                    path.steps[below] = (node.bytenr, slot);
                    node = self.fetch_child(path.tree, &node, slot)?;
                }
                let slot = if behind { 0 } else { node.count().saturating_sub(1) };
                path.steps[0] = (node.bytenr, slot);
                return Ok(Some(node));
            }
            level += 1;
        }
        Ok(None)
    }

    /// The data of the item at `key`.
    pub(crate) fn get(&self, tree: TreeId, key: &Key) -> StoreResult<Option<Vec<u8>>> {
        let (path, found, node) = self.search(tree, key)?;
        let leaf = node.leaf().filter(|_| found);
        Ok(leaf.map(|leaf| leaf.data(path.steps[0].1).to_vec()))
    }

    /// The first item at `key` or behind it.
    pub(crate) fn at_or_after(
        &self,
        tree: TreeId,
        key: &Key,
    ) -> StoreResult<Option<(Key, Vec<u8>)>> {
        let (mut path, _, mut node) = self.search(tree, key)?;
        if path.steps[0].1 >= node.count() {
            match self.neighbour(&mut path, true)? {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        Ok(item(&node, path.steps[0].1))
    }

    /// The last item at `key` or before it.
    pub(crate) fn at_or_before(
        &self,
        tree: TreeId,
        key: &Key,
    ) -> StoreResult<Option<(Key, Vec<u8>)>> {
        let (mut path, found, mut node) = self.search(tree, key)?;
        if found {
            return Ok(item(&node, path.steps[0].1));
        }
        match path.steps[0].1.checked_sub(1) {
            Some(slot) => path.steps[0].1 = slot,
            None => match self.neighbour(&mut path, false)? {
                Some(before) => node = before,
                None => return Ok(None),
            },
        }
        Ok(item(&node, path.steps[0].1))
    }

    /// Shows every item from `from` on, in order, until `visit` says no.
    pub(crate) fn for_each(
        &self,
        tree: TreeId,
        from: &Key,
        mut visit: impl FnMut(&Key, &[u8]) -> StoreResult<bool>,
    ) -> StoreResult<()> {
        let (mut path, _, mut node) = self.search(tree, from)?;
        let mut slot = path.steps[0].1;
        let mut last: Option<Key> = None;
        loop {
            if let Some(leaf) = node.leaf() {
                for index in slot..leaf.count() {
                    let key = leaf.slots()[index].key;
                    // Also what keeps a tree that was knotted on purpose from being walked for ever.
                    if last.is_some_and(|last| last >= key) {
                        return Err(corrupt("leaf", node.bytenr, "it overlaps the one before"));
                    }
                    last = Some(key);
                    if !visit(&key, leaf.data(index))? {
                        return Ok(());
                    }
                }
            }
            match self.neighbour(&mut path, true)? {
                Some(next) => node = next,
                None => return Ok(()),
            }
            slot = 0;
        }
    }

    /// Shows every block of `tree`, parents before children.
    ///
    /// # Errors
    /// A block that cannot be read, or that is in the tree twice: in a hostile volume one could go round for ever.
    pub(crate) fn for_each_block(
        &self,
        tree: TreeId,
        visit: &mut dyn FnMut(&Node),
    ) -> StoreResult<()> {
        let root = self.fetch_root(tree)?;
        self.blocks_below(tree, &root, &mut HashSet::new(), visit)
    }

    fn blocks_below(
        &self,
        tree: TreeId,
        node: &Arc<Node>,
        seen: &mut HashSet<u64>,
        visit: &mut dyn FnMut(&Node),
    ) -> StoreResult<()> {
        if !seen.insert(node.bytenr) {
            return Err(corrupt("tree block", node.bytenr, "it is in the tree twice"));
        }
        visit(node);
        for slot in 0..node.ptrs().len() {
            let child = self.fetch_child(tree, node, slot)?;
            self.blocks_below(tree, &child, seen, visit)?;
        }
        Ok(())
    }
}

fn item(node: &Node, slot: usize) -> Option<(Key, Vec<u8>)> {
    let leaf = node.leaf()?;
    (slot < leaf.count()).then(|| (leaf.slots()[slot].key, leaf.data(slot).to_vec()))
}
