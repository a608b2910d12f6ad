//! Checking a volume: everything that the format promises, derived anew from what is on disk (law E3).
//!
//! The checker shares the parsers of single structures with the rest of the crate, and nothing else: it finds chunks, roots,
//! space and references by itself. It walks every tree once, through every copy of every block, notes what refers to what in
//! sorted lists, and compares the lists. Damage never ends a check; what can no longer be concluded after it is left out, and
//! told in [`Report::notes`]. Memory is bounded by the size of the metadata.
//!
//! A check looks at the last commit. Lock order: the commit lock, so that nothing of that commit is overwritten meanwhile.

use std::collections::BTreeMap;

use cowback_btrfs_disk::items::RootItem;
use cowback_btrfs_disk::superblock::{CompatRo, Superblock};
use cowback_extent_io::store::StoreResult;

use crate::device::BlockDevice;
use crate::error::io;
use crate::open::{FoundSuper, check_single, read_superblock};

mod chunks;
mod csums;
mod data;
mod extents;
mod file_extents;
mod files;
mod free_space;
mod media;
mod names;
mod problem;
mod ranges;
mod roots;
mod supers;
mod walk;

pub use cowback_btrfs_disk::{ItemKind, Key, TreeId};
pub use problem::{Place, Problem, Report, Subject};

use chunks::{Allocation, Whole};
use csums::Csums;
use data::Unpacker;
use extents::Extents;
use file_extents::{BareFiles, Use};
use files::FileTree;
use free_space::FreeSpace;
use media::Media;
use problem::{Out, name_of};
use roots::{Roots, UuidItem};
use walk::{Start, Walk};

/// Checks the volume on `device`, of which nothing may be changed meanwhile; each problem goes to `sink` as it is found. With
/// `verify_data` all data is read and compared with its checksums, and what is compressed is unpacked.
///
/// # Errors
/// The device's; that it holds no btrfs, none of whose superblock any copy is good, or one with features that are not
/// supported. What is wrong with a volume beyond that is no error, but a problem.
pub fn check(
    device: &dyn BlockDevice,
    verify_data: bool,
    sink: &mut dyn FnMut(Problem),
) -> StoreResult<Report> {
    let FoundSuper { superblock: sb, outdated } = read_superblock(device)?;
    check_single(&sb)?;
    let len = device.len().map_err(|error| io("size", 0, 0, error))?;
    let mut out = Out::new(sink);
    out.report.generation = sb.generation;
    if let Some(why) = outdated {
        out.superblock(why);
    }
    let mut check = Check::new(device, len, sb, &mut out);
    check.run(verify_data, &mut out);
    Ok(out.report)
}

/// A check that is going on.
struct Check<'a> {
    media: Media<'a>,
    walk: Walk,
    allocation: Allocation,
    extents: Extents,
    free_space: FreeSpace,
    csums: Csums,
    /// Items of the UUID tree.
    uuids: Vec<UuidItem>,
    uses: Vec<Use>,
    unpacker: Option<Unpacker>,
    /// Which trees there are, and whether they could be read as a whole.
    whole: BTreeMap<TreeId, bool>,
}

impl<'a> Check<'a> {
    fn new(device: &'a dyn BlockDevice, len: u64, sb: Superblock, out: &mut Out<'_>) -> Self {
        let system = sb.sys_chunks.clone();
        let mut media = Media { device, len, sb, chunks: BTreeMap::new() };
        for (logical, chunk) in system {
            if let Err(other) = media.add_chunk(logical, chunk) {
                let what =
                    format_args!("the system chunk at {logical} overlaps the one at {other}");
                out.superblock(what);
            }
        }
        Self {
            media,
            walk: Walk::default(),
            allocation: Allocation::default(),
            extents: Extents::default(),
            free_space: FreeSpace::default(),
            csums: Csums::default(),
            uuids: Vec::new(),
            uses: Vec::new(),
            unpacker: None,
            whole: BTreeMap::new(),
        }
    }

    fn run(&mut self, verify_data: bool, out: &mut Out<'_>) {
        supers::check(&self.media, out);
        self.unpacker = verify_data.then(Unpacker::default);
        self.chunk_tree(out);
        let roots = self.root_tree(out);
        let mut csums = None;
        for (start, item) in roots.starts() {
            let tree = start.tree;
            if tree != TreeId::TREE_RELOC && self.whole.contains_key(&tree) {
                let key = Key::new(tree.0, ItemKind::ROOT_ITEM, u64::MAX);
                out.item(TreeId::ROOT, &key, "the tree has several roots");
                continue;
            }
            if tree == TreeId::CSUM {
                csums = Some(start);
                continue;
            }
            let whole = self.tree(start, item, &roots, out);
            self.whole.insert(tree, whole);
        }
        // Data is read along with its checksums, and it should be known by then whose it is.
        self.uses.sort_unstable_by_key(|one| (one.bytenr, one.tree, one.ino, one.file_offset));
        if let Some(start) = csums {
            let Self { media, walk, csums, uses, .. } = self;
            let whole = walk.tree(media, start, out, &mut |item, out| {
                csums.item(media, item, uses, verify_data, out);
            });
            self.whole.insert(TreeId::CSUM, whole);
        }
        roots.check_uuids(&self.media, &self.uuids, self.is_whole(TreeId::UUID), out);
        self.conclude(out);
    }

    fn chunk_tree(&mut self, out: &mut Out<'_>) {
        let sb = &self.media.sb;
        let (tree, bytenr, level) = (TreeId::CHUNK, sb.chunk_root, sb.chunk_root_level);
        let start = Start::plain(tree, bytenr, level, sb.chunk_root_generation);
        let Self { media, walk, allocation, .. } = self;
        let whole = walk.tree(media, start, out, &mut |item, out| {
            allocation.chunk_item(item, out);
        });
        allocation.apply_chunks(media, whole, out);
        self.whole.insert(tree, whole);
    }

    fn root_tree(&mut self, out: &mut Out<'_>) -> Roots {
        let sb = &self.media.sb;
        let start = Start::plain(TreeId::ROOT, sb.root, sb.root_level, sb.generation);
        let mut roots = Roots::default();
        let Self { media, walk, uses, .. } = self;
        let whole = walk.tree(media, start, out, &mut |item, out| roots.item(item, uses, out));
        self.whole.insert(TreeId::ROOT, whole);
        roots.check(&self.media, whole, out);
        roots
    }

    /// Walks over a tree that the root tree names. Says whether all of it could be read.
    fn tree(&mut self, start: Start, root: &RootItem, roots: &Roots, out: &mut Out<'_>) -> bool {
        let groups = self.groups_tree();
        let Self { media, walk, allocation, extents, free_space, uuids, uses, unpacker, .. } = self;
        match start.tree {
            TreeId::EXTENT => walk.tree(media, start, out, &mut |item, out| {
                if item.key.kind == ItemKind::BLOCK_GROUP_ITEM && groups == TreeId::EXTENT {
                    allocation.group_item(groups, item, out);
                } else {
                    extents.item(media, item, out);
                }
            }),
            TreeId::BLOCK_GROUP if groups == TreeId::BLOCK_GROUP => {
                walk.tree(media, start, out, &mut |item, out| {
                    allocation.group_item(TreeId::BLOCK_GROUP, item, out);
                })
            }
            TreeId::DEV => walk.tree(media, start, out, &mut |item, out| {
                allocation.device_item(item, out);
            }),
            TreeId::FREE_SPACE => {
                walk.tree(media, start, out, &mut |item, out| free_space.item(item, out))
            }
            TreeId::UUID => walk.tree(media, start, out, &mut |item, out| {
                uuids.extend(roots::uuid_item(item, out));
            }),
            tree if tree.is_file_tree() && root.refs > 0 => {
                let mut files = FileTree::new(media, tree, uses, unpacker.as_mut());
                let whole = walk.tree(media, start, out, &mut |item, out| files.item(item, out));
                let is_snapshot = !root.v2.parent_uuid.is_nil();
                files.finish(whole, roots.links_of(tree.0), is_snapshot, out);
                whole
            }
            tree => {
                let files = tree.is_file_tree() || tree == TreeId::TREE_RELOC;
                if !files && tree != TreeId::QUOTA {
                    out.unchecked(format_args!("what the {} holds", name_of(tree)));
                }
                let mut bare = BareFiles::default();
                walk.tree(media, start, out, &mut |item, out| {
                    if files {
                        uses.extend(bare.item(tree, item, out));
                    }
                })
            }
        }
    }

    fn groups_tree(&self) -> TreeId {
        if self.media.sb.compat_ro.contains(CompatRo::BLOCK_GROUP_TREE) {
            TreeId::BLOCK_GROUP
        } else {
            TreeId::EXTENT
        }
    }

    /// Whether a tree is there and could be read as a whole.
    fn is_whole(&self, tree: TreeId) -> bool {
        self.whole.get(&tree).copied().unwrap_or(false)
    }

    /// Compares what all trees said.
    fn conclude(&mut self, out: &mut Out<'_>) {
        let groups = self.groups_tree();
        let whole = Whole {
            chunks: self.is_whole(TreeId::CHUNK),
            devices: self.is_whole(TreeId::DEV),
            extents: self.is_whole(TreeId::EXTENT) && !self.extents.damaged,
            groups: self.is_whole(groups),
        };
        for (tree, _) in self.whole.iter().filter(|(_, whole)| !**whole) {
            let what = format_args!("what the {} lacks: it is damaged", name_of(*tree));
            out.unchecked(what);
        }
        let Self { media, walk, allocation, extents, uses, csums, unpacker, .. } = self;
        extents.account(media, walk, allocation, whole.groups, out);
        extents.check(walk, uses, whole.extents, out);
        allocation.check_devices(media, walk.chunk_tree_uuid, whole, out);
        allocation.check_groups(media, groups, whole, out);
        file_extents::check_agreement(uses, out);
        let csum_tree = self.whole.get(&TreeId::CSUM).copied().unwrap_or(false) && !csums.damaged;
        csums.check(uses, csum_tree, whole.extents.then_some(&*extents), out);
        if let Some(unpacker) = unpacker {
            csums.read_the_rest(media, uses, out);
            unpacker.extents(media, uses, out);
        }
        self.check_free_space(whole, out);
    }

    fn check_free_space(&self, whole: Whole, out: &mut Out<'_>) {
        let flags = self.media.sb.compat_ro;
        if !flags.contains(CompatRo::FREE_SPACE_TREE) {
            return;
        }
        let readable = self.is_whole(TreeId::FREE_SPACE) && !self.free_space.damaged;
        if !flags.contains(CompatRo::FREE_SPACE_TREE_VALID) {
            out.unchecked("the free space tree: the superblock says that it is not valid");
        } else if readable && whole.extents && whole.groups {
            let allocated = self.extents.list.iter().map(|extent| extent.range);
            let allocated = ranges::join(allocated.collect());
            let groups = self.allocation.groups.values();
            self.free_space.check(&self.media, groups, &allocated, out);
        } else {
            out.unchecked("free space against extents: one of both trees is damaged");
        }
    }
}
