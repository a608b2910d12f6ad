//! Space: block groups, what of them is free, and who was promised some (stage 6).
//!
//! Free here means: handed to nobody, in this transaction or an earlier one that is not durable yet. That is less than
//! what the extent tree leaves free: extents that are allocated but not yet named by metadata, and pinned ones. Invariants:
//! space freed by a transaction is pinned until that transaction is durable (law R4); no extent crosses a border of block
//! groups or covers a copy of the superblock; promises are never larger than what is free or can be made so, but for what
//! `promise_again` took back. There is no lock here: the store's state lock guards all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::BlockGroupFlags;
use cowback_extent_io::store::StoreResult;

use crate::chunks::Chunk;
use crate::disk::Disk;
use crate::error::{corrupt, io, no_space, unsupported};
use crate::free::FreeExtents;

mod grow;
mod promises;

pub(crate) use grow::GrowPolicy;
pub(crate) use promises::Promises;

/// Shortest extent that is taken close by rather than going on to look for a longer one.
const GOOD_ENOUGH: u64 = 256 * 1024;
/// Bytes by which a device that could not grow is asked to: a small block group.
const ASKED_FOR: u64 = 16 << 20;

/// What a block group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    Data,
    Metadata,
    System,
}

impl Class {
    /// All classes.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::Data, Self::Metadata, Self::System];

    /// The class of a block group with `flags`, if it has just one.
    pub(crate) fn of(flags: BlockGroupFlags) -> Option<Self> {
        match flags.intersection(BlockGroupFlags::TYPES) {
            BlockGroupFlags::DATA => Some(Self::Data),
            BlockGroupFlags::METADATA => Some(Self::Metadata),
            BlockGroupFlags::SYSTEM => Some(Self::System),
            _ => None,
        }
    }

    /// The type of its block groups.
    pub(crate) const fn flags(self) -> BlockGroupFlags {
        match self {
            Self::Data => BlockGroupFlags::DATA,
            Self::Metadata => BlockGroupFlags::METADATA,
            Self::System => BlockGroupFlags::SYSTEM,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::System => "the chunk tree",
        }
    }
}

/// A block group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// First logical address.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Type and profile.
    pub(crate) flags: BlockGroupFlags,
    /// What it is for.
    pub(crate) class: Class,
    /// Bytes of it that the extent tree holds extents for.
    pub(crate) used: u64,
    /// Nothing is allocated from it any more.
    pub(crate) closed: bool,
    /// The ranges that stand for copies of the superblock, in order.
    supers: Vec<ByteRange>,
}

impl Group {
    /// Its logical addresses.
    pub(crate) const fn range(&self) -> ByteRange {
        ByteRange { start: self.start, end: self.start + self.len }
    }
}

/// The free space of one class.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pool {
    /// What is free.
    pub(crate) free: FreeExtents,
    /// Where the last extent ended.
    cursor: u64,
    /// Bytes of all block groups.
    pub(crate) total: u64,
    /// Bytes freed by transactions that are not durable.
    pub(crate) pinned: u64,
}

/// All space of a volume.
#[derive(Debug)]
pub(crate) struct Space {
    disk: Arc<Disk>,
    groups: BTreeMap<u64, Group>,
    pools: [Pool; 3],
    promises: Promises,
    pinned: Vec<ByteRange>,
    /// Block groups whose `used` differs from what their item says.
    pub(crate) changed: BTreeSet<u64>,
    /// Chunks that were made and have no items yet.
    pub(crate) fresh: Vec<u64>,
    /// Bytes of all extents in the extent tree.
    pub(crate) bytes_used: u64,
    /// Bytes of the device that the volume uses.
    pub(crate) total_bytes: u64,
    /// How block groups are made.
    pub(crate) policy: GrowPolicy,
    /// Whether the device was to grow with the volume, before it turned out that it cannot.
    may_grow: bool,
}

impl Space {
    /// No block groups yet.
    pub(crate) fn new(disk: Arc<Disk>, total_bytes: u64, policy: GrowPolicy) -> Self {
        let may_grow = policy.grow;
        Self {
            disk,
            may_grow,
            groups: BTreeMap::new(),
            pools: Default::default(),
            promises: Promises::default(),
            pinned: Vec::new(),
            changed: BTreeSet::new(),
            fresh: Vec::new(),
            bytes_used: 0,
            total_bytes,
            policy,
        }
    }

    /// The free space of `class`.
    pub(crate) const fn pool(&self, class: Class) -> &Pool {
        &self.pools[class as usize]
    }

    const fn pool_mut(&mut self, class: Class) -> &mut Pool {
        &mut self.pools[class as usize]
    }

    /// All block groups, by address.
    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = &Group> {
        self.groups.values()
    }

    /// The block group that holds `bytenr`.
    pub(crate) fn group_of(&self, bytenr: u64) -> StoreResult<&Group> {
        let group = self.groups.range(..=bytenr).next_back().map(|(_, group)| group);
        group
            .filter(|group| group.range().contains(bytenr))
            .ok_or_else(|| corrupt("address", bytenr, "no block group holds it"))
    }

    /// The block group that holds all of `range`.
    fn group_around(&self, range: ByteRange) -> StoreResult<&Group> {
        let group = self.group_of(range.start)?;
        if range.end <= group.range().end {
            return Ok(group);
        }
        let why = format_args!("{} bytes cross the end of a block group", range.len());
        Err(corrupt("extent", range.start, why))
    }

    /// The block group that holds all of the data extent `range`. Anywhere else it would be over what is none: a tree, a copy of the
    /// superblock.
    pub(crate) fn data_group(&self, range: ByteRange) -> StoreResult<&Group> {
        let group = self.group_around(range)?;
        let over = |copy: &ByteRange| copy.intersect(range).is_some();
        let why = match group.class {
            Class::Data if !group.supers.iter().any(over) => return Ok(group),
            Class::Data => "a copy of the superblock is there",
            Class::Metadata | Class::System => "it is data in a block group for trees",
        };
        Err(corrupt("extent", range, why))
    }

    /// Adds a block group that stands for a chunk. Nothing of it is free yet.
    pub(crate) fn add_group(
        &mut self,
        start: u64,
        len: u64,
        flags: BlockGroupFlags,
        used: u64,
    ) -> StoreResult<()> {
        let class = Class::of(flags).ok_or_else(|| {
            unsupported("block group", start, format_args!("its type and profile are {flags:?}"))
        })?;
        let supers = self.super_ranges(start);
        let group = Group { start, len, flags, class, used, closed: false, supers };
        if self.groups.insert(start, group).is_some() {
            return Err(corrupt("block group", start, "there are two"));
        }
        self.pool_mut(class).total += len;
        self.bytes_used += used;
        Ok(())
    }

    /// Makes all of `range` free, but for copies of the superblock in it.
    pub(crate) fn add_free(&mut self, range: ByteRange) -> StoreResult<()> {
        let group = self.group_around(range)?;
        let (class, bounds, closed) = (group.class, group.range(), group.closed);
        if closed {
            return Ok(());
        }
        let supers = group.supers.clone();
        let free = &mut self.pool_mut(class).free;
        let mut at = range.start;
        for hole in supers.into_iter().chain([ByteRange::new(range.end, range.end)]) {
            let end = hole.start.clamp(at, range.end);
            free.insert(ByteRange::new(at, end), bounds)
                .map_err(|other| corrupt("free space", range, format_args!("{other} is free")))?;
            at = hole.end.clamp(at, range.end);
        }
        Ok(())
    }

    /// The logical ranges of copies of the superblock in the block group at `start`, in order.
    fn super_ranges(&self, start: u64) -> Vec<ByteRange> {
        let chunk = |map: &crate::chunks::ChunkMap| map.find(start).map(Chunk::super_ranges);
        let mut ranges = self.disk.with_chunks(chunk).unwrap_or_default();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// Allocates at least `least` and at most `want` bytes in one extent, makes a block group if it must.
    pub(crate) fn alloc(&mut self, class: Class, want: u64, least: u64) -> StoreResult<ByteRange> {
        let good = want.min(least.max(GOOD_ENOUGH));
        let find = |space: &Self, least| {
            let pool = space.pool(class);
            pool.free.find(pool.cursor, want, least)
        };
        let mut found = find(self, good);
        if found.is_none() && self.make_chunk(class, least)? {
            found = find(self, good);
        }
        let longest = || Some(self.pool(class).free.longest()).filter(|longest| *longest >= least);
        let Some(range) = found.or_else(|| find(self, longest()?)) else {
            let available = self.pool(class).free.longest();
            return Err(no_space(class.name(), least, available));
        };
        let pool = self.pool_mut(class);
        let free = pool.free.remove(range);
        assert!(free, "the search gives free ranges only");
        pool.cursor = range.end;
        if class == Class::Data {
            self.note_short(want, range.len());
        }
        Ok(range)
    }

    /// Gives back what was allocated, to be used again at once: no durable metadata names it.
    pub(crate) fn free_now(&mut self, range: ByteRange) -> StoreResult<()> {
        self.disk.forget_data(range);
        self.add_free(range)
    }

    /// Gives up what durable metadata may name: free once the running transaction is durable (law R4).
    pub(crate) fn pin(&mut self, range: ByteRange) -> StoreResult<()> {
        let class = self.group_around(range)?.class;
        self.pool_mut(class).pinned += range.len();
        self.pinned.push(range);
        Ok(())
    }

    /// Ends the running transaction: what it pinned, for [`Space::unpin`].
    pub(crate) fn take_pinned(&mut self) -> Vec<ByteRange> {
        std::mem::take(&mut self.pinned)
    }

    /// The transaction that pinned these is durable. What lies in a block group that is gone meanwhile is forgotten.
    pub(crate) fn unpin(&mut self, pinned: Vec<ByteRange>) -> StoreResult<()> {
        for range in pinned {
            let Ok(group) = self.group_around(range) else { continue };
            let class = group.class;
            let pool = self.pool_mut(class);
            pool.pinned = pool.pinned.saturating_sub(range.len());
            self.add_free(range)?;
        }
        Ok(())
    }

    /// The extent tree holds an extent more, or one less.
    pub(crate) fn account(&mut self, range: ByteRange, allocated: bool) -> StoreResult<()> {
        let start = self.group_around(range)?.start;
        let group = self.groups.get_mut(&start).expect("it was just found");
        let used = if allocated {
            group.used.checked_add(range.len()).filter(|used| *used <= group.len)
        } else {
            group.used.checked_sub(range.len())
        };
        let Some(used) = used else {
            let why = format_args!("its used bytes, {}, cannot be right", group.used);
            return Err(corrupt("block group", start, why));
        };
        group.used = used;
        self.changed.insert(start);
        if allocated {
            self.bytes_used += range.len();
        } else {
            self.bytes_used = self.bytes_used.saturating_sub(range.len());
        }
        Ok(())
    }

    /// Makes a block group of `class` in which an extent of `least` bytes fits. False if there is no room on the device.
    pub(crate) fn make_chunk(&mut self, class: Class, least: u64) -> StoreResult<bool> {
        let Some(chunk) = self.plan_chunk(class, least) else { return Ok(false) };
        if self.commit_chunk(class, chunk)? {
            return Ok(true);
        }
        // The device turned out to have the size that it has: there may be room within it.
        match self.plan_chunk(class, least) {
            Some(chunk) => self.commit_chunk(class, chunk),
            None => Ok(false),
        }
    }

    /// Adds a chunk that was planned, with its block group, all of it free. False if the device could not be made large enough: it has
    /// the size it has from then on.
    pub(crate) fn commit_chunk(&mut self, class: Class, chunk: Chunk) -> StoreResult<bool> {
        let end = chunk.stripes.iter().map(|stripe| stripe + chunk.len).max().unwrap_or(0);
        if end > self.total_bytes {
            let device = &self.disk.device;
            let now = device.len().map_err(|error| io("size", 0, 0, error))?;
            if now < end {
                match device.set_len(end) {
                    Ok(()) => {}
                    Err(error) if has_no_room(&error) => {
                        self.policy.grow = false;
                        self.count(0);
                        return Ok(false);
                    }
                    Err(error) => return Err(io("grow", end, 0, error)),
                }
            }
            self.total_bytes = end;
        }
        let flags = BlockGroupFlags::from_bits_retain(chunk.flags);
        let range = ByteRange::at(chunk.logical, chunk.len);
        let first = chunk.stripes.iter().copied().min().unwrap_or(0);
        let data_before = self.data_before();
        self.disk.add_chunk(chunk)?;
        self.add_group(range.start, range.len(), flags, 0)?;
        self.add_free(range)?;
        self.fresh.push(range.start);
        self.pool_mut(class).cursor = range.start;
        if !self.policy.grow {
            self.note_group(class, first, data_before);
        }
        Ok(true)
    }

    /// Asks a device that could not grow with the volume whether it can now. It has the length that it had then.
    ///
    /// # Errors
    /// The device's, if it tells of something else.
    pub(crate) fn ask_to_grow(&mut self) -> StoreResult<()> {
        if self.policy.grow || !self.may_grow {
            return Ok(());
        }
        let device = &self.disk.device;
        let now = device.len().map_err(|error| io("size", 0, 0, error))?;
        let more = now.saturating_add(ASKED_FOR);
        match device.set_len(more).and_then(|()| device.set_len(now)) {
            Ok(()) => self.grow_again(),
            Err(error) if has_no_room(&error) => {}
            Err(error) => return Err(io("grow", more, 0, error)),
        }
        Ok(())
    }

    /// Tries again to make the device larger when there is no room, if it was to grow: whoever had no room for it may have some now.
    pub(crate) const fn grow_again(&mut self) {
        self.policy.grow = self.may_grow;
    }

    /// Nothing more is allocated from the block group at `start`.
    pub(crate) fn close_group(&mut self, start: u64) {
        if let Some(group) = self.groups.get_mut(&start) {
            group.closed = true;
            let (class, range) = (group.class, group.range());
            self.pool_mut(class).free.cut(range);
        }
    }

    /// Forgets the block group at `start` and its chunk; nothing may be allocated in it.
    pub(crate) fn drop_group(&mut self, start: u64) -> Option<Chunk> {
        let group = self.groups.remove(&start)?;
        let (class, range) = (group.class, group.range());
        let pool = self.pool_mut(class);
        pool.free.cut(range);
        pool.total -= group.len;
        self.changed.remove(&start);
        self.fresh.retain(|fresh| *fresh != start);
        let mut pinned = std::mem::take(&mut self.pinned);
        pinned.retain(|pin| {
            let inside = range.contains(pin.start);
            if inside {
                let pool = self.pool_mut(class);
                pool.pinned = pool.pinned.saturating_sub(pin.len());
            }
            !inside
        });
        self.pinned = pinned;
        self.disk.with_chunks_mut(|map| map.remove(start))
    }

    /// Where the last extent of a block group ends.
    pub(crate) fn tail_of(&self, group: &Group) -> u64 {
        let range = group.range();
        let free = &self.pool(group.class).free;
        let supers = &group.supers;
        let mut end = range.end;
        while end > range.start {
            let before = free.at_or_after(end - 1).filter(|free| free.start < end);
            let copy = supers.iter().copied().find(|copy| copy.contains(end - 1));
            match before.or(copy) {
                Some(part) => end = part.start.max(range.start),
                None => break,
            }
        }
        end
    }

    /// Shortens the block group at `start` to `len` bytes; nothing may be allocated beyond.
    pub(crate) fn trim_group(&mut self, start: u64, len: u64) -> Option<Chunk> {
        let group = self.groups.get_mut(&start)?;
        let (class, range) = (group.class, group.range());
        group.len = len;
        let pool = self.pool_mut(class);
        pool.free.cut(ByteRange::new(range.start + len, range.end));
        pool.total -= range.len() - len;
        self.disk.with_chunks_mut(|map| map.truncate(start, len))
    }
}

/// Whether an error of `set_len` says that the device cannot have that size.
fn has_no_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull, Unsupported};
    matches!(error.kind(), Unsupported | StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests;
