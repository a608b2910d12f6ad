//! The extent tree against everything that uses space.
//!
//! Every tree block and every file extent item that the walks met makes a reference; the extent tree must hold exactly
//! these. A block whose extent item says that all its references are shared ones refers to what is below it by its own
//! address, any other by the tree that it was made for.

use std::collections::HashSet;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::extent::parse_shared_data_ref;
use cowback_btrfs_disk::items::{BlockGroupFlags, DataRef, ExtentItem, ExtentOwner, InlineRef};
use cowback_btrfs_disk::superblock::Incompat;
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use super::chunks::Allocation;
use super::file_extents::Use;
use super::media::Media;
use super::problem::{Out, Place, Subject, name_of};
use super::walk::{Block, Item, Parent, Walk};

/// An extent as its item says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The item's key.
    pub(super) key: Key,
    /// What it takes up.
    pub(super) range: ByteRange,
    /// References in all.
    refs: u64,
    /// Of a tree block: its level.
    pub(super) level: Option<u64>,
    /// Of a tree block: whether it refers to what is below it by its address.
    full: bool,
}

/// A reference to an extent, or some that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ref {
    bytenr: u64,
    kind: ItemKind,
    /// The tree, or the address of the block that refers.
    from: u64,
    ino: u64,
    offset: u64,
    count: u64,
}

impl Ref {
    fn is_like(&self, other: &Self) -> bool {
        Self { count: 0, ..*self } == Self { count: 0, ..*other }
    }

    fn of(bytenr: u64, one: &InlineRef) -> Option<Self> {
        let (kind, count) = (one.kind(), u64::from(one.count()));
        let (from, ino, offset) = match *one {
            InlineRef::TreeBlock { root } => (root, 0, 0),
            InlineRef::Data(DataRef { root, ino, offset, .. }) => (root, ino, offset),
            InlineRef::SharedBlock { parent } | InlineRef::SharedData { parent, .. } => {
                (parent, 0, 0)
            }
            InlineRef::Owner { .. } => return None,
        };
        Some(Self { bytenr, kind, from, ino, offset, count })
    }

    fn name(&self) -> String {
        match self.kind {
            ItemKind::TREE_BLOCK_REF => format!("from the {}", name_of(TreeId(self.from))),
            ItemKind::EXTENT_DATA_REF => format!(
                "from inode {} of the {} at offset {}",
                self.ino,
                name_of(TreeId(self.from)),
                self.offset
            ),
            _ => format!("from block {}", self.from),
        }
    }
}

/// What the extent tree says.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// The extents, by address.
    pub(super) list: Vec<Extent>,
    refs: Vec<Ref>,
    /// An item could not be understood.
    pub(super) damaged: bool,
}

impl Extents {
    /// Takes in an item of the extent tree that is no block group item.
    pub(super) fn item(&mut self, media: &Media<'_>, item: &Item<'_>, out: &mut Out<'_>) {
        if !item.valid {
            self.damaged = true;
            return;
        }
        match item.key.kind {
            ItemKind::EXTENT_ITEM | ItemKind::METADATA_ITEM => self.extent(media, item, out),
            ItemKind::TREE_BLOCK_REF
            | ItemKind::SHARED_BLOCK_REF
            | ItemKind::EXTENT_DATA_REF
            | ItemKind::SHARED_DATA_REF => self.keyed(item, out),
            _ => out.item(TreeId::EXTENT, &item.key, "such an item does not belong here"),
        }
    }

    fn extent(&mut self, media: &Media<'_>, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        let Ok(found) = ExtentItem::parse(&key, item.data) else { return };
        let tell = |out: &mut Out<'_>, what: String| out.item(TreeId::EXTENT, &key, what);
        let skinny = key.kind == ItemKind::METADATA_ITEM;
        let len = if skinny { media.nodesize() } else { key.offset };
        let (level, full) = match found.owner {
            ExtentOwner::Data => (None, false),
            ExtentOwner::TreeBlock { full_backref, info } => {
                let level = info.map_or(key.offset, |(_, level)| u64::from(level));
                (Some(level), full_backref)
            }
        };
        if skinny && !media.sb.incompat.contains(Incompat::SKINNY_METADATA) {
            tell(out, "such an item needs the feature SKINNY_METADATA".to_owned());
        }
        if level.is_some() && len != media.nodesize() {
            tell(out, format!("a tree block has {} bytes", media.nodesize()));
        }
        let start = key.objectid;
        let range = ByteRange::new(start, start.saturating_add(len));
        if let Some(before) = self.list.last()
            && before.range.end > range.start
        {
            tell(out, format!("it overlaps the one at {}", before.key));
        }
        let order = |one: &InlineRef| (one.kind(), std::cmp::Reverse(one.sequence()));
        if !found.inline.is_sorted_by_key(order) {
            tell(out, "its references are not in order".to_owned());
        }
        self.refs.extend(found.inline.iter().filter_map(|one| Ref::of(start, one)));
        self.list.push(Extent { key, range, refs: found.refs, level, full });
    }

    /// A reference that is an item of its own.
    fn keyed(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        let (bytenr, at) = (key.objectid, key.offset);
        let Some(extent) = self.list.last().filter(|extent| extent.key.objectid == bytenr) else {
            out.item(TreeId::EXTENT, &key, "it belongs to no extent");
            return;
        };
        let is_data = matches!(key.kind, ItemKind::EXTENT_DATA_REF | ItemKind::SHARED_DATA_REF);
        if is_data == extent.level.is_some() {
            let what = format_args!("it does not fit {}", extent.key);
            out.item(TreeId::EXTENT, &key, what);
        }
        let one = match key.kind {
            ItemKind::TREE_BLOCK_REF => InlineRef::TreeBlock { root: at },
            ItemKind::SHARED_BLOCK_REF => InlineRef::SharedBlock { parent: at },
            ItemKind::SHARED_DATA_REF => match parse_shared_data_ref(item.data) {
                Ok(count) => InlineRef::SharedData { parent: at, count },
                Err(_) => return,
            },
            _ => match DataRef::parse(item.data) {
                Ok(data) => {
                    if !data.may_be_at(at) {
                        let hash = data.hash();
                        let what =
                            format_args!("key offset: expected {hash}, its hash, or little more");
                        out.item(TreeId::EXTENT, &key, what);
                    }
                    InlineRef::Data(data)
                }
                Err(_) => return,
            },
        };
        self.refs.extend(Ref::of(bytenr, &one));
    }

    /// The extent that begins at `bytenr`.
    pub(super) fn at(&self, bytenr: u64) -> Option<&Extent> {
        let index = self.list.partition_point(|one| one.range.start < bytenr);
        self.list.get(index).filter(|one| one.range.start == bytenr)
    }

    /// Counts extents into their block groups, and tells what lies where it must not; `whole` says that all block groups
    /// are known.
    pub(super) fn account(
        &self,
        media: &Media<'_>,
        walk: &Walk,
        groups: &mut Allocation,
        whole: bool,
        out: &mut Out<'_>,
    ) {
        let mut supers: Option<(u64, Vec<ByteRange>)> = None;
        for extent in &self.list {
            let (key, range) = (&extent.key, extent.range);
            if extent.level.is_none() {
                out.report.data_extents += 1;
                out.report.data_bytes = out.report.data_bytes.saturating_add(range.len());
            }
            let group = groups.groups.range_mut(..=range.start).next_back();
            let group = group
                .map(|(_, group)| group)
                .filter(|group| range.end <= group.key.objectid.saturating_add(group.key.offset));
            let Some(group) = group else {
                if whole {
                    out.item(TreeId::EXTENT, key, "no block group holds all of it");
                }
                continue;
            };
            group.found = group.found.saturating_add(range.len());
            let data = group.item.flags.contains(BlockGroupFlags::DATA);
            let system = group.item.flags.contains(BlockGroupFlags::SYSTEM);
            let mixed = data && group.item.flags.contains(BlockGroupFlags::METADATA);
            let block = walk.blocks.get(&range.start).filter(|_| extent.level.is_some());
            let misplaced = block.is_some_and(|block| (block.tree == TreeId::CHUNK) != system);
            if !mixed && (data != extent.level.is_none() || misplaced) {
                let what = format_args!("it lies in a block group for {:?}", group.item.flags);
                out.item(TreeId::EXTENT, key, what);
            }
            let start = group.key.objectid;
            let ranges = match &supers {
                Some((at, ranges)) if *at == start => ranges,
                _ => &supers.insert((start, media.super_ranges(start))).1,
            };
            if ranges.iter().any(|copy| copy.intersect(range).is_some()) {
                out.item(TreeId::EXTENT, key, "it covers a copy of the superblock");
            }
        }
    }

    /// Compares the extent tree with what the walks met. `whole` says that the extent tree was read as a whole.
    pub(super) fn check(&mut self, walk: &Walk, uses: &[Use], whole: bool, out: &mut Out<'_>) {
        let known = |extents: &Self, bytenr| extents.at(bytenr).is_some();
        self.check_blocks(walk, whole, out);
        self.check_uses(uses, whole, out);
        let used: HashSet<u64> = uses.iter().map(|one| one.bytenr).collect();
        for extent in &self.list {
            let there = match extent.level {
                Some(_) => walk.blocks.contains_key(&extent.key.objectid),
                None => used.contains(&extent.key.objectid),
            };
            if !there && !walk.incomplete {
                let what = if extent.level.is_some() {
                    "no such block is reachable"
                } else {
                    "no file refers to it"
                };
                out.item(TreeId::EXTENT, &extent.key, what);
            }
        }
        let full: HashSet<u64> = self
            .list
            .iter()
            .filter(|extent| extent.full && extent.level.is_some())
            .map(|extent| extent.key.objectid)
            .collect();
        let mut expected = expected_refs(walk, uses, &full);
        expected.retain(|one| known(self, one.bytenr));
        let expected = sum(expected);
        let found = sum(std::mem::take(&mut self.refs));
        self.check_counts(&found, out);
        if !walk.incomplete {
            // Of what nothing refers to, that was told already.
            let found = found
                .into_iter()
                .filter(|one| walk.blocks.contains_key(&one.bytenr) || used.contains(&one.bytenr));
            self.compare(found.collect(), expected, out);
        }
    }

    fn check_blocks(&self, walk: &Walk, whole: bool, out: &mut Out<'_>) {
        let mut blocks: Vec<(&u64, &Block)> = walk.blocks.iter().collect();
        blocks.sort_unstable_by_key(|(bytenr, _)| **bytenr);
        for (bytenr, block) in blocks {
            match self.at(*bytenr) {
                None if whole => {
                    let key = Key::new(*bytenr, ItemKind::METADATA_ITEM, u64::from(block.level));
                    let tree = name_of(block.tree);
                    let what = format_args!("it is missing, and the {tree} has such a block");
                    out.item(TreeId::EXTENT, &key, what);
                }
                None => {}
                Some(extent) => match extent.level {
                    None => {
                        let what = format_args!("a block of the {}", name_of(block.tree));
                        out.item(TreeId::EXTENT, &extent.key, format_args!("it is {what}"));
                    }
                    Some(level) if level != u64::from(block.level) => {
                        let what = format_args!("the block's level is {}", block.level);
                        out.item(TreeId::EXTENT, &extent.key, what);
                    }
                    Some(_) => {}
                },
            }
        }
    }

    fn check_uses(&self, uses: &[Use], whole: bool, out: &mut Out<'_>) {
        for one in uses {
            let key = Key::new(one.ino, ItemKind::EXTENT_DATA, one.file_offset);
            let what = match self.at(one.bytenr) {
                None if whole => {
                    let (bytenr, len) = (one.bytenr, one.disk_len);
                    format!("there is no extent ({bytenr} EXTENT_ITEM {len})")
                }
                Some(extent) if extent.level.is_some() => {
                    format!("its extent {} is a tree block", extent.key)
                }
                Some(extent) if extent.range.len() != one.disk_len => {
                    format!("it speaks of {} bytes, its extent is {}", one.disk_len, extent.key)
                }
                _ => continue,
            };
            out.tell(Subject::Tree(one.tree), Place::Item(key), what);
        }
    }

    /// Whether the items' own counts add up.
    fn check_counts(&self, found: &[Ref], out: &mut Out<'_>) {
        let mut at = 0;
        for extent in &self.list {
            let mut sum = 0u64;
            while let Some(one) = found.get(at).filter(|one| one.bytenr <= extent.key.objectid) {
                if one.bytenr == extent.key.objectid {
                    sum = sum.saturating_add(one.count);
                }
                at += 1;
            }
            if sum != extent.refs {
                let what =
                    format_args!("refs: found {}, its references add up to {sum}", extent.refs);
                out.item(TreeId::EXTENT, &extent.key, what);
            }
        }
    }

    fn compare(&self, found: Vec<Ref>, expected: Vec<Ref>, out: &mut Out<'_>) {
        let mut expected = expected.into_iter().peekable();
        let mut tell = |one: &Ref, found: u64, expected: u64| {
            let Some(extent) = self.at(one.bytenr) else { return };
            let name = one.name();
            let what = format_args!("references {name}: found {found}, expected {expected}");
            out.item(TreeId::EXTENT, &extent.key, what);
        };
        for one in found {
            while let Some(missing) = expected.next_if(|next| *next < one && !next.is_like(&one)) {
                tell(&missing, 0, missing.count);
            }
            let met = expected.next_if(|next| next.is_like(&one)).map_or(0, |next| next.count);
            if met != one.count {
                tell(&one, one.count, met);
            }
        }
        for missing in expected {
            tell(&missing, 0, missing.count);
        }
    }
}

/// The references that there should be.
fn expected_refs(walk: &Walk, uses: &[Use], full: &HashSet<u64>) -> Vec<Ref> {
    let owner = |bytenr: u64| walk.blocks.get(&bytenr).map_or(0, |block| block.owner.0);
    let blocks = walk.edges.iter().map(|(child, parent)| {
        let (kind, from) = match *parent {
            // The root of a tree that is for relocation refers to itself.
            Parent::Root(TreeId::TREE_RELOC) => (ItemKind::SHARED_BLOCK_REF, *child),
            Parent::Root(tree) => (ItemKind::TREE_BLOCK_REF, tree.0),
            Parent::Node(node) if full.contains(&node) => (ItemKind::SHARED_BLOCK_REF, node),
            Parent::Node(node) => (ItemKind::TREE_BLOCK_REF, owner(node)),
        };
        Ref { bytenr: *child, kind, from, ino: 0, offset: 0, count: 1 }
    });
    let data = uses.iter().map(|one| {
        if full.contains(&one.leaf) {
            let kind = ItemKind::SHARED_DATA_REF;
            return Ref { bytenr: one.bytenr, kind, from: one.leaf, ino: 0, offset: 0, count: 1 };
        }
        Ref {
            bytenr: one.bytenr,
            kind: ItemKind::EXTENT_DATA_REF,
            from: one.owner.0,
            ino: one.ino,
            offset: one.file_offset.wrapping_sub(one.offset),
            count: 1,
        }
    });
    blocks.chain(data).collect()
}

/// Sorts references, and adds up those that are alike.
fn sum(mut refs: Vec<Ref>) -> Vec<Ref> {
    refs.sort_unstable();
    let mut out: Vec<Ref> = Vec::with_capacity(refs.len());
    for one in refs {
        match out.last_mut() {
            Some(last) if last.is_like(&one) => last.count = last.count.saturating_add(one.count),
            _ => out.push(one),
        }
    }
    out
}
