//! Bringing the free space tree up to date (stage 9): what the extent tree leaves free, one item an extent.
//!
//! A block group that the kernel recorded as bitmaps keeps them. Invariant: after
//! `apply_free_space` the free space tree is the exact complement of the extent tree within each block group.

use std::collections::BTreeMap;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::FreeSpaceInfo;
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::error::{corrupt, invalid, range_at};
use crate::state::State;
use crate::trees::Trees;

mod bitmaps;

/// Extents that came into, or left, the extent tree since the free space tree was last brought up to date.
#[derive(Debug, Default)]
pub(crate) struct FreeSpaceChanges {
    /// By address: bytes, and whether they are allocated now.
    changes: BTreeMap<u64, (u64, bool)>,
}

impl FreeSpaceChanges {
    /// The extent tree holds an extent more (`allocated`), or one less.
    pub(crate) fn note(&mut self, range: ByteRange, allocated: bool) {
        match self.changes.get(&range.start) {
            // It came and went again.
            Some((len, before)) if *len == range.len() && *before != allocated => {
                self.changes.remove(&range.start);
            }
            _ => {
                self.changes.insert(range.start, (range.len(), allocated));
            }
        }
    }

    /// The first extents that lie together, below `end`, and came or went alike; they are no longer noted then. And whether they came.
    fn pop_run(&mut self, end: u64) -> Option<(ByteRange, bool)> {
        let (start, (len, allocated)) = self.changes.pop_first()?;
        let mut run = ByteRange::at(start, len);
        while let Some(next) = self.changes.first_entry()
            && *next.key() == run.end
            && next.get().1 == allocated
            && run.end < end
        {
            run.end += next.remove().0;
        }
        Some((run, allocated))
    }

    /// Extents that were noted.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether the free space tree is up to date.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl State {
    /// Applies what was noted, of `most` runs of extents at most. Changes trees, so that there are delayed references afterwards.
    pub(crate) fn apply_free_space(&mut self, most: usize) -> StoreResult<()> {
        if !self.has_free_space_tree() {
            self.free_space.changes.clear();
            return Ok(());
        }
        for _ in 0..most {
            let Some((start, _)) = self.free_space.changes.first_key_value() else { break };
            let group = self.space.group_of(*start)?.range();
            let Some((run, allocated)) = self.free_space.pop_run(group.end) else { break };
            let info_key = Key::new(group.start, ItemKind::FREE_SPACE_INFO, group.len());
            let info = self.free_space_info(&info_key)?;
            let more = match (info.bitmaps, allocated) {
                (true, _) => self.change_bitmaps(run, group, !allocated)?,
                (false, true) => self.take_free(run, group)?,
                (false, false) => self.put_free(run, group)?,
            };
            let count = i64::from(info.extent_count) + more;
            let extent_count = u32::try_from(count)
                .map_err(|_| corrupt("free space info", info_key, "its count cannot be right"))?;
            let info = FreeSpaceInfo { extent_count, ..info };
            self.update(TreeId::FREE_SPACE, &info_key, &info.to_bytes())?;
        }
        Ok(())
    }

    /// How a block group's free space is recorded.
    pub(crate) fn free_space_info(&self, key: &Key) -> StoreResult<FreeSpaceInfo> {
        let data = self.get(TreeId::FREE_SPACE, key)?;
        let data = data.ok_or_else(|| corrupt("free space info", key, "it is missing"))?;
        FreeSpaceInfo::parse(&data).map_err(|error| invalid(key, &error))
    }

    /// The free extent that begins at or before `at`, in the block group `group`.
    pub(crate) fn free_before(&self, at: u64, group: ByteRange) -> StoreResult<Option<ByteRange>> {
        let key = Key::new(at, ItemKind::FREE_SPACE_EXTENT, u64::MAX);
        let found = self.at_or_before(TreeId::FREE_SPACE, &key)?;
        let found = found.map(|(key, _)| key);
        let found =
            found.filter(|k| k.kind == ItemKind::FREE_SPACE_EXTENT && k.objectid >= group.start);
        found.map(|key| range_at("free space extent", key.objectid, key.offset)).transpose()
    }

    /// Takes `run` out of the free extent that holds it. Gives by how many there are more extents.
    fn take_free(&mut self, run: ByteRange, group: ByteRange) -> StoreResult<i64> {
        let holder = self.free_before(run.start, group)?.filter(|free| free.end >= run.end);
        let Some(free) = holder else {
            return Err(corrupt(
                "free space tree",
                run,
                "an extent that was allocated is not free",
            ));
        };
        self.remove(TreeId::FREE_SPACE, &extent_key(free))?;
        let mut count = -1;
        for rest in [ByteRange::new(free.start, run.start), ByteRange::new(run.end, free.end)] {
            if !rest.is_empty() {
                self.insert(TreeId::FREE_SPACE, extent_key(rest), &[])?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Puts `run` in, joined with the free extents that it touches. Gives by how many there are more extents.
    fn put_free(&mut self, run: ByteRange, group: ByteRange) -> StoreResult<i64> {
        let mut joined = run;
        let mut count = 1;
        if let Some(before) = self.free_before(run.start, group)? {
            if before.end > run.start {
                return Err(corrupt("free space tree", run, "an extent that was freed is free"));
            }
            if before.end == run.start {
                self.remove(TreeId::FREE_SPACE, &extent_key(before))?;
                joined.start = before.start;
                count -= 1;
            }
        }
        let behind = Key::new(run.end, ItemKind::FREE_SPACE_EXTENT, 0);
        let behind = self.at_or_after(TreeId::FREE_SPACE, &behind)?.map(|(key, _)| key);
        let touches = |key: &Key| {
            key.kind == ItemKind::FREE_SPACE_EXTENT
                && key.objectid == run.end
                && run.end < group.end
        };
        if let Some(behind) = behind.filter(touches) {
            self.remove(TreeId::FREE_SPACE, &behind)?;
            joined.end += behind.offset;
            count -= 1;
        }
        self.insert(TreeId::FREE_SPACE, extent_key(joined), &[])?;
        Ok(count)
    }
}

/// The key of a free extent.
pub(crate) const fn extent_key(range: ByteRange) -> Key {
    Key::new(range.start, ItemKind::FREE_SPACE_EXTENT, range.len())
}
