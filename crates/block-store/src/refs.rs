//! Delayed references (stages 8 and 9): how extents came and went since the extent tree was last brought up to date.
//!
//! Changing a tree changes the extent tree, which is a tree. So changes are noted here first, those that cancel out are
//! forgotten, and the rest is applied at commit in order of address, until applying them makes no new ones.
//! Invariant: per tree block, what the extent tree says now and what it should say; per data extent, how much the count
//! of each reference differs.

use std::collections::{BTreeMap, BTreeSet};

use cowback_btrfs_disk::TreeId;

/// What the extent tree says about a tree block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRef {
    /// The tree that holds it.
    pub(crate) tree: TreeId,
    /// Its level.
    pub(crate) level: u8,
}

/// What happened to a tree block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockChange {
    /// What the extent tree says.
    pub(crate) before: Option<BlockRef>,
    /// What it should say.
    pub(crate) after: Option<BlockRef>,
}

/// Who refers to a data extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataOwner {
    /// A file: tree, inode, position in the file less offset into the extent.
    File(u64, u64, u64),
    /// Whatever is in the leaf at this address, which trees share.
    Leaf(u64),
}

/// Who refers to a tree block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlockOwner {
    /// A tree.
    Tree(u64),
    /// The block at this address, which trees share.
    Parent(u64),
}

/// By how much the count of each reference is to change; none by nothing. Nearly always it is one reference, and that takes no memory of
/// its own: removing a file notes each of its extents, and there may be millions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Deltas<K> {
    /// Of none.
    #[default]
    None,
    /// Of one.
    One(K, i64),
    /// Of any number.
    Many(BTreeMap<K, i64>),
}

impl<K: Ord + Copy> Deltas<K> {
    /// The count of `owner` is to change by `by` besides.
    fn change(&mut self, owner: K, by: i64) {
        match self {
            Self::None => *self = Self::One(owner, by),
            Self::One(own, delta) if *own == owner => {
                *delta += by;
                if *delta == 0 {
                    *self = Self::None;
                }
            }
            Self::One(own, delta) => {
                *self = Self::Many(BTreeMap::from([(*own, *delta), (owner, by)]));
            }
            Self::Many(deltas) => {
                let delta = deltas.entry(owner).or_insert(0);
                *delta += by;
                if *delta == 0 {
                    deltas.remove(&owner);
                }
            }
        }
    }

    /// All of them, in order of the references.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &i64)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(owner, by) => (Some((owner, by)), None),
            Self::Many(deltas) => (None, Some(deltas)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Whether no count is to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// What happened to a tree block that trees may share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SharedChange {
    /// Its level.
    pub(crate) level: u8,
    /// From now on, what it refers to counts it by its address.
    pub(crate) full_backref: bool,
    /// By how much each reference's count is to change.
    pub(crate) deltas: Deltas<BlockOwner>,
}

/// What happened to a data extent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DataChange {
    /// Bytes of the extent.
    pub(crate) len: u64,
    /// By how much each reference's count is to change.
    pub(crate) deltas: Deltas<DataOwner>,
}

/// All changes that the extent tree does not know of.
#[derive(Debug, Default)]
pub(crate) struct DelayedRefs {
    /// Of tree blocks that one tree has for itself, by address.
    pub(crate) blocks: BTreeMap<u64, BlockChange>,
    /// Of tree blocks that a snapshot may share, by address.
    pub(crate) shared: BTreeMap<u64, SharedChange>,
    /// Of data extents, by address.
    pub(crate) data: BTreeMap<u64, DataChange>,
    /// Bytes of these extents, at most `u64::MAX`.
    pub(crate) data_bytes: u64,
}

impl DelayedRefs {
    /// Whether the extent tree is up to date.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.shared.is_empty() && self.data.is_empty()
    }

    /// The change of the first data extent, which is no longer noted then.
    pub(crate) fn pop_data(&mut self) -> Option<(u64, DataChange)> {
        let (bytenr, change) = self.data.pop_first()?;
        let left = self.data_bytes.saturating_sub(change.len);
        self.data_bytes = if self.data.is_empty() { 0 } else { left };
        Some((bytenr, change))
    }

    /// A tree has a new block.
    pub(crate) fn block_added(&mut self, bytenr: u64, block: BlockRef) {
        let change = BlockChange { before: None, after: None };
        self.blocks.entry(bytenr).or_insert(change).after = Some(block);
    }

    /// A tree gave a block up.
    pub(crate) fn block_dropped(&mut self, bytenr: u64, block: BlockRef) {
        let change = BlockChange { before: Some(block), after: None };
        let change =
            *self.blocks.entry(bytenr).and_modify(|own| own.after = None).or_insert(change);
        if change.before.is_none() {
            self.blocks.remove(&bytenr);
        }
    }

    /// A reference to a block that trees may share came (1) or went (-1).
    pub(crate) fn shared_changed(&mut self, bytenr: u64, level: u8, owner: BlockOwner, by: i64) {
        let change = self.shared.entry(bytenr).or_default();
        change.level = level;
        change.deltas.change(owner, by);
    }

    /// A reference to a data extent came (1) or went (-1). That the extent was spoken of is kept even if nothing changed
    /// in sum: it may be new, and be without any reference.
    pub(crate) fn data_changed(&mut self, bytenr: u64, len: u64, owner: DataOwner, by: i64) {
        let change = self.data.entry(bytenr).or_default();
        self.data_bytes = self.data_bytes.saturating_sub(change.len).saturating_add(len);
        change.len = len;
        change.deltas.change(owner, by);
    }
}

/// References to data that went from extents which others refer to still. Each counts until it is durable that it went: after a crash it is
/// there again, and what it refers to must be what it was. Nearly always there are none, as extents have but one owner.
#[derive(Debug, Default)]
pub(crate) struct LostRefs {
    /// In the running transaction, as far as the extent tree has been told.
    running: BTreeSet<(u64, DataOwner)>,
    /// In the one that has ended and is not durable yet.
    ended: BTreeSet<(u64, DataOwner)>,
}

impl LostRefs {
    /// `owner` has lost a reference to the extent at `bytenr`.
    pub(crate) fn note(&mut self, bytenr: u64, owner: DataOwner) {
        self.running.insert((bytenr, owner));
    }

    /// Whether another than `owner` has lost one to the extent at `bytenr`.
    pub(crate) fn has_other(&self, bytenr: u64, owner: DataOwner) -> bool {
        let first = (bytenr, DataOwner::File(0, 0, 0));
        let of_it = |set: &BTreeSet<(u64, DataOwner)>| {
            let mut owners = set.range(first..).take_while(|(at, _)| *at == bytenr);
            owners.any(|(_, other)| *other != owner)
        };
        of_it(&self.running) || of_it(&self.ended)
    }

    /// The running transaction has ended.
    pub(crate) fn end_transaction(&mut self) {
        self.ended.append(&mut self.running);
    }

    /// It is durable.
    pub(crate) fn written(&mut self) {
        self.ended.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockRef = BlockRef { tree: TreeId::FS, level: 0 };

    #[test]
    fn a_block_that_came_and_went_leaves_nothing() {
        let mut refs = DelayedRefs::default();
        refs.block_added(4096, BLOCK);
        refs.block_dropped(4096, BLOCK);
        assert!(refs.is_empty());
    }

    #[test]
    fn a_block_that_is_reused_is_told_as_what_it_was_and_what_it_is() {
        let mut refs = DelayedRefs::default();
        let other = BlockRef { tree: TreeId::CSUM, level: 1 };
        refs.block_dropped(4096, BLOCK);
        refs.block_added(4096, other);
        let change = BlockChange { before: Some(BLOCK), after: Some(other) };
        assert_eq!(refs.blocks.get(&4096), Some(&change));
        refs.block_dropped(4096, other);
        let change = BlockChange { before: Some(BLOCK), after: None };
        assert_eq!(refs.blocks.get(&4096), Some(&change));
    }

    #[test]
    fn references_that_cancel_out_still_name_the_extent() {
        let mut refs = DelayedRefs::default();
        refs.data_changed(4096, 8192, DataOwner::File(5, 257, 0), 1);
        refs.data_changed(4096, 8192, DataOwner::File(5, 257, 0), -1);
        assert_eq!(refs.data.get(&4096).map(|change| change.deltas.is_empty()), Some(true));
        assert_eq!((refs.data.len(), refs.data_bytes), (1, 8192));
        assert_eq!(
            refs.pop_data().map(|(bytenr, change)| (bytenr, change.len)),
            Some((4096, 8192))
        );
        assert!(refs.is_empty() && refs.data_bytes == 0);
    }

    #[test]
    fn references_of_an_extent_are_told_in_order_and_each_in_sum() {
        let mut refs = DelayedRefs::default();
        let owner = |offset| DataOwner::File(5, 257, offset);
        let changes = [(8192, 1), (0, -1), (4096, 1), (0, -1), (4096, -1)];
        for (offset, by) in changes {
            refs.data_changed(4096, 8192, owner(offset), by);
        }
        let told: Vec<_> = refs.data[&4096].deltas.iter().map(|(own, by)| (*own, *by)).collect();
        assert_eq!(told, [(owner(0), -2), (owner(8192), 1)]);
    }

    #[test]
    fn an_extent_with_one_reference_takes_no_memory_beside_the_map() {
        let mut refs = DelayedRefs::default();
        refs.data_changed(4096, 8192, DataOwner::File(5, 257, 0), -1);
        assert!(matches!(refs.data[&4096].deltas, Deltas::One(_, -1)));
        assert!(size_of::<DataChange>() <= 56, "{}", size_of::<DataChange>());
    }

    #[test]
    fn more_bytes_than_there_can_be_are_not_counted() {
        let mut refs = DelayedRefs::default();
        for number in 1..4 {
            refs.data_changed(number << 20, 1 << 63, DataOwner::File(5, 257, 0), -1);
        }
        assert_eq!(refs.data_bytes, u64::MAX);
    }
}
