//! Tree blocks in memory, by address (stage 9).
//!
//! A block of the running transaction, or of one that is being written, is pinned: it exists nowhere else. The others are
//! clean copies of what is on disk and are dropped when there are too many, least recently used first (second chance).
//! Lock order: a leaf lock, never held during IO.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use cowback_base::sync::Mutex;

use crate::node::Node;

/// Spreads block addresses, which are multiples of 4096, over a hash table.
#[derive(Debug, Default, Clone)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// A hash map by block address.
pub(crate) type ByAddress<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    used: bool,
}

/// All tree blocks in memory.
#[derive(Debug)]
pub(crate) struct NodeCache {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    nodes: ByAddress<Entry>,
    ring: VecDeque<u64>,
    most: usize,
    /// Blocks of this transaction and later ones are pinned.
    unwritten: u64,
}

impl NodeCache {
    /// Room for `most` clean blocks.
    pub(crate) fn new(most: usize) -> Self {
        let nodes = ByAddress::default();
        let inner = Inner { nodes, ring: VecDeque::new(), most: most.max(64), unwritten: 0 };
        Self { inner: Mutex::new(inner) }
    }

    /// The block at `bytenr`, if it is here.
    pub(crate) fn get(&self, bytenr: u64) -> Option<Arc<Node>> {
        let mut inner = self.inner.lock();
        let entry = inner.nodes.get_mut(&bytenr)?;
        entry.used = true;
        Some(Arc::clone(&entry.node))
    }

    /// Whether the block at `bytenr` is here.
    pub(crate) fn contains(&self, bytenr: u64) -> bool {
        self.inner.lock().nodes.contains_key(&bytenr)
    }

    /// The block at `bytenr`, to be changed. It must be one of the running transaction.
    pub(crate) fn get_mut(&mut self, bytenr: u64) -> Option<&mut Node> {
        let inner = self.inner.get_mut();
        inner.nodes.get_mut(&bytenr).map(|entry| Arc::make_mut(&mut entry.node))
    }

    /// Keeps a block, clean or dirty.
    pub(crate) fn put(&self, node: Arc<Node>) {
        let mut inner = self.inner.lock();
        let bytenr = node.bytenr;
        if inner.nodes.insert(bytenr, Entry { node, used: true }).is_none() {
            inner.ring.push_back(bytenr);
        }
        inner.tidy_ring();
        inner.evict();
    }

    /// Forgets the block at `bytenr`.
    pub(crate) fn remove(&self, bytenr: u64) {
        self.inner.lock().nodes.remove(&bytenr);
    }

    /// The first transaction that is not on disk.
    pub(crate) fn unwritten(&self) -> u64 {
        self.inner.lock().unwritten
    }

    /// From now on, blocks of transaction `generation` and later ones are pinned, and older ones are not.
    pub(crate) fn set_unwritten(&self, generation: u64) {
        let mut inner = self.inner.lock();
        inner.unwritten = generation;
        inner.evict();
    }

    /// Blocks in memory.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().nodes.len()
    }
}

impl Inner {
    /// Drops what removed blocks left in the ring.
    fn tidy_ring(&mut self) {
        if self.ring.len() > 2 * self.nodes.len() + 1024 {
            let mut seen = ByAddress::default();
            let nodes = &self.nodes;
            self.ring.retain(|at| nodes.contains_key(at) && seen.insert(*at, ()).is_none());
        }
    }

    /// Drops clean blocks while there are too many; looks at a few only, so that no call takes long.
    fn evict(&mut self) {
        let mut looks = 8;
        while self.nodes.len() > self.most && looks > 0 {
            looks -= 1;
            let Some(bytenr) = self.ring.pop_front() else { return };
            let Some(entry) = self.nodes.get_mut(&bytenr) else { continue };
            if entry.node.generation >= self.unwritten || entry.used {
                entry.used = false;
                self.ring.push_back(bytenr);
            } else {
                self.nodes.remove(&bytenr);
            }
        }
    }
}
