//! Bringing the extent tree up to date (stage 9): delayed references become extent items.
//!
//! Tree blocks have one `METADATA_ITEM` with one inline reference; volumes that were converted to these (`btrfstune -x`) keep an
//! `EXTENT_ITEM` for older blocks. A data extent's references stand inline in its
//! `EXTENT_ITEM` as long as that stays short, and in items of their own behind it otherwise. With its last reference a
//! data extent loses its checksums, and its space is pinned (law R4).

use std::collections::BTreeMap;

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{ExtentItem, ExtentOwner, InlineRef};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::{StoreError, StoreResult};

use crate::btree::Forest;
use crate::error::{corrupt, invalid, range_at};
use crate::refs::{BlockChange, BlockRef, DataChange, SharedChange};
use crate::state::State;
use crate::trees::Trees;

mod backrefs;

pub(crate) use backrefs::has_others;
use backrefs::{block_ref, data_ref};

/// The item of the tree block at `bytenr`, in the form that it has.
pub(crate) fn block_item(forest: &Forest, bytenr: u64, level: u8) -> StoreResult<(Key, Vec<u8>)> {
    let key = Key::new(bytenr, ItemKind::METADATA_ITEM, u64::from(level));
    let old_key = Key::new(bytenr, ItemKind::EXTENT_ITEM, forest.nodesize() as u64);
    for key in [key, old_key] {
        if let Some(data) = forest.get(TreeId::EXTENT, &key)? {
            return Ok((key, data));
        }
    }
    Err(corrupt("extent item", key, "it is missing"))
}

/// Why space that is free, by what is said of free space, cannot be given away.
#[derive(Debug)]
pub(crate) enum InUse {
    /// An extent is there.
    Extent(StoreError),
    /// The extent tree could not be asked.
    Unknown(StoreError),
}

impl From<InUse> for StoreError {
    fn from(why: InUse) -> Self {
        let (InUse::Extent(error) | InUse::Unknown(error)) = why;
        error
    }
}

impl Forest {
    /// Fails if the extent tree has an extent of an earlier transaction that meets `range`. One of the running transaction may be there
    /// still, and be about to go: what that freed of its own is free at once.
    pub(crate) fn check_unused(&self, range: ByteRange) -> Result<(), InUse> {
        if !self.roots.contains_key(&TreeId::EXTENT) || range.is_empty() {
            return Ok(()); // it is being made
        }
        let mut at = Key::new(range.end - 1, ItemKind(u8::MAX), u64::MAX);
        while let Some((key, generation, end)) = self.extent_before(&at).map_err(InUse::Unknown)? {
            if end > range.start && generation < self.generation {
                let why = format_args!("the extent tree has {key} there");
                return Err(InUse::Extent(corrupt("free space", range.start, why)));
            }
            if key.objectid <= range.start {
                break;
            }
            at = Key::new(key.objectid - 1, ItemKind(u8::MAX), u64::MAX);
        }
        Ok(())
    }

    /// The last extent whose item is at `at` or before: its key, generation and end.
    fn extent_before(&self, at: &Key) -> StoreResult<Option<(Key, u64, u64)>> {
        let (mut at, mut refs_of) = (*at, None);
        while let Some((key, data)) = self.at_or_before(TreeId::EXTENT, &at)? {
            if let Some(bytenr) = refs_of.filter(|bytenr| *bytenr != key.objectid) {
                return Err(corrupt("extent item", bytenr, "it is missing, and has references"));
            }
            let len = match key.kind {
                ItemKind::EXTENT_ITEM => key.offset,
                ItemKind::METADATA_ITEM => self.nodesize() as u64,
                kind if kind.0 < ItemKind::EXTENT_ITEM.0 => {
                    return Err(corrupt("extent tree", key, "such items have no place there"));
                }
                kind => {
                    // A block group's item may stand alone, references that have items of their own may not.
                    refs_of = (kind != ItemKind::BLOCK_GROUP_ITEM).then_some(key.objectid);
                    at = Key::new(key.objectid, ItemKind::METADATA_ITEM, u64::MAX);
                    continue;
                }
            };
            let item = ExtentItem::parse(&key, &data).map_err(|error| invalid(key, &error))?;
            return Ok(Some((key, item.generation, key.objectid.saturating_add(len))));
        }
        Ok(None)
    }
}

impl State {
    /// Applies all delayed references, and those that this makes.
    pub(crate) fn run_refs(&mut self) -> StoreResult<()> {
        while !self.refs.is_empty() {
            let shared = std::mem::take(&mut self.refs.shared);
            for (bytenr, change) in shared {
                self.apply_shared(bytenr, &change)?;
            }
            self.run_data_refs(usize::MAX)?;
            // Applying a change may add some before it in order; those come in the next round.
            let blocks = std::mem::take(&mut self.refs.blocks);
            let mut left: BTreeMap<u64, BlockChange> = blocks;
            while let Some((bytenr, change)) = left.pop_first() {
                self.apply_block(bytenr, change)?;
                // What this made of blocks that are still to come: one change again.
                self.fold_into(&mut left);
            }
        }
        Ok(())
    }

    /// Applies the delayed references of at most `most` data extents, those that are noted now.
    pub(crate) fn run_data_refs(&mut self, most: usize) -> StoreResult<()> {
        for _ in 0..self.refs.data.len().min(most) {
            let Some((bytenr, change)) = self.refs.pop_data() else { break };
            self.apply_data(bytenr, &change)?;
        }
        Ok(())
    }

    /// Moves new changes of blocks that are in `left` already into it.
    fn fold_into(&mut self, left: &mut BTreeMap<u64, BlockChange>) {
        let new = &mut self.refs.blocks;
        if new.is_empty() {
            return;
        }
        new.retain(|bytenr, change| {
            let Some(old) = left.get_mut(bytenr) else { return true };
            old.after = change.after;
            if old.before.is_none() && old.after.is_none() {
                left.remove(bytenr);
            }
            false
        });
    }

    fn apply_block(&mut self, bytenr: u64, change: BlockChange) -> StoreResult<()> {
        let BlockChange { before, after } = change;
        if before == after {
            return Ok(());
        }
        let range = ByteRange::at(bytenr, self.forest.nodesize() as u64);
        if let Some(block) = before {
            self.remove_block_item(bytenr, block)?;
            self.space.account(range, false)?;
        }
        if let Some(BlockRef { tree, level }) = after {
            let key = Key::new(bytenr, ItemKind::METADATA_ITEM, u64::from(level));
            let item = ExtentItem {
                refs: 1,
                generation: self.generation(),
                owner: ExtentOwner::TreeBlock { full_backref: false, info: None },
                inline: vec![InlineRef::TreeBlock { root: tree.0 }],
            };
            self.insert(TreeId::EXTENT, key, &item.to_bytes())?;
            self.space.account(range, true)?;
        }
        match (before, after) {
            (None, Some(_)) => self.free_space.note(range, true),
            (Some(_), None) => self.free_space.note(range, false),
            _ => {}
        }
        Ok(())
    }

    fn remove_block_item(&mut self, bytenr: u64, block: BlockRef) -> StoreResult<()> {
        let (key, _) = block_item(&self.forest, bytenr, block.level)?;
        let data = self.remove(TreeId::EXTENT, &key)?;
        let item = ExtentItem::parse(&key, &data).map_err(|error| invalid(key, &error))?;
        let expected = InlineRef::TreeBlock { root: block.tree.0 };
        let full = matches!(item.owner, ExtentOwner::TreeBlock { full_backref: true, .. });
        if full || item.refs != 1 || item.inline != [expected] {
            let by = if full { ", and it counts by its address" } else { "" };
            let why = format_args!("references {:?}{by}, expected {expected:?} alone", item.inline);
            return Err(corrupt("extent item", key, why));
        }
        Ok(())
    }

    fn apply_shared(&mut self, bytenr: u64, change: &SharedChange) -> StoreResult<()> {
        let (key, data) = block_item(&self.forest, bytenr, change.level)?;
        let mut item = ExtentItem::parse(&key, &data).map_err(|error| invalid(key, &error))?;
        let (goes, comes): (Vec<_>, Vec<_>) = change.deltas.iter().partition(|(_, by)| **by < 0);
        for (owner, by) in goes.into_iter().chain(comes) {
            self.change_ref(&key, &mut item, block_ref(*owner), *by)?;
        }
        if item.refs > 0 {
            if let ExtentOwner::TreeBlock { full_backref, .. } = &mut item.owner {
                *full_backref |= change.full_backref;
            }
            item.sort_inline();
            return self.update(TreeId::EXTENT, &key, &item.to_bytes());
        }
        if !item.inline.iter().all(|one| one.count() == 0) {
            return Err(corrupt("extent item", key, "its references do not add up"));
        }
        self.remove(TreeId::EXTENT, &key)?;
        let range = ByteRange::at(bytenr, self.forest.nodesize() as u64);
        self.space.account(range, false)?;
        self.free_space.note(range, false);
        self.space.pin(range)
    }

    fn apply_data(&mut self, bytenr: u64, change: &DataChange) -> StoreResult<()> {
        let range = range_at("extent", bytenr, change.len)?;
        let key = Key::new(bytenr, ItemKind::EXTENT_ITEM, change.len);
        let Some(old) = self.get(TreeId::EXTENT, &key)? else {
            return self.apply_new_data(range, key, change);
        };
        if change.deltas.is_empty() {
            return Ok(());
        }
        let mut item = ExtentItem::parse(&key, &old).map_err(|error| invalid(key, &error))?;
        if item.owner != ExtentOwner::Data {
            return Err(corrupt("extent item", key, "a tree block, expected data"));
        }
        // References that go make room for those that come.
        let (goes, comes): (Vec<_>, Vec<_>) = change.deltas.iter().partition(|(_, by)| **by < 0);
        for (owner, by) in goes.iter().chain(&comes) {
            self.change_ref(&key, &mut item, data_ref(**owner), **by)?;
        }
        if item.refs > 0 {
            for (owner, _) in goes.iter().filter(|(owner, _)| has_others(&item, **owner)) {
                self.lost_refs.note(bytenr, **owner);
            }
            item.sort_inline();
            return self.update(TreeId::EXTENT, &key, &item.to_bytes());
        }
        if !item.inline.iter().all(|one| one.count() == 0) {
            return Err(corrupt("extent item", key, "its references do not add up"));
        }
        self.space.data_group(range)?;
        if item.generation == self.generation() {
            // It came after the last cut: no commit names it. An older one may be named by one that is still being written.
            self.disk.forget_data(range);
        }
        self.remove(TreeId::EXTENT, &key)?;
        crate::namespace::csums::delete(self, range)?;
        self.space.account(range, false)?;
        self.free_space.note(range, false);
        self.space.pin(range)
    }

    fn apply_new_data(
        &mut self,
        range: ByteRange,
        key: Key,
        change: &DataChange,
    ) -> StoreResult<()> {
        if let Some((owner, by)) = change.deltas.iter().find(|(_, by)| **by < 0) {
            let why = format_args!("{by} references of {owner:?} to an extent that has no item");
            return Err(corrupt("extent item", key, why));
        }
        self.space.data_group(range)?;
        self.forest.check_unused(range)?;
        if change.deltas.is_empty() {
            // It came and went within this transaction: no durable metadata names it.
            crate::namespace::csums::delete(self, range)?;
            return self.space.free_now(range);
        }
        let mut item = ExtentItem {
            refs: 0,
            generation: self.generation(),
            owner: ExtentOwner::Data,
            inline: Vec::new(),
        };
        for (owner, by) in change.deltas.iter() {
            self.change_ref(&key, &mut item, data_ref(*owner), *by)?;
        }
        item.sort_inline();
        self.insert(TreeId::EXTENT, key, &item.to_bytes())?;
        self.space.account(range, true)?;
        self.free_space.note(range, true);
        Ok(())
    }
}
