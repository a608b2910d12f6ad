//! Commit (stage 9): everything that changed becomes durable at once, or not at all (laws R4, D1).
//!
//! Under the state lock, the trees that describe other trees are brought up to date until nothing changes any more, and
//! the blocks of the transaction are captured; from then on they cannot be changed, only copied. Outside of it, they are
//! written, flushed, then the superblocks are written, and flushed. Nothing on disk that an earlier superblock names is
//! overwritten, so that a failure at any point leaves the commit before.
//!
//! What is to be entered into the trees grows with what was written, and others wait for the lock. So most of it is done ahead, in steps
//! between which they get it.

use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::RootItem;
use cowback_btrfs_disk::superblock::{
    BackupRoot, BackupTree, Incompat, SUPER_LEN, SUPER_OFFSETS, Superblock,
};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::btree::Root;
use crate::device::BlockDevice;
use crate::disk::Disk;
use crate::error::{corrupt, invalid, io};
use crate::node::Node;
use crate::reserve::Load;
use crate::state::State;
use crate::trees::Trees;

/// Most bytes of one write of tree blocks.
const BATCH: usize = 1 << 20;

/// A transaction that has ended and is to be written.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Its tree blocks, by address.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// The superblock that names them.
    pub(crate) superblock: Superblock,
    /// The superblock before it, which is durable in its first copy.
    pub(crate) previous: Superblock,
    /// What becomes free once it is durable.
    pub(crate) pinned: Vec<ByteRange>,
    /// What there was no room for in it, and may be once it is durable.
    pub(crate) refused: Load,
}

/// Extents that one step ahead of a commit enters: what takes about a fourth of a millisecond. One by one in tests and models, whose workloads are small.
const STEP: usize = if cfg!(any(feature = "invariants", shuttle)) { 1 } else { 64 };

impl State {
    /// Enters completions into the trees, of `most` extents at most. If that fails with nothing changed, they wait as before.
    fn apply_pending(&mut self, most: usize) -> StoreResult<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let tree = self.tree;
        let applied = pending.apply(self, tree, most);
        self.pending = pending;
        applied
    }

    /// Steps in which all that waits for the next commit can be entered ahead of it, unless more comes; none if that is little. An extent that
    /// completed makes references come and go, and these make space free or not.
    pub(crate) fn steps_ahead(&self) -> usize {
        let completed = self.pending.extents();
        let waiting = 5 * completed + 2 * self.refs.data.len() + self.free_space.len();
        if waiting > STEP { waiting / STEP + 1 } else { 0 }
    }

    /// Enters a part of what waits for the next commit. False if there is nothing left, but for what entering it brings. If it fails with nothing
    /// changed, all waits as before.
    pub(crate) fn step_ahead(&mut self) -> StoreResult<bool> {
        if !self.pending.is_empty() {
            self.apply_pending(STEP)?;
        } else if !self.refs.data.is_empty() {
            self.changes += 1; // notes are taken off: who fails does harm
            self.run_data_refs(STEP)?;
        } else if !self.free_space.is_empty() {
            self.changes += 1; // as above
            self.record_fresh_chunks()?;
            self.apply_free_space(STEP)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Enters completions into the trees, then brings the trees that describe trees up to date, until nothing changes
    /// any more.
    pub(crate) fn settle(&mut self) -> StoreResult<()> {
        self.apply_pending(usize::MAX)?;
        self.changes += 1; // notes are taken off from here on: who fails does harm
        self.distrust_quotas()?;
        loop {
            self.record_fresh_chunks()?;
            self.run_refs()?;
            // Space may have been made meanwhile, and the free space tree has to know of it first.
            self.record_fresh_chunks()?;
            self.apply_free_space(usize::MAX)?;
            self.record_groups()?;
            self.record_roots()?;
            let space = &self.space;
            let told = space.fresh.is_empty() && space.changed.is_empty();
            if told && self.refs.is_empty() && self.free_space.is_empty() && !self.roots_changed() {
                return Ok(());
            }
        }
    }

    /// Marks quota figures, if there are any, as in need of a rescan, as they are not kept up here. The kernel's driver
    /// counts anew when it mounts the volume.
    fn distrust_quotas(&mut self) -> StoreResult<()> {
        const GENERATION: usize = 8;
        const FLAGS: usize = 16;
        const RESCAN: usize = 24;
        const RESCAN_AND_INCONSISTENT: u8 = 2 | 4;
        if !self.forest.roots.contains_key(&TreeId::QUOTA) {
            return Ok(());
        }
        let key = Key::new(0, ItemKind::QGROUP_STATUS, 0);
        let Some(mut status) = self.get(TreeId::QUOTA, &key)? else { return Ok(()) };
        if status.len() < RESCAN + 8 || status[FLAGS] & 1 == 0 {
            return Ok(());
        }
        status[GENERATION..GENERATION + 8].copy_from_slice(&self.generation().to_le_bytes());
        status[FLAGS] |= RESCAN_AND_INCONSISTENT;
        status[RESCAN..RESCAN + 8].fill(0);
        self.update(TreeId::QUOTA, &key, &status)?;
        // A rescan adds to what is there.
        let mut at = Key::new(0, ItemKind::QGROUP_INFO, 0);
        while let Some((key, mut info)) = self.at_or_after(TreeId::QUOTA, &at)? {
            if key.objectid != 0 || key.kind != ItemKind::QGROUP_INFO {
                break;
            }
            info.iter_mut().skip(8).for_each(|byte| *byte = 0);
            self.update(TreeId::QUOTA, &key, &info)?;
            let Some(next) = key.next() else { break };
            at = next;
        }
        Ok(())
    }

    /// Whether a root item is out of date.
    fn roots_changed(&self) -> bool {
        let told = |tree: &TreeId| !matches!(*tree, TreeId::ROOT | TreeId::CHUNK);
        self.forest.roots.iter().any(|(tree, root)| told(tree) && root.changed)
    }

    /// Brings root items up to date.
    fn record_roots(&mut self) -> StoreResult<()> {
        let changed = self.forest.roots.iter();
        let changed = changed
            .filter(|(tree, root)| root.changed && !matches!(**tree, TreeId::ROOT | TreeId::CHUNK));
        let changed: Vec<(TreeId, Root)> =
            changed.map(|(tree, root)| (*tree, root.clone())).collect();
        for (tree, root) in changed {
            let key = Key::new(tree.0, ItemKind::ROOT_ITEM, root.item_offset);
            let data = self.get(TreeId::ROOT, &key)?;
            let data = data.ok_or_else(|| corrupt("root item", key, "it is missing"))?;
            let mut item = RootItem::parse(&data).map_err(|error| invalid(key, &error))?;
            (item.bytenr, item.level, item.generation) = (root.bytenr, root.level, root.generation);
            let bytes_used = root.blocks.checked_mul(self.forest.nodesize() as u64);
            item.bytes_used = bytes_used.ok_or_else(|| corrupt("root item", key, "its size"))?;
            item.v2.generation = root.generation;
            if tree.is_file_tree() {
                item.v2.ctransid = root.generation;
            }
            self.update(TreeId::ROOT, &key, &item.to_bytes())?;
            if let Some(own) = self.forest.roots.get_mut(&tree) {
                own.changed = false;
            }
        }
        Ok(())
    }

    /// Ends the running transaction, and begins the next one.
    pub(crate) fn capture(&mut self) -> StoreResult<Capture> {
        self.settle()?;
        self.space.begin_promises();
        self.lost_refs.end_transaction();
        let generation = self.forest.generation;
        assert_eq!(self.device, self.device_now(), "the device's item is told of every chunk");
        let superblock = self.next_superblock()?;
        let previous = std::mem::replace(&mut self.superblock, superblock.clone());
        self.super_changed = false;
        let nodes = self.forest.end_transaction();
        assert!(nodes.iter().all(|node| node.generation == generation));
        let (pinned, refused) = (self.space.take_pinned(), std::mem::take(&mut self.refused));
        Ok(Capture { nodes, superblock, previous, pinned, refused })
    }

    fn next_superblock(&self) -> StoreResult<Superblock> {
        let mut sb = self.superblock.clone();
        let (root, chunk) = (self.forest.root(TreeId::ROOT)?, self.forest.root(TreeId::CHUNK)?);
        (sb.generation, sb.bytenr) = (self.forest.generation, SUPER_OFFSETS[0]);
        (sb.root, sb.root_level) = (root.bytenr, root.level);
        (sb.chunk_root, sb.chunk_root_level) = (chunk.bytenr, chunk.level);
        sb.chunk_root_generation = chunk.generation;
        let others = sb.total_bytes - sb.dev_item.total_bytes;
        let total = others.checked_add(self.space.total_bytes);
        sb.total_bytes = total.ok_or_else(|| corrupt("superblock", sb.bytenr, "its size"))?;
        sb.bytes_used = self.space.bytes_used;
        // Holes have no items here. On a volume whose holes had, both is right from now on (`btrfstune -n` does the same).
        sb.incompat |= Incompat::NO_HOLES;
        sb.dev_item = self.device.clone();
        sb.sys_chunks = self.system_chunks();
        if sb.uuid_tree_generation == self.superblock.generation {
            sb.uuid_tree_generation = sb.generation;
        }
        sb.cache_generation = if self.has_free_space_tree() { 0 } else { u64::MAX };
        let newest = sb.backup_roots.iter().enumerate();
        let newest = newest.max_by_key(|(_, backup)| backup.tree.generation);
        let slot = newest.filter(|(_, backup)| backup.tree.generation > 0);
        let slot = slot.map_or(0, |(slot, _)| (slot + 1) % sb.backup_roots.len());
        sb.backup_roots[slot] = self.backup_root(&sb);
        Ok(sb)
    }

    fn backup_root(&self, sb: &Superblock) -> BackupRoot {
        let tree = |id: TreeId| {
            self.forest.roots.get(&id).map_or_else(BackupTree::default, |root| BackupTree {
                bytenr: root.bytenr,
                generation: root.generation,
                level: root.level,
            })
        };
        BackupRoot {
            tree: tree(TreeId::ROOT),
            chunk: tree(TreeId::CHUNK),
            extent: tree(TreeId::EXTENT),
            fs: tree(TreeId::FS),
            dev: tree(TreeId::DEV),
            csum: tree(TreeId::CSUM),
            total_bytes: sb.total_bytes,
            bytes_used: sb.bytes_used,
            num_devices: sb.num_devices,
        }
    }
}

impl Capture {
    /// Makes the transaction durable. After a failure it may be done once more: the same bytes go to the same places, so that not even a
    /// write that is torn then harms what has reached the device.
    ///
    /// The copies of the superblock behind the first lag by one commit: they are written along with the tree blocks of the
    /// next. So whatever a torn write does to one copy, another is whole, and names blocks that nothing has overwritten.
    pub(crate) fn write(&self, disk: &Disk) -> StoreResult<()> {
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut start = 0;
        for node in &self.nodes {
            let held = batch.len() * disk.nodesize;
            let adjoins = node.bytenr == start + held as u64
                && disk.with_chunks(|map| map.map(start, (held + disk.nodesize) as u64).is_some());
            if !batch.is_empty() && (!adjoins || held >= BATCH) {
                write_batch(disk, start, &mut batch)?;
            }
            if batch.is_empty() {
                start = node.bytenr;
            }
            batch.push(node.to_block(disk)?);
        }
        write_batch(disk, start, &mut batch)?;
        if self.previous.generation > 0 {
            write_superblocks(disk, &self.previous, &SUPER_COPIES[1..])?;
        }
        disk.flush()?;
        write_superblocks(disk, &self.superblock, &SUPER_COPIES[..1])?;
        disk.flush()
    }
}

/// Where the superblock stands: the three places that btrfs knows, and one of cowback's own, in the reserved first mebibyte, right behind the
/// first. A volume of less than 64 MiB has but one of the three; a write of it that is torn would be the end of the volume.
pub(crate) const SUPER_COPIES: [u64; 4] =
    [SUPER_OFFSETS[0], OWN_COPY, SUPER_OFFSETS[1], SUPER_OFFSETS[2]];

/// The place of cowback's own. A boot loader may have put itself there, or a very old mkfs a chunk; then it is left alone.
const OWN_COPY: u64 = 128 << 10;

/// The smallest unit that a device writes as a whole.
const SECTOR: usize = 512;

/// Whether the place of cowback's own copy may be written, on the device of the volume whose newest superblock is `superblock`: there is nothing
/// at it, or a copy of this volume's superblock, whole or torn.
///
/// A copy whose first sector is there is known by its magic and its volume. One that was torn when it was first written, over nothing, may lack
/// that sector. But it was the superblock that the device held then, and holds still, as the next one is written only after this write is
/// durable. So its sectors are nothing, or those of `superblock`.
pub(crate) fn may_keep_own_copy(device: &dyn BlockDevice, superblock: &Superblock) -> bool {
    let mut found = vec![0; SUPER_LEN];
    if device.read_at(OWN_COPY, &mut found).is_err() {
        return false;
    }
    let own = Superblock { bytenr: OWN_COPY, ..superblock.clone() }.to_bytes().unwrap_or_default();
    let mut sectors = found.chunks(SECTOR).zip(own.chunks(SECTOR));
    Superblock::is_of(&found, superblock.fsid)
        || found.iter().all(|byte| *byte == 0)
        || !own.is_empty()
            && sectors.all(|(found, own)| found == own || found.iter().all(|byte| *byte == 0))
}

/// Takes away every copy of a superblock that is on `device`: none may outlive the volume that it is of.
pub(crate) fn wipe_super_copies(device: &dyn BlockDevice) -> StoreResult<()> {
    let len = SUPER_LEN as u64;
    let size = device.len().map_err(|error| io("size", 0, 0, error))?;
    let mut wiped = false;
    for offset in SUPER_COPIES.into_iter().filter(|offset| offset + len <= size) {
        let mut bytes = vec![0; SUPER_LEN];
        let read = device.read_at(offset, &mut bytes);
        if read.is_err() || bytes.iter().any(|byte| *byte != 0) {
            let written = device.write_at(offset, &[0; SUPER_LEN]);
            written.map_err(|error| io("write", offset, len, error))?;
            wiped = true;
        }
    }
    if wiped { device.flush().map_err(|error| io("flush", 0, 0, error)) } else { Ok(()) }
}

/// Makes the commit durable that was found when the volume was opened (law R4): the space that it freed is to be used from now on, and the
/// commit before it names that.
///
/// What is read may be in the system's memory only. Whoever made that commit may have ended before the last flush; or that flush failed, and
/// a system that has told so once takes the superblock for written. So it is written again; its blocks were flushed before it was written. The other
/// copies go first: another's bytes may differ from these, and the first copy be torn.
pub(crate) fn confirm(disk: &Disk, superblock: &Superblock) -> StoreResult<()> {
    write_super_copies(disk, superblock)?;
    write_superblocks(disk, superblock, &SUPER_COPIES[..1])?;
    disk.flush()
}

/// Brings the copies of the superblock behind the first up to date with it. The trees that it names are durable.
pub(crate) fn write_super_copies(disk: &Disk, superblock: &Superblock) -> StoreResult<()> {
    write_superblocks(disk, superblock, &SUPER_COPIES[1..])?;
    disk.flush()
}

fn write_batch(disk: &Disk, start: u64, batch: &mut Vec<Vec<u8>>) -> StoreResult<()> {
    if !batch.is_empty() {
        let parts: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        disk.write(start, &parts)?;
        batch.clear();
    }
    Ok(())
}

/// Writes the copies of the superblock at `offsets`, as far as the device has room for them.
fn write_superblocks(disk: &Disk, superblock: &Superblock, offsets: &[u64]) -> StoreResult<()> {
    let mut copy = superblock.clone();
    for &offset in offsets {
        let place = ByteRange::at(offset, SUPER_LEN as u64);
        let taken = || !disk.own_copy || disk.with_chunks(|map| map.occupies(place));
        if place.end > superblock.dev_item.total_bytes || offset == OWN_COPY && taken() {
            continue;
        }
        copy.bytenr = offset;
        let bytes = copy.to_bytes().map_err(|error| invalid(offset, &error))?;
        let written = disk.device.write_at(offset, &bytes);
        written.map_err(|error| io("write", offset, SUPER_LEN as u64, error))?;
    }
    Ok(())
}
