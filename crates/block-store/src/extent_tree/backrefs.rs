//! Counting references in an extent item: inline while there is room, in items of their own behind it otherwise.

use cowback_btrfs_disk::items::extent::parse_shared_data_ref;
use cowback_btrfs_disk::items::{DataRef, ExtentItem, InlineRef};
use cowback_btrfs_disk::node::{ITEM_LEN, leaf_capacity};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::error::{corrupt, invalid};
use crate::refs::{BlockOwner, DataOwner};
use crate::state::State;
use crate::trees::Trees;

/// One reference of a file, or of a shared leaf, to data.
pub(super) const fn data_ref(owner: DataOwner) -> InlineRef {
    match owner {
        DataOwner::File(root, ino, offset) => {
            InlineRef::Data(DataRef { root, ino, offset, count: 1 })
        }
        DataOwner::Leaf(parent) => InlineRef::SharedData { parent, count: 1 },
    }
}

/// The reference of a tree, or of a shared block, to a tree block.
pub(super) const fn block_ref(owner: BlockOwner) -> InlineRef {
    match owner {
        BlockOwner::Tree(root) => InlineRef::TreeBlock { root },
        BlockOwner::Parent(parent) => InlineRef::SharedBlock { parent },
    }
}

/// Whether both are references of the same owner, whatever their counts.
fn same_owner(a: &InlineRef, b: &InlineRef) -> bool {
    match (a, b) {
        (InlineRef::Data(a), InlineRef::Data(b)) => {
            (a.root, a.ino, a.offset) == (b.root, b.ino, b.offset)
        }
        _ => a.kind() == b.kind() && a.sequence() == b.sequence(),
    }
}

/// Whether others than `owner` refer to an extent, of which `item` tells.
pub(crate) fn has_others(item: &ExtentItem, owner: DataOwner) -> bool {
    let probe = data_ref(owner);
    let own = item.inline.iter().filter(|one| same_owner(one, &probe));
    own.map(|one| u64::from(one.count())).sum::<u64>() != item.refs
}

/// The reference with another count; `None` if it cannot have that count.
fn with_count(one: InlineRef, count: i64) -> Option<InlineRef> {
    let count = u32::try_from(count).ok()?;
    match one {
        InlineRef::Data(data) => Some(InlineRef::Data(DataRef { count, ..data })),
        InlineRef::SharedData { parent, .. } => Some(InlineRef::SharedData { parent, count }),
        other => (count <= 1).then_some(other),
    }
}

/// The reference's data as an item of its own.
fn keyed_bytes(one: &InlineRef) -> Vec<u8> {
    match one {
        InlineRef::Data(data) => data.to_bytes(),
        InlineRef::SharedData { count, .. } => count.to_le_bytes().to_vec(),
        _ => Vec::new(),
    }
}

impl State {
    /// Changes by `by` the count of the reference `probe` of the extent at `key`, whose item is `item`.
    pub(super) fn change_ref(
        &mut self,
        key: &Key,
        item: &mut ExtentItem,
        probe: InlineRef,
        by: i64,
    ) -> StoreResult<()> {
        let wrong = || {
            let why = format_args!("{} references, and {probe:?} changes by {by}", item.refs);
            corrupt("extent item", key, why)
        };
        let total = item.refs.checked_add_signed(by).ok_or_else(wrong)?;
        if let Some(at) = item.inline.iter().position(|one| same_owner(one, &probe)) {
            let count = i64::from(item.inline[at].count()) + by;
            let changed = with_count(probe, count).ok_or_else(wrong)?;
            if count == 0 {
                item.inline.remove(at);
            } else {
                item.inline[at] = changed;
            }
            item.refs = total;
            return Ok(());
        }
        let (place, old) = self.find_keyed_ref(key.objectid, &probe)?;
        let count = i64::from(old.unwrap_or(0)) + by;
        let changed = with_count(probe, count).ok_or_else(wrong)?;
        let limit = leaf_capacity(self.forest.nodesize()) / 16 - ITEM_LEN;
        let fits = item.to_bytes().len() + probe.len() <= limit;
        item.refs = total;
        match (old, count) {
            (Some(_), 0) => self.remove(TreeId::EXTENT, &place).map(drop),
            (Some(_), _) => self.update(TreeId::EXTENT, &place, &keyed_bytes(&changed)),
            (None, 0) => Ok(()),
            (None, _) if fits => {
                item.inline.push(changed);
                Ok(())
            }
            (None, _) => self.insert(TreeId::EXTENT, place, &keyed_bytes(&changed)),
        }
    }

    /// The count of the item of its own that matches `probe`, and its key, or the key at which there would be one.
    fn find_keyed_ref(&self, bytenr: u64, probe: &InlineRef) -> StoreResult<(Key, Option<u32>)> {
        let place = Key::new(bytenr, probe.kind(), probe.sequence());
        if let InlineRef::Data(wanted) = probe {
            return self.find_keyed_data_ref(place, wanted);
        }
        let Some(data) = self.get(TreeId::EXTENT, &place)? else { return Ok((place, None)) };
        if probe.kind() != ItemKind::SHARED_DATA_REF {
            return Ok((place, Some(1)));
        }
        let count = parse_shared_data_ref(&data).map_err(|error| invalid(place, &error))?;
        Ok((place, Some(count)))
    }

    /// As [`State::find_keyed_ref`], of a reference whose hash others may have as well: it is behind these then, or behind where they were
    /// when it came.
    fn find_keyed_data_ref(&self, first: Key, wanted: &DataRef) -> StoreResult<(Key, Option<u32>)> {
        let (mut at, mut free) = (first, first);
        while let Some((key, data)) = self.at_or_after(TreeId::EXTENT, &at)? {
            if (key.objectid, key.kind) != (first.objectid, first.kind)
                || !wanted.may_be_at(key.offset)
            {
                break;
            }
            let found = DataRef::parse(&data).map_err(|error| invalid(key, &error))?;
            if same_owner(&InlineRef::Data(found), &InlineRef::Data(*wanted)) {
                return Ok((key, Some(found.count)));
            }
            let Some(next) = key.next() else { break };
            if key == free {
                free = next;
            }
            at = next;
        }
        Ok((free, None))
    }
}
