//! Cutting a volume to what it holds (stage 9): for images that are to be as small as can be.
//!
//! All tree blocks move, in one transaction, into block groups of just their size right behind the data; the block groups
//! where they were are dropped in the same transaction, the last data block group is cut behind its last extent, and when
//! that is durable, the file is cut. The old blocks are overwritten by nobody, so that a crash leaves the volume as it was
//! before, or as it is after (law R4).

use std::io;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{BlockGroupItem, FreeSpaceInfo};
use cowback_btrfs_disk::superblock::SUPER_OFFSETS;
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::{StoreError, StoreResult};

use crate::chunks::{Chunk, DEVICE_MAX, STRIPE_LEN, SUPER_STRIPE};
use crate::error::{corrupt, no_space};
use crate::free_space::extent_key;
use crate::space::{Class, Group};
use crate::state::State;
use crate::trees::Trees;

/// Tree blocks that a shrunk volume has room for beyond those that it needs, so that it can be changed a little.
const SPARE_BLOCKS: u64 = 42;
/// Bytes of metadata that the kernel's driver keeps in reserve, at least (its global reserve, as Linux 6.18 reports it).
const KERNEL_RESERVE: u64 = 6 << 20;
/// Bytes of metadata that it wants to have beyond that for the smallest of changes, such as making a file.
const SMALL_CHANGE: u64 = 4 << 20;
/// Data that small changes have room for.
const SMALL_DATA: u64 = 512 << 10;
/// What may be left free unasked is at most one part of the content in so many.
const UNASKED_SHARE: u64 = 23;
/// Bytes that the kernel's driver wants to have free for the chunk tree before it makes a chunk; else it makes one for the
/// chunk tree first.
const SPARE_SYSTEM: u64 = 640 << 10;

/// What a volume is cut to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// What it holds, and as much as Linux needs for small changes if that is little beside the content: at most a twenty-third of it (from
    /// some 470 MiB on, half of that with single metadata).
    Tight,
    /// What it holds, and so many bytes, which become free space for data and metadata in about the shares that a mounted volume needs.
    Slack(u64),
    /// So many bytes in all.
    Size(u64),
}

impl State {
    /// Moves all metadata behind the data, and drops what is not needed any more. Everything must be committed.
    /// Gives the bytes that the volume has then.
    pub(crate) fn compact(&mut self, fit: Fit) -> StoreResult<u64> {
        let old: Vec<Group> =
            self.space.groups().filter(|group| group.class != Class::Data).cloned().collect();
        let blocks = self.count_blocks()?;
        let spare = self.spare(fit, &blocks);
        let cuts = self.cut_data(spare.data)?;
        for group in &old {
            self.space.close_group(group.start);
        }
        for (class, blocks) in [(Class::System, blocks.chunk), (Class::Metadata, blocks.other)] {
            self.make_exact(class, blocks, spare.metadata)?;
        }
        let trees: Vec<TreeId> = self.forest.roots.keys().copied().collect();
        for tree in trees {
            let (forest, mut blocks) = self.parts();
            forest.own_all(&mut blocks, tree)?;
        }
        for cut in &cuts {
            self.record_cut(cut)?;
        }
        self.settle()?;
        for group in old {
            let cut = self.drop_group(group)?;
            self.record_cut(&cut)?;
        }
        let end = self.disk.with_chunks(crate::chunks::ChunkMap::device_end);
        let rest = spare.total.saturating_sub(self.free_in_chunks());
        let wanted = match fit {
            Fit::Size(size) if size < end => return Err(no_space("the content", end, size)),
            Fit::Size(size) => size / 4096 * 4096,
            Fit::Tight | Fit::Slack(_) => (end + rest).div_ceil(4096) * 4096,
        };
        // The superblock must never name more than the device has.
        let most = if self.space.policy.grow { wanted } else { self.space.total_bytes };
        self.space.total_bytes = wanted.min(most);
        self.space.policy.metadata_at = None;
        self.super_changed = true;
        Ok(self.space.total_bytes)
    }

    /// Fails, with nothing changed, if the volume cannot be shrunk, or no device could have what `fit` says.
    pub(crate) fn check_shrinkable(&self, fit: Fit) -> StoreResult<()> {
        let refuse = |why: String| {
            let error = io::Error::new(io::ErrorKind::Unsupported, why);
            Err(crate::error::io("shrink", 0, 0, error))
        };
        if !self.disk.device.can_resize() {
            return refuse("the device has the size it has".to_owned());
        }
        if let Fit::Slack(bytes) | Fit::Size(bytes) = fit
            && bytes > DEVICE_MAX
        {
            return refuse(format!("{bytes} bytes are more than a device can have ({DEVICE_MAX})"));
        }
        match self.dead_trees.first() {
            None => Ok(()),
            Some(tree) => refuse(format!(
                "subvolume {tree} is being deleted, and only the kernel's driver can end that"
            )),
        }
    }

    /// Bytes of the device that are free within chunks.
    fn free_in_chunks(&self) -> u64 {
        let classes = [Class::Data, Class::Metadata, Class::System].into_iter();
        classes.map(|class| self.space.pool(class).free.bytes() * self.space.copies(class)).sum()
    }

    /// How many tree blocks there are.
    fn count_blocks(&self) -> StoreResult<Blocks> {
        let mut counts = Blocks::default();
        for tree in self.forest.roots.keys() {
            let mut count = 0;
            self.forest.for_each_block(*tree, &mut |_| count += 1)?;
            match *tree {
                TreeId::CHUNK => counts.chunk += count,
                _ => counts.other += count,
            }
            if matches!(*tree, TreeId::EXTENT | TreeId::CSUM | TreeId::FREE_SPACE) {
                counts.reserved += count;
            }
        }
        Ok(counts)
    }

    /// What is to stay free in block groups. Unasked it is as much as the kernel's driver needs for small changes, if that is little
    /// beside the content, and else nothing.
    fn spare(&self, fit: Fit, blocks: &Blocks) -> Spare {
        let nodesize = self.forest.nodesize() as u64;
        let copies = self.space.copies(Class::Metadata);
        // The reserve is about as large as those trees that every change of data changes.
        let most = (blocks.reserved * nodesize).max(KERNEL_RESERVE) + SMALL_CHANGE;
        match fit {
            Fit::Slack(total) => {
                Spare { metadata: (total / 16 * 15 / copies).min(most), data: total / 16, total }
            }
            // What is left is not allocated: whoever mounts it makes block groups of it.
            Fit::Size(_) => Spare::default(),
            Fit::Tight => {
                let data = self.space.groups().filter(|group| group.class == Class::Data);
                let data: u64 = data.map(|group| group.used).sum();
                let content = data + blocks.other * nodesize * copies;
                let total = most * copies + SMALL_DATA;
                if total > content / UNASKED_SHARE {
                    return Spare::default();
                }
                Spare { metadata: most, data: SMALL_DATA, total }
            }
        }
    }

    /// Makes a block group of `class` for `blocks` tree blocks and a few more, in the first holes of the device; for
    /// metadata, `spare` bytes more.
    fn make_exact(&mut self, class: Class, blocks: u64, spare: u64) -> StoreResult<()> {
        let nodesize = self.forest.nodesize() as u64;
        let spare = match class {
            Class::System if spare < 6 * SPARE_SYSTEM => 6,
            Class::System => SPARE_SYSTEM / nodesize,
            _ => (SPARE_BLOCKS + blocks / 64).max(spare / nodesize),
        };
        let mut len = ((blocks + spare) * nodesize).next_multiple_of(STRIPE_LEN);
        let copies = self.space.copies(class);
        let copies_usize = usize::try_from(copies).unwrap_or(1);
        let limit = if self.space.policy.grow { DEVICE_MAX } else { self.space.total_bytes };
        let chunk = loop {
            let placed = self.disk.with_chunks(|map| {
                let stripes = map.place(ByteRange::new(0, limit), len, copies_usize)?;
                Some((map.next_logical(class == Class::Data, len), stripes))
            });
            let Some((logical, stripes)) = placed else {
                return Err(no_space("metadata in one piece", len * copies, limit));
            };
            let over_super = |stripe: &u64| {
                let range = ByteRange::at(*stripe, len);
                let copies = SUPER_OFFSETS.iter().map(|at| ByteRange::at(*at, SUPER_STRIPE));
                copies.filter(|copy| copy.intersect(range).is_some()).count() as u64
            };
            let lost = stripes.iter().map(over_super).sum::<u64>() * SUPER_STRIPE;
            let wanted = ((blocks + spare) * nodesize).next_multiple_of(STRIPE_LEN) + lost;
            let flags = class.flags().bits() | dup_bit(copies);
            if len >= wanted {
                break Chunk { logical, len, flags, stripes };
            }
            len = wanted;
        };
        let end = chunk.stripes.iter().map(|stripe| stripe + chunk.len).max().unwrap_or(0);
        match self.space.commit_chunk(class, chunk)? {
            true => Ok(()),
            false => Err(no_space("metadata in one piece", end, self.space.total_bytes)),
        }
    }

    /// Drops data block groups without extents, and cuts the last one `share` bytes behind its last extent. The trees are
    /// to be told.
    fn cut_data(&mut self, share: u64) -> StoreResult<Vec<Cut>> {
        let data: Vec<Group> =
            self.space.groups().filter(|group| group.class == Class::Data).cloned().collect();
        let end_on_device = |state: &Self, group: &Group| {
            let chunk = state.disk.with_chunks(|map| map.find(group.start).cloned());
            chunk.and_then(|chunk| chunk.stripes.iter().max().map(|stripe| stripe + chunk.len))
        };
        let mut cuts = Vec::new();
        let mut last: Option<(u64, Group)> = None;
        for group in data {
            if group.used == 0 && self.space.tail_of(&group) == group.start {
                cuts.push(self.drop_group(group)?);
            } else if let Some(end) = end_on_device(self, &group)
                && last.as_ref().is_none_or(|(other, _)| *other < end)
            {
                last = Some((end, group));
            }
        }
        let Some((_, group)) = last else { return Ok(cuts) };
        let used = self.space.tail_of(&group) - group.start + share;
        let len = used.next_multiple_of(STRIPE_LEN).min(group.len);
        if len > 0 && len < group.len {
            let chunk = self.space.trim_group(group.start, len);
            let chunk = chunk.ok_or_else(|| no_chunk(&group))?;
            cuts.push(Cut { group, chunk, len });
        }
        Ok(cuts)
    }

    /// Forgets a block group without extents.
    fn drop_group(&mut self, group: Group) -> StoreResult<Cut> {
        let used = self.space.group_of(group.start)?.used;
        if used > 0 {
            let why = format_args!("{used} bytes are still in use");
            return Err(corrupt("block group", group.start, why));
        }
        let chunk = self.space.drop_group(group.start).ok_or_else(|| no_chunk(&group))?;
        Ok(Cut { group, chunk, len: 0 })
    }

    /// Tells the trees that a block group was cut, or is gone.
    fn record_cut(&mut self, cut: &Cut) -> StoreResult<()> {
        let Cut { group, chunk, len } = cut;
        let key = Key::new(group.start, ItemKind::BLOCK_GROUP_ITEM, group.len);
        let tree = self.groups_tree();
        self.remove(tree, &key)?;
        let chunk_key = Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, group.start);
        let dev_key = |stripe: &u64| Key::new(self.device.devid, ItemKind::DEV_EXTENT, *stripe);
        let dev_keys: Vec<Key> = chunk.stripes.iter().map(dev_key).collect();
        if *len == 0 {
            if self.has_free_space_tree() {
                self.remove_free_space_of(group.range())?;
            }
            self.remove(TreeId::CHUNK, &chunk_key)?;
            for key in dev_keys {
                self.remove(TreeId::DEV, &key)?;
            }
            return Ok(());
        }
        let item = BlockGroupItem { used: group.used, flags: group.flags };
        self.insert(tree, Key { offset: *len, ..key }, &item.to_bytes())?;
        if self.has_free_space_tree() {
            self.trim_free_space_of(group, *len)?;
        }
        let item = self.chunk_item(chunk).to_bytes();
        self.update(TreeId::CHUNK, &chunk_key, &item)?;
        let extent = self.dev_extent(group.start, *len).to_bytes();
        for key in dev_keys {
            self.update(TreeId::DEV, &key, &extent)?;
        }
        Ok(())
    }

    /// Deletes the free space tree's items of a block group.
    fn remove_free_space_of(&mut self, group: ByteRange) -> StoreResult<()> {
        let mut at = Key::new(group.start, ItemKind::FREE_SPACE_INFO, 0);
        while let Some((key, _)) = self.at_or_after(TreeId::FREE_SPACE, &at)? {
            if key.objectid >= group.end {
                break;
            }
            self.remove(TreeId::FREE_SPACE, &key)?;
            at = key;
        }
        Ok(())
    }

    /// Cuts the free space tree's items of a block group to its first `len` bytes.
    fn trim_free_space_of(&mut self, group: &Group, len: u64) -> StoreResult<()> {
        let end = group.start + len;
        let key = Key::new(group.start, ItemKind::FREE_SPACE_INFO, group.len);
        let info = self.free_space_info(&key)?;
        self.remove(TreeId::FREE_SPACE, &key)?;
        let count = if info.bitmaps {
            self.trim_bitmaps(group.range(), end)?
        } else {
            i64::from(info.extent_count) + self.trim_free_extents(group.range(), end)?
        };
        let extent_count = u32::try_from(count).unwrap_or(0);
        let info = FreeSpaceInfo { extent_count, ..info };
        self.insert(TreeId::FREE_SPACE, Key { offset: len, ..key }, &info.to_bytes())
    }

    /// Cuts the free extents of the block group `group` at `end`. Gives by how many there are more.
    fn trim_free_extents(&mut self, group: ByteRange, end: u64) -> StoreResult<i64> {
        // What begins at the very end of the group is the next group's.
        let tail = self.free_before(group.end - 1, group)?;
        let Some(tail) = tail.filter(|tail| tail.end > end) else { return Ok(0) };
        self.remove(TreeId::FREE_SPACE, &extent_key(tail))?;
        if tail.start >= end {
            return Ok(-1);
        }
        let kept = extent_key(ByteRange::new(tail.start, end));
        self.insert(TreeId::FREE_SPACE, kept, &[])?;
        Ok(0)
    }
}

/// Numbers of tree blocks.
#[derive(Debug, Default)]
struct Blocks {
    /// Of the chunk tree.
    chunk: u64,
    /// Of all other trees.
    other: u64,
    /// Of those trees among them by whose size the kernel's driver reckons its reserve.
    reserved: u64,
}

/// Bytes that are to stay free.
#[derive(Debug, Default)]
struct Spare {
    /// For tree blocks, of each copy.
    metadata: u64,
    /// Behind the data.
    data: u64,
    /// In all; what is in no block group is not allocated.
    total: u64,
}

/// A block group that was cut, or is gone.
#[derive(Debug)]
struct Cut {
    /// As it was.
    group: Group,
    /// Its chunk as it is now, or was last.
    chunk: Chunk,
    /// Bytes that are left.
    len: u64,
}

fn no_chunk(group: &Group) -> StoreError {
    corrupt("chunk", group.start, "a block group's chunk is missing")
}

fn dup_bit(copies: u64) -> u64 {
    use cowback_btrfs_disk::items::BlockGroupFlags;
    if copies == 2 { BlockGroupFlags::DUP.bits() } else { 0 }
}
