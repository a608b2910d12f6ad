//! Making a volume (stage 9): all trees that a mountable btrfs needs, then an ordinary commit.
//!
//! Deterministic: given the volume's UUID and a fixed clock, the same options give the same bytes.

use std::sync::Arc;

use cowback_btrfs_disk::hash::name_hash;
use cowback_btrfs_disk::items::inode::inode_flags;
use cowback_btrfs_disk::items::root::RootItemV2;
use cowback_btrfs_disk::items::uuid_key::{uuid_item, uuid_key};
use cowback_btrfs_disk::items::{
    DevItem, DevStats, DirEntry, FileType, InodeItem, InodeRef, RootItem, Timespec,
};
use cowback_btrfs_disk::superblock::{CompatRo, Incompat, LABEL_LEN, Superblock};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;
use uuid::Uuid;

use crate::btree::Forest;
use crate::clock::Clock;
use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::error::{corrupt, io, no_space};
use crate::free_space::FreeSpaceChanges;
use crate::refs::{DelayedRefs, LostRefs};
use crate::space::{Class, GrowPolicy, Space};
use crate::state::State;
use crate::trees::Trees;

/// Bytes of a tree block of new volumes.
pub(crate) const NODESIZE: usize = 16 * 1024;

/// The smallest volume of a fixed size.
pub const MIN_VOLUME: u64 = 8 << 20;

/// Where metadata of a volume goes that will be shrunk: behind all data that one may expect.
const METADATA_AT: u64 = 2 << 40;

/// Trees with root items, in the order in which they are made.
const TREES: [TreeId; 8] = [
    TreeId::EXTENT,
    TreeId::DEV,
    TreeId::FS,
    TreeId::CSUM,
    TreeId::UUID,
    TreeId::FREE_SPACE,
    TreeId::BLOCK_GROUP,
    TreeId::DATA_RELOC,
];

/// How many copies of metadata a volume keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Two, on the one device.
    #[default]
    Dup,
    /// One.
    Single,
}

/// What a new volume is to be like.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    /// Bytes of the volume; with [`FormatOptions::grow`] the least that it has.
    pub total_bytes: u64,
    /// The device may be made larger, and the volume grows as it needs.
    pub grow: bool,
    /// The volume will be cut to what it holds by [`crate::Store::shrink_to_fit`]: until then its file is huge and sparse.
    pub shrinkable: bool,
    /// Copies of metadata.
    pub metadata: Profile,
    /// Checksum algorithm of tree blocks and data.
    pub checksum: ChecksumKind,
    /// Label, at most 255 bytes.
    pub label: String,
    /// UUID of the volume, from which all others derive; random if none is given.
    pub fsid: Option<Uuid>,
    /// Where time stamps come from.
    pub clock: Clock,
    /// Tree blocks kept in memory.
    pub cached_nodes: usize,
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self {
            total_bytes: 0,
            grow: true,
            shrinkable: false,
            metadata: Profile::Dup,
            checksum: ChecksumKind::Crc32c,
            label: String::new(),
            fsid: None,
            clock: Clock::System,
            cached_nodes: crate::store::CACHED_NODES,
        }
    }
}

/// The UUIDs of a volume.
struct Uuids {
    fsid: Uuid,
    chunk_tree: Uuid,
    device: Uuid,
    fs_tree: Uuid,
}

impl Uuids {
    fn new(fsid: Option<Uuid>) -> Self {
        let fsid = fsid.unwrap_or_else(Uuid::new_v4);
        let derive = |name: &str| Uuid::new_v5(&fsid, name.as_bytes());
        Self {
            fsid,
            chunk_tree: derive("chunk tree"),
            device: derive("device 1"),
            fs_tree: derive("subvolume 5"),
        }
    }
}

/// Why no volume can have this label, if none can.
#[must_use]
pub fn label_fault(label: &str) -> Option<&'static str> {
    let fits = label.len() < LABEL_LEN && !label.contains('\0');
    (!fits).then_some("it may have 255 bytes, none of them 0")
}

/// Lays a new volume out in memory; the first commit writes it.
pub(crate) fn format(device: Arc<dyn BlockDevice>, options: &FormatOptions) -> StoreResult<State> {
    if let Some(why) = label_fault(&options.label) {
        return Err(corrupt("label", "format", why));
    }
    let total = options.total_bytes / 4096 * 4096;
    let grow = options.grow && device.can_resize();
    if !grow && total < MIN_VOLUME {
        return Err(no_space("a volume", MIN_VOLUME, total));
    }
    let size = device.len().map_err(|error| io("size", 0, 0, error))?;
    if size < total {
        device.set_len(total).map_err(|error| io("grow", total, 0, error))?;
    }
    crate::commit::wipe_super_copies(&*device)?;
    let uuids = Uuids::new(options.fsid);
    let checksum = options.checksum;
    let mut disk = Disk::new(device, uuids.fsid, uuids.chunk_tree, NODESIZE, checksum);
    disk.copies.repair = true;
    let disk = Arc::new(disk);
    let policy = GrowPolicy {
        grow,
        metadata_dup: options.metadata == Profile::Dup,
        data_dup: false,
        metadata_at: (grow && options.shrinkable).then_some(METADATA_AT),
    };
    let mut space = Space::new(Arc::clone(&disk), total, policy);
    for class in [Class::System, Class::Metadata] {
        if !space.make_chunk(class, 16 * NODESIZE as u64)? {
            return Err(no_space("a volume", MIN_VOLUME, total));
        }
    }
    let source: Arc<dyn crate::btree::NodeSource> = Arc::clone(&disk) as _;
    let mut state = State {
        forest: Forest::new(source, NODESIZE, options.cached_nodes, 1),
        space,
        refs: DelayedRefs::default(),
        lost_refs: LostRefs::default(),
        free_space: FreeSpaceChanges::default(),
        superblock: superblock(options, &uuids),
        device: device_item(&uuids),
        super_changed: true,
        clock: options.clock,
        pending: crate::namespace::Pending::default(),
        tree: TreeId::FS,
        last_ino: 0,
        leftover: Default::default(),
        dead_trees: Vec::new(),
        refused: Default::default(),
        changes: 0,
        disk,
    };
    fill(&mut state, &uuids)?;
    Ok(state)
}

/// The superblock of a volume before its first commit.
fn superblock(options: &FormatOptions, uuids: &Uuids) -> Superblock {
    let incompat = Incompat::MIXED_BACKREF
        | Incompat::BIG_METADATA
        | Incompat::EXTENDED_IREF
        | Incompat::SKINNY_METADATA
        | Incompat::NO_HOLES;
    let compat_ro =
        CompatRo::FREE_SPACE_TREE | CompatRo::FREE_SPACE_TREE_VALID | CompatRo::BLOCK_GROUP_TREE;
    Superblock {
        fsid: uuids.fsid,
        bytenr: 0,
        error: false,
        generation: 0,
        root: 0,
        chunk_root: 0,
        log_root: 0,
        total_bytes: 0,
        bytes_used: 0,
        root_dir_objectid: objectid::ROOT_TREE_DIR,
        num_devices: 1,
        nodesize: u32::try_from(NODESIZE).expect("16 KiB"),
        chunk_root_generation: 0,
        compat: 0,
        compat_ro,
        incompat,
        csum: options.checksum,
        root_level: 0,
        chunk_root_level: 0,
        log_root_level: 0,
        dev_item: DevItem::default(),
        label: options.label.clone().into_bytes(),
        cache_generation: 0,
        uuid_tree_generation: 0,
        metadata_uuid: Uuid::nil(),
        sys_chunks: Vec::new(),
        backup_roots: Default::default(),
    }
}

fn device_item(uuids: &Uuids) -> DevItem {
    DevItem {
        devid: 1,
        io_align: 4096,
        io_width: 4096,
        sector_size: 4096,
        uuid: uuids.device,
        fsid: uuids.fsid,
        ..DevItem::default()
    }
}

/// Makes the trees and what is in them from the start.
fn fill(state: &mut State, uuids: &Uuids) -> StoreResult<()> {
    let (sec, nsec) = state.now();
    let now = Timespec { sec, nsec };
    for tree in [TreeId::ROOT, TreeId::CHUNK].into_iter().chain(TREES) {
        let (forest, mut blocks) = state.parts();
        forest.create(&mut blocks, tree)?;
    }
    for tree in TREES {
        let key = Key::new(tree.0, ItemKind::ROOT_ITEM, 0);
        let uuid = if tree == TreeId::FS { uuids.fs_tree } else { Uuid::nil() };
        state.insert(TreeId::ROOT, key, &root_item(tree, uuid, now).to_bytes())?;
    }
    for tree in [TreeId::FS, TreeId::DATA_RELOC] {
        make_directory(state, tree, objectid::FIRST_FREE, now)?;
    }
    make_default_entry(state, now)?;
    let key = Key::new(objectid::DEV_ITEMS, ItemKind::DEV_ITEM, state.device.devid);
    let item = state.device.to_bytes();
    state.insert(TreeId::CHUNK, key, &item)?;
    let key = Key::new(objectid::DEV_STATS, ItemKind::PERSISTENT_ITEM, state.device.devid);
    state.insert(TreeId::DEV, key, &DevStats::default().to_bytes())?;
    let key = uuid_key(&uuids.fs_tree, ItemKind::UUID_KEY_SUBVOL);
    state.insert(TreeId::UUID, key, &uuid_item(&[TreeId::FS.0]))
}

/// A root item whose root is yet to be filled in.
fn root_item(tree: TreeId, uuid: Uuid, now: Timespec) -> RootItem {
    let file_tree = tree.is_file_tree();
    let inode = InodeItem {
        generation: 1,
        size: 3,
        nbytes: NODESIZE as u64,
        nlink: 1,
        mode: 0o040_755,
        flags: inode_flags::ROOT_ITEM_INIT,
        ..InodeItem::default()
    };
    let mut v2 = RootItemV2 { uuid, ..RootItemV2::default() };
    if file_tree {
        (v2.otransid, v2.ctime, v2.otime) = (1, now, now);
    }
    RootItem {
        inode,
        generation: 0,
        root_dirid: if file_tree { objectid::FIRST_FREE } else { 0 },
        bytenr: 0,
        byte_limit: 0,
        bytes_used: 0,
        last_snapshot: 0,
        read_only: false,
        dead: false,
        refs: 1,
        drop_progress: Key::MIN,
        drop_level: 0,
        level: 0,
        v2,
    }
}

/// Makes an empty directory that is its own parent.
fn make_directory(state: &mut State, tree: TreeId, ino: u64, now: Timespec) -> StoreResult<()> {
    let generation = state.generation();
    let inode = InodeItem {
        generation,
        transid: generation,
        nlink: 1,
        mode: 0o040_755,
        atime: now,
        ctime: now,
        mtime: now,
        otime: now,
        ..InodeItem::default()
    };
    state.insert(tree, Key::new(ino, ItemKind::INODE_ITEM, 0), &inode.to_bytes())?;
    let name = InodeRef { index: 0, name: b"..".to_vec() };
    let key = Key::new(ino, ItemKind::INODE_REF, ino);
    state.insert(tree, key, &InodeRef::all_to_bytes(&[name]))
}

/// The directory in the root tree whose one entry names the subvolume that is mounted by default.
fn make_default_entry(state: &mut State, now: Timespec) -> StoreResult<()> {
    let dir = objectid::ROOT_TREE_DIR;
    make_directory(state, TreeId::ROOT, dir, now)?;
    let entry = DirEntry {
        location: Key::new(TreeId::FS.0, ItemKind::ROOT_ITEM, u64::MAX),
        transid: 0,
        kind: FileType::Dir,
        name: b"default".to_vec(),
        data: Vec::new(),
    };
    let key = Key::new(dir, ItemKind::DIR_ITEM, name_hash(b"default"));
    state.insert(TreeId::ROOT, key, &DirEntry::all_to_bytes(&[entry]))?;
    let name = InodeRef { index: 0, name: b"default".to_vec() };
    let key = Key::new(TreeId::FS.0, ItemKind::INODE_REF, dir);
    state.insert(TreeId::ROOT, key, &InodeRef::all_to_bytes(&[name]))
}
