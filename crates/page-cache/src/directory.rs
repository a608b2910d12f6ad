//! Where a file's leaves are (stage 2): a radix tree that is never changed, only replaced.
//!
//! A look-up takes no lock: it loads the tree of this moment and walks down, which nobody can hold up. Who adds or removes
//! a leaf copies the few nodes above it and publishes the new tree; that happens once for the 32 pages of a leaf, and those
//! who do it take turns.
//!
//! A leaf hangs as high as it is alone: a file of one leaf has no node, and a sparse file pays for no empty levels. So
//! a walk ends at some leaf, and the leaf's own number tells whether it is the one.
//!
//! Lock order: `changing` > a leaf's mutex.

use std::array;
use std::sync::Arc;

use cowback_base::sync::{ArcSwap, Mutex};

use crate::leaf::Leaf;

/// Bits of a leaf's number that each level decides by.
const BITS: u32 = 4;
/// Children of a node.
const FAN_OUT: usize = 1 << BITS;

/// The leaves of a mapping, by number.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    tree: ArcSwap<Tree>,
    changing: Mutex<()>,
}

/// The leaves at some moment.
#[derive(Debug, Default)]
struct Tree {
    /// Levels of nodes that the numbers of all leaves need.
    height: u32,
    root: Child,
}

#[derive(Debug, Clone, Default)]
enum Child {
    #[default]
    None,
    Leaf(Arc<Leaf>),
    Node(Arc<[Child; FAN_OUT]>),
}

impl Directory {
    /// Runs `f` on a leaf, if it exists. It may be dead by then.
    pub(crate) fn with<R>(&self, number: u64, f: impl FnOnce(&Arc<Leaf>) -> R) -> Option<R> {
        self.tree.load().get(number).map(f)
    }

    /// A leaf, if it exists. It may be dead by then.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Leaf>> {
        self.tree.load().get(number).cloned()
    }

    /// A leaf, made by `make` if it does not exist; nobody finds that one before `make` has returned.
    pub(crate) fn get_or_insert(&self, number: u64, make: impl FnOnce() -> Leaf) -> Arc<Leaf> {
        if let Some(leaf) = self.get(number) {
            return leaf;
        }
        let _changing = self.changing.lock();
        let tree = self.tree.load();
        if let Some(leaf) = tree.get(number) {
            return Arc::clone(leaf);
        }
        let leaf = Arc::new(make());
        assert_eq!(leaf.number, number, "a leaf was made for another place");
        self.tree.store(Arc::new(tree.with(&leaf)));
        leaf
    }

    /// Takes a leaf out if no page of it is there and nobody waits for one. Gives whether it did.
    pub(crate) fn remove_if_empty(&self, number: u64) -> bool {
        let _changing = self.changing.lock();
        let tree = self.tree.load();
        let Some(leaf) = tree.get(number) else { return false };
        let mut state = leaf.state.lock();
        if !state.masks.is_empty() || state.waiters > 0 {
            return false;
        }
        state.dead = true;
        // Under the leaf's mutex: who finds it dead finds a tree without it, and need not look a third time.
        self.tree.store(Arc::new(tree.without(number)));
        true
    }

    /// The leaves from number `first` to number `last`, ascending.
    pub(crate) fn range(&self, first: u64, last: u64) -> Vec<Arc<Leaf>> {
        let tree = self.tree.load();
        let mut found = Vec::new();
        tree.root.collect(tree.height, 0, (first, last), &mut found);
        found
    }
}

#[cfg(test)]
impl Directory {
    /// Bytes of the tree, if an allocation of so many takes what `allocated` says.
    pub(crate) fn bytes(&self, allocated: fn(usize) -> usize) -> usize {
        let tree = self.tree.load();
        let counts = 2 * size_of::<usize>();
        let nodes = tree.root.nodes() * allocated(size_of::<[Child; FAN_OUT]>() + counts);
        nodes + allocated(size_of::<Tree>() + counts)
    }
}

#[cfg(test)]
impl Child {
    /// Nodes of the subtree.
    fn nodes(&self) -> usize {
        match self {
            Self::Node(children) => 1 + children.iter().map(Self::nodes).sum::<usize>(),
            _ => 0,
        }
    }
}

/// Which child of a node that has `below` levels below it leads to `number`.
fn slot(number: u64, below: u32) -> usize {
    let digit = (number >> (BITS * below)) % FAN_OUT as u64;
    usize::try_from(digit).expect("less than the fan-out")
}

impl Tree {
    fn get(&self, number: u64) -> Option<&Arc<Leaf>> {
        let mut child = &self.root;
        let mut level = self.height;
        loop {
            match child {
                Child::None => return None,
                Child::Leaf(leaf) => return (leaf.number == number).then_some(leaf),
                Child::Node(children) => {
                    level -= 1;
                    child = &children[slot(number, level)];
                }
            }
        }
    }

    fn with(&self, leaf: &Arc<Leaf>) -> Self {
        let mut root = self.root.clone();
        let mut height = self.height;
        while leaf.number >> (BITS * height) != 0 {
            if let Child::Node(_) = root {
                let mut children: [Child; FAN_OUT] = array::from_fn(|_| Child::None);
                children[0] = root;
                root = Child::Node(Arc::new(children));
            }
            height += 1;
        }
        Self { root: root.with(leaf, height), height }
    }

    fn without(&self, number: u64) -> Self {
        Self { root: self.root.without(number, self.height), height: self.height }
    }
}

impl Child {
    /// This subtree of `levels` levels and a leaf more.
    fn with(&self, leaf: &Arc<Leaf>, levels: u32) -> Self {
        let mut children: [Self; FAN_OUT] = match self {
            Self::None => return Self::Leaf(Arc::clone(leaf)),
            Self::Leaf(other) => {
                assert_ne!(other.number, leaf.number, "a leaf was added twice");
                let mut children = array::from_fn(|_| Self::None);
                children[slot(other.number, levels - 1)] = self.clone();
                children
            }
            Self::Node(children) => (**children).clone(),
        };
        let child = &mut children[slot(leaf.number, levels - 1)];
        *child = child.with(leaf, levels - 1);
        Self::Node(Arc::new(children))
    }

    /// This subtree of `levels` levels without leaf `number`.
    fn without(&self, number: u64, levels: u32) -> Self {
        let Self::Node(children) = self else { return Self::None };
        let mut children = (**children).clone();
        let child = &mut children[slot(number, levels - 1)];
        *child = child.without(number, levels - 1);
        let mut left = children.iter().filter(|child| !matches!(child, Self::None));
        match (left.next(), left.next()) {
            (None, _) => Self::None,
            (Some(Self::Leaf(last)), None) => Self::Leaf(Arc::clone(last)),
            _ => Self::Node(Arc::new(children)),
        }
    }

    /// The leaves with numbers in `[first, last]` of this subtree, whose own numbers begin at `base`.
    fn collect(&self, levels: u32, base: u64, bounds: (u64, u64), found: &mut Vec<Arc<Leaf>>) {
        match self {
            Self::None => {}
            Self::Leaf(leaf) => {
                if (bounds.0..=bounds.1).contains(&leaf.number) {
                    found.push(Arc::clone(leaf));
                }
            }
            Self::Node(children) => {
                let each = 1u64 << (BITS * (levels - 1));
                for (start, child) in (0..).map(|i| base + i * each).zip(children.iter()) {
                    if start <= bounds.1 && start + (each - 1) >= bounds.0 {
                        child.collect(levels - 1, start, bounds, found);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
