//! Walking every block of every tree, through every copy.
//!
//! Whoever is shown an item may rely on this: within one walk keys ascend strictly, and its block's checksum, header and
//! layout are right in at least one copy. What is below a block that no copy gives is left out, and the walk is told to be
//! incomplete, so that nobody concludes anything from what is missing.

use std::collections::{HashMap, HashSet};

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::check_item;
use cowback_btrfs_disk::node::{BlockExpect, Header, NodePtr, ParsedBlock, Slot, parse_block};
use cowback_btrfs_disk::{DiskResult, Key, TreeId};
use uuid::Uuid;

use super::media::{Copy, Media, Reader};
use super::problem::{Out, name_of};
use crate::block_space::may_be_shared;

/// Where a tree begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Which tree.
    pub(super) tree: TreeId,
    /// Address of the root block.
    pub(super) bytenr: u64,
    /// Its level.
    pub(super) level: u8,
    /// Its generation.
    pub(super) generation: u64,
    /// Blocks up to this generation may have been made for another subvolume.
    pub(super) last_snapshot: u64,
    /// Of a subvolume that is being deleted: the first key that is still there, and the level of the nodes that say so.
    pub(super) dropped: Option<(Key, u8)>,
}

impl Start {
    /// The root of a tree that no subvolume shares.
    pub(super) const fn plain(tree: TreeId, bytenr: u64, level: u8, generation: u64) -> Self {
        Self { tree, bytenr, level, generation, last_snapshot: 0, dropped: None }
    }
}

/// An item, as the walk shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    /// Its key.
    pub(super) key: Key,
    /// Its data.
    pub(super) data: &'a [u8],
    /// Whether it is of a kind whose own rules it obeys.
    pub(super) valid: bool,
    /// The address of its leaf.
    pub(super) leaf: u64,
    /// The tree that its leaf was made for.
    pub(super) owner: TreeId,
    /// Whether its leaf was not shown before, by a walk over another tree.
    pub(super) first: bool,
    /// Whether something between this item and the one before could not be read.
    pub(super) gap: bool,
}

/// A tree block that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// The tree that it was made for.
    pub(super) owner: TreeId,
    /// The tree in which it was first met.
    pub(super) tree: TreeId,
    /// Its level.
    pub(super) level: u8,
}

/// What refers to a tree block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// A root item, or the superblock.
    Root(TreeId),
    /// A node.
    Node(u64),
}

/// What all walks found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    reader: Reader,
    /// The blocks, by address.
    pub(super) blocks: HashMap<u64, Block>,
    /// Who refers to whom: (child, parent).
    pub(super) edges: Vec<(u64, Parent)>,
    /// The UUID that every block names: what the first one, the chunk tree's root, names.
    pub(super) chunk_tree_uuid: Option<Uuid>,
    /// Blocks that no copy gives.
    bad: HashSet<u64>,
    /// Whether some tree could not be walked as a whole.
    pub(super) incomplete: bool,
}

/// What is to be found at the next step down.
#[derive(Debug, Clone, Copy)]
struct Step {
    bytenr: u64,
    level: u8,
    generation: u64,
    first: Option<Key>,
    /// All keys are below this.
    limit: Option<Key>,
    parent: Parent,
    /// Whether the parent was met for the first time.
    counts: bool,
}

type Visit<'v> = &'v mut dyn FnMut(&Item<'_>, &mut Out<'_>);

struct Descent<'v> {
    start: Start,
    seen: HashSet<u64>,
    complete: bool,
    /// Something was left out since the last item.
    gap: bool,
    visit: Visit<'v>,
}

impl Descent<'_> {
    fn leave_out(&mut self) {
        (self.complete, self.gap) = (false, true);
    }
}

/// A block whose copies were looked at.
struct Loaded {
    bytes: Vec<u8>,
    header: Header,
    body: Body,
}

enum Body {
    Leaf(Vec<Slot>),
    Node(Vec<NodePtr>),
}

impl Loaded {
    fn parse(media: &Media<'_>, bytes: Vec<u8>, expect: &BlockExpect) -> DiskResult<Self> {
        let (header, body) = match parse_block(&bytes, expect, media.sb.csum)? {
            ParsedBlock::Leaf(leaf) => (leaf.header().clone(), Body::Leaf(leaf.slots().to_vec())),
            ParsedBlock::Node(node) => (node.header, Body::Node(node.ptrs)),
        };
        Ok(Self { bytes, header, body })
    }

    fn last_key(&self) -> Option<Key> {
        match &self.body {
            Body::Leaf(slots) => slots.last().map(|slot| slot.key),
            Body::Node(ptrs) => ptrs.last().map(|ptr| ptr.key),
        }
    }
}

impl Walk {
    /// Walks over a tree and shows its items. Says whether all of it could be walked.
    pub(super) fn tree(
        &mut self,
        media: &Media<'_>,
        start: Start,
        out: &mut Out<'_>,
        visit: Visit<'_>,
    ) -> bool {
        out.report.trees += 1;
        if self.blocks.contains_key(&start.bytenr) {
            out.block(start.tree, start.bytenr, "the tree's root is a block of another tree");
            self.incomplete = true;
            return false;
        }
        let seen = HashSet::new();
        let mut descent = Descent { start, seen, complete: true, gap: false, visit };
        let step = Step {
            bytenr: start.bytenr,
            level: start.level,
            generation: start.generation,
            first: None,
            limit: None,
            parent: Parent::Root(start.tree),
            counts: true,
        };
        self.down(media, &mut descent, step, out);
        self.incomplete |= !descent.complete;
        descent.complete
    }

    fn down(&mut self, media: &Media<'_>, d: &mut Descent<'_>, step: Step, out: &mut Out<'_>) {
        let tree = d.start.tree;
        if step.counts {
            self.edges.push((step.bytenr, step.parent));
        }
        if !d.seen.insert(step.bytenr) {
            out.block(tree, step.bytenr, "it is in the tree twice");
            d.leave_out();
            return;
        }
        let Some(block) = self.load(media, &d.start, &step, out) else {
            d.leave_out();
            return;
        };
        if let (Some(last), Some(limit)) = (block.last_key(), step.limit)
            && last >= limit
        {
            let what =
                format_args!("its last key is {last}, and the next block's first is {limit}");
            out.block(tree, step.bytenr, what);
            d.leave_out();
            return;
        }
        let first = !self.blocks.contains_key(&step.bytenr);
        if first {
            let uuid = *self.chunk_tree_uuid.get_or_insert(block.header.chunk_tree_uuid);
            check_header(media, &d.start, &block.header, uuid, out);
            let (owner, level) = (block.header.owner, step.level);
            self.blocks.insert(step.bytenr, Block { owner, tree, level });
            out.report.blocks += 1;
            out.report.metadata_bytes += media.nodesize();
        }
        match &block.body {
            Body::Leaf(slots) => show(media, d, &block, slots, first, out),
            Body::Node(ptrs) => self.children(media, d, step, ptrs, first, out),
        }
    }

    fn children(
        &mut self,
        media: &Media<'_>,
        d: &mut Descent<'_>,
        step: Step,
        ptrs: &[NodePtr],
        first: bool,
        out: &mut Out<'_>,
    ) {
        for (index, ptr) in ptrs.iter().enumerate() {
            let limit = ptrs.get(index + 1).map(|next| next.key).or(step.limit);
            if let Some((key, level)) = d.start.dropped
                && step.level >= level
                && ((step.level == level && ptr.key < key) || limit.is_some_and(|end| end <= key))
            {
                continue;
            }
            let child = Step {
                bytenr: ptr.bytenr,
                level: step.level.saturating_sub(1),
                generation: ptr.generation,
                first: Some(ptr.key),
                limit,
                parent: Parent::Node(step.bytenr),
                counts: first,
            };
            self.down(media, d, child, out);
        }
    }

    /// The block, from the first copy that is good. Tells what is wrong with any of them.
    fn load(
        &mut self,
        media: &Media<'_>,
        start: &Start,
        step: &Step,
        out: &mut Out<'_>,
    ) -> Option<Loaded> {
        let (tree, bytenr) = (start.tree, step.bytenr);
        if self.bad.contains(&bytenr) {
            return None;
        }
        let end = bytenr.checked_add(media.nodesize());
        let copies = end.map(|end| media.copies(ByteRange::new(bytenr, end))).unwrap_or_default();
        if copies.is_empty() {
            out.block(tree, bytenr, "no chunk that can be read holds it");
            self.bad.insert(bytenr);
            return None;
        }
        let strict = BlockExpect {
            bytenr,
            fsid: media.sb.tree_uuid(),
            level: Some(step.level),
            generation: Some(step.generation),
            owner: (!tree.is_file_tree() && tree != TreeId::TREE_RELOC).then_some(tree.0),
            first_key: step.first,
        };
        let lenient = BlockExpect { generation: None, owner: None, ..strict.clone() };
        let again = self.blocks.contains_key(&bytenr);
        let (mut good, mut usable): (Option<Loaded>, Option<Loaded>) = (None, None);
        let mut wrong: Vec<(Copy, String)> = Vec::new();
        for copy in &copies {
            let bytes = match self.reader.read(media, *copy, media.nodesize()) {
                Ok(bytes) => bytes,
                Err(error) => {
                    wrong.push((*copy, format!("it cannot be read: {error}")));
                    continue;
                }
            };
            match Loaded::parse(media, bytes, &strict) {
                Ok(block) => match &good {
                    Some(first) if first.bytes != block.bytes => {
                        wrong.push((*copy, "it is whole, and differs from copy 1".to_owned()));
                    }
                    Some(_) => {}
                    None => good = Some(block),
                },
                Err(error) => {
                    wrong.push((*copy, error.to_string()));
                    let bytes = self.reader.read(media, *copy, media.nodesize()).ok();
                    let parsed = bytes.and_then(|b| Loaded::parse(media, b, &lenient).ok());
                    usable = usable.or(parsed);
                }
            }
            if again && good.is_some() {
                // Its copies were told about when it was met first.
                return good;
            }
        }
        tell_copies(tree, bytenr, copies.len(), &wrong, out);
        let block = good.or(usable);
        if block.is_none() && !again {
            self.bad.insert(bytenr);
        }
        block
    }
}

/// Tells what is wrong with the copies of a block: once if it is the same with all of them.
fn tell_copies(
    tree: TreeId,
    bytenr: u64,
    copies: usize,
    wrong: &[(Copy, String)],
    out: &mut Out<'_>,
) {
    let same = wrong.windows(2).all(|pair| matches!(pair, [(_, a), (_, b)] if a == b));
    if let Some((_, what)) = wrong.first()
        && same
        && wrong.len() == copies
    {
        out.block(tree, bytenr, what);
        return;
    }
    for (copy, what) in wrong {
        let (number, at) = (copy.index + 1, copy.at);
        out.block(tree, bytenr, format_args!("copy {number} at device offset {at}: {what}"));
    }
}

/// What a header has to say besides what its parent demands.
fn check_header(
    media: &Media<'_>,
    start: &Start,
    header: &Header,
    expected: Uuid,
    out: &mut Out<'_>,
) {
    let (tree, bytenr) = (start.tree, header.bytenr);
    if header.chunk_tree_uuid != expected {
        let found = header.chunk_tree_uuid;
        out.block(
            tree,
            bytenr,
            format_args!("chunk tree uuid: found {found}, expected {expected}"),
        );
    }
    if tree.is_file_tree() && header.owner != tree {
        let shared = header.owner.is_file_tree()
            && may_be_shared(header.reloc, header.generation, start.last_snapshot);
        if !shared {
            let owner = name_of(header.owner);
            out.block(tree, bytenr, format_args!("it was made for the {owner}"));
        }
    }
    if header.generation > media.sb.generation {
        let (found, most) = (header.generation, media.sb.generation);
        out.block(tree, bytenr, format_args!("generation: found {found}, expected at most {most}"));
    }
}

/// Checks the items of a leaf by their own rules, and shows them.
fn show(
    media: &Media<'_>,
    d: &mut Descent<'_>,
    block: &Loaded,
    slots: &[Slot],
    first: bool,
    out: &mut Out<'_>,
) {
    let rules = media.rules();
    for slot in slots {
        let data = block.bytes.get(slot.range()).unwrap_or_default();
        let checked = check_item(&slot.key, data, &rules);
        if first && let Err(error) = &checked {
            out.item(d.start.tree, &slot.key, error);
        }
        let item = Item {
            key: slot.key,
            data,
            valid: checked.is_ok(),
            leaf: block.header.bytenr,
            owner: block.header.owner,
            first,
            gap: std::mem::take(&mut d.gap),
        };
        (d.visit)(&item, out);
    }
}
