//! Trees of small blocks against a map, with all their invariants checked after every few operations.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cowback_base::sync::Mutex;
use cowback_btrfs_disk::node::BlockExpect;
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Blocks, Forest, NodeSource, Root};
use crate::error::corrupt;
use crate::node::Node;

const TREE: TreeId = TreeId::FS;

/// What earlier transactions left "on disk".
#[derive(Debug, Default)]
struct Durable(Mutex<HashMap<u64, Node>>);

impl NodeSource for Durable {
    fn read(&self, expect: &BlockExpect) -> StoreResult<Node> {
        let nodes = self.0.lock();
        let node = nodes.get(&expect.bytenr).cloned();
        node.ok_or_else(|| corrupt("block", expect.bytenr, "never written"))
    }

    fn fsid(&self) -> Uuid {
        Uuid::nil()
    }
}

/// Hands addresses out; never twice, unless freed in the transaction that took them.
#[derive(Debug, Default)]
struct Counter {
    next: u64,
    generation: u64,
    reusable: Vec<u64>,
    live: BTreeSet<u64>,
}

impl Blocks for Counter {
    fn alloc(&mut self, _: &Forest, _: TreeId, _: u8) -> StoreResult<u64> {
        let bytenr = self.reusable.pop().unwrap_or_else(|| {
            self.next += 4096;
            self.next
        });
        assert!(self.live.insert(bytenr), "{bytenr} was handed out twice");
        Ok(bytenr)
    }

    fn free(&mut self, _: &Forest, _: TreeId, block: &Node) -> StoreResult<()> {
        assert!(self.live.remove(&block.bytenr), "{} was freed twice", block.bytenr);
        if block.generation == self.generation {
            self.reusable.push(block.bytenr);
        }
        Ok(())
    }
}

struct World {
    forest: Forest,
    blocks: Counter,
    durable: Arc<Durable>,
    model: BTreeMap<Key, Vec<u8>>,
}

impl World {
    fn new(nodesize: usize) -> Self {
        let durable = Arc::new(Durable::default());
        let source: Arc<dyn NodeSource> = Arc::clone(&durable) as _;
        let mut forest = Forest::new(source, nodesize, 0, 1);
        let mut blocks = Counter { generation: 1, ..Counter::default() };
        forest.create(&mut blocks, TREE).unwrap();
        Self { forest, blocks, durable, model: BTreeMap::new() }
    }

    /// Walks the tree; gives all its blocks.
    fn check(&self) -> Vec<Node> {
        let mut seen = Vec::new();
        let mut items = BTreeMap::new();
        let mut last = None;
        self.forest.for_each_block(TREE, &mut |node| seen.push(node.clone())).unwrap();
        for node in &seen {
            let (used, most) = node.fill(self.forest.nodesize());
            assert!(used <= most, "{} of {most}", used);
            for pair in node.ptrs().windows(2) {
                assert!(pair[0].key < pair[1].key);
            }
            if let Some(leaf) = node.leaf() {
                let sum: usize = leaf.slots().iter().map(crate::node::Slot::size).sum();
                assert_eq!(sum, leaf.used());
                for (at, slot) in leaf.slots().iter().enumerate() {
                    assert!(last.is_none_or(|last| last < slot.key));
                    last = Some(slot.key);
                    items.insert(slot.key, leaf.data(at).to_vec());
                }
                assert!(leaf.count() > 0 || seen.len() == 1);
            }
        }
        let root = self.forest.root(TREE).unwrap();
        assert_eq!(root.blocks as usize, seen.len());
        let reachable: BTreeSet<u64> = seen.iter().map(|node| node.bytenr).collect();
        assert_eq!(reachable, self.blocks.live);
        assert_eq!(items, self.model);
        if root.level > 0 {
            assert!(seen[0].count() >= 2, "a root with one child");
        }
        seen
    }

    fn commit(&mut self) {
        let nodes = self.check();
        let ours = nodes.iter().filter(|node| node.generation == self.forest.generation);
        let ours: BTreeSet<u64> = ours.map(|node| node.bytenr).collect();
        let ended = self.forest.end_transaction();
        assert_eq!(ended.iter().map(|node| node.bytenr).collect::<BTreeSet<_>>(), ours);
        let mut durable = self.durable.0.lock();
        for node in ended {
            durable.insert(node.bytenr, Node::clone(&node));
        }
        drop(durable);
        self.forest.cache.set_unwritten(self.forest.generation);
        self.blocks.generation = self.forest.generation;
        self.blocks.reusable.clear();
    }

    fn put(&mut self, key: Key, data: &[u8]) {
        if self.model.insert(key, data.to_vec()).is_some() {
            self.forest.update(&mut self.blocks, TREE, &key, data).unwrap();
        } else {
            self.forest.insert(&mut self.blocks, TREE, key, data).unwrap();
        }
    }

    fn remove(&mut self, key: Key) {
        let removed = self.forest.remove(&mut self.blocks, TREE, &key);
        match self.model.remove(&key) {
            Some(data) => assert_eq!(removed.unwrap(), data),
            None => assert!(removed.is_err()),
        }
    }

    fn look(&self, key: Key) {
        assert_eq!(self.forest.get(TREE, &key).unwrap(), self.model.get(&key).cloned());
        let item = |(key, data): (&Key, &Vec<u8>)| (*key, data.clone());
        let behind = self.model.range(key..).next().map(item);
        assert_eq!(self.forest.at_or_after(TREE, &key).unwrap(), behind);
        let before = self.model.range(..=key).next_back().map(item);
        assert_eq!(self.forest.at_or_before(TREE, &key).unwrap(), before);
    }
}

fn key(at: u64) -> Key {
    Key::new(at / 16, ItemKind(1), at % 16)
}

#[derive(Debug, Clone)]
enum Op {
    Put(u64, usize),
    Run(u64, u64, usize),
    Remove(u64),
    RemoveRun(u64, u64),
    Look(u64),
    Commit,
}

fn op(most: usize) -> impl Strategy<Value = Op> {
    let len = prop_oneof![3 => 0..most / 8, 1 => 0..=most, 1 => Just(most)];
    prop_oneof![
        5 => (0..600_u64, len).prop_map(|(at, len)| Op::Put(at, len)),
        1 => (0..600_u64, 1..60_u64, 0..60_usize).prop_map(|(at, n, len)| Op::Run(at, n, len)),
        4 => (0..600_u64).prop_map(Op::Remove),
        1 => (0..600_u64, 1..150_u64).prop_map(|(at, n)| Op::RemoveRun(at, n)),
        2 => (0..600_u64).prop_map(Op::Look),
        1 => Just(Op::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agrees_with_a_map(
        (nodesize, ops) in prop_oneof![Just(240_usize), Just(512), Just(1024)].prop_flat_map(|size| {
            (Just(size), prop::collection::vec(op(size - 101 - 25), 1..300))
        })
    ) {
        let mut world = World::new(nodesize);
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Put(at, len) => world.put(key(at), &vec![step as u8; len]),
                Op::Run(at, n, len) => (at..at + n).for_each(|at| world.put(key(at), &vec![7; len])),
                Op::Remove(at) => world.remove(key(at)),
                Op::RemoveRun(at, n) => (at..at + n).for_each(|at| world.remove(key(at))),
                Op::Look(at) => world.look(key(at)),
                Op::Commit => world.commit(),
            }
            if step % 8 == 0 {
                world.check();
            }
        }
        world.check();
    }
}

#[test]
fn a_tree_that_is_emptied_becomes_one_empty_leaf() {
    let mut world = World::new(512);
    (0..2000).for_each(|at| world.put(key(at), &[1; 40]));
    world.commit();
    assert!(world.forest.root(TREE).unwrap().level >= 2);
    (0..2000).rev().for_each(|at| world.remove(key(at)));
    world.check();
    let Root { level, blocks, .. } = *world.forest.root(TREE).unwrap();
    assert_eq!((level, blocks), (0, 1));
}

#[test]
fn ascending_insertion_leaves_full_leaves() {
    let mut world = World::new(16384);
    (0..20_000).for_each(|at| world.put(key(at), &[1; 53]));
    let leaves = world.check().iter().filter(|node| node.level == 0).count();
    assert_eq!(leaves, 20_000_usize.div_ceil((16384 - 101) / (53 + 25)));
    // And so does an ascending run in the middle of another's keys.
    let mut world = World::new(16384);
    world.put(Key::new(1 << 40, ItemKind(1), 0), &[0; 100]);
    (0..20_000).for_each(|at| world.put(key(at), &[1; 53]));
    let after = world.check().iter().filter(|node| node.level == 0).count();
    assert!(after <= leaves + 2, "{after} leaves");
}

#[test]
fn what_must_exist_and_what_must_not_is_told_apart() {
    let mut world = World::new(512);
    world.put(key(5), b"five");
    let Forest { .. } = world.forest;
    assert!(world.forest.insert(&mut world.blocks, TREE, key(5), b"x").is_err());
    assert!(world.forest.update(&mut world.blocks, TREE, &key(6), b"x").is_err());
    assert!(world.forest.insert(&mut world.blocks, TREE, key(7), &[0; 387]).is_err());
    assert!(world.forest.get(TreeId::CSUM, &key(5)).is_err());
    world.check();
}
