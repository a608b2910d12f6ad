//! Opening a volume (stage 9): superblock, chunks, roots, block groups, free space.
//!
//! Law E3: whatever the device holds, the outcome is a volume or an error that says what is wrong and where. Of the copies
//! of the superblock the newest good one counts: a commit writes the copies behind the first in the epoch after, so that
//! one of them is whole at any time.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::group::{check_free_extent, parse_free_space_bitmap};
use cowback_btrfs_disk::items::{BlockGroupFlags, BlockGroupItem, ChunkItem, DevItem, RootItem};
use cowback_btrfs_disk::superblock::{Incompat, SUPER_LEN, SUPER_OFFSETS, Superblock};
use cowback_btrfs_disk::{DiskError, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::{StoreError, StoreResult};
use uuid::Uuid;

use crate::btree::{Forest, NodeSource, Root};
use crate::chunks::Chunk;
use crate::clock::Clock;
use crate::commit::{SUPER_COPIES, may_keep_own_copy};
use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::error::{corrupt, invalid, io, unsupported};
use crate::free_space::FreeSpaceChanges;
use crate::refs::{DelayedRefs, LostRefs};
use crate::space::{Class, Group, GrowPolicy, Space};
use crate::state::State;
use crate::trees::Trees;

/// How a volume is to be opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Nothing is to be written.
    pub read_only: bool,
    /// The volume may become larger than it is, and its file with it.
    pub grow: bool,
    /// The file tree that is worked on: the top-level one unless another subvolume is named.
    pub subvolume: TreeId,
    /// Where time stamps come from.
    pub clock: Clock,
    /// Tree blocks kept in memory.
    pub cached_nodes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            grow: false,
            subvolume: TreeId::FS,
            clock: Clock::System,
            cached_nodes: crate::store::CACHED_NODES,
        }
    }
}

/// The superblock that a volume is opened by.
#[derive(Debug)]
pub(crate) struct FoundSuper {
    /// The newest good copy.
    pub(crate) superblock: Superblock,
    /// Why that is not the newest state of the volume, if it is known not to be.
    pub(crate) outdated: Option<String>,
}

/// Reads a volume's superblock: the newest good copy.
///
/// A copy that is whole and of a kind that is not supported counts as well: what it refuses, no older copy may allow.
///
/// # Errors
/// The device's; that it holds no btrfs, or a damaged one, or one with features that are not supported.
pub(crate) fn read_superblock(device: &dyn BlockDevice) -> StoreResult<FoundSuper> {
    let size = device.len().map_err(|error| io("size", 0, 0, error))?;
    let len = SUPER_LEN as u64;
    if size < SUPER_OFFSETS[0] + len {
        let why = format_args!("the device has {size} bytes: not a btrfs volume, or truncated");
        return Err(corrupt("superblock", SUPER_OFFSETS[0], why));
    }
    // The volume that this is, the generation that counts, and what came of reading it.
    let mut best: Option<(Uuid, u64, StoreResult<Superblock>)> = None;
    let mut first_error = None;
    let mut damaged = None;
    let mut end = size;
    for offset in SUPER_COPIES {
        if offset + len > end {
            continue;
        }
        match read_copy(device, offset) {
            Copy::Good(found) => {
                if offset == SUPER_OFFSETS[0] {
                    // What lies behind the volume is a left-over of one that was larger.
                    end = size.min(found.dev_item.total_bytes);
                }
                keep_newest(&mut best, found.fsid, found.generation, Ok(*found));
            }
            Copy::Refused { error, .. } if offset == SUPER_OFFSETS[0] => return Err(error),
            Copy::Refused { fsid, generation, error } => {
                keep_newest(&mut best, fsid, generation, Err(error));
            }
            // Where the first copy is not even of the kind, there is no volume, whatever lies behind it.
            Copy::Foreign(error) if offset == SUPER_OFFSETS[0] => return Err(error),
            Copy::Foreign(error) => {
                first_error.get_or_insert(error);
            }
            Copy::Damaged { error, told } => {
                if offset == SUPER_OFFSETS[0] {
                    damaged = told;
                }
                first_error.get_or_insert(error);
            }
        }
    }
    match best {
        Some((_, _, found)) => found.map(|superblock| {
            let outdated = damaged.and_then(|first| outdated(&superblock, first));
            FoundSuper { superblock, outdated }
        }),
        None => Err(first_error.expect("there is a first copy, and it is good or not")),
    }
}

/// Why `newest`, the newest good copy, is not the volume's newest state, by the volume and generation that the damaged first copy names.
///
/// What is written here leaves the copies behind the first one commit behind at most. But Linux does not know of cowback's own, which is the
/// only one of a volume of less than 64 MiB: where the first copy is two ahead, it has gone on since, and used space again that `newest` names.
fn outdated(newest: &Superblock, (fsid, generation): (Uuid, u64)) -> Option<String> {
    let ahead = fsid == newest.fsid && generation > newest.generation.saturating_add(1);
    ahead.then(|| {
        format!(
            "the first superblock is damaged and of generation {generation}, and the newest good copy, at {}, of generation {}: \
             a driver that does not keep that copy has changed the volume since, and what it wrote would be overwritten",
            newest.bytenr, newest.generation
        )
    })
}

/// What stands where a copy of the superblock belongs.
enum Copy {
    Good(Box<Superblock>),
    /// Whole, and of a volume that is not supported.
    Refused {
        fsid: Uuid,
        generation: u64,
        error: StoreError,
    },
    /// Unreadable, or its checksum is wrong.
    Damaged {
        error: StoreError,
        /// The volume and generation that it names, if it can be read.
        told: Option<(Uuid, u64)>,
    },
    /// No superblock.
    Foreign(StoreError),
}

fn read_copy(device: &dyn BlockDevice, offset: u64) -> Copy {
    let mut bytes = vec![0; SUPER_LEN];
    if let Err(error) = device.read_at(offset, &mut bytes) {
        let error = io("read", offset, SUPER_LEN as u64, error);
        return Copy::Damaged { error, told: None };
    }
    let error = match Superblock::parse(&bytes, offset) {
        Ok(found) => return Copy::Good(Box::new(found)),
        Err(error) => error,
    };
    let told = invalid(offset, &error);
    match error.field {
        "magic" => Copy::Foreign(told),
        // Whole and in the wrong place: a write that went astray.
        "csum" | "bytenr" => Copy::Damaged { error: told, told: Some(Superblock::peek(&bytes)) },
        _ => {
            let (fsid, generation) = Superblock::peek(&bytes);
            let unknown = matches!(error.field, "flags" | "incompat_flags" | "sectorsize");
            let told = if unknown {
                let DiskError { field, found, expected, .. } = error;
                let why = format_args!("{field}: found {found}, expected {expected}");
                unsupported("superblock", offset, why)
            } else {
                told
            };
            Copy::Refused { fsid, generation, error: told }
        }
    }
}

/// Puts `found` in the place of `best` if it is newer. A copy of another volume is a left-over of what was there before.
fn keep_newest(
    best: &mut Option<(Uuid, u64, StoreResult<Superblock>)>,
    fsid: Uuid,
    generation: u64,
    found: StoreResult<Superblock>,
) {
    let counts = |(own, newest, _): &(Uuid, u64, _)| *own == fsid && *newest < generation;
    if best.as_ref().is_none_or(counts) {
        *best = Some((fsid, generation, found));
    }
}

/// Opens the volume on `device`. Gives why it must not be written, if so.
pub(crate) fn open(
    device: Arc<dyn BlockDevice>,
    options: &OpenOptions,
) -> StoreResult<(State, Option<String>)> {
    let FoundSuper { superblock, outdated } = read_superblock(&*device)?;
    let read_only = check_superblock(&superblock, &*device, options)?;
    let read_only = match (read_only, outdated) {
        (None, Some(reason)) => return Err(StoreError::ReadOnly { reason }),
        (Some(why), Some(outdated)) => Some(format!("{why}; {outdated}")),
        (why, None) => why,
    };
    let nodesize = superblock.nodesize as usize;
    let chunk_tree_uuid = Uuid::nil();
    let (fsid, sum) = (superblock.tree_uuid(), superblock.csum);
    let mut disk = Disk::new(device, fsid, chunk_tree_uuid, nodesize, sum);
    disk.newest = superblock.generation;
    disk.copies.repair = read_only.is_none();
    disk.own_copy = may_keep_own_copy(&*disk.device, &superblock);
    let devid = superblock.dev_item.devid;
    for (logical, item) in &superblock.sys_chunks {
        disk.add_chunk(chunk_of(*logical, item, devid)?)?;
    }
    disk.chunk_tree_uuid = read_chunk_tree_uuid(&disk, &superblock)?;
    let disk = Arc::new(disk);
    let source: Arc<dyn NodeSource> = Arc::clone(&disk) as _;
    let generation = superblock.generation + 1;
    let mut forest = Forest::new(source, nodesize, options.cached_nodes, generation);
    add_root(&mut forest, TreeId::CHUNK, chunk_root(&superblock));
    add_root(&mut forest, TreeId::ROOT, tree_root(&superblock));
    let device_item = read_chunks(&forest, &disk, &superblock)?;
    let stripes_end = disk.with_chunks(crate::chunks::ChunkMap::device_end);
    if stripes_end > device_item.total_bytes {
        let why = format_args!("a chunk ends at {stripes_end}, the device before that");
        return Err(corrupt("device item", device_item.total_bytes, why));
    }
    if read_only.is_none() {
        check_device_item(&device_item, &superblock)?;
    }
    let dead_trees = read_roots(&mut forest)?;
    if read_only.is_none() && forest.roots.contains_key(&TreeId::TREE_RELOC) {
        let reason =
            "a balance was interrupted, and only the kernel's driver can end it".to_owned();
        return Err(StoreError::ReadOnly { reason });
    }
    if read_only.is_none() {
        check_subvolume(&forest, options.subvolume)?;
    }
    let policy = policy_of(&disk, options);
    let mut state = State {
        space: Space::new(Arc::clone(&disk), device_item.total_bytes, policy),
        forest,
        refs: DelayedRefs::default(),
        lost_refs: LostRefs::default(),
        free_space: FreeSpaceChanges::default(),
        superblock,
        device: device_item,
        super_changed: false,
        clock: options.clock,
        pending: crate::namespace::Pending::default(),
        tree: options.subvolume,
        last_ino: 0,
        leftover: Default::default(),
        dead_trees,
        refused: Default::default(),
        changes: 0,
        disk,
    };
    state.forest.root(options.subvolume)?;
    read_groups(&mut state)?;
    if read_only.is_none() {
        read_free_space(&mut state)?;
    }
    Ok((state, read_only))
}

/// Fails if the volume has parts on other devices.
pub(crate) fn check_single(superblock: &Superblock) -> StoreResult<()> {
    if superblock.num_devices == 1 {
        return Ok(());
    }
    let number = superblock.num_devices;
    let why = format_args!("the volume spans {number} devices, and only one is supported");
    Err(unsupported("superblock", superblock.bytenr, why))
}

/// What the superblock alone tells: errors, and why the volume must not be written.
fn check_superblock(
    superblock: &Superblock,
    device: &dyn BlockDevice,
    options: &OpenOptions,
) -> StoreResult<Option<String>> {
    check_single(superblock)?;
    let refuse = |why: String| Err(unsupported("superblock", superblock.bytenr, why));
    if superblock.log_root != 0 {
        return refuse(format!(
            "there is a log tree at {}: an unclean shutdown of the kernel's driver left fsynced \
             changes in it, and only mounting the volume there replays them",
            superblock.log_root
        ));
    }
    let size = device.len().map_err(|error| io("size", 0, 0, error))?;
    let total = superblock.dev_item.total_bytes;
    if size < total {
        let why = format_args!("the device is truncated: {size} bytes of {total}");
        return Err(corrupt("superblock", superblock.bytenr, why));
    }
    if options.read_only {
        return Ok(Some("it was opened read-only".to_owned()));
    }
    if let Err(error) = superblock.check_writable() {
        let reason = format!("unsupported features: {}", error.found);
        return Err(StoreError::ReadOnly { reason });
    }
    if !superblock.incompat.contains(Incompat::SKINNY_METADATA) {
        let reason = "its extent tree has the old form (no SKINNY_METADATA)".to_owned();
        return Err(StoreError::ReadOnly { reason });
    }
    Ok(None)
}

fn chunk_of(logical: u64, item: &ChunkItem, devid: u64) -> StoreResult<Chunk> {
    let profile = item.flags.intersection(BlockGroupFlags::PROFILES);
    if !(profile.is_empty() || profile == BlockGroupFlags::DUP) || Class::of(item.flags).is_none() {
        let why = format_args!("its type and profile are {:?}", item.flags);
        return Err(unsupported("chunk", logical, why));
    }
    if let Some(other) = item.stripes.iter().find(|stripe| stripe.devid != devid) {
        let why = format_args!("it is on device {}, and this is device {devid}", other.devid);
        return Err(corrupt("chunk", logical, why));
    }
    let stripes = item.stripes.iter().map(|stripe| stripe.offset).collect();
    Ok(Chunk { logical, len: item.length, flags: item.flags.bits(), stripes })
}

fn chunk_root(superblock: &Superblock) -> Root {
    root_at(superblock.chunk_root, superblock.chunk_root_level, superblock.chunk_root_generation)
}

fn tree_root(superblock: &Superblock) -> Root {
    root_at(superblock.root, superblock.root_level, superblock.generation)
}

const fn root_at(bytenr: u64, level: u8, generation: u64) -> Root {
    Root { bytenr, level, generation, blocks: 0, item_offset: 0, last_snapshot: 0, changed: false }
}

fn add_root(forest: &mut Forest, tree: TreeId, root: Root) {
    forest.roots.insert(tree, root);
}

/// The UUID that all blocks name as the chunk tree's: read from the chunk tree's root, of which nothing else is known yet.
fn read_chunk_tree_uuid(disk: &Disk, superblock: &Superblock) -> StoreResult<Uuid> {
    let expect = cowback_btrfs_disk::node::BlockExpect {
        bytenr: superblock.chunk_root,
        fsid: disk.fsid,
        level: Some(superblock.chunk_root_level),
        generation: Some(superblock.chunk_root_generation),
        owner: Some(TreeId::CHUNK.0),
        first_key: None,
    };
    disk.read_header(superblock.chunk_root, &expect).map(|header| header.chunk_tree_uuid)
}

/// Reads all chunks, and the device's item.
fn read_chunks(forest: &Forest, disk: &Disk, superblock: &Superblock) -> StoreResult<DevItem> {
    let devid = superblock.dev_item.devid;
    let mut device = None;
    let mut found = Vec::new();
    forest.for_each(TreeId::CHUNK, &Key::MIN, |key, data| {
        match (key.objectid, key.kind) {
            (objectid::DEV_ITEMS, ItemKind::DEV_ITEM) if key.offset == devid => {
                device = Some(DevItem::parse(data).map_err(|error| invalid(key, &error))?);
            }
            (objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM) => {
                let item = ChunkItem::parse(key.offset, data);
                let item = item.map_err(|error| invalid(key, &error))?;
                found.push(chunk_of(key.offset, &item, devid)?);
            }
            _ => {}
        }
        Ok(true)
    })?;
    for chunk in found {
        let known = disk.with_chunks(|map| map.find(chunk.logical).cloned());
        match known {
            Some(known) if known == chunk => {}
            Some(known) => {
                let why = format_args!("the superblock says {known:?}, the chunk tree {chunk:?}");
                return Err(corrupt("chunk", chunk.logical, why));
            }
            None => disk.add_chunk(chunk)?,
        }
    }
    device.ok_or_else(|| corrupt("chunk tree", devid, "the device has no item"))
}

/// Fails if the device's item is not what the superblock says of the device, which has been compared with the device: each commit of the
/// kernel's driver, as of this store, writes both.
fn check_device_item(item: &DevItem, superblock: &Superblock) -> StoreResult<()> {
    let known = &superblock.dev_item;
    let wrong = |what: &str, found: &dyn Display, expected: &dyn Display| {
        let why = format_args!("{what}: found {found}, expected {expected} as in the superblock");
        Err(corrupt("device item", item.devid, why))
    };
    if item.devid != known.devid {
        return wrong("devid", &item.devid, &known.devid);
    }
    if item.uuid != known.uuid {
        return wrong("uuid", &item.uuid, &known.uuid);
    }
    if item.total_bytes != known.total_bytes {
        return wrong("total_bytes", &item.total_bytes, &known.total_bytes);
    }
    Ok(())
}

/// Reads the roots of all trees. Gives the subvolumes that are being deleted, which get none.
fn read_roots(forest: &mut Forest) -> StoreResult<Vec<TreeId>> {
    let mut dead_trees = Vec::new();
    let mut roots = Vec::new();
    forest.for_each(TreeId::ROOT, &Key::MIN, |key, data| {
        if key.kind == ItemKind::ROOT_ITEM {
            let item = RootItem::parse(data).map_err(|error| invalid(key, &error))?;
            roots.push((*key, item));
        }
        Ok(true)
    })?;
    for (key, item) in roots {
        // Of other trees, mkfs sets no count.
        if item.refs == 0 && TreeId(key.objectid).is_file_tree() {
            dead_trees.push(TreeId(key.objectid));
            continue;
        }
        if item.bytenr == 0 {
            continue;
        }
        let root = Root {
            bytenr: item.bytenr,
            level: item.level,
            generation: item.generation,
            blocks: item.bytes_used / forest.nodesize() as u64,
            item_offset: key.offset,
            last_snapshot: item.last_snapshot,
            changed: false,
        };
        add_root(forest, TreeId(key.objectid), root);
    }
    Ok(dead_trees)
}

/// Fails if `tree` must not be written.
fn check_subvolume(forest: &Forest, tree: TreeId) -> StoreResult<()> {
    let key = Key::new(tree.0, ItemKind::ROOT_ITEM, forest.root(tree)?.item_offset);
    let data = forest.get(TreeId::ROOT, &key)?;
    let data = data.ok_or_else(|| corrupt("root item", key, "it is missing"))?;
    let item = RootItem::parse(&data).map_err(|error| invalid(key, &error))?;
    if item.read_only {
        return Err(StoreError::ReadOnly { reason: format!("subvolume {tree} is read-only") });
    }
    Ok(())
}

/// New block groups are made like those that are there.
fn policy_of(disk: &Disk, options: &OpenOptions) -> GrowPolicy {
    let dup = |class: Class| {
        disk.with_chunks(|map| {
            map.iter()
                .filter(|chunk| chunk.flags & class.flags().bits() != 0)
                .any(|chunk| chunk.flags & BlockGroupFlags::DUP.bits() != 0)
        })
    };
    GrowPolicy {
        grow: options.grow && disk.device.can_resize(),
        metadata_dup: dup(Class::Metadata),
        data_dup: dup(Class::Data),
        metadata_at: None,
    }
}

/// Reads the block group item of each chunk.
fn read_groups(state: &mut State) -> StoreResult<()> {
    let chunks: Vec<Chunk> = state.disk.with_chunks(|map| map.iter().cloned().collect());
    let tree = state.groups_tree();
    for chunk in chunks {
        let key = Key::new(chunk.logical, ItemKind::BLOCK_GROUP_ITEM, chunk.len);
        let data = state.get(tree, &key)?;
        let data = data.ok_or_else(|| corrupt("block group item", key, "it is missing"))?;
        let item = BlockGroupItem::parse(chunk.len, &data).map_err(|error| invalid(key, &error))?;
        if item.flags.bits() != chunk.flags {
            let why = format_args!("{:?}, and its chunk is {:#x}", item.flags, chunk.flags);
            return Err(corrupt("block group item", key, why));
        }
        state.space.add_group(chunk.logical, chunk.len, item.flags, item.used)?;
    }
    Ok(())
}

/// Finds out what is free: from the free space tree if it is right, else from the extent tree.
fn read_free_space(state: &mut State) -> StoreResult<()> {
    let from_free_space_tree = state.has_free_space_tree();
    let State { forest, space, .. } = state;
    let groups: Vec<ByteRange> = space.groups().map(Group::range).collect();
    let left = space.groups().map(|group| (group.start, group.len - group.used)).collect();
    let mut found = Found { space, left };
    if from_free_space_tree {
        forest.for_each(TreeId::FREE_SPACE, &Key::MIN, |key, data| {
            match key.kind {
                ItemKind::FREE_SPACE_EXTENT => found.add(key.objectid, key.offset)?,
                ItemKind::FREE_SPACE_BITMAP => {
                    let extents = parse_free_space_bitmap(key.objectid, key.offset, data);
                    for (start, len) in extents.map_err(|error| invalid(key, &error))? {
                        found.add(start, len)?;
                    }
                }
                _ => {}
            }
            Ok(true)
        })?;
    } else {
        complement_of_extents(forest, groups, &mut found)?;
    }
    match found.left.into_iter().find(|(_, rest)| *rest > 0) {
        None => Ok(()),
        Some((group, rest)) => {
            let why = format_args!("{rest} bytes are neither used nor free");
            Err(corrupt("block group", group, why))
        }
    }
}

/// Free extents, as they are found.
struct Found<'a> {
    space: &'a mut Space,
    /// By block group, the bytes that are not used, and were not found to be free yet.
    left: BTreeMap<u64, u64>,
}

impl Found<'_> {
    fn add(&mut self, start: u64, len: u64) -> StoreResult<()> {
        let wrong = || corrupt("free space", start, format_args!("{len} bytes cannot be right"));
        check_free_extent(start, len).map_err(|_| wrong())?;
        // Older mkfs leaves items of its first, temporary block groups behind; nobody minds them.
        let Ok(group) = self.space.group_of(start) else { return Ok(()) };
        let rest = self.left.get_mut(&group.start).ok_or_else(wrong)?;
        *rest = rest.checked_sub(len).ok_or_else(wrong)?;
        self.space.add_free(ByteRange::at(start, len))
    }

    /// What lies between two extents is free, if anything does.
    fn add_between(&mut self, start: u64, end: u64) -> StoreResult<()> {
        if start == end { Ok(()) } else { self.add(start, end - start) }
    }
}

/// What the extent tree leaves of each block group.
fn complement_of_extents(
    forest: &Forest,
    groups: Vec<ByteRange>,
    found: &mut Found<'_>,
) -> StoreResult<()> {
    let mut groups = groups.into_iter();
    let mut group = groups.next();
    let mut at = group.map_or(0, |group| group.start);
    let nodesize = forest.nodesize() as u64;
    forest.for_each(TreeId::EXTENT, &Key::MIN, |key, _| {
        let len = match key.kind {
            ItemKind::EXTENT_ITEM => key.offset,
            ItemKind::METADATA_ITEM => nodesize,
            _ => return Ok(true),
        };
        while let Some(current) = group.filter(|group| group.end <= key.objectid) {
            found.add_between(at, current.end)?;
            group = groups.next();
            at = group.map_or(0, |group| group.start);
        }
        let end = key.objectid.checked_add(len);
        match (group, end) {
            (Some(group), Some(end)) if key.objectid >= at && end <= group.end => {
                found.add_between(at, key.objectid)?;
                at = end;
                Ok(true)
            }
            _ => Err(corrupt("extent item", key, "it overlaps another, or lies outside")),
        }
    })?;
    while let Some(current) = group {
        found.add_between(at, current.end)?;
        group = groups.next();
        at = group.map_or(0, |group| group.start);
    }
    Ok(())
}
